//! Batches of increments: what a component sends to Redis under an id that makes it
//! count once, and what it writes to the log if Redis cannot store it.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    custom::{CustomWrites, GaugeWrite},
    escape::to_json,
    lease::{EncodedLease, Lease},
};

/// Largest increment of a cell, 2^62 - 1. A cell below 2^62 plus one increment stays
/// below 2^63, where Redis integers end.
pub const MAX_INCREMENT: u64 = (1 << 62) - 1;

/// Increments by Redis key and field. Merging batches adds their increments, so
/// neither order nor grouping matters.
///
/// # Examples
/// ```
/// use functional_scaffold_protocol::batch::Batch;
///
/// let mut batch = Batch::default();
/// batch.inc("metrics:jobs", r#"kind="nightly""#, 2);
/// let mut other = Batch::default();
/// other.inc("metrics:jobs", r#"kind="nightly""#, 1);
/// batch.merge(&other);
/// let cells: Vec<_> = batch.cells().collect();
/// assert_eq!(cells, [("metrics:jobs", r#"kind="nightly""#, 3)]);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Batch {
    // Not hash maps: in wasm, seeding one asks the host for random numbers. A batch
    // has a few dozen cells.
    hashes: BTreeMap<String, BTreeMap<String, u64>>,
}

impl Batch {
    /// Adds `by` to a cell, up to [`MAX_INCREMENT`]. In nanoseconds, that is 146 years
    /// of latency in one batch.
    pub fn inc(&mut self, key: &str, field: &str, by: u64) {
        // By reference first, so that only the first increment of a cell allocates.
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

    /// Adds all increments of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (key, field, by) in other.cells() {
            self.inc(key, field, by);
        }
    }

    /// Moves the increments of one key to another. A component needs this if it learns
    /// only after recording which key a family has.
    pub fn rename_key(&mut self, from: &str, to: &str) {
        if let Some(fields) = self.hashes.remove(from) {
            for (field, by) in fields {
                self.inc(to, &field, by);
            }
        }
    }

    /// Whether there are no increments.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// The number of cells.
    #[must_use]
    pub fn len(&self) -> usize {
        self.hashes.values().map(BTreeMap::len).sum()
    }

    /// The fields and increments of a key.
    #[must_use]
    pub fn of_key(&self, key: &str) -> Option<&BTreeMap<String, u64>> {
        self.hashes.get(key)
    }

    /// Each key with its fields and increments, in order of key.
    pub fn hashes(&self) -> impl Iterator<Item = (&str, &BTreeMap<String, u64>)> {
        self.hashes
            .iter()
            .map(|(key, fields)| (key.as_str(), fields))
    }

    /// Each cell as key, field and increment, in order of key and field.
    pub fn cells(&self) -> impl Iterator<Item = (&str, &str, u64)> {
        self.hashes.iter().flat_map(|(key, fields)| {
            fields
                .iter()
                .map(|(field, &by)| (key.as_str(), field.as_str(), by))
        })
    }
}

/// Idempotency key of a batch: writer nonce and sequence number. Redis applies a batch
/// once, however often it arrives.
///
/// A writer has at most one batch in flight and numbers its batches upwards, so Redis
/// remembers the last number of each writer. A writer that gives a batch up takes a new
/// nonce, because a later number under the old one would make the abandoned batch look
/// applied.
///
/// # Examples
/// ```
/// use functional_scaffold_protocol::batch::BatchId;
///
/// let id = BatchId { nonce: 0xab, sequence: 7 };
/// let text = String::from(id.clone());
/// assert_eq!(text, "00000000000000ab-7");
/// assert_eq!(BatchId::try_from(text), Ok(id));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct BatchId {
    /// Random number that names the writer.
    pub nonce: u64,
    /// Number of the batch, from 1.
    pub sequence: u64,
}

/// The text is not a batch id.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("not a batch id: {0:?}")]
pub struct BatchIdError(String);

impl From<BatchId> for String {
    fn from(id: BatchId) -> Self {
        format!("{:016x}-{}", id.nonce, id.sequence)
    }
}

impl TryFrom<String> for BatchId {
    type Error = BatchIdError;

