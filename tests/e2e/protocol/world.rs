//! Instances, their executions, and a network between them and the store that
//! loses, delays and repeats. Each step is done to the real store and to the
//! model, which must agree.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    time::Instant,
};

use anyhow::{Context as _, ensure};
use functional_scaffold_protocol::{
    batch::{Batch, BatchId, LeasedExecution, SentBatch},
    calls::ApplyReply,
    catalog::{
        Catalog, ExecutionLabels, ExecutionStatus, FinishedExecution, FinishedRequest,
        RequestLabels, RouteLabels,
    },
    custom::CustomWrites,
    lease::Lease,
};

use super::{
    fixture::metric_keys,
    model::{Model, REMEMBERED_MS},
    store::{Passing, Store},
};
use crate::Result;

/// One step. An index is taken modulo the number of its targets.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    /// An execution begins under a lease.
    Begin {
        instance: usize,
        lease: LeaseDelivery,
        grid_lines: u64,
    },
    /// An execution begins without one.
    BeginUnleased { instance: usize },
    /// A running execution gives its result.
    Finish {
        index: usize,
        status: ExecutionStatus,
        nanos: u64,
    },
    /// An instance sends its frozen batch again, or freezes a new one.
    Flush {
        instance: usize,
        fate: BatchDelivery,
    },
    /// A lease that was delayed arrives.
    LeaseArrives { index: usize },
    /// A copy of a batch that was delayed arrives; its reply is lost.
    BatchArrives { index: usize },
    /// An instance logs its frozen batch, or a new one, and takes a new nonce.
    GiveUp { instance: usize },
    /// A logged batch is replayed, and stays in the log.
    Replay { index: usize },
    /// An instance dies, and its unsent counts are lost.
    Crash { instance: usize },
    /// The exporter settles expired leases.
    Settle { knows_all_keys: bool },
    /// Time passes while scripts run.
    Pass { grid_lines: i64 },
    /// No script runs for a while.
    Pause { grid_lines: i64 },
    /// An instance's host is suspended: its clock stands still.
    Suspend { instance: usize, grid_lines: i64 },
    /// Redis's clock jumps ahead, although no time passes.
    ClockAhead { grid_lines: i64 },
    /// Redis's clock steps back.
    ClockBack { grid_lines: i64 },
}

/// The fate of a lease in transit.
#[derive(Debug, Clone, Copy)]
pub(crate) enum LeaseDelivery {
    Acknowledged,
    Lost,
    Delayed,
}

/// The fate of a batch in transit.
#[derive(Debug, Clone, Copy)]
pub(crate) enum BatchDelivery {
    Answered,
    ReplyLost,
    Lost,
    Delayed,
}

/// The grid of time, in milliseconds. Apart from short pauses, time passes in multiples
/// of it. Leases expire a quarter before a multiple, ids are remembered for four and a
/// half, batches are too old after two and a quarter, and turns begin a quarter after a
/// multiple. So the milliseconds that a test really takes decide nothing.
pub(crate) const GRID_MS: i64 = 1_600_000;
/// Lease time at the beginning.
const BEGINNING_MS: i64 = 4 * REMEMBERED_MS - GRID_MS / 4;
/// A pause that is too short to extend leases.
const SHORT_MS: i64 = 3_000;
/// Instances at a time. The last one is of a component with its own metric hashes.
pub(crate) const INSTANCES: usize = 3;

/// The facts of an execution, whether or not Redis knows them.
#[derive(Debug)]
struct Fact {
    lease: Option<Lease>,
    due_ms: i64,
    result: Option<ExecutionStatus>,
    landed: bool,
    counted_result: bool,
    counted_late: bool,
}

pub(crate) struct World {
    store: Store,
    model: Model,
    keys: Vec<String>,
    catalogs: [Catalog; 2],
    instances: Vec<Instance>,
    names: u64,
    facts: Vec<Fact>,
    delayed_leases: Vec<LeaseInTransit>,
    delayed_batches: Vec<BatchInTransit>,
    log: Vec<LoggedBatch>,
    registrations: u64,
    settlings: u64,
    /// The time that passed, by a clock that never steps back.
    age: i64,
    began: Instant,
}

