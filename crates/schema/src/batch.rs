//! Increments that are not yet stored, and the identity under which they are
//! written once. Knows neither families nor Redis commands.

use std::collections::BTreeMap;

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
    pub leased: Vec<Leased>,
}

/// What a finished execution adds, under its lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leased {
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
            Leased { lease, increments }
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
            let leased = vec![Leased { lease, increments: increments.clone() }];
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
