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
//! What is added is kept in Redis, so that another exporter adds the same, and
//! this one after a restart: it is handed over as soon as it is found
//! ([`crate::offsets`]), and what is read from then on has it in it. Only where
//! Redis does not take it, it is held here.
//!
//! A series that is gone is one that stepped back to 0: it stays served. Only
//! another epoch forgets it. Memory is that of the series there have been in an
//! epoch.

use std::{
    cmp::Ordering,
    collections::{HashMap, HashSet},
};

use functional_scaffold_schema::{
    batch::Batch,
    family::{Family, Kind},
    series::{FamilySeries, Series, SeriesReader},
};
use serde::{Deserialize, Serialize};

use crate::mark::{CounterMark, HistogramMark, Mark};

/// What was served within an epoch, as cells of the hashes that it was read of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Served {
    epoch: String,
    /// Each hash's family: its name and its registration.
    families: Vec<(String, String)>,
    cells: Batch,
}

/// The marks of one epoch.
#[derive(Debug, Default)]
pub struct Marks {
    epoch: Option<String>,
    /// By the family's name and its hash's key.
    hashes: HashMap<(String, String), HashMarks>,
    /// Families that were logged.
    logged: HashSet<String>,
    /// Whether something is added to what is read.
    holds: bool,
    /// Whether that may be in Redis by now.
    handed_over: bool,
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

/// Marks by label set, in order.
type Held<M> = Vec<(Box<str>, M)>;

impl Marks {
    /// Forgets everything if this is another epoch. A store without one cannot
    /// be told from another, and nothing is held.
    pub fn enter(&mut self, epoch: Option<&str>) {
        if std::mem::take(&mut self.handed_over) {
            self.fold();
        }
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
        self.holds |= back.series > 0;
        back.series
    }

    /// What is added to what is read, as increments of offsets; nothing if
    /// nothing is. Until [`Self::keep`] it is taken for added to what is read
    /// next: if it is not there, because no answer came, that has stepped back
    /// again.
    pub fn hand_over(&mut self) -> Option<Batch> {
        if !self.holds {
            return None;
        }
        let mut offsets = Batch::default();
        for ((_, key), HashMarks { family, marks }) in &self.hashes {
            let take = |field: &str, by: u64| {
                if by > 0 {
                    offsets.inc(key, field, by);
                }
            };
            match marks {
                SeriesMarks::Counters(marks) => offsets_of(marks, family, take),
                SeriesMarks::Histograms(marks) => offsets_of(marks, family, take),
            }
        }
        self.handed_over = true;
        Some(offsets)
    }

    /// Redis did not take what was handed over: it is held here.
    pub fn keep(&mut self) {
        self.handed_over = false;
    }

    /// What was served last, for [`Self::restore`]. Nothing without an epoch.
    #[must_use]
    pub fn served(&self) -> Option<Served> {
        let mut served = Served {
            epoch: self.epoch.clone()?,
            families: Vec::with_capacity(self.hashes.len()),
            cells: Batch::default(),
        };
        for ((name, key), HashMarks { family, marks }) in &self.hashes {
            served.families.push((name.clone(), family.encode()));
            let take = |field: &str, value: u64| served.cells.inc(key, field, value);
            match marks {
                SeriesMarks::Counters(marks) => served_of(marks, family, take),
                SeriesMarks::Histograms(marks) => served_of(marks, family, take),
            }
        }
        // The hashes are in no order, and what did not change is not written.
        served.families.sort_unstable();
        Some(served)
    }

    /// Begins where it was before a restart.
    ///
    /// # Errors
    /// A registration or a cell is none.
    pub fn restore(served: &Served) -> anyhow::Result<Self> {
        let mut marks = Self::default();
        marks.enter(Some(&served.epoch));
        for (name, registration) in &served.families {
            let family = Family::decode(name, registration.as_bytes())?;
            let mut series = SeriesReader::new(family.clone());
            let cells = served.cells.cells();
            for (_, field, value) in cells.filter(|(key, _, _)| *key == family.key) {
                series.push(field.as_bytes(), value.to_string().as_bytes())?;
            }
            marks.hold(&mut series.finish());
        }
        Ok(marks)
    }

    fn fold(&mut self) {
        self.holds = false;
        for held in self.hashes.values_mut() {
            match &mut held.marks {
                SeriesMarks::Counters(marks) => marks.iter_mut().for_each(|(_, mark)| mark.fold()),
                SeriesMarks::Histograms(marks) => {
                    marks.iter_mut().for_each(|(_, mark)| mark.fold());
                }
            }
        }
    }
}

fn offsets_of<M: Mark>(marks: &Held<M>, family: &Family, mut take: impl FnMut(&str, u64)) {
    for (labels, mark) in marks {
        if let Some(offset) = mark.offset() {
            M::cells(offset, labels, family, &mut take);
        }
    }
}

fn served_of<M: Mark>(marks: &Held<M>, family: &Family, mut take: impl FnMut(&str, u64)) {
    for (labels, mark) in marks {
        M::cells(&mark.served(), labels, family, &mut take);
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

#[cfg(test)]
#[path = "marks_tests.rs"]
mod tests;
