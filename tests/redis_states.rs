//! The application against a Redis in each state that operators know: requests
//! are answered as ever, log and `/readyz` name the state in words, and when it
//! has passed every request is counted once.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
    thread,
    time::Duration,
};

use anyhow::ensure;
use functional_scaffold_tests::{
    app::{App, AppOptions},
    client::{Kind, Ledger, Until, load},
    exporter::replay,
    process::poll_until,
    redis_server::RedisServer,
    repository,
};
use serde_json::Value;

type Result<T = ()> = anyhow::Result<T>;
type Step = fn(&mut RedisServer) -> Result;

const REQUESTS: usize = 160;
const CONCURRENCY: usize = 8;
/// The time an instance lingers for its flush, and a margin for a busy machine.
const LOGGED: Duration = Duration::from_secs(15);

/// What can be the matter with a Redis that is there, and can be mended.
struct State {
    /// How log and `/readyz` call it.
    words: &'static str,
    variables: &'static [(&'static str, &'static str)],
    prepare: Step,
    enter: Step,
    leave: Step,
}

/// Nothing is special but what a state sets.
const WELL: State = State {
    words: "",
    variables: &[],
    prepare: |_| Ok(()),
    enter: |_| Ok(()),
    leave: |_| Ok(()),
};

macro_rules! states {
    ($($name:ident: $state:expr,)*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() -> Result {
            comes_and_passes(&$state).await
        }
    )*};
}

states! {
    loading: State {
        words: "is loading its data",
        prepare: |redis| {
            redis.call::<()>(&[
                "EVAL",
                "for i = 1, 200000 do redis.call('SET', 'filler:' .. i, '') end",
                "0",
            ])?;
            // Loading a snapshot, it answers clients as often as it is told to;
            // loading commands, once in a thousand.
            redis.call::<()>(&["BGREWRITEAOF"])?;
            persistence_says(redis, "aof_rewrite_in_progress:0")
        },
        enter: |redis| {
            redis.relaunch(&[
                "--key-load-delay",
                "100",
                "--loading-process-events-interval-bytes",
                "1024",
            ])?;
            persistence_says(redis, "loading:1")
        },
        leave: |redis| {
            redis.call::<()>(&["CONFIG", "SET", "key-load-delay", "0"])?;
            redis.wait_until_it_answers()
        },
        ..WELL
    },
    out_of_memory: State {
        words: "memory is full",
        enter: |redis| redis.call(&["CONFIG", "SET", "maxmemory", "1"]),
        leave: |redis| redis.call(&["CONFIG", "SET", "maxmemory", "0"]),
        ..WELL
    },
    read_only: State {
        words: "is a replica",
        // A replica of nowhere, as the old master is after a failover.
        enter: |redis| redis.call(&["REPLICAOF", "127.0.0.1", "1"]),
        leave: |redis| redis.call(&["REPLICAOF", "NO", "ONE"]),
        ..WELL
    },
    masterless: State {
        words: "lost its master",
        enter: |redis| {
            redis.call::<()>(&["CONFIG", "SET", "replica-serve-stale-data", "no"])?;
            redis.call(&["REPLICAOF", "127.0.0.1", "1"])
        },
        leave: |redis| redis.call(&["REPLICAOF", "NO", "ONE"]),
        ..WELL
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
        ..WELL
    },
    without_its_replicas: State {
        words: "too few replicas",
        enter: |redis| redis.call(&["CONFIG", "SET", "min-replicas-to-write", "1"]),
        leave: |redis| redis.call(&["CONFIG", "SET", "min-replicas-to-write", "0"]),
        ..WELL
    },
    busy_with_a_script: State {
        words: "script that does not end",
        enter: |redis| {
            redis.call::<()>(&["CONFIG", "SET", "busy-reply-threshold", "1"])?;
            // It goes on after the caller has given up.
            let endless = redis.call::<()>(&["EVAL", "while true do end", "0"]);
            ensure!(endless.is_err(), "the loop ended");
            Ok(())
        },
        leave: |redis| redis.call(&["SCRIPT", "KILL"]),
        ..WELL
    },
    wanting_a_password: State {
        words: "requires a password",
        enter: |redis| redis.call(&["ACL", "SETUSER", "default", "resetpass", ">s3cret"]),
        leave: |redis| redis.call(&["ACL", "SETUSER", "default", "nopass"]),
        ..WELL
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
        ..WELL
    },
    without_the_right_to_a_key: State {
        words: "lacks a permission",
        enter: |redis| redis.call(&["ACL", "SETUSER", "default", "resetkeys", "~other:*"]),
        leave: |redis| redis.call(&["ACL", "SETUSER", "default", "allkeys"]),
        ..WELL
    },
    a_cluster: State {
        words: "in several slots",
        enter: |redis| {
            // It takes the slots of the keys that it has.
            let partial = ["--cluster-require-full-coverage", "no"];
            redis.relaunch(&[&["--cluster-enabled", "yes"], &partial[..]].concat())?;
            poll_until(LOGGED, || {
                let state: String = redis.call(&["CLUSTER", "INFO"])?;
                ensure!(state.contains("cluster_state:ok"), "{state}");
                Ok(())
            })
        },
        leave: |redis| redis.restart(),
        ..WELL
    },
    with_a_key_of_another_type: State {
        words: "a key of another type",
        enter: |redis| {
            redis.call::<()>(&["RENAME", "metrics:state", "kept"])?;
            redis.call(&["SET", "metrics:state", "not a hash"])
        },
        leave: |redis| redis.call(&["RENAME", "kept", "metrics:state"]),
        ..WELL
    },
}

