//! Readers that make up for what Redis lost.

use functional_scaffold_schema::{
    batch::{Batch, MAX_INCREMENT},
    protocol::OffsetAdded,
};

use crate::{Result, fixture::Fixture};

const ADDED: OffsetAdded = OffsetAdded::Added {
    refused: Vec::new(),
};

fn lost(by: u64) -> Batch {
    let mut lost = Batch::default();
    lost.inc("m:a", "x=\"1\"", by);
    lost.inc("m:h", "|sum", MAX_INCREMENT);
    lost
}

/// Of two readers that see the same loss, one makes up for it.
#[test]
fn a_loss_is_made_up_for_once() -> Result {
    let mut fixture = Fixture::start()?;
    let epoch = fixture.settle()?.epoch;
    let add = |fixture: &mut Fixture, version: Option<&str>, next| {
        fixture.store.add_offsets(&epoch, version, next, &lost(3))
    };
    assert_eq!(add(&mut fixture, None, "a")?, ADDED);
    let before = fixture.store.dump()?;
    for version in [None, Some("b"), Some("")] {
        assert_eq!(add(&mut fixture, version, "b")?, OffsetAdded::Overtaken);
    }
    assert_eq!(fixture.store.dump()?, before);
    assert_eq!(add(&mut fixture, Some("a"), "b")?, ADDED);
    assert_eq!(fixture.server.cells("m:offset:m:a")?["x=\"1\""], 6);
    // A sum carries as it does where it is counted.
    let key = "m:offset:m:h".to_owned();
    let sums = fixture.store.counters(std::slice::from_ref(&key))?;
    let twice = 2 * i128::from(MAX_INCREMENT);
    assert_eq!(sums.get(&(key.clone(), "|sum".to_owned())), Some(&twice));
    assert!(fixture.server.cells(&key)?["|sum_carry"] > 0);
    Ok(())
}

#[test]
fn a_store_that_was_wiped_gets_no_offsets_of_the_one_before() -> Result {
    let mut fixture = Fixture::start()?;
    let before = fixture.settle()?.epoch;
    fixture.store.call::<()>(&["FLUSHALL"])?;
    let add =
        |fixture: &mut Fixture, epoch: &str| fixture.store.add_offsets(epoch, None, "a", &lost(3));
    assert_eq!(add(&mut fixture, &before)?, OffsetAdded::Overtaken);
    let now = fixture.store.settle(0xb, &[])?.epoch;
    assert_eq!(add(&mut fixture, &before)?, OffsetAdded::Overtaken);
    assert_eq!(add(&mut fixture, &now)?, ADDED);
    Ok(())
}
