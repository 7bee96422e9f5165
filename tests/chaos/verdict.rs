//! Every difference beyond what the mode promises.
//!
//! - Each series counts its responses, plus or minus the requests in doubt: see
//!   [`super::doubt`]. A result that arrived after its lease had expired is counted as
//!   crashed and as late. A request in doubt is counted as its result or as crashed, not
//!   as both.
//! - A request and its execution are counted together or not at all. An expired lease is
//!   a crash. A histogram counts as many as its counter, without the crashed ones.
//! - Each lease that Redis took is counted once, as crashed if no batch contains its
//!   result. So leases show which responses before a death were written, which the client
//!   cannot know. This does not hold if Redis loses writes.
//! - Each logged batch is stored by a replay, and none is stored twice.
//! - No series steps back on an exporter or a relay, except after a new epoch and a
//!   removal. At the end each of them serves what Redis holds.
//! - Lines that clients forged are left out by every replay.
//!
//! Some faults take counts away from Redis, by design. What they took is read from the
//! servers at that moment ([`crate::contents`]), and all of the above holds for the sum of
//! what Redis holds and what was taken.

use functional_scaffold_protocol::catalog::ExecutionStatus;

use crate::{
    contents::Taken,
    doubt::{Bounds, Expected},
    findings::{Counted, Findings},
    ledger::{Batches, Leases},
    load::{UNAVAILABLE, code_of},
    log::Logged,
    plan::{Durability, Fsync, Phase},
    watcher::RELAY,
};

/// The status codes of requests of which the client sent only a part.
const REJECTED: [u16; 2] = [400, 408];
/// The status code of requests to a route that does not exist.
const ASTRAY: u16 = 404;

/// Everything that is wrong, one sentence each. Empty if the promise was kept.
pub(crate) fn judge(findings: &Findings) -> Vec<String> {
    let durability = findings.plan.durability;
    let (counted, expected) = (&findings.counted, &findings.expected);
    let revived = findings.batches.revived;
    let mut wrong = judge_sums(counted, findings.broken, findings.astray);
    wrong.extend(judge_series(
        expected,
        counted,
        durability,
        revived,
        findings.astray,
    ));
    // With `everysec`, a kill of Redis may also remove ids, which the run does not read.
    if findings.plan.fsync == Fsync::Always {
        wrong.extend(judge_batches(&findings.batches));
        wrong.extend(judge_leases(findings));
        let (unsettled, lost) = findings.unsettled;
        if lost > 0 {
            wrong.push(format!(
                "{lost} of {unsettled} unsettled leases did not run out"
            ));
        }
    }
    wrong.extend(judge_log(findings));
    wrong.extend(judge_readers(findings));
    for (what, (examples, count)) in [
        (
            "requests without a response, though nothing died",
            &expected.unexplained,
        ),
        (
            "responses that do not belong to their requests",
            &findings.requests.unexpected,
        ),
    ] {
        if *count > 0 {
            wrong.push(format!("{count} {what}: {examples:?}"));
        }
    }
    wrong
}

