//! What is served when Redis, or what it holds, is not well.

use std::time::{Duration, Instant};

use crate::support::{Exporter, PATIENCE, Redis, families_of, free_port, sample, wait_for};

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

/// Redis with a counter that is all right.
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

    let redis = wait_for("Redis on the port", || Redis::start_on(port, &[]));
    assert_eq!(sample(&exporter.metrics(), UP), Some(1.0));
    // Redis restarts between two scrapes: the kept connection is broken, and
    // no scrape fails of it.
    drop(redis);
    let _redis = wait_for("Redis on the port", || Redis::start_on(port, &[]));
    let text = exporter.metrics();
    assert_eq!(sample(&text, UP), Some(1.0));
    assert_eq!(failures(&text, "connection"), Some(3.0));
    let log = exporter.stop();
    assert_eq!(log.matches("cannot read Redis").count(), 1, "{log}");
    assert_eq!(log.matches("can be read again").count(), 1, "{log}");
}

#[test]
fn answers_in_time_when_redis_hangs() {
    let redis = redis_with_a_counter();
    let options = [("REDIS_TIMEOUT_MS", "300")];
    let kept = Exporter::start_with(redis.port, &options);
    let fresh = Exporter::start_with(redis.port, &options);
    assert_eq!(families_of(&kept.metrics()), GOOD);
    redis.signal("STOP");
    // One has a connection, the other has to open one, which the kernel
    // accepts in the stead of Redis.
    for exporter in [&kept, &fresh, &kept, &fresh] {
        let began = Instant::now();
        let text = exporter.metrics();
        assert!(began.elapsed() < PATIENCE / 4, "{:?}", began.elapsed());
        assert_eq!(sample(&text, UP), Some(0.0));
        let ready = exporter.get("/readyz");
        assert_eq!(ready.status, 503);
        assert!(ready.body.starts_with("redis: timeout ("), "{}", ready.body);
        assert_eq!(exporter.get("/healthz").status, 200);
    }
    assert_eq!(failures(&kept.metrics(), "timeout"), Some(3.0));
    redis.signal("CONT");
    for exporter in [&kept, &fresh] {
        assert_eq!(families_of(&exporter.metrics()), GOOD);
    }
}

#[test]
fn the_scrape_timeout_holds_where_no_single_reply_is_late() {
    let redis = redis_with_a_counter();
    let limits = [
        ("REDIS_TIMEOUT_MS", "60000"),
        ("EXPORTER_SCRAPE_TIMEOUT_MS", "300"),
    ];
    let exporter = Exporter::start_with(redis.port, &limits);
    assert_eq!(families_of(&exporter.metrics()), GOOD);
    redis.signal("STOP");
    let began = Instant::now();
    assert_eq!(sample(&exporter.metrics(), UP), Some(0.0));
    assert!(began.elapsed() < PATIENCE / 4, "{:?}", began.elapsed());
    redis.signal("CONT");
    assert_eq!(families_of(&exporter.metrics()), GOOD);
}

#[test]
fn a_redis_that_is_loading_is_down() {
    let (redis, _data) = Redis::start_loading(Duration::from_secs(2));
    let exporter = Exporter::start(redis.port);
    let text = exporter.metrics();
    assert_eq!(sample(&text, UP), Some(0.0));
    assert_eq!(failures(&text, "loading"), Some(1.0));
    let ready = exporter.get("/readyz");
    assert_eq!(ready.status, 503);
    assert!(ready.body.starts_with("redis: loading ("), "{}", ready.body);
    wait_for("Redis that has loaded", || {
        (sample(&exporter.metrics(), UP) == Some(1.0)).then_some(())
    });
    assert_eq!(exporter.get("/readyz").status, 200);
    let log = exporter.stop();
    assert!(log.contains("Redis is loading"), "{log}");
}

#[test]
fn a_corrupt_field_is_skipped_and_counted() {
    let redis = redis_with_a_counter();
    let key = "metrics:good_total";
    redis.cli(&["HSET", key, "b=\"1\"", "1.5", "c=\"1\"", "-1", "d", "1"]);
    let exporter = Exporter::start(redis.port);
    // A gauge: another scrape of the same Redis shows the same.
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
fn a_corrupt_family_is_skipped_and_counted() {
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
    let exporter = Exporter::start(redis.port);
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
    let exporter = Exporter::start(redis.port);
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
    let exporter = Exporter::start_with(redis.port, &user);
    let text = exporter.metrics();
    assert_eq!(families_of(&text), GOOD);
    assert_eq!(errors(&text, "secret_total", "forbidden"), Some(1.0));
    assert_eq!(exporter.get("/readyz").status, 200);
}

#[test]
fn names_that_clash_are_refused_and_counted() {
    let redis = redis_with_a_counter();
    for name in ["functional_scaffold_redis_up", "t_count"] {
        register_counter(&redis, name);
        redis.cli(&["HSET", &format!("metrics:{name}"), "", "7"]);
    }
    let histogram = r#"{"type":"histogram","key":"metrics:t","bounds":[1]}"#;
    redis.cli(&["HSET", "metrics:families", "t", histogram]);
    redis.cli(&["HSET", "metrics:t", "|1", "1"]);
    let exporter = Exporter::start(redis.port);
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
    // A HELP line is not a sample; what matters is that nothing is twice.
    assert_eq!(names.len(), all, "{text}");
}

#[test]
fn a_refused_password_is_named_and_not_shown() {
    let redis = Redis::start_with(&["--requirepass", "right"]);
    let wrong = [("REDIS_PASSWORD", "wr0ng-s3cret")];
    let url = format!("redis://:wr0ng-s3cret@127.0.0.1:{}", redis.port);
    for options in [&wrong[..], &[("REDIS_URL", url.as_str())], &[]] {
        let exporter = Exporter::start_with(redis.port, options);
        let text = exporter.metrics();
        assert_eq!(sample(&text, UP), Some(0.0));
        assert_eq!(failures(&text, "auth"), Some(1.0), "{}", exporter.log());
        let ready = exporter.get("/readyz");
        assert_eq!(ready.status, 503);
        let log = exporter.stop();
        assert!(log.contains("reason=\"auth\""), "{log}");
        for shown in [log, text, ready.body] {
            assert!(!shown.contains("s3cret"), "{shown}");
        }
    }
    let right = [("REDIS_PASSWORD", "right")];
    let exporter = Exporter::start_with(redis.port, &right);
    assert_eq!(sample(&exporter.metrics(), UP), Some(1.0));
}
