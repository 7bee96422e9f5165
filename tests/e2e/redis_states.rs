//! The application against a Redis in each state that operators know. In `exact` mode
//! responses do not change, in `strict` mode they are 503. Log and `/readyz` name the
//! state, and afterwards every request is counted once.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
    thread,
};

use anyhow::ensure;
use functional_scaffold_testkit::{
    load::{RequestKind, Tally, Until},
    process::{POLL, free_port, poll_until},
    redis::{RedisOptions, RedisServer},
    repository,
    runtime::{App, AppOptions},
};
use functional_scaffold_tests::{
    PATIENCE,
    service::{NEGATIVE, PRIME, Service, invoke, load_all, logged_sum, readiness},
};
use serde_json::Value;

use crate::Result;

type Step = fn(&mut RedisServer) -> Result;

const REQUESTS: usize = 160;
const CONNECTIONS: usize = 8;

/// A state of Redis that an operator ends.
struct State {
    /// Its name in the log and in `/readyz`.
    words: &'static str,
    variables: &'static [(&'static str, &'static str)],
    prepare: Step,
    enter: Step,
    leave: Step,
}

/// No special setting; each state changes some.
const USUAL: State = State {
    words: "",
    variables: &[],
    prepare: |_| Ok(()),
    enter: |_| Ok(()),
    leave: |_| Ok(()),
};

macro_rules! states {
    ($($name:ident: $state:expr,)*) => {$(
        #[test]
        fn $name() -> Result {
            comes_and_passes(&$state)
        }
    )*

    /// In `strict` mode.
    mod strict {
        use super::*;

        $(
            #[test]
            fn $name() -> Result {
                is_unavailable_while_it_lasts(&$state)
            }
        )*
    }};
}