impl World {
    /// Starts with an empty store.
    pub(crate) fn new(mut store: Store) -> Result<Self> {
        store.set_lease_time(BEGINNING_MS)?;
        let usual = Catalog::new(&store.prefix);
        let mut other = usual.clone();
        for family in other.families_mut() {
            family.key.push_str("@other");
        }
        let catalogs = [usual, other];
        let families = catalogs.iter().flat_map(Catalog::families);
        let keys = families.map(|family| family.key.clone()).collect();
        let mut world = Self {
            store,
            model: Model::at(BEGINNING_MS),
            keys,
            catalogs,
            instances: Vec::new(),
            names: 0,
            facts: Vec::new(),
            delayed_leases: Vec::new(),
            delayed_batches: Vec::new(),
            log: Vec::new(),
            registrations: 0,
            settlings: 0,
            age: 0,
            began: Instant::now(),
        };
        world.instances = (0..INSTANCES)
            .map(|slot| world.new_instance(slot))
            .collect();
        Ok(world)
    }

    /// Does a step, and compares store and model.
    pub(crate) fn step(&mut self, step: Step) -> Result {
        self.act(step)?;
        self.compare()?;
        self.check_identity()
    }

    fn act(&mut self, step: Step) -> Result {
        match step {
            Step::Begin {
                instance,
                lease,
                grid_lines,
            } => self.begin(instance, lease, grid_lines),
            Step::BeginUnleased { instance } => {
                let execution = self.new_execution(instance, None);
                let label = label_of(execution);
                let of = &mut self.instances[instance];
                of.catalog.record_unleased(&mut of.waiting, &label);
                Ok(())
            }
            Step::Finish {
                index,
                status,
                nanos,
            } => {
                self.finish(index, status, nanos);
                Ok(())
            }
            Step::Flush { instance, fate } => self.flush(instance, fate),
            Step::LeaseArrives { index } => match take(&mut self.delayed_leases, index) {
                Some(sent) => self.lease(&sent),
                None => Ok(()),
            },
            Step::BatchArrives { index } => match take(&mut self.delayed_batches, index) {
                Some(in_transit) => self.deliver(&in_transit).map(|_unheard| ()),
                None => Ok(()),
            },
            Step::GiveUp { instance } => {
                self.give_up(instance);
                Ok(())
            }
            Step::Replay { index } => self.replay(index),
            Step::Crash { instance } => {
                self.instances[instance] = self.new_instance(instance);
                Ok(())
            }
            Step::Settle { knows_all_keys } => self.settle(knows_all_keys),
            Step::Pass { grid_lines } => self.pass(grid_lines * GRID_MS, Passing::Busy),
            Step::Pause { grid_lines: 0 } => self.pass(SHORT_MS, Passing::Paused),
            Step::Pause { grid_lines } => self.pass(grid_lines * GRID_MS, Passing::Paused),
            Step::Suspend {
                instance,
                grid_lines,
            } => {
                let millis = grid_lines * GRID_MS;
                if let Some(known) = &mut self.instances[instance].known_time {
                    known.age += millis;
                }
                self.pass(millis, Passing::Busy)
            }
            Step::ClockAhead { grid_lines } => {
                self.age -= grid_lines * GRID_MS;
                self.pass(grid_lines * GRID_MS, Passing::Paused)
            }
            Step::ClockBack { grid_lines } => self.pass(-grid_lines * GRID_MS, Passing::Paused),
        }
    }

    fn pass(&mut self, millis: i64, passing: Passing) -> Result {
        self.age += millis.max(0);
        match passing {
            Passing::Busy => self.model.pass_busy(millis),
            Passing::Paused => self.model.pass_paused(millis),
        }
        self.store.pass(millis, passing)
    }
}

/// Each execution has its own algorithm, so that its end can be told from others.
fn label_of(execution: usize) -> String {
    format!("e{execution}")
}

fn take<T>(items: &mut Vec<T>, index: usize) -> Option<T> {
    (!items.is_empty()).then(|| items.swap_remove(index % items.len()))
}

// Instances and their actions.

#[derive(Debug)]
struct Instance {
    catalog: Catalog,
    nonce: u64,
    sequence: u64,
    running: Vec<usize>,
    waiting: Batch,
    finished: Vec<LeasedExecution>,
    executions: Vec<usize>,
    frozen: Option<BatchInTransit>,
    known_time: Option<KnownTime>,
}

