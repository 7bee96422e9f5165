//! What a run has found: the client's responses, the counts in Redis, and all that
//! explains a difference.

use std::{collections::BTreeMap, fmt};

use functional_scaffold_protocol::catalog::ExecutionStatus;

use crate::{
    contents::{Cells, Contents, Taken},
    doubt::Expected,
    ledger::{Batches, Leases},
    load::{Outcome, Requests, UNAVAILABLE, code_of},
    log::{Logged, Report},
    plan::{AppKind, Phase, Plan},
    watcher::Watched,
};

#[derive(Debug)]
pub(crate) struct Findings {
    pub(crate) plan: Plan,
    /// The name of the runtime.
    pub(crate) runtime: &'static str,
    pub(crate) faults: BTreeMap<&'static str, usize>,
    pub(crate) requests: Requests,
    pub(crate) expected: Expected,
    /// The counts, with those that faults took away.
    pub(crate) counted: Counted,
    /// By series, what Redis holds, and what was taken from it and is served still.
    pub(crate) stored: BTreeMap<String, (i64, i64)>,
    pub(crate) taken: Taken,
    /// The number of requests of which the client sent only a part.
    pub(crate) broken: i64,
    /// The number of requests to a route that does not exist.
    pub(crate) astray: i64,
    pub(crate) batches: Batches,
    pub(crate) leases: Leases,
    /// The leases whose results no batch contains, and how many of them were never
    /// settled.
    pub(crate) unsettled: (usize, usize),
    pub(crate) logged: Logged,
    /// The replays during the run, at its end, and once more.
    pub(crate) replays: [Report; 3],
    pub(crate) watched: Vec<Watched>,
    pub(crate) dropped_bytes: u64,
}

/// All counts in Redis, read without the exporter.
///
/// A metered app has no families of executions. There each request is an execution, but
/// for those that got a 503; one whose lease expired crashed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) app: AppKind,
    /// By series of `http_requests_total` and [`AppKind::executions`].
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
    /// The counts in these cells.
    pub(crate) fn of_cells(app: AppKind, cells: &Cells, open_leases: usize) -> Self {
        let of = |name: &'static str| {
            let cells = cells.iter().filter(move |((key, _), _)| key == name);
            cells.map(|((_, field), count)| (field.as_str(), *count))
        };
        let sum = |key| of(key).map(|(_, count)| count).sum();
        let observed = |key| {
            // The buckets, beside `<labels>|sum` and its carry.
            let buckets = of(key)
                .filter(|(field, _)| !field.ends_with("|sum") && !field.ends_with("|sum_carry"));
            buckets.map(|(_, count)| count).sum()
        };
        let failures = of("metrics:flush_counter").filter(|(_, count)| *count != 0);
        let mut counted = Self {
            app,
            series: series_of(cells),
            observed: [
                observed("metrics:request_latency"),
                observed("metrics:algorithm_latency"),
            ],
            unleased: sum("metrics:unleased_counter"),
            late: sum("metrics:late_counter"),
            settled: sum("metrics:settled_counter"),
            flush_failures: failures
                .map(|(labels, count)| (labels.to_owned(), count))
                .collect(),
            open_leases: open_leases as i64,
        };
        if app == AppKind::Metered {
            counted.derive_executions();
        }
        counted
    }

    fn derive_executions(&mut self) {
        for status in ExecutionStatus::ALL {
            let requests = self.requests(code_of(status));
            let executions = match status {
                ExecutionStatus::Success | ExecutionStatus::InvalidInput => requests,
                ExecutionStatus::Failed => requests - self.settled,
                ExecutionStatus::Crashed => self.settled,
            };
            let series = self.app.execution_series(status);
            self.series.insert(series, executions);
        }
        self.observed[1] = self.observed[0] - self.requests(UNAVAILABLE);
    }

    pub(crate) fn of_contents(app: AppKind, contents: &Contents) -> Self {
        Self::of_cells(app, &contents.cells, contents.open.len())
    }

    pub(crate) fn of(&self, series: &str) -> i64 {
        self.series.get(series).copied().unwrap_or_default()
    }

    pub(crate) fn executions(&self, status: ExecutionStatus) -> i64 {
        self.of(&self.app.execution_series(status))
    }

    pub(crate) fn requests(&self, code: u16) -> i64 {
        Phase::ALL
            .map(|phase| self.of(&self.app.request_series(phase, code)))
            .iter()
            .sum()
    }

    pub(crate) fn all(&self, family: &str) -> i64 {
        let series = self
            .series
            .iter()
            .filter(|(name, _)| name.starts_with(family));
        series.map(|(_, count)| count).sum()
    }
}

/// The series of `http_requests_total` and `algorithm_executions_total` that are not 0.
pub(crate) fn series_of(cells: &Cells) -> BTreeMap<String, i64> {
    let series = cells.iter().filter_map(|((key, labels), count)| {
        let name = match key.as_str() {
            "metrics:request_counter" => "http_requests_total",
            "metrics:algorithm_counter" => "algorithm_executions_total",
            _ => return None,
        };
        (*count != 0).then(|| (format!("{name}{{{labels}}}"), *count))
    });
    series.collect()
}

impl fmt::Display for Findings {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |items: Vec<String>| items.join(", ");
        let Plan {
            app,
            seed,
            seconds,
            rate,
            ..
        } = self.plan;
        let app_name = app.name();
        let schedule = match self.plan.shards {
            Some(shards) => format!("{} ({shards} shards)", self.plan.schedule.name()),
            None => self.plan.schedule.name().to_owned(),
        };
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
            forged,
            unleased: traces,
            ..
        } = &self.logged;
        let [shipped, first, second] = self.replays.each_ref().map(|report| report.of("applied"));
        for (name, text) in [
            (
                "run",
                format!(
                    "app {app_name}, seed {seed}, {seconds} s, {durability}, appendfsync {fsync}, schedule \
                     {schedule}, at most {rate} requests a second, on {}",
                    self.runtime
                ),
            ),
            ("faults", list(faults.collect())),
            (
                "requests",
                format!(
                    "sent {}, results {}, 503 {}, of the host alone {}, none {}, \
                     not sent {}, sent by clients that vanished {}, sent in part {}",
                    executions.most,
                    executions.responses,
                    all.responses - executions.responses,
                    requests(Outcome::HostError),
                    requests(Outcome::NoResponse),
                    requests(Outcome::Refused),
                    requests(Outcome::Vanished),
                    self.broken,
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
                     {torn} torn lines, {forged} forged lines",
                    leases.len(),
                ),
            ),
            (
                "replayed",
                format!("{shipped} during the run, {first} at its end, {second} once more"),
            ),
            (
                "taken",
                format!(
                    "{} executions, {} open leases; {} leases open again, {} batches applied again, \
                     {} results of crashes",
                    Counted::of_cells(app, &self.taken.cells, 0).all(app.executions()),
                    self.taken.leases.len(),
                    self.taken.returned.len() + self.batches.again.arrived.len(),
                    self.batches.applied_again,
                    self.batches.revived,
                ),
            ),
        ] {
            writeln!(out, "{name:<11} {text}")?;
        }
        for watched in &self.watched {
            writeln!(
                out,
                "{:<11} {} scrapes, {} steps back, {} after a reset, {} in Redis held up",
                watched.name,
                watched.scrapes,
                watched.steps_back.1,
                watched.resets,
                watched.regressions()
            )?;
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
