//! The races that `docs/protocol.md` names, one by one.

use functional_scaffold_protocol::{
    batch::MAX_INCREMENT,
    calls::{ApplyReply, Registration, Script, applied_field},
};

use super::{
    fixture::{Fixture, LONG_MS, STORED},
    model::{MAX_PAUSE_MS, REMEMBERED_MS},
    store::Passing,
};
use crate::Result;

/// Longer than any lease in these tests.
const LONGER_MS: i64 = 1_100_000;
/// More than a test takes, less than any difference that matters.
const TOLERANCE_MS: i64 = 100_000;
/// The age that the stored clock may have.
const CLOCK_KEPT_MS: i64 = 100;

#[test]
fn a_lease_that_lands_after_its_result_counts_nothing() -> Result {
    let mut fixture = Fixture::start()?;
    let [first, second, third] = [1, 2, 3].map(|number| fixture.lease(number, LONG_MS));
    let batch = fixture.batch(1, &[&second]);
    assert_eq!(fixture.apply(&batch)?, STORED);
    fixture.store.lease(&[first, second, third])?;
    assert_eq!(fixture.settle()?.leases, 0);
    assert_eq!(fixture.counts()?, (3, 1, 0), "it goes when it runs out");
    fixture.store.pass(LONGER_MS, Passing::Busy)?;
    assert_eq!(fixture.settle()?.leases, 2);
    assert_eq!(fixture.counts()?, (0, 1, 2));
    Ok(())
}

#[test]
fn a_lease_that_counts_nothing_is_removed_by_any_reader() -> Result {
    let mut fixture = Fixture::start()?;
    let mut lease = fixture.lease(1, 0);
    let batch = fixture.batch(1, &[&lease]);
    fixture.apply(&batch)?;
    // Even by a reader that does not know the key in which it would have counted.
    lease.count[0].0 = "m:elsewhere".to_owned();
    fixture.store.lease(&[lease])?;
    let batch = fixture.batch(2, &[]);
    fixture.store.forget_flush()?;
    fixture.apply(&batch)?;
    assert_eq!(fixture.counts()?, (1, 1, 0), "batches leave it to readers");
    assert_eq!(fixture.settle()?.leases, 0);
    assert_eq!(fixture.counts()?, (0, 1, 0));
    Ok(())
}

#[test]
fn a_lease_that_arrived_late_is_recognised_after_a_pause_of_any_length() -> Result {
    let mut fixture = Fixture::start()?;
    let lease = fixture.lease(1, LONG_MS);
    let batch = fixture.batch(1, &[&lease]);
    fixture.apply(&batch)?;
    fixture.store.lease(std::slice::from_ref(&lease))?;
    // Ids are remembered for as long as leases.
    fixture.store.pass(2 * REMEMBERED_MS, Passing::Paused)?;
    assert_eq!(fixture.settle()?.leases, 0);
    fixture.store.pass(LONGER_MS, Passing::Busy)?;
    assert_eq!(fixture.settle()?.leases, 0);
    assert_eq!(fixture.counts()?, (0, 1, 0));
    Ok(())
}

#[test]
fn a_result_settles_its_own_lease_although_that_ran_out() -> Result {
    let mut fixture = Fixture::start()?;
    let lease = fixture.lease(1, 0);
    fixture.store.lease(std::slice::from_ref(&lease))?;
    let batch = fixture.batch(1, &[&lease]);
    assert_eq!(fixture.apply(&batch)?, STORED);
    assert_eq!(fixture.settle()?.leases, 0);
    assert_eq!(fixture.counts()?, (0, 1, 0));
    assert!(
        fixture.store.kept()?.closed.is_empty(),
        "only what may still land, or come late, is remembered"
    );
    Ok(())
}

