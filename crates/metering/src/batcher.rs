//! The increments of one instance that are not stored yet. No I/O: the flusher
//! decides when they are stored, and a sink stores them.
//!
//! A batch that was sent may have been applied although no reply came. So a
//! batch is frozen before it is sent, and sent again under the same id until it
//! is acknowledged or moved to the log. What is recorded meanwhile goes into the
//! next batch.

use functional_scaffold_protocol::{
    batch::{Batch, BatchId, LeasedExecution, SentBatch},
    calls::{Call, REMEMBERED_SECONDS, Registration, Script, key_in_force},
    catalog::{Catalog, ExecutionStatus, FinishedRequest, FlushOutcome, RouteLabels, Tally},
    custom::CustomWrites,
    family::Family,
    lease::{EncodedLease, Lease, LeaseTemplate},
};

use crate::{config::MAX_EXECUTION_LIMIT_MS, custom::source::Custom};

/// Milliseconds that a lease runs beyond the execution limit: time for the flush
/// that closes it. An outage of Redis uses it up, too, because up to `MAX_GAP_MS`
/// of each outage counts as lease time (docs/protocol.md, "Lease time").
const LEASE_MARGIN_MS: u64 = 5_000;

/// Series of the author's families in a batch. Redis serves no other client while it
/// applies one: some ten milliseconds for this many.
const MAX_CUSTOM_SERIES: usize = 2_000;

// The id of a closed lease must be remembered until the lease itself expires, in
// case the lease arrives late.
const _: () = assert!(MAX_EXECUTION_LIMIT_MS + LEASE_MARGIN_MS < REMEMBERED_SECONDS * 1000);

/// The label values under which a component counts.
#[derive(Debug, Clone, Default)]
pub struct Workload {
    /// The label `algorithm` of its executions. If it is empty, only requests are
    /// counted, and each is an execution for its lease.
    pub algorithm: String,
    /// The values of the label `endpoint` whose `POST` has executions. Their error
    /// series are initialised to 0: Prometheus sees no increase in a series
    /// that starts at 1.
    pub endpoints: &'static [&'static str],
}

impl Workload {
    fn catalog(&self, prefix: &str) -> Catalog {
        match self.algorithm.is_empty() {
            true => Catalog::of_requests(prefix),
            false => Catalog::new(prefix),
        }
    }
}

/// A finished execution of an algorithm.
#[derive(Debug, Clone, Copy)]
pub struct Execution {
    /// How it ended.
    pub status: ExecutionStatus,
    /// How long it took, in nanoseconds.
    pub duration_nanos: u64,
}

/// Collects increments into batches, and tracks the batch that is being stored.
pub(crate) struct Batcher {
    catalog: Catalog,
    workload: Workload,
    custom: Custom,
    /// Number of families of the catalog, from its beginning, that are registered.
    registered: usize,
    nonce: u64,
    sequence: u64,
    leases: u64,
    /// By route.
    lease_templates: Vec<(RouteLabels<'static>, LeaseTemplate)>,
    pending: Pending,
    frozen: Option<FrozenBatch>,
    frozen_batches: u64,
    /// Number of frozen batches that were acknowledged or logged.
    resolved_batches: u64,
    /// The last of the frozen batches that Redis did not acknowledge whole.
    unacknowledged_batch: u64,
    flushing: bool,
    is_off: bool,
    leasing: Leasing,
    lease_error: Option<String>,
    store_error: Option<String>,
    refusal: Option<String>,
    logged_batches: u64,
}

/// Recorded counts that are not encoded as cells yet.
#[derive(Debug, Default)]
struct Pending {
    /// Requests and executions without a lease.
    tally: Tally<'static>,
    /// Executions with a lease, one by one. An execution whose lease has expired
    /// is already counted, and must be removed from the batch.
    leased: Vec<LeasedResult>,
    /// Metrics about the metric path itself, and those of the component's author.
    self_metrics: Batch,
    custom: CustomWrites,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.tally.is_empty()
            && self.leased.is_empty()
            && self.self_metrics.is_empty()
            && self.custom.gauges.is_empty()
    }
}

/// A lease that is closed by the batch.
#[derive(Debug)]
struct LeasedResult {
    lease: EncodedLease,
    route: RouteLabels<'static>,
    /// The request and its execution. `None` if the execution never began.
    finished: Option<(FinishedRequest<'static>, Option<Execution>)>,
}

impl LeasedResult {
    fn record(&self, tally: &mut Tally<'static>) {
        if let Some((request, execution)) = &self.finished {
            record(tally, request, *execution);
        }
    }
}

fn record(
    tally: &mut Tally<'static>,
    request: &FinishedRequest<'static>,
    execution: Option<Execution>,
) {
    tally.record_request(request);
    if let Some(execution) = execution {
        tally.record_execution(execution.status, execution.duration_nanos);
    }
}

/// How executions take leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leasing {
    /// They wait for its acknowledgement.
    Awaited,
    /// They send it without waiting, because another one timed out.
    Late,
    /// They take none, because Redis refused one or cannot be reached.
    Suspended,
}

