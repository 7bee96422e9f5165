//! Instances, their executions, and a network between them and the store that
//! loses, delays and repeats. Each step is done to the real store and to the
//! model, which must agree.
//!
//! # Layout
//! - [`steps`]: what may happen
//! - [`instances`]: what instances do
//! - [`network`]: what they send, and what comes of it
//! - [`agreement`]: what must hold after each step

use std::time::Instant;

use functional_scaffold_protocol::{
    catalog::{Catalog, ExecutionStatus},
    lease::Lease,
};

use crate::{
    Result,
    model::Model,
    store::{Passing, Store},
};

mod agreement;
mod instances;
mod network;
mod steps;

use instances::Instance;
use network::{Letter, Logged, SentLease};
pub(crate) use steps::{Delivery, Fate, Step};

/// The grid of time in milliseconds: whatever passes is a multiple of it but
/// for short stand-stills, leases run out between its lines, and ids are
/// remembered for four and a half. So the milliseconds that really pass decide
/// nothing.
pub(crate) const GRID_MS: i64 = 1_600_000;
/// A stand-still too short to extend leases by.
const SHORT_MS: i64 = 3_000;
/// How many instances there are at a time. The last one is of a component that
/// counts in hashes of its own.
pub(crate) const INSTANCES: usize = 3;

/// What is true of an execution, whoever knows it.
#[derive(Debug)]
struct Fact {
    lease: Option<Lease>,
    began: i64,
    result: Option<ExecutionStatus>,
    landed: bool,
    counted_result: bool,
    counted_late: bool,
}

/// Everything.
pub(crate) struct World {
    store: Store,
    model: Model,
    keys: Vec<String>,
    catalogs: [Catalog; 2],
    instances: Vec<Instance>,
    names: u64,
    facts: Vec<Fact>,
    delayed_leases: Vec<SentLease>,
    delayed_batches: Vec<Letter>,
    log: Vec<Logged>,
    registrations: u64,
    settlings: u64,
    /// The time that passed, whatever Redis's clock says.
    age: i64,
    began: Instant,
}

impl World {
    /// Begins with an empty store.
    pub(crate) fn new(store: Store) -> Self {
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
            model: Model::default(),
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
        world
    }

    /// Does a step and compares.
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
                Some(sent) if self.is_fresh(self.facts[sent.execution].began) => self.lease(&sent),
                _ => Ok(()),
            },
            Step::BatchArrives { index } => match take(&mut self.delayed_batches, index) {
                Some(letter) if self.is_fresh(letter.oldest) => {
                    self.deliver(&letter).map(|_unheard| ())
                }
                _ => Ok(()),
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
            Step::StandStill { grid_lines: 0 } => self.pass(SHORT_MS, Passing::Still),
            Step::StandStill { grid_lines } => self.pass(grid_lines * GRID_MS, Passing::Still),
            Step::ClockBack { grid_lines } => self.pass(-grid_lines * GRID_MS, Passing::Still),
        }
    }

    fn pass(&mut self, millis: i64, passing: Passing) -> Result {
        self.age += millis.max(0);
        match passing {
            Passing::Busy => self.model.pass_busy(millis),
            Passing::Still => self.model.pass_still(millis),
        }
        // Moved as what is stored.
        for sent in &mut self.delayed_leases {
            sent.began[0] -= millis;
        }
        for told in self.instances.iter_mut().filter_map(|of| of.told.as_mut()) {
            told.lease_time[0] -= millis;
        }
        self.store.pass(millis, passing)
    }
}

/// Each execution is one of its own algorithm, so that its end is seen.
fn label_of(execution: usize) -> String {
    format!("e{execution}")
}

fn take<T>(items: &mut Vec<T>, index: usize) -> Option<T> {
    (!items.is_empty()).then(|| items.swap_remove(index % items.len()))
}