states! {
    loading: State {
        words: "is loading its data",
        prepare: |redis| {
            redis.call::<()>(&["CONFIG", "SET", "rdbcompression", "no"])?;
            redis.call::<()>(&[
                "EVAL",
                "local value = string.rep('x', 500)
                 for i = 1, 100000 do redis.call('SET', 'filler:' .. i, value) end",
                "0",
            ])?;
            // While it loads a snapshot, it responds as often as it is told to;
            // while it loads commands, once in a thousand.
            redis.call::<()>(&["BGREWRITEAOF"])?;
            persistence_says(redis, "aof_rewrite_in_progress:0")
        },
        enter: |redis| {
            // Two milliseconds a key are minutes in all, and end with the state.
            let slowly = RedisOptions::new()
                .line("key-load-delay", &["2000"])
                .line("loading-process-events-interval-bytes", &["1024"]);
            redis.restart_with(&slowly)?;
            persistence_says(redis, "loading:1")
        },
        leave: |redis| {
            redis.call::<()>(&["CONFIG", "SET", "key-load-delay", "0"])?;
            redis.wait_until_ready()
        },
        ..USUAL
    },
    out_of_memory: State {
        words: "memory is full",
        enter: |redis| redis.call(&["CONFIG", "SET", "maxmemory", "1"]),
        leave: |redis| redis.call(&["CONFIG", "SET", "maxmemory", "0"]),
        ..USUAL
    },
    read_only: State {
        words: "is a replica",
        // A replica of nowhere, as the old master is after a failover.
        enter: |redis| redis.call(&["REPLICAOF", "127.0.0.1", "1"]),
        leave: |redis| redis.call(&["REPLICAOF", "NO", "ONE"]),
        ..USUAL
    },
    masterless: State {
        words: "lost its master",
        enter: |redis| {
            redis.call::<()>(&["CONFIG", "SET", "replica-serve-stale-data", "no"])?;
            redis.call(&["REPLICAOF", "127.0.0.1", "1"])
        },
        leave: |redis| redis.call(&["REPLICAOF", "NO", "ONE"]),
        ..USUAL
    },
    unable_to_save: State {
        words: "could not save to disk",
        enter: |redis| {
            fs::create_dir(redis.folder().join("dump.rdb"))?;
            redis.call::<()>(&["CONFIG", "SET", "save", "3600 1"])?;
            redis.call::<()>(&["BGSAVE"])?;
            persistence_says(redis, "rdb_last_bgsave_status:err")
        },
        leave: |redis| redis.call(&["CONFIG", "SET", "save", ""]),
        ..USUAL
    },
    without_its_replicas: State {
        words: "too few replicas",
        enter: |redis| redis.call(&["CONFIG", "SET", "min-replicas-to-write", "1"]),
        leave: |redis| redis.call(&["CONFIG", "SET", "min-replicas-to-write", "0"]),
        ..USUAL
    },
    busy_with_a_script: State {
        words: "script that does not end",
        enter: |redis| {
            redis.call::<()>(&["CONFIG", "SET", "busy-reply-threshold", "1"])?;
            // It continues after its caller has closed the connection.
            let mut connection = redis.connect()?;
            connection.set_read_timeout(Some(POLL))?;
            let mut endless = redis::cmd("EVAL");
            let endless = endless.arg("while true do end").arg(0);
            ensure!(endless.exec(&mut connection).is_err(), "the loop ended");
            Ok(())
        },
        leave: |redis| redis.call(&["SCRIPT", "KILL"]),
        ..USUAL
    },
    requiring_a_password: State {
        words: "requires a password",
        enter: |redis| redis.call(&["ACL", "SETUSER", "default", "resetpass", ">s3cret"]),
        leave: |redis| redis.call(&["ACL", "SETUSER", "default", "nopass"]),
        ..USUAL
    },
    with_another_password: State {
        words: "refuses user or password",
        variables: &[("redis_username", "app"), ("redis_password", "s3cret")],
        prepare: |redis| redis.call(&["ACL", "SETUSER", "app", "on", ">s3cret", "~*", "+@all"]),
        enter: |redis| redis.call(&["ACL", "SETUSER", "app", "resetpass", ">other"]),
        leave: |redis| redis.call(&["ACL", "SETUSER", "app", "resetpass", ">s3cret"]),
    },
    without_the_right_to_write: State {
        words: "lacks a permission",
        enter: |redis| redis.call(&["ACL", "SETUSER", "default", "-hsetnx", "-hset"]),
        leave: |redis| redis.call(&["ACL", "SETUSER", "default", "+@all"]),
        ..USUAL
    },
    without_the_right_to_a_key: State {
        words: "lacks a permission",
        enter: |redis| redis.call(&["ACL", "SETUSER", "default", "resetkeys", "~other:*"]),
        leave: |redis| redis.call(&["ACL", "SETUSER", "default", "allkeys"]),
        ..USUAL
    },
    a_cluster: State {
        words: "in several slots",
        enter: |redis| {
            // It takes the slots of the keys that it has. Its bus port would be 10,000
            // above its own, where another process may be.
            let cluster = RedisOptions::new()
                .line("cluster-enabled", &["yes"])
                .line("cluster-port", &[&free_port()?.to_string()])
                .line("cluster-require-full-coverage", &["no"]);
            redis.restart_with(&cluster)?;
            poll_until(PATIENCE, || {
                let state: String = redis.call(&["CLUSTER", "INFO"])?;
                ensure!(state.contains("cluster_state:ok"), "{state}");
                Ok(())
            })
        },
        leave: |redis| redis.restart(),
        ..USUAL
    },
    with_a_key_of_another_type: State {
        words: "a key of another type",
        enter: |redis| {
            redis.call::<()>(&["RENAME", "metrics:state", "kept"])?;
            redis.call(&["SET", "metrics:state", "not a hash"])
        },
        leave: |redis| redis.call(&["RENAME", "kept", "metrics:state"]),
        ..USUAL
    },
}

/// Waits until Redis's `INFO persistence` contains this line.
fn persistence_says(redis: &RedisServer, line: &str) -> Result {
    poll_until(PATIENCE, || {
        let state: String = redis.call(&["INFO", "persistence"])?;
        ensure!(
            state.lines().any(|found| found == line),
            "not {line}: {state}"
        );
        Ok(())
    })
}

fn start(state: &State, durability: &str) -> Result<Service> {
    let mut redis = RedisOptions::new().append_only("always").start()?;
    (state.prepare)(&mut redis)?;
    Service::start_on(redis, |options| {
        let options = options.variable("metrics_durability", durability);
        let variables = state.variables.iter();
        variables.fold(options, |options, (name, value)| {
            options.variable(name, value)
        })
    })
}

fn enter(state: &State, redis: &mut RedisServer) -> Result {
    (state.enter)(redis)?;
    // Connections that were let in before would stay in.
    let _killed = redis.call::<i64>(&["CLIENT", "KILL", "TYPE", "normal"]);
    Ok(())
}

