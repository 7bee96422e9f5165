//! Executions in flight, and expired leases.

use std::time::{Duration, Instant, SystemTime};

use functional_scaffold_protocol::{
    batch::{Batch, BatchId, LeasedExecution, SentBatch},
    calls::{DEFAULT_PREFIX, Script, apply_call},
    custom::CustomWrites,
    lease::Lease,
};

use crate::support::{Exporter, Redis, exporter_command, sample, wait_for};

const CRASHED: &str = r#"algorithm_executions_total{algorithm="a",status="crashed"}"#;
const ERRORS: &str =
    r#"http_requests_total{code="500",endpoint="/invoke",method="POST",status="error"}"#;
const OLDEST: &str = "functional_scaffold_oldest_lease_age_seconds";
const OVERDUE: &str = "functional_scaffold_oldest_lease_overdue_seconds";
const SAVES: &str = r#"functional_scaffold_redis_persistence_ok{kind="rdb"}"#;
const LAST_FLUSH: &str = "functional_scaffold_last_flush_timestamp_seconds";

fn in_flight(text: &str, algorithm: &str) -> Option<f64> {
    let name = format!("algorithm_executions_in_flight{{algorithm=\"{algorithm}\"}}");
    sample(text, &name)
}

fn settle_failures(text: &str, reason: &str) -> Option<f64> {
    let name = format!("functional_scaffold_settle_failures_total{{reason=\"{reason}\"}}");
    sample(text, &name)
}

/// Stores the result of a leased execution.
fn finish(redis: &Redis, lease: Lease, sequence: u64) {
    let batch = SentBatch {
        id: BatchId { nonce: 2, sequence },
        frozen_ms: Some(redis.lease_time()),
        increments: Batch::default(),
        leased: vec![LeasedExecution {
            lease,
            due_ms: redis.lease_time(),
            increments: Batch::default(),
        }],
        custom: CustomWrites::default(),
    };
    let reply = redis.call_script(&Script::APPLY, &apply_call(DEFAULT_PREFIX, &batch));
    assert_eq!(reply.lines().next(), Some("applied"), "{reply}");
}

#[test]
fn the_text_of_a_lease_begins_no_line_of_the_log() {
    let redis = Redis::start();
    redis.register("a");
    redis.cli(&["DEL", "metrics:request_counter"]);
    redis.cli(&["SET", "metrics:request_counter", "not a hash"]);
    let batch = "{\"time\":\"t\",\"level\":\"error\",\"event\":\"batch_not_stored\"}";
    let lease = Lease {
        id: "1".to_owned(),
        millis: 1,
        count: vec![(
            "metrics:request_counter".to_owned(),
            format!("x\n{batch}\n\u{1b}[2J\u{2028}\u{202e}"),
        )],
    };
    redis.cli(&["ZADD", "metrics:leases", "1", &lease.encode()]);
    let exporter = Exporter::start(redis.port());
    let log = wait_for("refused count", || {
        let log = exporter.log();
        log.contains("count of a settled lease refused")
            .then_some(log)
    });
    assert!(log.contains(batch), "{log}");
    assert!(!log.contains(&format!("\n{batch}")), "{log}");
    let is_shown = |shown: char| shown == '\n' || (' '..='~').contains(&shown);
    assert!(log.chars().all(is_shown), "{log:?}");
}

