//! Responses and counts when Redis hangs, dies, loses data, or refuses writes.

use std::{
    collections::{BTreeMap, BTreeSet},
    thread::{self, sleep},
    time::{Duration, Instant},
};

use anyhow::ensure;
use functional_scaffold_testkit::{
    load::{RequestKind, Tally, Until, load},
    process::{free_port, poll_until},
    runtime::{App, AppOptions},
};
use functional_scaffold_tests::{
    PATIENCE,
    service::{NEGATIVE, PRIME, Service, load_all, logged_batches, logged_sum},
};

use crate::Result;

const CONNECTIONS: usize = 32;
const REQUESTS_KEY: &str = "metrics:request_counter";

fn send(app: &App, until: Until) -> Result<Tally> {
    let kinds = [RequestKind::invoke(PRIME), RequestKind::invoke(NEGATIVE)];
    load_all(app, &kinds, CONNECTIONS, until)
}

/// Waits until Redis and the log together hold at least the responses.
fn nothing_is_lost(service: &Service, tally: &Tally) -> Result {
    poll_until(PATIENCE, || {
        let mut held: BTreeMap<String, i64> = service.redis.cells(REQUESTS_KEY)?;
        for batch in logged_batches(&service.app)? {
            for (key, labels, count) in batch.total().cells() {
                if key == REQUESTS_KEY {
                    *held.entry(labels.to_owned()).or_default() += i64::try_from(count)?;
                }
            }
        }
        for (labels, responses) in &tally.responses {
            let count = held.get(labels).copied().unwrap_or_default();
            ensure!(
                count >= *responses,
                "{labels}: {count} of {responses} are held"
            );
        }
        Ok(())
    })
}

#[test]
fn a_hung_redis_fails_no_response_and_loses_no_count() -> Result {
    let service = Service::start()?;
    let mut tally = send(&service.app, Until::Elapsed(Duration::from_secs(1)))?;
    service.redis.suspend()?;
    // Meanwhile instances give up their batches.
    let during = send(&service.app, Until::Elapsed(Duration::from_secs(3)))?;
    let logged = poll_until(PATIENCE, || {
        ensure!(
            !service.app.log("batch_not_stored")?.is_empty(),
            "no batch is logged"
        );
        Ok(())
    });
    service.redis.resume()?;
    logged?;
    assert!(during.total() > 0);
    tally.add(&during);
    tally.add(&send(&service.app, Until::Elapsed(Duration::from_secs(1)))?);
    assert_eq!(
        tally.with_code(200) + tally.with_code(422),
        tally.total(),
        "{tally:?}"
    );
    nothing_is_lost(&service, &tally)
}

/// Readers of a log skip lines of more than 256 KiB.
#[test]
fn a_batch_can_be_replayed_although_an_algorithm_did_not_end_its_line() -> Result {
    // Nothing of the service ends the line either.
    let mut service = Service::start_rogue(|options| options.variable("log_level", "error"))?;
    service.redis.kill();
    let mumbled = service.commit("mumble 300000")?;
    ensure!(mumbled.0 == 200, "{mumbled:?}");
    poll_until(PATIENCE, || {
        let log = service.app.output()?;
        ensure!(log.contains("\"batch_not_stored\""), "no batch is logged");
        Ok(())
    })?;
    service.redis.restart()?;
    // It fails because of the algorithm's line, which is too long.
    let replayed = service.replay_log();
    let counted = service.sum("metrics:algorithm_counter")?;
    ensure!(counted == 1, "{counted}: {replayed:?}");
    Ok(())
}

/// Instances that give up at the same time write at the same time.
#[test]
fn a_large_batch_can_be_replayed_although_others_are_logged_meanwhile() -> Result {
    const MOST_OUTAGES: usize = 20;
    /// A batch of so many executions does not fit into one write of the host.
    const MANY_EXECUTIONS: usize = 24;
    const HOST_PIECE_BYTES: usize = 4096;

    // Executions that are finished and not yet sent fill a batch.
    let service = Service::start_with(|options| {
        let options = options.variable("flush_interval_ms", "500");
        options.variable("lease_timeout_ms", "200")
    })?;
    let url = service.app.url("");
    let kinds = [RequestKind::invoke(PRIME), RequestKind::invoke(NEGATIVE)];
    let has_large_batch = || -> Result<bool> {
        let batches = logged_batches(&service.app)?;
        Ok(batches
            .iter()
            .any(|batch| batch.leased.len() >= MANY_EXECUTIONS))
    };
    let mut tally = Tally::default();
    for _outage in 0..MOST_OUTAGES {
        // The number of executions that get leases, and so are in one batch, depends
        // on the machine's load.
        if has_large_batch()? {
            break;
        }
        let (url, kinds) = (&url, &kinds);
        let part = thread::scope(|scope| {
            let until = Until::Elapsed(Duration::from_millis(2_500));
            let load = scope.spawn(move || load(url, kinds, CONNECTIONS, until));
            sleep(Duration::from_millis(600));
            service.redis.suspend()?;
            // Longer than an instance lingers.
            sleep(Duration::from_millis(1_900));
            service.redis.resume()?;
            anyhow::Ok(load.join().expect("no panic"))
        })?;
        assert_eq!(part.failed, 0);
        tally.add(&part);
    }
    service.wait_for_counts(&tally)?;
    let batches = logged_batches(&service.app)?.len();
    assert!(has_large_batch()?, "none of {batches} batches is large");
    let output = service.app.output()?;
    let longest = output.lines().map(str::len).max();
    assert!(longest < Some(HOST_PIECE_BYTES), "{longest:?}");
    Ok(())
}