fn is_unavailable_while_it_lasts(state: &State) -> Result {
    let mut service = start(state, "strict")?;
    let mut sent = Tally::default();
    // A busy machine may be too late for an instance, which then stores a batch first.
    let mut is_available = |service: &Service| {
        poll_until(PATIENCE, || {
            let tally = load_strict(&service.app)?;
            sent.add(&tally);
            // Without waiting: what was responded is counted.
            is_counted(service, &sent)?;
            ensure!(tally.with_code(503) == 0, "{tally:?}");
            Ok(())
        })
    };
    is_available(&service)?;
    enter(state, &mut service.redis)?;
    let during = load_strict(&service.app)?;
    assert_eq!(during.with_code(503), during.total(), "{during:?}");
    is_named(&service.app, state.words)?;
    is_ready(&service.app, Some(state.words))?;
    (state.leave)(&mut service.redis)?;
    is_available(&service)?;
    sent.add(&during);
    poll_until(PATIENCE, || {
        service.replay_log()?;
        is_counted(&service, &sent)?;
        let counted = counted(&service)?.values().sum::<i64>();
        let sent = sent.total();
        ensure!(counted == sent, "{counted} of {sent} requests are counted");
        Ok(())
    })
}

fn load_strict(app: &App) -> Result<Tally> {
    let kinds = [RequestKind::invoke(PRIME), RequestKind::invoke(NEGATIVE)];
    load_all(app, &kinds, CONNECTIONS, Until::Requests(REQUESTS))
}

fn counted(service: &Service) -> Result<BTreeMap<String, i64>> {
    let mut counted = service.redis.cells("metrics:request_counter")?;
    counted.retain(|labels, _| labels.contains("endpoint=\"/invoke\""));
    Ok(counted)
}

/// Every result is counted. A count may stand beside a 503, which is not counted then.
fn is_counted(service: &Service, sent: &Tally) -> Result {
    let counted = counted(service)?;
    for (labels, responses) in &sent.responses {
        let count = counted.get(labels).copied().unwrap_or_default();
        let is_503 = labels.contains("code=\"503\"");
        assert!(
            is_503 || count >= *responses,
            "{labels}: {count} of {responses}"
        );
    }
    Ok(())
}

fn comes_and_passes(state: &State) -> Result {
    let mut service = start(state, "exact")?;
    let mut expected = send(&service.app)?;
    is_ready(&service.app, None)?;

    enter(state, &mut service.redis)?;
    expected.add(&send(&service.app)?);
    is_named(&service.app, state.words)?;
    is_ready(&service.app, Some(state.words))?;

    (state.leave)(&mut service.redis)?;
    is_ready(&service.app, None)?;
    expected.add(&send(&service.app)?);
    service.wait_for_invoked(&expected)
}

/// A state that only another configuration ends: every request is in the log.
fn lasts(options: &AppOptions, words: &str) -> Result {
    let app = App::start(options)?;
    send(&app)?;
    is_named(&app, words)?;
    is_ready(&app, Some(words))?;
    poll_until(PATIENCE, || {
        let key = "metrics:algorithm_counter";
        let logged = logged_sum(&app, key, "algorithm=\"prime-check\",status")?;
        ensure!(
            logged == REQUESTS as u64,
            "{logged} of {REQUESTS} are logged"
        );
        Ok(())
    })
}

#[test]
fn a_database_that_does_not_exist() -> Result {
    let redis = RedisServer::start()?;
    let options = AppOptions::with_redis(redis.port()).variable("redis_metrics_db", "99");
    lasts(&options, "refuses the database")
}

#[test]
fn a_server_that_is_not_redis() -> Result {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            // The client may be gone.
            let _ = stream.read_line(&mut line);
            let response = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
            let _ = stream.get_mut().write_all(response);
        }
    });
    lasts(
        &AppOptions::with_redis(port),
        "does not speak the Redis protocol",
    )
}

#[test]
fn a_host_that_does_not_exist() -> Result {
    // A label too long for DNS: no name server decides how long it takes.
    let host = "x".repeat(64);
    let options = AppOptions::with_redis(6379).variable("redis_host", &host);
    lasts(&options, "the host name cannot be resolved")
}

#[test]
fn a_host_that_the_manifest_does_not_allow() -> Result {
    let root = repository().canonicalize()?;
    let manifest = fs::read_to_string(root.join("spin.toml"))?
        .replace(":{{ redis_port }}", ":1")
        .replace("\"target/", &format!("\"{}/target/", root.display()));
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("spin.toml");
    fs::write(&path, manifest)?;
    let options = AppOptions::with_redis(6379).manifest(path);
    lasts(&options, "allowed_outbound_hosts")
}