#[test]
fn a_result_after_its_lease_ran_out_is_late_and_changes_nothing() -> Result {
    let mut fixture = Fixture::start()?;
    let (gone, there) = (fixture.lease(1, 0), fixture.lease(2, LONG_MS));
    fixture.store.lease(&[gone.clone(), there.clone()])?;
    fixture.settle()?;
    let sent = fixture.batch(1, &[&gone, &there]);
    let before = fixture.store.dump()?;
    for _ in 0..2 {
        assert_eq!(
            fixture.apply(&sent)?,
            ApplyReply::Late(vec![gone.id.clone()])
        );
        assert_eq!(fixture.store.dump()?, before);
    }

    let mut without = sent.clone();
    assert_eq!(without.remove_late(std::slice::from_ref(&gone.id)), 1);
    assert_eq!(fixture.apply(&without)?, STORED);
    assert_eq!(fixture.counts()?, (0, 1, 1));
    // A delayed copy of the first batch.
    assert_eq!(fixture.apply(&sent)?, ApplyReply::Duplicate);
    fixture.store.lease(std::slice::from_ref(&gone))?;
    assert_eq!(fixture.settle()?.leases, 0);
    assert_eq!(fixture.counts()?, (0, 1, 1));
    Ok(())
}

#[test]
fn a_retried_batch_settles_a_lease_once() -> Result {
    let mut fixture = Fixture::start()?;
    let (landed, lost) = (fixture.lease(1, LONG_MS), fixture.lease(2, 0));
    fixture.store.lease(std::slice::from_ref(&landed))?;
    let batch = fixture.batch(1, &[&landed, &lost]);
    assert_eq!(fixture.apply(&batch)?, STORED);
    assert_eq!(fixture.apply(&batch)?, ApplyReply::Duplicate);
    fixture.store.lease(std::slice::from_ref(&lost))?;
    assert_eq!(fixture.apply(&batch)?, ApplyReply::Duplicate);
    assert_eq!(fixture.settle()?.leases, 0);
    assert_eq!(fixture.counts()?, (0, 2, 0));
    Ok(())
}

#[test]
fn a_batch_that_comes_after_later_ones_of_its_writer_is_a_duplicate() -> Result {
    let mut fixture = Fixture::start()?;
    let batches = [1, 2, 10].map(|number| {
        let lease = fixture.lease(number, LONG_MS);
        fixture.batch(number, &[&lease])
    });
    for batch in &batches {
        assert_eq!(fixture.apply(batch)?, STORED);
    }
    for batch in &batches {
        assert_eq!(fixture.apply(batch)?, ApplyReply::Duplicate);
    }
    assert_eq!(fixture.counts()?, (0, 3, 0));
    Ok(())
}

#[test]
fn a_pause_extends_open_leases() -> Result {
    let mut fixture = Fixture::start()?;
    let lease = fixture.lease(1, LONG_MS);
    fixture.store.lease(&[lease])?;
    let left = |fixture: &mut Fixture, time: i64| -> Result<Vec<i64>> {
        let open = fixture.store.kept()?.open;
        Ok(open.values().map(|due| due - time).collect())
    };
    for pauses in 1..4 {
        fixture.store.pass(LONGER_MS, Passing::Paused)?;
        let settled = fixture.settle()?;
        assert_eq!(settled.leases, 0, "extended at the first script");
        let left = left(&mut fixture, settled.lease_time_millis)?;
        let expected = i64::try_from(LONG_MS)? - pauses * MAX_PAUSE_MS;
        assert!(
            left.iter().all(|left| (left - expected).abs() < 2_000),
            "{left:?} are left of {expected} ms"
        );
    }
    // While scripts run, time passes for leases.
    fixture.store.pass(LONGER_MS, Passing::Busy)?;
    assert_eq!(fixture.settle()?.leases, 1);
    assert_eq!(fixture.counts()?, (0, 0, 1));
    Ok(())
}

#[test]
fn a_store_that_was_emptied_after_a_pause_is_recognised_by_its_first_reply() -> Result {
    let mut fixture = Fixture::start()?;
    // Lease time stood still for a while.
    let time = fixture.store.time()?;
    fixture.store.set_lease_time(time - LONGER_MS)?;
    let known_time = fixture.store.begin(1)?;
    fixture.store.call::<()>(&["FLUSHALL"])?;
    // An instance that does not know it yet: its lease expires at once.
    let [early, next] = [1, 2].map(|number| fixture.lease(number, LONG_MS));
    fixture.store.take(&early, known_time)?;
    assert_eq!(fixture.settle()?.leases, 1);
    let late = fixture.batch(1, &[&early]);
    assert_eq!(fixture.apply(&late)?, ApplyReply::Late(vec![early.id]));
    let batch = fixture.batch(1, &[]);
    let ApplyReply::Stored {
        lease_time_millis, ..
    } = fixture.store.apply(&batch)?
    else {
        panic!("it is stored");
    };
    fixture.store.take(&next, lease_time_millis)?;
    assert_eq!(fixture.settle()?.leases, 0);
    assert_eq!(fixture.counts()?, (1, 0, 1));
    Ok(())
}

