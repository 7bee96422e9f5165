//! The increments of one instance that are not stored yet, and which write of
//! them is under way. Pure: what is written where and when is [`super::flush`]'s.
//!
//! A batch that was sent may have been applied although no answer came. So it
//! is frozen, and sent again under the same id until it is answered or given
//! up; what is recorded meanwhile waits for the next one.

use std::collections::BTreeSet;

use functional_scaffold_protocol::{
    batch::{Batch, BatchId, LeasedExecution, SentBatch},
    calls::REMEMBERED_SECONDS,
    catalog::{Catalog, FinishedRequest, FlushOutcome, Tally},
    family::Family,
    lease::{EncodedLease, Lease, LeaseTemplate},
};

use crate::{config::MAX_EXECUTION_LIMIT_MS, invoke::Executed};

/// How much longer than the execution limit a lease runs, in milliseconds: for
/// the flush that settles it, and for the pause between two scripts that does
/// not extend leases yet (`MAX_GAP_MS` in the scripts).
const LEASE_MARGIN_MS: u64 = 5_000;

// A lease that lands late counts nothing as long as its id is remembered.
const _: () = assert!(MAX_EXECUTION_LIMIT_MS + LEASE_MARGIN_MS < REMEMBERED_SECONDS * 1000);

/// An instance's increments on their way.
#[derive(Debug)]
pub struct Writer {
    catalog: Catalog,
    algorithm: String,
    nonce: u64,
    started_at: u64,
    sequence: u64,
    leases: u64,
    /// By endpoint.
    lease_forms: Vec<(&'static str, LeaseTemplate)>,
    pending: Pending,
    frozen: Option<Frozen>,
    freezes: u64,
    answered: u64,
    flushing: bool,
    leases_suspended: bool,
    lease_trouble: Option<String>,
    batch_trouble: Option<String>,
    logged: u64,
    refusing_keys: BTreeSet<String>,
}

/// What was recorded, before it is put as cells.
#[derive(Debug, Default)]
struct Pending {
    /// What has no lease.
    tally: Tally<'static>,
    /// Apart from the others, because one whose lease ran out is counted
    /// already.
    finished: Vec<Finished>,
    /// What went otherwise than planned.
    troubles: Batch,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.tally.is_empty() && self.finished.is_empty() && self.troubles.is_empty()
    }
}

/// A finished execution that had a lease.
#[derive(Debug)]
struct Finished {
    lease: EncodedLease,
    request: FinishedRequest<'static>,
    executed: Executed,
}

impl Finished {
    fn record(&self, tally: &mut Tally<'static>) {
        tally.record_request(&self.request);
        tally.record_execution(self.executed.status, self.executed.nanos);
    }
}

/// A batch that is to be sent as it is until it is answered.
#[derive(Debug)]
pub struct Frozen {
    /// Its id.
    pub id: BatchId,
    /// Everything it adds.
    pub total: Batch,
    pending: Pending,
}

impl Frozen {
    /// The leases that it settles.
    pub fn leases(&self) -> impl ExactSizeIterator<Item = &EncodedLease> + Clone {
        self.pending.finished.iter().map(|finished| &finished.lease)
    }
}

/// Names the batch that a finished request goes with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket(u64);

impl Writer {
    /// Begins with nothing to write for the executions of `algorithm`. `nonce`
    /// is random, `started_at` in seconds since 1970; both name this writer to
    /// Redis.
    #[must_use]
    pub fn new(catalog: Catalog, algorithm: String, nonce: u64, started_at: u64) -> Self {
        Self {
            catalog,
            algorithm,
            nonce,
            started_at,
            sequence: 0,
            leases: 0,
            lease_forms: Vec::new(),
            pending: Pending::default(),
            frozen: None,
            freezes: 0,
            answered: 0,
            flushing: false,
            leases_suspended: false,
            lease_trouble: None,
            batch_trouble: None,
            logged: 0,
            refusing_keys: BTreeSet::new(),
        }
    }

    /// A lease for an execution on behalf of a request to `endpoint`, which may
    /// take `limit_millis` milliseconds.
    #[must_use]
    pub fn lease(&mut self, endpoint: &'static str, limit_millis: u64) -> EncodedLease {
        self.leases += 1;
        let id = format!("{:016x}/{}", self.nonce, self.leases);
        if let Some((_, form)) = self.lease_forms.iter().find(|form| form.0 == endpoint) {
            return form.entry(id);
        }
        let count = self.catalog.crash_cells(&self.algorithm, endpoint);
        let form = LeaseTemplate::new(limit_millis + LEASE_MARGIN_MS, count);
        let lease = form.entry(id);
        self.lease_forms.push((endpoint, form));
        lease
    }

