//! The registrations in Redis, as families that can be served side by side.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    ops::ControlFlow,
};

use functional_scaffold_protocol::{
    calls::families_key,
    catalog::Catalog,
    exposition::sample_suffixes,
    family::{Family, Kind, LAYOUT_SEPARATOR},
};

use crate::{
    redis_client::{Connection, Failure},
    redis_transport::TOO_LONG,
    scrape::{
        decode_errors::{DecodeErrors, REGISTRY, reason},
        limits::{
            MAX_HELP_BYTES, MAX_NAME_BYTES, MAX_REGISTRATION_BYTES, MAX_REGISTRATIONS,
            MAX_REGISTRATIONS_SEEN,
        },
        scan::{ReadOptions, Scanner, skip_unreadable},
        self_metrics::is_own_name,
    },
};

/// Registrations, valid or not: JSON by field.
pub(crate) type Registrations = BTreeMap<Vec<u8>, Vec<u8>>;

/// A family with all its registered layouts.
#[derive(Debug)]
pub struct RegisteredFamily {
    /// The family's name.
    pub name: String,
    /// At least one, the first registered one first. All have the same type and
    /// scale, and different keys.
    pub layouts: Vec<Family>,
}

/// The families that are registered in a store.
#[derive(Debug, Default)]
pub(crate) struct Registered {
    /// The families that can be served, in order of their names.
    pub(crate) families: Vec<RegisteredFamily>,
    /// The names with a registration that cannot be served.
    pub(crate) partial: BTreeSet<String>,
    /// The names of which every registration was read. `None` if that is true of all names.
    pub(crate) known: Option<BTreeSet<String>>,
}

/// The families that this repository declares.
fn declared_families() -> Vec<Family> {
    let (service, custom) = (Catalog::new(""), Catalog::of_custom(""));
    let families = service.families().into_iter().chain(custom.families());
    families.cloned().collect()
}

/// Reads registrations, `most` of the families that this repository declares, and `most`
/// others: an app that invents names must not displace the former.
pub(crate) async fn read_registrations(
    connection: &Connection,
    options: &ReadOptions,
    most: usize,
    errors: &mut DecodeErrors,
) -> Result<Registrations, Failure> {
    let (registrations, _registered) =
        scan_registrations(connection, options, most, errors).await?;
    Ok(registrations)
}

/// Like [`read_registrations`]. Also returns which families are partial, and of which every
/// registration was read; the families themselves are selected later.
async fn scan_registrations(
    connection: &Connection,
    options: &ReadOptions,
    most: usize,
    errors: &mut DecodeErrors,
) -> Result<(Registrations, Registered), Failure> {
    let declared = declared_families();
    let declared_names: HashSet<&str> = declared.iter().map(|family| &*family.name).collect();
    // A map, because HSCAN may return a field twice.
    let mut registrations = Registrations::new();
    let mut partial = BTreeSet::new();
    let mut known: BTreeSet<String> = declared_names.iter().copied().map(Into::into).collect();
    let (mut seen, mut of_declared, mut of_others) = (0, 0, 0);
    let mut are_too_many = false;
    let key = families_key(&options.prefix);
    let scan = Scanner::new(connection.clone(), options);
    // Goes on beyond the limit: there may be a further layout of a family that was read.
    scan.scan("HSCAN", &key, |page| {
        for (field, json) in page {
            if registrations.contains_key(field) {
                continue;
            }
            seen += 1;
            let text = String::from_utf8_lossy(field);
            let name = family_name(&text);
            let is_too_long = field == TOO_LONG
                || json == TOO_LONG
                || field.len() + json.len() > MAX_REGISTRATION_BYTES;
            if is_too_long {
                errors.add(name, reason::TOO_LONG, || {
                    format!("field {text:?}: more than {MAX_REGISTRATION_BYTES} bytes")
                });
            }
            let count = if declared_names.contains(name) {
                &mut of_declared
            } else {
                &mut of_others
            };
            if *count == most {
                known.remove(name);
                if !are_too_many {
                    are_too_many = true;
                    errors.add(REGISTRY, reason::TOO_MANY, || {
                        format!("more than {most} registrations")
                    });
                }
                if seen > MAX_REGISTRATIONS_SEEN {
                    return ControlFlow::Break(());
                }
                continue;
            }
            *count += 1;
            if !is_too_long {
                registrations.insert(field.clone(), json.clone());
                known.insert(name.to_owned());
            } else if name.len() <= MAX_REGISTRATION_BYTES {
                partial.insert(name.to_owned());
            }
        }
        ControlFlow::Continue(())
    })
    .await?;
    if are_too_many && seen > MAX_REGISTRATIONS_SEEN {
        // Any family may have further layouts.
        known.clear();
        let fields: Vec<String> = declared
            .iter()
            .flat_map(|family| [family.name.clone(), family.with_own_key().0])
            .collect();
        let mut command = redis::cmd("HMGET");
        command.arg(&key).arg(&fields);
        let read: Result<Vec<Option<Vec<u8>>>, _> = connection.clone().query(&command).await;
        let found = skip_unreadable(read, REGISTRY, &key, errors)?.unwrap_or_default();
        for (field, json) in fields.into_iter().zip(found) {
            let json = json.filter(|json| json.len() <= MAX_REGISTRATION_BYTES);
            registrations.extend(json.map(|json| (field.into_bytes(), json)));
        }
    }
    let registered = Registered {
        families: Vec::new(),
        partial,
        known: are_too_many.then_some(known),
    };
    Ok((registrations, registered))
}