/// A batch that is sent unchanged until it is acknowledged.
#[derive(Debug)]
pub(crate) struct FrozenBatch {
    pub(crate) id: BatchId,
    /// Lease time in milliseconds when it was frozen, estimated; `None` without Redis.
    pub(crate) frozen_ms: Option<i64>,
    /// Everything that it adds.
    pub(crate) total: Batch,
    pub(crate) custom: CustomWrites,
    pending: Pending,
    /// Copies that were sent and have no reply: each may be applied, now or later.
    unanswered: u32,
}

impl FrozenBatch {
    /// The leases that it closes.
    pub(crate) fn leases(&self) -> impl ExactSizeIterator<Item = &EncodedLease> + Clone {
        self.pending.leased.iter().map(|leased| &leased.lease)
    }
}

/// The batch that a finished request goes into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket(u64);

impl Batcher {
    /// Makes an empty batcher, whose hashes are under `prefix`. `nonce` is random and
    /// identifies this writer to Redis.
    pub(crate) fn new(prefix: &str, workload: Workload, nonce: u64) -> Self {
        let catalog = workload.catalog(prefix);
        Self::with(catalog, workload, Custom::default(), nonce)
    }

    /// Makes an empty batcher of custom metrics, whose hashes are under `prefix`.
    pub(crate) fn of_custom(prefix: &str, custom: Custom, nonce: u64) -> Self {
        let catalog = Catalog::of_custom(prefix);
        Self::with(catalog, Workload::default(), custom, nonce)
    }

    fn with(catalog: Catalog, workload: Workload, custom: Custom, nonce: u64) -> Self {
        Self {
            catalog,
            workload,
            custom,
            registered: 0,
            nonce,
            sequence: 0,
            leases: 0,
            lease_templates: Vec::new(),
            pending: Pending::default(),
            frozen: None,
            frozen_batches: 0,
            resolved_batches: 0,
            unacknowledged_batch: 0,
            flushing: false,
            is_off: false,
            leasing: Leasing::Awaited,
            lease_error: None,
            store_error: None,
            refusal: None,
            logged_batches: 0,
        }
    }

    /// Makes a lease for an execution of at most `limit_millis` that begins at
    /// `lease_time_millis`, for a request to `route`.
    pub(crate) fn lease(
        &mut self,
        route: RouteLabels<'static>,
        limit_millis: u64,
        lease_time_millis: i64,
    ) -> EncodedLease {
        self.leases += 1;
        let id = format!("{:016x}/{}", self.nonce, self.leases);
        let mut templates = self.lease_templates.iter();
        if let Some((_, template)) = templates.find(|(known, _)| *known == route) {
            return template.begin(id, lease_time_millis);
        }
        let count = self.catalog.crash_cells(&self.workload.algorithm, route);
        let template = LeaseTemplate::new(limit_millis + LEASE_MARGIN_MS, count);
        let lease = template.begin(id, lease_time_millis);
        self.lease_templates.push((route, template));
        if !self.workload.endpoints.contains(&route.endpoint()) {
            // The registration initialises only the workload's own endpoints.
            let (key, field) = self.catalog.crashed_requests_cell(route);
            self.pending.self_metrics.inc(key, &field, 0);
        }
        lease
    }

    /// Gives up a lease that may still arrive, because its execution does not begin.
    pub(crate) fn abandon(&mut self, route: RouteLabels<'static>, lease: EncodedLease) {
        self.pending.leased.push(LeasedResult {
            lease,
            route,
            finished: None,
        });
    }

    /// Counts nothing from now on, and drops everything that is not stored. Returns
    /// false if it was off.
    pub(crate) fn turn_off(&mut self) -> bool {
        self.pending = Pending::default();
        self.frozen = None;
        self.custom.switch_off();
        self.resolve_unacknowledged();
        // In `strict` mode this refuses every request.
        self.leasing = Leasing::Suspended;
        !std::mem::replace(&mut self.is_off, true)
    }

    /// Returns true after [`Self::turn_off`].
    pub(crate) fn is_off(&self) -> bool {
        self.is_off
    }

    /// How executions take leases now.
    pub(crate) fn leasing(&self) -> Leasing {
        self.leasing
    }

    /// Reason of the last lease that was not acknowledged.
    pub(crate) fn lease_error(&self) -> Option<&str> {
        self.lease_error.as_deref()
    }

