//! The ledger summed up: how many requests of each kind were answered, and what
//! they may be counted as. Pure.

use std::{collections::BTreeMap, ops::Add};

use super::{
    Durability,
    ledger::{Entry, Kind, Outcome, execution_labels},
    risk::{Events, Risk},
    schedule::Mood,
    stored::Stored,
};

/// Examples that are kept of what nothing explains.
const MAX_EXAMPLES: usize = 5;

/// What the requests may count as.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Of the kinds whose executions end.
    pub ending: BTreeMap<(Mood, Kind), Answers>,
    /// Requests sent that are to crash.
    pub fatal: i64,
    /// Of these, how many crashed under a lease at the least.
    pub surely_crashed: i64,
    /// What no death explains: requests without an answer of the application,
    /// and how many there were.
    pub unexplained: (Vec<String>, usize),
}

/// The requests of one kind whose executions end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Answers {
    /// Answered by the application.
    pub answered: i64,
    /// Of these, how many may be counted as crashed, or not at all.
    pub retractable: i64,
    /// Of these, how many may not be counted at all.
    pub losable: i64,
    /// Sent, and not answered by the application: to be counted as what they
    /// are, as crashed, or not at all.
    pub unsure: i64,
}

impl Tally {
    /// The answers of a kind in a mood, all zero if there are none.
    #[must_use]
    pub fn of(&self, mood: Mood, kind: Kind) -> Answers {
        self.ending.get(&(mood, kind)).copied().unwrap_or_default()
    }

    /// Of both moods.
    #[must_use]
    pub fn of_both(&self, kind: Kind) -> Answers {
        self.of(Mood::Calm, kind) + self.of(Mood::Deadly, kind)
    }

    /// Answered executions that are not counted as what was answered.
    #[must_use]
    pub fn taken_back(&self, stored: &Stored) -> i64 {
        let missing = Kind::ENDING.map(|kind| {
            let counted = stored.executions.get(&execution_labels(kind.status()));
            self.of_both(kind).answered - counted.copied().unwrap_or_default()
        });
        missing.iter().map(|missing| missing.max(&0)).sum()
    }

    /// How many of these there may be.
    #[must_use]
    pub fn retractable(&self) -> i64 {
        self.ending.values().map(|kind| kind.retractable).sum()
    }

    /// All requests that were sent.
    #[must_use]
    pub fn sent(&self) -> i64 {
        let ending = self.ending.values();
        self.fatal + ending.map(|kind| kind.answered + kind.unsure).sum::<i64>()
    }
}

impl Add for Answers {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            answered: self.answered + other.answered,
            retractable: self.retractable + other.retractable,
            losable: self.losable + other.losable,
            unsure: self.unsure + other.unsure,
        }
    }
}

/// Sums up the requests.
#[must_use]
pub fn tally(entries: &[Entry], events: &Events, durability: Durability) -> Tally {
    let risk = Risk::new(entries, events, durability);
    let mut tally = Tally::default();
    for entry in entries {
        if !risk.explains(entry) {
            let (examples, count) = &mut tally.unexplained;
            *count += 1;
            if examples.len() < MAX_EXAMPLES {
                examples.push(format!("{entry:?}"));
            }
        }
        if entry.outcome == Outcome::Refused {
            continue;
        }
        if entry.kind.is_fatal() {
            tally.fatal += 1;
            continue;
        }
        let kind = tally.ending.entry((entry.mood, entry.kind)).or_default();
        if entry.instance().is_none() {
            kind.unsure += 1;
            continue;
        }
        kind.answered += 1;
        let (retractable, losable) = risk.of(entry);
        kind.retractable += i64::from(retractable);
        kind.losable += i64::from(losable);
    }
    tally.surely_crashed = risk.surely_crashed(entries);
    tally
}

#[cfg(test)]
#[path = "tally_tests.rs"]
mod tests;
