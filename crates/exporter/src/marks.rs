//! The highest value served of each series, so that none steps back while the
//! store is the same. Owns what is served where Redis lost writes; how a store
//! is told from another (its epoch) is [`crate::reader`]'s.
//!
//! Redis may lose what it acknowledged: a power cut with `appendfsync
//! everysec`, a failover to a replica that lagged behind. Its counts step back,
//! and Prometheus takes that for a restart from 0 and counts the whole total
//! again. So what a value is below the one before is added to it from then on:
//! the lost increments were served and stay served, and every later one is
//! served too. Served is value + offset, never less than before, and exact but
//! for increments that were written after the last read and lost before the
//! next: those nobody has seen.
//!
//! A series that is gone is one that stepped back to 0: it stays served. Only its
//! removal by hand, another epoch, or a start of the exporter forgets it. Memory is that of the
//! series there have been in an epoch.

use std::{
    cmp::Ordering,
    collections::{HashMap, HashSet},
};

use functional_scaffold_schema::{
    family::{Family, Kind},
    removal::Removed,
    series::{FamilySeries, Histogram, Series},
};

/// A step of a sum that is none, in stored units: half of what the carry cell
/// counts. A read may see a sum before its carry was taken out of it and the
/// carry after, or the other way round. Such a step is believed when it is
/// still there at the next read.
const TORN_SUM: i128 = 1 << 61;

/// The marks of one epoch.
#[derive(Debug, Default)]
pub struct Marks {
    epoch: Option<String>,
    /// By the family's name and its hash's key.
    hashes: HashMap<(String, String), HashMarks>,
    /// Families that were logged.
    logged: HashSet<String>,
    /// The number of the last removal that was heard of.
    removals: i64,
}

#[derive(Debug)]
struct HashMarks {
    family: Family,
    marks: SeriesMarks,
}

#[derive(Debug)]
enum SeriesMarks {
    Counters(Held<CounterMark>),
    Histograms(Held<HistogramMark>),
}

impl SeriesMarks {
    fn forget(&mut self, gone: &HashSet<&str>) {
        match self {
            Self::Counters(marks) => marks.retain(|(labels, _)| !gone.contains(&**labels)),
            Self::Histograms(marks) => marks.retain(|(labels, _)| !gone.contains(&**labels)),
        }
    }
}

/// Marks by label set, in order.
type Held<M> = Vec<(Box<str>, M)>;

impl Marks {
    /// Forgets everything if this is another epoch. A store without one cannot
    /// be told from another, and nothing is held.
    pub fn enter(&mut self, epoch: Option<&str>) {
        if self.epoch.as_deref() == epoch {
            return;
        }
        if let (Some(before), Some(epoch)) = (&self.epoch, epoch) {
            tracing::warn!("the store was wiped (epoch {before}, now {epoch}): totals begin anew");
        }
        *self = Self {
            epoch: epoch.map(str::to_owned),
            ..Self::default()
        };
    }

    /// The number of the last removal that was heard of in this epoch.
    #[must_use]
    pub fn removals(&self) -> i64 {
        self.removals
    }

    /// Forgets what was removed by hand, by the removals' numbers. They have to
    /// be read before the hashes: otherwise what is gone may be held up once
    /// more, and what was read before it went be remembered anew.
    pub fn forget(&mut self, removals: &[(Removed, i64)]) {
        let mut whole = HashSet::new();
        let mut sets: HashMap<&str, HashSet<&str>> = HashMap::new();
        for (removed, number) in removals {
            self.removals = self.removals.max(*number);
            match &removed.labels {
                Some(labels) => drop(sets.entry(&removed.key).or_default().insert(labels)),
                None => drop(whole.insert(removed.key.as_str())),
            }
        }
        self.hashes
            .retain(|(_, key), _| !whole.contains(key.as_str()));
        for ((_, key), hash) in &mut self.hashes {
            if let Some(gone) = sets.get(key.as_str()) {
                hash.marks.forget(gone);
            }
        }
    }

    /// Raises what was read of one hash to what was served before, with the
    /// series that are gone put back, and gives how many series stepped back.
    /// Gauges stay as they are.
    pub fn hold(&mut self, layout: &mut FamilySeries) -> u64 {
        if self.epoch.is_none() || layout.family.kind == Kind::Gauge {
            return 0;
        }
        let FamilySeries { family, series } = layout;
        let hash = (family.name.clone(), family.key.clone());
        let held = self
            .hashes
            .entry(hash)
            .or_insert_with(|| HashMarks::new(family, series));
        if !held.family.same_layout(family) {
            // Registered anew by hand: its cells mean something else now.
            *held = HashMarks::new(family, series);
        }
        let back = match (&mut held.marks, series) {
            (SeriesMarks::Counters(marks), Series::Values(values)) => {
                hold_all(marks, values, family)
            }
            (SeriesMarks::Histograms(marks), Series::Histograms(values)) => {
                hold_all(marks, values, family)
            }
            // One kind has one form of series, and the layout is the same.
            (SeriesMarks::Counters(_), Series::Histograms(_))
            | (SeriesMarks::Histograms(_), Series::Values(_)) => Back::default(),
        };
        if let Some(example) = &back.example
            && self.logged.insert(family.name.clone())
        {
            tracing::warn!(
                series = back.series,
                "Redis lost writes: family {} stepped back, among others at {{{example}}}; it is served from its highest values on",
                family.name
            );
        }
        back.series
    }
}

