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
//! another epoch forgets it, and its removal by hand, of which the store keeps a
//! journal. Memory is that of the series there have been in an epoch.

use std::collections::{HashMap, HashSet};

use functional_scaffold_protocol::{
    batch::Batch,
    family::{Family, Kind},
    removal::Removed,
    series::{FamilySeries, SeriesReader},
};
use serde::{Deserialize, Serialize};

use crate::hash_marks::HashMarks;

/// What was served within an epoch, as cells of the hashes that it was read of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Served {
    epoch: String,
    /// Each hash's family: its name and its registration.
    families: Vec<(String, String)>,
    cells: Batch,
    /// The number of the last removal that was heard of.
    removals: i64,
}

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
    /// Whether something is added to what is read.
    holds: bool,
    /// Whether that may be in Redis by now.
    handed_over: bool,
}

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

    /// The number of the last removal that was heard of, in this epoch.
    #[must_use]
    pub fn removals(&self, epoch: Option<&str>) -> i64 {
        if self.epoch.as_deref() == epoch {
            self.removals
        } else {
            0
        }
    }

    /// Forgets what was removed by hand, by the removals' numbers: before what
    /// was read after them is held.
    pub fn forget(&mut self, removals: &[(Removed, i64)]) {
        let mut sets: HashMap<&str, HashSet<&str>> = HashMap::new();
        for (removed, number) in removals {
            self.removals = self.removals.max(*number);
            match &removed.labels {
                Some(labels) => drop(sets.entry(&removed.key).or_default().insert(labels)),
                None => self.hashes.retain(|(_, key), _| *key != removed.key),
            }
        }
        for ((_, key), marks) in &mut self.hashes {
            if let Some(gone) = sets.get(key.as_str()) {
                marks.forget(gone);
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
        let hash = (layout.family.name.clone(), layout.family.key.clone());
        let held = self
            .hashes
            .entry(hash)
            .or_insert_with(|| HashMarks::new(&layout.family, &layout.series));
        let back = held.hold(layout);
        let name = &layout.family.name;
        if let Some(example) = &back.example
            && self.logged.insert(name.clone())
        {
            tracing::warn!(
                series = back.series,
                "Redis lost writes: family {name} stepped back, among others at {{{example}}}; it is served from its highest values on"
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
        for ((_, key), marks) in &self.hashes {
            marks.offsets(|field, by| {
                if by > 0 {
                    offsets.inc(key, field, by);
                }
            });
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
            removals: self.removals,
        };
        for ((name, key), marks) in &self.hashes {
            served.families.push((name.clone(), marks.family.encode()));
            marks.served(|field, value| served.cells.inc(key, field, value));
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
        marks.removals = served.removals;
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
        self.hashes.values_mut().for_each(HashMarks::fold);
    }
}

#[cfg(test)]
#[path = "marks_tests.rs"]
mod tests;