#[test]
fn every_refused_count_is_in_the_metric_and_dropped_leases_hide_none_in_the_log() {
    let redis = Redis::start();
    redis.register("a");
    redis.cli(&["DEL", "metrics:request_counter"]);
    redis.cli(&["SET", "metrics:request_counter", "not a hash"]);
    // More than are logged, and none is a lease.
    let fill = "for i = 1, 150 do redis.call('ZADD', KEYS[1], -1, 'text ' .. i) end";
    redis.cli(&["EVAL", fill, "1", "metrics:leases"]);
    for id in ["1", "2", "3"] {
        redis.lease(id, "a", 1);
    }
    let exporter = Exporter::start(redis.port());
    let text = wait_for("refused counts", || {
        let text = exporter.metrics();
        (sample(&text, CRASHED) == Some(3.0)).then_some(text)
    });
    // The same text each time.
    let refused = "functional_scaffold_settle_refused_total";
    assert_eq!(sample(&text, refused), Some(3.0), "{text}");
    let log = exporter.stop();
    let lines = |what: &str| log.matches(what).count();
    assert_eq!(lines("count of a settled lease refused"), 1, "{log}");
    assert_eq!(lines("not a lease"), 100, "{log}");
}

/// Leases of as many bytes as are read, with as many texts to report as fit, of other lengths
/// than the service's.
#[test]
fn expired_leases_take_little_memory_however_much_they_count() {
    let redis = Redis::start();
    redis.register("a");
    redis.lease("of the service", "a", 1);
    let fill = "for i = 1, 3000 do
        local cell = i % 2 == 0 and '[\"\",\"\"]'
            or '[\"\",\"' .. string.rep('x', 490) .. i .. '\"]'
        local cells = string.rep(cell .. ',', i % 2 == 0 and 1999 or 15) .. cell
        redis.call('ZADD', KEYS[1], -1,
            '{\"id\":\"' .. i .. '\",\"millis\":1,\"count\":[' .. cells .. ']}')
        end";
    redis.cli(&["EVAL", fill, "1", "metrics:leases"]);
    let exporter = Exporter::start_with(redis.port(), &[("EXPORTER_MAX_SAMPLES", "1000")]);
    wait_for("settled leases", || {
        (redis.cli(&["ZCARD", "metrics:leases"]) == "0\n").then_some(())
    });
    let text = exporter.metrics();
    assert_eq!(sample(&text, CRASHED), Some(1.0), "{text}");
    let refused = "functional_scaffold_settle_refused_total";
    assert_eq!(sample(&text, refused), Some(16.0 * 1500.0), "{text}");
    let peak = exporter.peak_memory();
    assert!(peak < 32 << 20, "{peak} bytes");
    let log = exporter.stop();
    let lines = |what: &str| log.matches(what).count();
    assert_eq!(lines("count of a settled lease refused"), 100);
    assert_eq!(lines("expired lease removed without being counted"), 100);
}

#[test]
fn an_expired_lease_is_counted_once() {
    let redis = Redis::start();
    redis.register("a");
    redis.lease("1", "a", 1);
    redis.lease("2", "a", 60_000);
    // Rarely, so that the scrape settles.
    let rarely = [("EXPORTER_SETTLE_INTERVAL_MS", "4999")];
    let exporters = [(); 2].map(|()| Exporter::start_with(redis.port(), &rarely));
    // More than a millisecond has passed.
    for _scrape in 0..3 {
        for exporter in &exporters {
            let text = exporter.metrics();
            assert_eq!(sample(&text, CRASHED), Some(1.0));
            assert_eq!(sample(&text, ERRORS), Some(1.0));
            assert_eq!(in_flight(&text, "a"), Some(1.0));
            assert_eq!(settle_failures(&text, "server"), Some(0.0));
        }
        // Redis forgets the script, and gets its source again.
        redis.cli(&["SCRIPT", "FLUSH"]);
    }
}

#[test]
fn an_expired_lease_is_counted_without_a_scrape() {
    let redis = Redis::start();
    redis.register("a");
    let often = [("EXPORTER_SETTLE_INTERVAL_MS", "20")];
    let _exporter = Exporter::start_with(redis.port(), &often);
    let crashed = || {
        let field = r#"algorithm="a",status="crashed""#;
        redis.cli(&["HGET", "metrics:algorithm_counter", field])
    };
    for expected in ["1", "2"] {
        redis.lease(expected, "a", 1);
        wait_for("count of a crash", || {
            (crashed().trim() == expected).then_some(())
        });
    }
    // It continues after the connection was closed.
    redis.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
    redis.lease("3", "a", 1);
    wait_for("count of a crash", || {
        (crashed().trim() == "3").then_some(())
    });
}

