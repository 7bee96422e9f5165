//! Every alert fires on a real Prometheus when something really happens. It takes some
//! minutes, so it is not run with the other tests:
//!
//! ```sh
//! cargo xtask build
//! cargo test --workspace --release --test e2e -- --ignored --nocapture every_alert_fires
//! ```
//!
//! It prints the table in monitoring/README.md.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use functional_scaffold_testkit::{
    exporter::{self, Exporter},
    load::{RequestKind, Until, load},
    process::{Process, on_free_port, poll_until},
    prometheus::{Prometheus, copy_tree},
    pushgateway::Pushgateway,
    redis::RedisServer,
    repository,
    runtime::{App, AppOptions, REPLAY_KEY},
};
use functional_scaffold_tests::PATIENCE;
use tempfile::TempDir;

use crate::{
    Result,
    schemes::{CLOSED_PORT, INTERVAL, start_relay},
};

/// Windows and `for` are divided by this: five minutes become ten seconds.
const SPEED: u32 = 30;

/// Some ten seconds of requests log as much.
const LAG_BYTES: u32 = 300_000;

/// A copy of `monitoring/` whose rules have the windows of [`SPEED`].
fn fast_monitoring() -> Result<(TempDir, PathBuf)> {
    let folder = TempDir::new()?;
    let monitoring = folder.path().join("monitoring");
    for path in [&monitoring, &folder.path().join("deployment/chart/files")] {
        fs::create_dir_all(path)?;
    }
    copy_tree(&repository().join("monitoring"), &monitoring)?;
    let mut jsonnet = Command::new("jsonnet");
    jsonnet
        .args([
            "--tla-code",
            &format!("config={{speed: {SPEED}, followLagBytes: {LAG_BYTES}}}"),
        ])
        .args(["--string", "--multi", ".", "monitoring/mixin/files.jsonnet"]);
    let output = jsonnet.current_dir(folder.path()).output();
    let output = output.context("cannot start jsonnet; `apt-get install jsonnet`")?;
    ensure!(output.status.success(), "{output:?}");
    Ok((folder, monitoring))
}

/// The alerts that have fired, with what caused them and the seconds until then.
struct Transcript<'a> {
    prometheus: &'a Prometheus,
    rows: Vec<(String, String, f64)>,
}

impl Transcript<'_> {
    fn firing(&self) -> Result<BTreeSet<String>> {
        let data = self.prometheus.get("alerts", &[])?;
        let alerts = data["alerts"].as_array().context("no alerts")?.iter();
        let firing = alerts.filter(|alert| alert["state"] == "firing");
        let names = firing.filter_map(|alert| alert["labels"]["alertname"].as_str());
        Ok(names.map(str::to_owned).collect())
    }

    /// Waits until these alerts fire, and notes how long it took.
    fn wait_for(&mut self, cause: &str, alerts: &[&str]) -> Result {
        let began = Instant::now();
        for alert in alerts {
            let name = match *alert {
                "HighErrorRate" => alert.to_string(),
                short => format!("FunctionalScaffold{short}"),
            };
            poll_until(PATIENCE, || {
                ensure!(self.firing()?.contains(&name), "{name} does not fire");
                Ok(())
            })
            .with_context(|| cause.to_owned())?;
            let seconds = began.elapsed().as_secs_f64();
            eprintln!("| {name} | {cause} | {seconds:.0} s |");
            self.rows.push((name, cause.to_owned(), seconds));
        }
        Ok(())
    }

    /// Repeats `action` until these alerts fire.
    fn wait_during(
        &mut self,
        cause: &str,
        alerts: &[&str],
        action: impl Fn() -> Result + Sync,
    ) -> Result {
        let ended = AtomicBool::new(false);
        thread::scope(|scope| {
            let repeated = scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    action()?;
                }
                anyhow::Ok(())
            });
            let fired = self.wait_for(cause, alerts);
            ended.store(true, Ordering::Relaxed);
            repeated.join().expect("no panic")?;
            fired
        })
    }
}

/// The command `follow` with a key, and metrics.
struct Follower {
    process: Process,
    command: Command,
    address: SocketAddr,
}

impl Follower {
    fn start(redis: &RedisServer, log: &Path, positions: &Path) -> Result<Self> {
        fs::write(log, "")?;
        on_free_port(|port| {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let mut command = exporter::command(&exporter::program()?);
            command
                .env("REDIS_PORT", redis.port().to_string())
                .env("REPLAY_KEY", REPLAY_KEY)
                .args(["follow", "--listen", &address.to_string(), "--positions"])
                .args([positions, log]);
            let mut process = Process::start(&mut command)?;
            process.wait_for_output("serving http://", PATIENCE)?;
            Ok(Self {
                process,
                command,
                address,
            })
        })
    }

    fn restart(&mut self) -> Result {
        self.process = Process::start(&mut self.command)?;
        self.process.wait_for_output("serving http://", PATIENCE)
    }
}

