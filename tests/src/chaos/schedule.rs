//! Which fault is done when. The same seed gives the same schedule. Pure: what
//! a fault does is [`super::faults`]'s.

use std::{fmt, time::Duration};

use fastrand::Rng;

/// How many kinds of faults there are.
pub const KINDS: usize = 6;

/// One thing that goes wrong. The longest waits are below the 5 s that a lease
/// outlives its execution, so that nothing becomes late by a single fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// kill -9 Redis and start it again on its append-only file; the application
    /// finds it refusing connections for so long at the least.
    KillRedis(Duration),
    /// SIGSTOP, and SIGCONT after so long: it takes what is sent, and executes it
    /// then.
    StopRedis(Duration),
    /// Cut all connections between the application and Redis.
    CutConnections,
    /// Swallow what Redis answers for so long, then cut: what was asked was done.
    DropReplies(Duration),
    /// Hold what is sent on the connections there are for so long; others pass. So
    /// a lease comes after its result, and a batch after its repetition.
    DelayCalls(Duration),
    /// kill -9 the application's runtime and start it again.
    KillRuntime,
}

impl Fault {
    /// What it is called where faults are counted.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::KillRedis(_) => "kill Redis",
            Self::StopRedis(_) => "stop Redis",
            Self::CutConnections => "cut connections",
            Self::DropReplies(_) => "drop replies",
            Self::DelayCalls(_) => "delay calls",
            Self::KillRuntime => "kill the runtime",
        }
    }

    /// How long it lasts at the least.
    #[must_use]
    pub fn duration(self) -> Duration {
        match self {
            Self::KillRedis(time)
            | Self::StopRedis(time)
            | Self::DropReplies(time)
            | Self::DelayCalls(time) => time,
            Self::CutConnections | Self::KillRuntime => Duration::ZERO,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())?;
        match self.duration() {
            Duration::ZERO => Ok(()),
            time => write!(out, " for {} ms", time.as_millis()),
        }
    }
}

/// A fault, and how long everything is left alone before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// From the end of the fault before.
    pub pause: Duration,
    /// What is done then.
    pub fault: Fault,
    /// Whether there are executions meanwhile that end their instance.
    pub mood: Mood,
}

/// Whether executions are sent that trap or loop. What a death may take back
/// would hide what is counted twice; so these two are told apart, by the routes
/// that their requests take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mood {
    /// None are sent, and the runtime lives: every answer is counted.
    Calm,
    /// They are.
    Deadly,
}

impl Mood {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Calm, Self::Deadly];

    /// Its name in the report.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Calm => "calm",
            Self::Deadly => "deadly",
        }
    }
}

/// The faults of a run of so many seconds. Of any six in a row from the first
/// on, each is of another kind, so that a short run has them all.
#[must_use]
pub fn schedule(seed: u64, seconds: u64) -> Vec<Step> {
    let mut rng = Rng::with_seed(seed);
    let mut left = Duration::from_secs(seconds);
    let mut steps = Vec::new();
    loop {
        let mut faults: [Fault; KINDS] = [
            Fault::KillRedis(millis(&mut rng, 0, 1_500)),
            Fault::StopRedis(millis(&mut rng, 100, 3_000)),
            Fault::CutConnections,
            Fault::DropReplies(millis(&mut rng, 50, 1_500)),
            Fault::DelayCalls(millis(&mut rng, 400, 1_500)),
            Fault::KillRuntime,
        ];
        rng.shuffle(&mut faults);
        for fault in faults {
            let pause = millis(&mut rng, 2_000, 4_000);
            let mood = match fault {
                Fault::KillRuntime => Mood::Deadly,
                _ if rng.bool() => Mood::Deadly,
                _ => Mood::Calm,
            };
            // The servers' own time to start is not known here.
            let needed = pause + fault.duration();
            if needed > left {
                return steps;
            }
            left -= needed;
            steps.push(Step { pause, fault, mood });
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

    #[test]
    fn a_seed_gives_the_same_schedule_and_another_seed_another() {
        assert_eq!(schedule(7, 600), schedule(7, 600));
        assert_ne!(schedule(7, 600), schedule(8, 600));
        let faults = schedule(1, 10);
        let text = |step: &Step| format!("{} ({})", step.fault, step.mood.name());
        let text: Vec<_> = faults.iter().map(text).collect();
        // Written down: another version of the generator would change what a
        // seed in somebody's report means.
        assert_eq!(
            text,
            [
                "stop Redis for 1650 ms (calm)",
                "kill Redis for 986 ms (deadly)"
            ]
        );
    }

    #[test]
    fn the_short_run_of_cargo_xtask_test_has_each_fault_where_it_shows_the_most() {
        let text: Vec<_> = schedule(4483, 20)
            .iter()
            .map(|step| format!("{} ({})", step.fault, step.mood.name()))
            .collect();
        // In calm times, where every answer is to be counted: ambiguous replies,
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
    }

    #[test]
    fn it_ends_in_time_and_begins_with_each_kind_once() {
        for seed in 0..50 {
            let steps = schedule(seed, 30);
            let time: Duration = steps
                .iter()
                .map(|step| step.pause + step.fault.duration())
                .sum();
            assert!(time <= Duration::from_secs(30), "{time:?}");
            let kinds: BTreeSet<_> = steps
                .iter()
                .take(KINDS)
                .map(|step| step.fault.name())
                .collect();
            assert_eq!(kinds.len(), KINDS, "{steps:?}");
        }
    }
}