/// The lease time that an instance got last, and when by its own clock.
#[derive(Debug, Clone, Copy)]
struct KnownTime {
    lease_time: i64,
    age: i64,
}

impl World {
    fn new_instance(&mut self, slot: usize) -> Instance {
        let component = usize::from(slot == INSTANCES - 1);
        let nonce = self.new_nonce();
        Instance {
            catalog: self.catalogs[component].clone(),
            nonce,
            sequence: 0,
            running: Vec::new(),
            waiting: Batch::default(),
            finished: Vec::new(),
            executions: Vec::new(),
            frozen: None,
            known_time: None,
        }
    }

    fn new_nonce(&mut self) -> u64 {
        self.names += 1;
        // Writers share two pairs of hashes.
        ((self.names % 2) << 51) + self.names
    }

    fn new_execution(&mut self, instance: usize, millis: Option<u64>) -> usize {
        let execution = self.facts.len();
        let count = &self.instances[instance].catalog;
        let lease = millis.map(|millis| Lease {
            id: format!("{}/{execution}", self.instances[instance].nonce),
            millis,
            count: count.crash_cells(&label_of(execution), RouteLabels::new("POST", "/invoke")),
        });
        self.facts.push(Fact {
            lease,
            due_ms: 0,
            result: None,
            landed: false,
            counted_result: false,
            counted_late: false,
        });
        self.instances[instance].running.push(execution);
        execution
    }

    fn begin(&mut self, instance: usize, delivery: LeaseDelivery, grid_lines: u64) -> Result {
        let grid = GRID_MS.unsigned_abs();
        // Expires at once, or a quarter before a line of the grid.
        let millis = (grid_lines * grid).saturating_sub(grid / 4);
        let execution = self.new_execution(instance, Some(millis));
        let mut began = self.lease_time_of(instance)?;
        if millis == 0 {
            // Expired by more than the milliseconds that the test takes.
            began -= GRID_MS / 4;
        }
        let fact = &mut self.facts[execution];
        fact.due_ms = began.saturating_add_unsigned(millis);
        let sent = LeaseInTransit {
            execution,
            lease: fact.lease.clone().context("it has one")?,
            began,
        };
        match delivery {
            LeaseDelivery::Acknowledged => self.lease(&sent)?,
            LeaseDelivery::Lost => {}
            LeaseDelivery::Delayed => self.delayed_leases.push(sent),
        }
        Ok(())
    }

    /// The lease time by an instance's own clock, which also runs during pauses. It
    /// counts from the last reply, or registers if there was none.
    fn lease_time_of(&mut self, instance: usize) -> Result<i64> {
        let age = self.age;
        let known_time = match self.instances[instance].known_time {
            Some(known_time) => known_time,
            None => {
                self.registrations += 1;
                let epoch = self.registrations;
                self.model.begin(epoch);
                let lease_time = self.store.begin(epoch)?;
                *self.instances[instance]
                    .known_time
                    .insert(KnownTime { lease_time, age })
            }
        };
        Ok(known_time.lease_time + age - known_time.age)
    }

    fn finish(&mut self, index: usize, status: ExecutionStatus, nanos: u64) {
        let running: Vec<_> = self
            .instances
            .iter()
            .enumerate()
            .flat_map(|(slot, of)| of.running.iter().map(move |&execution| (slot, execution)))
            .collect();
        let Some(&(slot, execution)) = running.get(index % running.len().max(1)) else {
            return;
        };
        let of = &mut self.instances[slot];
        of.running.retain(|&other| other != execution);
        of.executions.push(execution);
        let fact = &mut self.facts[execution];
        fact.result = Some(status);
        let mut increments = Batch::default();
        let code = match status {
            ExecutionStatus::Success => 200,
            ExecutionStatus::InvalidInput => 422,
            ExecutionStatus::Failed | ExecutionStatus::Crashed => 500,
        };
        of.catalog.record_request(
            &mut increments,
            &FinishedRequest {
                labels: RequestLabels::new("POST", "/invoke", code),
                duration_nanos: nanos,
            },
        );
        of.catalog.record_execution(
            &mut increments,
            &FinishedExecution {
                algorithm: &label_of(execution),
                status,
                duration_nanos: nanos,
            },
        );
        match fact.lease.clone() {
            Some(lease) => of.finished.push(LeasedExecution {
                lease,
                due_ms: fact.due_ms,
                increments,
            }),
            None => of.waiting.merge(&increments),
        }
    }

