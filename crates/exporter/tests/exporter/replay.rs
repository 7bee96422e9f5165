//! The command `replay`.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    process::{Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, SystemTime},
};

use functional_scaffold_protocol::{
    batch::{Batch, BatchId, LeasedExecution, LoggedBatch, SentBatch},
    calls::{DEFAULT_PREFIX, Script, applied_field, applied_keys, apply_call, settle_call},
    catalog::{Catalog, ExecutionStatus, FinishedExecution},
    custom::{CustomWrites, GaugeWrite},
    family::Family,
    lease::Lease,
    replay_key::ReplayKey,
};

use serde::Serialize;

use crate::support::{Exporter, PATIENCE, Redis, exporter_command, program, sample, wait_for};

pub(crate) const JOBS: &str = "metrics:jobs";
pub(crate) const KEY: &str = "the key of these tests, 32 bytes";

/// A Redis in which the families of these tests are registered.
pub(crate) fn start_redis() -> Redis {
    let redis = Redis::start();
    register(&redis, DEFAULT_PREFIX);
    redis
}

pub(crate) fn register(redis: &Redis, prefix: &str) {
    for name in ["jobs", "good"] {
        let family = format!("{{\"type\":\"counter\",\"key\":\"metrics:{name}\"}}");
        let families = format!("{prefix}families");
        redis.cli(&["HSET", &families, &format!("{name}_total"), &family]);
    }
}

pub(crate) fn batch(sequence: u64, jobs: u64) -> SentBatch {
    let mut increments = Batch::default();
    increments.inc(JOBS, "k=\"a\"", jobs);
    SentBatch {
        id: BatchId {
            // A writer takes a new nonce after a batch that was not stored.
            nonce: sequence,
            sequence,
        },
        frozen_ms: None,
        increments,
        leased: Vec::new(),
        custom: CustomWrites::default(),
    }
}

pub(crate) fn ago(seconds: u64) -> String {
    let time = SystemTime::now() - Duration::from_secs(seconds);
    humantime::format_rfc3339_millis(time).to_string()
}

/// A log line of the service.
pub(crate) fn line(time: &str, batch: &impl Serialize) -> String {
    let mut line = unsigned_line(time, batch);
    assert_eq!(line.pop(), Some('\n'));
    let key = ReplayKey::new(KEY).expect("it is long enough");
    key.sign(&mut line);
    line + "\n"
}

/// A log line of a service without a key, or of somebody else.
pub(crate) fn unsigned_line(time: &str, batch: &impl Serialize) -> String {
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
        .env("REPLAY_KEY", KEY)
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
/// old, unreadable, incomplete and failed, and the refused increments. No line is
/// refused.
fn check_with(command: Command, input: &str, report: [u64; 7]) -> String {
    check_refusing(command, input, report, 0)
}

/// Likewise, with this number of refused lines.
fn check_refusing(command: Command, input: &str, report: [u64; 7], lines: u64) -> String {
    check_all(command, input, report, lines, 0)
}

/// Likewise, with this number of late executions.
fn check_all(command: Command, input: &str, report: [u64; 7], lines: u64, late: u64) -> String {
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
        "applied: {applied}\nalready applied: {already}\ntoo old: {old}\nunreadable: {unreadable}\nrefused: {lines}\nincomplete: {incomplete}\nfailed: {failed}\nlate: {late}\nrefused increments: {refused}\n"
    );
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{all}");
    let stored = old + unreadable + lines + incomplete + failed + late + refused == 0;
    assert_eq!(output.status.code(), Some(i32::from(!stored)), "{all}");
    all
}

fn check(redis: &Redis, arguments: &[&str], input: &str, report: [u64; 7]) -> String {
    check_with(command(redis.port(), arguments), input, report)
}

pub(crate) fn jobs(redis: &Redis) -> String {
    redis.cli(&["HGET", JOBS, "k=\"a\""]).trim().to_owned()
}

