//! The command `replay`.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, SystemTime},
};

use functional_scaffold_protocol::{
    batch::{Batch, BatchId, LeasedExecution, LoggedBatch, SentBatch},
    calls::{DEFAULT_PREFIX, Script, apply_call, settle_call},
    catalog::{Catalog, ExecutionStatus, FinishedExecution},
    lease::Lease,
};

use serde::Serialize;

use functional_scaffold_testkit::redis::RedisOptions;

use crate::support::{Redis, exporter_command, free_port, program, wait_for};

const JOBS: &str = "metrics:jobs";

fn batch(sequence: u64, jobs: u64) -> SentBatch {
    let mut increments = Batch::default();
    increments.inc(JOBS, "k=\"a\"", jobs);
    SentBatch {
        id: BatchId {
            started_at: 1_700_000_000,
            // A writer takes a new nonce after a batch that was not stored.
            nonce: sequence,
            sequence,
        },
        increments,
        leased: Vec::new(),
    }
}

fn ago(seconds: u64) -> String {
    let time = SystemTime::now() - Duration::from_secs(seconds);
    humantime::format_rfc3339_millis(time).to_string()
}

/// A log line of the service.
fn line(time: &str, batch: &impl Serialize) -> String {
    let batch = serde_json::to_string(batch).expect("it serialises");
    let members = batch.strip_prefix('{').expect("an object");
    format!(
        "{{\"time\":\"{time}\",\"level\":\"error\",\"event\":\"batch_not_stored\",\"reason\":\"r\",{members}\n"
    )
}

fn command(redis_port: u16, arguments: &[&str]) -> Command {
    let mut command = exporter_command();
    command
        .env("REDIS_PORT", redis_port.to_string())
        .arg("replay")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn replay_command(mut command: Command, input: &str) -> Output {
    let mut child = command.spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("its input");
    let input = input.to_owned();
    let writing = thread::spawn(move || {
        // It may end before it has read everything.
        let _ = stdin.write_all(input.as_bytes());
    });
    let output = child.wait_with_output().expect("it ends");
    writing.join().expect("no panic");
    output
}

fn text(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr].concat();
    String::from_utf8_lossy(&both).into_owned()
}

/// Replays, and checks the summary: the batches that are applied, already applied, too
/// old, unreadable, incomplete and failed, and the refused increments.
fn check_with(command: Command, input: &str, report: [u64; 7]) -> String {
    let output = replay_command(command, input);
    let all = text(&output);
    let [
        applied,
        already,
        old,
        unreadable,
        incomplete,
        failed,
        refused,
    ] = report;
    let expected = format!(
        "applied: {applied}\nalready applied: {already}\ntoo old: {old}\nunreadable: {unreadable}\nincomplete: {incomplete}\nfailed: {failed}\nrefused increments: {refused}\n"
    );
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{all}");
    let stored = old + unreadable + incomplete + failed + refused == 0;
    assert_eq!(output.status.code(), Some(i32::from(!stored)), "{all}");
    all
}

fn check(redis: &Redis, arguments: &[&str], input: &str, report: [u64; 7]) -> String {
    check_with(command(redis.port(), arguments), input, report)
}

fn jobs(redis: &Redis) -> String {
    redis.cli(&["HGET", JOBS, "k=\"a\""]).trim().to_owned()
}