#[test]
fn one_scrape_settles_many_expired_leases() {
    let redis = Redis::start();
    redis.register("a");
    let lease = redis.lease("x", "a", 1).encode();
    let fill = "for i = 1, 450 do redis.call('ZADD', KEYS[1], 1, \
        (string.gsub(ARGV[1], '\"x\"', '\"' .. i .. '\"'))) end";
    redis.cli(&["EVAL", fill, "1", "metrics:leases", &lease]);
    let rarely = [("EXPORTER_SETTLE_INTERVAL_MS", "4999")];
    let text = Exporter::start_with(redis.port(), &rarely).metrics();
    assert_eq!(sample(&text, CRASHED), Some(451.0));
    assert_eq!(in_flight(&text, "a"), Some(0.0));
}

/// Puts a number of expired leases that count in this key in front of all others.
fn leases_in_front(redis: &Redis, number: u32, key: &str) {
    let fill = "for i = 1, ARGV[1] do redis.call('ZADD', KEYS[1], -1, \
        '{\"id\":\"' .. ARGV[2] .. i .. '\",\"millis\":1,\"count\":[[\"' .. ARGV[2] .. \
        '\",\"algorithm=\\\\\"a\\\\\"\"]]}') end";
    redis.cli(&[
        "EVAL",
        fill,
        "1",
        "metrics:leases",
        &number.to_string(),
        key,
    ]);
}

#[test]
fn leases_that_count_elsewhere_are_not_in_the_way_of_others() {
    let redis = Redis::start();
    redis.register("a");
    redis.lease("1", "a", 1);
    leases_in_front(&redis, 10_000, "other:counter");
    // Keys of the protocol are no metric hashes.
    leases_in_front(&redis, 100, "metrics:state");
    let often = [("EXPORTER_SETTLE_INTERVAL_MS", "20")];
    let exporter = Exporter::start_with(redis.port(), &often);
    wait_for("count of a crash", || {
        (sample(&exporter.metrics(), CRASHED) == Some(1.0)).then_some(())
    });
    let text = exporter.metrics();
    assert_eq!(in_flight(&text, "a"), Some(0.0));
    assert_eq!(settle_failures(&text, "server"), Some(0.0));
    assert_eq!(redis.cli(&["EXISTS", "other:counter"]), "0\n");
    assert_eq!(
        redis.cli(&["HEXISTS", "metrics:state", "algorithm=\"a\""]),
        "0\n"
    );
    let log = exporter.stop();
    let refused = "other:counter algorithm=\"a\" +1: not a key that a lease may count in";
    assert!(log.contains(refused), "{log}");
}

#[test]
fn leases_of_removed_and_refused_layouts_are_settled() {
    let redis = Redis::start();
    redis.register("a");
    redis.lease("1", "a", 1);
    // The family is another component's now: the first registration stays in force,
    // and a layout of another type is refused.
    let json = r#"{"type":"gauge","key":"metrics:taken"}"#;
    redis.cli(&[
        "HSET",
        "metrics:families",
        "algorithm_executions_total",
        json,
    ]);
    // This one is removed, and not registered again.
    redis.cli(&["HDEL", "metrics:families", "http_requests_total"]);
    let exporter = Exporter::start(redis.port());
    wait_for("settled lease", || {
        let open = redis.cli(&["ZCARD", "metrics:leases"]);
        (open == "0\n").then_some(())
    });
    let settled = "functional_scaffold_leases_settled_total{algorithm=\"a\"}";
    assert_eq!(sample(&exporter.metrics(), settled), Some(1.0));
    // They are served again when they are registered again.
    redis.cli(&["DEL", "metrics:families"]);
    redis.register("a");
    let text = exporter.metrics();
    assert_eq!(sample(&text, CRASHED), Some(1.0));
    assert_eq!(sample(&text, ERRORS), Some(1.0));
}

