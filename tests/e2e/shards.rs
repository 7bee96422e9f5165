//! Instances that are divided among shards: on several Redis servers, and in a Redis
//! Cluster whose slots move and whose masters die.

use std::{
    collections::BTreeMap,
    fs,
    process::{Command, Output},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use functional_scaffold_protocol::{
    batch::{Joiner, LoggedBatch, LoggedPart},
    calls::{ApplyReply, Script, apply_call},
    shard::{shard_of, shard_prefix},
};
use functional_scaffold_testkit::{
    exporter::{self, Exporter},
    http,
    load::{RequestKind, Tally, Until},
    process::poll_until,
    redis::{RedisOptions, RedisServer},
    redis_cluster::RedisCluster,
    repository,
    runtime::{App, AppOptions},
};
use functional_scaffold_tests::{
    PATIENCE,
    batch_log::EVENT,
    service::{NEGATIVE, PRIME, load_all, readiness},
};
use tempfile::TempDir;

use crate::Result;

const SHARDS: u32 = 4;
const CONNECTIONS: usize = 8;

/// The servers of the shards.
type Servers<'a> = &'a dyn Fn(u32) -> Result<&'a RedisServer>;

/// The application in several shards. It may reach all of loopback.
struct Sharded {
    app: App,
    shards: u32,
    _folder: TempDir,
}

impl Sharded {
    /// In [`SHARDS`] shards. `hosts` is the variable `redis_host`.
    fn start(hosts: &str, change: impl FnOnce(AppOptions) -> AppOptions) -> Result<Self> {
        Self::start_in(SHARDS, hosts, change)
    }

    fn start_in(
        shards: u32,
        hosts: &str,
        change: impl FnOnce(AppOptions) -> AppOptions,
    ) -> Result<Self> {
        let text = fs::read_to_string(repository().join("spin.toml"))?;
        let configured = "\"redis://{{ redis_host }}:{{ redis_port }}\", \
                          \"rediss://{{ redis_host }}:{{ redis_port }}\"";
        ensure!(
            text.contains(configured),
            "{configured} is not in spin.toml"
        );
        let text = text.replace(configured, "\"redis://127.0.0.1:*\"");
        let root = repository().canonicalize()?;
        let text = text.replace("\"target/", &format!("\"{}/target/", root.display()));
        let folder = tempfile::tempdir()?;
        let manifest = folder.path().join("spin.toml");
        fs::write(&manifest, text)?;
        let options = AppOptions {
            component: Some("prime-check"),
            ..AppOptions::with_redis(6379).manifest(manifest)
        };
        let options = options
            .variable("metrics_shards", &shards.to_string())
            .variable("redis_host", hosts)
            // So there are many instances.
            .arguments(&["--max-instance-reuse-count", "8"]);
        Ok(Self {
            app: App::start(&change(options))?,
            shards,
            _folder: folder,
        })
    }

    fn send(&self, until: Until) -> Result<Tally> {
        let kinds = [RequestKind::invoke(PRIME), RequestKind::invoke(NEGATIVE)];
        load_all(&self.app, &kinds, CONNECTIONS, until)
    }

    /// Waits until the shards together have counted exactly these responses. Replays
    /// what is in the log.
    fn wait_for_counts(&self, expected: &Tally, servers: Servers<'_>) -> Result {
        poll_until(PATIENCE, || {
            for logged in logged(&self.app)? {
                let shard = logged.shard.context("a line without a shard")?;
                replay(&logged, &shard_prefix("metrics:", shard), servers(shard)?)?;
            }
            let mut counted = BTreeMap::new();
            for shard in 0..self.shards {
                for (labels, count) in requests(shard, servers(shard)?)? {
                    *counted.entry(labels).or_insert(0) += count;
                }
            }
            let expected = &expected.responses;
            ensure!(counted == *expected, "{counted:#?} is not {expected:#?}");
            Ok(())
        })
    }
}

/// What a shard has counted.
fn requests(shard: u32, server: &RedisServer) -> Result<BTreeMap<String, i64>> {
    server.cells(&format!(
        "{}request_counter",
        shard_prefix("metrics:", shard)
    ))
}

/// The whole batches in the log.
fn logged(app: &App) -> Result<Vec<LoggedBatch>> {
    let mut joiner = Joiner::default();
    let mut batches = Vec::new();
    for line in app.output()?.lines().filter(|line| line.contains(EVENT)) {
        let part: LoggedPart = serde_json::from_str(line)?;
        batches.extend(joiner.push(part)?);
    }
    Ok(batches)
}

/// Stores a batch of the log, unless it is stored.
fn replay(logged: &LoggedBatch, prefix: &str, server: &RedisServer) -> Result {
    let mut batch = logged.batch.clone();
    // A batch that was never sent gets the time of the first reply.
    let is_new = batch.frozen_ms.is_none();
    for _attempt in 0..2 {
        let mut eval = redis::cmd("EVAL");
        eval.arg(Script::APPLY.source);
        for part in apply_call(prefix, &batch).parts() {
            eval.arg(part);
        }
        let reply = eval.query(&mut server.connect()?)?;
        match ApplyReply::decode(reply)? {
            ApplyReply::TooOld { lease_time_millis } if is_new => {
                batch.frozen_ms = Some(lease_time_millis);
            }
            ApplyReply::Stored { .. } | ApplyReply::Duplicate => return Ok(()),
            reply => bail!("{batch:?} is refused: {reply:?}"),
        }
    }
    bail!("{batch:?} is too old")
}

/// Fails if a batch is in the log for another reason than a busy machine, unless its
/// shard is `down`.
fn nothing_is_refused(app: &App, down: Option<u32>) -> Result {
    for line in app.log(EVENT)? {
        let reason = line["reason"].as_str().unwrap_or_default();
        let is_down = down.is_some_and(|shard| line["shard"] == shard);
        ensure!(is_down || reason.contains("no reply within"), "{line}");
    }
    Ok(())
}

/// The nonces of the instances that wrote to a shard.
fn writers(shard: u32, server: &RedisServer) -> Result<Vec<u64>> {
    const PAIR_SHIFT: u32 = 51;
    let applied = format!("{}applied:", shard_prefix("metrics:", shard));
    let keys: Vec<String> = server.call(&["KEYS", &format!("{applied}*")])?;
    let mut nonces = Vec::new();
    for key in keys {
        let pair = key[applied.len()..].split(':').next().context("a pair")?;
        let pair = u64::from_str_radix(pair, 16)? << PAIR_SHIFT;
        let fields: Vec<String> = server.call(&["HKEYS", &key])?;
        for field in fields.iter().filter(|field| *field != "turn") {
            nonces.push(pair | u64::from_str_radix(field, 16)?);
        }
    }
    Ok(nonces)
}

#[test]
fn instances_are_divided_among_servers_and_an_outage_of_one_is_its_own() -> Result {
    const DOWN: u32 = 2;
    let start = |_| RedisOptions::new().append_only("always").start();
    let mut redis = (0..SHARDS).map(start).collect::<Result<Vec<_>>>()?;
    let sharded = Sharded::start(&hosts(&redis), |options| options)?;

    let mut tally = sharded.send(Until::Requests(400))?;
    sharded.wait_for_counts(&tally, &|shard| Ok(&redis[shard as usize]))?;
    nothing_is_refused(&sharded.app, None)?;
    for shard in 0..SHARDS {
        let server = &redis[shard as usize];
        assert!(
            !requests(shard, server)?.is_empty(),
            "shard {shard} has none"
        );
        let prefix = shard_prefix("metrics:", shard);
        let keys: Vec<String> = server.call(&["KEYS", "*"])?;
        let others: Vec<_> = keys
            .iter()
            .filter(|key| !key.starts_with(&prefix))
            .collect();
        assert_eq!(others, Vec::<&String>::new());
        let writers = writers(shard, server)?;
        assert!(!writers.is_empty());
        for writer in writers {
            assert_eq!(shard_of(writer, SHARDS), shard, "{writer:x}");
        }
    }

    redis[DOWN as usize].kill();
    tally.add(&sharded.send(Until::Requests(400))?);
    poll_until(PATIENCE, || {
        let lines = sharded.app.log(EVENT)?;
        let is_logged = lines.iter().any(|line| line["shard"] == DOWN);
        ensure!(is_logged, "no batch of shard {DOWN} is logged: {lines:?}");
        Ok(())
    })?;
    redis[DOWN as usize].restart()?;
    sharded.wait_for_counts(&tally, &|shard| Ok(&redis[shard as usize]))?;
    nothing_is_refused(&sharded.app, Some(DOWN))
}

#[test]
fn a_fifth_shard_adds_to_the_counts_of_four() -> Result {
    let start = |_| RedisServer::start();
    let redis = (0..=SHARDS).map(start).collect::<Result<Vec<_>>>()?;
    let four = &redis[..SHARDS as usize];
    let server = |shard: u32| Ok(&redis[shard as usize]);
    let sharded = Sharded::start(&hosts(four), |options| options)?;
    let mut tally = sharded.send(Until::Requests(400))?;
    sharded.wait_for_counts(&tally, &server)?;
    assert_eq!(served(&exporter(four)?)?, Some(tally.total()));

    // In the order of docs/shards.md.
    let exporter = exporter(&redis)?;
    assert_eq!(served(&exporter)?, Some(tally.total()), "an empty shard");
    drop(sharded);
    let sharded = Sharded::start_in(SHARDS + 1, &hosts(&redis), |options| options)?;
    tally.add(&sharded.send(Until::Requests(400))?);
    sharded.wait_for_counts(&tally, &server)?;
    assert!(!requests(SHARDS, server(SHARDS)?)?.is_empty());
    assert_eq!(served(&exporter)?, Some(tally.total()));
    Ok(())
}

#[test]
fn no_scrape_shows_half_of_a_wipe_under_load() -> Result {
    let start = |_| RedisServer::start();
    let redis = (0..SHARDS).map(start).collect::<Result<Vec<_>>>()?;
    let server = |shard: u32| Ok(&redis[shard as usize]);
    // A user of Redis who may not wipe the last shard.
    let last = &redis[redis.len() - 1];
    for redis in &redis {
        redis.call::<()>(&["ACL", "SETUSER", "wiper", "on", ">w", "~*", "+@all"])?;
    }
    last.call::<()>(&["ACL", "SETUSER", "wiper", "-eval", "-evalsha"])?;
    let wipe = || -> Result<Output> {
        let mut command = exporter_command(&redis)?;
        command.envs([("REDIS_USERNAME", "wiper"), ("REDIS_PASSWORD", "w")]);
        Ok(command.args(["wipe", "--yes"]).output()?)
    };
    let sharded = Sharded::start(&hosts(&redis), |options| options)?;
    let before = sharded.send(Until::Requests(6_000))?;
    sharded.wait_for_counts(&before, &server)?;
    let of_shards = || -> Result<Vec<i64>> {
        let of_a_shard = |shard| Ok(requests(shard, server(shard)?)?.values().sum());
        (0..SHARDS).map(of_a_shard).collect()
    };
    let counted = of_shards()?;
    let exporter = exporter(&redis)?;
    assert_eq!(served(&exporter)?, Some(before.total()));

    let is_over = AtomicBool::new(false);
    let (during, shown) = thread::scope(|scope| {
        let load = scope.spawn(|| sharded.send(Until::Requests(800)));
        let scrapes = scope.spawn(|| {
            let mut shown = Vec::new();
            loop {
                let is_last = is_over.load(Ordering::Relaxed);
                shown.extend(served(&exporter)?);
                if is_last {
                    return anyhow::Ok(shown);
                }
            }
        });
        let refused = wipe();
        let half_done = of_shards();
        thread::sleep(Duration::from_millis(300));
        let allowed = last.call::<()>(&["ACL", "SETUSER", "wiper", "+@all"]);
        let completed = wipe();
        let during = load.join().expect("no panic");
        // The load may have ended before the wipe, which then left nothing to show.
        let later = sharded.send(Until::Requests(80));
        let is_counted = poll_until(PATIENCE, || {
            served(&exporter)?.context("no request is counted")
        });
        is_over.store(true, Ordering::Relaxed);
        let shown = scrapes.join().expect("no panic");
        let (refused, half_done) = (refused?, half_done?);
        ensure!(!refused.status.success(), "{refused:?}");
        let is_half_done = half_done[0] < counted[0] && half_done.last() >= counted.last();
        ensure!(is_half_done, "{counted:?}, {half_done:?}: {refused:?}");
        allowed?;
        let completed = completed?;
        ensure!(completed.status.success(), "{completed:?}");
        is_counted?;
        anyhow::Ok((during?.total() + later?.total(), shown?))
    })?;
    let after: i64 = of_shards()?.into_iter().sum();
    assert!(after <= during, "{after} of {during}");
    // A wipe that is half done would show what the last shard had.
    ensure!(
        counted.last() > Some(&during),
        "{counted:?} are too few to tell them from {during}"
    );
    let is_whole = |&count: &i64| count >= before.total() || count <= during;
    assert!(shown.iter().all(is_whole), "{shown:?}");
    assert!(shown.iter().any(|&count| count <= during), "{shown:?}");

    // Writers are not affected.
    let settled = poll_until_unchanged(&exporter)?;
    let more = sharded.send(Until::Requests(200))?.total();
    wait_until_served(&exporter, settled + more)?;
    nothing_is_refused(&sharded.app, None)
}

fn wait_until_served(exporter: &Exporter, expected: i64) -> Result {
    poll_until(PATIENCE, || {
        let count = served(exporter)?;
        ensure!(count == Some(expected), "{count:?} of {expected}");
        Ok(())
    })
}

/// The variable `redis_host` of these servers.
fn hosts(redis: &[RedisServer]) -> String {
    let hosts = redis
        .iter()
        .map(|redis| format!("127.0.0.1:{}", redis.port()));
    hosts.collect::<Vec<_>>().join(",")
}

/// An exporter of a shard on each of these servers.
fn exporter(redis: &[RedisServer]) -> Result<Exporter> {
    let (hosts, shards) = (hosts(redis), redis.len().to_string());
    let variables = [
        ("REDIS_HOST", hosts.as_ref()),
        ("METRICS_SHARDS", shards.as_ref()),
    ];
    Exporter::start_with(redis[0].port(), &variables)
}

fn exporter_command(redis: &[RedisServer]) -> Result<Command> {
    let mut command = exporter::command(&exporter::program()?);
    command
        .env("REDIS_HOST", hosts(redis))
        .env("METRICS_SHARDS", redis.len().to_string());
    Ok(command)
}

/// The number of requests that an exporter shows; none if it cannot read Redis.
fn served(exporter: &Exporter) -> Result<Option<i64>> {
    let text = exporter.scrape()?;
    let series = text
        .lines()
        .filter(|line| line.starts_with("http_requests_total{"));
    let mut sum = None;
    for line in series {
        let (_, count) = line.rsplit_once(' ').context("no value")?;
        *sum.get_or_insert(0) += count.parse::<i64>()?;
    }
    Ok(sum)
}

/// Waits until an exporter shows the same number of requests for a second.
fn poll_until_unchanged(exporter: &Exporter) -> Result<i64> {
    let mut last = None;
    poll_until(PATIENCE, || {
        let count = served(exporter)?;
        let is_unchanged = last == count;
        last = count;
        thread::sleep(Duration::from_secs(1));
        ensure!(is_unchanged, "{count:?} is not the last");
        count.context("there are no requests")
    })
}

fn server(cluster: &RedisCluster, shard: u32) -> Result<&RedisServer> {
    let master = cluster.master_of(&shard_prefix("metrics:", shard))?;
    Ok(cluster.node(master))
}

#[test]
fn a_cluster_counts_exactly_while_slots_move_and_a_master_dies() -> Result {
    let mut cluster = RedisCluster::start(3)?;
    let [moved, killed] = [0, 1];
    let [moved_prefix, killed_prefix] = [moved, killed].map(|n| shard_prefix("metrics:", n));
    let (from, old) = (
        cluster.master_of(&moved_prefix)?,
        cluster.master_of(&killed_prefix)?,
    );
    // A master that has neither.
    let entry = (0..3).find(|master| ![from, old].contains(master));
    let entry = entry.context("the shards are on two masters")?;
    let entry = format!("127.0.0.1:{}", cluster.node(entry).port());
    let sharded = Sharded::start(&entry, |options| options)?;

    let mut tally = sharded.send(Until::Requests(200))?;
    sharded.wait_for_counts(&tally, &|shard| server(&cluster, shard))?;
    nothing_is_refused(&sharded.app, None)?;
    // A redirection is followed at once, and costs no attempt.
    assert!(!sharded.app.output()?.contains("Redis Cluster redirects"));
    for shard in 0..SHARDS {
        assert!(!requests(shard, server(&cluster, shard)?)?.is_empty());
    }

    let during = |event: &mut dyn FnMut() -> Result| {
        thread::scope(|scope| {
            let load = scope.spawn(|| sharded.send(Until::Elapsed(Duration::from_secs(3))));
            let happened = event();
            let tally = load.join().expect("no panic")?;
            happened.map(|()| tally)
        })
    };
    tally.add(&during(&mut || cluster.move_slot(&moved_prefix, old))?);
    sharded.wait_for_counts(&tally, &|shard| server(&cluster, shard))?;
    assert_eq!(cluster.master_of(&moved_prefix)?, old);

    let mut new = old;
    tally.add(&during(&mut || {
        // What a master has not replicated is lost with it. So that the sum is exact,
        // clients wait for it when it dies.
        let master = cluster.node(old);
        master.call::<()>(&["CLIENT", "PAUSE", "60000", "WRITE"])?;
        poll_until(PATIENCE, || {
            let [sent, received] = [old, old + 3].map(|number| -> Result<String> {
                let info: String = cluster.node(number).call(&["INFO", "replication"])?;
                let mut lines = info.lines();
                let offset = lines.find_map(|line| line.strip_prefix("master_repl_offset:"));
                Ok(offset.context("no offset")?.to_owned())
            });
            let (sent, received) = (sent?, received?);
            ensure!(sent == received, "{received} of {sent} are replicated");
            Ok(())
        })?;
        new = cluster.fail_over(&killed_prefix)?;
        Ok(())
    })?);
    assert_eq!(new, old + 3, "its replica");
    tally.add(&sharded.send(Until::Requests(100))?);
    sharded.wait_for_counts(&tally, &|shard| server(&cluster, shard))
}

/// Middleware whose store is denied counts nothing any more. A denied node is no such
/// store: its slots may move.
#[test]
fn a_node_that_the_manifest_does_not_allow_is_named_and_turns_nothing_off() -> Result {
    const PREFIX: &str = "metrics:{0}:";
    let cluster = RedisCluster::start(3)?;
    let denied = cluster.master_of(PREFIX)?;
    let entry = (denied + 1) % 3;
    let [denied_port, port] = [denied, entry].map(|node| cluster.node(node).port());
    let reason = format!(
        "the manifest's allowed_outbound_hosts does not allow redis://127.0.0.1:{denied_port}, \
         the node of the Redis Cluster that has the keys"
    );
    let options = AppOptions::with_redis(port)
        .variable("metrics_shards", "1")
        .variable("redis_timeout_ms", "5000");
    let service = App::start(&options.clone().lasting())?;
    let plain = options.manifest(repository().join("tests/plain/spin.toml"));
    let plain = App::start(&plain.lasting())?;

    let tally = load_all(
        &service,
        &[RequestKind::invoke(PRIME)],
        1,
        Until::Requests(5),
    )?;
    http::get(plain.address(), "/")?;
    let apps = [&service, &plain];
    for app in apps {
        poll_until(PATIENCE, || {
            let lines = app.log(EVENT)?;
            let mut lines = lines.iter();
            let is_named = lines.any(|line| line["reason"] == *reason && line["shard"] == 0);
            ensure!(is_named, "{}", app.output()?);
            Ok(())
        })?;
        assert_eq!(app.log("misconfigured")?, Vec::<serde_json::Value>::new());
    }
    let (code, text) = readiness(&service)?;
    assert!(code == 503 && text.contains(&reason), "{code} {text}");

    cluster.move_slot(PREFIX, entry)?;
    let more = load_all(
        &service,
        &[RequestKind::invoke(PRIME)],
        1,
        Until::Requests(5),
    )?;
    http::get(plain.address(), "/")?;
    let expected = tally.total() + more.total() + 2;
    poll_until(PATIENCE, || {
        for app in apps {
            for batch in logged(app)? {
                replay(&batch, PREFIX, cluster.node(entry))?;
            }
        }
        let counted = requests(0, cluster.node(entry))?;
        let invoked = counted
            .iter()
            .filter(|(labels, _)| !labels.contains("readyz"));
        let count: i64 = invoked.map(|(_, count)| count).sum();
        ensure!(count == expected, "{counted:?} are not {expected}");
        Ok(())
    })
}

#[test]
fn a_database_in_a_cluster_and_hosts_without_shards_are_named() -> Result {
    let cluster = RedisCluster::start(3)?;
    let entry = format!("127.0.0.1:{}", cluster.node(0).port());
    let sharded = Sharded::start(&entry, |options| {
        options
            .variable("redis_metrics_db", "1")
            .variable("redis_timeout_ms", "5000")
    })?;
    let (code, text) = readiness(&sharded.app)?;
    let words = "redis_metrics_db";
    assert!(code == 503 && text.contains(words), "{code} {text}");
    let hosts = "127.0.0.1:1,127.0.0.1:2";
    let sharded = Sharded::start(hosts, |options| options)?;
    let (code, text) = readiness(&sharded.app)?;
    let words = "redis_host: 2 hosts for 4 shards";
    assert!(code == 503 && text.contains(words), "{code} {text}");
    Ok(())
}
