//! The promises of `docs/protocol.md`, in maps and numbers, without Redis.

use std::collections::{BTreeMap, BTreeSet};

use functional_scaffold_protocol::{
    batch::{LeasedExecution, SentBatch},
    calls::ApplyReply,
    lease::Lease,
};

/// The lease time for which ids are remembered.
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
    /// Closed leases' ids, with the lease time until which each is remembered. A `!`
    /// precedes those of leases that were removed without being counted.
    pub(crate) closed: BTreeMap<String, i64>,
    /// When ids of closed leases were last forgotten.
    pub(crate) forgotten: Option<i64>,
    /// Applied ids: for each pair of hashes, the turn of each and its writers' last
    /// numbers.
    pub(crate) applied: BTreeMap<u64, [Turn; 2]>,
    /// Lease time: it never steps back, and stands still in pauses.
    pub(crate) lease_time: i64,
    since_script: i64,
    epoch: Option<u64>,
}

/// The ids that were applied during one turn.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Turn {
    pub(crate) number: i64,
    /// The last number of each writer.
    pub(crate) last: BTreeMap<u64, u64>,
}

/// A reply without the lease time in it, which differs by what the test takes.
fn too_old() -> ApplyReply {
    ApplyReply::TooOld {
        lease_time_millis: 0,
    }
}

impl Model {
    /// An empty store at this lease time.
    pub(crate) fn at(lease_time: i64) -> Self {
        Self {
            lease_time,
            ..Self::default()
        }
    }

    /// Time passes while scripts run.
    pub(crate) fn pass_busy(&mut self, millis: i64) {
        self.lease_time += millis;
    }

    /// Time passes, or steps back, without a script.
    pub(crate) fn pass_paused(&mut self, millis: i64) {
        self.since_script += millis;
    }

    /// The lease time that a script would find.
    pub(crate) fn now(&self) -> i64 {
        self.lease_time + self.since_script.clamp(0, MAX_PAUSE_MS)
    }

    fn run_script(&mut self) {
        self.lease_time = self.now();
        self.since_script = 0;
    }

    /// A component starts.
    pub(crate) fn begin(&mut self, epoch: u64) {
        self.run_script();
        self.epoch.get_or_insert(epoch);
    }

    /// Takes a lease that began at this lease time; false if it was closed before it
    /// arrived, and counts nothing.
    pub(crate) fn take(&mut self, lease: &Lease, lease_time: i64) -> bool {
        let due = lease_time.saturating_add_unsigned(lease.millis);
        self.open.insert(lease.id.clone(), (lease.clone(), due));
        !self.closed.contains_key(&lease.id)
    }

    /// Returns whether an open lease may have been closed and forgotten before it
    /// arrived.
    pub(crate) fn is_uncertain(&self, due: i64) -> bool {
        self.forgotten
            .is_some_and(|forgotten| due + REMEMBERED_MS <= forgotten)
    }

    /// Applies a batch.
    pub(crate) fn apply(&mut self, batch: &SentBatch) -> ApplyReply {
        let pair = batch.id.nonce >> 51;
        let turns = self.applied.get(&pair).cloned().unwrap_or_default();
        let mut last = turns
            .iter()
            .filter_map(|turn| turn.last.get(&batch.id.nonce));
        if last.any(|last| *last >= batch.id.sequence) {
            return ApplyReply::Duplicate;
        }
        let now = self.now();
        if let Some(frozen) = batch.frozen_ms
            && (now - frozen).abs() > REMEMBERED_MS / 2
        {
            return too_old();
        }
        let is_late = |leased: &&LeasedExecution| {
            let id = &leased.lease.id;
            let is_forgotten = now - leased.due_ms >= REMEMBERED_MS;
            let is_unsettled = self.closed.contains_key(&format!("!{id}"));
            self.closed.contains_key(id)
                || is_forgotten && !self.open.contains_key(id) && !is_unsettled
        };
        let late = batch.leased.iter().filter(is_late);
        let late: Vec<_> = late.map(|leased| leased.lease.id.clone()).collect();
        if !late.is_empty() {
            return ApplyReply::Late(late);
        }
        self.run_script();
        let number = now.div_euclid(REMEMBERED_MS);
        let turns = self.applied.entry(pair).or_default();
        let turn = &mut turns[usize::from(number.rem_euclid(2) == 1)];
        if turn.number != number {
            *turn = Turn {
                number,
                last: BTreeMap::new(),
            };
        }
        turn.last.insert(batch.id.nonce, batch.id.sequence);
        let ids = batch.leased.iter().map(|leased| &leased.lease.id);
        if !ids.clone().all(|id| self.open.contains_key(id)) {
            // Also those that have arrived, which does no harm.
            self.closed.extend(batch.leased.iter().map(|leased| {
                let until = now.max(leased.due_ms) + REMEMBERED_MS;
                (leased.lease.id.clone(), until)
            }));
        }
        for leased in &batch.leased {
            let id = &leased.lease.id;
            // Only a batch that needs the note removes it.
            if now - leased.due_ms >= REMEMBERED_MS && !self.open.contains_key(id) {
                self.closed.remove(&format!("!{id}"));
            }
            self.open.remove(id);
        }
        for (key, field, by) in batch.total().cells() {
            self.count(key, field, by);
        }
        ApplyReply::Stored {
            lease_time_millis: 0,
            refused: Vec::new(),
        }
    }

    /// Settles expired leases that count in these keys, as a reader does. Returns the
    /// epoch, the number of leases settled, and the ids of those that it gave up.
    pub(crate) fn settle(&mut self, epoch: u64, metric_keys: &[&str]) -> (u64, u64, Vec<String>) {
        self.run_script();
        let metric_keys: BTreeSet<&str> = metric_keys.iter().copied().collect();
        let (closed, lease_time) = (&self.closed, self.lease_time);
        self.open
            .retain(|id, (_, due)| *due > lease_time || !closed.contains_key(id));
        let due: Vec<_> = self
            .open
            .values()
            .filter(|(_, due)| *due <= self.lease_time)
            .filter(|(lease, _)| {
                let mut keys = lease.count.iter().map(|(key, _)| key.as_str());
                keys.all(|key| metric_keys.contains(key))
            })
            .cloned()
            .collect();
        let (mut settled, mut given_up) = (0, Vec::new());
        for (lease, due) in due {
            self.open.remove(&lease.id);
            if self.is_uncertain(due) {
                let until = self.lease_time + REMEMBERED_MS;
                self.closed.insert(format!("!{}", lease.id), until);
                given_up.push(lease.id);
                continue;
            }
            settled += 1;
            for (key, field) in &lease.count {
                self.count(key, field, 1);
            }
            self.closed
                .insert(lease.id, self.lease_time + REMEMBERED_MS);
        }
        let before = self.closed.len();
        self.closed.retain(|_, until| *until > self.lease_time);
        if self.closed.len() < before {
            self.forgotten = Some(self.lease_time);
        }
        (*self.epoch.get_or_insert(epoch), settled, given_up)
    }

    fn count(&mut self, key: &str, field: &str, by: u64) {
        let cell = (key.to_owned(), field.to_owned());
        *self.counters.entry(cell).or_default() += i128::from(by);
    }
}