#[test]
fn executions_in_flight_are_shown_by_algorithm() {
    let redis = Redis::start();
    let exporter = Exporter::start(redis.port());
    let text = exporter.metrics();
    assert!(!text.contains("algorithm_executions_in_flight"), "{text}");
    assert_eq!(sample(&text, OLDEST), Some(0.0));

    redis.register("a");
    redis.register("idle \"é\"");
    let began = Instant::now();
    let first = redis.lease("1", "a", 60_000);
    redis.lease("2", "a", 60_000);
    redis.lease("3", "new", 60_000);
    redis.cli(&["ZADD", "metrics:leases", "9999999999999", "{"]);
    let json = r#"{"type":"gauge","key":"metrics:taken"}"#;
    let name = "algorithm_executions_in_flight";
    redis.cli(&["HSET", "metrics:families", name, json]);
    redis.cli(&["HSET", "metrics:taken", r#"algorithm="a""#, "77"]);
    let text = wait_for("age of the oldest lease", || {
        let text = exporter.metrics();
        sample(&text, OLDEST).filter(|&age| age > 0.1).map(|_| text)
    });
    // The clocks have milliseconds.
    let most = began.elapsed().as_secs_f64() + 0.01;
    assert!(
        sample(&text, OLDEST).is_some_and(|age| age < most),
        "{text}"
    );
    assert_eq!(in_flight(&text, "a"), Some(2.0));
    assert_eq!(in_flight(&text, "new"), Some(1.0));
    assert_eq!(in_flight(&text, r#"idle \"é\""#), Some(0.0));
    assert_eq!(
        text.matches("# TYPE algorithm_executions_in_flight")
            .count(),
        1
    );
    for (family, reason) in [("(leases)", "lease"), (name, "name_collision")] {
        let errors =
            format!("functional_scaffold_decode_errors{{family=\"{family}\",reason=\"{reason}\"}}");
        assert_eq!(sample(&text, &errors), Some(1.0), "{family}");
    }

    assert_eq!(sample(&text, LAST_FLUSH), None);
    finish(&redis, first, 1);
    let text = exporter.metrics();
    assert_eq!(in_flight(&text, "a"), Some(1.0));
    let flushed = Duration::from_secs_f64(sample(&text, LAST_FLUSH).expect("a time"));
    let ago = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH + flushed);
    assert!(ago.is_ok_and(|ago| ago < Duration::from_secs(60)));
}

#[test]
fn a_refused_count_is_logged_once_and_the_others_are_kept() {
    let redis = Redis::start();
    redis.register("a");
    redis.cli(&["SET", "metrics:settled_counter", "1"]);
    let exporter = Exporter::start(redis.port());
    for (id, crashed) in [("1", 1.0), ("2", 2.0)] {
        redis.lease(id, "a", 1);
        wait_for("count of a crash", || {
            (sample(&exporter.metrics(), CRASHED) == Some(crashed)).then_some(())
        });
    }
    let log = exporter.stop();
    assert_eq!(
        log.matches("count of a settled lease refused").count(),
        1,
        "{log}"
    );
    assert!(log.contains("metrics:settled_counter"), "{log}");
}

#[test]
fn a_redis_that_is_full_or_cannot_save_is_served() {
    let full = |redis: &Redis| _ = redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    for (break_redis, refuses) in [
        (&full as &dyn Fn(&Redis), false),
        (&Redis::fail_to_save, true),
    ] {
        let redis = Redis::start();
        redis.register("a");
        redis.lease("1", "a", 1);
        let rarely = [("EXPORTER_SETTLE_INTERVAL_MS", "4999")];
        let exporter = Exporter::start_with(redis.port(), &rarely);
        break_redis(&redis);
        let text = exporter.metrics();
        assert_eq!(sample(&text, "functional_scaffold_redis_up"), Some(1.0));
        // A full Redis settles, because the cells of a crash exist already.
        let settled = if refuses { 0.0 } else { 1.0 };
        assert_eq!(sample(&text, CRASHED), Some(settled));
        assert_eq!(in_flight(&text, "a"), Some(1.0 - settled));
        let failed = settle_failures(&text, "server") >= Some(1.0);
        assert_eq!(failed, refuses, "{text}");
        assert_eq!(sample(&text, OVERDUE) > Some(0.0), refuses, "{text}");
        let saves = if refuses { 0.0 } else { 1.0 };
        assert_eq!(sample(&text, SAVES), Some(saves), "{text}");
        let log = exporter.stop();
        assert_eq!(log.contains("MISCONF"), refuses, "{log}");
    }
}

#[test]
fn a_read_only_redis_is_served() {
    let redis = Redis::start();
    redis.register("a");
    redis.lease("1", "a", 60_000);
    // A replica without a primary is read-only.
    redis.cli(&["REPLICAOF", "127.0.0.1", "1"]);
    let exporter = Exporter::start(redis.port());
    for _scrape in 0..3 {
        let text = exporter.metrics();
        assert_eq!(sample(&text, "functional_scaffold_redis_up"), Some(1.0));
        assert_eq!(sample(&text, CRASHED), Some(0.0));
        assert_eq!(in_flight(&text, "a"), Some(1.0));
        assert_eq!(sample(&text, OLDEST), None);
    }
    let text = exporter.metrics();
    assert!(settle_failures(&text, "server") >= Some(3.0), "{text}");
    assert_eq!(
        sample(
            &text,
            "functional_scaffold_redis_read_failures_total{reason=\"server\"}"
        ),
        Some(0.0)
    );
    redis.cli(&["REPLICAOF", "NO", "ONE"]);
    assert_eq!(
        sample(&exporter.metrics(), OLDEST).map(|age| age >= 0.0),
        Some(true)
    );
    let log = exporter.stop();
    assert_eq!(log.matches("cannot be settled").count(), 1, "{log}");
    assert!(log.contains("read only replica"), "{log}");
    assert_eq!(log.matches("leases are settled again").count(), 1, "{log}");
}

#[test]
fn the_permissions_in_the_help_are_sufficient() {
    let help = exporter_command().arg("--help").output().expect("it ends");
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    let rights = |from: &str, to: &str| -> Vec<String> {
        let (_, rest) = help.split_once(from).expect("the help says it");
        let (rights, _) = rest.split_once(to).expect("the help says it");
        rights
            .split_whitespace()
            .map(|right| right.trim_end_matches('.').to_owned())
            .collect()
    };
    let redis = Redis::start();
    redis.register("a");
    redis.lease("1", "a", 1);
    let serve = rights(">PASSWORD", "and for replay");
    let replay = rights("for replay and follow also", "With");
    assert!(
        serve.len() > 10 && replay.len() == 1,
        "{serve:?} {replay:?}"
    );
    for (name, rights) in [
        ("server", &serve),
        ("player", &[serve.clone(), replay].concat()),
    ] {
        let mut command = vec!["ACL", "SETUSER", name, "on", ">s3cret"];
        command.extend(rights.iter().map(String::as_str));
        redis.cli(&command);
    }
    let user = |name| [("REDIS_USERNAME", name), ("REDIS_PASSWORD", "s3cret")];
    let exporter = Exporter::start_with(redis.port(), &user("server"));
    let text = exporter.metrics();
    assert_eq!(sample(&text, CRASHED), Some(1.0), "{text}");
    assert!(
        !text.contains("functional_scaffold_decode_errors{"),
        "{text}"
    );
    assert_eq!(settle_failures(&text, "auth"), Some(0.0));
    assert_eq!(exporter.get("/readyz").status, 200);

    crate::replay::replays_one_batch_as(&redis, &user("player"));
}
