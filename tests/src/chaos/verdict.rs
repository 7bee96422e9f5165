//! What differs from what the mode promises. Pure.
//!
//! Exact in every mode: a request and its execution are counted together or not
//! at all, what ran out is what crashed, and a histogram counts what its counter
//! does less the crashed. Of the ledger's numbers:
//!
//! | counted | at least | at most |
//! |---|---|---|
//! | requests 200 and 422 of a route, executions that failed | answered, less those at risk and late | answered and unsure |
//! | requests 500 of a route | answered, less what may be lost | answered, and all that may have crashed |
//! | crashed executions | what surely crashed under a lease | what was sent to crash, the unsure, at risk and late, each if it is not counted as something else |
//! | all executions | all answered and surely crashed, less what may be lost | all sent |
//!
//! With `relaxed` nothing is counted as crashed. On the route of the calm times
//! nothing dies, so that hardly anything is at risk or unsure: there each of these
//! says that what was answered is counted, once.

use functional_scaffold_protocol::catalog::ExecutionStatus;

use super::{
    Durability, Fsync,
    findings::Findings,
    lease_verdict::judge_leases,
    ledger::{Kind, execution_labels, request_labels},
    schedule::Mood,
    stored::{Cells, Stored},
    tally::{Answers, Tally},
};

/// All that is wrong, a sentence each; nothing if the promise was kept.
#[must_use]
pub fn judge(findings: &Findings) -> Vec<String> {
    let durability = findings.plan.durability;
    let mut wrong = judge_stored(&findings.stored);
    wrong.extend(judge_counts(&findings.tally, &findings.stored, durability));
    wrong.extend(judge_log(findings));
    wrong.extend(judge_exporter(findings));
    let (examples, count) = &findings.tally.unexplained;
    if *count > 0 {
        wrong.push(format!(
            "{count} requests without an answer of the application, though nothing died: {examples:?}"
        ));
    }
    let (examples, count) = &findings.requests.strange;
    if *count > 0 {
        wrong.push(format!("{count} strange answers: {examples:?}"));
    }
    if findings.plan.fsync == Fsync::Always {
        wrong.extend(judge_leases(
            &findings.leases,
            &findings.logged,
            &findings.stored,
            findings.tally.sent(),
            durability,
        ));
        let (unsettled, lost) = findings.unsettled;
        if lost > 0 {
            wrong.push(format!(
                "{lost} of {unsettled} leases that nothing settled did not run out"
            ));
        }
    }
    wrong
}

/// What holds between what Redis counted, whatever was sent.
fn judge_stored(stored: &Stored) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut equal = |what: &str, counted: i64, and: &str, other: i64| {
        if counted != other {
            wrong.push(format!("{what}: {counted}, but {and}: {other}"));
        }
    };
    let executions = |status| cell(&stored.executions, &execution_labels(status));
    let requests = |code| -> i64 {
        let of = |mood| cell(&stored.requests, &request_labels(mood, code));
        Mood::ALL.map(of).iter().sum()
    };
    let (success, invalid, failed, crashed) = (
        executions(ExecutionStatus::Success),
        executions(ExecutionStatus::InvalidInput),
        executions(ExecutionStatus::Failed),
        executions(ExecutionStatus::Crashed),
    );
    equal("requests 200", requests(200), "successes", success);
    equal("requests 422", requests(422), "invalid inputs", invalid);
    let errors = failed + crashed;
    equal("requests 500", requests(500), "failed and crashed", errors);
    let ended = success + invalid + failed;
    equal(
        "execution durations",
        stored.timed_executions,
        "executions that ended",
        ended,
    );
    equal(
        "request durations",
        stored.timed_requests,
        "executions that ended",
        ended,
    );
    equal("leases that ran out", stored.settled, "crashed", crashed);
    equal("open leases", stored.open_leases, "executions in flight", 0);
    let known = ended + crashed;
    equal(
        "all executions",
        stored.executions.values().sum(),
        "of known status",
        known,
    );
    let known = requests(200) + requests(422) + requests(500);
    equal(
        "all requests",
        stored.requests.values().sum(),
        "of known codes",
        known,
    );
    wrong
}

/// What holds between the ledger and what Redis counted.
fn judge_counts(tally: &Tally, stored: &Stored, durability: Durability) -> Vec<String> {
    let mut bounds = Bounds::default();
    for mood in Mood::ALL {
        judge_route(mood, tally, stored, durability, &mut bounds);
    }
    let mut all = Answers::default();
    let (mut counted_all, mut counted_unsure) = (0, 0);
    for kind in Kind::ENDING {
        let answers = tally.of_both(kind);
        let labels = execution_labels(kind.status());
        let counted = cell(&stored.executions, &labels);
        bounds.check(&labels, counted, as_answered(answers, stored.late));
        counted_all += counted;
        counted_unsure += (counted - answers.answered).max(0);
        all = all + answers;
    }
    let labels = execution_labels(ExecutionStatus::Crashed);
    let crashed = cell(&stored.executions, &labels);
    let most = match durability {
        Durability::Relaxed => 0,
        Durability::Exact | Durability::Strict => {
            tally.fatal + all.unsure - counted_unsure + all.retractable + stored.late
        }
    };
    bounds.check(&labels, crashed, (tally.surely_crashed, most));
    let least = all.answered - all.losable + tally.surely_crashed;
    bounds.check(
        "all executions",
        counted_all + crashed,
        (least, tally.sent()),
    );
    bounds.wrong
}

