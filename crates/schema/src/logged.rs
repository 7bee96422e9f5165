//! Batches as they are given to the log: in parts, each short enough for a line
//! of its own, and put together again. Knows neither log nor lines.
//!
//! A batch may have been applied although it is in the log. So it is applied
//! whole, under its one id, or not at all: parts with ids of their own would be
//! applied once more each.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::batch::{Batch, BatchId, SentBatch};

/// A batch that was given to the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoggedBatch {
    /// What would have been sent.
    #[serde(flatten)]
    pub batch: SentBatch,
    /// The path of the Pushgateway's group that the numbers are, if they are
    /// one: its totals rather than increments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
}

/// What one line holds: a whole batch, or some of its cells and executions
/// under its id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoggedPart {
    /// The cells and executions.
    #[serde(flatten)]
    pub logged: LoggedBatch,
    /// Which part of the batch they are; none if they are all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<Part>,
}

/// A part's place among the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// From 1 upwards.
    pub number: u32,
    /// How many there are.
    pub of: u32,
}

/// The longest that a part's place is written.
const WIDEST: Part = Part {
    number: u32::MAX,
    of: u32::MAX,
};

impl LoggedBatch {
    /// Splits it into parts of at most `max_bytes` of JSON each. What cannot be
    /// split, a cell or an execution, is a part of its own if it is longer.
    #[must_use]
    pub fn into_parts(self, max_bytes: usize) -> Vec<LoggedPart> {
        let whole = LoggedPart {
            logged: self,
            part: None,
        };
        if json_bytes(&whole) <= max_bytes {
            return vec![whole];
        }
        let Self { batch, group } = whole.logged;
        let mut split = Split::new(batch.id, group, max_bytes);
        for (key, field, by) in batch.increments.cells() {
            // As if each had its key to itself: a little more than it takes.
            let bytes = json_bytes(&(key, field, by)) + 1;
            split.part_for(bytes).increments.inc(key, field, by);
        }
        for leased in batch.leased {
            let bytes = json_bytes(&leased) + 1;
            split.part_for(bytes).leased.push(leased);
        }
        split.finish()
    }
}

/// Parts as they are filled, one after the other.
struct Split {
    empty: LoggedPart,
    empty_bytes: usize,
    max_bytes: usize,
    filled: Vec<LoggedPart>,
    /// Of the last one.
    bytes: usize,
}

impl Split {
    fn new(id: BatchId, group: Option<String>, max_bytes: usize) -> Self {
        let batch = SentBatch {
            id,
            increments: Batch::default(),
            leased: Vec::new(),
        };
        let empty = LoggedPart {
            logged: LoggedBatch { batch, group },
            part: Some(WIDEST),
        };
        let empty_bytes = json_bytes(&empty) + ",\"leased\":[]".len();
        Self {
            filled: Vec::new(),
            bytes: usize::MAX,
            empty,
            empty_bytes,
            max_bytes,
        }
    }

    /// The part that takes this many bytes more.
    fn part_for(&mut self, bytes: usize) -> &mut SentBatch {
        if self.bytes.saturating_add(bytes) > self.max_bytes {
            self.filled.push(self.empty.clone());
            self.bytes = self.empty_bytes;
        }
        self.bytes += bytes;
        let last = self.filled.len() - 1;
        &mut self.filled[last].logged.batch
    }

    fn finish(self) -> Vec<LoggedPart> {
        let mut filled = self.filled;
        let of = u32::try_from(filled.len()).unwrap_or(u32::MAX);
        for (part, number) in filled.iter_mut().zip(1..) {
            part.part = Some(Part { number, of });
        }
        filled
    }
}

fn json_bytes(value: &impl Serialize) -> usize {
    // Texts, integers, and maps with texts for keys always serialise.
    serde_json::to_string(value).map_or(0, |text| text.len())
}

/// Puts parts together, in whatever order they come and however often.
#[derive(Debug, Default)]
pub struct Joiner {
    /// What is known of batches of which parts are missing.
    open: BTreeMap<Open, BTreeMap<u32, SentBatch>>,
    /// Batches that were put together of parts: where some of those come once
    /// more, nothing is missing.
    joined: BTreeSet<BatchId>,
}

/// In what the parts of a batch agree.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Open {
    id: BatchId,
    group: Option<String>,
    of: u32,
}

/// Why a part is none.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PartError {
    /// Its number is not among those that it names.
    #[error("there is no part {} of {}", .0.number, .0.of)]
    Number(Part),
    /// Another one of the same number was there before.
    #[error("part {} of batch {} is not the same as before", .1.number, String::from(.0.clone()))]
    Another(BatchId, Part),
}

/// A batch of which parts are missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incomplete {
    /// Its id.
    pub id: BatchId,
    /// How many parts are missing.
    pub missing: usize,
    /// How many there are in all.
    pub of: u32,
}

impl Joiner {
    /// Takes a part, and gives the batch if that was its last one.
    ///
    /// # Errors
    /// The part cannot be one of a batch; it is left out.
    pub fn push(&mut self, part: LoggedPart) -> Result<Option<LoggedBatch>, PartError> {
        let LoggedPart { logged, part } = part;
        let Some(part) = part else {
            return Ok(Some(logged));
        };
        if !(1..=part.of).contains(&part.number) {
            return Err(PartError::Number(part));
        }
        let LoggedBatch { batch, group } = logged;
        let open = Open {
            id: batch.id.clone(),
            group,
            of: part.of,
        };
        let parts = self.open.entry(open.clone()).or_default();
        match parts.entry(part.number) {
            Entry::Occupied(known) if *known.get() != batch => {
                return Err(PartError::Another(open.id, part));
            }
            Entry::Occupied(_) => {}
            Entry::Vacant(place) => {
                place.insert(batch);
            }
        }
        if (parts.len() as u64) < u64::from(part.of) {
            return Ok(None);
        }
        let parts = self.open.remove(&open).unwrap_or_default();
        self.joined.insert(open.id.clone());
        Ok(Some(open.join(parts)))
    }

    /// The batches of which parts are missing.
    pub fn incomplete(&self) -> impl Iterator<Item = Incomplete> {
        let open = self.open.iter();
        let open = open.filter(|(open, _)| !self.joined.contains(&open.id));
        open.map(|(open, parts)| Incomplete {
            id: open.id.clone(),
            missing: (open.of as usize).saturating_sub(parts.len()),
            of: open.of,
        })
    }
}

impl Open {
    fn join(self, parts: BTreeMap<u32, SentBatch>) -> LoggedBatch {
        let mut batch = SentBatch {
            id: self.id,
            increments: Batch::default(),
            leased: Vec::new(),
        };
        for part in parts.into_values() {
            batch.increments.merge(&part.increments);
            batch.leased.extend(part.leased);
        }
        LoggedBatch {
            batch,
            group: self.group,
        }
    }
}

#[cfg(test)]
#[path = "logged_tests.rs"]
mod tests;
