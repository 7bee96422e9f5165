//! Whether every execution is counted once, whatever dies in between: load on
//! the real application while its parts are killed, stopped and cut off, and at
//! the end the client's ledger against what Redis counted.
//!
//! # Layout
//! - [`run`]: a run from its first server to its verdict
//! - [`schedule`]: which fault when, by seed; pure
//! - [`load`]: the requests, and what was answered to each
//! - [`ledger`]: one request as the client saw it, and what it may count as
//! - [`risk`]: which answers a death or a loss may take back; pure
//! - [`tally`]: the ledger summed up, with what is at risk; pure
//! - [`verdict`]: what differs from what the mode promises; pure
//! - [`lease_verdict`]: the same of the leases that passed; pure
//! - [`findings`]: a run as its verdict sees it, and as it is printed
//! - [`stored`]: what Redis counted
//! - [`faults`]: doing what the schedule says
//! - [`proxy`]: the way from the application to Redis, with switches
//! - [`tap`]: which leases passed there, taken or settled
//! - [`power_cut`]: how much Redis forgets with `appendfsync everysec`
//! - [`runtime`]: the application, its death, and its output that survives it
//! - [`replay`]: the log's batches back into Redis, as an operator would do it
//! - [`watcher`]: whether a series steps back on the exporter

use clap::ValueEnum;

pub mod faults;
pub mod findings;
pub mod lease_verdict;
pub mod ledger;
pub mod load;
pub mod power_cut;
pub mod proxy;
pub mod replay;
pub mod risk;
pub mod run;
pub mod runtime;
pub mod schedule;
pub mod stored;
pub mod tally;
pub mod tap;
pub mod verdict;
pub mod watcher;

/// What one run is to be.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Chooses faults and requests.
    pub seed: u64,
    /// How long the load lasts, in seconds.
    pub seconds: u64,
    /// The variable `metrics_durability`.
    pub durability: Durability,
    /// Redis's `appendfsync`.
    pub fsync: Fsync,
    /// Requests a second at the most.
    pub rate: u64,
}

/// What is acknowledged by Redis before a request goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Durability {
    /// Nothing: a death loses what was not written yet.
    Relaxed,
    /// A lease before the algorithm runs: a death loses no execution.
    Exact,
    /// The lease, and the result before the answer: a death takes no answer back.
    Strict,
}

impl Durability {
    /// The variable's value.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Relaxed => "relaxed",
            Self::Exact => "exact",
            Self::Strict => "strict",
        }
    }
}

/// When Redis's append-only file reaches the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Fsync {
    /// Before an answer: a kill of Redis loses nothing.
    Always,
    /// Every second: a kill is made to lose the last second, as a power cut may.
    Everysec,
}

impl Fsync {
    /// The option's value.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::Everysec => "everysec",
        }
    }
}
