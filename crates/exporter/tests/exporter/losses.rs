//! What is served when Redis lost writes, or was wiped.

use std::{process::Command, thread};

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

pub(crate) fn offset(redis: &Redis, key: &str, field: &str) -> String {
    let key = format!("metrics:lost:{key}");
    redis.cli(&["HGET", &key, field]).trim().to_owned()
}

#[test]
fn what_was_lost_stays_served_after_a_restart_and_by_another_exporter() {
    let redis = redis_with_families();
    let exporters = [(); 2].map(|()| Exporter::start(redis.port));
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

#[test]
fn what_redis_gives_no_answer_for_is_found_out_anew() {
    let redis = redis_with_families();
    redis.cli(&["HSET", "metrics:state", "epoch", "e"]);
    // It may not settle leases, so that adding offsets is its first write.
    let rights = "on >s3cret +@all %R~metrics:* ~metrics:state ~metrics:lost:*";
    let user: Vec<_> = ["ACL", "SETUSER", "reader"]
        .into_iter()
        .chain(rights.split(' '))
        .collect();
    redis.cli(&user);
    let impatient = [
        ("REDIS_TIMEOUT_MS", "200"),
        ("REDIS_USERNAME", "reader"),
        ("REDIS_PASSWORD", "s3cret"),
    ];
    let exporter = Exporter::start_with(redis.port, &impatient);
    let name = ["jobs_total{k=\"a\"}"];
    assert_eq!(served(&exporter, &name), all(&[100.0]));
    add(&redis, "metrics:jobs", "k=\"a\"", "-10");
    // It answers what only reads.
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
    assert_eq!(served(&exporter, &name), all(&[100.0]));
    assert_eq!(offset(&redis, "metrics:jobs", "k=\"a\""), "10");
}

/// A Redis with an append-only file, and what that was a while before.
struct PowerCut {
    directory: TempDir,
    port: u16,
}

impl PowerCut {
    fn start() -> (Self, Redis) {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(directory.path().join("data")).expect("a directory");
        let mut cut = Self { directory, port: 0 };
        let options = cut.options();
        let redis = Redis::start_with(&options.each_ref().map(String::as_str));
        cut.port = redis.port;
        write_families(&redis);
        (cut, redis)
    }

    /// With a policy other than `always` Redis may answer before it has written
    /// to its file, while an earlier write is being flushed to the disk; then
    /// [`Self::sync`] would not copy all that was answered.
    fn options(&self) -> [String; 6] {
        let data = self.path("data");
        [
            "--dir",
            &data,
            "--appendonly",
            "yes",
            "--appendfsync",
            "always",
        ]
        .map(str::to_owned)
    }

    fn path(&self, name: &str) -> String {
        let path = self.directory.path().join(name);
        path.into_os_string().into_string().expect("UTF-8")
    }

    /// What is stored until now survives.
    fn sync(&self) {
        copy(&self.path("data"), &self.path("synced"));
    }

    /// Redis is killed, and comes back with what survives.
    fn strike(&self, redis: Redis) -> Redis {
        drop(redis);
        std::fs::remove_dir_all(self.path("data")).expect("removed");
        copy(&self.path("synced"), &self.path("data"));
        let options = self.options();
        let options = options.each_ref().map(String::as_str);
        wait_for("Redis on the same port", || {
            Redis::start_on(self.port, &options)
        })
    }
}

fn copy(from: &str, to: &str) {
    let mut command = Command::new("cp");
    let copied = command.args(["-r", from, to]).status();
    assert!(copied.expect("cp runs").success(), "{from:?} to {to:?}");
}

#[test]
fn no_series_steps_back_after_a_power_cut() {
    let (cut, redis) = PowerCut::start();
    let [exporter, other] = [(); 2].map(|()| Exporter::start(redis.port));
    let names = ["jobs_total{k=\"a\"}", "job_seconds_bucket{le=\"1.0\"}"];
    assert_eq!(served(&exporter, &names), all(&[100.0, 50.0]));
    cut.sync();
    add(&redis, "metrics:jobs", "k=\"a\"", "1000");
    add(&redis, "metrics:time", "|1", "1000");
    for exporter in [&exporter, &other] {
        assert_eq!(served(exporter, &names), all(&[1100.0, 1050.0]));
    }
    let redis = cut.strike(redis);
    add(&redis, "metrics:jobs", "k=\"a\"", "2");
    // One that restarts before it has scraped again is told by the other.
    other.stop();
    // Not 1102: what came between the loss and this scrape cannot be told from
    // what was not lost.
    assert_eq!(served(&exporter, &names), all(&[1100.0, 1050.0]));
    add(&redis, "metrics:jobs", "k=\"a\"", "3");
    for exporter in [exporter, Exporter::start(redis.port)] {
        assert_eq!(served(&exporter, &names), all(&[1103.0, 1050.0]));
    }
}

#[test]
fn an_exporter_that_ends_with_redis_knows_from_its_file_what_it_served() {
    let (cut, redis) = PowerCut::start();
    let file = cut.path("state.json");
    let with_file = [("EXPORTER_STATE_FILE", file.as_str())];
    let names = [
        "jobs_total{k=\"a\"}",
        "job_seconds_bucket{le=\"1.0\"}",
        "job_seconds_sum",
    ];
    let exporter = Exporter::start_with(redis.port, &with_file);
    let begin = all(&[100.0, 50.0, 90.0]);
    assert_eq!(served(&exporter, &names), begin);
    cut.sync();
    add(&redis, "metrics:jobs", "k=\"a\"", "1000");
    add(&redis, "metrics:time", "|1", "1000");
    add(&redis, "metrics:time", "|sum", "7");
    let highest = all(&[1100.0, 1050.0, 97.0]);
    assert_eq!(served(&exporter, &names), highest);
    let port = redis.port;
    // Killed, not stopped.
    drop(exporter);
    let redis = cut.strike(redis);
    let names = [&names[..], &[REGRESSIONS]].concat();
    let exporter = Exporter::start_with(port, &with_file);
    let regressions = |expected: f64| [&highest[..], &[Some(expected)]].concat();
    assert_eq!(served(&exporter, &names), regressions(2.0));
    // From then on it is in Redis.
    assert_eq!(served(&Exporter::start(port), &names), regressions(0.0));
    // Another store is another story.
    drop(exporter);
    redis.cli(&["FLUSHALL"]);
    write_families(&redis);
    let exporter = Exporter::start_with(port, &with_file);
    let anew = [&begin[..], &[Some(0.0)]].concat();
    assert_eq!(served(&exporter, &names), anew);
}

#[test]
fn a_file_that_cannot_be_used_is_logged_and_nothing_else() {
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
        let exporter = Exporter::start_with(redis.port, &options);
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