    /// Whether an execution is to wait for its lease: not after one that was
    /// not acknowledged, until Redis has answered for a batch.
    #[must_use]
    pub fn waits_for_leases(&self) -> bool {
        !self.leases_suspended
    }

    /// Why a lease was last not acknowledged, if one was not.
    #[must_use]
    pub fn lease_trouble(&self) -> Option<&str> {
        self.lease_trouble.as_deref()
    }

    /// Whether a response may wait for its batch: not after an attempt that
    /// failed, until Redis has answered for a batch.
    #[must_use]
    pub fn waits_for_batches(&self) -> bool {
        self.batch_trouble.is_none()
    }

    /// Why the last attempt to store a batch failed, if it did.
    #[must_use]
    pub fn batch_trouble(&self) -> Option<&str> {
        self.batch_trouble.as_deref()
    }

    /// Whether something is not stored yet.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.frozen.is_some() || !self.pending.is_empty()
    }

    /// How many batches were given to the log.
    #[must_use]
    pub fn logged(&self) -> u64 {
        self.logged
    }

    /// Redis did not acknowledge a lease in time, for this reason.
    pub fn give_up_leases(&mut self, reason: String) {
        self.leases_suspended = true;
        self.lease_trouble = Some(reason);
    }

    /// Counts an execution that begins without an acknowledged lease.
    pub fn record_unleased(&mut self) {
        self.catalog
            .record_unleased(&mut self.pending.troubles, &self.algorithm);
    }

    /// Adds a finished request, and its execution and the lease of that one if
    /// it had them: also a lease that was given up, which may still land.
    pub fn record(
        &mut self,
        request: &FinishedRequest<'static>,
        executed: Option<(Executed, Option<EncodedLease>)>,
    ) -> Ticket {
        let pending = &mut self.pending;
        match executed {
            Some((executed, Some(lease))) => pending.finished.push(Finished {
                lease,
                request: *request,
                executed,
            }),
            Some((executed, None)) => {
                pending.tally.record_request(request);
                let Executed { status, nanos } = executed;
                pending.tally.record_execution(status, nanos);
            }
            None => pending.tally.record_request(request),
        }
        Ticket(self.freezes + 1)
    }

    /// Whether the batch of this ticket has been answered for, or given up.
    #[must_use]
    pub fn is_answered(&self, ticket: Ticket) -> bool {
        self.answered >= ticket.0
    }

    /// Whether the caller is to flush after its response: true once, until
    /// [`Self::end_flushing`].
    #[must_use]
    pub fn begin_flushing(&mut self) -> bool {
        !std::mem::replace(&mut self.flushing, true)
    }

    /// Ends a flush if nothing is left to write.
    #[must_use]
    pub fn end_flushing(&mut self) -> bool {
        self.flushing = self.is_waiting();
        !self.flushing
    }

    /// The batch to send: the frozen one, or else all that waits, frozen now.
    #[must_use]
    pub fn freeze(&mut self) -> Option<&Frozen> {
        if self.frozen.is_none() && !self.pending.is_empty() {
            self.sequence += 1;
            self.freezes += 1;
            let pending = std::mem::take(&mut self.pending);
            self.frozen = Some(Frozen {
                id: BatchId {
                    started_at: self.started_at,
                    nonce: self.nonce,
                    sequence: self.sequence,
                },
                total: self.total(&pending),
                pending,
            });
        }
        self.frozen.as_ref()
    }

    fn total(&self, pending: &Pending) -> Batch {
        let mut tally = pending.tally.clone();
        for finished in &pending.finished {
            finished.record(&mut tally);
        }
        let mut total = pending.troubles.clone();
        tally.add_to(&mut total, &self.catalog, &self.algorithm);
        total
    }

    /// The frozen batch is stored, now or before.
    pub fn acknowledge(&mut self, duplicate: bool) {
        self.frozen = None;
        self.answered = self.freezes;
        self.leases_suspended = false;
        self.batch_trouble = None;
        if duplicate {
            self.record_flush(FlushOutcome::Duplicate, 1);
        }
    }

    /// An attempt to store the frozen batch failed, for this reason. Whether
    /// it is another one than that of the attempt before.
    pub fn record_failure(&mut self, reason: &str) -> bool {
        self.record_flush(FlushOutcome::Failed, 1);
        let another = self.batch_trouble.as_deref() != Some(reason);
        self.batch_trouble = Some(reason.to_owned());
        another
    }

    /// These increments of a stored batch could not be applied, each a text that
    /// begins with its key. Whether one of the keys had refused none before.
    pub fn note_refused(&mut self, refused: &[String]) -> bool {
        let keys = refused.iter().filter_map(|text| text.split(' ').next());
        let known = self.refusing_keys.len();
        self.refusing_keys.extend(keys.map(str::to_owned));
        self.refusing_keys.len() > known
    }

    /// The frozen batch was not stored, because these leases have run out:
    /// their executions are counted as crashed. It is to be sent without them,
    /// under the same id: what was sent before can never be stored any more.
    pub fn remove_late(&mut self, ids: &[String]) {
        let Some(mut frozen) = self.frozen.take() else {
            return;
        };
        let finished = &mut frozen.pending.finished;
        let before = finished.len();
        finished.retain(|finished| !ids.contains(&finished.lease.id));
        let late = (before - finished.len()) as u64;
        let troubles = &mut frozen.pending.troubles;
        self.catalog.record_late(troubles, &self.algorithm, late);
        frozen.total = self.total(&frozen.pending);
        self.frozen = Some(frozen);
    }

    /// Gives up everything that is not stored, to be logged. `nonces` are
    /// random: what waits goes by the first from now on, and what is recorded
    /// later by the second. Under one name, the later batch would make the
    /// earlier one look applied: see [`BatchId`].
    #[must_use]
    pub fn give_up(&mut self, nonces: [u64; 2], now: u64) -> Vec<SentBatch> {
        let frozen = self.frozen.take();
        // The one with the requests that wait, and the one before it if any.
        let logged = 1 + u64::from(frozen.is_some());
        self.record_flush(FlushOutcome::Logged, logged);
        self.logged += logged;
        self.rename(nonces[0], now);
        let _ = self.freeze();
        let waiting = self.frozen.take();
        self.answered = self.freezes;
        self.rename(nonces[1], now);
        let given_up = frozen.into_iter().chain(waiting);
        given_up.map(|frozen| self.sent(frozen)).collect()
    }

    /// The batch as it stands in the log.
    fn sent(&self, frozen: Frozen) -> SentBatch {
        let pending = frozen.pending;
        let cells = |tally: &Tally<'_>, mut cells| {
            tally.add_to(&mut cells, &self.catalog, &self.algorithm);
            cells
        };
        let leased = pending.finished.iter().map(|finished| {
            let Finished { lease, request, .. } = finished;
            let mut tally = Tally::default();
            finished.record(&mut tally);
            LeasedExecution {
                lease: Lease {
                    id: lease.id.clone(),
                    millis: lease.millis,
                    count: self
                        .catalog
                        .crash_cells(&self.algorithm, request.labels.endpoint),
                },
                increments: cells(&tally, Batch::default()),
            }
        });
        SentBatch {
            id: frozen.id,
            leased: leased.collect(),
            increments: cells(&pending.tally, pending.troubles),
        }
    }

    fn rename(&mut self, nonce: u64, now: u64) {
        (self.nonce, self.started_at, self.sequence) = (nonce, now, 0);
    }

    fn record_flush(&mut self, outcome: FlushOutcome, attempts: u64) {
        self.catalog
            .record_flushes(&mut self.pending.troubles, outcome, attempts);
    }

    /// The families that are recorded into.
    #[must_use]
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Series to be borne at 0, as key and field.
    #[must_use]
    pub fn zero_cells(&self, endpoints: &[&str]) -> Vec<(&str, String)> {
        self.catalog.zero_cells(&self.algorithm, endpoints)
    }

    /// Takes the registrations that stand in Redis for the families of
    /// `registered`, in their order: where another component was first, increments
    /// go to the hash it named. A family that it registered with another layout
    /// gets a hash of its own; these are given back, to be registered.
    #[must_use]
    pub fn adopt(&mut self, registered: &Catalog, standing: &[String]) -> Vec<(String, Family)> {
        let mut own_layouts = Vec::new();
        // Not by this writer's families: they may be others' already.
        let registered = registered.families().into_iter().zip(standing);
        for (family, (ours, standing)) in self.catalog.families_mut().into_iter().zip(registered) {
            let key = match Family::decode(&ours.name, standing.as_bytes()) {
                Ok(standing) if standing.same_layout(ours) => standing.key,
                _ => {
                    let (field, own) = ours.with_own_layout();
                    let key = own.key.clone();
                    own_layouts.push((field, own));
                    key
                }
            };
            if key != family.key {
                self.pending.troubles.rename_key(&family.key, &key);
                family.key = key;
            }
        }
        self.lease_forms.clear();
        own_layouts
    }
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
