//! The promises of `docs/protocol.md`, in maps and numbers, without Redis.

use std::collections::{BTreeMap, BTreeSet};

use functional_scaffold_protocol::{
    batch::{BatchId, SentBatch},
    calls::ApplyReply,
    lease::Lease,
};

/// The time for which ids are remembered.
pub(crate) const REMEMBERED_MS: i64 = 7_200_000;
/// The longest pause between two scripts that counts as lease time. The rest of a longer
/// one extends all leases.
pub(crate) const MAX_PAUSE_MS: i64 = 5_000;

/// A store that keeps the protocol.
#[derive(Debug, Default)]
pub(crate) struct Model {
    /// Key and field of each counter, a sum and its carry as one number.
    pub(crate) counters: BTreeMap<(String, String), i128>,
    /// Open leases by their ids, with the lease time at which each expires.
    pub(crate) open: BTreeMap<String, (Lease, i64)>,
    /// Closed leases' ids, with the lease time until which each is remembered.
    pub(crate) closed: BTreeMap<String, i64>,
    /// Applied ids, by the second in which their writers began.
    pub(crate) applied: BTreeMap<u64, Bucket>,
    /// The time that passed by Redis's clock.
    pub(crate) wall: i64,
    /// Lease time: it never steps back, and stands still in pauses.
    pub(crate) lease_time: i64,
    since_script: i64,
    clock_kept: bool,
    epoch: Option<u64>,
}

/// The writers that started in the same second.
#[derive(Debug, Default)]
pub(crate) struct Bucket {
    /// The last number of each writer.
    pub(crate) last: BTreeMap<u64, u64>,
    /// When they are forgotten together.
    pub(crate) until: i64,
}

impl Model {
    /// Time passes while scripts run.
    pub(crate) fn pass_busy(&mut self, millis: i64) {
        self.wall += millis;
        self.lease_time += millis;
        self.forget_ids();
    }

    /// Time passes, or steps back, without a script.
    pub(crate) fn pass_paused(&mut self, millis: i64) {
        self.wall += millis;
        if self.clock_kept {
            self.since_script += millis;
        } else {
            // Without a clock there is no pause, and no lease to extend.
            self.lease_time += millis;
        }
        self.forget_ids();
    }

    fn forget_ids(&mut self) {
        self.applied.retain(|_, bucket| bucket.until > self.wall);
    }

    fn run_script(&mut self) {
        self.lease_time += self.since_script.clamp(0, MAX_PAUSE_MS);
        self.since_script = 0;
        self.clock_kept = true;
    }

    /// A component starts; returns the lease time.
    pub(crate) fn begin(&mut self, epoch: u64) -> i64 {
        self.run_script();
        self.epoch.get_or_insert(epoch);
        self.lease_time
    }

    /// Takes a lease that began at this lease time; false if it was closed before it
    /// arrived, and counts nothing.
    pub(crate) fn take(&mut self, lease: &Lease, lease_time: i64) -> bool {
        let due = lease_time.saturating_add_unsigned(lease.millis);
        self.open.insert(lease.id.clone(), (lease.clone(), due));
        !self.closed.contains_key(&lease.id)
    }

    /// Applies a batch.
    pub(crate) fn apply(&mut self, batch: &SentBatch) -> ApplyReply {
        if self.remembers(&batch.id) {
            return ApplyReply::Duplicate;
        }
        let ids = batch.leased.iter().map(|leased| &leased.lease.id);
        let late: Vec<_> = ids
            .clone()
            .filter(|id| self.closed.contains_key(*id))
            .cloned()
            .collect();
        if !late.is_empty() {
            return ApplyReply::Late(late);
        }
        self.run_script();
        let bucket = self.applied.entry(batch.id.started_at).or_default();
        bucket.last.insert(batch.id.nonce, batch.id.sequence);
        bucket.until = self.wall + REMEMBERED_MS;
        if !ids.clone().all(|id| self.open.contains_key(id)) {
            // Also those that have arrived, which does no harm.
            let until = self.lease_time + REMEMBERED_MS;
            self.closed
                .extend(ids.clone().map(|id| (id.clone(), until)));
        }
        for id in ids {
            self.open.remove(id);
        }
        for (key, field, by) in batch.total().cells() {
            self.count(key, field, by);
        }
        ApplyReply::Stored {
            lease_time_millis: self.lease_time,
            refused: Vec::new(),
        }
    }

    /// Settles expired leases that count in these keys only. Returns the store's
    /// epoch and how many leases there were.
    pub(crate) fn settle(&mut self, epoch: u64, metric_keys: &[&str]) -> (u64, u64) {
        self.run_script();
        let metric_keys: BTreeSet<&str> = metric_keys.iter().copied().collect();
        let (closed, lease_time) = (&self.closed, self.lease_time);
        self.open
            .retain(|id, (_, due)| *due > lease_time || !closed.contains_key(id));
        let due: Vec<_> = self
            .open
            .values()
            .filter(|(_, due)| *due <= self.lease_time)
            .map(|(lease, _)| lease.clone())
            .filter(|lease| {
                let mut keys = lease.count.iter().map(|(key, _)| key.as_str());
                keys.all(|key| metric_keys.contains(key))
            })
            .collect();
        for lease in &due {
            self.open.remove(&lease.id);
            self.closed
                .insert(lease.id.clone(), self.lease_time + REMEMBERED_MS);
            for (key, field) in &lease.count {
                self.count(key, field, 1);
            }
        }
        self.closed.retain(|_, until| *until > self.lease_time);
        (*self.epoch.get_or_insert(epoch), due.len() as u64)
    }

    fn remembers(&self, id: &BatchId) -> bool {
        let bucket = self.applied.get(&id.started_at);
        let last = bucket.and_then(|bucket| bucket.last.get(&id.nonce));
        last.is_some_and(|last| *last >= id.sequence)
    }

    fn count(&mut self, key: &str, field: &str, by: u64) {
        let cell = (key.to_owned(), field.to_owned());
        *self.counters.entry(cell).or_default() += i128::from(by);
    }
}
