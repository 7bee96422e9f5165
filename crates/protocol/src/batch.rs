//! Increments that are not yet stored, and the identity under which they are
//! written once. Knows neither families nor Redis commands.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::lease::Lease;

/// The most that one cell of a batch holds, 2^62 - 1: a stored cell below 2^62
/// takes it without passing 2^63, where Redis integers end.
pub const MAX_INCREMENT: u64 = (1 << 62) - 1;

/// Increments not yet stored: for each Redis key, how much to add to which
/// fields. Merging is addition, so order and grouping do not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Batch {
    // Ordered maps rather than hash maps: seeding a hash map asks the host for
    // random numbers in wasm, and a batch has a few dozen cells.
    hashes: BTreeMap<String, BTreeMap<String, u64>>,
}

impl Batch {
    /// Adds `by` to a cell. A cell is held at [`MAX_INCREMENT`]: in the unit of
    /// nanoseconds that is 146 years of latency in one batch.
    pub fn inc(&mut self, key: &str, field: &str, by: u64) {
        // Looked up by reference first: only a cell's first increment in a
        // batch allocates.
        if let Some(cell) = self
            .hashes
            .get_mut(key)
            .and_then(|fields| fields.get_mut(field))
        {
            *cell = cell.saturating_add(by).min(MAX_INCREMENT);
            return;
        }
        self.hashes
            .entry(key.to_owned())
            .or_default()
            .insert(field.to_owned(), by.min(MAX_INCREMENT));
    }

    /// Adds every cell of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (key, field, by) in other.cells() {
            self.inc(key, field, by);
        }
    }

    /// Moves the cells of one hash into another, where a component learns
    /// after recording that its layout has a hash of its own.
    pub fn rename_key(&mut self, from: &str, to: &str) {
        if let Some(fields) = self.hashes.remove(from) {
            for (field, by) in fields {
                self.inc(to, &field, by);
            }
        }
    }

    /// Whether there is nothing to store.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// How many cells there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.hashes.values().map(BTreeMap::len).sum()
    }

    /// The cells of each hash, by key.
    pub fn hashes(&self) -> impl Iterator<Item = (&str, &BTreeMap<String, u64>)> {
        self.hashes
            .iter()
            .map(|(key, fields)| (key.as_str(), fields))
    }

    /// Every cell as key, field and increment, in order of key and field.
    pub fn cells(&self) -> impl Iterator<Item = (&str, &str, u64)> {
        self.hashes.iter().flat_map(|(key, fields)| {
            fields
                .iter()
                .map(|(field, &by)| (key.as_str(), field.as_str(), by))
        })
    }
}

/// Names a batch once and for all, so that it is applied once however often
/// it arrives: who wrote it, and the how manieth write that was.
///
/// A writer has at most one batch under way and numbers them upwards, so the
/// last number applied is all that has to be remembered of a writer. A writer
/// that gives a batch up takes a new nonce: a later number under the old one
/// would make the abandoned batch look applied.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct BatchId {
    /// When the writer began, in seconds since 1970. It chooses the bucket of
    /// applied ids, so that old ones are forgotten together.
    pub started_at: u64,
    /// 64 random bits.
    pub nonce: u64,
    /// From 1 upwards.
    pub sequence: u64,
}

/// Why a text is no batch id.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("not a batch id: {0:?}")]
pub struct BatchIdError(String);

impl BatchId {
    /// The writer's part of the id, as it is remembered in Redis.
    #[must_use]
    pub fn writer(&self) -> String {
        format!("{:016x}", self.nonce)
    }
}

impl From<BatchId> for String {
    fn from(id: BatchId) -> Self {
        format!("{}-{:016x}-{}", id.started_at, id.nonce, id.sequence)
    }
}

impl TryFrom<String> for BatchId {
    type Error = BatchIdError;

    fn try_from(text: String) -> Result<Self, BatchIdError> {
        let parse = || {
            let mut parts = text.split('-');
            let id = Self {
                started_at: parts.next()?.parse().ok()?,
                nonce: u64::from_str_radix(parts.next()?, 16).ok()?,
                sequence: parts.next()?.parse().ok()?,
            };
            (parts.next().is_none() && String::from(id.clone()) == text).then_some(id)
        };
        parse().ok_or_else(|| BatchIdError(text.clone()))
    }
}

/// A batch as it is sent, and as it is given to the log where it could not be
/// stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentBatch {
    /// Its id, by which it is applied once, also from the log.
    pub id: BatchId,
    /// What it adds beside the executions below.
    pub increments: Batch,
    /// Finished executions that had a lease, each with what it adds: apart,
    /// because one whose lease ran out is counted already.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leased: Vec<LeasedExecution>,
}

