//! Redis remembers ids for a while only. A batch, a result or a lease that arrives when
//! its id may be forgotten counts nothing, and the reply says so: after a suspended
//! host, and after jumps of Redis's clock.

use std::sync::atomic::{AtomicU64, Ordering};

use functional_scaffold_protocol::{batch::SentBatch, calls::ApplyReply, lease::Lease};

use super::{
    fixture::{Fixture, LONG_MS, STORED},
    model::REMEMBERED_MS,
    store::Passing,
};
use crate::Result;

const HOUR_MS: i64 = 3_600_000;
/// More than a test takes, less than any difference that matters.
const TOLERANCE_MS: i64 = 100_000;

/// A batch that counts 1, frozen now.
fn counting(fixture: &mut Fixture, sequence: u64) -> Result<SentBatch> {
    let mut batch = fixture.batch(sequence, &[]);
    batch.increments.inc("m:c", "f", 1);
    batch.frozen_ms = Some(fixture.store.begin(1)?);
    Ok(batch)
}

fn counted(fixture: &Fixture) -> Result<i64> {
    Ok(fixture.server.cells("m:c")?.get("f").copied().unwrap_or(0))
}

/// Another writer, which uses the same hashes, stores a batch.
fn apply_other(fixture: &mut Fixture) -> Result {
    static WRITERS: AtomicU64 = AtomicU64::new(1_000);
    let mut other = fixture.batch(1, &[]);
    other.id.nonce += WRITERS.fetch_add(1, Ordering::Relaxed);
    assert_eq!(fixture.apply(&other)?, STORED);
    Ok(())
}

/// Lets time pass on a busy server.
fn pass_busy(fixture: &mut Fixture, hours: i64) -> Result {
    for _hour in 0..hours {
        fixture.store.pass(HOUR_MS, Passing::Busy)?;
        apply_other(fixture)?;
    }
    Ok(())
}

#[test]
fn a_batch_whose_reply_was_lost_counts_once_however_redis_s_clock_jumps() -> Result {
    const YEAR: i64 = 365 * 24;
    for hours in [
        &[3][..],
        &[-3],
        &[3, -3],
        &[-3, 3],
        &[YEAR, -YEAR],
        &[3, 3, -6, 1, 1, 1],
    ] {
        let mut fixture = Fixture::start()?;
        let batch = counting(&mut fixture, 1)?;
        assert_eq!(fixture.apply(&batch)?, STORED);
        for hours in hours {
            fixture.store.pass(hours * HOUR_MS, Passing::Paused)?;
            assert_eq!(fixture.apply(&batch)?, ApplyReply::Duplicate, "{hours}");
            apply_other(&mut fixture)?;
        }
        assert_eq!(counted(&fixture)?, 1);
        let next = counting(&mut fixture, 2)?;
        assert_eq!(fixture.apply(&next)?, STORED, "{hours:?}");
        assert_eq!(counted(&fixture)?, 2);
    }
    Ok(())
}

#[test]
fn a_batch_of_a_host_that_was_suspended_counts_once() -> Result {
    for is_stored in [true, false] {
        let mut fixture = Fixture::start()?;
        let mut batch = counting(&mut fixture, 1)?;
        if is_stored {
            assert_eq!(fixture.apply(&batch)?, STORED);
        }
        pass_busy(&mut fixture, 5)?;
        let before = fixture.store.dump()?;
        let reply = fixture.store.apply(&batch)?;
        let ApplyReply::TooOld { lease_time_millis } = reply else {
            panic!("it is too old: {reply:?}");
        };
        assert_eq!(fixture.store.dump()?, before);
        if !is_stored {
            // The writer knows that no copy was applied.
            batch.frozen_ms = Some(lease_time_millis);
            assert_eq!(fixture.apply(&batch)?, STORED);
            assert_eq!(fixture.apply(&batch)?, ApplyReply::Duplicate);
        }
        assert_eq!(counted(&fixture)?, 1);
    }
    Ok(())
}