/// Replays one batch with a lease, as this Redis user.
pub(crate) fn replays_one_batch_as(redis: &Redis, user: &[(&str, &str)]) {
    let mut command = command(redis.port(), &[]);
    command.envs(user.iter().copied());
    let mut batch = batch(1, 5);
    batch.leased.push(LeasedExecution {
        lease: redis.lease("replayed", "a", 60_000),
        increments: Batch::default(),
    });
    check_with(command, &line(&ago(1), &batch), [1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(jobs(redis), "5");
}

#[test]
fn a_batch_is_applied_once_however_often_it_is_replayed() {
    let redis = Redis::start();
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("app.log");
    let lines = [
        "started\n".to_owned(),
        "{\"event\":\"flushed\",\"id\":\"x\"}\n".to_owned(),
        line(&ago(1), &batch(1, 2)),
        format!("app-1  | {}", line(&ago(3000), &batch(2, 3))),
        line(&ago(1), &batch(1, 2)),
    ];
    std::fs::write(&file, lines.concat()).expect("written");
    let path = file.to_str().expect("a UTF-8 path");
    check(&redis, &[path], "", [2, 1, 0, 0, 0, 0, 0]);
    assert_eq!(jobs(&redis), "5");
    check(&redis, &[path, path], "", [0, 6, 0, 0, 0, 0, 0]);
    check(&redis, &["-"], &lines.concat(), [0, 3, 0, 0, 0, 0, 0]);
    check(&redis, &["--force"], &lines.concat(), [0, 3, 0, 0, 0, 0, 0]);
    assert_eq!(jobs(&redis), "5");
    // The prefix applies to the protocol's keys, not to those in the line.
    let elsewhere = ["--metrics-prefix", "m2:"];
    check(
        &redis,
        &elsewhere,
        &line(&ago(1), &batch(1, 2)),
        [1, 0, 0, 0, 0, 0, 0],
    );
    assert_eq!(jobs(&redis), "7");
    assert_eq!(redis.cli(&["EXISTS", "m2:applied:1700000000"]).trim(), "1");
}

#[test]
fn an_old_batch_is_refused_without_force() {
    let redis = Redis::start();
    let ahead = humantime::format_rfc3339(SystemTime::now() + Duration::from_secs(600));
    let lines = [
        line(&ago(3601), &batch(1, 2)),
        line(&ahead.to_string(), &batch(2, 3)),
    ]
    .concat();
    let said = check(&redis, &[], &lines, [0, 0, 2, 0, 0, 0, 0]);
    assert!(said.contains("-:1: not replayed: logged 1h"), "{said}");
    assert_eq!(jobs(&redis), "");
    check(&redis, &["--force"], &lines, [2, 0, 0, 0, 0, 0, 0]);
    assert_eq!(jobs(&redis), "5");
}

#[test]
fn an_unreadable_batch_is_reported_and_the_others_are_applied() {
    let redis = Redis::start();
    let whole = line(&ago(1), &batch(1, 2));
    let lines = [
        &whole[..whole.len() - 4],
        "\n",
        &line("yesterday", &batch(2, 3)),
        &whole,
    ];
    let said = check(&redis, &[], &lines.concat(), [1, 0, 0, 2, 0, 0, 0]);
    assert!(said.contains("-:1: unreadable: "), "{said}");
    assert!(
        said.contains("-:2: unreadable: the line has no time"),
        "{said}"
    );
    assert_eq!(jobs(&redis), "2");
}

/// The lines of a batch in several parts, which counts 101 jobs.
fn lines_of_parts(time: &str, sequence: u64) -> Vec<String> {
    let mut large = batch(sequence, 1);
    for number in 0..100 {
        large.increments.inc(JOBS, &format!("k=\"{number}\""), 1);
    }
    let logged = LoggedBatch {
        batch: large,
        group: None,
    };
    let parts = logged.into_parts(1000);
    let lines: Vec<_> = parts.iter().map(|part| line(time, part)).collect();
    assert!(lines.len() > 2);
    lines
}

fn jobs_in_all(redis: &Redis) -> u64 {
    let counts = redis.cli(&["HVALS", JOBS]);
    counts
        .lines()
        .filter_map(|count| count.parse::<u64>().ok())
        .sum()
}

#[test]
fn a_batch_in_parts_is_applied_whole_in_any_order() {
    let redis = Redis::start();
    let directory = tempfile::tempdir().expect("a directory");
    let (first, second) = (lines_of_parts(&ago(1), 1), lines_of_parts(&ago(1), 2));
    // Two instances wrote at the same time, and the file was rotated meanwhile. The
    // later file comes first, and some of it was shipped twice.
    let mixed: Vec<_> = first
        .iter()
        .zip(&second)
        .flat_map(|(a, b)| [a, b])
        .collect();
    let (earlier, later) = mixed.split_at(mixed.len() / 2);
    let paths =
        [("app.log", later), ("app.log.1", earlier), ("again", later)].map(|(name, lines)| {
            let path = directory.path().join(name);
            let lines: Vec<_> = lines.iter().map(|line| line.as_str()).collect();
            std::fs::write(&path, lines.concat()).expect("written");
            path.to_str().expect("a UTF-8 path").to_owned()
        });
    let paths = paths.each_ref().map(String::as_str);
    check(&redis, &paths, "", [2, 0, 0, 0, 0, 0, 0]);
    assert_eq!(jobs_in_all(&redis), 202);
    check(&redis, &paths, "", [0, 2, 0, 0, 0, 0, 0]);
    assert_eq!(jobs_in_all(&redis), 202);
    // All parts have one id.
    let applied = redis.cli(&["HGETALL", "metrics:applied:1700000000"]);
    assert_eq!(applied.lines().count(), 4, "{applied}");
}

#[test]
fn an_incomplete_batch_is_not_applied() {
    let redis = Redis::start();
    let lines = lines_of_parts(&ago(1), 1);
    let (last, others) = lines.split_last().expect("several");
    let said = check(&redis, &[], &others.concat(), [0, 0, 0, 0, 1, 0, 0]);
    let of = lines.len();
    let named = format!("1 of the {of} parts of batch 1700000000-0000000000000001-1 are missing");
    assert!(said.contains(&named), "{said}");
    // A truncated line is a missing part, too.
    let torn = others.concat() + &last[..last.len() - 4];
    check(&redis, &[], &torn, [0, 0, 0, 1, 1, 0, 0]);
    // `--force` does not help.
    check(&redis, &["--force"], last, [0, 0, 0, 0, 1, 0, 0]);
    assert_eq!(redis.cli(&["DBSIZE"]).trim(), "0");
    check(&redis, &[], &lines.concat(), [1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(jobs_in_all(&redis), 101);
}

#[test]
fn a_late_result_is_counted_as_late_and_the_rest_is_applied() {
    let redis = Redis::start();
    redis.register("a");
    let catalog = Catalog::new(DEFAULT_PREFIX);
    let lease = redis.lease("l1", "a", 1);
    let other = redis.lease("l2", "a", 60_000);
    let leased = |lease: Lease| {
        let mut increments = Batch::default();
        let execution = FinishedExecution {
            algorithm: "a",
            status: ExecutionStatus::Success,
            duration_nanos: 1,
        };
        catalog.record_execution(&mut increments, &execution);
        LeasedExecution { lease, increments }
    };
    // A reader settles the expired lease.
    let keys = catalog.families().map(|family| family.key.as_str());
    let settle = settle_call(DEFAULT_PREFIX, 1, 0, keys, []);
    let executions = |status: &str| {
        let field = format!("algorithm=\"a\",status=\"{status}\"");
        redis.cli(&["HGET", "metrics:algorithm_counter", &field])
    };
    wait_for("settled lease", || {
        redis.call_script(&Script::SETTLE, &settle);
        (executions("crashed").trim() == "1").then_some(())
    });
    let mut late = batch(2, 4);
    late.leased = vec![leased(lease), leased(other)];
    let lines = line(&ago(1), &late);
    check(&redis, &[], &lines, [1, 0, 0, 0, 0, 0, 0]);
    check(&redis, &[], &lines, [0, 1, 0, 0, 0, 0, 0]);
    assert_eq!(jobs(&redis), "4");
    assert_eq!(executions("crashed").trim(), "1");
    assert_eq!(executions("success").trim(), "1");
    let late = redis.cli(&["HGET", "metrics:late_counter", "algorithm=\"a\""]);
    assert_eq!(late.trim(), "1");
    assert_eq!(redis.cli(&["ZCARD", "metrics:leases"]).trim(), "0");
    // With the id of the line.
    let applied = redis.cli(&["HGETALL", "metrics:applied:1700000000"]);
    assert_eq!(applied, "0000000000000002\n2\n");
}

#[test]
fn lines_are_applied_as_they_come_until_a_signal() {
    let redis = Redis::start();
    let mut child = command(redis.port(), &[]).spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("its input");
    for (sequence, sum) in [(1, "2"), (2, "4")] {
        let line = line(&ago(1), &batch(sequence, 2));
        stdin.write_all(line.as_bytes()).expect("it reads");
        wait_for("applied batch", || (jobs(&redis) == sum).then_some(()));
    }
    let mut kill = program(&["sh"], "dash");
    let kill = kill.args(["-c", &format!("kill -INT {}", child.id())]);
    assert!(kill.status().expect("sh ends").success());
    let status = wait_for("end", || child.try_wait().expect("its state"));
    assert_eq!(status.code(), Some(0));
    let report = BufReader::new(child.stdout.take().expect("its report"));
    let first = report.lines().next().expect("a line").expect("UTF-8");
    assert_eq!(first, "applied: 2");
}

#[test]
fn it_waits_for_a_redis_that_is_down_but_not_forever() {
    let port = free_port();
    let lines = line(&ago(1), &batch(1, 2)) + &line(&ago(1), &batch(2, 3));
    let short = command(port, &["--retry-seconds", "0"]);
    let said = check_with(short, &lines, [0, 0, 0, 0, 0, 2, 0]);
    assert!(said.contains("-:2: not stored: "), "{said}");

    let replaying = thread::spawn(move || {
        check_with(command(port, &[]), &lines, [2, 0, 0, 0, 0, 0, 0]);
    });
    // Redis is down for a while: there is nothing to wait for.
    thread::sleep(Duration::from_millis(500));
    let redis = Redis::start_with(RedisOptions::new().port(port));
    replaying.join().expect("both are applied");
    assert_eq!(jobs(&redis), "5");
}

/// Makes a Redis refuse writes, and accept them again.
type Outage = (&'static str, fn(&Redis), fn(&Redis));

const REFUSING_WRITES: [Outage; 3] = [
    (
        "READONLY",
        |redis| _ = redis.cli(&["REPLICAOF", "127.0.0.1", "1"]),
        |redis| _ = redis.cli(&["REPLICAOF", "NO", "ONE"]),
    ),
    (
        "OOM",
        |redis| _ = redis.cli(&["CONFIG", "SET", "maxmemory", "1"]),
        |redis| _ = redis.cli(&["CONFIG", "SET", "maxmemory", "0"]),
    ),
    ("MISCONF", Redis::fail_to_save, |redis| {
        redis.cli(&["CONFIG", "SET", "stop-writes-on-bgsave-error", "no"]);
    }),
];

#[test]
fn it_waits_for_a_redis_that_refuses_writes() {
    for (name, refuse, repair) in REFUSING_WRITES {
        let redis = Redis::start();
        // So that Redis knows the script, and refuses the call and not the source.
        redis.call_script(&Script::APPLY, &apply_call(DEFAULT_PREFIX, &batch(9, 1)));
        refuse(&redis);
        let lines = line(&ago(1), &batch(1, 2)) + &line(&ago(1), &batch(2, 3));
        let short = command(redis.port(), &["--retry-seconds", "0"]);
        let said = check_with(short, &lines, [0, 0, 0, 0, 0, 2, 0]);
        assert!(said.contains(name) || said.contains("read only"), "{said}");
        assert_eq!(jobs(&redis), "1", "{name}");
        thread::scope(|scope| {
            let replaying = scope.spawn(|| {
                check(&redis, &[], &lines, [2, 0, 0, 0, 0, 0, 0]);
            });
            // Redis refuses for a while: there is nothing to wait for.
            thread::sleep(Duration::from_millis(300));
            assert_eq!(jobs(&redis), "1", "{name}");
            repair(&redis);
            replaying.join().expect("both are applied");
        });
        assert_eq!(jobs(&redis), "6", "{name}");
    }
}

#[test]
fn it_waits_for_a_redis_that_is_loading() {
    let redis = Redis::start_loading(Duration::from_secs(1));
    let lines = line(&ago(1), &batch(1, 2));
    let said = check(&redis, &[], &lines, [1, 0, 0, 0, 0, 0, 0]);
    assert!(said.contains("Redis is loading"), "{said}");
    assert_eq!(jobs(&redis), "2");
}

#[test]
fn refused_increments_and_batches_are_reported() {
    let redis = Redis::start();
    redis.cli(&["SET", JOBS, "1"]);
    let mut two = batch(1, 2);
    two.increments.inc("metrics:good", "", 1);
    let said = check(&redis, &[], &line(&ago(1), &two), [1, 0, 0, 0, 0, 0, 1]);
    assert!(
        said.contains("-:1: increment refused: metrics:jobs"),
        "{said}"
    );
    assert_eq!(redis.cli(&["HGET", "metrics:good", ""]).trim(), "1");

    // Nothing is stored, and a retry does not help.
    redis.cli(&["SET", "metrics:leases", "1"]);
    let said = check(
        &redis,
        &[],
        &line(&ago(1), &batch(2, 2)),
        [0, 0, 0, 0, 0, 1, 0],
    );
    assert!(said.contains("WRONGTYPE"), "{said}");
    assert!(!said.contains("trying again"), "{said}");

    let output = replay_command(command(redis.port(), &["/nowhere.log"]), "");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("cannot open /nowhere.log"));
}
