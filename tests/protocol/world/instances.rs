//! What instances do, and what each of them knows.

use anyhow::Context as _;
use functional_scaffold_protocol::{
    batch::{Batch, BatchId, LeasedExecution, SentBatch},
    catalog::{Catalog, ExecutionStatus, FinishedExecution, FinishedRequest, RequestLabels},
    lease::Lease,
};

use super::{
    Fact, GRID_MS, INSTANCES, World, label_of,
    network::{Letter, Logged, SentLease},
    steps::Delivery,
};
use crate::Result;

#[derive(Debug)]
pub(super) struct Instance {
    pub(super) catalog: Catalog,
    pub(super) nonce: u64,
    pub(super) started_at: u64,
    pub(super) sequence: u64,
    pub(super) running: Vec<usize>,
    pub(super) waiting: Batch,
    pub(super) finished: Vec<LeasedExecution>,
    pub(super) executions: Vec<usize>,
    pub(super) frozen: Option<Letter>,
    pub(super) told: Option<Told>,
}

/// Lease time as an instance was told it last, in the store and in the model.
#[derive(Debug, Clone, Copy)]
pub(super) struct Told {
    pub(super) lease_time: [i64; 2],
    pub(super) age: i64,
}

impl World {
    pub(super) fn new_instance(&mut self, slot: usize) -> Instance {
        let component = usize::from(slot == INSTANCES - 1);
        let (nonce, started_at) = self.new_name();
        Instance {
            catalog: self.catalogs[component].clone(),
            nonce,
            started_at,
            sequence: 0,
            running: Vec::new(),
            waiting: Batch::default(),
            finished: Vec::new(),
            executions: Vec::new(),
            frozen: None,
            told: None,
        }
    }

    pub(super) fn new_name(&mut self) -> (u64, u64) {
        self.names += 1;
        // Any time in the past does: the clock may have stepped back a lot.
        let now = 1_000_000_000 + self.model.wall / 1_000;
        (self.names, now.unsigned_abs())
    }

    pub(super) fn new_execution(&mut self, instance: usize, millis: Option<u64>) -> usize {
        let execution = self.facts.len();
        let count = &self.instances[instance].catalog;
        let lease = millis.map(|millis| Lease {
            id: format!("{}/{execution}", self.instances[instance].nonce),
            millis,
            count: count.crash_cells(&label_of(execution), "/invoke"),
        });
        self.facts.push(Fact {
            lease,
            began: self.age,
            result: None,
            landed: false,
            counted_result: false,
            counted_late: false,
        });
        self.instances[instance].running.push(execution);
        execution
    }

    pub(super) fn begin(&mut self, instance: usize, delivery: Delivery, grid_lines: u64) -> Result {
        let grid = GRID_MS.unsigned_abs();
        // Due at once, or between two lines of the grid.
        let millis = (grid_lines * grid).saturating_sub(grid / 2);
        let execution = self.new_execution(instance, Some(millis));
        let mut began = self.reckon(instance)?;
        if millis == 0 {
            // Due at once, and not only by a millisecond or so.
            began = began.map(|began| began - GRID_MS / 2);
        }
        let lease = self.facts[execution].lease.clone();
        let sent = SentLease {
            execution,
            lease: lease.context("it has one")?,
            began,
        };
        match delivery {
            Delivery::Acknowledged => self.lease(&sent)?,
            Delivery::Lost => {}
            Delivery::Delayed => self.delayed_leases.push(sent),
        }
        Ok(())
    }

    /// Lease time as an instance reckons it, by a clock that runs on while that
    /// stands: from what it was told last, or when it registers now.
    pub(super) fn reckon(&mut self, instance: usize) -> Result<[i64; 2]> {
        let age = self.age;
        // No instance lives for longer without a batch, or it is another one.
        let told = self.instances[instance].told;
        let told = match told.filter(|told| age - told.age <= GRID_MS) {
            Some(told) => told,
            None => {
                self.registrations += 1;
                let epoch = self.registrations;
                let lease_time = [self.store.begin(epoch)?, self.model.begin(epoch)];
                *self.instances[instance]
                    .told
                    .insert(Told { lease_time, age })
            }
        };
        Ok(told.lease_time.map(|time| time + age - told.age))
    }

    pub(super) fn finish(&mut self, index: usize, status: ExecutionStatus, nanos: u64) {
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
            Some(lease) => of.finished.push(LeasedExecution { lease, increments }),
            None => of.waiting.merge(&increments),
        }
    }

    /// This instance, or else the next one that has something to write.
    pub(super) fn with_something(&self, instance: usize) -> usize {
        let following = (instance..INSTANCES).chain(0..instance);
        let mut full = following.filter(|&next| {
            let of = &self.instances[next];
            of.frozen.is_some() || !of.waiting.is_empty() || !of.finished.is_empty()
        });
        full.next().unwrap_or(instance)
    }

    pub(super) fn freeze(&mut self, instance: usize) {
        let of = &mut self.instances[instance];
        if of.frozen.is_some() || (of.waiting.is_empty() && of.finished.is_empty()) {
            return;
        }
        of.sequence += 1;
        let executions = std::mem::take(&mut of.executions);
        let began = executions
            .iter()
            .map(|&execution| self.facts[execution].began);
        of.frozen = Some(Letter {
            batch: SentBatch {
                id: BatchId {
                    started_at: of.started_at,
                    nonce: of.nonce,
                    sequence: of.sequence,
                },
                increments: std::mem::take(&mut of.waiting),
                leased: std::mem::take(&mut of.finished),
            },
            oldest: began.min().unwrap_or(i64::MAX).min(self.age),
            executions,
        });
    }

    pub(super) fn give_up(&mut self, instance: usize) {
        let instance = self.with_something(instance);
        self.freeze(instance);
        if let Some(letter) = self.instances[instance].frozen.take() {
            let given_up = self.age;
            self.log.push(Logged { letter, given_up });
            let (nonce, started_at) = self.new_name();
            let of = &mut self.instances[instance];
            (of.nonce, of.started_at, of.sequence) = (nonce, started_at, 0);
        }
    }
}