#[test]
fn a_batch_is_applied_within_an_hour_of_its_time() -> Result {
    for (age, is_applied) in [
        (HOUR_MS - TOLERANCE_MS, true),
        (HOUR_MS + TOLERANCE_MS, false),
        (TOLERANCE_MS - HOUR_MS, true),
        (-TOLERANCE_MS - HOUR_MS, false),
    ] {
        let mut fixture = Fixture::start()?;
        let mut batch = counting(&mut fixture, 1)?;
        batch.frozen_ms = batch.frozen_ms.map(|now| now - age);
        assert_eq!(fixture.apply(&batch)? == STORED, is_applied, "{age}");
        assert_eq!(counted(&fixture)?, i64::from(is_applied));
    }
    Ok(())
}

#[test]
fn a_batch_from_the_future_counts_once_until_its_time_is_over() -> Result {
    let mut fixture = Fixture::start()?;
    let mut batch = counting(&mut fixture, 1)?;
    batch.frozen_ms = batch.frozen_ms.map(|now| now + HOUR_MS - TOLERANCE_MS);
    assert_eq!(fixture.apply(&batch)?, STORED);
    for _hour in 0..4 {
        pass_busy(&mut fixture, 1)?;
        assert_ne!(fixture.apply(&batch)?, STORED);
    }
    assert_eq!(counted(&fixture)?, 1);
    Ok(())
}

/// A lease that begins now, and its result.
fn leased(fixture: &mut Fixture, number: u64, millis: u64) -> Result<(Lease, SentBatch)> {
    let lease = fixture.lease(number, millis);
    let now = fixture.store.begin(1)?;
    let mut batch = fixture.batch(number, &[&lease]);
    batch.leased[0].due_ms = lease.begin(now).due_ms;
    Ok((lease, batch))
}

#[test]
fn a_result_is_late_if_its_lease_may_have_been_settled_and_forgotten() -> Result {
    let mut fixture = Fixture::start()?;
    let (lease, mut batch) = leased(&mut fixture, 1, 0)?;
    fixture.store.lease(std::slice::from_ref(&lease))?;
    assert_eq!(fixture.settle()?.leases, 1);
    fixture
        .store
        .pass(REMEMBERED_MS + TOLERANCE_MS, Passing::Busy)?;
    fixture.settle()?;
    assert!(fixture.store.kept()?.closed.is_empty(), "it is forgotten");
    for frozen_ms in [Some(fixture.store.begin(1)?), None] {
        batch.frozen_ms = frozen_ms;
        let late = ApplyReply::Late(vec![lease.id.clone()]);
        assert_eq!(fixture.apply(&batch)?, late);
    }
    assert_eq!(fixture.counts()?, (0, 0, 1));
    Ok(())
}

#[test]
fn leases_that_no_reader_saw_for_hours_are_still_counted() -> Result {
    let mut fixture = Fixture::start()?;
    let (finished, batch) = leased(&mut fixture, 1, 0)?;
    let crashed = fixture.lease(2, 0);
    fixture.store.lease(&[finished, crashed])?;
    pass_busy(&mut fixture, 9)?;
    assert_eq!(fixture.apply(&batch)?, STORED, "its lease is open");
    assert_eq!(fixture.settle()?.leases, 1);
    assert_eq!(fixture.counts()?, (0, 1, 1));
    Ok(())
}

#[test]
fn ids_are_kept_until_a_reader_has_seen_every_expired_lease() -> Result {
    let mut fixture = Fixture::start()?;
    // More than a page of crashes, and behind them a lease that arrived after its result.
    let leases: Vec<_> = (0..150).map(|number| fixture.lease(number, 0)).collect();
    fixture.store.lease(&leases)?;
    let (late, batch) = leased(&mut fixture, 900, 1_000)?;
    fixture.apply(&batch)?;
    fixture.store.lease(&[late])?;
    pass_busy(&mut fixture, 9)?;
    assert_eq!(fixture.settle()?.leases, 100);
    assert_eq!(fixture.settle()?.leases, 50);
    assert_eq!(fixture.counts()?, (0, 1, 150));
    Ok(())
}

