//! What happens to responses and counts when Redis hangs, dies, forgets, or
//! refuses.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use functional_scaffold_protocol::batch::{Batch, SentBatch};
use functional_scaffold_tests::{
    app::{App, AppOptions},
    client::{Kind, Ledger, Until, load},
    exporter::replay,
    process::{free_port, poll_until},
    redis_server::RedisServer,
};

type Result<T = ()> = anyhow::Result<T>;

const CONCURRENCY: usize = 32;
/// How long after the last response everything is stored or logged: the time
/// an instance lingers for its flush, and a margin.
const SETTLED: Duration = Duration::from_secs(4);

async fn invoke(app: &App, until: Until) -> Result<Ledger> {
    let kinds = [
        Kind::invoke(r#"{"number": 17}"#),
        Kind::invoke(r#"{"number": -1}"#),
    ];
    load(&app.url(""), &kinds, CONCURRENCY, until).await
}

/// What Redis holds and what the log holds, by label set of the request
/// counter.
fn held(redis: &RedisServer, app: &App) -> Result<BTreeMap<String, i64>> {
    let mut held = redis.cells("metrics:request_counter")?;
    for batch in app.logged_batches()? {
        for (key, labels, count) in batch.total().cells() {
            if key == "metrics:request_counter" {
                *held.entry(labels.to_owned()).or_default() += i64::try_from(count)?;
            }
        }
    }
    Ok(held)
}

/// Waits until Redis and the log together hold at least what was answered.
fn nothing_is_lost(redis: &RedisServer, app: &App, ledger: &Ledger) -> Result {
    poll_until(SETTLED, || {
        let held = held(redis, app)?;
        for (labels, answers) in &ledger.answers {
            let count = held.get(labels).copied().unwrap_or_default();
            anyhow::ensure!(count >= *answers, "{labels}: {count} of {answers} are held");
        }
        Ok(())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_redis_fails_no_response_and_loses_no_count() -> Result {
    let redis = RedisServer::start()?;
    let app = App::start(&AppOptions::with_redis(redis.port()))?;
    let before = invoke(&app, Until::Elapsed(Duration::from_secs(1))).await?;
    redis.hang()?;
    let during = invoke(&app, Until::Elapsed(Duration::from_secs(5))).await?;
    redis.resume()?;
    let after = invoke(&app, Until::Elapsed(Duration::from_secs(1))).await?;

    let mut all = Ledger::default();
    for ledger in [&before, &during, &after] {
        assert_eq!(ledger.unanswered, 0);
        assert_eq!(
            ledger.with_code(200) + ledger.with_code(422),
            ledger.total(),
            "{ledger:?}"
        );
        for (labels, count) in &ledger.answers {
            *all.answers.entry(labels.clone()).or_default() += count;
        }
    }
    assert!(during.total() > 0);
    assert!(!app.log("batch_not_stored")?.is_empty());
    nothing_is_lost(&redis, &app, &all)
}

/// Instances that give up at the same time write at the same time.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_batch_can_be_replayed_although_others_are_logged_meanwhile() -> Result {
    const OUTAGES: usize = 4;
    /// Such a batch does not fit into what a host writes at once.
    const MANY_EXECUTIONS: usize = 24;
    const HOST_PIECE_BYTES: usize = 4096;

    let redis = RedisServer::start()?;
    // What is finished and not yet sent fills a batch.
    let options = AppOptions::with_redis(redis.port()).variable("flush_interval_ms", "500");
    let app = App::start(&options.variable("lease_timeout_ms", "200"))?;
    let load = invoke(
        &app,
        Until::Elapsed(Duration::from_millis(2500 * OUTAGES as u64)),
    );
    let outages = async {
        for _ in 0..OUTAGES {
            tokio::time::sleep(Duration::from_millis(600)).await;
            redis.hang()?;
            // Longer than an instance lingers.
            tokio::time::sleep(Duration::from_millis(1900)).await;
            redis.resume()?;
        }
        anyhow::Ok(())
    };
    let (ledger, outages) = tokio::join!(load, outages);
    let ledger = ledger?;
    outages?;
    assert_eq!(ledger.unanswered, 0);
    poll_until(SETTLED, || {
        replay(redis.port(), &app.output()?)?;
        let counted = redis.cells("metrics:request_counter")?;
        anyhow::ensure!(counted == ledger.answers, "{counted:?} of {ledger:?}");
        Ok(())
    })?;
    let batches = app.logged_batches()?;
    let large = batches
        .iter()
        .filter(|batch| batch.leased.len() >= MANY_EXECUTIONS);
    // Several dozen; fewer where Redis acknowledges few leases in time.
    assert!(large.count() > 0, "of {} batches", batches.len());
    let output = app.output()?;
    let longest = output.lines().map(str::len).max();
    assert!(longest < Some(HOST_PIECE_BYTES), "{longest:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_wait_for_a_hung_redis_together_stop_together() -> Result {
    // The longest there is, so that two waits in a row differ from one on the
    // slowest machine.
    const LEASE_TIMEOUT: Duration = Duration::from_secs(1);

    let redis = RedisServer::start()?;
    redis.hang()?;
    let options = AppOptions::with_redis(redis.port());
    let app = App::start(&options.variable("lease_timeout_ms", "1000"))?;
    let began = Instant::now();
    let ledger = invoke(&app, Until::Requests(CONCURRENCY)).await?;
    let took = began.elapsed();
    redis.resume()?;
    assert_eq!(ledger.unanswered, 0);
    assert!(took >= LEASE_TIMEOUT, "{took:?}: nobody waited");
    assert!(took < 2 * LEASE_TIMEOUT, "{took:?}: somebody waited twice");
    nothing_is_lost(&redis, &app, &ledger)
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_everything_is_answered_and_logged() -> Result {
    let port = free_port()?;
    let app = App::start(&AppOptions::with_redis(port))?;
    let ledger = invoke(&app, Until::Requests(500)).await?;
    assert_eq!((ledger.unanswered, ledger.total()), (0, 500));
    let batches = poll_until(SETTLED, || {
        let batches = app.logged_batches()?;
        let totals = batches.iter().map(SentBatch::total).collect::<Vec<_>>();
        let cells = totals.iter().flat_map(Batch::cells);
        let requests = cells.filter(|(key, _, _)| *key == "metrics:request_counter");
        let logged: u64 = requests.map(|(_, _, count)| count).sum();
        anyhow::ensure!(logged == 500, "{logged} of 500 are logged");
        Ok(batches)
    })?;
    // A batch in the log can be applied from there: id, time and increments.
    for line in app.log("batch_not_stored")? {
        assert_eq!(line["level"], "error");
        assert!(line["id"].is_string() && line["time"].is_string(), "{line}");
        assert!(
            line["reason"]
                .as_str()
                .is_some_and(|reason| !reason.is_empty())
        );
    }
    let ids: BTreeSet<_> = batches.iter().map(|batch| &batch.id).collect();
    assert_eq!(ids.len(), batches.len(), "every batch has an id of its own");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_restarts_or_forgets_the_scripts_is_used_again() -> Result {
    let mut redis = RedisServer::start()?;
    let app = App::start(&AppOptions::with_redis(redis.port()))?;
    let mut expected: BTreeMap<String, i64> = BTreeMap::new();
    for step in 0..3 {
        match step {
            1 => redis.call::<()>(&["SCRIPT", "FLUSH"])?,
            2 => redis.restart()?,
            _ => {}
        }
        let ledger = invoke(&app, Until::Requests(20)).await?;
        for (labels, count) in ledger.answers {
            *expected.entry(labels).or_default() += count;
        }
        poll_until(SETTLED, || {
            let counted = redis.cells("metrics:request_counter")?;
            anyhow::ensure!(counted == expected, "step {step}: {counted:?}");
            Ok(())
        })?;
    }
    assert!(app.log("batch_not_stored")?.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_the_wrong_type_is_named_and_the_rest_is_counted() -> Result {
    let redis = RedisServer::start()?;
    redis.call::<()>(&["SET", "metrics:request_latency", "not a hash"])?;
    let app = App::start(&AppOptions::with_redis(redis.port()))?;
    let ledger = invoke(&app, Until::Requests(10)).await?;
    poll_until(SETTLED, || {
        let counted = redis.cells("metrics:request_counter")?;
        anyhow::ensure!(counted == ledger.answers, "{counted:?}");
        Ok(())
    })?;
    let refused = app.log("increments_refused")?;
    let first = refused.first().map(|line| line["refused"][0].to_string());
    let first = first.unwrap_or_default();
    assert!(first.contains("metrics:request_latency"), "{first}");
    assert!(first.contains("WRONGTYPE"), "{first}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_redis_keeps_batches_whole() -> Result {
    let redis = RedisServer::start()?;
    let app = App::start(&AppOptions::with_redis(redis.port()))?;
    // A replica of nowhere refuses writes, as the old master does after a
    // failover.
    let nowhere = free_port()?.to_string();
    redis.call::<()>(&["REPLICAOF", "127.0.0.1", &nowhere])?;
    let ledger = invoke(&app, Until::Requests(10)).await?;
    let lines = poll_until(SETTLED, || {
        let lines = app.log("batch_not_stored")?;
        anyhow::ensure!(!lines.is_empty());
        Ok(lines)
    })?;
    assert!(
        lines[0]["reason"]
            .as_str()
            .is_some_and(|reason| reason.to_lowercase().contains("read")),
        "{}",
        lines[0]
    );
    redis.call::<()>(&["REPLICAOF", "NO", "ONE"])?;
    nothing_is_lost(&redis, &app, &ledger)
}