#[test]
fn readiness_tells_what_became_of_an_instances_counts() -> Result {
    // An instance logs a batch after a second of failed attempts. A shorter-lived one
    // would be replaced first: by default after 128 requests, which this test can
    // send in less time. The lease gets Redis's reply, however busy the machine is.
    let service =
        Service::start_with(|options| options.lasting().variable("lease_timeout_ms", "1000"))?;
    let (app, redis) = (&service.app, &service.redis);
    let says = |code: u16, lines: &[&str]| {
        poll_until(PATIENCE, || {
            // One after the other, so that one instance serves both.
            assert_eq!(invoke(app, PRIME)?.status, 200);
            let (found, text) = readiness(app)?;
            let is_said = found == code && lines.iter().all(|line| text.contains(line));
            ensure!(is_said, "{found}, not {code} with {lines:?}:\n{text}");
            Ok(())
        })
    };
    says(200, &["leases: ok (taken)", "batches: ok ("])?;
    redis.call::<()>(&["CONFIG", "SET", "maxmemory", "1"])?;
    let suspended = "leases: suspended in this instance until Redis stores a batch: Redis's memory";
    let logged = "of this instance were logged, to be replayed\n";
    let failed = "batches: this instance's last batch was not stored: Redis's memory is full";
    says(503, &[suspended, failed, logged])?;
    redis.call::<()>(&["CONFIG", "SET", "maxmemory", "0"])?;
    says(200, &["leases: ok (taken)", "batches: ok ("])
}

/// Neither keeps a batch from being stored now, but each will lose counts later.
#[test]
fn a_missing_right_and_an_eviction_policy_are_said_before_they_lose_counts() -> Result {
    let redis = RedisOptions::new().line("maxmemory-policy", &["allkeys-lru"]);
    let service = Service::start_on(redis.start()?, |options| {
        // The first lease registers the families, which is what warns in the log.
        options.variable("lease_timeout_ms", "1000")
    })?;
    let says = |expected: u16, part: &str| {
        poll_until(PATIENCE, || {
            let (code, text) = readiness(&service.app)?;
            let is_said = code == expected && text.contains(part);
            ensure!(is_said, "{code}, not {expected} with {part}:\n{text}");
            Ok(())
        })
    };
    assert_eq!(invoke(&service.app, PRIME)?.status, 200);
    says(
        200,
        "accepts writes, but its maxmemory-policy is allkeys-lru",
    )?;
    poll_until(PATIENCE, || {
        let lines = service.app.log("eviction_enabled")?;
        ensure!(!lines.is_empty(), "it is not in the log");
        Ok(())
    })?;
    let redis = &service.redis;
    redis.call::<()>(&["CONFIG", "SET", "maxmemory-policy", "noeviction"])?;
    says(200, "accepts writes)")?;
    redis.call::<()>(&["ACL", "SETUSER", "default", "-unlink", "-zrem"])?;
    says(503, "lacks a permission (ACL) (metrics:check:set ZREM: ")?;
    says(503, "metrics:check:hash UNLINK: ")?;
    redis.call::<()>(&["ACL", "SETUSER", "default", "+@all", "-info"])?;
    says(200, "its maxmemory-policy is unknown")
}

fn send(app: &App) -> Result<Tally> {
    let kinds = [RequestKind::invoke(PRIME), RequestKind::invoke(NEGATIVE)];
    let tally = load_all(app, &kinds, CONNECTIONS, Until::Requests(REQUESTS))?;
    let expected = tally.with_code(200) + tally.with_code(422);
    ensure!(usize::try_from(expected)? == REQUESTS, "{tally:?}");
    Ok(tally)
}

/// Waits until `/readyz` responds 200, or 503 for a reason.
fn is_ready(app: &App, reason: Option<&str>) -> Result {
    poll_until(PATIENCE, || {
        let (code, text) = readiness(app)?;
        let mut lines = text
            .lines()
            .filter(|line| line.starts_with("redis: redis://"));
        let expected = match reason {
            None => code == 200,
            Some(words) => code == 503 && lines.any(|line| line.contains(words)),
        };
        ensure!(expected, "/readyz says {code}, not {reason:?}:\n{text}");
        Ok(())
    })
}

/// Waits until the log names the state, both where a flush fails and with the
/// batches that it takes over. The log does not grow with the number of requests.
fn is_named(app: &App, words: &str) -> Result {
    let names_it = |line: &&Value| {
        let reason = line["reason"].as_str();
        reason.is_some_and(|reason| reason.contains(words))
    };
    poll_until(PATIENCE, || {
        for event in ["flush_failed", "batch_not_stored"] {
            let lines = app.log(event)?;
            let named = lines.iter().filter(names_it).count();
            ensure!(named > 0, "no {event} of {words:?}: {lines:?}");
        }
        Ok(())
    })?;
    // A busy machine gives up other leases as well, which are late.
    for event in ["lease_given_up", "flush_failed"] {
        let lines = app.log(event)?.iter().filter(names_it).count();
        ensure!(lines <= REQUESTS / 4, "{lines} lines {event} of {words:?}");
    }
    Ok(())
}
