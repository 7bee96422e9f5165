//! An instance skips the registration if the same one was made before.

use functional_scaffold_protocol::{
    calls::{REGISTRATION_SECONDS, Registration, families_key},
    catalog::Catalog,
};

use super::fixture::Fixture;
use crate::Result;

const ZERO_CELL: (&str, &str) = ("m:algorithm_counter", "algorithm=\"a\",status=\"crashed\"");

#[test]
fn a_registration_is_recognised_once_it_was_made() -> Result {
    let mut fixture = Fixture::start()?;
    let ours = registration(&fixture.catalog);
    assert_eq!(fixture.store.is_registered(&ours)?, None);

    let registered = fixture.store.register(1, &ours)?;
    let time = fixture
        .store
        .is_registered(&ours)?
        .expect("it is registered");
    assert!((registered.lease_time_millis..=registered.lease_time_millis + 5_000).contains(&time));
    let notes: Vec<String> = fixture.store.call(&["KEYS", "m:registered:*"])?;
    let left: u64 = fixture.store.call(&["TTL", &notes[0]])?;
    assert!((1..=REGISTRATION_SECONDS).contains(&left), "{left}");

    // The registration of another component, of the same families.
    let others = Registration::of_catalog(&fixture.catalog, "b", &["/invoke"]);
    assert_eq!(fixture.store.is_registered(&others)?, None);
    Ok(())
}

#[test]
fn removed_series_are_registered_again() -> Result {
    let removals: [fn(&mut Fixture) -> Result; 3] = [
        |fixture| fixture.store.wipe(7, &[ZERO_CELL.0]),
        |fixture| {
            let sets = [ZERO_CELL.1.to_owned()];
            fixture.store.remove(7, ZERO_CELL.0, &sets)
        },
        |fixture| fixture.store.call(&["FLUSHALL"]),
    ];
    for remove in removals {
        let mut fixture = Fixture::start()?;
        let ours = registration(&fixture.catalog);
        fixture.store.register(1, &ours)?;
        let initialised = |fixture: &mut Fixture| -> Result<Option<u64>> {
            fixture.store.call(&["HGET", ZERO_CELL.0, ZERO_CELL.1])
        };
        assert_eq!(initialised(&mut fixture)?, Some(0));
        remove(&mut fixture)?;
        assert_eq!(initialised(&mut fixture)?, None);

        assert_eq!(fixture.store.is_registered(&ours)?, None);
        fixture.store.register(2, &ours)?;
        assert!(fixture.store.is_registered(&ours)?.is_some());
        assert_eq!(initialised(&mut fixture)?, Some(0));
    }
    Ok(())
}

/// Each instance of such a component must get the key of its own hash.
#[test]
fn a_family_of_another_layout_is_never_taken_for_registered() -> Result {
    let mut fixture = Fixture::start()?;
    let mut others = fixture.catalog.families()[2].clone();
    others.key = "m:elsewhere".to_owned();
    let (field, standing) = (others.name.clone(), others.encode());
    let families = families_key("m:");
    fixture
        .store
        .call::<()>(&["HSET", &families, &field, &standing])?;

    let ours = registration(&fixture.catalog);
    let registered = fixture.store.register(1, &ours)?;
    assert_eq!(registered.in_force[2], standing);
    assert_eq!(fixture.store.is_registered(&ours)?, None);
    Ok(())
}

fn registration(catalog: &Catalog) -> Registration {
    Registration::of_catalog(catalog, "a", &["/invoke"])
}
