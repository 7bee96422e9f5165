//! How costs grow with the series there are and with the instances that write,
//! and what that means for a million requests a second.

use std::time::{Duration, Instant};

use functional_scaffold_protocol::calls::DEFAULT_PREFIX;

use crate::{
    filled::{Filled, Shape},
    instance::{Habit, REQUESTS_OF_AN_INSTANCE},
    load::as_float,
    million,
    report::{Answer, Cell, Table, number},
    rounds::{Figure, alternate},
    section::Bench,
    server::{Network, Server},
    storage::{Account, lasting},
    store::Store,
};

const ALGORITHMS: [u64; 5] = [1, 2, 20, 200, 2_000];
const SMOKE_ALGORITHMS: [u64; 2] = [1, 20];
const INSTANCES: [usize; 5] = [1, 10, 50, 100, 300];
const SMOKE_INSTANCES: [usize; 2] = [1, 20];
/// How many instances write where the series are what grows.
const WRITING: usize = 50;
const BATCH: u64 = 4;

/// Measures it.
pub(crate) fn run(bench: &Bench) -> anyhow::Result<Answer> {
    let (series, of_series) = by_series(bench)?;
    let (instances, cost) = by_instances(bench)?;
    let mut notes = vec![of_series];
    notes.extend(million::on_paper(&cost));
    Ok(Answer {
        title: "How costs grow".into(),
        method: format!(
            "Instances as for [where metrics go](#where-metrics-go), one call under way each, \
             batches of {BATCH}, and checked in the same way. *By series*: {WRITING} instances in \
             `exact`, each serving one of many algorithms, all of whose {} series \
             are in Redis. The cost of an instance is that of one that connects, asks whether its \
             families are registered, and ends. Each scrape is checked to have as many samples as \
             are stored. *By instances*: one algorithm, and so many connections at a time; the \
             clients share the machine with Redis, so take its processor time, not the clock.",
            Shape::Service.series_of_an_algorithm(),
        ),
        tables: vec![series, instances],
        charts: vec![],
        targets: vec![],
        notes,
    })
}

/// A Redis with the series of so many algorithms, and its exporter.
struct Grown {
    algorithms: u64,
    series: usize,
    /// Bytes that they take in Redis.
    memory: f64,
    server: Server,
    store: Store,
}

struct Run {
    micros_of_a_request: f64,
    micros_of_an_instance: f64,
    scrape_millis: f64,
    scrape_used_millis: f64,
}

fn by_series(bench: &Bench) -> anyhow::Result<(Table, String)> {
    let sizes: &[u64] = if bench.smoke {
        &SMOKE_ALGORITHMS
    } else {
        &ALGORITHMS
    };
    let network = Network::new()?;
    let mut grown = Vec::new();
    for &algorithms in sizes {
        grown.push(Grown::start(&network, algorithms)?);
    }
    let lasting = lasting(bench);
    let runs = alternate(bench.rounds, &grown, |grown| grown.turn(&network, lasting))?;
    let rows = grown.iter().zip(&runs).map(|(grown, runs)| {
        let cells: [Cell; 6] = [
            grown.series.to_string().into(),
            Figure::of(runs, |run| run.micros_of_a_request).into(),
            Figure::of(runs, |run| run.micros_of_an_instance).into(),
            Figure::of(runs, |run| run.scrape_millis).into(),
            Figure::of(runs, |run| run.scrape_used_millis).into(),
            Figure::of(&[grown.memory / 1e6], |megabytes| *megabytes).into(),
        ];
        cells.to_vec()
    });
    let columns = [
        "series",
        "Redis, µs of CPU a request",
        "an instance, µs",
        "a scrape, ms",
        "of it the exporter, ms of CPU",
        "their memory in Redis, MB",
    ];
    let table = Table {
        caption: "By series".into(),
        columns: columns.map(str::to_owned).into(),
        rows: rows.collect(),
    };
    let (least, most) = (0, grown.len() - 1);
    let micros = |place: usize| Figure::of(&runs[place], |run| run.micros_of_a_request).median();
    let millis = Figure::of(&runs[most], |run| run.scrape_used_millis).median();
    let note = format!(
        "With {} series a request costs Redis {} times what it does with {}: a field is found by its \
         name, so what grows is not the work but the memory that it touches. A scrape grows in \
         proportion, with {} µs of the exporter's processor time a series.",
        grown[most].series,
        number(micros(most) / micros(least)),
        grown[least].series,
        number(1e3 * millis / as_float(grown[most].series as u64)),
    );
    Ok((table, note))
}

