//! Every execution that began is counted once, whatever dies in between.

use std::{thread, time::Duration};

use anyhow::ensure;
use functional_scaffold_protocol::lease::Lease;
use functional_scaffold_testkit::{
    exporter::Exporter,
    http::{self, Response},
    load::{RequestKind, Until},
    process::{Signal, poll_until},
    redis::RedisServer,
    repository,
    runtime::Runtime,
};
use functional_scaffold_tests::{
    PATIENCE,
    batch_log::EVENT,
    retry_if_too_busy,
    service::{PRIME, Service, invoke, load_all, readiness},
};
use serde_json::Value;

use crate::Result;

/// The shortest execution limit, so that a lease expires soon: after this and a
/// margin of five seconds.
const LIMIT_MS: &str = "100";

/// The rogue algorithm with an exporter, which settles expired leases.
struct Settled {
    service: Service,
    _exporter: Exporter,
}

impl Settled {
    fn start(durability: &str, arguments: &[&str]) -> Result<Self> {
        let service = Service::start_rogue(|options| {
            options
                .variable("execution_limit_ms", LIMIT_MS)
                .variable("metrics_durability", durability)
                .arguments(arguments)
        })?;
        Ok(Self {
            _exporter: Exporter::start(service.redis.port())?,
            service,
        })
    }

    fn commit(&self, misdeed: &str) -> Result<u16> {
        Ok(self.service.commit(misdeed)?.0)
    }

    /// Waits until exactly these executions, and these requests by their status
    /// code, are counted.
    fn counted(&self, executions: &[(&str, i64)], requests: &[(u16, i64)]) -> Result {
        let labels = |status| format!("algorithm=\"rogue\",status=\"{status}\"");
        let executions = executions
            .iter()
            .map(|&(status, count)| (labels(status), count));
        self.service
            .wait_for("metrics:algorithm_counter", &executions.collect())?;
        poll_until(PATIENCE, || {
            let counted = self.service.redis.cells("metrics:request_counter")?;
            for &(code, expected) in requests {
                let label = format!("code=\"{code}\"");
                let cells = counted.iter().filter(|(labels, _)| labels.contains(&label));
                let found: i64 = cells.map(|(_, count)| count).sum();
                ensure!(found == expected, "{found} of {expected} responses {code}");
            }
            Ok(())
        })
    }
}

#[test]
fn a_trap_is_counted_once_as_crashed() -> Result {
    let settled = Settled::start("exact", &[])?;
    // The first one dies before the first flush.
    for misdeed in ["trap", "exit", "trap"] {
        assert_eq!(settled.commit(misdeed)?, 500);
    }
    assert_eq!(settled.commit("nothing")?, 200);
    settled.counted(&[("crashed", 3), ("success", 1)], &[(500, 3), (200, 1)])?;
    assert_eq!(settled.service.sum("metrics:settled_counter")?, 3);
    assert_eq!(settled.service.sum("metrics:late_counter")?, 0);
    Ok(())
}

#[test]
fn a_trap_is_counted_although_nothing_was_ever_flushed() -> Result {
    let settled = Settled::start("exact", &[])?;
    assert_eq!(settled.commit("trap")?, 500);
    settled.counted(&[("crashed", 1)], &[(500, 1)])
}

#[test]
fn an_endless_loop_is_counted_once_as_crashed() -> Result {
    if Runtime::from_environment()?.is_spin() {
        // The loop would keep one of Spin's worker threads for good.
        return Ok(());
    }
    let settled = Settled::start("exact", &["--execution-limit", "500ms"])?;
    assert_eq!(settled.commit("loop")?, 500);
    assert_eq!(settled.commit("nothing")?, 200);
    settled.counted(&[("crashed", 1), ("success", 1)], &[(500, 1), (200, 1)])
}

#[test]
fn a_result_after_the_limit_is_late_and_the_status_stays() -> Result {
    let settled = Settled::start("exact", &[])?;
    let service = &settled.service;
    let status = thread::scope(|scope| {
        // Far longer than limit, margin and the exporter's interval together, if
        // the machine keeps up.
        let execution = scope.spawn(|| settled.commit("work 9000"));
        if !Runtime::from_environment()?.is_spin() {
            poll_until(PATIENCE, || {
                let leases: i64 = service.redis.call(&["ZCARD", "metrics:leases"])?;
                ensure!(leases == 1, "{leases} leases");
                Ok(())
            })?;
            // Otherwise the result waits until Redis responds.
            service.app.process().signal(Signal::STOP)?;
            let settled = poll_until(PATIENCE, || {
                ensure!(
                    service.sum("metrics:settled_counter")? == 1,
                    "no lease is settled"
                );
                Ok(())
            });
            service.app.process().signal(Signal::CONT)?;
            settled?;
        }
        execution.join().expect("no panic")
    })?;
    assert_eq!(status, 200);
    poll_until(PATIENCE, || {
        let late = service.sum("metrics:late_counter")?;
        ensure!(late == 1, "{late} results are late");
        Ok(())
    })?;
    settled.counted(&[("crashed", 1)], &[(500, 1), (200, 0)])
}

