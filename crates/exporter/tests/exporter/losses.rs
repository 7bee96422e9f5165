//! Scrapes after Redis lost writes, or was wiped.

use std::thread;

use functional_scaffold_testkit::{prometheus::copy_tree, redis::RedisOptions};
use tempfile::TempDir;

use crate::support::{Exporter, Redis, families_of, free_port, sample, wait_for};

const REGRESSIONS: &str = "functional_scaffold_regressions_total";
const UP: &str = "functional_scaffold_redis_up";

pub(crate) fn redis_with_families() -> Redis {
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

pub(crate) fn add(redis: &Redis, key: &str, field: &str, by: &str) {
    redis.cli(&["HINCRBY", key, field, by]);
}

pub(crate) fn served(exporter: &Exporter, names: &[&str]) -> Vec<Option<f64>> {
    let text = exporter.metrics();
    names.iter().map(|name| sample(&text, name)).collect()
}

pub(crate) fn all(values: &[f64]) -> Vec<Option<f64>> {
    values.iter().copied().map(Some).collect()
}

#[test]
fn no_series_steps_back_and_later_increments_are_served() {
    let redis = redis_with_families();
    let exporter = Exporter::start(redis.port());
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
fn a_corrupt_cell_is_held_and_not_taken_for_a_loss() {
    let redis = redis_with_families();
    let exporter = Exporter::start(redis.port());
    let names = [
        "jobs_total{k=\"a\"}",
        "jobs_total{k=\"b\"}",
        "job_seconds_bucket{le=\"1.0\"}",
        "job_seconds_count",
        "job_seconds_sum",
        REGRESSIONS,
    ];
    let whole = all(&[100.0, 5.0, 50.0, 70.0, 90.0, 0.0]);
    assert_eq!(served(&exporter, &names), whole);
    redis.cli(&["HINCRBYFLOAT", "metrics:jobs", "k=\"a\"", "0.5"]);
    redis.cli(&["HSET", "metrics:time", "|1", "many", "|sum", "-"]);
    let error = "functional_scaffold_decode_errors{family=\"jobs_total\",reason=\"value\"}";
    let corrupt = exporter.metrics();
    assert_eq!(sample(&corrupt, error), Some(1.0));
    assert_eq!(served(&exporter, &names), whole);
    // The other cells count on.
    add(&redis, "metrics:jobs", "k=\"b\"", "2");
    add(&redis, "metrics:time", "|+Inf", "1");
    let counted_on = all(&[100.0, 7.0, 50.0, 71.0, 90.0, 0.0]);
    assert_eq!(served(&exporter, &names), counted_on);
    redis.cli(&["HSET", "metrics:jobs", "k=\"a\"", "100"]);
    redis.cli(&["HSET", "metrics:time", "|1", "50", "|sum", "95"]);
    let repaired = all(&[100.0, 7.0, 50.0, 71.0, 95.0, 0.0]);
    assert_eq!(served(&exporter, &names), repaired);
    // Nothing was recorded as lost: another exporter serves the same.
    assert_eq!(served(&Exporter::start(redis.port()), &names), repaired);
    // So it is in the hash of lost counts.
    add(&redis, "metrics:jobs", "k=\"a\"", "-10");
    assert_eq!(served(&exporter, &names[..1]), all(&[100.0]));
    redis.cli(&[
        "HINCRBYFLOAT",
        "metrics:lost:metrics:jobs",
        "k=\"a\"",
        "0.5",
    ]);
    assert_eq!(served(&exporter, &names[..1]), all(&[100.0]));
    redis.cli(&[
        "HINCRBYFLOAT",
        "metrics:lost:metrics:jobs",
        "k=\"a\"",
        "-0.5",
    ]);
    assert_eq!(served(&exporter, &names[..1]), all(&[100.0]));
}

#[test]
fn a_missing_hash_stays_served_and_counts_on() {
    let redis = redis_with_families();
    let exporter = Exporter::start(redis.port());
    let before = families_of(&exporter.metrics());
    let names = ["jobs_total{k=\"a\"}", "jobs_total{k=\"b\"}", REGRESSIONS];
    redis.cli(&["DEL", "metrics:jobs", "metrics:time"]);
    assert_eq!(families_of(&exporter.metrics()), before);
    add(&redis, "metrics:jobs", "k=\"b\"", "2");
    assert_eq!(served(&exporter, &names), all(&[100.0, 7.0, 3.0]));
}

#[test]
fn a_wiped_store_starts_over() {
    let mut redis = redis_with_families();
    let exporter = Exporter::start(redis.port());
    let names = ["jobs_total{k=\"a\"}", "jobs_total{k=\"b\"}", REGRESSIONS];
    assert_eq!(served(&exporter, &names), all(&[100.0, 5.0, 0.0]));
    redis.cli(&["FLUSHALL"]);
    write_families(&redis);
    redis.cli(&["HSET", "metrics:jobs", "k=\"a\"", "40"]);
    assert_eq!(served(&exporter, &names), all(&[40.0, 5.0, 0.0]));
    // Also if Redis restarts empty.
    redis.restart().expect("it restarts");
    assert_eq!(families_of(&exporter.metrics()), "");
    write_families(&redis);
    redis.cli(&["HDEL", "metrics:jobs", "k=\"b\""]);
    let now = [Some(100.0), None, Some(0.0)];
    assert_eq!(served(&exporter, &names), now);
}

pub(crate) fn lost_count(redis: &Redis, key: &str, field: &str) -> String {
    let key = format!("metrics:lost:{key}");
    redis.cli(&["HGET", &key, field]).trim().to_owned()
}

#[test]
fn lost_counts_stay_served_after_a_restart_and_by_another_exporter() {
    let redis = redis_with_families();
    let exporters = [(); 2].map(|()| Exporter::start(redis.port()));
    let names = [
        "jobs_total{k=\"a\"}",
        "jobs_total{k=\"b\"}",
        "job_seconds_bucket{le=\"1.0\"}",
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
    assert_eq!(lost_count(&redis, "metrics:jobs", "k=\"a\""), "10");
    assert_eq!(lost_count(&redis, "metrics:jobs", "k=\"b\""), "");
    for (field, lost) in [("|1", "50"), ("|+Inf", "20"), ("|sum", "90")] {
        assert_eq!(lost_count(&redis, "metrics:time", field), lost, "{field}");
    }
    add(&redis, "metrics:jobs", "k=\"a\"", "3");
    add(&redis, "metrics:time", "|1", "2");
    let later = all(&[103.0, 5.0, 52.0, 72.0, 90.0]);
    let restarted = Exporter::start(redis.port());
    for exporter in exporters.iter().chain([&restarted]) {
        assert_eq!(served(exporter, &names), later);
    }
    assert_eq!(sample(&exporters[0].metrics(), REGRESSIONS), Some(2.0));
    assert_eq!(sample(&restarted.metrics(), REGRESSIONS), Some(0.0));
}

#[test]
fn exporters_that_see_a_loss_together_compensate_it_once() {
    let redis = redis_with_families();
    let exporters = [(); 3].map(|()| Exporter::start(redis.port()));
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
        assert_eq!(lost_count(&redis, "metrics:jobs", "k=\"a\""), lost);
    }
}

#[test]
fn lost_counts_are_kept_until_redis_accepts_them() {
    let redis = redis_with_families();
    let exporter = Exporter::start(redis.port());
    let names = ["jobs_total{k=\"a\"}", "job_seconds_sum", REGRESSIONS];
    assert_eq!(served(&exporter, &names), all(&[100.0, 90.0, 0.0]));
    add(&redis, "metrics:jobs", "k=\"a\"", "-10");
    add(&redis, "metrics:time", "|sum", "-20");
    redis.cli(&["REPLICAOF", "127.0.0.1", &free_port().to_string()]);
    for _scrape in 0..2 {
        assert_eq!(served(&exporter, &names), all(&[100.0, 90.0, 2.0]));
    }
    redis.cli(&["REPLICAOF", "NO", "ONE"]);
    assert_eq!(lost_count(&redis, "metrics:jobs", "k=\"a\""), "");
    add(&redis, "metrics:jobs", "k=\"a\"", "3");
    // In the scrape that hands it over.
    assert_eq!(served(&exporter, &names), all(&[103.0, 90.0, 2.0]));
    assert_eq!(lost_count(&redis, "metrics:jobs", "k=\"a\""), "10");
    assert_eq!(lost_count(&redis, "metrics:time", "|sum"), "20");
    add(&redis, "metrics:jobs", "k=\"a\"", "1");
    for exporter in [exporter, Exporter::start(redis.port())] {
        assert_eq!(served(&exporter, &names[..2]), all(&[104.0, 90.0]));
        let log = exporter.stop();
        let said = log.matches("cannot be kept in Redis").count();
        assert!(said <= 1, "{log}");
    }
}

#[test]
fn lost_counts_without_a_reply_are_found_again() {
    let redis = redis_with_families();
    redis.cli(&["HSET", "metrics:state", "epoch", "e"]);
    // It may not settle leases, so that adding lost counts is its first write.
    let rights = "on >s3cret +@all %R~metrics:* ~metrics:state ~metrics:lost:*";
    let user: Vec<_> = ["ACL", "SETUSER", "reader"]
        .into_iter()
        .chain(rights.split(' '))
        .collect();
    redis.cli(&user);
    let options = [("REDIS_USERNAME", "reader"), ("REDIS_PASSWORD", "s3cret")];
    let exporter = Exporter::start_with(redis.port(), &options);
    let name = ["jobs_total{k=\"a\"}"];
    assert_eq!(served(&exporter, &name), all(&[100.0]));
    add(&redis, "metrics:jobs", "k=\"a\"", "-10");
    // Only reads get a reply.
    redis.cli(&["CLIENT", "PAUSE", "60000", "WRITE"]);
    let text = exporter.metrics();
    assert_eq!(sample(&text, UP), Some(0.0));
    assert_eq!(sample(&text, name[0]), None);
    wait_for("a line in the log", || {
        exporter
            .log()
            .contains("cannot be kept in Redis")
            .then_some(())
    });
    redis.cli(&["CLIENT", "UNPAUSE"]);
    // The scrape that failed has seen the loss.
    let names = [name[0], REGRESSIONS];
    assert_eq!(served(&exporter, &names), all(&[100.0, 1.0]));
    assert_eq!(lost_count(&redis, "metrics:jobs", "k=\"a\""), "10");
    assert_eq!(served(&exporter, &names), all(&[100.0, 1.0]));
}

#[test]
fn what_two_families_of_a_hash_lost_is_added_once() {
    let redis = redis_with_families();
    let same = r#"{"type":"counter","key":"metrics:jobs"}"#;
    redis.cli(&["HSET", "metrics:families", "old_jobs_total", same]);
    redis.cli(&["HSET", "metrics:state", "epoch", "e"]);
    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join("state").display().to_string();
    let with_file = [("EXPORTER_STATE_FILE", file.as_str())];
    let mut exporter = Exporter::start_with(redis.port(), &with_file);
    let names = ["jobs_total{k=\"a\"}", "old_jobs_total{k=\"a\"}"];
    assert_eq!(served(&exporter, &names), all(&[100.0, 100.0]));
    add(&redis, "metrics:jobs", "k=\"a\"", "-10");
    assert_eq!(served(&exporter, &names), all(&[100.0, 100.0]));
    assert_eq!(lost_count(&redis, "metrics:jobs", "k=\"a\""), "10");
    exporter.kill_and_restart();
    assert_eq!(served(&exporter, &names), all(&[100.0, 100.0]));
}

#[test]
fn a_family_does_not_step_back_without_one_of_its_layouts() {
    const OTHER: &str = r#"{"type":"counter","key":"metrics:jobs@b2"}"#;
    let redis = redis_with_families();
    redis.cli(&["HSET", "metrics:families", "jobs_total@b2", OTHER]);
    redis.cli(&["HSET", "metrics:jobs@b2", "k=\"a\"", "50"]);
    let exporter = Exporter::start(redis.port());
    let name = ["jobs_total{k=\"a\"}"];
    assert_eq!(served(&exporter, &name), all(&[150.0]));
    // Its key cannot be read.
    redis.cli(&["RENAME", "metrics:jobs@b2", "elsewhere"]);
    redis.cli(&["SET", "metrics:jobs@b2", "no hash"]);
    add(&redis, "metrics:jobs", "k=\"a\"", "1");
    assert_eq!(served(&exporter, &name), all(&[151.0]));
    redis.cli(&["RENAME", "elsewhere", "metrics:jobs@b2"]);
    assert_eq!(served(&exporter, &name), all(&[151.0]));
    // A failover to a replica that had not received it.
    redis.cli(&["HDEL", "metrics:families", "jobs_total@b2"]);
    redis.cli(&["DEL", "metrics:jobs@b2"]);
    assert_eq!(served(&exporter, &name), all(&[151.0]));
    redis.cli(&["HSET", "metrics:families", "jobs_total@b2", OTHER]);
    add(&redis, "metrics:jobs@b2", "k=\"a\"", "3");
    assert_eq!(served(&exporter, &name), all(&[151.0]));
    add(&redis, "metrics:jobs@b2", "k=\"a\"", "3");
    assert_eq!(served(&exporter, &name), all(&[154.0]));
    // Where none can be read, there is no family.
    for key in ["metrics:jobs", "metrics:jobs@b2"] {
        redis.cli(&["DEL", key]);
        redis.cli(&["SET", key, "no hash"]);
    }
    assert_eq!(served(&exporter, &name), [None]);
}

/// A Redis with the policy `always`: with another one, it may reply before it has written
/// to its file, and [`PowerCut::sync`] would not copy everything that it replied to.
fn redis_with_a_file() -> Redis {
    let redis = Redis::start_with(RedisOptions::new().append_only("always"));
    write_families(&redis);
    redis
}

/// A copy of the files that survive a power cut.
struct PowerCut(TempDir);

impl PowerCut {
    /// Everything that is stored until now survives.
    fn sync(redis: &Redis) -> Self {
        let synced = tempfile::tempdir().expect("a directory");
        copy_tree(redis.folder(), synced.path()).expect("copied");
        Self(synced)
    }

    /// Kills Redis, and restarts it with what survives.
    fn strike(self, redis: &mut Redis) {
        redis.kill();
        std::fs::remove_dir_all(redis.folder()).expect("removed");
        std::fs::create_dir(redis.folder()).expect("created");
        copy_tree(self.0.path(), redis.folder()).expect("copied");
        redis.restart().expect("it restarts");
    }
}

#[test]
fn no_series_steps_back_after_a_power_cut() {
    let mut redis = redis_with_a_file();
    let [exporter, other] = [(); 2].map(|()| Exporter::start(redis.port()));
    let names = ["jobs_total{k=\"a\"}", "job_seconds_bucket{le=\"1.0\"}"];
    assert_eq!(served(&exporter, &names), all(&[100.0, 50.0]));
    let cut = PowerCut::sync(&redis);
    add(&redis, "metrics:jobs", "k=\"a\"", "1000");
    add(&redis, "metrics:time", "|1", "1000");
    for exporter in [&exporter, &other] {
        assert_eq!(served(exporter, &names), all(&[1100.0, 1050.0]));
    }
    cut.strike(&mut redis);
    add(&redis, "metrics:jobs", "k=\"a\"", "2");
    // One that restarts before the next scrape gets the lost counts of the other.
    other.stop();
    // Not 1102: increments between the loss and this scrape cannot be told from ones
    // that were not lost.
    assert_eq!(served(&exporter, &names), all(&[1100.0, 1050.0]));
    add(&redis, "metrics:jobs", "k=\"a\"", "3");
    for exporter in [exporter, Exporter::start(redis.port())] {
        assert_eq!(served(&exporter, &names), all(&[1103.0, 1050.0]));
    }
}

#[test]
fn an_exporter_that_stops_with_redis_restores_its_marks_from_the_file() {
    let mut redis = redis_with_a_file();
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("state.json").display().to_string();
    let with_file = [("EXPORTER_STATE_FILE", file.as_str())];
    let names = [
        "jobs_total{k=\"a\"}",
        "job_seconds_bucket{le=\"1.0\"}",
        "job_seconds_sum",
    ];
    let exporter = Exporter::start_with(redis.port(), &with_file);
    let begin = all(&[100.0, 50.0, 90.0]);
    assert_eq!(served(&exporter, &names), begin);
    let cut = PowerCut::sync(&redis);
    add(&redis, "metrics:jobs", "k=\"a\"", "1000");
    add(&redis, "metrics:time", "|1", "1000");
    add(&redis, "metrics:time", "|sum", "7");
    let highest = all(&[1100.0, 1050.0, 97.0]);
    assert_eq!(served(&exporter, &names), highest);
    let port = redis.port();
    // Killed, not stopped.
    drop(exporter);
    cut.strike(&mut redis);
    let names = [&names[..], &[REGRESSIONS]].concat();
    let exporter = Exporter::start_with(port, &with_file);
    let regressions = |expected: f64| [&highest[..], &[Some(expected)]].concat();
    assert_eq!(served(&exporter, &names), regressions(2.0));
    // From now on, Redis has the lost counts.
    assert_eq!(served(&Exporter::start(port), &names), regressions(0.0));
    // Another store starts over.
    drop(exporter);
    redis.cli(&["FLUSHALL"]);
    write_families(&redis);
    let exporter = Exporter::start_with(port, &with_file);
    let anew = [&begin[..], &[Some(0.0)]].concat();
    assert_eq!(served(&exporter, &names), anew);
}

#[test]
fn an_unusable_state_file_is_only_logged() {
    let redis = redis_with_families();
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name).display().to_string();
    let (corrupt, nowhere) = (path("corrupt"), path("no/where"));
    std::fs::write(&corrupt, "{\"epoch\":\"e\",").expect("written");
    for (file, said) in [
        (&corrupt, "is not a state file"),
        (&nowhere, "cannot save the served values: cannot write"),
    ] {
        let options = [("EXPORTER_STATE_FILE", file.as_str())];
        let exporter = Exporter::start_with(redis.port(), &options);
        for jobs in ["1", "1"] {
            add(&redis, "metrics:jobs", "k=\"b\"", jobs);
            assert_eq!(sample(&exporter.metrics(), UP), Some(1.0));
        }
        let log = exporter.stop();
        assert_eq!(log.matches(said).count(), 1, "{log}");
    }
    let written = std::fs::read_to_string(&corrupt).expect("it is there");
    assert!(written.contains("jobs_total"), "{written}");
}

#[test]
fn a_loss_that_two_exporters_could_not_record_is_recorded_once() {
    let redis = redis_with_families();
    let exporters = [(); 2].map(|()| Exporter::start(redis.port()));
    let names = ["jobs_total{k=\"a\"}"];
    for exporter in &exporters {
        assert_eq!(served(exporter, &names), all(&[100.0]));
    }
    add(&redis, "metrics:jobs", "k=\"a\"", "-40");
    redis.cli(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    for exporter in &exporters {
        assert_eq!(served(exporter, &names), all(&[100.0]));
    }
    redis.cli(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
    for _scrape in 0..2 {
        for exporter in &exporters {
            assert_eq!(served(exporter, &names), all(&[100.0]));
        }
    }
    assert_eq!(lost_count(&redis, "metrics:jobs", "k=\"a\""), "40");
}