    /// This instance, or else the next one that has counts to write.
    fn with_something(&self, instance: usize) -> usize {
        let following = (instance..INSTANCES).chain(0..instance);
        let mut full = following.filter(|&next| {
            let of = &self.instances[next];
            of.frozen.is_some() || !of.waiting.is_empty() || !of.finished.is_empty()
        });
        full.next().unwrap_or(instance)
    }

    /// `frozen_ms` is the lease time by the instance's clock, none if it only logs.
    fn freeze(&mut self, instance: usize, frozen_ms: Option<i64>) {
        let of = &mut self.instances[instance];
        if of.frozen.is_some() || (of.waiting.is_empty() && of.finished.is_empty()) {
            return;
        }
        of.sequence += 1;
        of.frozen = Some(BatchInTransit {
            batch: SentBatch {
                id: BatchId {
                    nonce: of.nonce,
                    sequence: of.sequence,
                },
                frozen_ms,
                increments: std::mem::take(&mut of.waiting),
                leased: std::mem::take(&mut of.finished),
                custom: CustomWrites::default(),
            },
            executions: std::mem::take(&mut of.executions),
            unanswered: 0,
        });
    }

    fn give_up(&mut self, instance: usize) {
        let instance = self.with_something(instance);
        self.freeze(instance, None);
        if let Some(in_transit) = self.instances[instance].frozen.take() {
            let given_up = self.age;
            self.log.push(LoggedBatch {
                in_transit,
                given_up,
            });
            let nonce = self.new_nonce();
            let of = &mut self.instances[instance];
            (of.nonce, of.sequence) = (nonce, 0);
        }
    }
}

// Messages of instances, and their effect in the store and in the model.

/// The time after which a logged batch that was never sent is too old to replay.
const REPLAYED_MS: i64 = REMEMBERED_MS / 2;

/// A batch that was sent, with the executions that it counts without a lease.
#[derive(Debug, Clone)]
struct BatchInTransit {
    batch: SentBatch,
    executions: Vec<usize>,
    /// Copies that were sent and not answered.
    unanswered: u32,
}

/// A lease that was sent.
#[derive(Debug, Clone)]
struct LeaseInTransit {
    execution: usize,
    lease: Lease,
    /// The lease time when it began, as the instance estimated it.
    began: i64,
}

/// A batch in the log.
#[derive(Debug, Clone)]
struct LoggedBatch {
    in_transit: BatchInTransit,
    given_up: i64,
}

impl World {
    fn lease(&mut self, sent: &LeaseInTransit) -> Result {
        self.store.take(&sent.lease, sent.began)?;
        self.facts[sent.execution].landed = self.model.take(&sent.lease, sent.began);
        Ok(())
    }

    fn flush(&mut self, instance: usize, fate: BatchDelivery) -> Result {
        let instance = self.with_something(instance);
        let lease_time = self.lease_time_of(instance)?;
        self.freeze(instance, Some(lease_time));
        let Some(frozen) = &mut self.instances[instance].frozen else {
            return Ok(());
        };
        frozen.unanswered += 1;
        let in_transit = frozen.clone();
        match fate {
            BatchDelivery::Lost => Ok(()),
            BatchDelivery::Delayed => {
                self.delayed_batches.push(in_transit);
                Ok(())
            }
            BatchDelivery::ReplyLost => self.deliver(&in_transit).map(|_unheard| ()),
            BatchDelivery::Answered => {
                let reply = self.deliver(&in_transit)?;
                self.hear(instance, reply)
            }
        }
    }