#[test]
fn a_pause_extends_leases_whichever_script_runs_first_after_it() -> Result {
    for first in 0..4 {
        let mut fixture = Fixture::start()?;
        let [lease, other] = [1, 2].map(|number| fixture.lease(number, LONG_MS));
        fixture.store.lease(&[lease])?;
        fixture.store.pass(LONGER_MS, Passing::Paused)?;
        if first == 0 {
            fixture.store.lease(&[other])?;
        } else if first == 1 {
            let batch = fixture.batch(1, &[&other]);
            fixture.apply(&batch)?;
        } else if first == 2 {
            let nothing = Registration::new([], &[]);
            fixture.store.register(1, &nothing)?;
        }
        assert_eq!(fixture.settle()?.leases, 0, "script {first}");
    }
    Ok(())
}

#[test]
fn a_clock_that_steps_back_neither_ends_leases_nor_keeps_them_for_ever() -> Result {
    let mut fixture = Fixture::start()?;
    let [first, second] = [1, 2].map(|number| fixture.lease(number, LONG_MS));
    fixture.store.lease(&[first])?;
    let before = fixture.settle()?.lease_time_millis;
    // As if the last script had run a year from now.
    let year = 365 * 24 * 3_600_000;
    let ahead = year.to_string();
    let set: i64 = (fixture.store).call(&["HINCRBY", "m:state", "last_ms", &ahead])?;
    assert!(set > year);
    let key = "m:leases";
    let open = fixture.store.kept()?.open;
    let member = open.keys().next().expect("one is open").clone();
    (fixture.store).call::<()>(&["ZINCRBY", key, &ahead, &member])?;

    fixture.store.lease(&[second])?;
    let after = fixture.settle()?;
    assert_eq!(after.leases, 0);
    let stood = after.lease_time_millis - before - year;
    assert!(
        (-CLOCK_KEPT_MS..TOLERANCE_MS).contains(&stood),
        "{stood} ms"
    );
    for due in fixture.store.kept()?.open.values() {
        let left = due - after.lease_time_millis;
        let passed = i64::try_from(LONG_MS)? - left;
        assert!(
            (-CLOCK_KEPT_MS..TOLERANCE_MS).contains(&passed),
            "{passed} ms"
        );
    }
    // Lease time continues from there, and does not wait for the year to pass.
    let kept = fixture.store.kept()?.state["last_ms"].parse::<i64>()?;
    let ahead = kept - fixture.store.time()?;
    assert!(ahead.abs() < TOLERANCE_MS, "{ahead} ms");
    fixture.store.pass(LONGER_MS, Passing::Busy)?;
    assert_eq!(fixture.settle()?.leases, 2);
    let batch = fixture.batch(1, &[]);
    assert_eq!(fixture.apply(&batch)?, STORED);
    let behind = fixture.settle()?.lease_time_millis - after.lease_time_millis - LONGER_MS;
    assert!(
        (-CLOCK_KEPT_MS..TOLERANCE_MS).contains(&behind),
        "{behind} ms"
    );
    Ok(())
}

#[test]
fn ids_are_remembered_for_two_hours() -> Result {
    let mut fixture = Fixture::start()?;
    let (lost, gone) = (fixture.lease(1, 0), fixture.lease(2, 0));
    let batch = fixture.batch(1, &[&lost]);
    fixture.apply(&batch)?;
    fixture.store.lease(std::slice::from_ref(&gone))?;
    fixture.settle()?;
    let late = fixture.batch(2, &[&gone]);

    fixture
        .store
        .pass(REMEMBERED_MS - TOLERANCE_MS, Passing::Busy)?;
    assert_eq!(fixture.settle()?.leases, 0);
    assert_eq!(fixture.apply(&batch)?, ApplyReply::Duplicate);
    assert_eq!(
        fixture.apply(&late)?,
        ApplyReply::Late(vec![gone.id.clone()])
    );
    fixture.store.lease(&[lost])?;
    assert_eq!(fixture.settle()?.leases, 0);
    assert_eq!(fixture.counts()?, (0, 1, 1));
    assert_eq!(fixture.store.kept()?.closed.len(), 2);
    let hashes = fixture.store.applied(&batch.id)?;
    assert!(
        hashes
            .iter()
            .any(|hash| hash.contains_key(&applied_field(&batch.id)))
    );

    fixture.store.pass(TOLERANCE_MS, Passing::Busy)?;
    fixture.settle()?;
    assert!(fixture.store.kept()?.closed.is_empty());
    Ok(())
}

