//! Loads on several services in turns, and the tables of their results.

use std::time::Duration;

use crate::{
    load::Pace,
    measure::{Bench, Figure, alternate},
    report::{Cell, Table},
    services::{Invocation, Run, Service},
    store::Store,
};

const LASTING: Duration = Duration::from_secs(3);
const WARM_UP: Duration = Duration::from_secs(1);

/// Connections of a closed loop.
const CONNECTIONS: u32 = 32;

pub(crate) struct Comparison<'a> {
    pub(crate) bench: &'a Bench,
    pub(crate) store: &'a Store,
    /// The others are compared with the first.
    pub(crate) services: &'a [&'a Service<'a>],
    pub(crate) invocation: &'a Invocation,
}

/// The runs of each service.
pub(crate) struct Measured {
    names: Vec<&'static str>,
    runs: Vec<Vec<Run>>,
}

impl Comparison<'_> {
    /// Measures at full load.
    pub(crate) fn closed(&self) -> anyhow::Result<Measured> {
        let pace = Pace::Closed(CONNECTIONS);
        if !self.bench.smoke {
            for service in self.services {
                service.run(self.bench, self.store, self.invocation, pace, WARM_UP)?;
            }
        }
        self.measure(|_| pace)
    }

    /// Measures at a rate for each service, in requests per second.
    pub(crate) fn open(&self, rates: &[f64]) -> anyhow::Result<Measured> {
        // A smoke run has no reliable measure of capacity.
        let share = if self.bench.smoke { 0.2 } else { 1.0 };
        self.measure(|place| Pace::Open(rates[place] * share))
    }

    fn measure(&self, pace: impl Fn(usize) -> Pace) -> anyhow::Result<Measured> {
        let places: Vec<_> = self.services.iter().enumerate().collect();
        let runs = alternate(self.bench.rounds, &places, |(place, service)| {
            service.run(
                self.bench,
                self.store,
                self.invocation,
                pace(*place),
                LASTING,
            )
        })?;
        let names = self.services.iter().map(|service| service.name);
        Ok(Measured {
            names: names.collect(),
            runs,
        })
    }
}

impl Measured {
    /// A quantity of the service of that name.
    ///
    /// # Panics
    /// There is none.
    pub(crate) fn figure(&self, name: &str, quantity: fn(&Run) -> f64) -> Figure {
        let place = self.names.iter().position(|it| *it == name);
        let place = place.unwrap_or_else(|| panic!("no service is called {name}"));
        Figure::of(&self.runs[place], quantity)
    }

    /// Half of each service's capacity, in requests per second.
    pub(crate) fn half_of_capacity(&self) -> Vec<f64> {
        let figures = self.names.iter().map(|name| self.figure(name, rate));
        figures.map(|figure| figure.median() / 2.0).collect()
    }

    /// Throughput of each service, for a chart.
    pub(crate) fn rates(&self) -> Vec<(String, Figure)> {
        let names = self.names.iter();
        names
            .map(|name| ((*name).to_owned(), self.figure(name, rate)))
            .collect()
    }

    /// Throughput, and the costs of a request.
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

    /// Latency, compared with the first service's.
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
                self.figure(name, |run| run.responses.p50),
                p99s.clone(),
                p99s.ratio_to(&base),
                p99s.above(&base),
                self.figure(name, |run| run.responses.p999),
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
            let name = Cell::from(format!("`{name}`"));
            [name].into_iter().chain(figures).collect()
        });
        let columns: Vec<_> = [String::new()].iter().chain(columns).cloned().collect();
        Table::new(caption, &columns, rows)
    }
}

/// Requests per second.
pub(crate) fn rate(run: &Run) -> f64 {
    run.responses.rate
}

/// Milliseconds.
pub(crate) fn p99(run: &Run) -> f64 {
    run.responses.p99
}
