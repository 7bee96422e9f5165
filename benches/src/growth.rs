//! Section: how costs grow with the stored series and with the instances that write.

use std::time::Instant;

use functional_scaffold_protocol::calls::DEFAULT_PREFIX;

use crate::{
    exporters::{Filled, Scraped, Shape},
    measure::{Bench, Figure, alternate, as_float, millis, number},
    report::{Findings, Table},
    store::Store,
    writers::{Cost, LASTING, Workload},
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
    let (instances, limit) = by_instances(bench)?;
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
        notes: vec![note, limit],
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
            series: filled.samples.series(),
            memory: as_float(store.memory()?.saturating_sub(before)),
            exporter: Scraped::exporter(&[&store], &filled.samples)?,
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
            lasting: LASTING,
        };
        let no_requests = Workload {
            batch: 0,
            ..requests.clone()
        };
        let writing = Cost::measure(bench, &[&self.store], &requests)?;
        let beginning = Cost::measure(bench, &[&self.store], &no_requests)?;
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

fn by_instances(bench: &Bench) -> anyhow::Result<(Table, String)> {
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
                lasting: LASTING,
            });
        }
    }
    let costs = alternate(bench.rounds, &workloads, |workload| {
        Cost::measure(bench, &[&store], workload)
    })?;
    let micros = |costs: &[Cost]| Figure::of(costs, Cost::micros_per_request);
    let rate = |costs: &[Cost]| Figure::of(costs, Cost::requests_per_second);
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
    Ok((
        table,
        limit(&micros(&costs[last]), &micros(&costs[last + 1])),
    ))
}

/// The load that one core of Redis bears at the largest number of instances.
fn limit(batched: &Figure, exact: &Figure) -> String {
    let capacity = |micros: &Figure| number(1e6 / micros.median());
    format!(
        "The limit is the one core on which Redis runs scripts: beyond {} requests/s in `batched` \
         and {} in `exact`, with batches of {BATCH}, calls wait for it. More requests per batch \
         raise the limit more than anything else; see [above](#where-metrics-go). Beyond it, \
         [shards](#capacity) divide the instances among several servers.",
        capacity(batched),
        capacity(exact),
    )
}