    /// An instance reads the reply to its frozen batch.
    fn hear(&mut self, instance: usize, reply: ApplyReply) -> Result {
        let age = self.age;
        let of = &mut self.instances[instance];
        let frozen = of.frozen.as_mut().context("it was sent")?;
        frozen.unanswered -= 1;
        match reply {
            ApplyReply::Stored {
                lease_time_millis: lease_time,
                ..
            } => {
                of.frozen = None;
                of.known_time = Some(KnownTime { lease_time, age });
            }
            ApplyReply::Duplicate => of.frozen = None,
            ApplyReply::Late(ids) => remove_late(&of.catalog.clone(), frozen, &ids)?,
            ApplyReply::TooOld {
                lease_time_millis: lease_time,
            } => {
                let is_answered = frozen.unanswered == 0;
                frozen.batch.frozen_ms = match is_answered {
                    true => Some(lease_time),
                    false => frozen.batch.frozen_ms,
                };
                of.known_time = Some(KnownTime { lease_time, age });
                if !is_answered {
                    self.give_up(instance);
                }
            }
        }
        Ok(())
    }

    fn replay(&mut self, index: usize) -> Result {
        let Some(logged) = self.log.get(index % self.log.len().max(1)).cloned() else {
            return Ok(());
        };
        let LoggedBatch {
            mut in_transit,
            given_up,
        } = logged;
        let was_sent = in_transit.batch.frozen_ms.is_some();
        if !was_sent && self.age - given_up >= REPLAYED_MS {
            return Ok(());
        }
        if let ApplyReply::Late(ids) = self.deliver(&in_transit)? {
            let catalog = self.catalog_of(&in_transit.batch).clone();
            remove_late(&catalog, &mut in_transit, &ids)?;
            let again = self.deliver(&in_transit)?;
            ensure!(
                matches!(again, ApplyReply::Stored { .. }),
                "{again:?} without the late"
            );
        }
        Ok(())
    }

    fn deliver(&mut self, in_transit: &BatchInTransit) -> Result<ApplyReply> {
        // Otherwise the real time decides whether it writes the clock.
        self.store.forget_flush()?;
        let reply = self.store.apply(&in_transit.batch)?;
        let mut expected = self.model.apply(&in_transit.batch);
        match &mut expected {
            ApplyReply::Stored {
                lease_time_millis, ..
            } => {
                // The batch wrote the clock.
                let kept = self.store.kept()?.lease_time();
                *lease_time_millis = kept.context("the clock is kept")?;
            }
            ApplyReply::TooOld { lease_time_millis } => {
                if let ApplyReply::TooOld {
                    lease_time_millis: replied,
                } = &reply
                {
                    let passed = replied - self.model.now();
                    ensure!((-100..GRID_MS / 4).contains(&passed), "{passed} ms passed");
                    *lease_time_millis = *replied;
                }
            }
            ApplyReply::Duplicate | ApplyReply::Late(_) => {}
        }
        agree("the reply to a batch", &reply, &expected)?;
        if matches!(reply, ApplyReply::Stored { .. }) {
            let leased = in_transit
                .batch
                .leased
                .iter()
                .map(|leased| &leased.lease.id);
            let leased: BTreeSet<_> = leased.collect();
            for &execution in &in_transit.executions {
                let fact = &mut self.facts[execution];
                let lease = fact.lease.as_ref().map(|lease| &lease.id);
                if lease.is_none_or(|id| leased.contains(id)) {
                    ensure!(!fact.counted_result, "{execution} was counted twice");
                    fact.counted_result = true;
                } else {
                    ensure!(!fact.counted_late, "{execution} was late twice");
                    fact.counted_late = true;
                }
            }
        }
        Ok(reply)
    }

    fn settle(&mut self, knows_all_keys: bool) -> Result {
        self.settlings += 1;
        let known = if knows_all_keys { 2 } else { 1 };
        let catalogs = self.catalogs.clone();
        let keys: Vec<_> = catalogs[..known].iter().flat_map(metric_keys).collect();
        let settled = self.store.settle(self.settlings, &keys)?;
        let (epoch, leases, given_up) = self.model.settle(self.settlings, &keys);
        agree("the epoch", &settled.epoch, &format!("{epoch:016x}"))?;
        agree("settled leases", &settled.leases, &leases)?;
        for id in &given_up {
            let named = format!("\"id\":\"{id}\"");
            let is_named = settled.dropped.iter().any(|text| text.contains(&named));
            ensure!(is_named, "{id} is not in {:?}", settled.dropped);
            self.facts[execution_of(id)?].landed = false;
        }
        agree("dropped leases", &settled.dropped.len(), &given_up.len())?;
        agree("refused counts", &settled.refused_counts, &0)?;
        let kept = self.store.kept()?.lease_time();
        let after = settled.lease_time_millis - kept.context("the clock is kept")?;
        ensure!((0..100).contains(&after), "the clock is {after} ms old");
        Ok(())
    }