/// What a finished execution adds, under its lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeasedExecution {
    /// The lease that it settles.
    pub lease: Lease,
    /// What it adds.
    pub increments: Batch,
}

impl SentBatch {
    /// Everything it adds.
    #[must_use]
    pub fn total(&self) -> Batch {
        let mut total = self.increments.clone();
        for leased in &self.leased {
            total.merge(&leased.increments);
        }
        total
    }

    /// Takes out the executions whose leases ran out, by the leases' ids, and
    /// gives how many there were.
    pub fn remove_late(&mut self, ids: &[String]) -> u64 {
        let before = self.leased.len();
        self.leased.retain(|leased| !ids.contains(&leased.lease.id));
        (before - self.leased.len()) as u64
    }
}

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
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn merging_adds() {
        let mut left = Batch::default();
        left.inc("k", "a", 1);
        let mut right = Batch::default();
        right.inc("k", "a", 2);
        right.inc("l", "b", 3);
        left.merge(&right);
        let cells: Vec<_> = left.cells().collect();
        assert_eq!(cells, [("k", "a", 3), ("l", "b", 3)]);
        assert_eq!(left.len(), 2);
    }

    #[test]
    fn renaming_a_key_keeps_what_was_counted() {
        let mut batch = Batch::default();
        batch.inc("k", "a", 1);
        batch.inc("k@2", "a", 4);
        batch.rename_key("k", "k@2");
        assert_eq!(batch.cells().collect::<Vec<_>>(), [("k@2", "a", 5)]);
    }

    #[test]
    fn a_cell_never_passes_what_redis_can_take() {
        let mut batch = Batch::default();
        batch.inc("k", "sum", u64::MAX);
        batch.inc("k", "sum", u64::MAX);
        assert_eq!(
            batch.cells().collect::<Vec<_>>(),
            [("k", "sum", MAX_INCREMENT)]
        );
    }

    #[test]
    fn refuses_ids_that_are_not_its_own() {
        for text in [
            "",
            "1",
            "1-2",
            "1-2-3",
            "1-000000000000000g-3",
            "1-0000000000000002-3-4",
        ] {
            assert!(BatchId::try_from(text.to_owned()).is_err(), "{text:?}");
        }
    }

    #[test]
    fn late_executions_are_taken_out_with_what_they_add() {
        let leased = |id: &str| {
            let mut increments = Batch::default();
            increments.inc("k", "a", 1);
            let lease = Lease {
                id: id.into(),
                millis: 1,
                count: Vec::new(),
            };
            LeasedExecution { lease, increments }
        };
        let id = BatchId {
            started_at: 1,
            nonce: 2,
            sequence: 3,
        };
        let mut sent = SentBatch {
            id,
            increments: Batch::default(),
            leased: vec![leased("1"), leased("2"), leased("3")],
        };
        let sum = |sent: &SentBatch| sent.total().cells().map(|(_, _, by)| by).sum::<u64>();
        assert_eq!(sum(&sent), 3);
        assert_eq!(sent.remove_late(&["2".into(), "9".into()]), 1);
        assert_eq!(sum(&sent), 2);
    }

    proptest! {
        #[test]
        fn ids_read_back(started_at: u64, nonce: u64, sequence: u64) {
            let id = BatchId { started_at, nonce, sequence };
            prop_assert_eq!(BatchId::try_from(String::from(id.clone())), Ok(id));
        }

        #[test]
        fn logged_batches_read_back(
            cells in prop::collection::vec((any::<String>(), any::<String>(), 0..=MAX_INCREMENT), 0..8),
        ) {
            let mut increments = Batch::default();
            for (key, field, by) in &cells {
                increments.inc(key, field, *by);
            }
            let id = BatchId { started_at: 1, nonce: 2, sequence: 3 };
            let lease = Lease { id: "l".into(), millis: 1, count: Vec::new() };
            let leased = vec![LeasedExecution { lease, increments: increments.clone() }];
            let sent = SentBatch { id, increments, leased };
            let text = serde_json::to_string(&sent).expect("serialises");
            prop_assert_eq!(serde_json::from_str::<SentBatch>(&text).ok(), Some(sent));
        }

        #[test]
        fn arbitrary_ids_never_panic(text: String) {
            let _ = BatchId::try_from(text);
        }
    }
}

#[cfg(test)]
#[path = "logged_tests.rs"]
mod logged_tests;
