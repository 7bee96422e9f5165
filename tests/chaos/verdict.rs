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
//! - No series steps back on the exporter.

use std::{collections::BTreeMap, fmt};

use functional_scaffold_protocol::catalog::ExecutionStatus;
use functional_scaffold_testkit::redis::RedisServer;

use crate::{
    doubt::{Bounds, Expected},
    load::{Outcome, Requests, UNAVAILABLE, code_of, execution_series, request_series},
    log::{Logged, Report},
    plan::{Durability, Fsync, Phase, Plan},
    proxy::Leases,
    watcher::Watched,
};

#[derive(Debug)]
pub(crate) struct Findings {
    pub(crate) plan: Plan,
    pub(crate) faults: BTreeMap<&'static str, usize>,
    pub(crate) requests: Requests,
    pub(crate) expected: Expected,
    pub(crate) counted: Counted,
    pub(crate) leases: Leases,
    /// The leases whose results no batch contains, and how many of them were never
    /// settled.
    pub(crate) unsettled: (usize, usize),
    pub(crate) logged: Logged,
    /// The replays during the run, at its end, and once more.
    pub(crate) replays: [Report; 3],
    pub(crate) watched: Watched,
    pub(crate) dropped_bytes: u64,
}

/// All counts in Redis, read without the exporter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    /// By series of `http_requests_total` and `algorithm_executions_total`, those that
    /// are not 0.
    pub(crate) series: BTreeMap<String, i64>,
    /// The observations in both histograms.
    pub(crate) observed: [i64; 2],
    pub(crate) unleased: i64,
    pub(crate) late: i64,
    pub(crate) settled: i64,
    /// `functional_scaffold_flush_failures_total`, by outcome.
    pub(crate) flush_failures: BTreeMap<String, i64>,
    pub(crate) open_leases: i64,
}

impl Counted {
    pub(crate) fn read(redis: &RedisServer) -> anyhow::Result<Self> {
        let sum = |key: &str| anyhow::Ok(redis.cells(key)?.values().sum());
        let observed = |key: &str| {
            // The buckets, beside `<labels>|sum` and its carry.
            let cells = redis.cells(key)?.into_iter();
            let buckets = cells
                .filter(|(field, _)| !field.ends_with("|sum") && !field.ends_with("|sum_carry"));
            anyhow::Ok(buckets.map(|(_, count)| count).sum())
        };
        let mut series = BTreeMap::new();
        for (key, name) in [
            ("metrics:request_counter", "http_requests_total"),
            ("metrics:algorithm_counter", "algorithm_executions_total"),
        ] {
            let cells = redis.cells(key)?.into_iter();
            series.extend(cells.map(|(labels, count)| (format!("{name}{{{labels}}}"), count)));
        }
        Ok(Self {
            series,
            observed: [
                observed("metrics:request_latency")?,
                observed("metrics:algorithm_latency")?,
            ],
            unleased: sum("metrics:unleased_counter")?,
            late: sum("metrics:late_counter")?,
            settled: sum("metrics:settled_counter")?,
            flush_failures: redis.cells("metrics:flush_counter")?,
            open_leases: redis.call(&["ZCARD", "metrics:leases"])?,
        })
    }

    fn of(&self, series: &str) -> i64 {
        self.series.get(series).copied().unwrap_or_default()
    }

    fn executions(&self, status: ExecutionStatus) -> i64 {
        self.of(&execution_series(status))
    }

    fn requests(&self, code: u16) -> i64 {
        Phase::ALL
            .map(|phase| self.of(&request_series(phase, code)))
            .iter()
            .sum()
    }

    fn all(&self, family: &str) -> i64 {
        let series = self
            .series
            .iter()
            .filter(|(name, _)| name.starts_with(family));
        series.map(|(_, count)| count).sum()
    }
}

