//! Section: the requests per second that one core of Redis accounts for, by mode
//! and batch, and the pushes that one core of a Pushgateway takes.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use functional_scaffold_protocol::{
    batch::Batch,
    calls::DEFAULT_PREFIX,
    catalog::Catalog,
    exposition::{Format, expose},
    pushgateway::group_path,
    series::families_of_totals,
};
use functional_scaffold_testkit::pushgateway::Pushgateway;

use crate::{
    chart::Chart,
    exporters::get,
    machine::cpu_of_tree,
    measure::{Bench, Figure, alternate, as_float},
    report::{Cell, Findings, Table},
    store::Store,
    writers::{Cost, LASTING, REQUESTS_OF_AN_INSTANCE, Workload, algorithm_name, endpoint, record},
};

const BATCHES: [u64; 3] = [1, 4, 16];
/// Calls at a time where Redis reads many at once.
const PIPELINED: usize = 64;

const GROUPS: [usize; 3] = [1, 100, 1_000];
const SMOKE_GROUPS: [usize; 2] = [1, 10];
const PUSHING: Duration = Duration::from_secs(1);
const PUSH_TIMEOUT: Duration = Duration::from_secs(20);

pub(crate) fn run(bench: &Bench) -> anyhow::Result<Findings> {
    let (redis, bars) = redis(bench)?;
    Ok(Findings {
        title: "Where metrics go".into(),
        method: format!(
            "Native clients make only the calls that instances make, leases and the real scripts. \
             Each instance connects, checks that its families are registered, has \
             {REQUESTS_OF_AN_INSTANCE} requests and ends, as on Spin. 32 instances run at a time, \
             with one call in flight each, as in the service. To find the limit of Redis itself, 4 \
             instances run with up to {PIPELINED} calls in flight each. Requests are divided by \
             Redis's own processor time (`/proc`), without the clients'. Each reply is read. After \
             each run, every request is in its histogram once, and no lease is open. `appendfsync \
             everysec`.\n\n\
             To Redis, `exact` and `strict` send the same calls: a lease per execution, and \
             batches that close the leases. They differ in the number of requests per batch. In \
             `strict`, a response waits for its batch, so a batch has the requests that end while \
             another batch is written."
        ),
        charts: vec![Chart {
            name: "storage".into(),
            caption: "Requests a second that one core of Redis accounts for".into(),
            bars,
        }],
        tables: vec![redis, pushes(bench)?],
        targets: vec![],
        notes: vec![
            "A push replaces its group by the totals of one instance, and the Pushgateway compares \
             it with every other group, so its cost grows with the groups. No group is removed: \
             each instance leaves one behind."
                .into(),
        ],
    })
}

/// The table, and its bars for the chart.
fn redis(bench: &Bench) -> anyhow::Result<(Table, Vec<(String, Figure)>)> {
    let store = Store::start()?;
    let mut workloads = Vec::new();
    for leased in [false, true] {
        for batch in BATCHES {
            for (instances, pipelined) in [(32, 1), (4, PIPELINED)] {
                workloads.push(Workload {
                    prefix: format!("{leased}:{batch}:{pipelined}:"),
                    leased,
                    batch,
                    algorithms: 1,
                    instances,
                    pipelined,
                    lasting: LASTING,
                });
            }
        }
    }
    let costs = alternate(bench.rounds, &workloads, |workload| {
        Cost::measure(bench, &[&store], workload)
    })?;
    let mut rows: Vec<Vec<Cell>> = Vec::new();
    let mut bars = Vec::new();
    // In pairs: one call at a time, and pipelined.
    for (workloads, costs) in workloads.chunks(2).zip(costs.chunks(2)) {
        let Workload { leased, batch, .. } = workloads[0];
        let mode = if leased {
            "`exact`, `strict`"
        } else {
            "`batched`"
        };
        let one = Figure::of(&costs[0], Cost::requests_per_core);
        bars.push((
            format!("{}, {batch} a batch", mode.replace('`', "")),
            one.clone(),
        ));
        let calls = Figure::of(&costs[0], |cost| {
            as_float(cost.completed.calls) / as_float(cost.completed.requests)
        });
        rows.push(vec![
            mode.into(),
            batch.to_string().into(),
            Figure::once(calls.median()).into(),
            one.into(),
            Figure::of(&costs[0], Cost::micros_per_request).into(),
            Figure::of(&costs[1], Cost::requests_per_core).into(),
            Figure::of(&costs[1], Cost::micros_per_request).into(),
        ]);
    }
    let columns = [
        "mode",
        "requests a batch",
        "calls a request",
        "requests/s of a Redis core",
        "µs of it a request",
        "the same pipelined, requests/s",
        "µs",
    ];
    Ok((
        Table::new("What one core of Redis accounts for", &columns, rows),
        bars,
    ))
}