    /// Reason why the last attempt to store a batch failed, if it did.
    pub(crate) fn store_error(&self) -> Option<&str> {
        self.store_error.as_deref()
    }

    /// An increment of the last stored batch that Redis refused, if it refused any.
    pub(crate) fn refusal(&self) -> Option<&str> {
        self.refusal.as_deref()
    }

    /// Returns whether something is not stored yet.
    pub(crate) fn has_unstored(&self) -> bool {
        self.frozen.is_some() || !self.pending.is_empty() || self.custom.has_news()
    }

    /// Number of batches that went to the log.
    pub(crate) fn logged_batches(&self) -> u64 {
        self.logged_batches
    }

    /// Makes executions do this about their leases until Redis acknowledges a batch,
    /// because one lease was not acknowledged for this reason.
    pub(crate) fn give_up_leases(&mut self, leasing: Leasing, reason: String) {
        self.leasing = leasing;
        self.lease_error = Some(reason);
    }

    /// Counts an execution that starts without an acknowledged lease.
    pub(crate) fn record_unleased(&mut self) {
        self.catalog
            .record_unleased(&mut self.pending.self_metrics, &self.workload.algorithm);
    }

    /// Records a finished request, and its execution and lease if it had them.
    pub(crate) fn record(
        &mut self,
        request: &FinishedRequest<'static>,
        execution: Option<Execution>,
        lease: Option<EncodedLease>,
    ) -> Ticket {
        let pending = &mut self.pending;
        match lease {
            Some(lease) => pending.leased.push(LeasedResult {
                lease,
                route: request.labels.route(),
                finished: Some((*request, execution)),
            }),
            None => record(&mut pending.tally, request, execution),
        }
        Ticket(self.frozen_batches + 1)
    }

    /// Returns whether the ticket's batch was acknowledged or logged.
    pub(crate) fn is_resolved(&self, ticket: Ticket) -> bool {
        self.resolved_batches >= ticket.0
    }

    /// Returns whether Redis acknowledged every increment of the ticket's batch. May be
    /// false if it acknowledged that batch but not a later one.
    pub(crate) fn is_acknowledged(&self, ticket: Ticket) -> bool {
        self.is_resolved(ticket) && self.unacknowledged_batch < ticket.0
    }

    /// Starts a flush, unless one is running. Returns whether it started.
    pub(crate) fn begin_flushing(&mut self) -> bool {
        !std::mem::replace(&mut self.flushing, true)
    }

    /// Ends the flush if everything is stored. Returns whether it ended.
    pub(crate) fn end_flushing(&mut self) -> bool {
        // A handle that the author's code holds may still have news.
        self.flushing = !self.is_off && self.has_unstored();
        !self.flushing
    }

    /// Ends the flush, whatever is left to store.
    pub(crate) fn stop_flushing(&mut self) {
        self.flushing = false;
    }

    /// Returns the batch to send: the frozen one, or else everything that is
    /// pending, frozen now. `now_ms` is the lease time, if there is one.
    pub(crate) fn freeze(&mut self, now_ms: Option<i64>) -> Option<&FrozenBatch> {
        if self.frozen.is_none() {
            self.drain_custom(MAX_CUSTOM_SERIES);
        }
        if self.frozen.is_none() && !self.pending.is_empty() {
            self.sequence += 1;
            self.frozen_batches += 1;
            let mut pending = std::mem::take(&mut self.pending);
            self.frozen = Some(FrozenBatch {
                id: BatchId {
                    nonce: self.nonce,
                    sequence: self.sequence,
                },
                frozen_ms: now_ms,
                total: self.total(&pending),
                custom: std::mem::take(&mut pending.custom),
                pending,
                unanswered: 0,
            });
        }
        self.frozen.as_ref()
    }

    /// Moves what the author of the component measured to the next batch.
    fn drain_custom(&mut self, max_series: usize) {
        let Pending {
            self_metrics,
            custom,
            ..
        } = &mut self.pending;
        self.custom
            .drain(&self.catalog, max_series, (self_metrics, custom));
    }

    /// Admits the author's new families to the catalog. Returns whether the catalog has
    /// families that are not registered.
    pub(crate) fn admit_families(&mut self) -> bool {
        self.custom.admit(&mut self.catalog);
        self.registered < self.catalog.families().len()
    }

    /// Adds to the call that stores the frozen batch what is limited.
    pub(crate) fn add_limited(&self, call: &mut Call) {
        if let Some(frozen) = &self.frozen {
            let FrozenBatch { total, custom, .. } = frozen;
            self.custom.add_limited(call, self.prefix(), total, custom);
        }
    }

