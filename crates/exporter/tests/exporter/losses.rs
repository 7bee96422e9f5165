//! What is served when Redis lost writes, or was wiped.

use std::{path::Path, process::Command, thread};

use crate::support::{Exporter, Redis, families_of, free_port, sample, wait_for};

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
        "job_seconds_bucket{le=\"1\"}",
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

fn offset(redis: &Redis, key: &str, field: &str) -> String {
    let key = format!("metrics:offset:{key}");
    redis.cli(&["HGET", &key, field]).trim().to_owned()
}

#[test]
fn what_was_lost_stays_served_after_a_restart_and_by_another_exporter() {
    let redis = redis_with_families();
    let exporters = [(); 2].map(|()| Exporter::start(redis.port));
    let names = [
        "jobs_total{k=\"a\"}",
        "jobs_total{k=\"b\"}",
        "job_seconds_bucket{le=\"1\"}",
        "job_seconds_count",
        "job_seconds_sum",
    ];
    let begin = all(&[100.0, 5.0, 50.0, 70.0, 90.0]);
    for exporter in &exporters {
        assert_eq!(served(exporter, &names), begin);
    }
    add(&redis, "metrics:jobs", "k=\"a\"", "-10");
    redis.cli(&["DEL", "metrics:time"]);
    for exporter in &exporters {
        assert_eq!(served(exporter, &names), begin);
    }
    assert_eq!(offset(&redis, "metrics:jobs", "k=\"a\""), "10");
    assert_eq!(offset(&redis, "metrics:jobs", "k=\"b\""), "");
    for (field, lost) in [("|1", "50"), ("|+Inf", "20"), ("|sum", "90")] {
        assert_eq!(offset(&redis, "metrics:time", field), lost, "{field}");
    }
    add(&redis, "metrics:jobs", "k=\"a\"", "3");
    add(&redis, "metrics:time", "|1", "2");
    let later = all(&[103.0, 5.0, 52.0, 72.0, 90.0]);
    let restarted = Exporter::start(redis.port);
    for exporter in exporters.iter().chain([&restarted]) {
        assert_eq!(served(exporter, &names), later);
    }
    assert_eq!(sample(&exporters[0].metrics(), REGRESSIONS), Some(2.0));
    assert_eq!(sample(&restarted.metrics(), REGRESSIONS), Some(0.0));
}

#[test]
fn exporters_that_see_a_loss_at_once_make_up_for_it_once() {
    let redis = redis_with_families();
    let exporters = [(); 3].map(|()| Exporter::start(redis.port));
    let name = ["jobs_total{k=\"a\"}"];
    for exporter in &exporters {
        assert_eq!(served(exporter, &name), all(&[100.0]));
    }
    for round in 1..=10 {
        add(&redis, "metrics:jobs", "k=\"a\"", "-5");
        thread::scope(|scope| {
            for exporter in &exporters {
                scope.spawn(|| assert_eq!(served(exporter, &name), all(&[100.0])));
            }
        });
        let lost = (5 * round).to_string();
        assert_eq!(offset(&redis, "metrics:jobs", "k=\"a\""), lost);
    }
}

#[test]
fn what_redis_does_not_take_is_held_until_it_does() {
    let redis = redis_with_families();
    let exporter = Exporter::start(redis.port);
    let names = ["jobs_total{k=\"a\"}", "job_seconds_sum", REGRESSIONS];
    assert_eq!(served(&exporter, &names), all(&[100.0, 90.0, 0.0]));
    add(&redis, "metrics:jobs", "k=\"a\"", "-10");
    add(&redis, "metrics:time", "|sum", "-20");
    redis.cli(&["REPLICAOF", "127.0.0.1", &free_port().to_string()]);
    for _scrape in 0..2 {
        assert_eq!(served(&exporter, &names), all(&[100.0, 90.0, 2.0]));
    }
    redis.cli(&["REPLICAOF", "NO", "ONE"]);
    assert_eq!(offset(&redis, "metrics:jobs", "k=\"a\""), "");
    add(&redis, "metrics:jobs", "k=\"a\"", "3");
    // In the same scrape in which it is handed over.
    assert_eq!(served(&exporter, &names), all(&[103.0, 90.0, 2.0]));
    assert_eq!(offset(&redis, "metrics:jobs", "k=\"a\""), "10");
    assert_eq!(offset(&redis, "metrics:time", "|sum"), "20");
    add(&redis, "metrics:jobs", "k=\"a\"", "1");
    for exporter in [exporter, Exporter::start(redis.port)] {
        assert_eq!(served(&exporter, &names[..2]), all(&[104.0, 90.0]));
        let log = exporter.stop();
        let said = log.matches("cannot be kept in Redis").count();
        assert!(said <= 1, "{log}");
    }
}

/// A Redis that is killed, and comes back with the append-only file that it had
/// a while before: what a power cut does to one that is not synced.
#[test]
fn no_series_steps_back_after_a_power_cut() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    let kept = directory.path().join("kept");
    std::fs::create_dir(&data).expect("a directory");
    let path = data.to_str().expect("a UTF-8 path");
    let options = ["--dir", path, "--appendonly", "yes"];
    let redis = Redis::start_with(&options);
    let port = redis.port;
    write_families(&redis);
    let exporter = Exporter::start(port);
    let other = Exporter::start(port);
    let names = ["jobs_total{k=\"a\"}", "job_seconds_bucket{le=\"1\"}"];
    assert_eq!(served(&exporter, &names), all(&[100.0, 50.0]));
    copy(&data, &kept);

    add(&redis, "metrics:jobs", "k=\"a\"", "1000");
    add(&redis, "metrics:time", "|1", "1000");
    for exporter in [&exporter, &other] {
        assert_eq!(served(exporter, &names), all(&[1100.0, 1050.0]));
    }
    drop(redis);
    std::fs::remove_dir_all(&data).expect("removed");
    copy(&kept, &data);
    let redis = wait_for("Redis on the same port", || Redis::start_on(port, &options));
    add(&redis, "metrics:jobs", "k=\"a\"", "2");
    // One that restarts before it has scraped again is told by the other.
    other.stop();
    // Not 1102: what came between the loss and this scrape cannot be told from
    // what was not lost.
    assert_eq!(served(&exporter, &names), all(&[1100.0, 1050.0]));
    add(&redis, "metrics:jobs", "k=\"a\"", "3");
    for exporter in [exporter, Exporter::start(port)] {
        assert_eq!(served(&exporter, &names), all(&[1103.0, 1050.0]));
    }
}

fn copy(from: &Path, to: &Path) {
    let mut command = Command::new("cp");
    let copied = command.arg("-r").args([from, to]).status();
    assert!(copied.expect("cp runs").success(), "{from:?} to {to:?}");
}