fn call(redis: &RedisServer, command: &[&str]) -> Result {
    redis.call::<redis::Value>(command).map(drop)
}

/// Sends some requests of these kinds, at most 80 a second.
fn send(app: &App, kinds: &[RequestKind]) {
    // A crash ends other requests of its instance.
    let _ = load(&app.url(""), kinds, 2, Until::Requests(8));
    thread::sleep(Duration::from_millis(100));
}

/// Makes snapshots fail: a folder is in the place of the file.
fn fail_to_save(redis: &RedisServer) -> Result {
    fs::create_dir(redis.folder().join("dump.rdb"))?;
    call(redis, &["CONFIG", "SET", "save", "3600 1"])?;
    call(redis, &["BGSAVE"])
}

fn save_again(redis: &RedisServer) -> Result {
    fs::remove_dir(redis.folder().join("dump.rdb"))?;
    call(redis, &["BGSAVE"])?;
    poll_until(PATIENCE, || {
        let info: String = redis.call(&["INFO", "persistence"])?;
        ensure!(info.contains("rdb_last_bgsave_status:ok"), "{info}");
        Ok(())
    })
}

#[test]
#[ignore = "takes minutes; --ignored runs it"]
fn every_alert_fires_when_its_cause_is_real() -> Result {
    let (folder, monitoring) = fast_monitoring()?;
    let mut redis = RedisServer::start()?;
    let options = AppOptions::with_redis(redis.port())
        .guarded_rogue()
        .lasting()
        .variable("execution_limit_ms", "2000")
        .variable("lease_timeout_ms", "1000");
    let app = App::start(&options)?;
    let shop = AppOptions::with_redis(redis.port())
        .manifest(repository().join("tests/metered/spin.toml"))
        .variable("metrics_max_series", "3");
    let shop = App::start(&shop)?;
    let pull = AppOptions::with_redis(CLOSED_PORT).variable("metrics_backend", "pull");
    let mut pull = App::start(&pull.lasting())?;
    let log = app.process().output_file().context("its log")?.to_owned();
    let positions = folder.path().join("positions");
    let follow = [
        ("EXPORTER_FOLLOW", log.as_os_str()),
        ("EXPORTER_POSITIONS", positions.as_os_str()),
        ("EXPORTER_TRUST_UNAUTHENTICATED_LOG", OsStr::new("true")),
    ];
    let exporter = Exporter::start_with(redis.port(), &follow)?;
    let follower_log = folder.path().join("follower.log");
    let mut follower = Follower::start(&redis, &follower_log, &folder.path().join("positions2"))?;
    let target = format!("- targets: [\"{}\"]\n", follower.address);
    fs::write(monitoring.join("followers.yml"), target)?;
    let pushgateway = Pushgateway::start()?;
    let mut relay: Process = start_relay(&redis, &pushgateway, &[])?;
    let targets = [
        ("redis", vec![exporter.address().to_string()]),
        ("pushgateway", vec![pushgateway.address().to_string()]),
        ("pull", vec![pull.address().to_string()]),
    ];
    let prometheus = Prometheus::start_from(&monitoring, &targets, INTERVAL)?;
    let mut transcript = Transcript {
        prometheus: &prometheus,
        rows: Vec::new(),
    };

    let good = [RequestKind::invoke(r#""nothing""#)];
    // A rate takes two scrapes.
    poll_until(PATIENCE, || {
        send(&app, &good);
        let requests = "sum(job_scheme:user_requests:rate5m)";
        let recorded = prometheus.value(requests)?.unwrap_or_default();
        ensure!(recorded > 0.0, "no requests are recorded");
        Ok(())
    })?;
    ensure!(transcript.firing()?.is_empty(), "{:?}", transcript.firing());

    let slow = [RequestKind::invoke(r#""work 1100""#)];
    transcript.wait_during("executions take 1.1 s", &["LatencyBudgetBurn"], || {
        send(&app, &slow);
        Ok(())
    })?;
    let bad = [good[0].clone(), RequestKind::invoke(r#""fail""#)];
    transcript.wait_during(
        "half of the executions fail",
        &["ErrorBudgetBurn", "HighErrorRate"],
        || {
            send(&app, &bad);
            Ok(())
        },
    )?;
    let crash = [RequestKind {
        path: "/invoke/rogue",
        ..RequestKind::invoke(r#""trap""#)
    }];
    transcript.wait_during(
        "executions trap, and the guard catches it",
        &["AlgorithmCrashed", "AlgorithmCrashing"],
        || {
            send(&app, &crash);
            Ok(())
        },
    )?;
    transcript.wait_for("no more requests", &["NoTraffic"])?;

    let used: String = redis.call(&["INFO", "memory"])?;
    let used = used
        .lines()
        .find_map(|line| line.strip_prefix("used_memory:"));
    let used: u64 = used.context("Redis says it")?.trim().parse()?;
    call(
        &redis,
        &[
            "CONFIG",
            "SET",
            "maxmemory",
            &(used * 105 / 100).to_string(),
        ],
    )?;
    call(
        &redis,
        &["CONFIG", "SET", "maxmemory-policy", "volatile-lru"],
    )?;
    transcript.wait_for(
        "`CONFIG SET maxmemory` just above what is used, `maxmemory-policy volatile-lru`",
        &["RedisMemoryHigh", "RedisMayEvict"],
    )?;
    call(&redis, &["CONFIG", "SET", "maxmemory-policy", "noeviction"])?;

    transcript.wait_during(
        "`CONFIG SET maxmemory 1` and back, again and again, under load",
        &["FlushFailing"],
        || {
            call(&redis, &["CONFIG", "SET", "maxmemory", "1"])?;
            send(&app, &good);
            call(&redis, &["CONFIG", "SET", "maxmemory", "0"])?;
            send(&app, &good);
            Ok(())
        },
    )?;

    // The lease of an execution without a guard, whose crash nothing reports.
    let _ = load(
        &app.url(""),
        &[RequestKind::invoke(r#""trap""#)],
        1,
        Until::Requests(1),
    );
    fail_to_save(&redis)?;
    for _ in 0..20 {
        send(&app, &good);
    }
    transcript.wait_for(
        "a snapshot fails, so Redis refuses writes; an execution without a guard crashes",
        &["RedisPersistenceFailing", "UnsettledLeases"],
    )?;
    save_again(&redis)?;
    transcript.wait_during(
        "the snapshot failed under load, then Redis accepts writes again",
        &["BatchesLogged"],
        || {
            send(&app, &good);
            Ok(())
        },
    )?;

    call(
        &redis,
        &["HSET", "metrics:request_counter", "not a cell", "x"],
    )?;
    transcript.wait_for("a cell that is not a number", &["DecodeErrors"])?;
    call(&redis, &["HDEL", "metrics:request_counter", "not a cell"])?;
    let pages = [RequestKind {
        path: "/pages",
        endpoint: "/pages",
        content_type: None,
        response: None,
        ..RequestKind::invoke("a\nb\nc\nd\ne\nf")
    }];
    send(&shop, &pages);
    transcript.wait_for(
        "an app counts six label values, with `metrics_max_series=3`",
        &["SeriesLimited"],
    )?;

    fs::write(
        &follower_log,
        "{\"time\":\"2026-01-01T00:00:00Z\",\"level\":\"error\",\"event\":\"batch_not_stored\",\"nonce\":1}\n",
    )?;
    transcript.wait_for(
        "a line in a followed log that the key has not signed",
        &["FollowSkipping"],
    )?;
    follower.process.kill();
    transcript.wait_for("a container that follows is killed", &["FollowFailing"])?;
    follower.restart()?;
    poll_until(PATIENCE, || {
        let firing = transcript.firing()?;
        let is_over = !firing.contains("FunctionalScaffoldFollowFailing");
        ensure!(is_over, "FollowFailing does not end");
        Ok(())
    })?;

    pull.terminate()?;
    transcript.wait_for("the app that is pulled ends", &["PullTargetDown"])?;
    // The relay or the exporter sees it first.
    let cells = redis.cells("metrics:request_counter")?;
    let largest = cells.iter().max_by_key(|(_, count)| **count);
    let (largest, _) = largest.context("a cell")?;
    call(
        &redis,
        &["HINCRBY", "metrics:request_counter", largest, "-5"],
    )?;
    transcript.wait_for("a cell is decreased by 5", &["Regressions"])?;
    relay.kill();
    transcript.wait_for("the relay is killed", &["RelayStale"])?;
    drop(pushgateway);
    transcript.wait_for("the Pushgateway ends", &["PushgatewayDown"])?;
    redis.kill();
    transcript.wait_for("Redis is killed", &["RedisDown"])?;
    transcript.wait_during(
        "requests while Redis is down: their batches are in the log",
        &["FollowLagging", "FollowFailing"],
        || {
            send(&app, &good);
            Ok(())
        },
    )?;
    drop(exporter);
    transcript.wait_for("the exporter ends", &["ExporterDown"])?;

    let empty = Prometheus::start_from(&monitoring, &[], INTERVAL)?;
    let rows = std::mem::take(&mut transcript.rows);
    let mut transcript = Transcript {
        prometheus: &empty,
        rows,
    };
    transcript.wait_for("a Prometheus without targets", &["NotScraped"])?;

    let fired: BTreeSet<_> = transcript
        .rows
        .iter()
        .map(|(name, _, _)| name.clone())
        .collect();
    let rules = prometheus.rules()?.into_iter();
    let alerts: BTreeSet<_> = rules
        .filter(|rule| rule.is_alert)
        .map(|rule| rule.name)
        .collect();
    let missing: Vec<_> = alerts.difference(&fired).collect();
    ensure!(missing.is_empty(), "{missing:?} did not fire");
    Ok(())
}
