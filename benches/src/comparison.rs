//! Loads on several servers in turns, and how the results read.

use std::time::Duration;

use crate::{
    contestant::{Contestant, Pace, Request, Run},
    report::{Cell, Table},
    rounds::{Figure, alternate},
    section::Bench,
    store::Store,
};

/// How long a load lasts.
const LASTING: Duration = Duration::from_secs(3);
const WARM_UP: Duration = Duration::from_secs(1);

/// Connections of a closed loop.
const CONNECTIONS: u32 = 32;

/// Servers, and what they are sent.
pub(crate) struct Comparison<'a> {
    /// How much is measured.
    pub(crate) bench: &'a Bench,
    /// What the servers count in.
    pub(crate) store: &'a Store,
    /// The first is what the others are compared with.
    pub(crate) contestants: &'a [&'a Contestant<'a>],
    /// What they are sent.
    pub(crate) request: &'a Request,
}

/// What was measured of each contestant, in their order.
pub(crate) struct Measured {
    names: Vec<&'static str>,
    runs: Vec<Vec<Run>>,
}

impl Comparison<'_> {
    /// As fast as they answer.
    ///
    /// # Errors
    /// What was timed did not happen.
    pub(crate) fn closed(&self) -> anyhow::Result<Measured> {
        let pace = Pace::Closed(CONNECTIONS);
        // What a smoke run checks holds of a cold server, too.
        let warmed_up = if self.bench.smoke {
            &[]
        } else {
            self.contestants
        };
        for contestant in warmed_up {
            contestant.run(self.bench, self.store, self.request, pace, WARM_UP)?;
        }
        self.measure(|_| pace)
    }

    /// So many requests a second, for each contestant.
    ///
    /// # Errors
    /// What was timed did not happen; a rate was beyond capacity.
    pub(crate) fn open(&self, rates: &[f64]) -> anyhow::Result<Measured> {
        // A capacity that a moment's look gave is not one.
        let share = if self.bench.smoke { 0.2 } else { 1.0 };
        self.measure(|place| Pace::Open(rates[place] * share))
    }

    fn measure(&self, pace: impl Fn(usize) -> Pace) -> anyhow::Result<Measured> {
        let places: Vec<_> = self.contestants.iter().enumerate().collect();
        let runs = alternate(self.bench.rounds, &places, |(place, contestant)| {
            contestant.run(self.bench, self.store, self.request, pace(*place), LASTING)
        })?;
        let names = self.contestants.iter().map(|contestant| contestant.name);
        Ok(Measured {
            names: names.collect(),
            runs,
        })
    }
}

impl Measured {
    /// A quantity of one contestant.
    ///
    /// # Panics
    /// There is none of that name.
    pub(crate) fn figure(&self, name: &str, quantity: fn(&Run) -> f64) -> Figure {
        let place = self.names.iter().position(|it| *it == name);
        let place = place.unwrap_or_else(|| panic!("no contestant is called {name}"));
        Figure::of(&self.runs[place], quantity)
    }

    /// Half of what each could take, in requests a second.
    pub(crate) fn half_of_capacity(&self) -> Vec<f64> {
        let figures = self.names.iter().map(|name| self.figure(name, rate));
        figures.map(|figure| figure.median() / 2.0).collect()
    }

    /// Each contestant's throughput, for a chart.
    pub(crate) fn rates(&self) -> Vec<(String, Figure)> {
        let names = self.names.iter();
        names
            .map(|name| ((*name).to_owned(), self.figure(name, rate)))
            .collect()
    }

    /// Throughput, and what a request cost whom.
    pub(crate) fn throughput_table(&self, caption: &str) -> Table {
        let columns = [
            "requests/s".to_owned(),
            format!("times `{}`", self.names[0]),
            "server, µs of CPU a request".to_owned(),
            "Redis, µs".to_owned(),
            "generator, µs".to_owned(),
            "Redis commands a request".to_owned(),
            "connections to Redis for 128 requests".to_owned(),
        ];
        let base = self.figure(self.names[0], rate);
        self.table(caption, &columns, |name| {
            let rates = self.figure(name, rate);
            vec![
                rates.clone(),
                rates.ratio_to(&base),
                self.figure(name, |run| run.server_micros),
                self.figure(name, |run| run.redis_micros),
                self.figure(name, |run| run.generator_micros),
                self.figure(name, |run| run.commands),
                self.figure(name, |run| run.connections),
            ]
        })
    }

    /// Latency, beside that of the first.
    pub(crate) fn latency_table(&self, caption: &str) -> Table {
        let columns = [
            "requests/s".to_owned(),
            "p50, ms".to_owned(),
            "p99, ms".to_owned(),
            format!("p99 times `{}`", self.names[0]),
            format!("p99 above `{}`, ms", self.names[0]),
            "p99.9, ms".to_owned(),
        ];
        let base = self.figure(self.names[0], p99);
        self.table(caption, &columns, |name| {
            let p99s = self.figure(name, p99);
            vec![
                self.figure(name, rate),
                self.figure(name, |run| run.answered.p50),
                p99s.clone(),
                p99s.ratio_to(&base),
                p99s.above(&base),
                self.figure(name, |run| run.answered.p999),
            ]
        })
    }

    fn table(
        &self,
        caption: &str,
        columns: &[String],
        figures: impl Fn(&str) -> Vec<Figure>,
    ) -> Table {
        let rows = self.names.iter().map(|name| {
            let figures = figures(name).into_iter().map(Cell::from);
            [format!("`{name}`").into()]
                .into_iter()
                .chain(figures)
                .collect()
        });
        Table {
            caption: caption.to_owned(),
            columns: [String::new()].iter().chain(columns).cloned().collect(),
            rows: rows.collect(),
        }
    }
}

/// Requests a second.
pub(crate) fn rate(run: &Run) -> f64 {
    run.answered.rate
}

/// The latency that one of a hundred requests exceeds, in milliseconds.
pub(crate) fn p99(run: &Run) -> f64 {
    run.answered.p99
}
