//! The options of a run.

use std::path::PathBuf;

use clap::ValueEnum;
use functional_scaffold_protocol::catalog::{ExecutionLabels, ExecutionStatus, RequestLabels};
use functional_scaffold_testkit::repository;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) app: AppKind,
    pub(crate) seed: u64,
    pub(crate) seconds: u64,
    pub(crate) durability: Durability,
    pub(crate) fsync: Fsync,
    pub(crate) rate: u64,
    pub(crate) schedule: Schedule,
    /// `metrics_shards`, if there are shards: all on the one Redis, or on its cluster.
    pub(crate) shards: Option<u32>,
}

/// The shards of a cluster, unless others are asked for.
pub(crate) const CLUSTER_SHARDS: u32 = 6;

impl Plan {
    /// The variable `metrics_shards`; empty is unset.
    pub(crate) fn shards(&self) -> String {
        self.shards
            .map(|shards| shards.to_string())
            .unwrap_or_default()
    }

    /// Whether there are two exporters and a relay.
    pub(crate) fn has_more_readers(&self) -> bool {
        matches!(self.schedule, Schedule::Wide | Schedule::Cluster)
    }
}

/// The application under test. Both respond alike.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum AppKind {
    /// The service, with an algorithm that misbehaves on request.
    #[default]
    Service,
    /// An app that misbehaves on request, behind the middleware. Each of its requests is
    /// an execution under a lease, even one that was sent in part.
    Metered,
}

impl AppKind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Metered => "metered",
        }
    }

    pub(crate) fn manifest(self) -> PathBuf {
        repository().join(match self {
            Self::Service => "tests/rogue/spin.toml",
            Self::Metered => "tests/plain/chaos.toml",
        })
    }

    /// The series that counts responses with this code to the requests of a phase.
    pub(crate) fn request_series(self, phase: Phase, code: u16) -> String {
        let endpoint = match (phase, self) {
            (Phase::Calm, Self::Service) => "/invoke/{algorithm}",
            (Phase::Calm, Self::Metered) => "/invoke/...",
            (Phase::Deadly, _) => "/invoke",
        };
        let labels = RequestLabels::new("POST", endpoint, code).to_text();
        format!("http_requests_total{{{labels}}}")
    }

    /// The family that counts executions. A metered app has none, so that this run derives
    /// them from its requests and leases.
    pub(crate) fn executions(self) -> &'static str {
        match self {
            Self::Service => "algorithm_executions_total",
            Self::Metered => "executions",
        }
    }

    /// The series that counts executions that ended like this.
    pub(crate) fn execution_series(self, status: ExecutionStatus) -> String {
        let labels = match self {
            Self::Service => {
                let algorithm = "rogue";
                ExecutionLabels { algorithm, status }.to_text()
            }
            Self::Metered => format!("status=\"{}\"", status.label()),
        };
        format!("{}{{{labels}}}", self.executions())
    }

    /// A family, and the label of those of its series that a fault removes.
    pub(crate) fn removed_series(self) -> (&'static str, &'static str) {
        match self {
            Self::Service => ("algorithm_executions_total", "status=\"invalid_input\""),
            Self::Metered => ("http_requests_total", "code=\"422\""),
        }
    }
}

/// What Redis acknowledges before a request continues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Durability {
    /// Nothing: a death loses all counts that were not written yet.
    Batched,
    /// A lease before the algorithm runs: a death loses no execution.
    Exact,
    /// The lease, and the result before the response: nothing loses a response's count.
    /// A result that is not acknowledged gets a 503.
    Strict,
}

impl Durability {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Batched => "batched",
            Self::Exact => "exact",
            Self::Strict => "strict",
        }
    }
}

/// When Redis's append-only file reaches the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fsync {
    /// Before each reply: a kill of Redis loses nothing.
    Always,
    /// Every second: a kill also removes the last second, as a power cut may.
    Everysec,
}

impl Fsync {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::Everysec => "everysec",
        }
    }
}

/// Which faults there are, and how many at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Schedule {
    /// One at a time of the first six.
    Basic,
    /// One at a time of the first six, each with one of the others that is cheap.
    Overlapping,
    /// Every fault, alone or two at a time. Redis has a replica and a Sentinel, and there
    /// are two exporters and a relay.
    Wide,
    /// Failovers and moved slots of a Redis Cluster, and every other fault that needs no
    /// single Redis. Readers are those of `wide`.
    Cluster,
}

impl Schedule {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Basic => "basic",
            Self::Overlapping => "overlapping",
            Self::Wide => "wide",
            Self::Cluster => "cluster",
        }
    }
}

/// A phase with or without executions that trap or loop. The requests of the two take
/// different routes, and so are counted separately: a death loses counts of other
/// requests, which would hide a count that another fault lost or doubled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// No instance dies: every response is counted.
    Calm,
    /// Instances die.
    Deadly,
}

impl Phase {
    pub(crate) const ALL: [Self; 2] = [Self::Calm, Self::Deadly];

    /// The path of its requests.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Calm => "/invoke/rogue",
            Self::Deadly => "/invoke",
        }
    }
}
