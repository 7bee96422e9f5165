//! What is served when Redis lost writes, or was wiped.

use crate::support::{Exporter, Redis, families_of, sample, wait_for};

const REGRESSIONS: &str = "functional_scaffold_regressions_total";

fn redis_with_families() -> Redis {
    let redis = Redis::start();
    write_families(&redis);
    redis
}

fn write_families(redis: &Redis) {
    for (name, json) in [
        ("jobs_total", r#"{"type":"counter","key":"metrics:jobs"}"#),
        ("queued", r#"{"type":"gauge","key":"metrics:queued"}"#),
        (
            "job_seconds",
            r#"{"type":"histogram","key":"metrics:time","bounds":[1]}"#,
        ),
    ] {
        redis.cli(&["HSET", "metrics:families", name, json]);
    }
    redis.cli(&["HSET", "metrics:jobs", "k=\"a\"", "100", "k=\"b\"", "5"]);
    redis.cli(&["HSET", "metrics:queued", "", "100"]);
    redis.cli(&[
        "HSET",
        "metrics:time",
        "|1",
        "50",
        "|+Inf",
        "20",
        "|sum",
        "90",
    ]);
}

fn add(redis: &Redis, key: &str, field: &str, by: &str) {
    redis.cli(&["HINCRBY", key, field, by]);
}

fn served(exporter: &Exporter, names: &[&str]) -> Vec<Option<f64>> {
    let text = exporter.metrics();
    names.iter().map(|name| sample(&text, name)).collect()
}

fn all(values: &[f64]) -> Vec<Option<f64>> {
    values.iter().copied().map(Some).collect()
}

#[test]
fn no_series_steps_back_and_later_increments_are_served() {
    let redis = redis_with_families();
    let exporter = Exporter::start(redis.port);
    let names = [
        "jobs_total{k=\"a\"}",
        "jobs_total{k=\"b\"}",
        "job_seconds_bucket{le=\"1.0\"}",
        "job_seconds_count",
        "job_seconds_sum",
        "queued",
        REGRESSIONS,
    ];
    let begin = all(&[100.0, 5.0, 50.0, 70.0, 90.0, 100.0, 0.0]);
    assert_eq!(served(&exporter, &names), begin);
    add(&redis, "metrics:jobs", "k=\"a\"", "-10");
    add(&redis, "metrics:queued", "", "-10");
    add(&redis, "metrics:time", "|1", "-7");
    add(&redis, "metrics:time", "|sum", "-20");
    let held = all(&[100.0, 5.0, 50.0, 70.0, 90.0, 90.0, 2.0]);
    // It is counted once, not at every scrape.
    assert_eq!(served(&exporter, &names), held);
    assert_eq!(served(&exporter, &names), held);
    add(&redis, "metrics:jobs", "k=\"a\"", "3");
    add(&redis, "metrics:time", "|1", "2");
    add(&redis, "metrics:time", "|sum", "4");
    let later = all(&[103.0, 5.0, 52.0, 72.0, 94.0, 90.0, 2.0]);
    assert_eq!(served(&exporter, &names), later);
    add(&redis, "metrics:jobs", "k=\"a\"", "-1");
    let log = exporter.stop();
    assert_eq!(log.matches("Redis lost writes").count(), 2, "{log}");
}

#[test]
fn a_hash_that_is_gone_stays_served_and_counts_on() {
    let redis = redis_with_families();
    let exporter = Exporter::start(redis.port);
    let before = families_of(&exporter.metrics());
    let names = ["jobs_total{k=\"a\"}", "jobs_total{k=\"b\"}", REGRESSIONS];
    redis.cli(&["DEL", "metrics:jobs", "metrics:time"]);
    assert_eq!(families_of(&exporter.metrics()), before);
    add(&redis, "metrics:jobs", "k=\"b\"", "2");
    assert_eq!(served(&exporter, &names), all(&[100.0, 7.0, 3.0]));
}

#[test]
fn a_store_that_was_wiped_begins_anew() {
    let redis = redis_with_families();
    let exporter = Exporter::start(redis.port);
    let names = ["jobs_total{k=\"a\"}", "jobs_total{k=\"b\"}", REGRESSIONS];
    assert_eq!(served(&exporter, &names), all(&[100.0, 5.0, 0.0]));
    redis.cli(&["FLUSHALL"]);
    write_families(&redis);
    redis.cli(&["HSET", "metrics:jobs", "k=\"a\"", "40"]);
    assert_eq!(served(&exporter, &names), all(&[40.0, 5.0, 0.0]));
    // Also where Redis itself came back empty.
    let port = redis.port;
    drop(redis);
    let redis = wait_for("Redis on the same port", || Redis::start_on(port, &[]));
    assert_eq!(families_of(&exporter.metrics()), "");
    write_families(&redis);
    redis.cli(&["HDEL", "metrics:jobs", "k=\"b\""]);
    let now = [Some(100.0), None, Some(0.0)];
    assert_eq!(served(&exporter, &names), now);
}
