//! The registrations found in Redis, sorted into families that can be served
//! side by side. Owns which of two that clash is served; reads no series.

use std::collections::{BTreeMap, HashSet};

use functional_scaffold_protocol::{
    exposition::sample_suffixes,
    family::{Family, Kind, LAYOUT_SEPARATOR},
};

use crate::{
    offences::{Offences, reason},
    self_metrics::is_own_name,
};

/// A family with every layout that is registered for it, the first one first.
/// All are of one type and scale and have keys of their own.
#[derive(Debug, Clone, PartialEq)]
pub struct Registered {
    /// The family's name.
    pub name: String,
    /// At least one.
    pub layouts: Vec<Family>,
}

/// Sorts registrations (field and JSON) into families in order of their names.
/// Of two that clash, the one whose field sorts first is served: so what is
/// served does not depend on the order in which Redis hands them out.
#[must_use]
pub fn families(
    registrations: Vec<(Vec<u8>, Vec<u8>)>,
    offences: &mut Offences,
) -> Vec<Registered> {
    // By field: HSCAN may hand one out twice.
    let registrations: BTreeMap<_, _> = registrations.into_iter().collect();
    let mut families: BTreeMap<String, Vec<Family>> = BTreeMap::new();
    for (field, json) in &registrations {
        if let Some(family) = decode(field, json, offences) {
            families
                .entry(family.name.clone())
                .or_default()
                .push(family);
        }
    }
    let mut sample_names = HashSet::new();
    families
        .into_iter()
        .filter_map(|(name, layouts)| {
            let layouts = compatible(layouts, offences);
            claim(&mut sample_names, &name, layouts.first()?.kind, offences)
                .then_some(Registered { name, layouts })
        })
        .collect()
}

fn decode(field: &[u8], json: &[u8], offences: &mut Offences) -> Option<Family> {
    let Ok(field) = std::str::from_utf8(field) else {
        offences.add("", reason::REGISTRATION, || {
            format!("field {:?} is not UTF-8", String::from_utf8_lossy(field))
        });
        return None;
    };
    let name = field
        .split_once(LAYOUT_SEPARATOR)
        .map_or(field, |(name, _)| name);
    match Family::decode(field, json) {
        Ok(family) if is_own_name(&family.name) => {
            offences.add(name, reason::NAME_COLLISION, || {
                format!("field {field:?}: the exporter has a metric of its own by this name")
            });
            None
        }
        Ok(family) => Some(family),
        Err(error) => {
            offences.add(name, reason::REGISTRATION, || {
                format!("field {field:?}: {error}")
            });
            None
        }
    }
}

/// The layouts that can be added to the first one. Bounds in common are looked
/// for after reading: they only matter if there is something to add.
fn compatible(layouts: Vec<Family>, offences: &mut Offences) -> Vec<Family> {
    let mut kept: Vec<Family> = Vec::with_capacity(layouts.len());
    for layout in layouts {
        let other_type = kept
            .first()
            .is_some_and(|first| first.kind != layout.kind || first.scale != layout.scale);
        let same_key = kept.iter().any(|other| other.key == layout.key);
        if other_type || same_key {
            offences.add(&layout.name, reason::LAYOUT, || {
                let why = if same_key {
                    "its key is that of another layout"
                } else {
                    "its type or scale is not that of the first layout"
                };
                format!("layout with key {:?}: {why}", layout.key)
            });
        } else {
            kept.push(layout);
        }
    }
    kept
}

/// Takes the names of a family's samples, unless one is taken: a counter
/// `x_count` beside a histogram `x` would give the same series twice.
fn claim(taken: &mut HashSet<String>, name: &str, kind: Kind, offences: &mut Offences) -> bool {
    let names: Vec<String> = sample_suffixes(kind)
        .iter()
        .map(|suffix| format!("{name}{suffix}"))
        .collect();
    if let Some(clash) = names.iter().find(|name| taken.contains(*name)) {
        offences.add(name, reason::NAME_COLLISION, || {
            format!("its series {clash} would be those of another family")
        });
        return false;
    }
    taken.extend(names);
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::self_metrics::IN_FLIGHT;

    const COUNTER: &str = r#"{"type":"counter","key":"k"}"#;
    const HISTOGRAM: &str = r#"{"type":"histogram","key":"k","bounds":[1]}"#;

    fn check(registrations: &[(&str, &str)], served: &[(&str, usize)], refused: &[(&str, &str)]) {
        let mut offences = Offences::default();
        let found = registrations
            .iter()
            .map(|(field, json)| (field.as_bytes().to_vec(), json.as_bytes().to_vec()))
            .collect();
        let families = families(found, &mut offences);
        let got: Vec<_> = families
            .iter()
            .map(|family| (family.name.as_str(), family.layouts.len()))
            .collect();
        assert_eq!(got, served, "served of {registrations:?}");
        let got: Vec<_> = offences
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
    fn no_two_families_give_the_same_series() {
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
    fn layouts_of_another_type_or_with_a_key_that_is_taken_are_refused() {
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
    fn a_registration_seen_twice_is_one() {
        check(&[("a", COUNTER), ("a", COUNTER)], &[("a", 1)], &[]);
    }
}