    fn catalog_of(&self, batch: &SentBatch) -> &Catalog {
        let total = batch.total();
        let mut keys = total.hashes().map(|(key, _)| key);
        &self.catalogs[usize::from(keys.any(|key| key.ends_with("@other")))]
    }
}

fn remove_late(catalog: &Catalog, in_transit: &mut BatchInTransit, ids: &[String]) -> Result {
    let removed = in_transit.batch.remove_late(ids);
    ensure!(removed == ids.len() as u64, "{ids:?} were not all sent");
    for id in ids {
        let label = label_of(execution_of(id)?);
        catalog.record_late(&mut in_transit.batch.increments, &label, 1);
    }
    Ok(())
}

fn execution_of(lease: &str) -> Result<usize> {
    let number = lease.rsplit('/').next().context("it ends in a number")?;
    Ok(number.parse()?)
}

// Invariants after each step.

impl World {
    /// Compares the store with the model.
    fn compare(&mut self) -> Result {
        let counters = self.store.counters(&self.keys)?;
        agree("counters", &counters, &self.model.counters)?;
        let kept = self.store.kept()?;
        let began = self.began;
        let lease_time = kept.lease_time().unwrap_or(0);
        let open = kept.open.iter().map(|(member, due)| {
            let id = Lease::decode(member)?.id;
            Ok((id, due - lease_time))
        });
        let open: BTreeMap<_, _> = open.collect::<Result<_>>()?;
        let expected = &self.model.open;
        let expected = expected
            .iter()
            .map(|(id, (_, due))| (id.clone(), due - self.model.lease_time));
        agree_on_times("open leases", &open, &expected.collect(), began)?;

        let closed = kept.closed.into_iter();
        let closed = closed.map(|(id, until)| (id, until - lease_time));
        let expected = self.model.closed.iter();
        let expected = expected.map(|(id, until)| (id.clone(), until - self.model.lease_time));
        agree_on_times(
            "closed leases",
            &closed.collect(),
            &expected.collect(),
            began,
        )?;

        for (&pair, expected) in &self.model.applied {
            let id = BatchId {
                nonce: pair << 51,
                sequence: 0,
            };
            let expected = expected.clone().map(|turn| {
                let number = u64::try_from(turn.number).unwrap_or_default();
                let numbers = turn.last.into_iter();
                let numbers =
                    numbers.map(|(nonce, last)| (format!("{:013x}", nonce % (1 << 51)), last));
                let turn = (number > 0).then(|| ("turn".to_owned(), number));
                numbers.chain(turn).collect()
            });
            agree("applied ids", &self.store.applied(&id)?, &expected)?;
        }
        let forgotten = kept.state.get("forgotten_ms");
        agree(
            "whether ids are forgotten",
            &forgotten.is_some(),
            &self.model.forgotten.is_some(),
        )
    }

