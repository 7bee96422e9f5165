//! Scrapes while Redis is unavailable, or holds invalid data.

use std::time::Instant;

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

/// The metrics of a scrape that shows [`GOOD`]: on a busy machine, a read may exceed a
/// short time-out.
fn good_metrics(exporter: &Exporter) -> String {
    wait_for("good scrape", || {
        let text = exporter.metrics();
        (families_of(&text) == GOOD).then_some(text)
    })
}

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
    let before = failures(&good_metrics(&kept), "timeout").unwrap_or_default();
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
    assert_eq!(failures(&kept.metrics(), "timeout"), Some(before + 3.0));
    redis.resume().expect("it runs");
    for exporter in [&kept, &fresh] {
        good_metrics(exporter);
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
    good_metrics(&exporter);
    redis.suspend().expect("it runs");
    let began = Instant::now();
    assert_eq!(sample(&exporter.metrics(), UP), Some(0.0));
    assert!(began.elapsed() < PATIENCE / 4, "{:?}", began.elapsed());
    redis.resume().expect("it runs");
    good_metrics(&exporter);
}

#[test]
fn a_redis_that_is_loading_is_down() {
    let redis = Redis::start().restart_loading();
    let exporter = Exporter::start(redis.port());
    let scrape = exporter.metrics();
    assert_eq!(sample(&scrape, UP), Some(0.0));
    assert_eq!(failures(&scrape, "loading"), Some(1.0));
    let ready = exporter.get("/readyz");
    assert_eq!(ready.status, 503);
    let ready = text(&ready);
    assert!(ready.starts_with("redis: loading ("), "{ready}");
    redis.finish_loading();
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

/// Runs a Lua script in Redis.
pub(crate) fn eval(redis: &Redis, script: &str) {
    redis.cli(&["EVAL", script, "0"]);
}

#[test]
fn the_largest_families_beyond_the_limit_are_left_out_unread() {
    let redis = redis_with_a_counter();
    for name in ["many_total", "more_total"] {
        register_counter(&redis, name);
        let fill = format!(
            "for i = 1, 100000 do redis.call('HSET', 'metrics:{name}', 'n=\"' .. i .. '\"', 1) end"
        );
        eval(&redis, &fill);
    }
    // Ten label sets, each with 256 buckets.
    let bounds: Vec<_> = (1..=256).map(|bound| bound.to_string()).collect();
    let bounds = bounds.join(",");
    let json = format!(r#"{{"type":"histogram","key":"metrics:wide","bounds":[{bounds}]}}"#);
    redis.cli(&["HSET", "metrics:families", "wide", &json]);
    eval(
        &redis,
        "for i = 1, 10 do redis.call('HSET', 'metrics:wide', 'n=\"' .. i .. '\"|sum', 1) end",
    );
    let exporter = Exporter::start_with(redis.port(), &[("EXPORTER_MAX_SAMPLES", "1000")]);
    for _scrape in 0..2 {
        let text = exporter.metrics();
        assert_eq!(families_of(&text), GOOD);
        for family in ["many_total", "more_total", "wide"] {
            assert_eq!(errors(&text, family, "too_many"), Some(1.0), "{family}");
        }
        // The fields of the small hashes.
        assert_eq!(sample(&text, "functional_scaffold_cells"), Some(11.0));
    }
    drop(exporter);
    let text = Exporter::start(redis.port()).metrics();
    assert_eq!(sample(&text, "functional_scaffold_series"), Some(200_011.0));
    assert_eq!(errors(&text, "wide", "too_many"), None);
}

/// Neither counts towards the limit on samples.
#[test]
fn families_with_a_long_name_are_left_out_and_long_help_is_cut() {
    let redis = redis_with_a_counter();
    eval(
        &redis,
        "local name, help = string.rep('x', 16000), string.rep('é', 8000)
        for i = 1, 1900 do
          local name = 'f' .. i .. (i % 2 == 0 and name or '') .. '_total'
          local help = i % 2 == 1 and help or ''
          redis.call('HSET', 'metrics:families', name,
            '{\"type\":\"counter\",\"key\":\"metrics:f\",\"help\":\"' .. help .. '\"}')
        end
        redis.call('HSET', 'metrics:f', '', 7)",
    );
    let exporter = Exporter::start_with(redis.port(), &[("EXPORTER_MAX_SAMPLES", "150000")]);
    let text = exporter.metrics();
    let help = format!("# HELP f7_total {}\n", "é".repeat(500));
    assert!(text.contains(&help));
    assert!(text.contains("f7_total 7\n"));
    assert!(!text.contains("# TYPE f8x"));
    assert!(errors(&text, "(other)", "too_long") > Some(800.0));
    let peak = exporter.peak_memory();
    assert!(peak < 128 << 20, "{peak} bytes");
}

#[test]
fn strings_that_are_too_long_are_not_received() {
    let redis = redis_with_a_counter();
    register_counter(&redis, "long_total");
    register_counter(&redis, "big_total");
    // A hundred megabytes in fields and values.
    eval(
        &redis,
        "local long = string.rep('x', 1000000)
        for i = 1, 50 do
          redis.call('HSET', 'metrics:long_total', 'n=\"' .. long .. i .. '\"', 1)
          redis.call('HSET', 'metrics:big_total', 'n=\"' .. i .. '\"', long)
        end
        redis.call('HSET', 'metrics:long_total', 'n=\"short\"', 7)
        redis.call('HSET', 'metrics:families', 'helpful_total',
          '{\"type\":\"counter\",\"key\":\"k\",\"help\":\"' .. long .. '\"}')
        redis.call('HSET', 'metrics:families', 'wordy_total',
          '{\"type\":\"counter\",\"key\":\"k\",\"help\":\"' .. string.sub(long, 1, 17000) .. '\"}')
        redis.call('HSET', 'metrics:state', 'epoch', long)
        redis.call('ZADD', 'metrics:leases', 9999999999999, long)",
    );
    let exporter = Exporter::start(redis.port());
    let text = exporter.metrics();
    assert_eq!(sample(&text, UP), Some(1.0));
    assert_eq!(sample(&text, "good_total{a=\"1\"}"), Some(5.0));
    assert_eq!(sample(&text, "long_total{n=\"short\"}"), Some(7.0));
    for (family, reason, count) in [
        ("long_total", "too_long", 50.0),
        ("big_total", "value", 50.0),
        ("helpful_total", "too_long", 1.0),
        ("wordy_total", "too_long", 1.0),
        ("(leases)", "lease", 1.0),
    ] {
        assert_eq!(errors(&text, family, reason), Some(count), "{family}");
    }
    let peak = exporter.peak_memory();
    assert!(peak < 60_000_000, "{peak}");
}

#[test]
fn further_registrations_and_leases_are_left_out() {
    let redis = redis_with_a_counter();
    eval(
        &redis,
        "for i = 1, 2500 do
          redis.call('HSET', 'metrics:families', 'f' .. i,
            '{\"type\":\"counter\",\"key\":\"metrics:f\"}')
        end
        for i = 1, 100500 do
          redis.call('ZADD', 'metrics:leases', 9999999999999, '{\"id\":\"' .. i ..
            '\",\"millis\":1,\"count\":[[\"metrics:x\",\"algorithm=\\\\\"a\\\\\"\"]]}')
        end",
    );
    let patient = ("EXPORTER_SCRAPE_TIMEOUT_MS", "60000");
    let exporter = Exporter::start_with(redis.port(), &[patient]);
    let text = exporter.metrics();
    assert_eq!(sample(&text, UP), Some(1.0));
    assert_eq!(sample(&text, "functional_scaffold_families"), Some(2000.0));
    let in_flight = "algorithm_executions_in_flight{algorithm=\"a\"}";
    assert_eq!(sample(&text, in_flight), Some(100_000.0));
    for family in ["(families)", "(leases)"] {
        assert_eq!(errors(&text, family, "too_many"), Some(1.0), "{family}");
    }
}

#[test]
fn long_leases_and_removals_are_left_out() {
    let redis = redis_with_a_counter();
    // 100 MB of each.
    eval(
        &redis,
        "local long = string.rep('x', 10000)
        for i = 1, 10000 do
          redis.call('ZADD', 'metrics:leases', 9999999999999, '{\"id\":\"' .. i ..
            '\",\"millis\":1,\"count\":[[\"metrics:x\",\"algorithm=\\\\\"' .. i .. long ..
            '\\\\\"\"]]}')
          redis.call('ZADD', 'metrics:removed', i, '{\"key\":\"metrics:' .. i .. long .. '\"}')
        end",
    );
    let patient = ("EXPORTER_SCRAPE_TIMEOUT_MS", "60000");
    let exporter = Exporter::start_with(redis.port(), &[patient]);
    let text = exporter.metrics();
    assert_eq!(sample(&text, UP), Some(1.0));
    assert_eq!(errors(&text, "(leases)", "lease"), Some(10_000.0));
    assert_eq!(errors(&text, "(removed)", "too_many"), Some(1.0));
    // The rest, beginning where the first read ended.
    let text = exporter.metrics();
    assert_eq!(errors(&text, "(removed)", "too_many"), None);
    let peak = exporter.peak_memory();
    assert!(peak < 250_000_000, "{peak}");
}

/// Nodes of a cluster, each with these slots.
pub(crate) fn start_cluster<const N: usize>(slots: [&str; N]) -> [Redis; N] {
    let nodes = slots.map(|slots| {
        let bus = free_port().to_string();
        let node = RedisOptions::new()
            .line("cluster-enabled", &["yes"])
            .line("cluster-port", &[&bus]);
        let node = Redis::start_with(node);
        let slots: Vec<_> = slots.split(' ').collect();
        node.cli(&[&["CLUSTER", "ADDSLOTSRANGE"], &slots[..]].concat());
        (node, bus)
    });
    for (other, bus) in &nodes[1..] {
        let port = other.port().to_string();
        nodes[0]
            .0
            .cli(&["CLUSTER", "MEET", "127.0.0.1", &port, bus]);
    }
    for (node, _) in &nodes {
        wait_for("cluster", || {
            let info = node.cli(&["CLUSTER", "INFO"]);
            let is_whole = info.contains("cluster_slots_ok:16384");
            (is_whole && info.contains("cluster_state:ok")).then_some(())
        });
    }
    nodes.map(|(node, _)| node)
}

#[test]
fn a_family_in_another_slot_of_a_cluster_is_left_out() {
    let nodes = start_cluster(["0 8191", "8192 16383"]);
    let slot = |key: &str| -> u32 {
        let slot = nodes[0].cli(&["CLUSTER", "KEYSLOT", key]);
        slot.trim().parse().expect("a slot")
    };
    let is_first = |key: &str| slot(key) < 8192;
    let mut prefixes = (0..).map(|number| format!("{{metrics{number}}}:"));
    let prefix = prefixes.find(|key| is_first(key)).expect("one of them");
    let elsewhere = prefixes.find(|key| !is_first(key)).expect("one of them");
    let redis = &nodes[0];
    let families = format!("{prefix}families");
    for (name, key) in [("good_total", &prefix), ("bad_total", &elsewhere)] {
        let json = format!(r#"{{"type":"counter","key":"{key}{name}"}}"#);
        redis.cli(&["HSET", &families, name, &json]);
    }
    redis.cli(&["HSET", &format!("{prefix}good_total"), "a=\"1\"", "5"]);
    // It counts a crash in the family that is here, and in the one that is not.
    let cells = |key: &str, name: &str| format!(r#"["{key}{name}","b=\"1\""]"#);
    let lease = format!(
        r#"{{"id":"1","millis":1,"count":[{},{}]}}"#,
        cells(&prefix, "good_total"),
        cells(&elsewhere, "bad_total")
    );
    redis.cli(&["ZADD", &format!("{prefix}leases"), "1", &lease]);
    let exporter = Exporter::start_with(redis.port(), &[("METRICS_PREFIX", prefix.as_str())]);
    for _scrape in 0..2 {
        let text = exporter.metrics();
        assert_eq!(sample(&text, UP), Some(1.0), "{text}");
        assert_eq!(sample(&text, "good_total{a=\"1\"}"), Some(5.0));
        assert_eq!(sample(&text, "good_total{b=\"1\"}"), Some(1.0));
        assert_eq!(errors(&text, "bad_total", "other_slot"), Some(1.0));
    }
    let log = exporter.stop();
    assert!(log.contains("Moved") && log.contains("refused"), "{log}");
    // A node that has none of it leads to the one that has.
    let other = Exporter::start_with(nodes[1].port(), &[("METRICS_PREFIX", prefix.as_str())]);
    let text = other.metrics();
    assert_eq!(sample(&text, UP), Some(1.0), "{text}");
    assert_eq!(sample(&text, "good_total{a=\"1\"}"), Some(5.0));
    assert_eq!(errors(&text, "bad_total", "other_slot"), Some(1.0));
}

#[test]
fn the_policy_for_a_full_memory_is_shown() {
    let redis = redis_with_a_counter();
    let exporter = Exporter::start(redis.port());
    let policy = |text: &str, policy: &str| {
        let name = format!("functional_scaffold_redis_maxmemory_policy{{policy=\"{policy}\"}}");
        sample(text, &name)
    };
    let max = |text: &str| sample(text, "functional_scaffold_redis_memory_max_bytes");
    let text = exporter.metrics();
    assert_eq!(
        (policy(&text, "noeviction"), max(&text)),
        (Some(1.0), Some(0.0))
    );
    assert!(sample(&text, "functional_scaffold_redis_memory_used_bytes") > Some(100_000.0));
    redis.cli(&["CONFIG", "SET", "maxmemory", "1gb"]);
    redis.cli(&["CONFIG", "SET", "maxmemory-policy", "volatile-lru"]);
    let text = exporter.metrics();
    assert_eq!(policy(&text, "noeviction"), None);
    let gigabyte = f64::from(1 << 30);
    assert_eq!(
        (policy(&text, "volatile-lru"), max(&text)),
        (Some(1.0), Some(gigabyte))
    );
    // Without the right to ask, everything else is served.
    redis.cli(&["ACL", "SETUSER", "default", "-info"]);
    let text = exporter.metrics();
    assert_eq!(max(&text), None);
    assert_eq!(families_of(&text), GOOD);
}

#[test]
fn families_that_an_app_invents_do_not_displace_the_services_own() {
    let redis = Redis::start();
    redis.register("a");
    eval(
        &redis,
        "for i = 1, 20000 do
          redis.call('HSET', 'metrics:families', 'invented_' .. i,
            '{\"type\":\"counter\",\"key\":\"metrics:custom:invented_' .. i .. '\"}')
        end",
    );
    let text = Exporter::start(redis.port()).metrics();
    assert_eq!(errors(&text, "(families)", "too_many"), Some(1.0), "{text}");
    for family in [
        "http_requests_total",
        "algorithm_executions_total",
        "functional_scaffold_unleased_executions_total",
        "functional_scaffold_late_results_total",
        "functional_scaffold_leases_settled_total",
        "functional_scaffold_flush_failures_total",
    ] {
        let line = format!("\n{family}{{");
        assert!(text.contains(&line), "{family}: {text}");
    }
}