/// Everything that is wrong, one sentence each. Empty if the promise was kept.
pub(crate) fn judge(findings: &Findings) -> Vec<String> {
    let durability = findings.plan.durability;
    let (counted, expected) = (&findings.counted, &findings.expected);
    let mut wrong = judge_sums(counted);
    wrong.extend(judge_series(expected, counted, durability));
    if findings.plan.fsync == Fsync::Always {
        wrong.extend(judge_leases(
            &findings.leases,
            &findings.logged,
            counted,
            durability,
        ));
        let (unsettled, lost) = findings.unsettled;
        if lost > 0 {
            wrong.push(format!(
                "{lost} of {unsettled} unsettled leases did not run out"
            ));
        }
    }
    wrong.extend(judge_log(findings));
    wrong.extend(judge_exporter(findings));
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
fn judge_sums(counted: &Counted) -> Vec<String> {
    use ExecutionStatus::{Crashed, Failed, InvalidInput, Success};
    let [success, invalid, failed, crashed] =
        [Success, InvalidInput, Failed, Crashed].map(|status| counted.executions(status));
    let ended = success + invalid + failed;
    let codes = [200, 422, 500, UNAVAILABLE].map(|code| counted.requests(code));
    let unavailable = codes[3];
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
            "results and 503",
            ended + unavailable,
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
            counted.all("algorithm_executions_total"),
            "those of known status",
            ended + crashed,
        ),
        (
            "all requests",
            counted.all("http_requests_total"),
            "those of known codes",
            codes.iter().sum(),
        ),
    ];
    let differ = pairs
        .into_iter()
        .filter(|(_, count, _, other)| count != other);
    differ
        .map(|(what, count, than, other)| format!("{what}: {count}, but {than}: {other}"))
        .collect()
}

/// The invariant: counted = responses ± in doubt, by series.
fn judge_series(expected: &Expected, counted: &Counted, durability: Durability) -> Vec<String> {
    let mut wrong = Vec::new();
    let crashed = execution_series(ExecutionStatus::Crashed);
    let code = code_of(ExecutionStatus::Crashed);
    let with_crashes = Phase::ALL.map(|phase| request_series(phase, code));
    for (series, bounds) in &expected.series {
        let late = counted.late;
        let (least, most) = if *series == crashed || with_crashes.contains(series) {
            (bounds.least, bounds.most + late)
        } else if durability == Durability::Strict {
            // A late result is withheld.
            (bounds.least, bounds.most)
        } else {
            (bounds.least - late, bounds.most)
        };
        check(&mut wrong, series, counted.of(series), (least, most));
    }
    // A request in doubt that is counted as its result must not be counted as crashed.
    let results = expected.series.iter().filter(|(series, _)| {
        series.starts_with("algorithm_executions_total") && **series != crashed
    });
    let doubtful = results.map(|(series, bounds)| (counted.of(series) - bounds.responses).max(0));
    let Bounds { most, .. } = expected.series[&crashed];
    let most = (most - doubtful.sum::<i64>()).max(0) + counted.late;
    let what = "crashes beside results in doubt";
    check(&mut wrong, what, counted.of(&crashed), (0, most));
    let Bounds { least, most, .. } = expected.executions;
    let executions = counted.all("algorithm_executions_total");
    check(&mut wrong, "all executions", executions, (least, most));
    let Bounds { least, most, .. } = expected.requests;
    // A 503 whose lease has expired is counted as a crash, too.
    let most = most + counted.late;
    let requests = counted.all("http_requests_total");
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
/// must be counted as crashed.
pub(crate) fn unsettled<'a>(
    leases: &'a Leases,
    logged: &'a Logged,
) -> impl Iterator<Item = &'a String> {
    let passed = leases.passed.iter().filter(|(id, passed)| {
        passed.is_acknowledged
            && !passed.is_stored
            && !passed.may_be_stored
            && !logged.leases.contains(*id)
    });
    passed.map(|(id, _)| id)
}

/// Whether Redis never settled a lease.
pub(crate) fn is_lost(redis: &RedisServer, lease: &str) -> anyhow::Result<bool> {
    let closed: Option<String> = redis.call(&["ZSCORE", "metrics:closed_leases", lease])?;
    Ok(closed.is_none())
}