/// Reads the families that can be served.
pub(crate) async fn registered_families(
    connection: &Connection,
    options: &ReadOptions,
    errors: &mut DecodeErrors,
) -> Result<Registered, Failure> {
    let read = scan_registrations(connection, options, MAX_REGISTRATIONS, errors).await;
    let key = families_key(&options.prefix);
    let Some((registrations, mut registered)) = skip_unreadable(read, REGISTRY, &key, errors)?
    else {
        return Ok(Registered {
            known: Some(BTreeSet::new()),
            ..Registered::default()
        });
    };
    let selected = select(registrations, errors);
    registered.families = selected.families;
    registered.partial.extend(selected.partial);
    Ok(registered)
}

/// Selects the families that can be served, in order of their names. Of two that
/// conflict, the one whose field sorts first is served, so that the result does not
/// depend on the order in which Redis returns them.
#[must_use]
pub fn served_families(
    registrations: Registrations,
    errors: &mut DecodeErrors,
) -> Vec<RegisteredFamily> {
    select(registrations, errors).families
}

fn select(registrations: Registrations, errors: &mut DecodeErrors) -> Registered {
    let mut registered = Registered::default();
    let mut families: BTreeMap<String, Vec<Family>> = BTreeMap::new();
    for (field, json) in &registrations {
        if let Some(family) = decode(field, json, errors) {
            families
                .entry(family.name.clone())
                .or_default()
                .push(family);
        } else {
            let field = String::from_utf8_lossy(field);
            registered.partial.insert(family_name(&field).to_owned());
        }
    }
    let mut sample_names = HashSet::new();
    for (name, layouts) in families {
        let all = layouts.len();
        let layouts = compatible(layouts, errors);
        let is_served = layouts
            .first()
            .is_some_and(|first| claim_samples(&mut sample_names, &name, first.kind, errors));
        if !is_served || layouts.len() < all {
            registered.partial.insert(name.clone());
        }
        if is_served {
            let family = RegisteredFamily { name, layouts };
            registered.families.push(family);
        }
    }
    registered
}

/// The name of the family that is registered under a field.
pub(crate) fn family_name(field: &str) -> &str {
    field
        .split_once(LAYOUT_SEPARATOR)
        .map_or(field, |(name, _)| name)
}

fn decode(field: &[u8], json: &[u8], errors: &mut DecodeErrors) -> Option<Family> {
    let Ok(field) = std::str::from_utf8(field) else {
        errors.add("", reason::REGISTRATION, || {
            format!("field {:?} is not UTF-8", String::from_utf8_lossy(field))
        });
        return None;
    };
    let name = family_name(field);
    match Family::decode(field, json) {
        Ok(family) if is_own_name(&family.name) => {
            errors.add(name, reason::NAME_COLLISION, || {
                format!("field {field:?}: the exporter itself has a metric of this name")
            });
            None
        }
        Ok(family) if family.name.len() > MAX_NAME_BYTES => {
            errors.add(name, reason::TOO_LONG, || {
                format!("field {field:?}: a name of more than {MAX_NAME_BYTES} bytes")
            });
            None
        }
        Ok(mut family) => {
            let end = family.help.floor_char_boundary(MAX_HELP_BYTES);
            family.help.truncate(end);
            family.help.shrink_to_fit();
            Some(family)
        }
        Err(error) => {
            errors.add(name, reason::REGISTRATION, || {
                format!("field {field:?}: {error}")
            });
            None
        }
    }
}

