//! What differs between the leases that Redis was heard to take and what is
//! counted. Pure.
//!
//! The client's ledger cannot tell which of the answers before a death were
//! written. The leases can: each that was taken is counted once, and it is
//! counted as crashed if no batch settled it. What runs without one is counted
//! as that. So here deaths leave no room:
//!
//! | counted | at least | at most |
//! |---|---|---|
//! | crashed executions | taken and not settled | the same, those that may have been taken, and the late |
//! | all executions | taken | taken, may have been, and unleased |
//! | unleased executions | what is counted beyond the leases: the line above | sent, less taken, and those given up that were taken all the same |
//!
//! Not for a store that forgets: it takes leases back, and settlements.

use functional_scaffold_protocol::catalog::ExecutionStatus;

use super::{
    Durability,
    ledger::execution_labels,
    replay::Logged,
    stored::Stored,
    tap::Leases,
    verdict::{Bounds, cell},
};

/// The leases that are to be counted as crashed: nothing settled them, not even
/// by way of the log.
pub fn unsettled<'a>(leases: &'a Leases, logged: &Logged) -> impl Iterator<Item = &'a String> {
    let settled = |id: &&String| logged.leases.contains(*id) || leases.maybe_settled.contains(*id);
    leases.open.iter().filter(move |id| !settled(id))
}

/// All that is wrong, of a store that keeps what it acknowledged. `sent` are the
/// requests that may have run something.
#[must_use]
pub fn judge_leases(
    leases: &Leases,
    logged: &Logged,
    stored: &Stored,
    sent: i64,
    durability: Durability,
) -> Vec<String> {
    let mut bounds = Bounds::default();
    let executions: i64 = stored.executions.values().sum();
    if durability == Durability::Relaxed {
        let asked = leases.taken + leases.maybe_taken.len() as i64;
        bounds.check("leases asked for", asked, (0, 0));
        bounds.check("unleased executions", stored.unleased, (0, 0));
        return bounds.wrong;
    }
    let crashed = execution_labels(ExecutionStatus::Crashed);
    let crashed = cell(&stored.executions, &crashed);
    let least = unsettled(leases, logged).count() as i64;
    let may_be = leases.open.union(&leases.maybe_taken);
    let most = may_be.filter(|id| !logged.leases.contains(*id)).count() as i64;
    bounds.check(
        "crashed executions by leases",
        crashed,
        (least, most + stored.late),
    );
    let most = leases.taken + leases.maybe_taken.len() as i64 + stored.unleased;
    bounds.check("executions by leases", executions, (leases.taken, most));
    let given_up = logged.leases_given_up.len() as i64;
    bounds.check(
        "unleased executions",
        stored.unleased,
        (0, sent - leases.taken + given_up),
    );
    bounds.wrong
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::time::Duration;

    fn ids(ids: &[&str]) -> BTreeSet<String> {
        ids.iter().map(|&id| id.to_owned()).collect()
    }

    /// 100 leases: of these four open, one of them in the log, one in a batch
    /// without an answer. One more may have been taken.
    fn leases() -> (Leases, Logged) {
        let leases = Leases {
            taken: 100,
            open: ids(&["a", "b", "c", "d"]),
            maybe_taken: ids(&["e"]),
            maybe_settled: ids(&["d"]),
            ..Leases::default()
        };
        let logged = Logged {
            leases: ids(&["c", "z"]),
            leases_given_up: vec![Duration::ZERO; 3],
            ..Logged::default()
        };
        (leases, logged)
    }

    fn told(ended: i64, crashed: i64, unleased: i64, durability: Durability) -> Vec<String> {
        let (leases, logged) = leases();
        let stored = Stored {
            executions: [
                (execution_labels(ExecutionStatus::Success), ended),
                (execution_labels(ExecutionStatus::Crashed), crashed),
            ]
            .into(),
            unleased,
            ..Stored::default()
        };
        judge_leases(&leases, &logged, &stored, 117, durability)
    }

    #[test]
    fn what_the_leases_tell_leaves_room_for_what_was_not_answered_alone() {
        for (ended, crashed, unleased) in [(98, 2, 10), (96, 4, 20), (107, 4, 10)] {
            let wrong = told(ended, crashed, unleased, Durability::Exact);
            assert_eq!(wrong, Vec::<String>::new());
        }
        for (ended, crashed, unleased, name, words) in [
            (100, 1, 10, "crashed executions", "1 fewer than the 2"),
            (100, 5, 10, "crashed executions", "1 more than the 4"),
            (97, 2, 10, "executions by", "1 fewer than the 100"),
            // Counted twice, or run without a lease and not counted so.
            (108, 4, 10, "executions by", "1 more than the 111"),
            (107, 4, 9, "executions by", "1 more than the 110"),
            (98, 2, 21, "unleased", "1 more than the 20"),
        ] {
            let wrong = told(ended, crashed, unleased, Durability::Strict);
            assert_eq!(wrong.len(), 1, "{wrong:?}");
            assert!(
                wrong[0].starts_with(name) && wrong[0].contains(words),
                "{wrong:?}"
            );
        }
    }

    #[test]
    fn late_results_are_crashed_as_well() {
        let (leases, logged) = leases();
        let mut stored = Stored {
            executions: [(execution_labels(ExecutionStatus::Crashed), 5)].into(),
            ..Stored::default()
        };
        let crashed = |stored: &Stored| {
            let wrong = judge_leases(&leases, &logged, stored, 117, Durability::Exact);
            wrong.iter().any(|text| text.starts_with("crashed"))
        };
        assert!(crashed(&stored));
        stored.late = 1;
        assert!(!crashed(&stored));
    }

    #[test]
    fn in_relaxed_mode_there_are_none() {
        let wrong = told(10, 0, 1, Durability::Relaxed);
        assert_eq!(wrong.len(), 2, "{wrong:?}");
    }
}
