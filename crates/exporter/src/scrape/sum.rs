//! Adds up the readings of all shards.
//!
//! A family is served as a whole or not at all: while a part of it is missing in one
//! shard, its sum would be too low, and Prometheus would take that for a counter reset.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use functional_scaffold_protocol::{
    family::{Family, Kind},
    series::{FamilySeries, Series, merge_layouts},
};

use crate::scrape::{
    decode_errors::reason,
    reading::{Began, Reading, SetTimes},
    registry::claim_samples,
};

/// Returns the sum of the readings, or the reading itself if there is only one.
pub(crate) fn sum(mut readings: Vec<Reading>) -> Reading {
    if readings.len() == 1
        && let Some(only) = readings.pop()
    {
        return only;
    }
    let mut sum = Reading {
        lease_overdue_seconds: max_of_all(&readings, |reading| reading.lease_overdue_seconds),
        oldest_lease_age_seconds: max_of_all(&readings, |reading| reading.oldest_lease_age_seconds),
        began: began(&readings),
        ..Reading::default()
    };
    let mut families: BTreeMap<String, Vec<(FamilySeries, SetTimes)>> = BTreeMap::new();
    let mut in_flight = Vec::new();
    // Of the shards that may have registrations that were not read.
    let mut known: Vec<BTreeSet<String>> = Vec::new();
    for mut reading in readings {
        sum.epoch = sum.epoch.or(reading.epoch);
        sum.cells = sum.cells.saturating_add(reading.cells);
        sum.decode_errors.merge(reading.decode_errors);
        sum.flushed_millis = sum.flushed_millis.max(reading.flushed_millis);
        sum.regressions = sum.regressions.saturating_add(reading.regressions);
        sum.partial.append(&mut reading.partial);
        known.extend(reading.known);
        sum.stores.append(&mut reading.stores);
        in_flight.extend(reading.in_flight);
        for family in reading.families {
            let name = family.family.name.clone();
            let set_times = reading.set_times.remove(&name).unwrap_or_default();
            families.entry(name).or_default().push((family, set_times));
        }
    }
    let mut sample_names = HashSet::new();
    for (name, shards) in families {
        let is_known = known.iter().all(|names| names.contains(&name));
        if sum.partial.contains(&name) || !is_known {
            continue;
        }
        let (family, refused) = add_up(shards);
        if let Some(layout) = refused.first() {
            let key = &layout.key;
            sum.decode_errors.add(&name, reason::LAYOUT, || {
                format!("layout with key {key:?}: its type or scale differs from another shard's")
            });
        } else if let Some(family) = family
            && claim_samples(
                &mut sample_names,
                &name,
                family.family.kind,
                &mut sum.decode_errors,
            )
        {
            sum.families.push(family);
        }
    }
    if sum.lease_overdue_seconds.is_some() {
        (sum.in_flight, _) = merge_layouts(in_flight);
    }
    sum
}

/// The highest value, if every shard has one.
fn max_of_all(readings: &[Reading], value: impl Fn(&Reading) -> Option<f64>) -> Option<f64> {
    let values = readings.iter().map(value);
    values
        .reduce(|left, right| Some(left?.max(right?)))
        .flatten()
}

/// Adds up a family, and returns the layouts that cannot be added to the first one.
fn add_up(shards: Vec<(FamilySeries, SetTimes)>) -> (Option<FamilySeries>, Vec<Family>) {
    let is_gauge = |(family, _): &(FamilySeries, SetTimes)| family.family.kind == Kind::Gauge;
    let was_set = |(_, set_times): &(FamilySeries, SetTimes)| !set_times.is_empty();
    if !shards.iter().any(is_gauge) || !shards.iter().any(was_set) {
        let families = shards.into_iter().map(|(family, _)| family);
        return merge_layouts(families.collect());
    }
    // The value of a gauge is the one that was set last. What other shards have of it is
    // taken out, so that the sum is that value.
    let mut last: HashMap<Box<str>, (i64, usize)> = HashMap::new();
    for (shard, (_, set_times)) in shards.iter().enumerate() {
        for (labels, &millis) in set_times {
            let last = last.entry(labels.clone()).or_insert((millis, shard));
            *last = (*last).max((millis, shard));
        }
    }
    let shards = shards.into_iter().enumerate();
    let families = shards.map(|(shard, (mut family, _))| {
        if let Series::Values(values) = &mut family.series {
            values.retain(|(labels, _)| last.get(labels).is_none_or(|&(_, of)| of == shard));
        }
        family
    });
    merge_layouts(families.collect())
}

/// When the sum of each series began: when the first of its shards did, because a series
/// that seems to have begun later than it did is counted twice.
fn began(readings: &[Reading]) -> Began {
    // A shard without families has not begun.
    let begun: Vec<_> = readings
        .iter()
        .filter(|reading| !reading.families.is_empty())
        .map(|reading| &reading.began)
        .collect();
    let Some((first, others)) = begun.split_first() else {
        return Began::default();
    };
    let earliest = |of: &dyn Fn(&Began) -> Option<i64>| {
        let times = begun.iter().map(|&began| of(began));
        times
            .reduce(|left, right| Some(left?.min(right?)))
            .flatten()
    };
    let mut sum = Began {
        epoch: earliest(&|began| began.epoch),
        ..Began::default()
    };
    // A removal in some shards only does not begin the sum.
    for name in first.families.keys() {
        let removed = earliest(&|began| began.families.get(name).copied());
        sum.families
            .extend(removed.map(|millis| (name.clone(), millis)));
    }
    for (name, series) in &first.series {
        if !others.iter().all(|began| began.series.contains_key(name)) {
            continue;
        }
        for labels in series.keys() {
            let removed = earliest(&|began| began.series.get(name)?.get(labels).copied());
            if let Some(millis) = removed {
                let series = sum.series.entry(name.clone()).or_default();
                series.insert(labels.clone(), millis);
            }
        }
    }
    sum
}
