//! When an instance is spared the registration, because what it would register
//! is known to stand.

use functional_scaffold_protocol::{
    calls::{REGISTRATION_SECONDS, Registration, families_key},
    catalog::Catalog,
};

use super::fixture::Fixture;
use crate::Result;

const ZERO_CELL: (&str, &str) = ("m:algorithm_counter", "algorithm=\"a\",status=\"crashed\"");

#[test]
fn a_registration_is_known_once_it_was_made() -> Result {
    let mut fixture = Fixture::start()?;
    let ours = registration(&fixture.catalog);
    assert_eq!(fixture.store.known(&ours)?, None);

    let registered = fixture.store.register(1, &ours)?;
    let time = fixture.store.known(&ours)?.expect("it is registered");
    assert!((registered.lease_time_millis..=registered.lease_time_millis + 5_000).contains(&time));
    let notes: Vec<String> = fixture.store.call(&["KEYS", "m:registered:*"])?;
    let left: u64 = fixture.store.call(&["TTL", &notes[0]])?;
    assert!((1..=REGISTRATION_SECONDS).contains(&left), "{left}");

    // That of another component, under the same families.
    let others = Registration::of_catalog(&fixture.catalog, "b", &["/invoke"]);
    assert_eq!(fixture.store.known(&others)?, None);
    Ok(())
}

#[test]
fn what_was_taken_out_is_registered_again() -> Result {
    let taking_out: [fn(&mut Fixture) -> Result; 3] = [
        |fixture| fixture.store.wipe(7, &[ZERO_CELL.0]),
        |fixture| {
            let sets = [ZERO_CELL.1.to_owned()];
            fixture.store.remove(7, ZERO_CELL.0, &sets)
        },
        |fixture| fixture.store.call(&["FLUSHALL"]),
    ];
    for take_out in taking_out {
        let mut fixture = Fixture::start()?;
        let ours = registration(&fixture.catalog);
        fixture.store.register(1, &ours)?;
        let borne = |fixture: &mut Fixture| -> Result<Option<u64>> {
            fixture.store.call(&["HGET", ZERO_CELL.0, ZERO_CELL.1])
        };
        assert_eq!(borne(&mut fixture)?, Some(0));
        take_out(&mut fixture)?;
        assert_eq!(borne(&mut fixture)?, None);

        assert_eq!(fixture.store.known(&ours)?, None);
        fixture.store.register(2, &ours)?;
        assert!(fixture.store.known(&ours)?.is_some());
        assert_eq!(borne(&mut fixture)?, Some(0));
    }
    Ok(())
}

/// Each instance of such a component has to be told where to count instead.
#[test]
fn what_stands_otherwise_is_never_known() -> Result {
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
    assert_eq!(fixture.store.known(&ours)?, None);
    Ok(())
}

fn registration(catalog: &Catalog) -> Registration {
    Registration::of_catalog(catalog, "a", &["/invoke"])
}