    fn try_from(text: String) -> Result<Self, BatchIdError> {
        let parse = || {
            let mut parts = text.split('-');
            let id = Self {
                nonce: u64::from_str_radix(parts.next()?, 16).ok()?,
                sequence: parts.next()?.parse().ok()?,
            };
            (parts.next().is_none() && String::from(id.clone()) == text).then_some(id)
        };
        parse().ok_or_else(|| BatchIdError(text.clone()))
    }
}

/// A batch with its id, as it is sent to Redis or written to the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentBatch {
    /// Idempotency key, also when the batch is replayed from the log.
    pub id: BatchId,
    /// Lease time in milliseconds when the batch was frozen, as the writer estimated
    /// it. Every copy of the batch carries the same, and Redis refuses copies that
    /// arrive when it may have forgotten the id. `None` if the batch was never sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen_ms: Option<i64>,
    /// Increments beside those of `leased`.
    pub increments: Batch,
    /// Finished executions that had a lease. Their increments are kept apart, because
    /// an execution whose lease has expired is already counted as crashed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leased: Vec<LeasedExecution>,
    /// What it says about the families that a component's author declares.
    #[serde(default, skip_serializing_if = "CustomWrites::is_default")]
    pub custom: CustomWrites,
}

/// A finished execution that had a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeasedExecution {
    /// The lease, which the batch releases.
    pub lease: Lease,
    /// Lease time in milliseconds at which the lease expires.
    pub due_ms: i64,
    /// Increments of the execution and its request.
    pub increments: Batch,
}

impl From<&LeasedExecution> for EncodedLease {
    fn from(leased: &LeasedExecution) -> Self {
        Self {
            id: leased.lease.id.clone(),
            millis: leased.lease.millis,
            due_ms: leased.due_ms,
            member: leased.lease.encode(),
        }
    }
}

impl SentBatch {
    /// All increments of the batch.
    #[must_use]
    pub fn total(&self) -> Batch {
        let mut total = self.increments.clone();
        for leased in &self.leased {
            total.merge(&leased.increments);
        }
        total
    }

    /// Moves everything that it writes to one key to another.
    pub fn rename_key(&mut self, from: &str, to: &str) {
        self.increments.rename_key(from, to);
        for leased in &mut self.leased {
            leased.increments.rename_key(from, to);
        }
        self.custom.gauges.rename_key(from, to);
    }

    /// Removes the executions whose leases have these ids, because they have expired.
    /// Returns the number of executions removed.
    pub fn remove_late(&mut self, ids: &[String]) -> u64 {
        let before = self.leased.len();
        self.leased.retain(|leased| !ids.contains(&leased.lease.id));
        (before - self.leased.len()) as u64
    }
}

/// A batch in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoggedBatch {
    /// The batch that was given up.
    #[serde(flatten)]
    pub batch: SentBatch,
    /// Path of a group in a Pushgateway. With it, `increments` are the group's totals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The [shard](crate::shard) that its keys are in; `None` without shards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<u32>,
}

/// One line of the log: a batch, or part of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoggedPart {
    /// Cells and executions of the batch, under its id.
    #[serde(flatten)]
    pub logged: LoggedBatch,
    /// Place among the parts of the batch; `None` if the line holds all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<Part>,
}

/// Place of a part among the parts of its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Number of the part, from 1.
    pub number: u32,
    /// Number of parts.
    pub of: u32,
}

/// Members that a part may have and an empty one has not.
const EMPTY_MEMBERS: &str =
    r#","leased":[],"custom":{"gauges":[],"families":"","max_series":18446744073709551615}"#;

/// Bytes of the families' registrations that are not divided further. In JSON, each may
/// take six.
const PIECE_BYTES: usize = 256;

/// The place that takes the most bytes in JSON.
const WIDEST: Part = Part {
    number: u32::MAX,
    of: u32::MAX,
};

