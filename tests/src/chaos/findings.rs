//! A run as its verdict sees it, and as it is printed.

use std::{collections::BTreeMap, fmt};

use functional_scaffold_protocol::catalog::ExecutionStatus;

use super::{
    Plan,
    ledger::{Kind, Outcome, execution_labels, request_labels},
    load::Part,
    replay::{Logged, Report},
    schedule::Mood,
    stored::{Cells, Stored},
    tally::{Answers, Tally},
    tap::Leases,
    watcher::Watched,
};

/// Everything that is known at the end of a run.
#[derive(Debug)]
pub struct Findings {
    /// What the run was to be.
    pub plan: Plan,
    /// Faults done, by name.
    pub faults: BTreeMap<&'static str, usize>,
    /// Bytes of replies that were dropped.
    pub swallowed_bytes: u64,
    /// The requests.
    pub requests: Part,
    /// What they may count as.
    pub tally: Tally,
    /// What Redis counted.
    pub stored: Stored,
    /// Leases on their way.
    pub leases: Leases,
    /// Those that nothing settled, and how many of them never ran out.
    pub unsettled: (usize, usize),
    /// What the application gave to its log.
    pub logged: Logged,
    /// What was replayed while the run went on.
    pub shipped: Report,
    /// The files replayed at the end, and once more.
    pub replays: [Report; 2],
    /// What the exporter showed.
    pub watched: Watched,
}

impl Findings {
    /// How many requests ended like this.
    #[must_use]
    pub fn requests_with(&self, is: impl Fn(&Outcome) -> bool) -> usize {
        let entries = self.requests.entries.iter();
        entries.filter(|entry| is(&entry.outcome)).count()
    }

    fn write_series(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new(out)?;
        for mood in Mood::ALL {
            for kind in Kind::ENDING {
                let labels = request_labels(mood, kind.code());
                let answers = self.tally.of(mood, kind);
                table.row(
                    "http_requests_total",
                    &labels,
                    &self.stored.requests,
                    answers,
                )?;
            }
        }
        for kind in Kind::ENDING {
            let labels = execution_labels(kind.status());
            let answers = self.tally.of_both(kind);
            let cells = &self.stored.executions;
            table.row("algorithm_executions_total", &labels, cells, answers)?;
        }
        let crashed = execution_labels(ExecutionStatus::Crashed);
        let counted = self.stored.executions.get(&crashed).copied();
        writeln!(
            out,
            "  {:<93} {:>8}  of {} sent to crash; {} surely did under a lease",
            format!("algorithm_executions_total{{{crashed}}}"),
            counted.unwrap_or_default(),
            self.tally.fatal,
            self.tally.surely_crashed
        )
    }
}

/// The ledger by label set.
struct Table<'a, 'b> {
    out: &'a mut fmt::Formatter<'b>,
}

impl<'a, 'b> Table<'a, 'b> {
    fn new(out: &'a mut fmt::Formatter<'b>) -> Result<Self, fmt::Error> {
        let names = ["counted", "answered", "at risk", "losable", "unsure"];
        write!(out, "  {:<93}", "series")?;
        for name in names {
            write!(out, " {name:>8}")?;
        }
        writeln!(out)?;
        Ok(Self { out })
    }

    fn row(&mut self, family: &str, labels: &str, cells: &Cells, answers: Answers) -> fmt::Result {
        let numbers = [
            cells.get(labels).copied().unwrap_or_default(),
            answers.answered,
            answers.retractable,
            answers.losable,
            answers.unsure,
        ];
        write!(self.out, "  {:<93}", format!("{family}{{{labels}}}"))?;
        for number in numbers {
            write!(self.out, " {number:>8}")?;
        }
        writeln!(self.out)
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan {
            seed,
            seconds,
            durability,
            fsync,
            rate,
        } = self.plan;
        let (durability, fsync) = (durability.name(), fsync.name());
        let faults = self.faults.iter();
        let faults: Vec<_> = faults
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        let troubles = &self.stored.flush_troubles;
        let outcome = |name: &str| {
            let count = troubles.get(&format!("outcome=\"{name}\""));
            count.copied().unwrap_or_default()
        };
        writeln!(
            out,
            "run         seed {seed}, {seconds} s, {durability}, appendfsync {fsync}, {rate} requests a second at the most"
        )?;
        writeln!(out, "faults      {}", faults.join(", "))?;
        writeln!(
            out,
            "requests    sent {}, answered {}, by the host alone {}, unanswered {}, not sent {}",
            self.tally.sent(),
            self.requests_with(|outcome| matches!(outcome, Outcome::Answer { .. })),
            self.requests_with(|outcome| *outcome == Outcome::HostError),
            self.requests_with(|outcome| *outcome == Outcome::NoAnswer),
            self.requests_with(|outcome| *outcome == Outcome::Refused),
        )?;
        writeln!(
            out,
            "executions  taken back {} of {} that may be, unleased {}, late {}",
            self.tally.taken_back(&self.stored),
            self.tally.retractable(),
            self.stored.unleased,
            self.stored.late,
        )?;
        writeln!(
            out,
            "leases      taken {}, perhaps {} more; settled by nothing {}, ran out {}",
            self.leases.taken,
            self.leases.maybe_taken.len(),
            self.unsettled.0,
            self.stored.settled,
        )?;
        writeln!(
            out,
            "flushes     failed {}, duplicate {}, logged {}; {} bytes of replies dropped",
            outcome("failed"),
            outcome("duplicate"),
            outcome("logged"),
            self.swallowed_bytes
        )?;
        let [first, second] = &self.replays;
        writeln!(
            out,
            "log         {} batches with {} leased executions, {} incomplete, {} torn lines",
            self.logged.batches,
            self.logged.leases.len(),
            self.logged.incomplete,
            self.logged.torn
        )?;
        writeln!(
            out,
            "replayed    {} at once, {} at the end, {} once more",
            self.shipped.of("applied"),
            first.of("applied"),
            second.of("applied")
        )?;
        writeln!(
            out,
            "exporter    {} scrapes, {} steps back, {} in Redis held up",
            self.watched.scrapes,
            self.watched.back.1,
            self.watched.regressions()
        )?;
        self.write_series(out)
    }
}
