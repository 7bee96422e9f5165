//! The options of a run, and its faults: the same seed gives the same faults.

use std::{fmt, time::Duration};

use clap::ValueEnum;
use fastrand::Rng;

pub(crate) const FAULT_KINDS: usize = 6;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) seconds: u64,
    pub(crate) durability: Durability,
    pub(crate) fsync: Fsync,
    pub(crate) rate: u64,
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

/// A fault. None lasts for the 5 s by which a lease outlives its execution, so that no
/// single fault makes a result late.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Kills Redis (-9) and starts it again on its append-only file. Redis refuses
    /// connections for at least this time.
    KillRedis(Duration),
    /// SIGSTOP, and SIGCONT after this time: Redis executes the calls only then.
    SuspendRedis(Duration),
    /// Cuts all connections between the application and Redis.
    CutConnections,
    /// Drops Redis's replies for this time, then cuts the connections. The calls are
    /// executed.
    DropReplies(Duration),
    /// Delays the calls on existing connections by this time, and no others. So a lease
    /// arrives after its result, and a batch after its repetition.
    DelayCalls(Duration),
    /// Kills the application's runtime (-9) and starts it again.
    KillRuntime,
}

impl Fault {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::KillRedis(_) => "kill Redis",
            Self::SuspendRedis(_) => "stop Redis",
            Self::CutConnections => "cut connections",
            Self::DropReplies(_) => "drop replies",
            Self::DelayCalls(_) => "delay calls",
            Self::KillRuntime => "kill the runtime",
        }
    }

    /// The shortest time that it lasts.
    pub(crate) fn duration(self) -> Duration {
        match self {
            Self::KillRedis(time)
            | Self::SuspendRedis(time)
            | Self::DropReplies(time)
            | Self::DelayCalls(time) => time,
            Self::CutConnections | Self::KillRuntime => Duration::ZERO,
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

/// A fault, and the pause before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Step {
    /// The time since the end of the previous fault.
    pub(crate) pause: Duration,
    pub(crate) fault: Fault,
    pub(crate) phase: Phase,
}

impl fmt::Display for Step {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.fault.name())?;
        if self.fault.duration() > Duration::ZERO {
            write!(out, " for {} ms", self.fault.duration().as_millis())?;
        }
        out.write_str(match self.phase {
            Phase::Calm => " (calm)",
            Phase::Deadly => " (deadly)",
        })
    }
}

/// The faults of a run of this many seconds. Every six faults in a row are of the six
/// kinds, so that even a short run has them all.
pub(crate) fn steps(seed: u64, seconds: u64) -> Vec<Step> {
    let mut rng = Rng::with_seed(seed);
    let mut left = Duration::from_secs(seconds);
    let mut steps = Vec::new();
    loop {
        let mut faults: [Fault; FAULT_KINDS] = [
            Fault::KillRedis(millis(&mut rng, 0, 1_500)),
            Fault::SuspendRedis(millis(&mut rng, 100, 3_000)),
            Fault::CutConnections,
            Fault::DropReplies(millis(&mut rng, 50, 1_500)),
            Fault::DelayCalls(millis(&mut rng, 400, 1_500)),
            Fault::KillRuntime,
        ];
        rng.shuffle(&mut faults);
        for fault in faults {
            let pause = millis(&mut rng, 2_000, 4_000);
            let phase = match fault {
                Fault::KillRuntime => Phase::Deadly,
                _ if rng.bool() => Phase::Deadly,
                _ => Phase::Calm,
            };
            // Without the time that servers need to start.
            let needed = pause + fault.duration();
            if needed > left {
                return steps;
            }
            left -= needed;
            steps.push(Step {
                pause,
                fault,
                phase,
            });
        }
    }
}

fn millis(rng: &mut Rng, least: u64, most: u64) -> Duration {
    Duration::from_millis(rng.u64(least..=most))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Of the short run of `cargo xtask test`. Written down: another version of the
    /// generator would change what a seed in a report means.
    #[test]
    fn a_seed_gives_the_same_faults() {
        let text: Vec<_> = steps(4483, 20).iter().map(Step::to_string).collect();
        // In the calm phase, where every response must be counted: replies in doubt,
        // late leases, and a Redis away for longer than an instance tries.
        assert_eq!(
            text,
            [
                "drop replies for 345 ms (calm)",
                "delay calls for 977 ms (calm)",
                "cut connections (calm)",
                "stop Redis for 1877 ms (calm)",
                "kill the runtime (deadly)",
                "kill Redis for 677 ms (deadly)",
            ]
        );
        assert_ne!(steps(7, 600), steps(8, 600));
    }

    #[test]
    fn steps_end_in_time_and_begin_with_each_kind_once() {
        for seed in 0..50 {
            let steps = steps(seed, 30);
            let times = steps.iter().map(|step| step.pause + step.fault.duration());
            let time: Duration = times.sum();
            assert!(time <= Duration::from_secs(30), "{time:?}");
            let first = steps.iter().take(FAULT_KINDS);
            let kinds: BTreeSet<_> = first.map(|step| step.fault.name()).collect();
            assert_eq!(kinds.len(), FAULT_KINDS, "{steps:?}");
        }
    }
}