/// Checks the relations between counts that hold whatever was sent.
/// Of `broken` requests the client sent only a part, and `astray` ones have no route.
fn judge_sums(counted: &Counted, broken: i64, astray: i64) -> Vec<String> {
    use ExecutionStatus::{Crashed, Failed, InvalidInput, Success};
    let [success, invalid, failed, crashed] =
        [Success, InvalidInput, Failed, Crashed].map(|status| counted.executions(status));
    let ended = success + invalid + failed;
    let codes = [200, 422, 500, UNAVAILABLE].map(|code| counted.requests(code));
    let unavailable = codes[3];
    let rejected: i64 = REJECTED.map(|code| counted.requests(code)).iter().sum();
    let astray = counted.requests(ASTRAY).min(astray);
    let pairs = [
        ("requests 200", codes[0], "successes", success),
        ("requests 422", codes[1], "refusals", invalid),
        (
            "requests 500",
            codes[2],
            "failures and crashes",
            failed + crashed,
        ),
        (
            "request durations",
            counted.observed[0],
            "results, 503 and rejections",
            ended + unavailable + rejected + astray,
        ),
        ("execution durations", counted.observed[1], "results", ended),
        ("settled leases", counted.settled, "crashes", crashed),
        (
            "open leases",
            counted.open_leases,
            "executions in flight",
            0,
        ),
        (
            "all executions",
            counted.all(counted.app.executions()),
            "those of known status",
            ended + crashed,
        ),
        (
            "all requests",
            counted.all("http_requests_total"),
            "those of known codes",
            codes.iter().sum::<i64>() + rejected + astray,
        ),
    ];
    let differ = pairs
        .into_iter()
        .filter(|(_, count, _, other)| count != other);
    let mut wrong: Vec<_> = differ
        .map(|(what, count, than, other)| format!("{what}: {count}, but {than}: {other}"))
        .collect();
    check(&mut wrong, "rejected requests", rejected, (0, broken));
    wrong
}

/// The invariant: counted = responses ± in doubt, by series. Redis took `revived` results
/// of executions that it had counted as crashed, because a fault had removed that.
fn judge_series(
    expected: &Expected,
    counted: &Counted,
    durability: Durability,
    revived: i64,
    astray: i64,
) -> Vec<String> {
    let app = counted.app;
    let mut wrong = Vec::new();
    let crashed = app.execution_series(ExecutionStatus::Crashed);
    let code = code_of(ExecutionStatus::Crashed);
    let with_crashes = Phase::ALL.map(|phase| app.request_series(phase, code));
    for (series, bounds) in &expected.series {
        let late = counted.late;
        let crashes = late + revived;
        let (least, most) = if *series == crashed || with_crashes.contains(series) {
            (bounds.least, bounds.most + crashes)
        } else if durability == Durability::Strict {
            // A late result is withheld.
            (bounds.least, bounds.most)
        } else {
            (bounds.least - late, bounds.most)
        };
        check(&mut wrong, series, counted.of(series), (least, most));
    }
    // A request in doubt that is counted as its result must not be counted as crashed.
    let results = expected
        .series
        .iter()
        .filter(|(series, _)| series.starts_with(app.executions()) && **series != crashed);
    let doubtful = results.map(|(series, bounds)| (counted.of(series) - bounds.responses).max(0));
    let Bounds { most, .. } = expected.series[&crashed];
    let most = (most - doubtful.sum::<i64>()).max(0) + counted.late + revived;
    let what = "crashes beside results in doubt";
    check(&mut wrong, what, counted.of(&crashed), (0, most));
    let Bounds { least, most, .. } = expected.executions;
    let executions = counted.all(counted.app.executions());
    check(
        &mut wrong,
        "all executions",
        executions,
        (least, most + revived),
    );
    let Bounds { least, most, .. } = expected.requests;
    // A 503 whose lease has expired is counted as a crash, too.
    let most = most + counted.late + revived;
    let rejected: i64 = REJECTED.map(|code| counted.requests(code)).iter().sum();
    let rejected = rejected + counted.requests(ASTRAY).min(astray);
    let requests = counted.all("http_requests_total") - rejected;
    check(&mut wrong, "all requests", requests, (least, most));
    wrong
}

fn check(wrong: &mut Vec<String>, what: &str, counted: i64, (least, most): (i64, i64)) {
    if counted < least {
        let missing = least - counted;
        wrong.push(format!(
            "{what}: {counted} counted, {missing} fewer than the least, {least}"
        ));
    } else if counted > most {
        let over = counted - most;
        wrong.push(format!(
            "{what}: {counted} counted, {over} more than the most, {most}"
        ));
    }
}

