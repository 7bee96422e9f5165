//! A store on its own redis-server, with one component's executions.

use functional_scaffold_protocol::{
    batch::{Batch, BatchId, LeasedExecution, SentBatch},
    calls::{ApplyReply, SettleReply},
    catalog::{Catalog, ExecutionLabels, ExecutionStatus, FinishedExecution, RouteLabels},
    custom::CustomWrites,
    lease::Lease,
};
use functional_scaffold_testkit::redis::RedisServer;

use super::store::Store;
use crate::Result;

/// The name of the one algorithm.
const ALGORITHM: &str = "a";
/// The duration of a lease that does not expire by itself during a test.
pub(crate) const LONG_MS: u64 = 1_000_000;

/// The reply to a batch that was stored, with nothing of it refused.
pub(crate) const STORED: ApplyReply = ApplyReply::Stored {
    lease_time_millis: 0,
    refused: Vec::new(),
};

/// The keys of the catalog's families.
pub(crate) fn metric_keys(catalog: &Catalog) -> Vec<&str> {
    catalog
        .families()
        .into_iter()
        .map(|family| family.key.as_str())
        .collect()
}

/// A store on its own server.
pub(crate) struct Fixture {
    pub(crate) server: RedisServer,
    pub(crate) store: Store,
    pub(crate) catalog: Catalog,
    /// Lease time at the start.
    pub(crate) started_ms: i64,
}

impl Fixture {
    /// Starts a server, with nothing on it.
    pub(crate) fn start() -> Result<Self> {
        Self::on(RedisServer::start()?)
    }

    /// On a running server.
    pub(crate) fn on(server: RedisServer) -> Result<Self> {
        let mut store = Store::open(&server, "m:")?;
        Ok(Self {
            started_ms: store.time()?,
            store,
            server,
            catalog: Catalog::new("m:"),
        })
    }

    /// A lease on an execution.
    pub(crate) fn lease(&self, number: u64, millis: u64) -> Lease {
        Lease {
            id: format!("ab/{number}"),
            millis,
            count: self
                .catalog
                .crash_cells(ALGORITHM, RouteLabels::new("POST", "/invoke")),
        }
    }

    /// The success of that execution.
    pub(crate) fn success(&self, lease: &Lease) -> LeasedExecution {
        let mut increments = Batch::default();
        let execution = FinishedExecution {
            algorithm: ALGORITHM,
            status: ExecutionStatus::Success,
            duration_nanos: 7,
        };
        self.catalog.record_execution(&mut increments, &execution);
        LeasedExecution {
            lease: lease.clone(),
            due_ms: self.started_ms.saturating_add_unsigned(lease.millis),
            increments,
        }
    }

    /// A batch with the results of these executions.
    pub(crate) fn batch(&self, sequence: u64, leases: &[&Lease]) -> SentBatch {
        SentBatch {
            id: BatchId {
                nonce: 0xab,
                sequence,
            },
            frozen_ms: None,
            increments: Batch::default(),
            leased: leases.iter().map(|lease| self.success(lease)).collect(),
            custom: CustomWrites::default(),
        }
    }

    /// The key of a family of the catalog.
    pub(crate) fn key(&self, family: &str) -> String {
        let family = self.catalog.family(family);
        family.expect("the catalog has it").key.clone()
    }

    /// Sends a batch. The lease time is left out of the reply.
    pub(crate) fn apply(&mut self, batch: &SentBatch) -> Result<ApplyReply> {
        let mut applied = self.store.apply(batch)?;
        if let ApplyReply::Stored {
            lease_time_millis, ..
        } = &mut applied
        {
            *lease_time_millis = 0;
        }
        Ok(applied)
    }

    /// Settles leases of the catalog's families, as a reader does.
    pub(crate) fn settle(&mut self) -> Result<SettleReply> {
        self.store.settle(1, &metric_keys(&self.catalog))
    }

    /// The numbers of open leases, successes and crashes.
    pub(crate) fn counts(&mut self) -> Result<(usize, i128, i128)> {
        let key = self.key("algorithm_executions_total");
        let cells = self.store.counters(std::slice::from_ref(&key))?;
        let count = |status: ExecutionStatus| {
            let algorithm = ALGORITHM;
            let field = ExecutionLabels { algorithm, status }.to_text();
            cells.get(&(key.clone(), field)).copied().unwrap_or(0)
        };
        let ends = (
            count(ExecutionStatus::Success),
            count(ExecutionStatus::Crashed),
        );
        Ok((self.store.kept()?.open.len(), ends.0, ends.1))
    }
}
