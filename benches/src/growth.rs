//! Section: how costs grow with the stored series and with the instances that
//! write, and an estimate for a million requests a second.

use std::time::Instant;

use functional_scaffold_protocol::calls::DEFAULT_PREFIX;

use crate::{
    exporters::{Filled, Scraped, Shape},
    measure::{Bench, Figure, alternate, as_float, millis, number},
    report::{Findings, Table},
    store::Store,
    writers::{Cost, REQUESTS_OF_AN_INSTANCE, Workload},
};

const ALGORITHMS: [u64; 5] = [1, 2, 20, 200, 2_000];
const SMOKE_ALGORITHMS: [u64; 2] = [1, 20];
const INSTANCES: [usize; 5] = [1, 10, 50, 100, 300];
const SMOKE_INSTANCES: [usize; 2] = [1, 20];
/// Instances that write where the series grow.
const WRITING: usize = 50;
const BATCH: u64 = 4;

pub(crate) fn run(bench: &Bench) -> anyhow::Result<Findings> {
    let (series, note) = by_series(bench)?;
    let (instances, estimate) = by_instances(bench)?;
    let mut notes = vec![note];
    notes.extend(estimate.paragraphs());
    Ok(Findings {
        title: "How costs grow".into(),
        method: format!(
            "Instances as for [where metrics go](#where-metrics-go), one call in flight each, \
             batches of {BATCH}, and checked in the same way. *By series*: {WRITING} instances in \
             `exact`. Each serves one of many algorithms, each of which has {} series in Redis. The \
             cost of an instance is measured without requests: it connects, checks that its \
             families are registered, and ends. Each scrape is checked to have as many samples as \
             are stored. *By instances*: one algorithm, with this number of connections at a time. \
             Clients share the machine with Redis, so compare processor time, not requests/s on \
             the clock.",
            Shape::Service.series_of_an_algorithm(),
        ),
        tables: vec![series, instances],
        charts: vec![],
        targets: vec![],
        notes,
    })
}

/// A Redis with the series of some algorithms, and its exporter.
struct Grown {
    algorithms: u64,
    series: usize,
    /// Bytes in Redis.
    memory: f64,
    exporter: Scraped,
    store: Store,
}

struct Run {
    request_micros: f64,
    instance_micros: f64,
    scrape_millis: f64,
    scrape_cpu_millis: f64,
}

fn by_series(bench: &Bench) -> anyhow::Result<(Table, String)> {
    let sizes: &[u64] = match bench.smoke {
        true => &SMOKE_ALGORITHMS,
        false => &ALGORITHMS,
    };
    let mut grown = Vec::new();
    for &algorithms in sizes {
        grown.push(Grown::start(algorithms)?);
    }
    let runs = alternate(bench.rounds, &grown, |grown| grown.turn(bench))?;
    let rows = grown.iter().zip(&runs).map(|(grown, runs)| {
        vec![
            grown.series.to_string().into(),
            Figure::of(runs, |run| run.request_micros).into(),
            Figure::of(runs, |run| run.instance_micros).into(),
            Figure::of(runs, |run| run.scrape_millis).into(),
            Figure::of(runs, |run| run.scrape_cpu_millis).into(),
            Figure::once(grown.memory / 1e6).into(),
        ]
    });
    let columns = [
        "series",
        "Redis, µs of CPU a request",
        "an instance, µs",
        "a scrape, ms",
        "of it the exporter, ms of CPU",
        "their memory in Redis, MB",
    ];
    let table = Table::new("By series", &columns, rows);
    let (least, most) = (0, grown.len() - 1);
    let micros = |place: usize| Figure::of(&runs[place], |run| run.request_micros).median();
    let cpu_millis = Figure::of(&runs[most], |run| run.scrape_cpu_millis).median();
    let note = format!(
        "With {} series, a request costs Redis {} times as much as with {}. A field is found by its \
         name, so the work stays the same, but it touches more memory. A scrape grows in \
         proportion, by {} µs of the exporter's processor time per series.",
        grown[most].series,
        number(micros(most) / micros(least)),
        grown[least].series,
        number(1e3 * cpu_millis / as_float(grown[most].series as u64)),
    );
    Ok((table, note))
}

impl Grown {
    fn start(algorithms: u64) -> anyhow::Result<Self> {
        let store = Store::start()?;
        let before = store.memory()?;
        let filled = Filled::fill(store.port(), Shape::Service, algorithms)?;
        Ok(Self {
            algorithms,
            series: filled.series(),
            memory: as_float(store.memory()?.saturating_sub(before)),
            exporter: Scraped::exporter(&store, &filled)?,
            store,
        })
    }

    fn turn(&self, bench: &Bench) -> anyhow::Result<Run> {
        let requests = Workload {
            prefix: DEFAULT_PREFIX.to_owned(),
            leased: true,
            batch: BATCH,
            algorithms: self.algorithms,
            instances: WRITING,
            pipelined: 1,
        };
        let no_requests = Workload {
            batch: 0,
            ..requests.clone()
        };
        let writing = Cost::measure(bench, &self.store, &requests)?;
        let beginning = Cost::measure(bench, &self.store, &no_requests)?;
        let cpu = self.exporter.cpu()?;
        let began = Instant::now();
        let scrape = self.exporter.scrape()?;
        let took = began.elapsed();
        let cpu = self.exporter.cpu()?.saturating_sub(cpu);
        self.exporter.check(&scrape)?;
        let instances = as_float(beginning.completed.instances);
        Ok(Run {
            request_micros: writing.micros_per_request(),
            instance_micros: beginning.redis.as_secs_f64() * 1e6 / instances,
            scrape_millis: millis(took),
            scrape_cpu_millis: millis(cpu),
        })
    }
}

