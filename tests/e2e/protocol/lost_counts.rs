//! Readers restore counts that Redis lost.

use functional_scaffold_protocol::{
    batch::{Batch, MAX_INCREMENT},
    calls::AddLostCountsReply,
};

use super::fixture::Fixture;
use crate::Result;

const ADDED: AddLostCountsReply = AddLostCountsReply::Added {
    refused: Vec::new(),
};

fn lost(by: u64) -> Batch {
    let mut lost = Batch::default();
    lost.inc("m:a", "x=\"1\"", by);
    lost.inc("m:h", "|sum", MAX_INCREMENT);
    lost
}

/// If two readers see the same loss, only one restores it.
#[test]
fn a_loss_is_made_up_for_once() -> Result {
    let mut fixture = Fixture::start()?;
    let epoch = fixture.settle()?.epoch;
    let add = |fixture: &mut Fixture, version: Option<&str>, next| {
        fixture
            .store
            .add_lost_counts(&epoch, version, next, &lost(3))
    };
    assert_eq!(add(&mut fixture, None, "a")?, ADDED);
    let before = fixture.store.dump()?;
    for version in [None, Some("b"), Some("")] {
        assert_eq!(
            add(&mut fixture, version, "b")?,
            AddLostCountsReply::Overtaken
        );
    }
    assert_eq!(fixture.store.dump()?, before);
    assert_eq!(add(&mut fixture, Some("a"), "b")?, ADDED);
    assert_eq!(fixture.server.cells("m:lost:m:a")?["x=\"1\""], 6);
    // A sum carries as it does in its metric hash.
    let key = "m:lost:m:h".to_owned();
    let sums = fixture.store.counters(std::slice::from_ref(&key))?;
    let twice = 2 * i128::from(MAX_INCREMENT);
    assert_eq!(sums.get(&(key.clone(), "|sum".to_owned())), Some(&twice));
    assert!(fixture.server.cells(&key)?["|sum_carry"] > 0);
    Ok(())
}

/// A reader that saw the counts before a removal does not undo it.
#[test]
fn a_removal_overtakes_lost_counts_that_were_read_before() -> Result {
    let mut fixture = Fixture::start()?;
    let epoch = fixture.settle()?.epoch;
    let label_set = ["x=\"1\"".to_owned()];
    let add = |fixture: &mut Fixture, version: &str| {
        let version = Some(version).filter(|version| !version.is_empty());
        (fixture.store).add_lost_counts(&epoch, version, "a", &lost(3))
    };
    assert_eq!(add(&mut fixture, "")?, ADDED);
    fixture.store.remove(0xb, "m:a", &label_set)?;
    let cells = fixture.store.counters(&["m:lost:m:a".to_owned()])?;
    assert!(cells.is_empty(), "{cells:?}");
    let before = fixture.store.dump()?;
    assert_eq!(add(&mut fixture, "a")?, AddLostCountsReply::Overtaken);
    assert_eq!(fixture.store.dump()?, before);
    assert_eq!(add(&mut fixture, "000000000000000b")?, ADDED);
    Ok(())
}

/// A reader that has read the last removal reads the next one.
#[test]
fn the_numbers_of_removals_always_rise() -> Result {
    let mut fixture = Fixture::start()?;
    let mut number = |lose: bool| -> Result<i64> {
        if lose {
            fixture.store.call::<()>(&["DEL", "m:removed"])?;
        }
        fixture.store.remove(1, "m:a", &["x=\"1\"".to_owned()])?;
        let [(_, number)]: [(String, i64); 1] =
            fixture
                .store
                .call(&["ZRANGE", "m:removed", "0", "-1", "WITHSCORES"])?;
        Ok(number)
    };
    let (first, second) = (number(false)?, number(false)?);
    assert!(first < second && second < number(true)?);
    // By a clock that was ahead.
    let ahead = (second * 2).to_string();
    let member = r#"{"key":"m:a","labels":"x=\"1\""}"#;
    fixture
        .store
        .call::<()>(&["ZADD", "m:removed", &ahead, member])?;
    fixture.store.remove(1, "m:a", &["x=\"1\"".to_owned()])?;
    let score: i64 = fixture.store.call(&["ZSCORE", "m:removed", member])?;
    assert_eq!(score, second * 2 + 1);
    Ok(())
}

#[test]
fn a_wipe_leaves_no_lost_counts_and_takes_none_from_before() -> Result {
    let mut fixture = Fixture::start()?;
    let before = fixture.settle()?.epoch;
    let add = |fixture: &mut Fixture, epoch: &str, version: Option<&str>| {
        fixture.store.add_lost_counts(epoch, version, "a", &lost(3))
    };
    assert_eq!(add(&mut fixture, &before, None)?, ADDED);
    fixture.store.remove(1, "m:h", &["|x".to_owned()])?;
    fixture.store.wipe(0xe, &["m:a", "m:h"])?;
    let keys: Vec<String> = fixture.store.call(&["KEYS", "*"])?;
    assert_eq!(keys, ["m:state"]);
    let now = format!("{:016x}", 0xe);
    assert_eq!(fixture.settle()?.epoch, now);
    for version in [None, Some("a"), Some("0000000000000001")] {
        assert_eq!(
            add(&mut fixture, &before, version)?,
            AddLostCountsReply::Overtaken
        );
    }
    assert_eq!(add(&mut fixture, &now, None)?, ADDED);
    Ok(())
}

#[test]
fn a_wipe_of_several_calls_has_one_epoch() -> Result {
    let mut fixture = Fixture::start()?;
    let [first, second] = ["m:a", "m:h"];
    for key in [first, second] {
        fixture.store.call::<()>(&["HSET", key, "", "1"])?;
    }
    fixture.store.wipe(0xe, &[first])?;
    // Readers must still notice a removal between the calls.
    fixture.store.call::<()>(&["HSET", first, "", "1"])?;
    fixture.store.remove(1, first, &[String::new()])?;
    let others = ["m:state", "m:removed"].map(|key| ["DUMP", key]);
    let dump = |fixture: &mut Fixture| -> Result<Vec<Vec<u8>>> {
        let dumps = others.iter().map(|command| fixture.store.call(command));
        dumps.collect()
    };
    let before = dump(&mut fixture)?;
    fixture.store.wipe(0xe, &[second])?;
    assert_eq!(dump(&mut fixture)?, before);
    let is_there: bool = fixture.store.call(&["EXISTS", second])?;
    assert!(!is_there);
    Ok(())
}

#[test]
fn a_store_that_was_wiped_takes_no_lost_counts_of_the_one_before() -> Result {
    let mut fixture = Fixture::start()?;
    let before = fixture.settle()?.epoch;
    fixture.store.call::<()>(&["FLUSHALL"])?;
    let add = |fixture: &mut Fixture, epoch: &str| {
        fixture.store.add_lost_counts(epoch, None, "a", &lost(3))
    };
    assert_eq!(add(&mut fixture, &before)?, AddLostCountsReply::Overtaken);
    let now = fixture.store.settle(0xb, &[])?.epoch;
    assert_eq!(add(&mut fixture, &before)?, AddLostCountsReply::Overtaken);
    assert_eq!(add(&mut fixture, &now)?, ADDED);
    Ok(())
}