    /// The script that applies its batches.
    pub(crate) fn apply_script(&self) -> &'static Script {
        self.custom.apply_script()
    }

    /// Adds the author's families that have something in a batch to it, but for the first
    /// `skipped` of the catalog.
    pub(crate) fn add_families(&self, skipped: usize, total: &Batch, custom: &mut CustomWrites) {
        self.custom
            .add_families(&self.catalog, skipped, total, custom);
    }

    /// Sets the lease time at the start of the host's clock.
    pub(crate) fn set_clock_offset(&mut self, millis: i64) {
        self.custom.set_clock_offset(millis);
    }

    /// Number of families of the catalog, from its beginning, that are registered.
    pub(crate) fn registered(&self) -> usize {
        self.registered
    }

    /// Notes that this many families of the catalog are registered.
    pub(crate) fn set_registered(&mut self, families: usize) {
        self.registered = self.registered.max(families);
    }

    fn total(&self, pending: &Pending) -> Batch {
        let mut tally = pending.tally.clone();
        for leased in &pending.leased {
            leased.record(&mut tally);
        }
        self.with_tally(pending.self_metrics.clone(), &tally)
    }

    fn with_tally(&self, mut batch: Batch, tally: &Tally<'_>) -> Batch {
        tally.add_to(&mut batch, &self.catalog, &self.workload.algorithm);
        batch
    }

    /// Notes that a copy of the frozen batch is being sent.
    pub(crate) fn begin_sending(&mut self) {
        if let Some(frozen) = &mut self.frozen {
            frozen.unanswered = frozen.unanswered.saturating_add(1);
        }
    }

    /// Notes the reply to a copy of the frozen batch.
    pub(crate) fn end_sending(&mut self) {
        if let Some(frozen) = &mut self.frozen {
            frozen.unanswered = frozen.unanswered.saturating_sub(1);
        }
    }

    /// Dates the frozen batch, which Redis refused as too old, to `now_ms`. Returns
    /// false if a copy of it was sent and not answered: that one may have been applied.
    pub(crate) fn refreeze(&mut self, now_ms: i64) -> bool {
        match &mut self.frozen {
            Some(frozen) if frozen.unanswered == 0 => {
                frozen.frozen_ms = Some(now_ms);
                true
            }
            _ => false,
        }
    }

    /// Drops the frozen batch, which is stored: by this attempt or, if
    /// `duplicate`, by an earlier one. `refused` are the increments that Redis
    /// refused; those of a duplicate are not known.
    pub(crate) fn acknowledge(&mut self, duplicate: bool, refused: &[String]) {
        self.frozen = None;
        self.resolved_batches = self.frozen_batches;
        self.leasing = Leasing::Awaited;
        self.store_error = None;
        self.refusal = refused.first().cloned();
        if duplicate || self.refusal.is_some() {
            self.unacknowledged_batch = self.frozen_batches;
        }
        if duplicate {
            self.record_flush(FlushOutcome::Duplicate, 1);
        }
    }

    /// Records a failed attempt to store the frozen batch. Returns whether the
    /// reason is new, that is differs from the previous attempt's.
    pub(crate) fn record_failure(&mut self, reason: &str) -> bool {
        self.record_flush(FlushOutcome::Failed, 1);
        let is_new = self.store_error.as_deref() != Some(reason);
        self.store_error = Some(reason.to_owned());
        is_new
    }

    /// Removes the executions of expired leases, which are already counted as
    /// crashed. The batch keeps its id although its content changes, which is safe:
    /// Redis has applied nothing under that id, and refuses an older copy that
    /// arrives later, because that names leases which are closed.
    pub(crate) fn remove_late(&mut self, ids: &[String]) {
        let Some(mut frozen) = self.frozen.take() else {
            return;
        };
        let leased = &mut frozen.pending.leased;
        let before = leased.len();
        leased.retain(|leased| !ids.contains(&leased.lease.id));
        let late = (before - leased.len()) as u64;
        self.unacknowledged_batch = self.frozen_batches;
        self.catalog.record_late(
            &mut frozen.pending.self_metrics,
            &self.workload.algorithm,
            late,
        );
        frozen.total = self.total(&frozen.pending);
        self.frozen = Some(frozen);
    }

    /// Removes everything that is not stored, for the log.
    ///
    /// The frozen batch keeps its id, under which it may have been applied. The
    /// pending batch gets the nonce `nonces[0]`, and everything recorded later
    /// `nonces[1]`, both random: under one nonce, a later batch would make an
    /// earlier one look applied (see [`BatchId`]).
    pub(crate) fn take_for_log(&mut self, nonces: [u64; 2]) -> Vec<SentBatch> {
        let frozen = self.take_frozen_for_log(nonces[0]);
        self.admit_families();
        self.drain_custom(usize::MAX);
        self.become_writer(nonces[0]);
        // Never empty, because this records into it.
        self.record_logged();
        let _ = self.freeze(None);
        let pending = self.frozen.take();
        self.resolve_unacknowledged();
        self.become_writer(nonces[1]);
        let pending = pending.map(|pending| self.for_log(pending));
        frozen.into_iter().chain(pending).collect()
    }

    /// Removes the frozen batch, if there is one, for the log. It keeps its id, and
    /// everything recorded later gets the random `nonce`.
    pub(crate) fn take_frozen_for_log(&mut self, nonce: u64) -> Option<SentBatch> {
        let frozen = self.frozen.take()?;
        self.record_logged();
        self.resolve_unacknowledged();
        self.become_writer(nonce);
        Some(self.for_log(frozen))
    }

    fn record_logged(&mut self) {
        self.record_flush(FlushOutcome::Logged, 1);
        self.logged_batches += 1;
    }

    fn resolve_unacknowledged(&mut self) {
        self.resolved_batches = self.frozen_batches;
        self.unacknowledged_batch = self.frozen_batches;
    }

    fn for_log(&self, mut frozen: FrozenBatch) -> SentBatch {
        self.add_families(self.registered, &frozen.total, &mut frozen.custom);
        let pending = frozen.pending;
        let leased = pending.leased.iter().map(|result| {
            let LeasedResult { lease, route, .. } = result;
            let mut tally = Tally::default();
            result.record(&mut tally);
            LeasedExecution {
                lease: Lease {
                    id: lease.id.clone(),
                    millis: lease.millis,
                    count: self.catalog.crash_cells(&self.workload.algorithm, *route),
                },
                due_ms: lease.due_ms,
                increments: self.with_tally(Batch::default(), &tally),
            }
        });
        SentBatch {
            id: frozen.id,
            frozen_ms: frozen.frozen_ms,
            leased: leased.collect(),
            increments: self.with_tally(pending.self_metrics, &pending.tally),
            custom: frozen.custom,
        }
    }

    /// Numbers the next batches from 1, under another nonce.
    fn become_writer(&mut self, nonce: u64) {
        (self.nonce, self.sequence) = (nonce, 0);
    }

    fn record_flush(&mut self, outcome: FlushOutcome, attempts: u64) {
        self.catalog
            .record_flushes(&mut self.pending.self_metrics, outcome, attempts);
    }

    /// The algorithm whose executions are counted.
    pub(crate) fn algorithm(&self) -> &str {
        &self.workload.algorithm
    }

    /// The prefix of every key.
    pub(crate) fn prefix(&self) -> &str {
        self.catalog.prefix()
    }

    /// The families that are recorded into.
    pub(crate) fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Series that are initialised to 0, as key and field.
    pub(crate) fn zero_cells(&self) -> Vec<(&str, String)> {
        let Workload {
            algorithm,
            endpoints,
        } = &self.workload;
        self.catalog.zero_cells(algorithm, endpoints)
    }

    /// The families as this instance registers them, whatever keys are in force.
    pub(crate) fn catalog_to_register(&self) -> Catalog {
        let custom = self.custom.to_register(&self.catalog);
        custom.unwrap_or_else(|| self.workload.catalog(self.prefix()))
    }

    /// The registration of `catalog` for this workload, without its first `skipped`
    /// families.
    pub(crate) fn registration(&self, catalog: &Catalog, skipped: usize) -> Registration {
        let Workload {
            algorithm,
            endpoints,
        } = &self.workload;
        let families = catalog.families().into_iter().skip(skipped);
        let named = families.map(|family| (family.name.as_str(), family));
        Registration::new(named, &catalog.zero_cells(algorithm, endpoints))
    }

    /// Takes over the keys that Redis has in force. `sent` are the families that
    /// this instance registered, but for the first `skipped`, and `in_force` the
    /// registrations in the reply, in the same order.
    ///
    /// If the layout in force differs from ours, the family gets a key of its
    /// own. Returns these families, which must be registered too.
    pub(crate) fn adopt(
        &mut self,
        sent: &Catalog,
        skipped: usize,
        in_force: &[String],
    ) -> Vec<(String, Family)> {
        let mut own_keys = Vec::new();
        // Not compared with this catalog, whose keys may already be another
        // component's.
        let replies = sent.families().into_iter().skip(skipped).zip(in_force);
        let families = self.catalog.families_mut().into_iter().skip(skipped);
        for (family, (ours, in_force)) in families.zip(replies) {
            let key = key_in_force(sent.prefix(), ours, in_force).unwrap_or_else(|| {
                let (field, own) = ours.with_own_key();
                let key = own.key.clone();
                own_keys.push((field, own));
                key
            });
            if key != family.key {
                self.pending.self_metrics.rename_key(&family.key, &key);
                family.key = key;
            }
        }
        self.lease_templates.clear();
        own_keys
    }
}