#[test]
fn a_lease_that_arrives_when_its_id_may_be_forgotten_is_named_and_counts_nothing() -> Result {
    let mut fixture = Fixture::start()?;
    let (lease, batch) = leased(&mut fixture, 1, LONG_MS)?;
    let began = fixture.store.begin(1)?;
    fixture.apply(&batch)?;
    fixture
        .store
        .pass(REMEMBERED_MS + 2_000_000, Passing::Busy)?;
    fixture.settle()?;
    assert!(fixture.store.kept()?.closed.is_empty(), "it is forgotten");
    fixture.store.take(&lease, began)?;
    let settled = fixture.settle()?;
    assert_eq!((settled.leases, settled.dropped.len()), (0, 1));
    let named = &settled.dropped[0];
    assert!(
        named.contains(&lease.id) && named.contains("too late"),
        "{named}"
    );
    assert_eq!(fixture.counts()?, (0, 1, 0));
    // A later one counts.
    fixture.store.lease(&[fixture.lease(2, 0)])?;
    assert_eq!(fixture.settle()?.leases, 1);
    Ok(())
}

#[test]
fn a_lease_from_the_future_counts_nothing_after_its_result() -> Result {
    let mut fixture = Fixture::start()?;
    // The writer's estimate is three hours ahead, because lease time stood still.
    let lease = fixture.lease(1, LONG_MS);
    let ahead = fixture.store.begin(1)? + 3 * HOUR_MS;
    let mut batch = fixture.batch(1, &[&lease]);
    batch.leased[0].due_ms = lease.begin(ahead).due_ms;
    assert_eq!(fixture.apply(&batch)?, STORED);
    fixture.store.take(&lease, ahead)?;
    for _hour in 0..5 {
        pass_busy(&mut fixture, 1)?;
        assert_eq!(fixture.settle()?.leases, 0);
    }
    assert_eq!(fixture.counts()?, (0, 1, 0));
    Ok(())
}

#[test]
fn a_result_counts_if_its_lease_arrived_too_late_and_was_removed() -> Result {
    let mut fixture = Fixture::start()?;
    let (lease, mut batch) = leased(&mut fixture, 1, LONG_MS)?;
    let began = fixture.store.begin(1)?;
    // The host is suspended between two requests, while Redis and a reader go on. The
    // ids of other leases are forgotten meanwhile.
    fixture.store.lease(&[fixture.lease(2, 0)])?;
    assert_eq!(fixture.settle()?.leases, 1);
    fixture
        .store
        .pass(REMEMBERED_MS + 2_000_000, Passing::Busy)?;
    fixture.settle()?;
    assert!(fixture.store.kept()?.closed.is_empty(), "it is forgotten");
    // The writer's estimate of lease time has not moved.
    fixture.store.take(&lease, began)?;
    let settled = fixture.settle()?;
    assert_eq!((settled.leases, settled.dropped.len()), (0, 1));
    batch.frozen_ms = Some(fixture.store.begin(1)?);
    assert_eq!(fixture.apply(&batch)?, STORED);
    assert_eq!(fixture.apply(&batch)?, ApplyReply::Duplicate);
    assert_eq!(fixture.counts()?, (0, 1, 1));
    let kept = fixture.store.kept()?;
    let closed: Vec<_> = kept.closed.into_keys().collect();
    assert_eq!(closed, std::slice::from_ref(&lease.id), "no note is left");
    // Nothing that arrives now counts it again.
    fixture.store.take(&lease, began)?;
    assert_eq!(fixture.settle()?.leases, 0);
    assert_eq!(fixture.counts()?, (0, 1, 1));
    Ok(())
}