    /// Checks that every execution that Redis knows has exactly one end or is in flight.
    /// Uses the contents of Redis and the facts, not the model.
    fn check_identity(&mut self) -> Result {
        let counters = self.store.counters(&self.keys)?;
        let kept = self.store.kept()?;
        let ids = kept.open.keys().map(|member| Ok(Lease::decode(member)?.id));
        let mut open: BTreeSet<String> = ids.collect::<Result<_>>()?;
        // A lease that was closed before it arrived counts nothing. Neither does one that
        // may have been, if its id may be forgotten.
        let facts = &self.facts;
        let may_count = |id: &str| -> Result<bool> {
            let is_uncertain = self.model.is_uncertain(facts[execution_of(id)?].due_ms);
            Ok(!kept.closed.contains_key(id) && !is_uncertain)
        };
        let mut uncertain = BTreeSet::new();
        for id in std::mem::take(&mut open) {
            match may_count(&id)? {
                true => open.insert(id),
                false => uncertain.insert(id),
            };
        }
        let is_known = |fact: &Fact| {
            let mut lease = fact.lease.iter();
            fact.landed && !lease.any(|lease| uncertain.contains(&lease.id))
        };
        let sum = |family: &str, labels: &str| -> i128 {
            let families = self.catalogs.iter().filter_map(|of| of.family(family));
            let keys: BTreeSet<_> = families.map(|family| &family.key).collect();
            let cells = counters.iter().filter(|((key, field), _)| {
                keys.contains(key) && field.contains(labels) && !field.ends_with("|sum")
            });
            cells.map(|(_, count)| count).sum()
        };
        const REQUESTS: &str = "http_requests_total";
        const EXECUTIONS: &str = "algorithm_executions_total";
        const EXECUTION_DURATIONS: &str = "algorithm_execution_duration_seconds";
        const LATE: &str = "functional_scaffold_late_results_total";
        const SETTLED: &str = "functional_scaffold_leases_settled_total";

        let started = self
            .facts
            .iter()
            .filter(|fact| is_known(fact) || fact.counted_result)
            .count();
        let in_flight = i128::try_from(open.len())?;
        agree(
            "started executions",
            &(sum(EXECUTIONS, "") + in_flight),
            &i128::try_from(started)?,
        )?;
        let crashed = sum(EXECUTIONS, "status=\"crashed\"");
        agree("settled", &sum(SETTLED, ""), &crashed)?;
        agree("requests", &sum(REQUESTS, ""), &sum(EXECUTIONS, ""))?;
        let durations = sum(EXECUTION_DURATIONS, "");
        agree("durations", &durations, &(sum(EXECUTIONS, "") - crashed))?;

        for (execution, fact) in self.facts.iter().enumerate() {
            let label = format!("algorithm=\"{}\"", label_of(execution));
            let ends: Vec<_> = ExecutionStatus::ALL
                .into_iter()
                .filter(|&status| {
                    let algorithm = &label_of(execution);
                    let labels = ExecutionLabels { algorithm, status }.to_text();
                    sum(EXECUTIONS, &labels) > 0
                })
                .collect();
            let times = sum(EXECUTIONS, &label);
            let is_open = fact
                .lease
                .as_ref()
                .is_some_and(|lease| open.contains(&lease.id));
            let expected: &[_] = match fact.result {
                Some(status) if fact.counted_result => &[status],
                _ if is_known(fact) && !is_open => &[ExecutionStatus::Crashed],
                _ => &[],
            };
            agree("how an execution ended", &ends, &expected.to_vec())?;
            agree("how often it ended", &times, &i128::try_from(ends.len())?)?;
            ensure!(
                !(is_open && times > 0),
                "{execution} ended and is in flight"
            );
            let late = i128::from(fact.counted_late);
            agree("late results", &sum(LATE, &label), &late)?;
            ensure!(
                // Or its lease is so old that its id may be forgotten, and has not arrived
                // or not expired yet.
                !fact.counted_late
                    || ends == [ExecutionStatus::Crashed]
                    || ends.is_empty() && (is_open || !is_known(fact)),
                "{execution} was late and is {ends:?}"
            );
        }
        Ok(())
    }
}

fn agree<T: PartialEq + Debug>(what: &str, store: &T, model: &T) -> Result {
    ensure!(
        store == model,
        "{what}: the store has {store:#?}, expected is {model:#?}"
    );
    Ok(())
}

/// Like [`agree`], for remaining milliseconds, which get fewer during the test.
fn agree_on_times(
    what: &str,
    store: &BTreeMap<String, i64>,
    model: &BTreeMap<String, i64>,
    began: Instant,
) -> Result {
    // After both were read.
    let elapsed = i64::try_from(began.elapsed().as_millis())?;
    // The clock is written ten times a second, in whole milliseconds.
    const SLACK: i64 = 110;
    let same = store.len() == model.len()
        && store.iter().zip(model).all(|((id, left), expected)| {
            id == expected.0 && (expected.1 - elapsed - SLACK..=expected.1 + SLACK).contains(left)
        });
    ensure!(
        same,
        "{what}: the store has {store:#?}, expected is {model:#?} within {elapsed} ms"
    );
    Ok(())
}