fn pushes(bench: &Bench) -> anyhow::Result<Table> {
    let config = ureq::Agent::config_builder().timeout_global(Some(PUSH_TIMEOUT));
    let agent = config.build().into();
    let sizes: &[usize] = if bench.smoke { &SMOKE_GROUPS } else { &GROUPS };
    let mut gateways = Vec::new();
    for &size in sizes {
        gateways.push(Gateway::fill(&agent, size)?);
    }
    let lasting = bench.lasting(PUSHING);
    let runs = alternate(bench.rounds, &gateways, |gateway| gateway.turn(lasting))?;
    let per_core = |run: &Run| as_float(run.pushes) / run.cpu.as_secs_f64();
    let rows = gateways.iter().zip(&runs).map(|(gateway, runs)| {
        vec![
            gateway.groups.len().to_string().into(),
            Figure::of(runs, |run| as_float(run.pushes) / run.took.as_secs_f64()).into(),
            Figure::of(runs, per_core).into(),
            Figure::of(runs, |run| 1e3 / per_core(run)).into(),
        ]
    });
    let columns = [
        "groups",
        "pushes/s",
        "pushes/s of a core",
        "ms of CPU a push",
    ];
    Ok(Table::new(
        "Pushes to a Pushgateway, one after the other",
        &columns,
        rows,
    ))
}

/// A Pushgateway with a group for each instance that pushes to it.
struct Gateway<'a> {
    agent: &'a ureq::Agent,
    server: Pushgateway,
    catalog: Catalog,
    /// The path of each group.
    groups: Vec<String>,
}

struct Run {
    pushes: u64,
    took: Duration,
    cpu: Duration,
}

impl<'a> Gateway<'a> {
    fn fill(agent: &'a ureq::Agent, groups: usize) -> anyhow::Result<Self> {
        let groups = (0..groups).map(|group| {
            let instance = format!("{group:016x}");
            group_path("functional-scaffold", [("instance", instance.as_str())])
        });
        let gateway = Self {
            agent,
            server: Pushgateway::start()?,
            catalog: Catalog::new(DEFAULT_PREFIX),
            groups: groups.collect(),
        };
        let body = gateway.totals(1)?;
        for group in &gateway.groups {
            gateway.push(group, &body)?;
        }
        Ok(gateway)
    }

    /// Pushes other totals than the last turn did, and checks that they arrived.
    fn turn(&self, lasting: Duration) -> anyhow::Result<Run> {
        let process = self.server.process().id();
        let requests = self.requests()?.iter().max().map_or(1, |most| most + 1);
        let body = self.totals(requests)?;
        let cpu = cpu_of_tree(process)?;
        let (began, mut pushes) = (Instant::now(), 0);
        for group in self.groups.iter().cycle() {
            self.push(group, &body)?;
            pushes += 1;
            if began.elapsed() >= lasting {
                break;
            }
        }
        let took = began.elapsed();
        let cpu = cpu_of_tree(process)?.saturating_sub(cpu);
        let counts = self.requests()?;
        let (found, groups) = (counts.len(), self.groups.len());
        ensure!(found == groups, "{found} of {groups} groups");
        let replaced = counts.iter().filter(|count| **count == requests).count();
        let expected = groups.min(usize::try_from(pushes)?);
        ensure!(
            replaced == expected,
            "{replaced} of {expected} groups have the last push"
        );
        Ok(Run { pushes, took, cpu })
    }

    fn push(&self, group: &str, body: &str) -> anyhow::Result<()> {
        let url = format!("{}{group}", self.server.url());
        let mut response = self.agent.put(url).send(body)?;
        // Read to the end, so that the connection is kept.
        response.body_mut().read_to_vec()?;
        Ok(())
    }

    /// The count of requests in each group.
    fn requests(&self) -> anyhow::Result<Vec<u64>> {
        let text = get(self.agent, &format!("{}/metrics", self.server.url()))?;
        let lines = text.lines();
        let lines = lines.filter(|line| line.starts_with("http_requests_total{code=\"200\""));
        lines
            .map(|line| {
                let value = line.rsplit_once(' ').map(|(_, value)| value);
                let value = value.and_then(|value| value.parse().ok());
                value.with_context(|| format!("no count: {line:?}"))
            })
            .collect()
    }

    /// The push of an instance after this number of requests.
    fn totals(&self, requests: u64) -> anyhow::Result<String> {
        let (name, endpoint) = (algorithm_name(0), endpoint(0));
        let mut totals = Batch::default();
        for (key, field) in self.catalog.zero_cells(&name, &[&endpoint]) {
            totals.inc(key, &field, 0);
        }
        for _ in 0..requests {
            record(&self.catalog, &mut totals, &name, &endpoint, 60_000);
        }
        let families = families_of_totals(&self.catalog.families(), &totals)?;
        Ok(expose(Format::Text, &families))
    }
}