#[test]
fn in_strict_mode_a_response_is_a_stored_count() -> Result {
    let service = Service::start_with(|options| {
        options
            .variable("metrics_durability", "strict")
            // Longer than any pause of a busy machine, on which there would be a 503.
            .variable("redis_timeout_ms", "5000")
    })?;
    for round in 1..=20 {
        let tally = service.load(&[RequestKind::invoke(PRIME)], 8, Until::Requests(40))?;
        // Without waiting: strict responses are already counted.
        let counted = service.sum("metrics:request_counter")?;
        assert_eq!(counted, round * 40, "{tally:?}");
    }
    let leases: i64 = service.redis.call(&["ZCARD", "metrics:leases"])?;
    assert_eq!(leases, 0);
    Ok(())
}

#[test]
fn while_leases_are_late_they_are_still_sent_and_executions_leave_a_trace() -> Result {
    let (service, traces) = retry_if_too_busy(kill_while_leases_are_late)?;
    for trace in traces {
        let labels = ["endpoint", "algorithm"].map(|name| trace[name].as_str());
        assert_eq!(labels, [Some("/invoke"), Some("rogue")]);
    }
    let settled = Settled {
        _exporter: Exporter::start(service.redis.port())?,
        service,
    };
    settled.counted(&[("crashed", 3), ("success", 1)], &[(500, 3), (200, 1)])
}