fn judge_leases(
    leases: &Leases,
    logged: &Logged,
    counted: &Counted,
    durability: Durability,
) -> Vec<String> {
    let mut wrong = Vec::new();
    let in_doubt = leases.in_doubt();
    if durability == Durability::Batched {
        check(&mut wrong, "leases", leases.acknowledged + in_doubt, (0, 0));
        check(&mut wrong, "unleased executions", counted.unleased, (0, 0));
        return wrong;
    }
    let crashed = counted.executions(ExecutionStatus::Crashed);
    let least = unsettled(leases, logged).count() as i64;
    let may_crash = leases.passed.iter().filter(|(id, passed)| {
        let is_taken = passed.is_acknowledged || passed.is_sent;
        is_taken && !passed.is_stored && !logged.leases.contains(*id)
    });
    let most = may_crash.count() as i64 + counted.late;
    check(&mut wrong, "crashes by leases", crashed, (least, most));
    let executions = counted.all("algorithm_executions_total");
    // A lease that was late in strict mode is closed with the count of a 503.
    let least = leases.acknowledged - counted.requests(UNAVAILABLE);
    let most = leases.acknowledged + in_doubt + counted.unleased;
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

/// Checks the log and its replays. A late result can only come from the log, because no
/// execution here takes longer than its lease.
fn judge_log(findings: &Findings) -> Vec<String> {
    let mut wrong = Vec::new();
    let (logged, late) = (&findings.logged, findings.counted.late);
    let leased = logged.leases.len() as i64;
    if late > leased {
        wrong.push(format!(
            "{late} results are late, but the log has only {leased} executions"
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
    let known = [
        format!("unreadable: {}", logged.torn),
        format!("incomplete: {}", logged.incomplete),
    ];
    let names = [
        "the shipper's replay",
        "the replay at the end",
        "the second replay",
    ];
    for (name, report) in names.into_iter().zip(&findings.replays) {
        let mut failures = report.failures();
        failures.retain(|failure| !known.contains(failure));
        if !failures.is_empty() {
            wrong.push(format!("{name} says {}", failures.join(", ")));
        }
        let (stored, batches) = (report.stored(), logged.batches);
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

fn judge_exporter(findings: &Findings) -> Vec<String> {
    let mut wrong = Vec::new();
    let (examples, count) = &findings.watched.steps_back;
    if *count > 0 {
        wrong.push(format!("{count} steps back on the exporter: {examples:?}"));
    }
    for (series, &counted) in &findings.counted.series {
        let shown = findings.watched.last.get(series).copied();
        let is_right = shown.is_some_and(|shown| match findings.plan.fsync {
            Fsync::Always => shown == counted as f64,
            // The exporter still serves what Redis forgot.
            Fsync::Everysec => shown >= counted as f64,
        });
        if !is_right {
            wrong.push(format!(
                "the exporter shows {shown:?} for {series}, not {counted}"
            ));
        }
    }
    wrong
}

impl fmt::Display for Findings {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |items: Vec<String>| items.join(", ");
        let Plan {
            seed,
            seconds,
            rate,
            ..
        } = self.plan;
        let (durability, fsync) = (self.plan.durability.name(), self.plan.fsync.name());
        let faults = self
            .faults
            .iter()
            .map(|(name, count)| format!("{name} {count}"));
        let requests = |outcome: Outcome| {
            let entries = self.requests.entries.iter();
            entries.filter(|entry| entry.outcome == outcome).count()
        };
        let Expected {
            executions,
            requests: all,
            fatal,
            ..
        } = &self.expected;
        let Counted {
            unleased,
            late,
            settled,
            flush_failures,
            ..
        } = &self.counted;
        let failures = flush_failures
            .iter()
            .map(|(outcome, count)| format!("{outcome} {count}"));
        let Logged {
            batches,
            leases,
            incomplete,
            torn,
            unleased: traces,
            ..
        } = &self.logged;
        let [shipped, first, second] = self.replays.each_ref().map(|report| report.of("applied"));
        for (name, text) in [
            (
                "run",
                format!(
                    "seed {seed}, {seconds} s, {durability}, appendfsync {fsync}, \
                     at most {rate} requests a second"
                ),
            ),
            ("faults", list(faults.collect())),
            (
                "requests",
                format!(
                    "sent {}, results {}, 503 {}, of the host alone {}, none {}, not sent {}",
                    executions.most,
                    executions.responses,
                    all.responses - executions.responses,
                    requests(Outcome::HostError),
                    requests(Outcome::NoResponse),
                    requests(Outcome::Refused),
                ),
            ),
            (
                "executions",
                format!(
                    "unleased {unleased} (in the log {traces}), late {late}; sent to crash {}, \
                     of which at least {} did under a lease",
                    fatal.0, fatal.1
                ),
            ),
            (
                "leases",
                format!(
                    "taken {}, in doubt {}; unsettled {}, ran out {settled}",
                    self.leases.acknowledged,
                    self.leases.in_doubt(),
                    self.unsettled.0,
                ),
            ),
            (
                "flushes",
                format!(
                    "{}; {} bytes of replies dropped",
                    list(failures.collect()),
                    self.dropped_bytes
                ),
            ),
            (
                "log",
                format!(
                    "{batches} batches with {} leased executions, {incomplete} incomplete, \
                     {torn} torn lines",
                    leases.len(),
                ),
            ),
            (
                "replayed",
                format!("{shipped} during the run, {first} at its end, {second} once more"),
            ),
            (
                "exporter",
                format!(
                    "{} scrapes, {} steps back, {} in Redis held up",
                    self.watched.scrapes,
                    self.watched.steps_back.1,
                    self.watched.regressions()
                ),
            ),
        ] {
            writeln!(out, "{name:<11} {text}")?;
        }
        let titles = ["counted", "responses", "least", "most"].map(|title| format!(" {title:>9}"));
        writeln!(out, "  {:<93}{}", "series", titles.concat())?;
        for (series, bounds) in &self.expected.series {
            let counted = self.counted.of(series);
            let numbers = [counted, bounds.responses, bounds.least, bounds.most];
            let numbers = numbers.map(|number| format!(" {number:>9}"));
            writeln!(out, "  {series:<93}{}", numbers.concat())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{iter::repeat_n, time::Duration};

    use functional_scaffold_protocol::catalog::ExecutionStatus::{
        Crashed, Failed, InvalidInput, Success,
    };

    use super::*;
    use crate::{
        doubt::Events,
        load::{Entry, Kind},
        proxy::Passed,
    };

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
                seed: 1,
                seconds: 1,
                durability,
                fsync: Fsync::Always,
                rate: 1,
            },
            faults: BTreeMap::new(),
            expected: Expected::of(&requests.entries, &Events::default(), durability),
            requests,
            counted: Counted::default(),
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
            watched: Watched::default(),
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
            execution_series(status),
            request_series(phase, code_of(status)),
        ] {
            let count = counted.series.entry(series.clone()).or_default();
            *count += by;
            findings.watched.last.insert(series, *count as f64);
        }
    }

    fn shift(findings: &mut Findings, counts: [(ExecutionStatus, i64); 2]) {
        for (status, by) in counts {
            add(findings, Phase::Deadly, status, by);
        }
    }

    type Change = fn(&mut Findings);

    #[test]
    fn counts_within_the_promise_are_right() {
        let changes: [Change; 5] = [
            |_| {},
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
                findings
                    .watched
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
        let success = execution_series(Success);
        let failed = execution_series(Failed);
        let calm = request_series(Phase::Calm, 422);
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
                    .entry(request_series(Phase::Calm, 200))
                    .or_default() += 1;
            }),
            ("all requests", "", |f| {
                f.counted.series.insert(request_series(Phase::Calm, 404), 1);
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
                    f.watched.compare(&text, Duration::ZERO);
                }
            }),
            ("the exporter shows", "", |f| {
                f.watched.last.values_mut().for_each(|count| *count += 1.0);
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
        let crashes = format!("{}: 1 counted, 1 more", execution_series(Crashed));
        assert!(
            wrong.iter().any(|text| text.starts_with(&crashes)),
            "{wrong:?}"
        );
    }
}