/// Selects the layouts that can be added to the first one. Their bounds may differ:
/// after reading, their sum keeps the bounds that all of them share.
fn compatible(layouts: Vec<Family>, errors: &mut DecodeErrors) -> Vec<Family> {
    let mut selected: Vec<Family> = Vec::with_capacity(layouts.len());
    for layout in layouts {
        let other_type = selected
            .first()
            .is_some_and(|first| first.kind != layout.kind || first.scale != layout.scale);
        let same_key = selected.iter().any(|other| other.key == layout.key);
        if other_type || same_key {
            errors.add(&layout.name, reason::LAYOUT, || {
                let why = if same_key {
                    "another layout has the same key"
                } else {
                    "its type or scale differs from the first layout's"
                };
                format!("layout with key {:?}: {why}", layout.key)
            });
        } else {
            selected.push(layout);
        }
    }
    selected
}

/// Claims the names of a family's samples. Returns false if another family has one of
/// them: a counter `x_count` beside a histogram `x` would expose the same series twice.
pub(crate) fn claim_samples(
    claimed: &mut HashSet<String>,
    name: &str,
    kind: Kind,
    errors: &mut DecodeErrors,
) -> bool {
    let names: Vec<String> = sample_suffixes(kind)
        .iter()
        .map(|suffix| format!("{name}{suffix}"))
        .collect();
    if let Some(taken) = names.iter().find(|name| claimed.contains(*name)) {
        errors.add(name, reason::NAME_COLLISION, || {
            format!("another family has the series {taken}")
        });
        return false;
    }
    claimed.extend(names);
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scrape::self_metrics::IN_FLIGHT;

    const COUNTER: &str = r#"{"type":"counter","key":"k"}"#;
    const HISTOGRAM: &str = r#"{"type":"histogram","key":"k","bounds":[1]}"#;

    fn check(registrations: &[(&str, &str)], served: &[(&str, usize)], refused: &[(&str, &str)]) {
        let mut errors = DecodeErrors::default();
        let found = registrations
            .iter()
            .map(|(field, json)| (field.as_bytes().to_vec(), json.as_bytes().to_vec()))
            .collect();
        let families = served_families(found, &mut errors);
        let got: Vec<_> = families
            .iter()
            .map(|family| (family.name.as_str(), family.layouts.len()))
            .collect();
        assert_eq!(got, served, "served of {registrations:?}");
        let got: Vec<_> = errors
            .counts()
            .map(|(family, reason, _)| (family, reason))
            .collect();
        assert_eq!(got, refused, "refused of {registrations:?}");
    }

    #[test]
    fn names_are_served_in_order_and_layouts_together() {
        let own_key = r#"{"type":"counter","key":"k2"}"#;
        check(
            &[("b", COUNTER), ("a@1", own_key), ("a", COUNTER)],
            &[("a", 2), ("b", 1)],
            &[],
        );
        check(&[("a@1", COUNTER)], &[("a", 1)], &[]);
    }

    #[test]
    fn corrupt_registrations_are_left_out() {
        check(
            &[("a", "{"), ("b", COUNTER), ("c d", COUNTER), ("", COUNTER)],
            &[("b", 1)],
            &[("(invalid name)", "registration"), ("a", "registration")],
        );
    }

    #[test]
    fn the_exporters_own_names_are_refused() {
        check(
            &[
                ("functional_scaffold_redis_up", COUNTER),
                ("functional_scaffold_redis_up@1", COUNTER),
                (IN_FLIGHT, COUNTER),
            ],
            &[],
            &[
                (IN_FLIGHT, "name_collision"),
                ("functional_scaffold_redis_up", "name_collision"),
            ],
        );
    }

    #[test]
    fn no_two_families_expose_the_same_series() {
        check(
            &[
                ("x_count", COUNTER),
                ("x_sum", HISTOGRAM),
                ("x", HISTOGRAM),
                ("x_total", COUNTER),
            ],
            &[("x", 1), ("x_total", 1)],
            &[("x_count", "name_collision"), ("x_sum", "name_collision")],
        );
    }

    #[test]
    fn layouts_of_another_type_or_with_the_key_of_another_are_refused() {
        let gauge = r#"{"type":"gauge","key":"k2"}"#;
        let scaled = r#"{"type":"counter","key":"k3","scale":1000}"#;
        check(
            &[
                ("a", COUNTER),
                ("a@1", gauge),
                ("a@2", scaled),
                ("a@3", COUNTER),
            ],
            &[("a", 1)],
            &[("a", "layout")],
        );
    }

    #[test]
    fn a_registration_that_is_returned_twice_is_one() {
        check(&[("a", COUNTER), ("a", COUNTER)], &[("a", 1)], &[]);
    }
}