fn by_instances(bench: &Bench) -> anyhow::Result<(Table, Estimate)> {
    let sizes: &[usize] = match bench.smoke {
        true => &SMOKE_INSTANCES,
        false => &INSTANCES,
    };
    let store = Store::start()?;
    let mut workloads = Vec::new();
    for &instances in sizes {
        for leased in [false, true] {
            workloads.push(Workload {
                prefix: format!("{instances}:{leased}:"),
                leased,
                batch: BATCH,
                algorithms: 1,
                instances,
                pipelined: 1,
            });
        }
    }
    let costs = alternate(bench.rounds, &workloads, |workload| {
        Cost::measure(bench, &store, workload)
    })?;
    let micros = |costs: &[Cost]| Figure::of(costs, Cost::micros_per_request);
    let rate = |costs: &[Cost]| {
        Figure::of(costs, |cost| {
            as_float(cost.completed.requests) / cost.took.as_secs_f64()
        })
    };
    // In pairs: batched and exact.
    let rows = sizes.iter().zip(costs.chunks(2)).map(|(instances, costs)| {
        vec![
            instances.to_string().into(),
            micros(&costs[0]).into(),
            rate(&costs[0]).into(),
            micros(&costs[1]).into(),
            rate(&costs[1]).into(),
        ]
    });
    let columns = [
        "instances",
        "`batched`: Redis, µs of CPU a request",
        "requests/s on the clock",
        "`exact`: Redis, µs of CPU a request",
        "requests/s on the clock",
    ];
    let table = Table::new("By instances", &columns, rows);
    let last = costs.len() - 2;
    let estimate = Estimate {
        batch: BATCH,
        instances: workloads[last].instances,
        batched_micros: micros(&costs[last]).median(),
        exact_micros: micros(&costs[last + 1]).median(),
    };
    Ok((table, estimate))
}

/// An estimate for a million requests a second from measured costs.
struct Estimate {
    batch: u64,
    instances: usize,
    /// Processor time of Redis per request.
    batched_micros: f64,
    exact_micros: f64,
}

const REQUESTS_A_SECOND: f64 = 1e6;
/// The load of a core of Redis that leaves room to catch up after a pause.
const BUSY: f64 = 0.7;
/// The longest time for which Redis remembers a writer, and in how many bytes
/// (docs/protocol.md, Batches).
const REMEMBERED_SECONDS: f64 = 14_400.0;
const BYTES_OF_A_WRITER: f64 = 22.0;

impl Estimate {
    fn paragraphs(&self) -> Vec<String> {
        let processes =
            |micros: f64| format!("{:.0}", (REQUESTS_A_SECOND * micros / 1e6 / BUSY).ceil());
        let begun = REQUESTS_A_SECOND / as_float(REQUESTS_OF_AN_INSTANCE);
        let capacity = |micros: f64| number(1e6 / micros);
        vec![
            format!(
                "The limit is the one core on which Redis runs scripts: beyond {} requests/s in \
                 `batched` and {} in `exact`, with batches of {}, calls wait for it. More requests \
                 per batch raise the limit more than anything else; see [above](#where-metrics-go).",
                capacity(self.batched_micros),
                capacity(self.exact_micros),
                self.batch,
            ),
            format!(
                "**A million requests a second, as an estimate.** With batches of {batch}, at \
                 {instances} instances, a request costs {batched} µs of a Redis core in `batched` \
                 and {exact} µs in `exact`, including the connection of its instance. At {busy} % \
                 load, a million requests a second are {less} Redis processes in `batched` and \
                 {more} in `exact`. An instance serves {REQUESTS_OF_AN_INSTANCE} requests, so \
                 {begun} begin every second. Redis remembers each for up to four hours \
                 in {BYTES_OF_A_WRITER} bytes, which is {gigabytes} GB over all shards.",
                batch = self.batch,
                instances = self.instances,
                batched = number(self.batched_micros),
                exact = number(self.exact_micros),
                busy = format!("{:.0}", BUSY * 100.0),
                less = processes(self.batched_micros),
                more = processes(self.exact_micros),
                begun = number(begun),
                gigabytes = number(begun * REMEMBERED_SECONDS * BYTES_OF_A_WRITER / 1e9),
            ),
            SHARDING.to_owned(),
        ]
    }
}

const SHARDING: &str = "\
Redis is sharded by writers, not by series: with [`metrics_shards`](shards.md), each \
instance writes all its counts to one of several servers, or to one slot of a Redis Cluster.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_is_of_a_million_requests_at_the_allowed_load() {
        let estimate = Estimate {
            batch: 4,
            instances: 300,
            batched_micros: 7.0,
            exact_micros: 20.9,
        };
        let text = estimate.paragraphs().join("\n");
        for part in [
            "beyond 142,857 requests/s",
            "are 10 Redis",
            "and 30 in `exact`",
            "7,812 begin",
            "in 22 bytes",
            "2.48 GB",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
