//! Scrapes while Redis is unavailable, or holds invalid data.

use std::time::{Duration, Instant};

use functional_scaffold_testkit::redis::RedisOptions;

use crate::support::{Exporter, PATIENCE, Redis, families_of, free_port, sample, text, wait_for};

const UP: &str = "functional_scaffold_redis_up";

fn errors(text: &str, family: &str, reason: &str) -> Option<f64> {
    let name =
        format!("functional_scaffold_decode_errors{{family=\"{family}\",reason=\"{reason}\"}}");
    sample(text, &name)
}

fn failures(text: &str, reason: &str) -> Option<f64> {
    let name = format!("functional_scaffold_redis_read_failures_total{{reason=\"{reason}\"}}");
    sample(text, &name)
}

fn register_counter(redis: &Redis, name: &str) {
    let json = format!(r#"{{"type":"counter","key":"metrics:{name}"}}"#);
    redis.cli(&["HSET", "metrics:families", name, &json]);
}

/// A Redis with a valid counter.
fn redis_with_a_counter() -> Redis {
    let redis = Redis::start();
    register_counter(&redis, "good_total");
    redis.cli(&["HSET", "metrics:good_total", "a=\"1\"", "5"]);
    redis
}

const GOOD: &str = "# TYPE good_total counter\ngood_total{a=\"1\"} 5\n";

#[test]
fn shows_redis_down_and_up_again() {
    let port = free_port();
    let exporter = Exporter::start(port);
    for read in 1..=3 {
        let text = exporter.metrics();
        assert_eq!(sample(&text, UP), Some(0.0));
        assert_eq!(failures(&text, "connection"), Some(f64::from(read)));
        assert!(text.contains("functional_scaffold_build_info{version="));
        assert_eq!(families_of(&text), "");
    }
    assert_eq!(exporter.get("/healthz").status, 200);

    let mut redis = Redis::start_with(RedisOptions::new().port(port));
    assert_eq!(sample(&exporter.metrics(), UP), Some(1.0));
    // Redis restarts between two scrapes: the kept connection is broken, but no
    // scrape fails.
    redis.restart().expect("it restarts");
    let text = exporter.metrics();
    assert_eq!(sample(&text, UP), Some(1.0));
    assert_eq!(failures(&text, "connection"), Some(3.0));
    let log = exporter.stop();
    assert_eq!(log.matches("cannot read Redis").count(), 1, "{log}");
    assert_eq!(log.matches("can be read again").count(), 1, "{log}");
}

#[test]
fn responds_in_time_while_redis_does_not_reply() {
    let redis = redis_with_a_counter();
    let options = [("REDIS_TIMEOUT_MS", "300")];
    let kept = Exporter::start_with(redis.port(), &options);
    let fresh = Exporter::start_with(redis.port(), &options);
    assert_eq!(families_of(&kept.metrics()), GOOD);
    redis.suspend().expect("it runs");
    // One has a connection. The other opens one, which the kernel accepts.
    for exporter in [&kept, &fresh, &kept, &fresh] {
        let began = Instant::now();
        let scrape = exporter.metrics();
        assert!(began.elapsed() < PATIENCE / 4, "{:?}", began.elapsed());
        assert_eq!(sample(&scrape, UP), Some(0.0));
        let ready = exporter.get("/readyz");
        assert_eq!(ready.status, 503);
        let ready = text(&ready);
        assert!(ready.starts_with("redis: timeout ("), "{ready}");
        assert_eq!(exporter.get("/healthz").status, 200);
    }
    assert_eq!(failures(&kept.metrics(), "timeout"), Some(3.0));
    redis.resume().expect("it runs");
    for exporter in [&kept, &fresh] {
        assert_eq!(families_of(&exporter.metrics()), GOOD);
    }
}

#[test]
fn the_scrape_timeout_applies_to_the_whole_read() {
    let redis = redis_with_a_counter();
    let limits = [
        ("REDIS_TIMEOUT_MS", "60000"),
        ("EXPORTER_SCRAPE_TIMEOUT_MS", "300"),
    ];
    let exporter = Exporter::start_with(redis.port(), &limits);
    assert_eq!(families_of(&exporter.metrics()), GOOD);
    redis.suspend().expect("it runs");
    let began = Instant::now();
    assert_eq!(sample(&exporter.metrics(), UP), Some(0.0));
    assert!(began.elapsed() < PATIENCE / 4, "{:?}", began.elapsed());
    redis.resume().expect("it runs");
    assert_eq!(families_of(&exporter.metrics()), GOOD);
}

#[test]
fn a_redis_that_is_loading_is_down() {
    let redis = Redis::start_loading(Duration::from_secs(2));
    let exporter = Exporter::start(redis.port());
    let scrape = exporter.metrics();
    assert_eq!(sample(&scrape, UP), Some(0.0));
    assert_eq!(failures(&scrape, "loading"), Some(1.0));
    let ready = exporter.get("/readyz");
    assert_eq!(ready.status, 503);
    let ready = text(&ready);
    assert!(ready.starts_with("redis: loading ("), "{ready}");
    wait_for("Redis that has loaded", || {
        (sample(&exporter.metrics(), UP) == Some(1.0)).then_some(())
    });
    assert_eq!(exporter.get("/readyz").status, 200);
    let log = exporter.stop();
    assert!(log.contains("Redis is loading"), "{log}");
}

#[test]
fn an_invalid_field_is_skipped_and_counted() {
    let redis = redis_with_a_counter();
    let key = "metrics:good_total";
    redis.cli(&["HSET", key, "b=\"1\"", "1.5", "c=\"1\"", "-1", "d", "1"]);
    let exporter = Exporter::start(redis.port());
    // It is a gauge: another scrape shows the same.
    for _scrape in 0..3 {
        let text = exporter.metrics();
        assert_eq!(families_of(&text), GOOD);
        assert_eq!(errors(&text, "good_total", "value"), Some(2.0));
        assert_eq!(errors(&text, "good_total", "labels"), Some(1.0));
        assert_eq!(sample(&text, UP), Some(1.0));
    }
    redis.cli(&["HDEL", key, "b=\"1\"", "c=\"1\"", "d"]);
    assert_eq!(errors(&exporter.metrics(), "good_total", "value"), None);
    let log = exporter.stop();
    assert_eq!(log.matches("not served").count(), 3, "{log}");
    assert!(log.contains(r#"field "b=\"1\"": value "1.5""#), "{log}");
}

#[test]
fn an_invalid_registration_is_skipped_and_counted() {
    let redis = redis_with_a_counter();
    let families = "metrics:families";
    redis.cli(&["HSET", families, "bad_total", "{"]);
    redis.cli(&[
        "HSET",
        families,
        "bad name",
        r#"{"type":"counter","key":"k"}"#,
    ]);
    redis.cli(&[
        "HSET",
        families,
        "bad_seconds",
        r#"{"type":"histogram","key":"k"}"#,
    ]);
    let exporter = Exporter::start(redis.port());
    let text = exporter.metrics();
    assert_eq!(families_of(&text), GOOD);
    for family in ["bad_total", "(invalid name)", "bad_seconds"] {
        assert_eq!(errors(&text, family, "registration"), Some(1.0), "{family}");
    }
}

#[test]
fn a_key_of_the_wrong_type_is_skipped_and_counted() {
    let redis = redis_with_a_counter();
    register_counter(&redis, "wrong_total");
    redis.cli(&["SET", "metrics:wrong_total", "1"]);
    let exporter = Exporter::start(redis.port());
    let text = exporter.metrics();
    assert_eq!(families_of(&text), GOOD);
    assert_eq!(errors(&text, "wrong_total", "wrong_type"), Some(1.0));
    assert_eq!(sample(&text, UP), Some(1.0));

    redis.cli(&["DEL", "metrics:families"]);
    redis.cli(&["SET", "metrics:families", "1"]);
    let text = exporter.metrics();
    assert_eq!(families_of(&text), "");
    assert_eq!(errors(&text, "(families)", "wrong_type"), Some(1.0));
    assert_eq!(sample(&text, UP), Some(1.0));
}

#[test]
fn a_key_that_may_not_be_read_is_skipped_and_counted() {
    let redis = redis_with_a_counter();
    register_counter(&redis, "secret_total");
    redis.cli(&["HSET", "metrics:secret_total", "", "1"]);
    redis.cli(&[
        "ACL",
        "SETUSER",
        "reader",
        "on",
        ">s3cret",
        "+hscan",
        "+ping",
        "+select",
        "%R~metrics:families",
        "%R~metrics:good_total",
        "%R~metrics:lost:*",
    ]);
    let user = [("REDIS_USERNAME", "reader"), ("REDIS_PASSWORD", "s3cret")];
    let exporter = Exporter::start_with(redis.port(), &user);
    let text = exporter.metrics();
    assert_eq!(families_of(&text), GOOD);
    assert_eq!(errors(&text, "secret_total", "forbidden"), Some(1.0));
    assert_eq!(exporter.get("/readyz").status, 200);
}

#[test]
fn conflicting_names_are_refused_and_counted() {
    let redis = redis_with_a_counter();
    for name in ["functional_scaffold_redis_up", "t_count"] {
        register_counter(&redis, name);
        redis.cli(&["HSET", &format!("metrics:{name}"), "", "7"]);
    }
    let histogram = r#"{"type":"histogram","key":"metrics:t","bounds":[1]}"#;
    redis.cli(&["HSET", "metrics:families", "t", histogram]);
    redis.cli(&["HSET", "metrics:t", "|1", "1"]);
    let exporter = Exporter::start(redis.port());
    let text = exporter.metrics();
    for name in ["functional_scaffold_redis_up", "t_count"] {
        assert_eq!(errors(&text, name, "name_collision"), Some(1.0), "{name}");
        assert_eq!(sample(&text, name), Some(1.0), "{name}");
    }
    let mut names: Vec<_> = text
        .lines()
        .filter_map(|line| line.rsplit_once(' '))
        .collect();
    let all = names.len();
    names.sort_unstable();
    names.dedup_by_key(|(name, _)| *name);
    // Some are HELP lines; the point is that nothing is duplicated.
    assert_eq!(names.len(), all, "{text}");
}

#[test]
fn a_refused_password_is_reported_and_not_shown() {
    let redis = Redis::start_with(RedisOptions::new().line("requirepass", &["right"]));
    let wrong = [("REDIS_PASSWORD", "wr0ng-s3cret")];
    let url = format!("redis://:wr0ng-s3cret@127.0.0.1:{}", redis.port());
    for options in [&wrong[..], &[("REDIS_URL", url.as_str())], &[]] {
        let exporter = Exporter::start_with(redis.port(), options);
        let scrape = exporter.metrics();
        assert_eq!(sample(&scrape, UP), Some(0.0));
        assert_eq!(failures(&scrape, "auth"), Some(1.0), "{}", exporter.log());
        let ready = exporter.get("/readyz");
        assert_eq!(ready.status, 503);
        let log = exporter.stop();
        assert!(log.contains("reason=\"auth\""), "{log}");
        for shown in [log, scrape, text(&ready)] {
            assert!(!shown.contains("s3cret"), "{shown}");
        }
    }
    let right = [("REDIS_PASSWORD", "right")];
    let exporter = Exporter::start_with(redis.port(), &right);
    assert_eq!(sample(&exporter.metrics(), UP), Some(1.0));
}