/// The acknowledged leases whose results no batch contains, not even a logged one. They
/// must be counted as crashed, unless a fault took them away.
pub(crate) fn unsettled<'a>(
    leases: &'a Leases,
    logged: &'a Logged,
    taken: &'a Taken,
) -> impl Iterator<Item = &'a String> {
    let passed = leases.passed.iter().filter(|(id, passed)| {
        passed.is_acknowledged
            && !passed.is_stored
            && !passed.may_be_stored
            && !logged.leases.contains(*id)
            && !taken.leases.contains(*id)
    });
    passed.map(|(id, _)| id)
}

fn judge_leases(findings: &Findings) -> Vec<String> {
    let Findings {
        leases,
        logged,
        counted,
        taken,
        ..
    } = findings;
    let durability = findings.plan.durability;
    let revived = findings.batches.revived;
    let mut wrong = Vec::new();
    let in_doubt = leases.in_doubt();
    if durability == Durability::Batched {
        check(&mut wrong, "leases", leases.acknowledged + in_doubt, (0, 0));
        check(&mut wrong, "unleased executions", counted.unleased, (0, 0));
        return wrong;
    }
    let crashed = counted.executions(ExecutionStatus::Crashed);
    let least = unsettled(leases, logged, taken).count() as i64;
    let may_crash = leases.passed.iter().filter(|(id, passed)| {
        let is_taken = passed.is_acknowledged || passed.is_sent;
        is_taken && !passed.is_stored && !logged.leases.contains(*id)
    });
    let most = may_crash.count() as i64 + counted.late + revived;
    check(&mut wrong, "crashes by leases", crashed, (least, most));
    let executions = counted.all(counted.app.executions());
    // A lease that was late in strict mode is closed with the count of a 503.
    let lost = leases.passed.iter().filter(|(id, passed)| {
        passed.is_acknowledged && !passed.is_stored && taken.leases.contains(*id)
    });
    let lost = lost.count() as i64;
    let least = leases.acknowledged - counted.requests(UNAVAILABLE) - lost;
    let most = leases.acknowledged + in_doubt + counted.unleased + revived;
    check(
        &mut wrong,
        "executions by leases",
        executions,
        (least, most),
    );
    // Each of them left a trace before it began, and none began in strict mode.
    let (unleased, traces) = (counted.unleased, logged.unleased);
    let most = match durability {
        Durability::Strict => 0,
        Durability::Exact | Durability::Batched => traces,
    };
    check(&mut wrong, "unleased executions", unleased, (0, most));
    wrong
}

/// Checks that Redis applied each batch once.
fn judge_batches(batches: &Batches) -> Vec<String> {
    let twice = batches.twice.iter();
    twice
        .map(|id| format!("the batch {id} was applied twice"))
        .collect()
}

/// Checks the log and its replays. A late result can only come from the log, because no
/// execution here takes longer than its lease, or from a fault that moves lease time or
/// stops the runtime.
fn judge_log(findings: &Findings) -> Vec<String> {
    let mut wrong = Vec::new();
    let (logged, late) = (&findings.logged, findings.counted.late);
    let leased = logged.leases.len() as i64;
    let by_fault = findings.expected.late;
    if late > leased + by_fault {
        wrong.push(format!(
            "{late} results are late, but the log has only {leased} executions, and faults \
             made {by_fault} late"
        ));
    }
    let kills = findings.faults.get("kill the runtime").copied();
    let kills = kills.unwrap_or_default() as i64;
    if logged.torn > kills {
        wrong.push(format!("{} lines of the log are torn", logged.torn));
    }
    // One kill can cut off a batch per thread of the host.
    if logged.incomplete > 0 && kills == 0 {
        wrong.push(format!(
            "{} batches of the log are incomplete",
            logged.incomplete
        ));
    }
    let incomplete = format!("incomplete: {}", logged.incomplete);
    let names = [
        "the shipper's replay",
        "the replay at the end",
        "the second replay",
    ];
    // While Redis's clock is behind, a replay refuses what is ahead of it; a later one
    // stores it.
    let has_jumped = findings
        .faults
        .keys()
        .any(|fault| fault.starts_with("clock"));
    for (number, (name, report)) in names.into_iter().zip(&findings.replays).enumerate() {
        let refused = match has_jumped && number == 0 {
            true => report.of("too old"),
            false => 0,
        };
        let mut failures = report.failures();
        failures.retain(|failure| {
            let is_no_batch = |name: &&str| failure.starts_with(*name);
            *failure != incomplete
                && !["unreadable: ", "refused: "].iter().any(is_no_batch)
                && (refused == 0 || !failure.starts_with("too old"))
        });
        // Of a line that was cut off, a replay may see nothing.
        let no_batches = report.of("unreadable") + report.of("refused");
        let (forged, torn) = (logged.forged, logged.torn);
        let what = format!("{name}: lines that are no batches");
        check(&mut wrong, &what, no_batches, (forged, forged + torn));
        if !failures.is_empty() {
            wrong.push(format!("{name} says {}", failures.join(", ")));
        }
        let (stored, batches) = (report.stored(), logged.batches - refused);
        if stored != batches {
            wrong.push(format!(
                "{name} stored {stored} of {batches} logged batches"
            ));
        }
    }
    let again = findings.replays[2].of("applied");
    if again != 0 {
        wrong.push(format!(
            "the second replay applied {again} batches once more"
        ));
    }
    wrong
}