impl LoggedBatch {
    /// Splits the batch into parts of at most `max_bytes` of JSON each. A longer cell or
    /// execution gets its own part.
    ///
    /// # Examples
    /// ```
    /// use functional_scaffold_protocol::{
    ///     batch::{Batch, BatchId, Joiner, LoggedBatch, SentBatch},
    ///     custom::CustomWrites,
    /// };
    ///
    /// let mut increments = Batch::default();
    /// for number in 0..100 {
    ///     increments.inc("metrics:jobs", &format!("kind=\"{number}\""), 1);
    /// }
    /// let id = BatchId { nonce: 2, sequence: 3 };
    /// let (leased, custom) = (Vec::new(), CustomWrites::default());
    /// let batch = SentBatch { id, frozen_ms: None, increments, leased, custom };
    /// let logged = LoggedBatch { batch, group: None, shard: None };
    ///
    /// let mut parts = logged.clone().into_parts(1_000);
    /// let mut joiner = Joiner::default();
    /// let last = parts.pop().expect("there are several");
    /// for part in parts {
    ///     assert_eq!(joiner.push(part)?, None);
    /// }
    /// assert_eq!(joiner.push(last)?, Some(logged));
    /// # Ok::<(), functional_scaffold_protocol::batch::PartError>(())
    /// ```
    #[must_use]
    pub fn into_parts(self, max_bytes: usize) -> Vec<LoggedPart> {
        let whole = LoggedPart {
            logged: self,
            part: None,
        };
        if json_bytes(&whole) <= max_bytes {
            return vec![whole];
        }
        let Self {
            batch,
            group,
            shard,
        } = whole.logged;
        let empty = SentBatch {
            increments: Batch::default(),
            leased: Vec::new(),
            custom: batch.custom.without_content(),
            ..batch
        };
        let mut split = Split::new(
            LoggedBatch {
                batch: empty,
                group,
                shard,
            },
            max_bytes,
        );
        for (key, field, by) in batch.increments.cells() {
            // An upper bound, because cells that share a key repeat it here.
            let bytes = json_bytes(&(key, field, by)) + 1;
            split.part_for(bytes).increments.inc(key, field, by);
        }
        for leased in batch.leased {
            let bytes = json_bytes(&leased) + 1;
            split.part_for(bytes).leased.push(leased);
        }
        for (key, field, write) in batch.custom.gauges.cells() {
            let bytes = json_bytes(&(key, field, 0_u64)) + GaugeWrite::MAX_JSON_BYTES;
            let gauges = &mut split.part_for(bytes).custom.gauges;
            gauges.write(key, field, write);
        }
        let mut families = batch.custom.families.as_str();
        while !families.is_empty() {
            let end = families.floor_char_boundary(PIECE_BYTES);
            let (piece, rest) = families.split_at(end);
            let part = split.part_for(json_bytes(&piece));
            part.custom.families.push_str(piece);
            families = rest;
        }
        split.finish()
    }
}

/// Fills parts one after the other.
struct Split {
    empty: LoggedPart,
    empty_bytes: usize,
    max_bytes: usize,
    filled: Vec<LoggedPart>,
    /// Upper bound of the last part's JSON.
    bytes: usize,
}

impl Split {
    fn new(logged: LoggedBatch, max_bytes: usize) -> Self {
        let empty = LoggedPart {
            logged,
            part: Some(WIDEST),
        };
        let empty_bytes = json_bytes(&empty) + EMPTY_MEMBERS.len();
        Self {
            filled: Vec::new(),
            bytes: usize::MAX,
            empty,
            empty_bytes,
            max_bytes,
        }
    }

    /// Returns a part with room for this many bytes, a new one if necessary.
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
    to_json(value).len()
}

/// Parts of batches with missing parts that a [`Joiner`] keeps. A batch has some dozen.
const MAX_PARTS: usize = 10_000;
/// Batches that a [`Joiner`] knows as joined.
const MAX_JOINED: usize = 100_000;

/// Joins parts to batches, in any order and however often each part comes. Its memory is
/// bounded, however long a log is.
#[derive(Debug, Default)]
pub struct Joiner {
    /// Batches with missing parts.
    open: BTreeMap<PartKey, Parts>,
    /// The number of parts in them.
    parts: usize,
    /// The number of batches that were opened.
    opened: u64,
    /// Batches that were joined. If one of their parts comes again, it is not reported
    /// as incomplete.
    joined: BTreeSet<BatchId>,
}

#[derive(Debug, Default)]
struct Parts {
    /// The place of the batch in the order in which batches were opened.
    opened: u64,
    /// By number.
    parts: BTreeMap<u32, SentBatch>,
}

/// The values that all parts of a batch share.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct PartKey {
    id: BatchId,
    frozen_ms: Option<i64>,
    group: Option<String>,
    shard: Option<u32>,
    max_series: u64,
    of: u32,
}

/// Why a part cannot be joined.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PartError {
    /// The number is not between 1 and the number of parts.
    #[error("there is no part {} of {}", .0.number, .0.of)]
    Number(Part),
    /// An earlier part has the same number and other contents.
    #[error("part {} of batch {} differs from an earlier one", .1.number, String::from(.0.clone()))]
    Conflict(BatchId, Part),
}