/// Kills an instance with three requests, whose leases Redis has not acknowledged. Returns
/// the traces of two executions. `None` if not all were at the same time in one instance.
fn kill_while_leases_are_late() -> Result<Option<(Service, Vec<Value>)>> {
    const LEASE_TIMEOUT: Duration = Duration::from_secs(1);

    let service = Service::start_rogue(|options| {
        options
            .variable("execution_limit_ms", LIMIT_MS)
            // No call is given up.
            .variable("redis_timeout_ms", "10000")
            // The trace does not depend on it.
            .variable("log_level", "error")
    })?;
    assert_eq!(service.commit("nothing")?.0, 200);
    let success = [(r#"algorithm="rogue",status="success""#.to_owned(), 1)];
    service.wait_for("metrics:algorithm_counter", &success.into())?;
    let traces = |at_least: usize| {
        poll_until(PATIENCE, || {
            let traces = service.app.log("execution_unleased")?;
            ensure!(traces.len() >= at_least, "{traces:?}");
            Ok(traces)
        })
    };
    service.redis.suspend()?;
    // It has others while one waits.
    let found = thread::scope(|scope| {
        let late = scope.spawn(|| service.commit("nothing"));
        thread::sleep(LEASE_TIMEOUT / 2);
        let waiting = scope.spawn(|| service.commit("nothing"));
        let found = traces(1);
        let lost = scope.spawn(|| service.commit("work 60000"));
        let found = found.and_then(|_one| traces(2));
        service.app.process().signal(Signal::KILL)?;
        for request in [late, waiting, lost] {
            let _ = request.join().expect("no panic");
        }
        found
    });
    service.redis.resume()?;
    let found = found?;
    let ids = found
        .iter()
        .filter_map(|trace| trace["request_id"].as_str());
    let ids: Vec<_> = ids.filter_map(|id| id.split_once('-')).collect();
    // The second and the fourth request to the same instance: late and lost.
    let is_late = matches!(ids[..], [(one, "2"), (other, "4")] if one == other);
    // After a second the instance logs what it has not stored.
    let is_logged = service.app.output()?.contains(EVENT);
    Ok((is_late && !is_logged).then_some((service, found)))
}

/// The problem of a 503, which says when to retry.
fn is_unavailable(response: &Response) -> Result {
    ensure!(response.status == 503, "{response:?}");
    ensure!(response.header("retry-after") == Some("1"), "{response:?}");
    let problem: Value = serde_json::from_slice(&response.body)?;
    let expected = "urn:functional-scaffold:problem:metrics-unavailable";
    ensure!(problem["type"] == expected, "{problem}");
    Ok(())
}

#[test]
fn in_strict_mode_a_hung_redis_is_a_503_before_the_algorithm_runs() -> Result {
    let service = Service::start_with(|options| {
        options
            .variable("metrics_durability", "strict")
            // A busy machine must not be late before Redis hangs.
            .variable("redis_timeout_ms", "1000")
    })?;
    let kinds = [RequestKind::invoke(PRIME)];
    let send = || load_all(&service.app, &kinds, 8, Until::Requests(40));
    let mut tally = poll_until(PATIENCE, send)?;
    service.redis.suspend()?;
    let during = send();
    let refused = invoke(&service.app, PRIME);
    let health = http::get(service.app.address(), "/healthz");
    service.redis.resume()?;
    let during = during?;
    assert_eq!(during.with_code(503), 40, "{during:?}");
    is_unavailable(&refused?)?;
    assert_eq!(health?.status, 200);
    tally.add(&during);
    *tally.responses.entry(kinds[0].labels(503)).or_default() += 1;
    // Nothing else is counted, although the leases arrive after all.
    service.wait_for_invoked(&tally)?;
    let unleased = service.sum("metrics:unleased_counter")?;
    assert_eq!(unleased, 0, "no execution began without a lease");
    poll_until(PATIENCE, || {
        let response = invoke(&service.app, PRIME)?;
        ensure!(response.status == 200, "{response:?}");
        Ok(())
    })?;
    // No lease would count a crash of an execution that never began.
    poll_until(PATIENCE, || {
        let open: Vec<String> = service
            .redis
            .call(&["ZRANGE", "metrics:leases", "0", "-1"])?;
        for member in open {
            let id = Lease::decode(&member)?.id;
            let closed: Option<String> =
                service
                    .redis
                    .call(&["ZSCORE", "metrics:closed_leases", &id])?;
            ensure!(closed.is_some(), "{id} is open");
        }
        Ok(())
    })
}

#[test]
fn in_strict_mode_a_result_that_is_not_stored_is_withheld() -> Result {
    let service = Service::start_with(|options| {
        options
            .variable("metrics_durability", "strict")
            // Longer than any pause of a busy machine, on which nothing would be counted.
            .variable("redis_timeout_ms", "5000")
    })?;
    // The rest of each batch is stored, so the store itself seems well.
    let key = "metrics:algorithm_latency";
    service.redis.call::<()>(&["SET", key, "not a hash"])?;
    is_unavailable(&invoke(&service.app, PRIME)?)?;
    // It stands beside the 503.
    let success = [(r#"algorithm="prime-check",status="success""#.to_owned(), 1)];
    service.wait_for("metrics:algorithm_counter", &success.into())?;
    poll_until(PATIENCE, || {
        is_unavailable(&invoke(&service.app, PRIME)?)?;
        let (status, lines) = readiness(&service.app)?;
        ensure!(status == 503 && lines.contains(key), "{status}: {lines}");
        Ok(())
    })?;
    service.redis.call::<()>(&["DEL", key])?;
    poll_until(PATIENCE, || {
        let response = invoke(&service.app, PRIME)?;
        ensure!(response.status == 200, "{response:?}");
        Ok(())
    })?;
    assert_eq!(readiness(&service.app)?.0, 200);
    Ok(())
}

#[test]
fn batched_mode_takes_no_lease() -> Result {
    let settled = Settled::start("batched", &[])?;
    assert_eq!(settled.commit("trap")?, 500);
    assert_eq!(settled.commit("nothing")?, 200);
    settled.counted(&[("success", 1)], &[(200, 1), (500, 0)])?;
    assert_eq!(settled.service.redis.calls("zadd")?, 0);
    assert_eq!(settled.service.sum("metrics:unleased_counter")?, 0);
    Ok(())
}

#[test]
fn without_a_lease_in_time_the_execution_runs_and_is_counted_once() -> Result {
    let service = Service::start()?;
    let kinds = [RequestKind::invoke(PRIME)];
    let send = || load_all(&service.app, &kinds, 4, Until::Requests(40));
    let mut tally = send()?;
    service.wait_for_counts(&tally)?;
    // On a busy machine, some leases have timed out already.
    let unleased_before = service.sum("metrics:unleased_counter")?;
    service.redis.suspend()?;
    let during = send();
    // Redis executes the leases, and all other calls, only after it resumes.
    service.redis.resume()?;
    tally.add(&during?);
    service.wait_for_counts(&tally)?;
    let unleased = service.sum("metrics:unleased_counter")? - unleased_before;
    assert!((1..=40).contains(&unleased), "{unleased}");
    poll_until(PATIENCE, || {
        let open: i64 = service.redis.call(&["ZCARD", "metrics:leases"])?;
        ensure!(open == 0, "{open} leases are open");
        Ok(())
    })
}

#[test]
fn the_rights_that_the_docs_name_suffice() -> Result {
    let docs = std::fs::read_to_string(repository().join("docs/operations.md"))?;
    let mut lines = docs.lines();
    let line = lines.find(|line| line.starts_with("ACL SETUSER app"));
    let line = line.unwrap_or_default().replace("PASSWORD", "p@ss/word");
    let redis = RedisServer::start()?;
    redis.call::<()>(&line.split(' ').collect::<Vec<_>>())?;
    redis.call::<()>(&["ACL", "SETUSER", "default", "nocommands"])?;
    let service = Service::start_on(redis, |options| {
        options
            .variable("redis_username", "app")
            .variable("redis_password", "p@ss/word")
            .variable("redis_timeout_ms", "1000")
    })?;
    let tally = service.load(&[RequestKind::invoke(PRIME)], 4, Until::Requests(40))?;
    poll_until(PATIENCE, || {
        let counted = service.redis.cells("metrics:request_counter")?;
        ensure!(counted == tally.responses, "{counted:?}");
        Ok(())
    })?;
    assert!(service.app.log("increments_refused")?.is_empty());
    let (status, lines) = readiness(&service.app)?;
    assert_eq!(status, 200, "{lines}");
    assert!(
        !service.app.output()?.contains("p@ss"),
        "the password is in the log"
    );
    let denied: Vec<Vec<redis::Value>> = service.redis.call(&["ACL", "LOG"])?;
    assert!(denied.is_empty(), "{denied:?}");
    Ok(())
}