impl Grown {
    fn start(network: &Network, algorithms: u64) -> anyhow::Result<Self> {
        let store = Store::start()?;
        let before = store.memory()?;
        let filled = Filled::fill(store.port(), Shape::Service, algorithms)?;
        Ok(Self {
            algorithms,
            series: filled.series(),
            memory: as_float(store.memory()?.saturating_sub(before)),
            server: network.exporter(&store, &filled)?,
            store,
        })
    }

    fn turn(&self, network: &Network, lasting: Duration) -> anyhow::Result<Run> {
        let requests = Habit {
            prefix: DEFAULT_PREFIX.to_owned(),
            leased: true,
            batch: BATCH,
            algorithms: self.algorithms,
            instances: WRITING,
            calls_at_a_time: 1,
        };
        let none = Habit {
            batch: 0,
            ..requests.clone()
        };
        let writing = Account::of(&self.store, &requests, lasting)?;
        let beginning = Account::of(&self.store, &none, lasting)?;
        let used = self.server.used()?;
        let began = Instant::now();
        let scrape = network.scrape(&self.server)?;
        let took = began.elapsed();
        let used = self.server.used()?.saturating_sub(used);
        self.server.check(&scrape)?;
        let instances = as_float(beginning.done.instances);
        Ok(Run {
            micros_of_a_request: writing.micros_of_a_request(),
            micros_of_an_instance: beginning.redis.as_secs_f64() * 1e6 / instances,
            scrape_millis: took.as_secs_f64() * 1e3,
            scrape_used_millis: used.as_secs_f64() * 1e3,
        })
    }
}

fn by_instances(bench: &Bench) -> anyhow::Result<(Table, million::Cost)> {
    let sizes: &[usize] = if bench.smoke {
        &SMOKE_INSTANCES
    } else {
        &INSTANCES
    };
    let store = Store::start()?;
    let habits: Vec<Habit> = sizes
        .iter()
        .flat_map(|instances| [(*instances, false), (*instances, true)])
        .map(|(instances, leased)| Habit {
            prefix: format!("{instances}:{leased}:"),
            leased,
            batch: BATCH,
            algorithms: 1,
            instances,
            calls_at_a_time: 1,
        })
        .collect();
    let lasting = lasting(bench);
    let accounts = alternate(bench.rounds, &habits, |habit| {
        Account::of(&store, habit, lasting)
    })?;
    let micros = |accounts: &[Account]| Figure::of(accounts, Account::micros_of_a_request);
    let pairs = habits.chunks(2).zip(accounts.chunks(2));
    let rows = pairs.map(|(habits, accounts)| {
        let rate = |accounts: &[Account]| {
            Figure::of(accounts, |account| {
                as_float(account.done.requests) / account.took.as_secs_f64()
            })
        };
        let cells: [Cell; 5] = [
            habits[0].instances.to_string().into(),
            micros(&accounts[0]).into(),
            rate(&accounts[0]).into(),
            micros(&accounts[1]).into(),
            rate(&accounts[1]).into(),
        ];
        cells.to_vec()
    });
    let columns = [
        "instances",
        "`relaxed`: Redis, µs of CPU a request",
        "requests/s on the clock",
        "`exact`: Redis, µs of CPU a request",
        "requests/s on the clock",
    ];
    let table = Table {
        caption: "By instances".into(),
        columns: columns.map(str::to_owned).into(),
        rows: rows.collect(),
    };
    // Of the most instances.
    let last = accounts.len() - 2;
    let cost = million::Cost {
        batch: BATCH,
        instances: habits[last].instances,
        requests_of_an_instance: REQUESTS_OF_AN_INSTANCE,
        relaxed_micros: micros(&accounts[last]).median(),
        exact_micros: micros(&accounts[last + 1]).median(),
    };
    Ok((table, cost))
}