impl HashMarks {
    fn new(family: &Family, series: &Series) -> Self {
        Self {
            family: family.clone(),
            marks: match series {
                Series::Values(_) => SeriesMarks::Counters(Vec::new()),
                Series::Histograms(_) => SeriesMarks::Histograms(Vec::new()),
            },
        }
    }
}

/// What stepped back in one hash.
#[derive(Debug, Default)]
struct Back {
    series: u64,
    example: Option<String>,
}

impl Back {
    fn add(&mut self, labels: &str) {
        self.series += 1;
        if self.example.is_none() {
            self.example = Some(labels.to_owned());
        }
    }
}

/// The last value read of a series, and what is added to it.
trait Mark: Sized {
    type Value;
    fn new(value: &Self::Value) -> Self;
    /// What is read of a series that is gone.
    fn nothing(&self) -> Self::Value;
    /// Makes a value read the value to serve, and says whether it stepped back.
    fn hold(&mut self, value: &mut Self::Value, family: &Family) -> bool;
}

/// Holds every series of a hash. Both lists are in order of label sets, so one
/// walk compares them, and a read without new or lost series moves nothing.
fn hold_all<M: Mark>(
    marks: &mut Held<M>,
    values: &mut Vec<(Box<str>, M::Value)>,
    family: &Family,
) -> Back {
    let mut back = Back::default();
    let mut gone = Vec::new();
    let mut new = Vec::new();
    let mut held = marks.iter_mut().peekable();
    for (labels, value) in values.iter_mut() {
        let mark = loop {
            let Some(next) = held.peek() else { break None };
            match next.0.cmp(labels) {
                Ordering::Less => gone.extend(held.next()),
                Ordering::Equal => break held.next(),
                Ordering::Greater => break None,
            }
        };
        match mark {
            Some((_, mark)) => {
                if mark.hold(value, family) {
                    back.add(labels);
                }
            }
            None => new.push((labels.clone(), M::new(value))),
        }
    }
    gone.extend(held);
    if !gone.is_empty() {
        for (labels, mark) in gone {
            let mut value = mark.nothing();
            if mark.hold(&mut value, family) {
                back.add(labels);
            }
            values.push((labels.clone(), value));
        }
        values.sort_unstable_by(|(left, _), (right, _)| left.cmp(right));
    }
    if !new.is_empty() {
        marks.append(&mut new);
        marks.sort_unstable_by(|(left, _), (right, _)| left.cmp(right));
    }
    back
}

#[derive(Debug)]
struct CounterMark {
    last: i64,
    offset: i64,
}

impl Mark for CounterMark {
    type Value = i64;

    fn new(value: &i64) -> Self {
        Self {
            last: *value,
            offset: 0,
        }
    }

    fn nothing(&self) -> i64 {
        0
    }

    fn hold(&mut self, value: &mut i64, _family: &Family) -> bool {
        let lost = self.last.saturating_sub(*value).max(0);
        self.offset = self.offset.saturating_add(lost);
        self.last = *value;
        *value = value.saturating_add(self.offset);
        lost > 0
    }
}

#[derive(Debug)]
struct HistogramMark {
    last: Histogram,
    // Of the few that ever stepped back.
    offset: Option<Box<Histogram>>,
    /// The last sum read was not believed.
    torn: bool,
}

impl Mark for HistogramMark {
    type Value = Histogram;

    fn new(value: &Histogram) -> Self {
        Self {
            last: value.clone(),
            offset: None,
            torn: false,
        }
    }

    fn nothing(&self) -> Histogram {
        Histogram {
            buckets: vec![0; self.last.buckets.len()].into(),
            sum: 0,
        }
    }

    fn hold(&mut self, value: &mut Histogram, family: &Family) -> bool {
        self.believe(value);
        // The sum of observations that may be negative is no counter.
        let sum_grows = family.bounds.first().is_some_and(|&bound| bound >= 0.0);
        let sum_back = sum_grows && value.sum < self.last.sum;
        let buckets = || self.last.buckets.iter().zip(&value.buckets);
        let back = sum_back || buckets().any(|(last, value)| value < last);
        if back {
            let lost = Histogram {
                buckets: buckets()
                    .map(|(last, value)| last.saturating_sub(*value))
                    .collect(),
                sum: if sum_back {
                    self.last.sum - value.sum
                } else {
                    0
                },
            };
            match &mut self.offset {
                Some(offset) => add(offset, &lost),
                none => *none = Some(Box::new(lost)),
            }
        }
        self.last.buckets.copy_from_slice(&value.buckets);
        self.last.sum = value.sum;
        if let Some(offset) = &self.offset {
            add(value, offset);
        }
        back
    }
}

impl HistogramMark {
    /// Puts the last sum in the place of one that is not believed.
    fn believe(&mut self, value: &mut Histogram) {
        let step = value.sum.saturating_sub(self.last.sum);
        self.torn = step.saturating_abs() >= TORN_SUM && !self.torn;
        if self.torn {
            value.sum = self.last.sum;
        }
    }
}

fn add(to: &mut Histogram, other: &Histogram) {
    for (to, other) in to.buckets.iter_mut().zip(&other.buckets) {
        *to = to.saturating_add(*other);
    }
    to.sum = to.sum.saturating_add(other.sum);
}

#[cfg(test)]
#[path = "marks_tests.rs"]
mod tests;