/// Checks the series that each reader serves. What faults took away within an epoch it may
/// serve still, as far as it had served it before.
fn judge_readers(findings: &Findings) -> Vec<String> {
    let mut wrong = Vec::new();
    for watched in &findings.watched {
        let name = &watched.name;
        let (examples, count) = &watched.steps_back;
        if *count > 0 {
            wrong.push(format!("{count} steps back on the {name}: {examples:?}"));
        }
        let served = match name == RELAY {
            true => watched.of_relay(),
            false => watched.last.clone(),
        };
        for (series, &(stored, held)) in &findings.stored {
            let shown = served.get(series).copied();
            let is_right = shown.is_some_and(|shown| match findings.plan.fsync {
                Fsync::Always => stored as f64 <= shown && shown <= (stored + held.max(0)) as f64,
                // The exporter still serves what Redis forgot.
                Fsync::Everysec => shown >= stored as f64,
            });
            if !is_right {
                wrong.push(format!(
                    "the {name} shows {shown:?} for {series}, not {stored} or up to {held} more"
                ));
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, iter::repeat_n, time::Duration};

    use functional_scaffold_protocol::catalog::ExecutionStatus::{
        Crashed, Failed, InvalidInput, Success,
    };

    use super::*;
    use crate::{
        contents::Cells,
        doubt::Events,
        ledger::Passed,
        load::{Entry, Kind, Outcome, Requests},
        log::Report,
        plan::{AppKind, Plan, Schedule},
        watcher::{Resets, Watched},
    };

    const APP: AppKind = AppKind::Service;

    /// 50 calm responses of each kind. Of the deadly ones 100 successes, 20 refusals and
    /// 10 failures, of which 7, 2 and 1 were in doubt before a death; 5, 1 and 1 without
    /// a response; and 4 traps.
    fn requests() -> Requests {
        let mut requests = Requests::default();
        let mut add = |phase, kind, count, sent, outcome| {
            let sent = Duration::from_millis(sent);
            let ended = sent + Duration::from_millis(5);
            let entry = Entry {
                phase,
                kind,
                sent,
                ended,
                outcome,
            };
            requests.entries.extend(repeat_n(entry, count));
        };
        let response = |instance| Outcome::Response { instance };
        for (kind, count, in_doubt, missing) in [
            (Kind::Success, 100, 7, 5),
            (Kind::Refusal, 20, 2, 1),
            (Kind::Failure, 10, 1, 1),
        ] {
            add(Phase::Calm, kind, 50, 0, response(1));
            add(Phase::Deadly, kind, count - in_doubt, 5_000, response(2));
            add(Phase::Deadly, kind, in_doubt, 9_980, response(3));
            add(Phase::Deadly, kind, missing, 9_998, Outcome::HostError);
        }
        for number in 0..4 {
            let sent = 10_000 + 1_000 * number;
            add(Phase::Deadly, Kind::Trap, 1, sent, Outcome::HostError);
        }
        requests
    }

    /// All responses are counted, and the traps as crashed. Six leases are not known to be
    /// stored: of the four that are open one is in the log and one in a batch without a
    /// reply; two more may have been taken.
    fn right(durability: Durability) -> Findings {
        let open = Passed {
            is_acknowledged: true,
            ..Passed::default()
        };
        let in_doubt = Passed {
            may_be_stored: true,
            ..open
        };
        let sent = Passed {
            is_sent: true,
            ..Passed::default()
        };
        let passed = [
            ("a", open),
            ("b", open),
            ("c", open),
            ("d", in_doubt),
            ("e", sent),
        ];
        let requests = requests();
        let mut findings = Findings {
            plan: Plan {
                app: APP,
                seed: 1,
                seconds: 1,
                durability,
                fsync: Fsync::Always,
                rate: 1,
                schedule: Schedule::Basic,
                shards: None,
            },
            runtime: "",
            faults: BTreeMap::new(),
            expected: Expected::of(APP, &requests.entries, &Events::default(), durability),
            requests,
            counted: Counted::default(),
            stored: BTreeMap::new(),
            taken: Taken::default(),
            broken: 0,
            astray: 0,
            batches: Batches::default(),
            leases: Leases {
                acknowledged: 280,
                passed: passed.map(|(id, passed)| (id.to_owned(), passed)).into(),
            },
            unsettled: (2, 0),
            logged: Logged {
                batches: 2,
                leases: ["c", "z"].map(str::to_owned).into(),
                unleased: 10,
                ..Logged::default()
            },
            replays: [
                "applied: 2\n",
                "already applied: 2\n",
                "already applied: 2\n",
            ]
            .map(Report::parse),
            watched: vec![Watched::named("exporter 1")],
            dropped_bytes: 0,
        };
        match durability {
            Durability::Batched => findings.leases = Leases::default(),
            Durability::Exact => findings.counted.unleased = 10,
            Durability::Strict => findings.leases.acknowledged = 284,
        }
        for (status, calm, deadly) in [
            (Success, 50, 100),
            (InvalidInput, 50, 20),
            (Failed, 50, 10),
            (
                Crashed,
                0,
                if durability == Durability::Batched {
                    0
                } else {
                    4
                },
            ),
        ] {
            add(&mut findings, Phase::Calm, status, calm);
            add(&mut findings, Phase::Deadly, status, deadly);
        }
        findings
    }

    /// Adds to the counts of an execution and its request, as Redis does.
    fn add(findings: &mut Findings, phase: Phase, status: ExecutionStatus, by: i64) {
        let counted = &mut findings.counted;
        match status {
            Crashed => counted.settled += by,
            _ => counted.observed = counted.observed.map(|count| count + by),
        }
        for series in [
            APP.execution_series(status),
            APP.request_series(phase, code_of(status)),
        ] {
            let count = counted.series.entry(series.clone()).or_default();
            *count += by;
            findings.watched[0]
                .last
                .insert(series.clone(), *count as f64);
            findings.stored.insert(series, (*count, 0));
        }
    }

    fn shift(findings: &mut Findings, counts: [(ExecutionStatus, i64); 2]) {
        for (status, by) in counts {
            add(findings, Phase::Deadly, status, by);
        }
    }

    /// Adds five leases that no batch releases.
    fn open_leases(findings: &mut Findings) {
        let open = findings.leases.passed["a"];
        let ids = (0..5).map(|number| format!("open/{number}"));
        findings.leases.passed.extend(ids.map(|id| (id, open)));
    }

    type Change = fn(&mut Findings);

    #[test]
    fn counts_within_the_promise_are_right() {
        let changes: [Change; 11] = [
            |_| {},
            // A fault took leases, and so nothing counts their executions.
            |findings| {
                open_leases(findings);
                let ids = findings.leases.passed.keys().cloned();
                findings.taken.leases.extend(ids);
            },
            // Readers still serve a part of what a fault took.
            |findings| {
                findings.stored.values_mut().for_each(|stored| stored.1 = 2);
                let shown = findings.watched[0].last.values_mut();
                shown.for_each(|count| *count += 1.0);
            },
            // Redis's clock was behind when the shipper replayed a batch.
            |findings| {
                findings.faults.insert("clock behind", 1);
                findings.replays[0] = Report::parse("applied: 1\ntoo old: 1\n");
            },
            // A fault made a result late that is in no log.
            |findings| {
                (findings.counted.late, findings.expected.late) = (3, 1);
                shift(findings, [(Success, -3), (Crashed, 3)]);
            },
            // One of two that were sent in part was rejected.
            |findings| {
                findings.broken = 2;
                let series = APP.request_series(Phase::Deadly, 400);
                findings.counted.series.insert(series, 1);
                findings.counted.observed[0] += 1;
            },
            // One of two to a route that does not exist is counted; forged lines are left
            // out, and one of them that was cut off.
            |findings| {
                findings.astray = 2;
                let series = APP.request_series(Phase::Calm, 404);
                findings.counted.series.insert(series, 1);
                findings.counted.observed[0] += 1;
                findings.faults.insert("kill the runtime", 1);
                (findings.logged.forged, findings.logged.torn) = (4, 1);
                findings.replays[1] = Report::parse("already applied: 2\nrefused: 4\n");
                for index in [0, 2] {
                    let text = "already applied: 2\nunreadable: 2\nrefused: 3\n";
                    findings.replays[index] = Report::parse(text);
                }
            },
            // Those in doubt crashed; one without a response had ended before.
            |findings| {
                let open = findings.leases.passed["a"];
                findings.leases.passed.insert("x".to_owned(), open);
                shift(findings, [(Success, -1), (Crashed, 1)]);
            },
            |findings| shift(findings, [(Success, 5), (InvalidInput, 1)]),
            // A late result is counted as crashed.
            |findings| {
                findings.counted.late = 1;
                shift(findings, [(Success, -1), (Crashed, 1)]);
            },
            // The exporter still serves what Redis forgot.
            |findings| {
                findings.plan.fsync = Fsync::Everysec;
                findings.watched[0]
                    .last
                    .values_mut()
                    .for_each(|count| *count += 1.0);
            },
        ];
        for change in changes {
            let mut findings = right(Durability::Exact);
            change(&mut findings);
            assert_eq!(judge(&findings), [""; 0]);
        }
        // Without leases those in doubt are lost.
        let mut findings = right(Durability::Batched);
        shift(&mut findings, [(Success, -7), (InvalidInput, -2)]);
        assert_eq!(judge(&findings), [""; 0]);
    }

    #[test]
    fn every_broken_promise_is_named() {
        let success = APP.execution_series(Success);
        let failed = APP.execution_series(Failed);
        let calm = APP.request_series(Phase::Calm, 422);
        let changes: &[(&str, &str, Change)] = &[
            // A lost and a doubled count, in each phase.
            (&success, "1 fewer", |f| {
                shift(f, [(Success, -8), (Crashed, 8)])
            }),
            (&success, "1 more", |f| {
                shift(f, [(Success, 6), (Crashed, 0)])
            }),
            (&failed, "1 fewer", |f| {
                shift(f, [(Failed, -2), (Crashed, 2)])
            }),
            (&failed, "1 more", |f| shift(f, [(Failed, 2), (Crashed, 0)])),
            (&calm, "1 fewer", |f| add(f, Phase::Calm, InvalidInput, -1)),
            (&calm, "1 more", |f| add(f, Phase::Calm, InvalidInput, 1)),
            // One in doubt is just gone; one is counted as its result and as crashed.
            ("all executions", "1 fewer", |f| {
                shift(f, [(Success, -1), (Crashed, 0)])
            }),
            ("crashes beside", "1 more", |f| {
                shift(f, [(Success, 5), (Crashed, 13)])
            }),
            // A lost lease, and one that is counted twice.
            ("crashes by leases", "1 fewer", |f| {
                shift(f, [(Success, 3), (Crashed, -3)])
            }),
            ("crashes by leases", "1 more", |f| {
                shift(f, [(Success, -1), (Crashed, 1)])
            }),
            ("executions by leases", "5 fewer", |f| {
                f.leases.acknowledged += 9
            }),
            ("executions by leases", "2 more", |f| {
                f.counted.unleased -= 9
            }),
            ("unleased executions", "5 more", |f| f.counted.unleased += 5),
            ("1 of 2 unsettled leases", "", |f| f.unsettled.1 = 1),
            // Counts that belong together.
            ("settled leases", "", |f| f.counted.settled += 1),
            ("request durations", "", |f| f.counted.observed[0] += 1),
            ("execution durations", "", |f| f.counted.observed[1] -= 1),
            ("open leases", "", |f| f.counted.open_leases = 1),
            ("requests 200", "", |f| {
                *f.counted
                    .series
                    .entry(APP.request_series(Phase::Calm, 200))
                    .or_default() += 1;
            }),
            ("all requests", "", |f| {
                f.counted
                    .series
                    .insert(APP.request_series(Phase::Calm, 404), 1);
            }),
            // Log, replays and exporter.
            ("1 lines of the log are torn", "", |f| f.logged.torn = 1),
            ("3 results are late", "", |f| f.counted.late = 3),
            ("the shipper's replay stored 1 of 2", "", |f| {
                f.replays[0] = Report::parse("applied: 1\n");
            }),
            ("the replay at the end says too old: 1", "", |f| {
                f.replays[1] = Report::parse("applied: 2\ntoo old: 1\n");
            }),
            ("the second replay applied 1", "", |f| {
                f.replays[2] = Report::parse("applied: 1\nalready applied: 1\n");
            }),
            ("1 steps back", "", |f| {
                for count in [2, 1] {
                    let text = format!("# TYPE a_total counter\na_total {count}\n");
                    f.watched[0].compare(&text, Duration::ZERO, &Resets::default());
                }
            }),
            ("the exporter 1 shows", "", |f| {
                f.watched[0]
                    .last
                    .values_mut()
                    .for_each(|count| *count += 1.0);
            }),
            ("the exporter 1 shows", "or up to 2 more", |f| {
                f.stored.values_mut().for_each(|stored| stored.1 = 2);
                f.watched[0]
                    .last
                    .values_mut()
                    .for_each(|count| *count += 3.0);
            }),
            ("1 steps back on the relay", "", |f| {
                let mut relay = Watched::named(RELAY);
                relay.steps_back.1 = 1;
                f.watched.push(relay);
            }),
            ("the relay shows None", "", |f| {
                f.watched.push(Watched::named(RELAY))
            }),
            (
                "the replay at the end: lines that are no batches: 1",
                "1 more",
                |f| {
                    f.replays[1] = Report::parse("applied: 2\nunreadable: 1\n");
                },
            ),
            (
                "the second replay: lines that are no batches: 0",
                "1 fewer",
                |f| {
                    f.logged.forged = 1;
                },
            ),
            ("the batch a-1 was applied twice", "", |f| {
                f.batches.twice.push("a-1".into())
            }),
            // A request that was sent in part is counted once at the most.
            ("rejected requests: 3 counted", "1 more", |f| {
                f.broken = 2;
                for (phase, code) in [
                    (Phase::Calm, 400),
                    (Phase::Deadly, 408),
                    (Phase::Deadly, 400),
                ] {
                    f.counted.series.insert(APP.request_series(phase, code), 1);
                    f.counted.observed[0] += 1;
                }
            }),
            // A fault took none of the leases that were not counted.
            ("crashes by leases", "3 fewer", |f| {
                open_leases(f);
                f.taken.leases.insert("z".into());
            }),
            ("1 responses that do not belong", "", |f| {
                f.requests.unexpected.1 = 1
            }),
        ];
        for (name, words, change) in changes {
            let mut findings = right(Durability::Exact);
            change(&mut findings);
            let wrong = judge(&findings);
            let mut named = wrong.iter().filter(|text| text.starts_with(name));
            assert!(
                named.any(|text| text.contains(words)),
                "{name} {words}: {wrong:?}"
            );
        }
        // In strict mode not even a response before a death is in doubt.
        assert_eq!(judge(&right(Durability::Strict)), [""; 0]);
        let strict: [(&str, Change); 3] = [
            ("1 fewer", |f| shift(f, [(Success, -1), (Crashed, 1)])),
            ("1 fewer", |f| {
                (f.counted.late, f.logged.leases) = (1, ["x".to_owned()].into());
                shift(f, [(Success, -1), (Crashed, 1)]);
            }),
            ("unleased executions: 1 counted", |f| f.counted.unleased = 1),
        ];
        for (words, change) in strict {
            let mut findings = right(Durability::Strict);
            change(&mut findings);
            let wrong = judge(&findings);
            assert!(wrong.iter().any(|text| text.contains(words)), "{wrong:?}");
        }
        let mut findings = right(Durability::Batched);
        add(&mut findings, Phase::Deadly, Crashed, 1);
        let wrong = judge(&findings);
        let crashes = format!("{}: 1 counted, 1 more", APP.execution_series(Crashed));
        assert!(
            wrong.iter().any(|text| text.starts_with(&crashes)),
            "{wrong:?}"
        );
    }

    /// Judges the same run of a metered app, which counts requests alone, after these
    /// changes to its cells.
    fn judge_metered(changes: &[(&str, &str, i64)]) -> Vec<String> {
        let app = AppKind::Metered;
        let mut findings = right(Durability::Exact);
        let counted = &findings.counted;
        let mut cells = Cells::new();
        let mut add = |name: &str, field: &str, by| {
            let cell = (format!("metrics:{name}"), field.to_owned());
            *cells.entry(cell).or_default() += by;
        };
        add("request_latency", "+Inf", counted.observed[0]);
        add("settled_counter", "", counted.settled);
        add("unleased_counter", "", counted.unleased);
        for (phase, code) in Phase::ALL
            .into_iter()
            .flat_map(|phase| [200, 422, 500].map(|code| (phase, code)))
        {
            let series = app.request_series(phase, code);
            let labels = series.split(['{', '}']).nth(1).expect("labels");
            add(
                "request_counter",
                labels,
                counted.of(&APP.request_series(phase, code)),
            );
        }
        for (name, field, by) in changes {
            add(name, field, *by);
        }
        let entries = &findings.requests.entries;
        findings.expected = Expected::of(app, entries, &Events::default(), Durability::Exact);
        findings.counted = Counted::of_cells(app, &cells, 0);
        findings.stored.clear();
        judge(&findings)
    }

    #[test]
    fn a_metered_app_is_judged_by_its_requests_and_leases() {
        let error = r#"code="500",endpoint="/invoke",method="POST",status="error""#;
        let (count, settled) = ("request_counter", "settled_counter");
        assert_eq!(judge_metered(&[]), [""; 0]);
        // A lease is settled and its request not counted; traps are not counted at all; a
        // response without a duration.
        let wrong = judge_metered(&[(count, error, -2)]).concat();
        assert!(
            wrong.contains(r#"executions{status="failed"}: 58 counted, 1 fewer"#),
            "{wrong}"
        );
        let wrong = judge_metered(&[(count, error, -3), (settled, "", -3)]).concat();
        assert!(
            wrong.contains("crashes by leases: 1 counted, 1 fewer"),
            "{wrong}"
        );
        let wrong = judge_metered(&[("request_latency", "+Inf", -1)]).concat();
        assert!(wrong.contains("request durations: 279, but"), "{wrong}");
    }
}
