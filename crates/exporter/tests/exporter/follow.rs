//! Replaying logs as they grow: `follow`, and `--follow` beside serving.

use std::{
    fs::{self, File},
    io::Write as _,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Stdio,
};

use functional_scaffold_protocol::{
    batch::{Batch, LoggedBatch},
    calls::DEFAULT_PREFIX,
};
use functional_scaffold_testkit::{
    http::Response,
    process::{Process, Signal},
    redis::RedisOptions,
};
use tempfile::TempDir;

use crate::{
    replay::{KEY, ago, batch, jobs, line, register, start_redis, unsigned_line},
    support::{
        Exporter, PATIENCE, Redis, exporter_command, free_port, request, sample, text, wait_for,
    },
};

/// Logs, and where their positions are remembered.
struct Logs(TempDir);

impl Logs {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a directory");
        fs::create_dir(folder.path().join("logs")).expect("a directory");
        Self(folder)
    }

    fn directory(&self) -> PathBuf {
        self.0.path().join("logs")
    }

    fn log(&self, name: &str) -> PathBuf {
        self.directory().join(name)
    }

    fn positions(&self) -> PathBuf {
        self.0.path().join("positions")
    }

    fn append(&self, name: &str, text: &str) {
        append(&self.log(name), text);
    }

    fn rename(&self, from: &str, to: &str) {
        fs::rename(self.log(from), self.log(to)).expect("renamed");
    }

    /// An exporter that follows what is at this path in the directory.
    fn exporter(&self, redis_port: u16, path: &str) -> Exporter {
        let path = self.directory().join(path);
        let options = [
            ("EXPORTER_FOLLOW", path.to_str().expect("UTF-8")),
            (
                "EXPORTER_POSITIONS",
                self.positions().to_str().expect("UTF-8"),
            ),
            ("REPLAY_KEY", KEY),
        ]
        .map(|(name, value)| (name, value.to_owned()));
        let options = options
            .each_ref()
            .map(|(name, value)| (*name, value.as_str()));
        Exporter::start_with(redis_port, &options)
    }

    /// The command `follow` for the whole directory.
    fn follower(&self, redis_port: u16) -> Process {
        self.follower_with(redis_port, &[])
    }

    fn follower_with(&self, redis_port: u16, options: &[&str]) -> Process {
        let mut command = exporter_command();
        command
            .env("REDIS_PORT", redis_port.to_string())
            .env("REPLAY_KEY", KEY)
            .args(["follow", "--positions"])
            .args([self.positions(), self.directory()])
            .args(options);
        Process::start(&mut command).expect("it starts")
    }
}

/// The command `follow` while it serves.
struct ServingFollower {
    process: Process,
    address: SocketAddr,
}

impl ServingFollower {
    fn start(logs: &Logs, redis_port: u16, options: &[&str]) -> Self {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let listen = address.to_string();
        let options = [&["--listen", &listen], options].concat();
        let mut process = logs.follower_with(redis_port, &options);
        process
            .wait_for_output("serving http://", PATIENCE)
            .expect("it serves");
        Self { process, address }
    }

    fn get(&self, path: &str, headers: &[(&str, &str)]) -> Response {
        request(self.address, &format!("GET {path}"), headers)
    }

    fn sample(&self, name: &str) -> Option<f64> {
        let response = self.get("/metrics", &[]);
        sample(&text(&response), &format!("functional_scaffold_{name}"))
    }
}

