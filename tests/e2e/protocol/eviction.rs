//! A Redis that deletes keys when its memory is full.

use functional_scaffold_protocol::calls::{ApplyReply, Eviction, Registration};
use functional_scaffold_testkit::redis::RedisOptions;

use super::{
    fixture::{Fixture, STORED},
    store::Store,
};
use crate::Result;

#[test]
fn a_policy_for_volatile_keys_does_not_reach_what_batches_need() -> Result {
    let options = RedisOptions::new()
        .line("maxmemory", &["4mb"])
        .line("maxmemory-policy", &["volatile-lru"]);
    let mut fixture = Fixture::on(options.start()?)?;
    let mut batch = fixture.batch(1, &[]);
    batch.increments.inc("m:c", "f", 1);
    batch.frozen_ms = Some(fixture.store.begin(1)?);
    assert_eq!(fixture.apply(&batch)?, STORED);
    let mut fillers = redis::pipe();
    for number in 0..12_000 {
        let filler = fillers.cmd("SET").arg(format!("filler:{number}"));
        filler.arg("x".repeat(500)).arg("EX").arg(9_999).ignore();
    }
    fixture.store.pipe(&fillers)?;
    let stats: String = fixture.store.call(&["INFO", "stats"])?;
    let evicted = stats
        .lines()
        .find_map(|line| line.strip_prefix("evicted_keys:"));
    assert!(evicted.is_some_and(|evicted| evicted != "0"), "{stats}");
    assert_eq!(fixture.apply(&batch)?, ApplyReply::Duplicate);
    assert_eq!(fixture.server.cells("m:c")?.get("f"), Some(&1));
    Ok(())
}

#[test]
fn the_policy_is_told_at_registration_and_by_the_check() -> Result {
    let mut fixture = Fixture::start()?;
    let nothing = Registration::new([], &[]);
    for (policy, expected) in [
        ("noeviction", Eviction::Never),
        ("allkeys-lru", Eviction::Policy("allkeys-lru".to_owned())),
        ("volatile-ttl", Eviction::Policy("volatile-ttl".to_owned())),
    ] {
        let store = &mut fixture.store;
        store.call::<()>(&["CONFIG", "SET", "maxmemory-policy", policy])?;
        assert_eq!(store.register(1, &nothing)?.eviction, expected);
        let checked = store.check()?;
        assert_eq!((checked.eviction, checked.refused), (expected, vec![]));
    }
    // A user who may not ask registers nevertheless.
    let user = [
        "ACL", "SETUSER", "app", "on", ">p", "~m:*", "+@all", "-info",
    ];
    fixture.store.call::<()>(&user)?;
    let mut store = Store::open_as(&fixture.server, "m:", "app:p@")?;
    assert_eq!(store.register(1, &nothing)?.eviction, Eviction::Unknown);
    let checked = store.check()?;
    assert_eq!(
        (checked.eviction, checked.refused),
        (Eviction::Unknown, vec![])
    );
    Ok(())
}
