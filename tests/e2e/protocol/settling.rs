//! Readers settle expired leases, a page at a time, even behind leases of other
//! components.

use anyhow::ensure;
use functional_scaffold_protocol::lease::Lease;
use functional_scaffold_testkit::process::poll_until;
use functional_scaffold_tests::PATIENCE;

use super::fixture::{Fixture, LONG_MS, STORED, metric_keys};
use crate::Result;

/// A hash of components with another layout.
const OTHER_KEY: &str = "m:algorithm_counter@other";

#[test]
fn an_expired_lease_is_settled_once_and_by_readers_alone() -> Result {
    let mut fixture = Fixture::start()?;
    let (expired, open) = (fixture.lease(1, 0), fixture.lease(2, LONG_MS));
    fixture.store.lease(&[expired, open.clone()])?;
    let batch = fixture.batch(1, &[&open]);
    fixture.store.forget_flush()?;
    assert_eq!(fixture.apply(&batch)?, STORED);
    assert_eq!(fixture.counts()?, (1, 1, 0));
    assert_eq!(fixture.settle()?.leases, 1);
    assert_eq!(fixture.settle()?.leases, 0);
    assert_eq!(fixture.counts()?, (0, 1, 1));
    Ok(())
}

#[test]
fn a_lease_that_has_not_expired_is_left_open() -> Result {
    let mut fixture = Fixture::start()?;
    let leases = [fixture.lease(1, 0), fixture.lease(2, LONG_MS)];
    fixture.store.lease(&leases)?;
    assert_eq!(fixture.settle()?.leases, 1);
    assert_eq!(fixture.settle()?.leases, 0);
    assert_eq!(fixture.counts()?, (1, 0, 1));
    Ok(())
}

#[test]
fn at_most_a_hundred_leases_are_settled_at_a_time() -> Result {
    let mut fixture = Fixture::start()?;
    let leases: Vec<_> = (0..250).map(|number| fixture.lease(number, 0)).collect();
    fixture.store.lease(&leases)?;
    for (settled, open) in [(100, 150), (100, 50), (50, 0), (0, 0)] {
        assert_eq!(fixture.settle()?.leases, settled);
        let crashed = i128::try_from(250 - open)?;
        assert_eq!(fixture.counts()?, (open, 0, crashed));
    }
    Ok(())
}

#[test]
fn leases_that_count_in_unknown_keys_are_left_to_other_readers() -> Result {
    let mut fixture = Fixture::start()?;
    let mut foreign = fixture.lease(1, 0);
    foreign.count[1].0 = OTHER_KEY.to_owned();
    fixture.store.lease(&[foreign, fixture.lease(2, 0)])?;
    assert_eq!(fixture.settle()?.leases, 1);
    assert_eq!(fixture.counts()?, (1, 0, 1));
    let catalog = fixture.catalog.clone();
    let mut keys = metric_keys(&catalog);
    keys.push(OTHER_KEY);
    assert_eq!(fixture.store.settle(1, &keys)?.leases, 1);
    assert_eq!(fixture.counts()?, (0, 0, 1));
    let cells = fixture.server.cells(OTHER_KEY)?;
    assert_eq!(cells.values().sum::<i64>(), 1);
    Ok(())
}

/// An expired lease of a component with another layout.
fn others_lease(fixture: &Fixture, number: u64) -> Lease {
    let mut lease = fixture.lease(number, 0);
    lease.count[1].0 = OTHER_KEY.to_owned();
    lease
}

/// Two and a half pages of expired leases of another component, and after them one of
/// the component's own.
fn behind_others() -> Result<Fixture> {
    let mut fixture = Fixture::start()?;
    let others: Vec<_> = (0..250)
        .map(|number| others_lease(&fixture, number))
        .collect();
    fixture.store.lease(&others)?;
    // Behind them even if all of them expire in the same millisecond.
    let key = "m:leases";
    let own = fixture.lease(900, 0);
    fixture.store.lease(std::slice::from_ref(&own))?;
    (fixture.store).call::<()>(&["ZINCRBY", key, "0.5", &own.encode()])?;
    Ok(fixture)
}

#[test]
fn a_reader_settles_leases_behind_those_of_others() -> Result {
    let mut fixture = behind_others()?;
    let catalog = fixture.catalog.clone();
    let keys = metric_keys(&catalog);
    let mut skip = 0;
    let mut settled = Vec::new();
    for _page in 0..10 {
        let page = fixture.store.settle_page(1, skip, &keys)?;
        settled.push(page.leases);
        match page.next_skip {
            Some(next) => skip = next,
            None => break,
        }
    }
    assert_eq!(settled, [0, 0, 1]);
    assert_eq!(fixture.counts()?, (250, 0, 1));
    // Readers that know the key settle the others, page by page.
    let keys = [&keys[..], &[OTHER_KEY]].concat();
    let page = fixture.store.settle_page(1, 0, &keys)?;
    assert_eq!((page.leases, page.next_skip), (100, Some(0)));
    assert_eq!(fixture.store.settle_page(1, 0, &keys)?.leases, 100);
    let page = fixture.store.settle_page(1, 0, &keys)?;
    assert_eq!((page.leases, page.next_skip), (50, None));
    assert_eq!(fixture.counts()?, (0, 0, 1));
    Ok(())
}

#[test]
fn batches_keep_the_clock_ten_times_a_second_at_most() -> Result {
    let mut fixture = Fixture::start()?;
    let mut sequence = 0;
    let mut is_kept_after = |age: i64| -> Result<bool> {
        sequence += 1;
        let flushed = (fixture.store.time()? - age).to_string();
        let set = ["HSET", "m:state", "flushed_ms", &flushed];
        fixture.store.call::<()>(&set)?;
        let batch = fixture.batch(sequence, &[]);
        assert_eq!(fixture.apply(&batch)?, STORED);
        let state = fixture.store.kept()?.state;
        let is_kept = state["flushed_ms"] != flushed;
        if is_kept {
            assert_eq!(state["flushed_ms"], state["last_ms"]);
        }
        Ok(is_kept)
    };
    // A busy machine may need a tenth of a second for it.
    poll_until(PATIENCE, || {
        ensure!(!is_kept_after(0)?, "the clock is kept each time");
        Ok(())
    })?;
    assert!(is_kept_after(100)?);
    // A clock that stepped back.
    assert!(is_kept_after(-5_000)?);
    Ok(())
}
