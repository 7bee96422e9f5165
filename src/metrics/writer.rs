//! The increments of one instance that are not stored yet, and which write of
//! them is under way. Pure: what is written where and when is [`super::flush`]'s.
//!
//! A batch that was sent may have been applied although no answer came. So it
//! is frozen, and sent again under the same id until it is answered or given
//! up; what is recorded meanwhile waits for the next one.

use std::collections::BTreeSet;

use functional_scaffold_schema::{
    batch::{Batch, BatchId, Leased, SentBatch},
    catalog::{Catalog, FlushOutcome, Request},
    family::Family,
    lease::{Lease, LeaseEntry, LeaseForm},
    tally::Tally,
};

use crate::invoke::Executed;

/// How much longer than the execution limit a lease runs, in milliseconds: for
/// the flush that settles it, and for the pause between two scripts that does
/// not extend leases yet (`STILL_MS` in the scripts).
const LEASE_MARGIN_MS: u64 = 5_000;

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
    lease_forms: Vec<(&'static str, LeaseForm)>,
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
    lease: LeaseEntry,
    request: Request<'static>,
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
    pub fn leases(&self) -> impl ExactSizeIterator<Item = &LeaseEntry> + Clone {
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
    pub fn lease(&mut self, endpoint: &'static str, limit_millis: u64) -> LeaseEntry {
        self.leases += 1;
        let id = format!("{:016x}/{}", self.nonce, self.leases);
        if let Some((_, form)) = self.lease_forms.iter().find(|form| form.0 == endpoint) {
            return form.entry(id);
        }
        let count = self.catalog.crash_cells(&self.algorithm, endpoint);
        let form = LeaseForm::new(limit_millis + LEASE_MARGIN_MS, count);
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
        request: &Request<'static>,
        executed: Option<(Executed, Option<LeaseEntry>)>,
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

    /// The keys in which a lease that runs out is counted.
    #[must_use]
    pub fn crash_keys(&self) -> [&str; 3] {
        self.catalog.crash_keys()
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
            Leased {
                lease: Lease {
                    id: lease.id.clone(),
                    millis: lease.millis,
                    count: self.catalog.crash_cells(&self.algorithm, request.endpoint),
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

    /// Registration fields and families.
    #[must_use]
    pub fn families(&self) -> Vec<(String, Family)> {
        self.catalog
            .families()
            .into_iter()
            .map(|family| (family.name.clone(), family.clone()))
            .collect()
    }

    /// Series to be borne at 0 with the registration, as key and field.
    #[must_use]
    pub fn zero_cells(&self, endpoints: &[&str]) -> Vec<(String, String)> {
        self.catalog
            .zero_cells(&self.algorithm, endpoints)
            .into_iter()
            .map(|(key, field)| (key.to_owned(), field))
            .collect()
    }

    /// Takes the registrations that stand in Redis, in the order of
    /// [`Self::families`]: where another component was first, increments go
    /// to the hash it named. A family that it registered with another layout
    /// gets a hash of its own; these are given back, to be registered.
    #[must_use]
    pub fn adopt(&mut self, standing: &[String]) -> Vec<(String, Family)> {
        let mut own_layouts = Vec::new();
        for (family, standing) in self.catalog.families_mut().into_iter().zip(standing) {
            let key = match Family::decode(&family.name, standing.as_bytes()) {
                Ok(standing) if standing.same_layout(family) => standing.key,
                _ => {
                    let (field, own) = family.with_own_layout();
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
mod tests {
    use functional_scaffold_schema::{catalog::ExecutionStatus, family::Kind};

    use super::*;

    fn writer() -> Writer {
        Writer::new(Catalog::new("m:"), "a".into(), 7, 100)
    }

    const REQUEST: Request<'static> = Request {
        method: "POST",
        endpoint: "/invoke",
        code: 200,
        duration_nanos: 1,
    };

    const EXECUTED: Executed = Executed {
        status: ExecutionStatus::Success,
        nanos: 1,
    };

    fn record(writer: &mut Writer) -> Ticket {
        writer.record(&REQUEST, None)
    }

    fn record_leased(writer: &mut Writer) -> String {
        let lease = writer.lease("/invoke", 1000);
        let id = lease.id.clone();
        let _ticket = writer.record(&REQUEST, Some((EXECUTED, Some(lease))));
        id
    }

    /// What goes to Redis: id, total and leases.
    fn as_sent(writer: &mut Writer) -> Option<(BatchId, Batch, Vec<LeaseEntry>)> {
        let frozen = writer.freeze()?;
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
    fn a_sent_batch_is_frozen_until_it_is_answered() {
        let mut writer = writer();
        assert_eq!(as_sent(&mut writer), None);
        let ticket = record(&mut writer);
        record_leased(&mut writer);
        let first = as_sent(&mut writer);
        let later = record(&mut writer);
        assert_eq!(as_sent(&mut writer), first, "a retry sends the same");
        assert!(!writer.is_answered(ticket));
        writer.acknowledge(false);
        assert!(writer.is_answered(ticket));
        assert!(!writer.is_answered(later), "it goes with the next batch");
        let (first, second) = (first, as_sent(&mut writer));
        let (first, first_total, leases) = first.expect("two requests wait");
        let (second, second_total, _) = second.expect("the other request waits");
        assert_eq!((first.sequence, second.sequence), (1, 2));
        assert_eq!((count(&first_total), count(&second_total)), (2, 1));
        assert_eq!(leases.len(), 1);
    }

    #[test]
    fn a_late_result_is_taken_out_and_counted_as_late() {
        let mut writer = writer();
        let late = record_leased(&mut writer);
        record_leased(&mut writer);
        let (id, total, _) = as_sent(&mut writer).expect("two requests wait");
        assert_eq!(count(&total), 2);
        writer.remove_late(&[late]);
        let (same_id, total, leases) = as_sent(&mut writer).expect("one request is left");
        assert_eq!(same_id, id);
        assert_eq!((count(&total), sum(&total, "m:late_counter")), (1, 1));
        assert_eq!(leases.len(), 1);
    }

    #[test]
    fn a_lease_says_what_a_crash_counts() {
        let mut writer = writer();
        let lease = writer.lease("/invoke", 30_000);
        assert_ne!(lease.id, writer.lease("/invoke", 30_000).id);
        let lease = Lease::decode(&lease.member).expect("it is a lease");
        assert_eq!(lease.millis, 35_000);
        let keys: Vec<_> = lease.count.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, writer.crash_keys());
        assert!(lease.count[0].1.contains("code=\"500\""));
        assert!(lease.count[1].1.contains("status=\"crashed\""));
        let other = writer.lease("/invoke/{algorithm}", 30_000);
        assert!(other.member.contains("/invoke/{algorithm}"));
    }

    #[test]
    fn redis_is_waited_for_again_when_it_has_answered() {
        let mut writer = writer();
        let waits = |writer: &Writer| (writer.waits_for_leases(), writer.waits_for_batches());
        assert_eq!(waits(&writer), (true, true));
        writer.give_up_leases("hung".to_owned());
        assert_eq!(waits(&writer), (false, true));
        record(&mut writer);
        assert!(writer.record_failure("full"), "that is new");
        assert!(!writer.record_failure("full"), "that is known");
        assert_eq!(waits(&writer), (false, false));
        assert!(writer.freeze().is_some());
        writer.acknowledge(true);
        assert_eq!(waits(&writer), (true, true));
        let next = writer.freeze().expect("the duplicate is counted");
        assert_eq!(sum(&next.total, "m:flush_counter"), 1);
    }

    #[test]
    fn a_key_that_goes_on_refusing_is_no_news() {
        let mut writer = writer();
        let refused = |key: &str| [format!("{key} outcome=\"x\": WRONGTYPE")];
        assert!(writer.note_refused(&refused("m:a")));
        assert!(!writer.note_refused(&refused("m:a")));
        assert!(writer.note_refused(&refused("m:b")));
    }

    #[test]
    fn giving_up_hands_over_everything_and_takes_a_new_name() {
        let mut writer = writer();
        record(&mut writer);
        record_leased(&mut writer);
        let (id, total, leases) = as_sent(&mut writer).expect("two requests wait");
        record(&mut writer);
        record_leased(&mut writer);
        let given_up = writer.give_up([8, 9], 200);
        assert_eq!(given_up.len(), 2);
        assert_eq!((&given_up[0].id, given_up[0].total()), (&id, total));
        assert_eq!(LeaseEntry::from(&given_up[0].leased[0].lease), leases[0]);
        assert_eq!(count(&given_up[0].leased[0].increments), 1);
        let waiting = given_up[1].total();
        assert_eq!(count(&waiting), 2);
        assert_eq!(sum(&waiting, "m:flush_counter"), 2, "both are logged");
        let names: Vec<_> = given_up.iter().map(|batch| batch.id.nonce).collect();
        assert_eq!(names, [7, 8], "neither makes the other look applied");
        assert!(writer.begin_flushing());
        assert!(writer.end_flushing(), "nothing is left to linger for");
        record(&mut writer);
        let next = writer.freeze().expect("one request waits");
        assert_eq!(
            (next.id.nonce, next.id.started_at, next.id.sequence),
            (9, 200, 1)
        );
    }

    #[test]
    fn one_flush_at_a_time_and_none_left_behind() {
        let mut writer = writer();
        record(&mut writer);
        assert!(writer.begin_flushing());
        assert!(!writer.begin_flushing());
        assert!(!writer.end_flushing(), "a request still waits");
        assert!(writer.freeze().is_some());
        assert!(!writer.end_flushing(), "a batch is not answered");
        writer.acknowledge(false);
        assert!(writer.end_flushing());
        assert!(writer.begin_flushing());
    }

    #[test]
    fn another_components_layout_is_left_alone() {
        let mut writer = writer();
        record(&mut writer);
        let mut standing: Vec<Family> = writer
            .families()
            .into_iter()
            .map(|(_, family)| family)
            .collect();
        standing[0].key = "m:elsewhere".into();
        standing[1].bounds = vec![1.0];
        standing[2].kind = Kind::Gauge;
        let standing: Vec<_> = standing.iter().map(Family::encode).collect();
        let own = writer.adopt(&standing);
        let fields: Vec<_> = own.iter().map(|(field, _)| field.as_str()).collect();
        assert_eq!(fields.len(), 2);
        assert!(fields[0].starts_with("http_request_duration_seconds@"));
        assert!(fields[1].starts_with("algorithm_executions_total@"));
        let batch = writer.freeze().expect("one request waits");
        let keys: Vec<_> = batch.total.hashes().map(|(key, _)| key).collect();
        assert_eq!(keys, ["m:elsewhere", own[0].1.key.as_str()]);
    }

    #[test]
    fn a_corrupt_registration_is_left_alone() {
        let mut writer = writer();
        let own = writer.adopt(&["{".to_owned()]);
        assert_eq!(own.len(), 1);
    }
}