#[test]
fn requests_that_wait_for_a_hung_redis_together_stop_waiting_together() -> Result {
    // The longest possible, so that two waits in a row differ from one.
    const LEASE_TIMEOUT: Duration = Duration::from_secs(1);
    // A busy machine may take another second for the requests themselves. Two
    // waits in a row take two in every attempt.
    const ATTEMPTS: usize = 5;

    let mut times = Vec::new();
    for _attempt in 0..ATTEMPTS {
        let service = Service::start_with(|options| options.variable("lease_timeout_ms", "1000"))?;
        service.redis.suspend()?;
        let began = Instant::now();
        let tally = send(&service.app, Until::Requests(CONNECTIONS));
        let time = began.elapsed();
        service.redis.resume()?;
        nothing_is_lost(&service, &tally?)?;
        assert!(time >= LEASE_TIMEOUT, "{time:?}: none waited");
        if time < 2 * LEASE_TIMEOUT {
            return Ok(());
        }
        times.push(time);
    }
    panic!("a request waited twice: {times:?}");
}

#[test]
fn without_redis_every_request_is_responded_to_and_logged() -> Result {
    let app = App::start(&AppOptions::with_redis(free_port()?))?;
    let tally = send(&app, Until::Requests(500))?;
    assert_eq!(tally.total(), 500);
    poll_until(PATIENCE, || {
        let logged = logged_sum(&app, REQUESTS_KEY, "")?;
        ensure!(logged == 500, "{logged} of 500 are logged");
        Ok(())
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
    let batches = logged_batches(&app)?;
    let ids: BTreeSet<_> = batches.iter().map(|batch| &batch.id).collect();
    assert_eq!(ids.len(), batches.len(), "every batch has an id of its own");
    Ok(())
}

#[test]
fn a_redis_that_restarts_or_forgets_the_scripts_is_used_again() -> Result {
    let mut service = Service::start_durable(|options| options)?;
    let mut expected = Tally::default();
    for step in 0..3 {
        match step {
            1 => service.redis.call::<()>(&["SCRIPT", "FLUSH"])?,
            2 => service.redis.restart()?,
            _ => {}
        }
        expected.add(&send(&service.app, Until::Requests(20))?);
        service.wait_for_counts(&expected)?;
    }
    for line in service.app.log("batch_not_stored")? {
        // On a busy machine Redis may be too late for an instance, and nothing else.
        let reason = line["reason"].as_str().unwrap_or_default();
        ensure!(reason.contains("within"), "{line}");
    }
    Ok(())
}

#[test]
fn a_key_of_the_wrong_type_is_named_and_the_rest_is_counted() -> Result {
    let service = Service::start()?;
    service
        .redis
        .call::<()>(&["SET", "metrics:request_latency", "not a hash"])?;
    let tally = send(&service.app, Until::Requests(10))?;
    poll_until(PATIENCE, || {
        let counted = service.redis.cells(REQUESTS_KEY)?;
        ensure!(counted == tally.responses, "{counted:?}");
        Ok(())
    })?;
    // Redis counts before the instance has its reply.
    let refused = poll_until(PATIENCE, || {
        let refused = service.app.log("increments_refused")?;
        ensure!(!refused.is_empty(), "nothing is refused");
        Ok(refused)
    })?;
    let first = refused.first().map(|line| line["refused"][0].to_string());
    let first = first.unwrap_or_default();
    assert!(first.contains("metrics:request_latency"), "{first}");
    assert!(first.contains("WRONGTYPE"), "{first}");
    // Also a later one of the same instance, which no log level may hide.
    let levels: Vec<_> = refused.iter().map(|line| &line["level"]).collect();
    assert!(levels.iter().all(|&level| level == "error"), "{levels:?}");
    Ok(())
}

#[test]
fn a_read_only_redis_keeps_batches_whole() -> Result {
    let service = Service::start()?;
    // A replica without a master refuses writes, as the old master does after a
    // failover.
    let nowhere = free_port()?.to_string();
    service
        .redis
        .call::<()>(&["REPLICAOF", "127.0.0.1", &nowhere])?;
    let tally = send(&service.app, Until::Requests(10))?;
    poll_until(PATIENCE, || {
        let lines = service.app.log("batch_not_stored")?;
        let reasons = lines.iter().filter_map(|line| line["reason"].as_str());
        let named = reasons
            .filter(|reason| reason.to_lowercase().contains("read"))
            .count();
        ensure!(named > 0, "{lines:?}");
        Ok(())
    })?;
    service.redis.call::<()>(&["REPLICAOF", "NO", "ONE"])?;
    nothing_is_lost(&service, &tally)
}