/// A batch with missing parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incomplete {
    /// The batch's id.
    pub id: BatchId,
    /// The batch's shard.
    pub shard: Option<u32>,
    /// Number of missing parts.
    pub missing: usize,
    /// Number of parts.
    pub of: u32,
}

impl Joiner {
    /// Adds a part. Returns the batch if it is complete with this part.
    ///
    /// # Errors
    /// The part cannot be joined; it is left out.
    pub fn push(&mut self, part: LoggedPart) -> Result<Option<LoggedBatch>, PartError> {
        let LoggedPart { logged, part } = part;
        let Some(part) = part else {
            return Ok(Some(logged));
        };
        if !(1..=part.of).contains(&part.number) {
            return Err(PartError::Number(part));
        }
        let LoggedBatch {
            batch,
            group,
            shard,
        } = logged;
        let key = PartKey {
            id: batch.id.clone(),
            frozen_ms: batch.frozen_ms,
            group,
            shard,
            max_series: batch.custom.max_series,
            of: part.of,
        };
        let Parts { parts, .. } = match self.open.entry(key.clone()) {
            Entry::Occupied(open) => open.into_mut(),
            Entry::Vacant(entry) => {
                self.opened += 1;
                entry.insert(Parts {
                    opened: self.opened,
                    ..Parts::default()
                })
            }
        };
        match parts.entry(part.number) {
            Entry::Occupied(earlier) if *earlier.get() != batch => {
                return Err(PartError::Conflict(key.id, part));
            }
            Entry::Occupied(_) => {}
            Entry::Vacant(entry) => {
                entry.insert(batch);
                self.parts += 1;
            }
        }
        if (parts.len() as u64) < u64::from(part.of) {
            return Ok(None);
        }
        let Parts { parts, .. } = self.open.remove(&key).unwrap_or_default();
        self.parts -= parts.len();
        if self.joined.len() >= MAX_JOINED {
            self.joined.clear();
        }
        self.joined.insert(key.id.clone());
        Ok(Some(key.join(parts)))
    }

    /// The batches with missing parts.
    pub fn incomplete(&self) -> impl Iterator<Item = Incomplete> {
        let open = self.open.iter();
        let open = open.filter(|(key, _)| !self.joined.contains(&key.id));
        open.map(|(key, open)| key.incomplete(open))
    }

    /// Takes out the batch that has waited longest for its missing parts, if there are
    /// more than 10,000 parts of such batches. To be called after [`Self::push`].
    pub fn give_up(&mut self) -> Option<Incomplete> {
        if self.parts <= MAX_PARTS {
            return None;
        }
        let oldest = self.open.iter().min_by_key(|(_, open)| open.opened);
        let key = oldest.map(|(key, _)| key.clone())?;
        let open = self.open.remove(&key)?;
        self.parts -= open.parts.len();
        Some(key.incomplete(&open))
    }

    /// Takes out a batch with missing parts.
    pub fn remove(&mut self, id: &BatchId) -> Option<Incomplete> {
        let key = self.open.keys().find(|key| key.id == *id).cloned()?;
        let open = self.open.remove(&key)?;
        self.parts -= open.parts.len();
        Some(key.incomplete(&open))
    }
}

impl PartKey {
    fn incomplete(&self, open: &Parts) -> Incomplete {
        Incomplete {
            id: self.id.clone(),
            shard: self.shard,
            missing: (self.of as usize).saturating_sub(open.parts.len()),
            of: self.of,
        }
    }

    fn join(self, parts: BTreeMap<u32, SentBatch>) -> LoggedBatch {
        let mut batch = SentBatch {
            id: self.id,
            frozen_ms: self.frozen_ms,
            increments: Batch::default(),
            leased: Vec::new(),
            custom: CustomWrites {
                max_series: self.max_series,
                ..CustomWrites::default()
            },
        };
        for part in parts.into_values() {
            batch.increments.merge(&part.increments);
            batch.leased.extend(part.leased);
            batch.custom.gauges.merge(&part.custom.gauges);
            batch.custom.families.push_str(&part.custom.families);
        }
        LoggedBatch {
            batch,
            group: self.group,
            shard: self.shard,
        }
    }
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