#[test]
fn an_id_is_remembered_for_two_hours_whenever_its_turn_ends() -> Result {
    for began in [0, REMEMBERED_MS / 2, REMEMBERED_MS - TOLERANCE_MS] {
        let mut fixture = Fixture::start()?;
        fixture.store.set_lease_time(8 * REMEMBERED_MS + began)?;
        let first = fixture.batch(1, &[]);
        assert_eq!(fixture.apply(&first)?, STORED);
        // Writers that share its hashes go on.
        let mut passed = 0;
        for nonce in 1.. {
            let mut other = first.clone();
            other.id.nonce += nonce;
            fixture.apply(&other)?;
            if passed >= REMEMBERED_MS - TOLERANCE_MS {
                break;
            }
            fixture.store.pass(TOLERANCE_MS, Passing::Busy)?;
            passed += TOLERANCE_MS;
        }
        assert_eq!(fixture.apply(&first)?, ApplyReply::Duplicate, "{began}");
        // It is forgotten at last, and takes no memory for ever.
        for nonce in [1, 2] {
            fixture.store.pass(REMEMBERED_MS, Passing::Busy)?;
            let mut other = first.clone();
            other.id.nonce += nonce;
            other.id.sequence = 2;
            assert_eq!(fixture.apply(&other)?, STORED);
        }
        let hashes = fixture.store.applied(&first.id)?;
        let entries: usize = hashes.iter().map(std::collections::BTreeMap::len).sum();
        assert_eq!(entries, 4, "a turn and a writer in each: {hashes:?}");
    }
    Ok(())
}

#[test]
fn an_epoch_stands_until_the_store_is_wiped() -> Result {
    let mut fixture = Fixture::start()?;
    let epoch = |fixture: &mut Fixture, random: u64| -> Result<String> {
        Ok(fixture.store.settle(random, &[])?.epoch)
    };
    assert_eq!(epoch(&mut fixture, 0xa)?, "000000000000000a");
    assert_eq!(epoch(&mut fixture, 0xb)?, "000000000000000a");
    fixture.store.call::<()>(&["FLUSHALL"])?;
    assert_eq!(epoch(&mut fixture, 0xc)?, "000000000000000c");
    Ok(())
}

#[test]
fn sums_carry_at_2_62() -> Result {
    let mut fixture = Fixture::start()?;
    let (key, field) = ("m:h", "x=\"1\"|sum");
    let mut total = 0_i128;
    let increments = [
        MAX_INCREMENT - 1,
        1,
        1,
        MAX_INCREMENT,
        MAX_INCREMENT,
        1 << 61,
        300,
    ];
    for (sequence, by) in (1..).zip(increments) {
        let mut batch = fixture.batch(sequence, &[]);
        batch.increments.inc(key, field, by);
        assert_eq!(fixture.apply(&batch)?, STORED);
        total += i128::from(by);
        let counters = fixture.store.counters(&[key.to_owned()])?;
        assert_eq!(
            counters.get(&(key.to_owned(), field.to_owned())),
            Some(&total)
        );
        let sum = fixture.server.cells(key)?.get(field).copied().unwrap_or(0);
        // Near 2^62 a double is a multiple of 512, so it may carry early.
        assert!((-512..1 << 62).contains(&sum), "{sum}");
    }
    Ok(())
}

#[test]
fn every_script_has_the_digest_that_redis_gives_it() -> Result {
    let mut fixture = Fixture::start()?;
    for script in Script::ALL {
        let sha: String = (fixture.store).call(&["SCRIPT", "LOAD", script.source])?;
        assert_eq!(sha, script.sha);
    }
    Ok(())
}