#[cfg(test)]
mod tests {
    use functional_scaffold_protocol::{catalog::RequestLabels, family::Kind};

    use super::*;

    fn batcher() -> Batcher {
        let workload = Workload {
            algorithm: "a".into(),
            endpoints: &["/invoke"],
        };
        Batcher::new("m:", workload, 7)
    }

    /// The lease time at which batches are frozen.
    const NOW: Option<i64> = Some(500);

    const REQUEST: FinishedRequest<'static> = FinishedRequest {
        labels: RequestLabels::new("POST", "/invoke", 200),
        duration_nanos: 1,
    };

    const EXECUTION: Execution = Execution {
        status: ExecutionStatus::Success,
        duration_nanos: 1,
    };

    fn record(batcher: &mut Batcher) -> Ticket {
        batcher.record(&REQUEST, None, None)
    }

    fn record_leased(batcher: &mut Batcher) -> String {
        let lease = batcher.lease(REQUEST.labels.route(), 1000, 400);
        let id = lease.id.clone();
        let _ticket = batcher.record(&REQUEST, Some(EXECUTION), Some(lease));
        id
    }

    /// Freezes a batch and returns what is sent to Redis: id, total and leases.
    fn as_sent(batcher: &mut Batcher) -> Option<(BatchId, Batch, Vec<EncodedLease>)> {
        let frozen = batcher.freeze(NOW)?;
        let leases = frozen.leases().cloned().collect();
        Some((frozen.id.clone(), frozen.total.clone(), leases))
    }

    fn count(total: &Batch) -> u64 {
        sum(total, "m:request_counter")
    }

    fn sum(total: &Batch, key: &str) -> u64 {
        let cells = total.cells().filter(|(found, _, _)| found.starts_with(key));
        cells.map(|(_, _, by)| by).sum()
    }

    #[test]
    fn a_sent_batch_is_frozen_until_it_is_acknowledged() {
        let mut batcher = batcher();
        assert_eq!(as_sent(&mut batcher), None);
        let ticket = record(&mut batcher);
        record_leased(&mut batcher);
        let first = as_sent(&mut batcher);
        let later = record(&mut batcher);
        assert_eq!(as_sent(&mut batcher), first, "a retry sends the same");
        assert!(!batcher.is_resolved(ticket));
        batcher.acknowledge(false, &[]);
        assert!(batcher.is_resolved(ticket));
        assert!(!batcher.is_resolved(later), "it goes with the next batch");
        let (first, second) = (first, as_sent(&mut batcher));
        let (first, first_total, leases) = first.expect("two requests wait");
        let (second, second_total, _) = second.expect("the other request waits");
        assert_eq!((first.sequence, second.sequence), (1, 2));
        assert_eq!((count(&first_total), count(&second_total)), (2, 1));
        assert_eq!(leases.len(), 1);
    }

    #[test]
    fn a_late_result_leaves_the_batch_and_is_counted_as_late() {
        let mut batcher = batcher();
        let late = record_leased(&mut batcher);
        record_leased(&mut batcher);
        let (id, total, _) = as_sent(&mut batcher).expect("two requests wait");
        assert_eq!(count(&total), 2);
        batcher.remove_late(&[late]);
        let (same_id, total, leases) = as_sent(&mut batcher).expect("one request is left");
        assert_eq!(same_id, id);
        assert_eq!((count(&total), sum(&total, "m:late_counter")), (1, 1));
        assert_eq!(leases.len(), 1);
    }

    #[test]
    fn a_batch_gets_another_time_only_if_no_copy_of_it_may_be_applied() {
        let mut batcher = batcher();
        record(&mut batcher);
        let frozen_ms = |batcher: &mut Batcher| batcher.freeze(NOW).and_then(|it| it.frozen_ms);
        assert_eq!(frozen_ms(&mut batcher), NOW);
        batcher.begin_sending();
        assert!(!batcher.refreeze(800), "it has no reply yet");
        batcher.end_sending();
        assert!(batcher.refreeze(800));
        assert_eq!(frozen_ms(&mut batcher), Some(800));
        // One copy gets no reply, the next one is refused as too old.
        batcher.begin_sending();
        batcher.begin_sending();
        batcher.end_sending();
        assert!(!batcher.refreeze(900));
        assert_eq!(frozen_ms(&mut batcher), Some(800));
        record(&mut batcher);
        let logged = batcher.take_frozen_for_log(8).expect("it is frozen");
        assert_eq!((logged.id.nonce, logged.frozen_ms), (7, Some(800)));
        let next = batcher.freeze(NOW).expect("the other request waits");
        assert_eq!((next.id.nonce, next.id.sequence), (8, 1));
        assert_eq!(
            (count(&next.total), sum(&next.total, "m:flush_counter")),
            (1, 1)
        );
    }

    #[test]
    fn a_lease_says_what_a_crash_counts() {
        let mut batcher = batcher();
        let lease = batcher.lease(RouteLabels::new("POST", "/invoke"), 30_000, 400);
        assert_ne!(
            lease.id,
            batcher
                .lease(RouteLabels::new("POST", "/invoke"), 30_000, 400)
                .id
        );
        let lease = Lease::decode(&lease.member).expect("it is a lease");
        assert_eq!(lease.millis, 35_000);
        let keys: Vec<_> = lease.count.iter().map(|(key, _)| key.as_str()).collect();
        let crash_keys = [
            "m:request_counter",
            "m:algorithm_counter",
            "m:settled_counter",
        ];
        assert_eq!(keys, crash_keys);
        assert!(lease.count[0].1.contains("code=\"500\""));
        assert!(lease.count[1].1.contains("status=\"crashed\""));
        let other = batcher.lease(RouteLabels::new("POST", "/invoke/{algorithm}"), 30_000, 400);
        assert!(other.member.contains("/invoke/{algorithm}"));
    }

    #[test]
    fn without_an_algorithm_requests_have_leases_and_no_executions() {
        let mut batcher = Batcher::new("m:", Workload::default(), 7);
        let route = RouteLabels::new("PUT", "/orders/:id");
        let lease = batcher.lease(route, 1000, 400);
        let counts = Lease::decode(&lease.member).expect("it is a lease").count;
        let crashed = r#"code="500",endpoint="/orders/:id",method="PUT",status="error""#;
        let expected = [("m:request_counter", crashed), ("m:settled_counter", "")];
        let expected = expected.map(|(key, field)| (key.to_owned(), field.to_owned()));
        assert_eq!(counts, expected);
        let request = FinishedRequest {
            labels: RequestLabels::new("PUT", "/orders/:id", 201),
            duration_nanos: 1,
        };
        let _ticket = batcher.record(&request, None, Some(lease));
        let (_, total, leases) = as_sent(&mut batcher).expect("a request waits");
        assert_eq!((leases.len(), count(&total)), (1, 1));
        let mut crashes = total.cells().filter(|(_, field, _)| *field == crashed);
        assert_eq!(
            crashes.next().map(|(_, _, by)| by),
            Some(0),
            "the series begins at 0"
        );
        assert_eq!(sum(&total, "m:algorithm"), 0);
    }

    #[test]
    fn waits_resume_when_a_batch_is_acknowledged() {
        let mut batcher = batcher();
        let waits = |batcher: &Batcher| {
            let is_awaited = batcher.leasing() == Leasing::Awaited;
            (is_awaited, batcher.store_error().is_none())
        };
        assert_eq!(waits(&batcher), (true, true));
        batcher.give_up_leases(Leasing::Late, "hung".to_owned());
        assert_eq!(waits(&batcher), (false, true));
        record(&mut batcher);
        assert!(batcher.record_failure("full"), "that is new");
        assert!(!batcher.record_failure("full"), "that is known");
        assert_eq!(waits(&batcher), (false, false));
        assert!(batcher.freeze(NOW).is_some());
        batcher.acknowledge(true, &[]);
        assert_eq!(waits(&batcher), (true, true));
        let next = batcher.freeze(NOW).expect("the duplicate is counted");
        assert_eq!(sum(&next.total, "m:flush_counter"), 1);
    }

    #[test]
    fn only_a_batch_that_is_stored_whole_is_acknowledged() {
        let refused = ["m:request_counter code=\"200\" +1: WRONGTYPE".to_owned()];
        for (duplicate, refused, whole) in [
            (false, &[][..], true),
            (false, &refused, false),
            // Its reply was lost, and with it what was refused.
            (true, &[], false),
        ] {
            let mut batcher = batcher();
            let ticket = record(&mut batcher);
            assert!(batcher.freeze(NOW).is_some());
            assert!(!batcher.is_acknowledged(ticket), "it is not stored yet");
            batcher.acknowledge(duplicate, refused);
            assert_eq!(batcher.is_acknowledged(ticket), whole, "{refused:?}");
            assert_eq!(batcher.refusal().is_some(), !refused.is_empty());
            let next = record(&mut batcher);
            assert!(batcher.freeze(NOW).is_some());
            batcher.acknowledge(false, &[]);
            assert!(batcher.is_acknowledged(next));
            assert_eq!(batcher.refusal(), None);
        }
        let mut batcher = batcher();
        let logged = record(&mut batcher);
        let _batches = batcher.take_for_log([8, 9]);
        assert!(batcher.is_resolved(logged) && !batcher.is_acknowledged(logged));
        let late = record_leased(&mut batcher);
        let ticket = record(&mut batcher);
        assert!(batcher.freeze(NOW).is_some());
        batcher.remove_late(&[late]);
        batcher.acknowledge(false, &[]);
        assert!(!batcher.is_acknowledged(ticket), "a result is left out");
    }

    #[test]
    fn a_lease_whose_execution_never_began_is_closed_and_counts_nothing() {
        let mut batcher = batcher();
        let lease = batcher.lease(RouteLabels::new("POST", "/invoke"), 1000, 400);
        batcher.abandon(REQUEST.labels.route(), lease.clone());
        let (_, total, leases) = as_sent(&mut batcher).expect("a lease waits");
        assert_eq!((total, &leases), (Batch::default(), &vec![lease.clone()]));
        let logged = batcher.take_for_log([8, 9]).remove(0);
        assert_eq!(EncodedLease::from(&logged.leased[0]), lease);
        assert_eq!(logged.total(), Batch::default());
    }

    #[test]
    fn taking_everything_for_the_log_changes_the_nonce() {
        let mut batcher = batcher();
        record(&mut batcher);
        record_leased(&mut batcher);
        let (id, total, leases) = as_sent(&mut batcher).expect("two requests wait");
        record(&mut batcher);
        record_leased(&mut batcher);
        let logged = batcher.take_for_log([8, 9]);
        assert_eq!(logged.len(), 2);
        assert_eq!((&logged[0].id, logged[0].total()), (&id, total));
        assert_eq!(EncodedLease::from(&logged[0].leased[0]), leases[0]);
        assert_eq!(count(&logged[0].leased[0].increments), 1);
        let waiting = logged[1].total();
        assert_eq!(count(&waiting), 2);
        assert_eq!(sum(&waiting, "m:flush_counter"), 2, "both are logged");
        let names: Vec<_> = logged.iter().map(|batch| batch.id.nonce).collect();
        assert_eq!(names, [7, 8], "neither makes the other look applied");
        let frozen: Vec<_> = logged.iter().map(|batch| batch.frozen_ms).collect();
        assert_eq!(frozen, [NOW, None], "the second was never sent");
        assert!(batcher.begin_flushing());
        assert!(batcher.end_flushing(), "nothing is left to linger for");
        record(&mut batcher);
        let next = batcher.freeze(NOW).expect("one request waits");
        assert_eq!((next.id.nonce, next.id.sequence), (9, 1));
    }

    #[test]
    fn one_flush_at_a_time_and_none_left_behind() {
        let mut batcher = batcher();
        record(&mut batcher);
        assert!(batcher.begin_flushing());
        assert!(!batcher.begin_flushing());
        assert!(!batcher.end_flushing(), "a request still waits");
        assert!(batcher.freeze(NOW).is_some());
        assert!(!batcher.end_flushing(), "a batch is not acknowledged");
        batcher.acknowledge(false, &[]);
        assert!(batcher.end_flushing());
        assert!(batcher.begin_flushing());
    }

    #[test]
    fn a_family_registered_with_another_layout_gets_its_own_key() {
        let mut batcher = batcher();
        record(&mut batcher);
        let sent = Catalog::new("m:");
        let mut in_force: Vec<_> = sent.families().into_iter().cloned().collect();
        in_force[0].key = "m:elsewhere".into();
        in_force[1].bounds = vec![1.0];
        in_force[2].kind = Kind::Gauge;
        let in_force: Vec<_> = in_force.iter().map(Family::encode).collect();
        let own = batcher.adopt(&sent, 0, &in_force);
        // Also where it registers again, to see whether Redis accepts writes.
        assert_eq!(batcher.adopt(&sent, 0, &in_force), own);
        let fields: Vec<_> = own.iter().map(|(field, _)| field.as_str()).collect();
        assert_eq!(fields.len(), 2);
        assert!(fields[0].starts_with("http_request_duration_seconds@"));
        assert!(fields[1].starts_with("algorithm_executions_total@"));
        let batch = batcher.freeze(NOW).expect("one request waits");
        let keys: Vec<_> = batch.total.hashes().map(|(key, _)| key).collect();
        assert_eq!(keys, ["m:elsewhere", own[0].1.key.as_str()]);
    }

    #[test]
    fn a_family_with_a_corrupt_registration_gets_its_own_key() {
        let mut batcher = batcher();
        let own = batcher.adopt(&Catalog::new("m:"), 0, &["{".to_owned()]);
        assert_eq!(own.len(), 1);
    }
}
