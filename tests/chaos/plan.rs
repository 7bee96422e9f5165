//! The options of a run.

use clap::ValueEnum;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) seconds: u64,
    pub(crate) durability: Durability,
    pub(crate) fsync: Fsync,
    pub(crate) rate: u64,
    pub(crate) schedule: Schedule,
}

/// What Redis acknowledges before a request continues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Durability {
    /// Nothing: a death loses all counts that were not written yet.
    Batched,
    /// A lease before the algorithm runs: a death loses no execution.
    Exact,
    /// The lease, and the result before the response: nothing loses a response's count.
    /// What is not acknowledged gets a 503.
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
}

impl Schedule {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Basic => "basic",
            Self::Overlapping => "overlapping",
            Self::Wide => "wide",
        }
    }
}

/// Whether executions that trap or loop are sent. The requests of the two phases take
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
}