fn judge_route(
    mood: Mood,
    tally: &Tally,
    stored: &Stored,
    durability: Durability,
    bounds: &mut Bounds,
) {
    let mut all = Answers::default();
    for kind in Kind::ENDING {
        let answers = tally.of(mood, kind);
        all = all + answers;
        if kind != Kind::Fail {
            let labels = request_labels(mood, kind.code());
            let counted = cell(&stored.requests, &labels);
            bounds.check(&labels, counted, as_answered(answers, stored.late));
        }
    }
    let failed = tally.of(mood, Kind::Fail);
    let fatal = match mood {
        Mood::Calm => 0,
        Mood::Deadly => tally.fatal,
    };
    let most = match durability {
        Durability::Relaxed => failed.answered + failed.unsure,
        Durability::Exact | Durability::Strict => {
            failed.answered + all.unsure + all.retractable + fatal + stored.late
        }
    };
    let labels = request_labels(mood, 500);
    let counted = cell(&stored.requests, &labels);
    bounds.check(&labels, counted, (failed.answered - failed.losable, most));
}

/// The least and the most of what is counted as it was answered.
fn as_answered(answers: Answers, late: i64) -> (i64, i64) {
    let least = answers.answered - answers.retractable - late;
    (least, answers.answered + answers.unsure)
}

/// Collects what is out of its bounds.
#[derive(Debug, Default)]
pub struct Bounds {
    /// A sentence each.
    pub wrong: Vec<String>,
}

impl Bounds {
    /// Checks a count against the least and the most that it may be.
    pub fn check(&mut self, what: &str, counted: i64, (least, most): (i64, i64)) {
        let difference = if counted < least {
            format!(
                "{} fewer than the {least} that there must be",
                least - counted
            )
        } else if counted > most {
            format!("{} more than the {most} that there can be", counted - most)
        } else {
            return;
        };
        self.wrong
            .push(format!("{what}: {counted} counted, {difference}"));
    }
}

/// A result is late only by way of the log, or because its execution took
/// longer than its lease: none here does.
fn judge_log(findings: &Findings) -> Vec<String> {
    let mut wrong = Vec::new();
    let (logged, stored) = (&findings.logged, &findings.stored);
    let leased = logged.leases.len() as i64;
    if stored.late > leased {
        let late = stored.late;
        wrong.push(format!(
            "{late} results are late, but only {leased} executions went by way of the log"
        ));
    }
    let kills = findings.faults.get("kill the runtime").copied();
    let kills = kills.unwrap_or_default() as i64;
    if logged.torn > kills {
        wrong.push(format!("{} lines of the log are torn", logged.torn));
    }
    // A kill cuts off as many as the host has threads.
    if logged.incomplete > 0 && kills == 0 {
        let incomplete = logged.incomplete;
        wrong.push(format!("{incomplete} batches of the log are incomplete"));
    }
    let [first, second] = &findings.replays;
    let named = [
        ("the shipper's replay", &findings.shipped),
        ("the replay at the end", first),
        ("the second replay", second),
    ];
    for (name, report) in named {
        let known = [
            format!("unreadable: {}", logged.torn),
            format!("incomplete: {}", logged.incomplete),
        ];
        let mut troubles = report.troubles();
        troubles.retain(|trouble| !known.contains(trouble));
        if !troubles.is_empty() {
            wrong.push(format!("{name} says {}", troubles.join(", ")));
        }
        if report.stored() != logged.batches {
            let (found, batches) = (report.stored(), logged.batches);
            wrong.push(format!("{name} stored {found} of {batches} logged batches"));
        }
    }
    if second.of("applied") != 0 {
        let again = second.of("applied");
        wrong.push(format!(
            "the second replay applied {again} batches once more"
        ));
    }
    wrong
}

fn judge_exporter(findings: &Findings) -> Vec<String> {
    let mut wrong = Vec::new();
    let (examples, count) = &findings.watched.back;
    if *count > 0 {
        wrong.push(format!("{count} steps back on the exporter: {examples:?}"));
    }
    for (labels, &counted) in &findings.stored.executions {
        let series = format!("algorithm_executions_total{{{labels}}}");
        let shown = findings.watched.last.get(&series).copied();
        // What Redis forgot, the exporter still serves.
        let agree = shown.is_some_and(|shown| match findings.plan.fsync {
            Fsync::Always => shown == counted as f64,
            Fsync::Everysec => shown >= counted as f64,
        });
        if !agree {
            wrong.push(format!(
                "the exporter shows {shown:?} for {series}, not {counted}"
            ));
        }
    }
    wrong
}

/// What is counted under a label set.
#[must_use]
pub fn cell(cells: &Cells, labels: &str) -> i64 {
    cells.get(labels).copied().unwrap_or_default()
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