fn append(path: &Path, text: &str) {
    let file = File::options().create(true).append(true).open(path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    written.expect("written");
}

/// A signed line of a batch that adds one.
fn one(number: u64) -> String {
    line(&ago(1), &batch(number, 1))
}

fn batches(exporter: &Exporter, outcome: &str) -> Option<f64> {
    let name = format!("functional_scaffold_follow_batches_total{{outcome=\"{outcome}\"}}");
    sample(&exporter.metrics(), &name)
}

fn lag(exporter: &Exporter) -> Option<f64> {
    sample(&exporter.metrics(), "functional_scaffold_follow_lag_bytes")
}

/// Waits until everything is read, and this many batches were applied.
fn wait_for_batches(exporter: &Exporter, applied: u64) {
    wait_for(&format!("{applied} batches"), || {
        let is_done = batches(exporter, "applied") == Some(applied as f64);
        (is_done && lag(exporter) == Some(0.0)).then_some(())
    });
}

#[test]
fn lines_of_the_app_of_docker_and_of_kubernetes_are_stored() {
    let redis = start_redis();
    let logs = Logs::new();
    let docker = |line: &str| {
        let text = serde_json::to_string(line).expect("a text");
        format!(
            "{{\"log\":{text},\"stream\":\"stderr\",\"time\":\"{}\"}}\n",
            ago(1)
        )
    };
    let cri = |tag: &str, line: &str| format!("{} stderr {tag} {}\n", ago(1), line.trim_end());
    logs.append("app.log", &format!("Serving\n{}{}", one(1), one(2)));
    logs.append("docker-json.log", &(docker("text\n") + &docker(&one(3))));
    let pod = logs.log("pods/ns_app_uid/app");
    fs::create_dir_all(&pod).expect("a directory");
    let fourth = one(4);
    let (begin, end) = fourth.split_at(100);
    let lines = [
        cri("F", "text"),
        cri("P", begin),
        cri("F", end),
        cri("F", &one(5)),
    ];
    append(&pod.join("0.log"), &lines.concat());
    // Whatever others write is left out, and what is compressed not read.
    let forged = unsigned_line(&ago(1), &batch(6, 100));
    logs.append(
        "other.log",
        &(forged.clone() + &docker(&forged) + &cri("F", &forged)),
    );
    logs.append("other.log", &"x".repeat(300_000));
    logs.append("other.log", "\n");
    logs.append("app.log.2.gz", &one(7));
    let exporter = logs.exporter(redis.port(), "");
    wait_for_batches(&exporter, 5);
    assert_eq!(jobs(&redis), "5");
    let text = exporter.metrics();
    let value = |name: &str| sample(&text, &format!("functional_scaffold_follow_{name}"));
    assert_eq!(value("up"), Some(1.0), "{text}");
    assert_eq!(value("files"), Some(4.0), "{text}");
    assert_eq!(
        value("lines_refused_total{reason=\"refused\"}"),
        Some(3.0),
        "{text}"
    );
    assert_eq!(
        value("lines_refused_total{reason=\"unreadable\"}"),
        Some(1.0),
        "{text}"
    );
    let log = exporter.stop();
    assert!(log.contains("other.log at byte 0: refused"), "{log}");
}

#[test]
fn a_log_is_followed_across_renaming_and_truncation() {
    let redis = start_redis();
    // A single file brings its rotated ones, a directory has them.
    for path in ["app.log", ""] {
        redis.cli(&["FLUSHALL"]);
        register(&redis, DEFAULT_PREFIX);
        let logs = Logs::new();
        logs.append("app.log", &(one(1) + &one(2)));
        let exporter = logs.exporter(redis.port(), path);
        wait_for_batches(&exporter, 2);
        // The writer still has the old file for a while.
        logs.rename("app.log", "app.log.1");
        logs.append("app.log", &one(3));
        logs.append("app.log.1", &one(4));
        wait_for_batches(&exporter, 4);
        // What was not read yet is in the copy, and what was read is not read again.
        logs.append("app.log", &one(5));
        fs::copy(logs.log("app.log"), logs.log("app.log.2")).expect("copied");
        File::options()
            .write(true)
            .truncate(true)
            .open(logs.log("app.log"))
            .expect("truncated");
        logs.append("app.log", &one(6));
        wait_for_batches(&exporter, 6);
        // One that is longer than before when it is looked at again.
        let long = (7..12).map(one).collect::<String>();
        fs::write(logs.log("app.log"), long).expect("written");
        wait_for_batches(&exporter, 11);
        assert_eq!(batches(&exporter, "already_applied"), Some(0.0), "{path}");
        assert_eq!(jobs(&redis), "11");
    }
}

#[test]
fn positions_are_remembered_and_those_of_files_that_are_gone_dropped() {
    let redis = start_redis();
    let logs = Logs::new();
    logs.append("a.log", &one(1));
    logs.append("b.log", &one(2));
    let wait_for_positions = |bytes: &[usize]| {
        wait_for("positions", || {
            let text = fs::read_to_string(logs.positions()).ok()?;
            let saved: Vec<serde_json::Value> = serde_json::from_str(&text).expect("JSON");
            let mut saved: Vec<_> = saved.iter().map(|one| one["position"].as_u64()).collect();
            saved.sort_unstable();
            let bytes: Vec<_> = bytes.iter().map(|bytes| Some(*bytes as u64)).collect();
            (saved == bytes).then_some(())
        });
    };
    let length = one(1).len();
    let mut exporter = logs.exporter(redis.port(), "");
    wait_for_positions(&[length, length]);
    exporter.kill_and_restart();
    wait_for("a scan", || (lag(&exporter) == Some(0.0)).then_some(()));
    fs::remove_file(logs.log("b.log")).expect("removed");
    exporter.kill_and_restart();
    logs.append("a.log", &one(3));
    wait_for_batches(&exporter, 1);
    wait_for_positions(&[2 * length]);
    assert_eq!(batches(&exporter, "already_applied"), Some(0.0));
    assert_eq!(jobs(&redis), "3");
    // Without them, everything is read again, and counted once.
    fs::write(logs.positions(), "[{").expect("written");
    exporter.kill_and_restart();
    wait_for("both batches", || {
        (batches(&exporter, "already_applied") == Some(2.0)).then_some(())
    });
    assert_eq!(jobs(&redis), "3");
    let log = exporter.stop();
    assert!(log.contains("so that all logs are read again"), "{log}");
}

/// Redis is down, the follower killed, the log rotated: a batch that was read and not
/// stored must be read again.
#[test]
fn a_follower_that_is_killed_while_redis_is_down_loses_nothing() {
    let mut redis = Redis::start_with(RedisOptions::new().append_only("always"));
    register(&redis, DEFAULT_PREFIX);
    let logs = Logs::new();
    logs.append("app.log", &one(1));
    let mut follower = logs.follower(redis.port());
    wait_for("first batch", || (jobs(&redis) == "1").then_some(()));
    wait_for("positions", || {
        fs::read(logs.positions())
            .ok()
            .filter(|text| text.len() > 2)
    });
    redis.kill();
    // Parts of one batch, on both sides of a rotation.
    let mut large = batch(3, 1);
    large.increments.inc("metrics:good", &"x".repeat(600), 1);
    large.increments.inc("metrics:good", &"y".repeat(600), 1);
    let parts = LoggedBatch {
        batch: large,
        group: None,
        shard: None,
    }
    .into_parts(1_000);
    assert!(parts.len() > 1);
    let parts: Vec<_> = parts.iter().map(|part| line(&ago(1), part)).collect();
    logs.append("app.log", &(one(2) + &parts[0]));
    follower
        .wait_for_output("trying again until it works", PATIENCE)
        .expect("it waits");
    logs.rename("app.log", "app.log.1");
    logs.append("app.log", &(parts[1..].concat() + &one(4)));
    follower.kill();
    logs.rename("app.log.1", "app.log.2");
    logs.rename("app.log", "app.log.1");
    logs.append("app.log", &one(5));
    let _follower = logs.follower(redis.port());
    redis.restart().expect("it starts");
    wait_for("every batch", || (jobs(&redis) == "5").then_some(()));
}

/// The files of a container are gone after it: whatever is in them is read first.
#[test]
fn a_line_from_right_before_the_end_is_counted() {
    let redis = start_redis();
    let logs = Logs::new();
    logs.append("app.log", &one(1));
    let mut follower = logs.follower(redis.port());
    wait_for("first batch", || (jobs(&redis) == "1").then_some(()));
    logs.append("app.log", &one(2));
    follower.signal(Signal::TERM).expect("it runs");
    let status = follower.wait(PATIENCE).expect("it ends");
    assert!(status.success());
    assert_eq!(jobs(&redis), "2");
    let exporter = logs.exporter(redis.port(), "");
    wait_for("lag", || (lag(&exporter) == Some(0.0)).then_some(()));
    logs.append("app.log", &one(3));
    exporter.stop();
    assert_eq!(jobs(&redis), "3");
}

/// What was read of a log waits for Redis. Its place in the file is another's by then.
#[test]
fn a_log_that_is_truncated_during_an_outage_is_read_from_its_beginning() {
    let mut redis = Redis::start_with(RedisOptions::new().append_only("always"));
    register(&redis, DEFAULT_PREFIX);
    redis.kill();
    let logs = Logs::new();
    logs.append("app.log", &one(1));
    let mut follower = logs.follower(redis.port());
    follower
        .wait_for_output("trying again until it works", PATIENCE)
        .expect("it waits");
    // Longer than before at once, so that no look finds it shorter.
    let longer: String = [2, 3, 4].map(one).concat();
    fs::write(logs.log("app.log"), longer).expect("written");
    redis.restart().expect("it starts");
    wait_for("every batch", || (jobs(&redis) == "4").then_some(()));
}

/// Redis lost its data, and with it the registrations that only new instances repeat.
#[test]
fn a_batch_of_an_apps_own_family_waits_until_the_family_is_registered_again() {
    const KEY: &str = "metrics:custom:visits_total";
    let redis = Redis::start();
    let logs = Logs::new();
    let mut own = batch(1, 0);
    own.increments = Batch::default();
    own.increments.inc(KEY, "", 3);
    logs.append("app.log", &line(&ago(1), &own));
    let mut follower = logs.follower(redis.port());
    follower
        .wait_for_output("waiting 300s for an instance to register it", PATIENCE)
        .expect("it waits");
    let family = format!("{{\"type\":\"counter\",\"key\":\"{KEY}\"}}");
    redis.cli(&["HSET", "metrics:families", "visits_total", &family]);
    wait_for("the batch", || {
        (redis.cli(&["HGET", KEY, ""]).trim() == "3").then_some(())
    });
}

/// An algorithm writes to the same file, without a line break if it likes, so that the next
/// line is the end of its own.
#[test]
fn what_looks_like_a_part_of_a_line_withholds_no_batch() {
    let redis = start_redis();
    let logs = Logs::new();
    let part = format!("{} stderr P ", ago(1));
    let docker = "{\"log\":\"x\",\"stream\":\"stderr\"}";
    let long = format!("{part}{}\n", "x".repeat(200_000));
    for begun in [
        part.clone(),
        format!("{part}\n{part}x\n{part}"),
        format!("{docker}\n{part}"),
        long.repeat(2) + &part,
    ] {
        let number = begun.len() as u64;
        logs.append("app.log", &format!("{begun}{}plain\n", one(number)));
    }
    let exporter = logs.exporter(redis.port(), "");
    wait_for_batches(&exporter, 4);
    assert_eq!(jobs(&redis), "4");
    assert_eq!(batches(&exporter, "already_applied"), Some(0.0));
}

/// Whoever can write to the log can repeat what is in it.
#[test]
fn an_old_line_that_is_repeated_holds_up_no_other() {
    const KEY: &str = "metrics:custom:visits_total";
    let redis = start_redis();
    let own = |number: u64| {
        let mut own = batch(number, 0);
        own.increments = Batch::default();
        own.increments.inc(KEY, "", 1);
        own
    };
    // Its family is removed after it was stored.
    let family = format!("{{\"type\":\"counter\",\"key\":\"{KEY}\"}}");
    redis.cli(&["HSET", "metrics:families", "visits_total", &family]);
    let logs = Logs::new();
    logs.append("app.log", &line(&ago(1), &own(1)));
    wait_for_batches(&logs.exporter(redis.port(), ""), 1);
    redis.cli(&["HDEL", "metrics:families", "visits_total"]);

    let mut sent = own(2);
    sent.frozen_ms = Some(redis.lease_time() - 7_200_000);
    let lines = [
        line(&ago(1), &own(1)),
        line(&ago(1), &sent),
        line(&ago(7200), &own(3)),
        one(4),
    ];
    logs.append("app.log", &lines.concat());
    let exporter = logs.exporter(redis.port(), "");
    wait_for_batches(&exporter, 1);
    assert_eq!(jobs(&redis), "1");
    assert_eq!(batches(&exporter, "too_old"), Some(2.0));
    let log = exporter.stop();
    assert!(!log.contains("waiting 300s"), "{log}");
}

#[test]
fn several_followers_of_the_same_logs_store_each_batch_once() {
    let redis = start_redis();
    let logs = Logs::new();
    let followers = [0, 1].map(|_| logs.exporter(redis.port(), ""));
    for number in 1..=200 {
        logs.append(&format!("{}.log", number % 3), &one(number));
    }
    for follower in &followers {
        wait_for("every batch", || {
            let sum = batches(follower, "applied")? + batches(follower, "already_applied")?;
            (sum == 200.0).then_some(())
        });
    }
    let applied: f64 = followers
        .iter()
        .filter_map(|follower| batches(follower, "applied"))
        .sum();
    assert_eq!(applied, 200.0);
    assert_eq!(jobs(&redis), "200");
}

#[test]
fn a_follower_that_cannot_work_does_not_keep_the_exporter_from_serving() {
    let redis = start_redis();
    let up = |exporter: &Exporter| sample(&exporter.metrics(), "functional_scaffold_follow_up");
    let logs = Logs::new();
    let positions = logs.positions();
    let positions = positions.to_str().expect("UTF-8");
    let no_key = [
        ("EXPORTER_FOLLOW", "/nowhere/logs"),
        ("EXPORTER_POSITIONS", positions),
    ];
    let exporter = Exporter::start_with(redis.port(), &no_key);
    assert_eq!(up(&exporter), Some(0.0));
    assert!(
        exporter
            .log()
            .contains("no log is followed: replaying needs the key")
    );
    let nowhere = logs.exporter(redis.port(), "missing/app.log");
    wait_for("error", || {
        nowhere.log().contains("cannot list").then_some(())
    });
    assert_eq!(up(&nowhere), Some(0.0));
    fs::create_dir(logs.log("missing")).expect("a directory");
    wait_for("recovery", || (up(&nowhere) == Some(1.0)).then_some(()));
    // Nobody waits for its batches either.
    let without_redis = logs.exporter(free_port(), "");
    logs.append("app.log", &one(1));
    wait_for("lag", || {
        (lag(&without_redis) == Some(one(1).len() as f64)).then_some(())
    });
    wait_for("warning", || {
        (up(&without_redis) == Some(0.0)).then_some(())
    });
    assert_eq!(without_redis.get("/healthz").status, 200);
    // It would try to store the batch before it ends.
    without_redis.signal(Signal::KILL);
    let text = Exporter::start(redis.port()).metrics();
    assert!(!text.contains("functional_scaffold_follow"), "{text}");
}

#[test]
fn the_file_of_positions_is_no_log_whatever_it_is_called() {
    let redis = start_redis();
    let logs = Logs::new();
    logs.append("app.log", &one(1));
    let positions = logs.log("../logs/positions");
    let options = [
        ("EXPORTER_FOLLOW", logs.directory()),
        ("EXPORTER_POSITIONS", positions.clone()),
        ("REPLAY_KEY", PathBuf::from(KEY)),
    ];
    let options = options
        .each_ref()
        .map(|(name, value)| (*name, value.to_str().expect("UTF-8")));
    let exporter = Exporter::start_with(redis.port(), &options);
    wait_for("positions", || positions.exists().then_some(()));
    // A later look, which finds both files.
    logs.append("app.log", &one(2));
    wait_for_batches(&exporter, 2);
    let files = sample(&exporter.metrics(), "functional_scaffold_follow_files");
    assert_eq!(files, Some(1.0));
}

/// The chart runs it beside the app. An alert must see that it stops, lags, or leaves
/// lines out.
#[test]
fn the_command_serves_metrics_about_following_and_nothing_else() {
    let mut redis = Redis::start_with(RedisOptions::new().append_only("always"));
    register(&redis, DEFAULT_PREFIX);
    let logs = Logs::new();
    logs.append(
        "app.log",
        &(one(1) + &unsigned_line(&ago(1), &batch(2, 100))),
    );
    let mut follower = ServingFollower::start(&logs, redis.port(), &[]);
    wait_for("both lines", || {
        let applied = follower.sample("follow_batches_total{outcome=\"applied\"}");
        let refused = follower.sample("follow_lines_refused_total{reason=\"refused\"}");
        let is_done = (applied, refused) == (Some(1.0), Some(1.0));
        (is_done && follower.sample("follow_lag_bytes") == Some(0.0)).then_some(())
    });
    assert_eq!(follower.sample("follow_up"), Some(1.0));
    assert_eq!(follower.get("/readyz", &[]).status, 200);
    // As the serving exporter has it, in either format.
    for accept in ["text/plain", "application/openmetrics-text"] {
        let response = follower.get("/metrics", &[("accept", accept)]);
        assert!(
            response
                .header("content-type")
                .is_some_and(|it| it.contains(accept))
        );
        assert!(response.header("x-content-type-options").is_some());
        let text = text(&response);
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let mut others = samples.filter(|line| !line.starts_with("functional_scaffold_follow_"));
        let version = others.next();
        assert!(version.is_some_and(|it| it.starts_with("functional_scaffold_build_info{")));
        assert_eq!(others.next(), None);
    }
    assert_eq!(follower.get("/", &[]).status, 404);

    redis.kill();
    logs.append("app.log", &one(3));
    wait_for("lag", || {
        let lag = follower.sample("follow_lag_bytes");
        let is_behind = lag == Some(one(3).len() as f64);
        (is_behind && follower.sample("follow_up") == Some(0.0)).then_some(())
    });
    // A restart would not help.
    assert_eq!(follower.get("/healthz", &[]).status, 200);
    assert_eq!(follower.get("/readyz", &[]).status, 503);
    redis.restart().expect("it starts");
    wait_for("recovery", || {
        (follower.sample("follow_up") == Some(1.0)).then_some(())
    });
    follower.process.signal(Signal::TERM).expect("it runs");
    let status = follower.process.wait(PATIENCE).expect("it ends");
    assert!(status.success());
    assert_eq!(jobs(&redis), "2");
}

#[test]
fn the_command_serves_under_the_same_protection_as_the_exporter() {
    let redis = start_redis();
    let logs = Logs::new();
    let plain = ServingFollower::start(&logs, redis.port(), &[]);
    let rebound = [("host", "evil.example")];
    assert_eq!(plain.get("/metrics", &rebound).status, 421);
    assert_eq!(plain.get("/metrics", &[]).status, 200);
    drop(plain);

    let token = logs.0.path().join("token");
    fs::write(&token, "t0ken\n").expect("written");
    let token = token.to_str().expect("UTF-8");
    let guarded = ServingFollower::start(&logs, redis.port(), &["--auth-bearer-file", token]);
    assert_eq!(guarded.get("/metrics", &[]).status, 401);
    let authorized = [("authorization", "Bearer t0ken")];
    assert_eq!(guarded.get("/metrics", &authorized).status, 200);
    assert_eq!(guarded.get("/healthz", &[]).status, 200);
    drop(guarded);

    // Also before the command, where it must not be ignored.
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let mut command = exporter_command();
    command
        .env("REDIS_PORT", redis.port().to_string())
        .env("EXPORTER_LISTEN", address.to_string())
        .env("REPLAY_KEY", KEY)
        .args(["--auth-bearer-file", token, "follow", "--positions"])
        .args([logs.positions(), logs.directory()]);
    let mut before = Process::start(&mut command).expect("it starts");
    before
        .wait_for_output("serving http://", PATIENCE)
        .expect("it serves");
    assert_eq!(request(address, "GET /metrics", &[]).status, 401);
}

#[test]
fn following_needs_positions_and_a_key() {
    let run = |arguments: &[&str]| {
        let mut command = exporter_command();
        let output = command
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("it ends");
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = run(&["follow", "--positions", "p", "app.log"]);
    assert!(said.contains("replaying needs the key"), "{said}");
    let said = run(&["follow", "app.log"]);
    assert!(said.contains("--positions"), "{said}");
    let said = run(&["--follow", "app.log"]);
    assert!(said.contains("--follow needs --positions"), "{said}");
}