/// Waits until Redis says so of what it stores and loads.
fn persistence_says(redis: &RedisServer, line: &str) -> Result {
    poll_until(LOGGED, || {
        let state: String = redis.call(&["INFO", "persistence"])?;
        ensure!(
            state.lines().any(|told| told == line),
            "not {line}: {state}"
        );
        Ok(())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_not_there() -> Result {
    let redis = RedisServer::start()?;
    let options = AppOptions::with_redis(redis.port()).variable("redis_metrics_db", "99");
    lasts(&options, "refuses the database").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_redis() -> Result {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            // Whoever is gone needs no answer.
            let _ = stream.read_line(&mut line);
            let _ = stream
                .get_mut()
                .write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n");
        }
    });
    lasts(
        &AppOptions::with_redis(port),
        "does not speak the Redis protocol",
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_not_there() -> Result {
    // A label too long to be asked for: no name server decides how long it takes.
    let host = "x".repeat(64);
    let options = AppOptions::with_redis(6379).variable("redis_host", &host);
    lasts(&options, "the host name cannot be resolved").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_the_manifest_does_not_allow() -> Result {
    let root = repository().canonicalize()?;
    let manifest = fs::read_to_string(root.join("spin.toml"))?
        .replace(":{{ redis_port }}", ":1")
        .replace("\"target/", &format!("\"{}/target/", root.display()));
    let folder = tempfile::tempdir()?;
    let mut options = AppOptions::with_redis(6379);
    options.manifest = folder.path().join("spin.toml");
    fs::write(&options.manifest, manifest)?;
    lasts(&options, "allowed_outbound_hosts").await
}

/// What configuration alone can mend: all that is answered is in the log.
async fn lasts(options: &AppOptions, words: &str) -> Result {
    let app = App::start(options)?;
    invoke(&app, REQUESTS).await?;
    is_named(&app, words)?;
    is_ready(&app, Some(words)).await?;
    poll_until(LOGGED, || {
        let mut logged = 0;
        for batch in app.logged_batches()? {
            let total = batch.total();
            let executions = total
                .cells()
                .filter(|(_, labels, _)| labels.contains("algorithm=\"prime-check\",status"));
            logged += executions.map(|(_, _, count)| count).sum::<u64>();
        }
        ensure!(
            logged == REQUESTS as u64,
            "{logged} of {REQUESTS} are logged"
        );
        Ok(())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_tells_what_became_of_an_instances_numbers() -> Result {
    let redis = RedisServer::start()?;
    let app = App::start(&AppOptions::with_redis(redis.port()))?;
    let told = async |code: u16, lines: &[&str]| -> Result {
        let deadline = tokio::time::Instant::now() + LOGGED;
        loop {
            // One after the other, so that one instance serves both.
            invoke_once(&app).await?;
            let (told, text) = readiness(&app).await?;
            if told == code && lines.iter().all(|line| text.contains(line)) {
                return Ok(());
            }
            let in_time = tokio::time::Instant::now() < deadline;
            ensure!(in_time, "{told}, not {code} with {lines:?}:\n{text}");
            // An instance takes no more than 128 requests.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    told(200, &["leases: ok (taken)", "batches: ok ("]).await?;
    redis.call::<()>(&["CONFIG", "SET", "maxmemory", "1"])?;
    let suspended = "leases: suspended in this instance until Redis stores a batch: Redis's memory";
    let logged = "of this instance were logged, to be replayed\n";
    let failed = "batches: this instance's last batch was not stored: Redis's memory is full";
    told(503, &[suspended, failed, logged]).await?;
    redis.call::<()>(&["CONFIG", "SET", "maxmemory", "0"])?;
    told(200, &["leases: ok (taken)", "batches: ok ("]).await
}

async fn invoke_once(app: &App) -> Result {
    let request = reqwest::Client::new().post(app.url("/invoke"));
    let response = request.body(r#"{"number": 17}"#).send().await?;
    ensure!(response.status() == 200, "{response:?}");
    Ok(())
}

async fn readiness(app: &App) -> Result<(u16, String)> {
    let response = reqwest::get(app.url("/readyz")).await?;
    Ok((response.status().as_u16(), response.text().await?))
}

async fn invoke(app: &App, requests: usize) -> Result<Ledger> {
    let kinds = [
        Kind::invoke(r#"{"number": 17}"#),
        Kind::invoke(r#"{"number": -1}"#),
    ];
    let ledger = load(&app.url(""), &kinds, CONCURRENCY, Until::Requests(requests)).await?;
    let answered = ledger.with_code(200) + ledger.with_code(422);
    ensure!(
        usize::try_from(answered)? == requests,
        "not all {requests} are answered: {ledger:?}"
    );
    Ok(ledger)
}

async fn comes_and_passes(state: &State) -> Result {
    let mut redis = RedisServer::start()?;
    (state.prepare)(&mut redis)?;
    let mut options = AppOptions::with_redis(redis.port());
    for (name, value) in state.variables {
        options = options.variable(name, value);
    }
    let app = App::start(&options)?;
    let mut expected = invoke(&app, REQUESTS).await?;
    is_ready(&app, None).await?;

    (state.enter)(&mut redis)?;
    // Who was let in before would stay in.
    let _killed = redis.call::<i64>(&["CLIENT", "KILL", "TYPE", "normal"]);
    add(&mut expected, invoke(&app, REQUESTS).await?);
    is_named(&app, state.words)?;
    is_ready(&app, Some(state.words)).await?;

    (state.leave)(&mut redis)?;
    is_ready(&app, None).await?;
    add(&mut expected, invoke(&app, REQUESTS).await?);
    is_counted_once(&redis, &app, &expected)
}

fn add(ledger: &mut Ledger, more: Ledger) {
    for (labels, count) in more.answers {
        *ledger.answers.entry(labels).or_default() += count;
    }
}

/// Waits until `/readyz` answers 200, or 503 for a reason.
async fn is_ready(app: &App, reason: Option<&str>) -> Result {
    let deadline = tokio::time::Instant::now() + LOGGED;
    loop {
        let (code, text) = readiness(app).await?;
        let names = |words: &str| {
            let mut lines = text.lines();
            lines.any(|line| line.starts_with("redis: redis://") && line.contains(words))
        };
        if reason.map_or(code == 200, |words| code == 503 && names(words)) {
            return Ok(());
        }
        ensure!(
            tokio::time::Instant::now() < deadline,
            "/readyz says {code}, not {reason:?}:\n{text}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until the log names the state where it is noticed and with the batches
/// that it takes over; and sees to it that the log does not grow with the number
/// of requests.
fn is_named(app: &App, words: &str) -> Result {
    let says_so = |line: &&Value| {
        let reason = line["reason"].as_str();
        reason.is_some_and(|reason| reason.contains(words))
    };
    poll_until(LOGGED, || {
        for event in ["flush_failed", "batch_not_stored"] {
            let lines = app.log(event)?;
            let named = lines.iter().filter(says_so).count();
            ensure!(named > 0, "no {event} of {words:?}: {lines:?}");
        }
        Ok(())
    })?;
    for event in ["lease_given_up", "flush_failed"] {
        let lines = app.log(event)?.len();
        ensure!(lines <= REQUESTS / 4, "{lines} lines {event} of {words:?}");
    }
    Ok(())
}

/// Waits until Redis and the log together hold all that was answered, gives
/// Redis what the log holds, and compares.
fn is_counted_once(redis: &RedisServer, app: &App, expected: &Ledger) -> Result {
    let counted = || {
        let mut counted = redis.cells("metrics:request_counter")?;
        counted.retain(|labels, _| labels.contains("endpoint=\"/invoke\""));
        anyhow::Ok(counted)
    };
    poll_until(LOGGED, || {
        replay(redis.port(), &app.output()?)?;
        let counted = counted()?;
        ensure!(
            counted == expected.answers,
            "{counted:?} is not {expected:?}"
        );
        Ok(())
    })
}