/// The number of the last batch that Redis remembers of this writer.
fn last_sequence(redis: &Redis, nonce: u64) -> String {
    let id = BatchId { nonce, sequence: 0 };
    let sequences = applied_keys(DEFAULT_PREFIX, &id).map(|key| {
        redis
            .cli(&["HGET", &key, &applied_field(&id)])
            .trim()
            .to_owned()
    });
    sequences.concat()
}

/// Replays one batch with a lease, as this Redis user.
pub(crate) fn replays_one_batch_as(redis: &Redis, user: &[(&str, &str)]) {
    register(redis, DEFAULT_PREFIX);
    let mut command = command(redis.port(), &[]);
    command.envs(user.iter().copied());
    let mut batch = batch(1, 5);
    batch.leased.push(LeasedExecution {
        lease: redis.lease("replayed", "a", 60_000),
        due_ms: redis.lease_time(),
        increments: Batch::default(),
    });
    check_with(command, &line(&ago(1), &batch), [1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(jobs(redis), "5");
    let mut own = self::batch(2, 1);
    let visits = custom_family("visits_total", "metrics:custom:visits_total", "");
    own.increments.inc(&visits.key, "", 3);
    own.custom.push_family(&visits);
    let mut command = self::command(redis.port(), &[]);
    command.envs(user.iter().copied());
    check_with(command, &line(&ago(1), &own), [1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(redis.cli(&["HGET", &visits.key, ""]).trim(), "3");
}

/// A counter, or with bounds a histogram, that an app declares.
fn custom_family(name: &str, key: &str, bounds: &str) -> Family {
    let kind = if bounds.is_empty() {
        r#""type":"counter""#.to_owned()
    } else {
        format!(r#""type":"histogram","scale":1000,"bounds":[{bounds}]"#)
    };
    let json = format!("{{\"key\":{key:?},{kind}}}");
    let family = Family::decode(name, json.as_bytes());
    family.unwrap_or_else(|_error| Family {
        key: key.to_owned(),
        ..custom_family(name, "k", bounds)
    })
}

/// An app's batch from before its instance had registered its families.
#[test]
fn a_batch_registers_its_families_and_goes_to_the_hash_of_their_layout() {
    const KEY_OF_VALUES: &str = "metrics:custom:value_euros";
    let app = |sequence: u64, bounds: &str, bucket: &str| {
        let mut batch = batch(sequence, 1);
        batch.increments = Batch::default();
        for (key, kind) in [(KEY_OF_VALUES, bounds), ("metrics:custom:sold_total", "")] {
            let name = key.rsplit(':').next().expect("a name");
            batch.custom.push_family(&custom_family(name, key, kind));
        }
        batch.increments.inc("metrics:custom:sold_total", "", 2);
        let field = |suffix: &str| format!("k=\"a\"|{suffix}");
        batch.increments.inc(KEY_OF_VALUES, &field(bucket), 2);
        batch.increments.inc(KEY_OF_VALUES, &field("sum"), 3_000);
        batch
    };
    let redis = Redis::start();
    // To an empty Redis, and then with other buckets.
    let first = line(&ago(1), &app(1, "1,10", "10"));
    check(&redis, &[], &first, [1, 0, 0, 0, 0, 0, 0]);
    let second = line(&ago(1), &app(2, "1,2", "2"));
    check(&redis, &[], &second, [1, 0, 0, 0, 0, 0, 0]);
    check(&redis, &[], &(first + &second), [0, 2, 0, 0, 0, 0, 0]);
    // Like one that registered its layout.
    let mut registered = app(3, "1,2", "2");
    let (field, own) = custom_family("value_euros", KEY_OF_VALUES, "1,2").with_own_key();
    let json = redis.cli(&["HGET", "metrics:families", &field]);
    assert_eq!(json.trim(), own.encode());
    registered.custom = CustomWrites::default();
    registered.rename_key(KEY_OF_VALUES, &own.key);
    let registered = line(&ago(1), &registered);
    check(&redis, &[], &registered, [1, 0, 0, 0, 0, 0, 0]);
    let cell = |key: &str, suffix: &str| {
        let field = format!("k=\"a\"|{suffix}");
        redis.cli(&["HGET", key, &field]).trim().to_owned()
    };
    assert_eq!(cell(KEY_OF_VALUES, "10"), "2");
    assert_eq!(cell(KEY_OF_VALUES, "2"), "");
    assert_eq!(cell(&own.key, "2"), "4");
    let exporter = Exporter::start(redis.port());
    let text = exporter.metrics();
    for (sample_name, expected) in [
        ("sold_total", 6.0),
        ("value_euros_count{k=\"a\"}", 6.0),
        ("value_euros_sum{k=\"a\"}", 9.0),
        // The bounds that both layouts have.
        ("value_euros_bucket{k=\"a\",le=\"1.0\"}", 0.0),
    ] {
        assert_eq!(sample(&text, sample_name), Some(expected), "{text}");
    }
    assert!(
        !text.contains("functional_scaffold_decode_errors{"),
        "{text}"
    );
}

#[test]
fn a_batch_is_applied_once_however_often_it_is_replayed() {
    let redis = start_redis();
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
    register(&redis, "m2:");
    let elsewhere = ["--metrics-prefix", "m2:"];
    check(
        &redis,
        &elsewhere,
        &line(&ago(1), &batch(1, 2)),
        [1, 0, 0, 0, 0, 0, 0],
    );
    assert_eq!(jobs(&redis), "7");
    let [first, second] = applied_keys("m2:", &batch(1, 2).id);
    assert_eq!(redis.cli(&["EXISTS", &first, &second]).trim(), "1");
}

#[test]
fn an_old_batch_is_refused_without_force() {
    let redis = start_redis();
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
fn a_batch_that_was_sent_is_refused_by_its_lease_time() {
    let redis = start_redis();
    let now = redis.lease_time();
    let frozen = |sequence: u64, hours: i64| SentBatch {
        frozen_ms: Some(now - hours * 3_600_000 - 60_000),
        ..batch(sequence, 2)
    };
    // Its line is old, but lease time stood still: Redis was down.
    let lines = line(&ago(7200), &frozen(1, 0)) + &line(&ago(1), &frozen(2, 1));
    let said = check(&redis, &[], &lines, [1, 0, 1, 0, 0, 0, 0]);
    assert!(
        said.contains("-:2: not replayed: frozen 1h 1m ago in lease time"),
        "{said}"
    );
    assert_eq!(jobs(&redis), "2");
    check(&redis, &["--force"], &lines, [1, 1, 0, 0, 0, 0, 0]);
    assert_eq!(jobs(&redis), "4");
}

/// Forwards connections to Redis, but for the first reply that a batch is applied. The
/// client of that reply comes through the channel, and waits for it.
fn start_proxy(redis_port: u16) -> (u16, mpsc::Receiver<TcpStream>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let port = listener.local_addr().expect("its address").port();
    let (lose, lost) = mpsc::channel();
    let has_lost = Arc::new(AtomicBool::new(false));
    thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.expect("a client");
            let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, redis_port)).expect("Redis");
            let [mut requests, mut to_server] =
                [&client, &server].map(|stream| stream.try_clone().expect("a handle"));
            thread::spawn(move || {
                let _ = io::copy(&mut requests, &mut to_server);
                let _ = to_server.shutdown(Shutdown::Both);
            });
            let (lose, has_lost) = (lose.clone(), Arc::clone(&has_lost));
            thread::spawn(move || {
                let mut reply = [0; 4096];
                while let Ok(length @ 1..) = server.read(&mut reply) {
                    let reply = &reply[..length];
                    let is_applied = reply.windows(7).any(|part| part == b"applied");
                    if is_applied && !has_lost.swap(true, Ordering::Relaxed) {
                        let _ = lose.send(client);
                        return;
                    }
                    if client.write_all(reply).is_err() {
                        return;
                    }
                }
                let _ = client.shutdown(Shutdown::Both);
            });
        }
    });
    (port, lost)
}

/// Advances lease time by four hours, and applies a batch of another writer. Redis then
/// forgets the earlier ids.
fn forget(redis: &Redis) {
    let hours = (4 * 3_600_000).to_string();
    redis.cli(&["HINCRBY", "metrics:state", "shift_ms", &format!("-{hours}")]);
    let other = SentBatch {
        frozen_ms: Some(redis.lease_time()),
        ..batch(9, 10)
    };
    redis.call_script(&Script::APPLY, &apply_call(DEFAULT_PREFIX, &other));
    assert_eq!(last_sequence(redis, 1), "");
}

#[test]
fn a_retry_after_the_id_was_forgotten_is_refused() {
    for arguments in [&["-"][..], &["--force"]] {
        let redis = start_redis();
        let (port, lost) = start_proxy(redis.port());
        let arguments = [arguments, &["--redis-timeout-ms", "20000"]].concat();
        let command = command(port, &arguments);
        let lines = line(&ago(1), &batch(1, 2));
        let replaying = thread::spawn(move || {
            let output = replay_command(command, &lines);
            (output.status.code(), text(&output))
        });
        // The host of `replay` is suspended before it reads the reply.
        let client = lost.recv_timeout(PATIENCE).expect("the batch is applied");
        assert_eq!(jobs(&redis), "2");
        forget(&redis);
        client.shutdown(Shutdown::Both).expect("it is connected");
        let (code, said) = replaying.join().expect("no panic");
        assert_eq!(jobs(&redis), "12", "{arguments:?}: {said}");
        assert!(said.contains("too old: 1\n"), "{arguments:?}: {said}");
        assert!(said.contains("frozen 4h"), "{arguments:?}: {said}");
        assert_eq!(code, Some(1), "{arguments:?}: {said}");
    }
}

#[test]
fn an_unreadable_batch_is_reported_and_the_others_are_applied() {
    let redis = start_redis();
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
        shard: None,
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
    let redis = start_redis();
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
    assert_eq!(last_sequence(&redis, 1), "1");
    assert_eq!(last_sequence(&redis, 2), "2");
}

#[test]
fn an_incomplete_batch_is_not_applied() {
    let redis = Redis::start();
    let lines = lines_of_parts(&ago(1), 1);
    let (last, others) = lines.split_last().expect("several");
    let said = check(&redis, &[], &others.concat(), [0, 0, 0, 0, 1, 0, 0]);
    let of = lines.len();
    let named = format!("1 of the {of} parts of batch 0000000000000001-1 are missing");
    assert!(said.contains(&named), "{said}");
    // A truncated line is a missing part, too.
    let torn = others.concat() + &last[..last.len() - 4];
    check(&redis, &[], &torn, [0, 0, 0, 1, 1, 0, 0]);
    // `--force` does not help.
    check(&redis, &["--force"], last, [0, 0, 0, 0, 1, 0, 0]);
    assert_eq!(redis.cli(&["DBSIZE"]).trim(), "0");
    register(&redis, DEFAULT_PREFIX);
    check(&redis, &[], &lines.concat(), [1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(jobs_in_all(&redis), 101);
}

#[test]
fn a_late_result_is_counted_as_late_and_the_rest_is_applied() {
    let redis = start_redis();
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
        LeasedExecution {
            lease,
            due_ms: redis.lease_time(),
            increments,
        }
    };
    // A reader settles the expired lease.
    let keys = catalog
        .families()
        .into_iter()
        .map(|family| family.key.as_str());
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
    let report = [1, 0, 0, 0, 0, 0, 0];
    let (port, lost) = start_proxy(redis.port());
    let said = thread::scope(|scope| {
        let command = command(port, &["--redis-timeout-ms", "20000"]);
        let replaying = scope.spawn(|| check_all(command, &lines, report, 0, 1));
        // The reply is lost, and the retry finds the batch stored.
        let client = lost.recv_timeout(PATIENCE).expect("the batch is applied");
        client.shutdown(Shutdown::Both).expect("it is connected");
        replaying.join().expect("no panic")
    });
    assert!(
        said.contains("-:1: 1 executions are late") && said.contains("l1"),
        "{said}"
    );
    check(&redis, &[], &lines, [0, 1, 0, 0, 0, 0, 0]);
    assert_eq!(jobs(&redis), "4");
    assert_eq!(executions("crashed").trim(), "1");
    assert_eq!(executions("success").trim(), "1");
    let late = redis.cli(&["HGET", "metrics:late_counter", "algorithm=\"a\""]);
    assert_eq!(late.trim(), "1");
    assert_eq!(redis.cli(&["ZCARD", "metrics:leases"]).trim(), "0");
    // With the id of the line.
    assert_eq!(last_sequence(&redis, 2), "2");
}

#[test]
fn lines_are_applied_as_they_come_until_a_signal() {
    let redis = start_redis();
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
    let mut redis = start_redis();
    redis.cli(&["SAVE"]);
    redis.kill();
    let port = redis.port();
    let lines = line(&ago(1), &batch(1, 2)) + &line(&ago(1), &batch(2, 3));
    let short = command(port, &["--retry-seconds", "0"]);
    let said = check_with(short, &lines, [0, 0, 0, 0, 0, 2, 0]);
    assert!(said.contains("-:2: not stored: "), "{said}");

    let replaying = thread::spawn(move || {
        check_with(command(port, &[]), &lines, [2, 0, 0, 0, 0, 0, 0]);
    });
    // Redis is down for a while: there is nothing to wait for.
    thread::sleep(Duration::from_millis(500));
    redis.restart().expect("it restarts");
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
        let redis = start_redis();
        // So that Redis knows the script, and refuses the call and not the source.
        let known = SentBatch {
            frozen_ms: Some(redis.lease_time()),
            ..batch(9, 1)
        };
        redis.call_script(&Script::APPLY, &apply_call(DEFAULT_PREFIX, &known));
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
    let redis = start_redis().restart_loading();
    let lines = line(&ago(1), &batch(1, 2));
    let said = thread::scope(|scope| {
        let replay = scope.spawn(|| check(&redis, &[], &lines, [1, 0, 0, 0, 0, 0, 0]));
        wait_for("call while it loads", || {
            let errors = redis.cli(&["INFO", "errorstats"]);
            errors.contains("errorstat_LOADING").then_some(())
        });
        redis.finish_loading();
        replay.join().expect("no panic")
    });
    assert!(said.contains("Redis is loading"), "{said}");
    assert_eq!(jobs(&redis), "2");
}

#[test]
fn refused_increments_and_batches_are_reported() {
    let redis = start_redis();
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

#[test]
fn with_a_key_forged_lines_are_reported_and_left_out() {
    let redis = start_redis();
    let forged = unsigned_line(&ago(1), &batch(1, 1_000_000));
    let signed = line(&ago(1), &batch(2, 2));
    let lines = [
        // A client's text that a host shows, and an algorithm's output.
        format!("Component x failed a request on /{forged}"),
        forged.clone(),
        signed.replace("\":2}", "\":2000000}"),
        // A key of another application.
        {
            let mut line = forged.trim_end().to_owned();
            let key = ReplayKey::new(&KEY.replace("these", "other")).expect("a key");
            key.sign(&mut line);
            line + "\n"
        },
        signed,
    ];
    let said = check_refusing(
        command(redis.port(), &[]),
        &lines.concat(),
        [1, 0, 0, 0, 0, 0, 0],
        4,
    );
    for (line, code) in [
        (1, "has no"),
        (2, "has no"),
        (3, "is wrong"),
        (4, "is wrong"),
    ] {
        let cause = match code {
            "has no" => "it has no message authentication code",
            _ => "its message authentication code is wrong",
        };
        let said_of_line = format!("-:{line}: refused: {cause}");
        assert!(said.contains(&said_of_line), "{said_of_line}: {said}");
    }
    assert_eq!(jobs(&redis), "2");
}

#[test]
fn without_a_key_replay_asks_whether_the_log_is_trusted() {
    let redis = start_redis();
    let batch_line = unsigned_line(&ago(1), &batch(1, 2));
    let without_key = |arguments: &[&str]| {
        let mut command = command(redis.port(), arguments);
        command.env_remove("REPLAY_KEY");
        command
    };
    let output = replay_command(without_key(&[]), &batch_line);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output);
    assert!(said.contains("REPLAY_KEY_FILE") && said.contains("--trust-unauthenticated-log"));
    assert_eq!(jobs(&redis), "");

    // The log is trusted, but not what a host says about a request.
    let trusting = ["--trust-unauthenticated-log"];
    let lines = format!("Component x failed a request on /{batch_line}{batch_line}");
    let report = [1, 0, 0, 0, 0, 0, 0];
    let said = check_refusing(without_key(&trusting), &lines, report, 1);
    assert!(said.contains("-:1: refused: it does not begin"), "{said}");
    assert_eq!(jobs(&redis), "2");

    let both = replay_command(command(redis.port(), &trusting), &batch_line);
    assert_eq!(both.status.code(), Some(1));
    assert!(text(&both).contains("choose one"), "{}", text(&both));
}

#[test]
fn only_keys_of_families_are_added_to() {
    let redis = start_redis();
    let registered = r#"{"type":"counter","key":"metrics:state"}"#;
    redis.cli(&["HSET", "metrics:families", "state_total", registered]);
    redis.cli(&["SET", "elsewhere", "1"]);
    let keys = [
        "metrics:state",
        "metrics:applied:1700000000",
        "metrics:leases",
        "metrics:closed_leases",
        "metrics:families",
        "metrics:lost:metrics:jobs",
        "metrics:unregistered",
        "elsewhere",
        "",
    ];
    let before = redis.cli(&["KEYS", "*"]);
    for (key, number) in keys.into_iter().zip(1..) {
        let mut both = batch(number, 1);
        both.increments.inc(key, "x", 1);
        let said = check_refusing(
            command(redis.port(), &[]),
            &line(&ago(1), &both),
            [0, 0, 0, 0, 0, 0, 0],
            1,
        );
        let named = format!("has the key {key:?}");
        assert!(said.contains(&named), "{said}");
    }
    // Nor to such a key as a gauge, or as a family of the batch's own.
    let write = GaugeWrite {
        set: Some(7),
        ..GaugeWrite::default()
    };
    for (key, number) in keys.into_iter().zip(101..) {
        let mut gauge = batch(number, 1);
        gauge.custom.gauges.write(key, "last_ms", write);
        let mut own = batch(number + 100, 1);
        own.increments.inc(key, "x", 1);
        own.custom.push_family(&custom_family("x_total", key, ""));
        // Without a key it is no registration.
        let own = (!key.is_empty()).then_some(own);
        for forged in [Some(gauge), own].into_iter().flatten() {
            let refusing = command(redis.port(), &[]);
            let report = [0, 0, 0, 0, 0, 0, 0];
            check_refusing(refusing, &line(&ago(1), &forged), report, 1);
        }
    }
    for name in [
        "http_requests_total",
        "functional_scaffold_series_limited_total",
        "algorithm_executions_in_flight",
    ] {
        let mut own = batch(300, 1);
        let family = custom_family(name, &format!("metrics:custom:{name}"), "");
        own.custom.push_family(&family);
        let refusing = command(redis.port(), &[]);
        check_refusing(refusing, &line(&ago(1), &own), [0, 0, 0, 0, 0, 0, 0], 1);
    }
    // Nothing was written, not even what the batch had for a family.
    assert_eq!(
        redis.cli(&["KEYS", "*"]).lines().count(),
        before.lines().count()
    );
    assert_eq!(jobs(&redis), "");
    // The service's own families need no registration: Redis may have started empty.
    let catalog = Catalog::new(DEFAULT_PREFIX);
    let mut own = batch(99, 1);
    own.increments = Batch::default();
    catalog.record_late(&mut own.increments, "a", 1);
    check(&redis, &[], &line(&ago(1), &own), [1, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn messages_show_texts_of_others_on_one_line() {
    let redis = start_redis();
    let mut hostile = batch(1, 1);
    let key = "x\n-:9: \u{1b}[2Japplied\u{2028}\u{202e}";
    hostile.increments.inc(key, "f", 1);
    let said = check_refusing(
        command(redis.port(), &[]),
        &line(&ago(1), &hostile),
        [0, 0, 0, 0, 0, 0, 0],
        1,
    );
    assert_eq!(said.matches("-:1: refused").count(), 1, "{said}");
    assert!(
        !said.contains("\n-:9")
            && said
                .chars()
                .all(|shown| shown == '\n' || (' '..='~').contains(&shown)),
        "{said:?}"
    );
    let output = replay_command(command(redis.port(), &["/no\nwhere\u{202e}"]), "");
    assert!(
        text(&output).contains(r"/no\u000awhere\u202e"),
        "{}",
        text(&output)
    );
}

#[test]
fn a_stream_is_read_while_redis_is_away() {
    let redis = start_redis();
    // More than a pipe and the memory for waiting batches hold.
    let lines: Vec<String> = (1..=2_000)
        .map(|number| {
            let mut large = batch(number, 1);
            large.increments.inc("metrics:good", &"x".repeat(3_500), 1);
            line(&ago(1), &large)
        })
        .collect();
    let replay = |input: &[String]| {
        let mut child = command(redis.port(), &["--redis-timeout-ms", "300"])
            .spawn()
            .expect("it starts");
        let mut stdin = child.stdin.take().expect("its input");
        let input = input.concat();
        let (done, wait) = mpsc::channel();
        thread::spawn(move || {
            let _ = done.send(stdin.write_all(input.as_bytes()).map(|()| stdin));
        });
        (child, wait)
    };
    redis.suspend().expect("it runs");
    let (child, written) = replay(&lines);
    let stdin = written.recv_timeout(PATIENCE);
    redis.resume().expect("it is suspended");
    let stdin = stdin
        .expect("the writer never waits for Redis")
        .expect("a reader");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    let all = text(&output);
    assert!(all.starts_with("applied: 2000\n"), "{all}");
    assert_eq!(jobs(&redis), "2000");
}

#[test]
fn batches_that_wait_at_a_signal_are_reported() {
    let redis = start_redis();
    redis.suspend().expect("it runs");
    let mut child = command(redis.port(), &[]).spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("its input");
    let lines: String = (1..=5)
        .map(|number| line(&ago(1), &batch(number, 2)))
        .collect();
    stdin.write_all(lines.as_bytes()).expect("it reads");
    let mut log = BufReader::new(child.stderr.take().expect("its log"));
    let mut first = String::new();
    log.read_line(&mut first)
        .expect("it says that Redis is away");
    let mut kill = program(&["sh"], "dash");
    let kill = kill.args(["-c", &format!("kill -TERM {}", child.id())]);
    assert!(kill.status().expect("sh ends").success());
    let output = child.wait_with_output().expect("it ends");
    redis.resume().expect("it is suspended");
    let all = text(&output);
    assert!(all.contains("failed: 5\n"), "{first}{all}");
    assert_eq!(output.status.code(), Some(1));
}
