//! What may happen, a step at a time.

use functional_scaffold_protocol::catalog::ExecutionStatus;

/// One step. An index counts among what there is at that moment.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    /// An execution begins under a lease.
    Begin {
        instance: usize,
        lease: Delivery,
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
    /// An instance sends its frozen batch again, or freezes what waits.
    Flush { instance: usize, fate: Fate },
    /// A lease that was delayed arrives.
    LeaseArrives { index: usize },
    /// A copy of a batch that was delayed arrives; nobody waits for the answer.
    BatchArrives { index: usize },
    /// An instance gives its frozen batch, or what waits, to the log, and takes a
    /// new name.
    GiveUp { instance: usize },
    /// A batch is applied from the log, where it stays.
    Replay { index: usize },
    /// An instance dies with what it has.
    Crash { instance: usize },
    /// The exporter settles what ran out.
    Settle { knows_all_keys: bool },
    /// Time passes while scripts run.
    Pass { grid_lines: i64 },
    /// No script runs for a while.
    StandStill { grid_lines: i64 },
    /// Redis's clock steps back.
    ClockBack { grid_lines: i64 },
}

/// What becomes of a lease on its way.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Delivery {
    Acknowledged,
    Lost,
    Delayed,
}

/// What becomes of a batch on its way.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fate {
    Answered,
    ReplyLost,
    Lost,
    Delayed,
}
