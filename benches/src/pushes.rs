//! Pushes to a real Pushgateway, as its groups grow: each is the totals of an
//! instance, in a group of its own.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use functional_scaffold_protocol::{
    batch::Batch,
    calls::DEFAULT_PREFIX,
    catalog::{Catalog, ExecutionStatus, FinishedExecution, FinishedRequest, RequestLabels},
    exposition::{Format, expose},
    pushgateway::group_path,
    series::families_of_totals,
};
use functional_scaffold_tests::pushgateway::Pushgateway;

use crate::{
    cpu,
    instance::{algorithm_name, endpoint},
    load::as_float,
    report::{Cell, Table},
    rounds::{Figure, alternate},
    section::Bench,
    server::MAX_SCRAPE_BYTES,
};

const GROUPS: [usize; 3] = [1, 100, 1_000];
const SMOKE_GROUPS: [usize; 2] = [1, 10];
const LASTING: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(20);

/// Measures it.
///
/// # Errors
/// A push was not taken, or is not there.
pub(crate) fn measure(bench: &Bench) -> anyhow::Result<Table> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let agent = ureq::Agent::config_builder()
        .timeout_global(Some(TIMEOUT))
        .build()
        .into();
    let sizes: &[usize] = if bench.smoke { &SMOKE_GROUPS } else { &GROUPS };
    let mut gateways = Vec::new();
    for &size in sizes {
        let server = runtime.block_on(Pushgateway::start())?;
        gateways.push(Gateway::fill(&agent, server, size)?);
    }
    let lasting = bench.lasting(LASTING);
    let runs = alternate(bench.rounds, &gateways, |gateway| gateway.turn(lasting))?;
    let of_a_core = |run: &Run| as_float(run.pushes) / run.used.as_secs_f64();
    let rows = gateways.iter().zip(&runs).map(|(gateway, runs)| {
        let cells: [Cell; 4] = [
            gateway.groups.len().to_string().into(),
            Figure::of(runs, |run| as_float(run.pushes) / run.took.as_secs_f64()).into(),
            Figure::of(runs, of_a_core).into(),
            Figure::of(runs, |run| 1e3 / of_a_core(run)).into(),
        ];
        cells.to_vec()
    });
    let columns = [
        "groups",
        "pushes/s",
        "pushes/s of a core",
        "ms of CPU a push",
    ];
    Ok(Table {
        caption: "Pushes to a Pushgateway, one after the other".into(),
        columns: columns.map(str::to_owned).into(),
        rows: rows.collect(),
    })
}

/// A Pushgateway, and the instances that push to it.
struct Gateway<'a> {
    agent: &'a ureq::Agent,
    server: Pushgateway,
    catalog: Catalog,
    /// The path of each instance's group.
    groups: Vec<String>,
}

/// One turn.
struct Run {
    pushes: u64,
    took: Duration,
    used: Duration,
}

impl<'a> Gateway<'a> {
    fn fill(agent: &'a ureq::Agent, server: Pushgateway, groups: usize) -> anyhow::Result<Self> {
        let groups = (0..groups).map(|group| {
            let instance = format!("{group:016x}");
            group_path("functional-scaffold", [("instance", instance.as_str())])
        });
        let gateway = Self {
            agent,
            server,
            catalog: Catalog::new(DEFAULT_PREFIX),
            groups: groups.collect(),
        };
        let body = gateway.totals(1)?;
        for group in &gateway.groups {
            gateway.push(group, &body)?;
        }
        Ok(gateway)
    }

    fn turn(&self, lasting: Duration) -> anyhow::Result<Run> {
        let process = self.server.process_id();
        // Each turn begins with other totals than the last one left.
        let already = self.requests()?;
        let requests = already.iter().max().map_or(1, |most| most + 1);
        let body = self.totals(requests)?;
        let used = cpu::of_tree(process)?;
        let (began, mut pushes) = (Instant::now(), 0);
        for group in self.groups.iter().cycle() {
            self.push(group, &body)?;
            pushes += 1;
            if began.elapsed() >= lasting {
                break;
            }
        }
        let took = began.elapsed();
        let used = cpu::of_tree(process)?.saturating_sub(used);
        let counts = self.requests()?;
        ensure!(
            counts.len() == self.groups.len(),
            "{} groups of {}",
            counts.len(),
            self.groups.len()
        );
        let replaced = counts.iter().filter(|count| **count == requests).count();
        let expected = self.groups.len().min(usize::try_from(pushes)?);
        ensure!(
            replaced == expected,
            "{replaced} groups of {expected} have what was pushed"
        );
        Ok(Run { pushes, took, used })
    }

    fn push(&self, group: &str, body: &str) -> anyhow::Result<()> {
        let url = format!("{}{group}", self.server.url());
        let mut answer = self.agent.put(url).send(body)?;
        // Read to its end, so that the connection is kept.
        answer.body_mut().read_to_vec()?;
        Ok(())
    }

    /// The count of answered requests in each group.
    fn requests(&self) -> anyhow::Result<Vec<u64>> {
        let url = format!("{}/metrics", self.server.url());
        let mut answer = self.agent.get(url).call()?;
        let body = answer.body_mut().with_config().limit(MAX_SCRAPE_BYTES);
        let text = body.read_to_string()?;
        let lines = text
            .lines()
            .filter(|line| line.starts_with("http_requests_total{code=\"200\""));
        lines
            .map(|line| {
                let value = line
                    .rsplit_once(' ')
                    .and_then(|(_, value)| value.parse().ok());
                value.with_context(|| format!("no count: {line:?}"))
            })
            .collect()
    }

    /// What an instance pushes after so many requests.
    fn totals(&self, requests: u64) -> anyhow::Result<String> {
        let (name, endpoint) = (algorithm_name(0), endpoint(0));
        let mut totals = Batch::default();
        for (key, field) in self.catalog.zero_cells(&name, &[&endpoint]) {
            totals.inc(key, &field, 0);
        }
        for _ in 0..requests {
            let request = FinishedRequest {
                labels: RequestLabels::new("POST", &endpoint, 200),
                duration_nanos: 60_000,
            };
            self.catalog.record_request(&mut totals, &request);
            let execution = FinishedExecution {
                algorithm: &name,
                status: ExecutionStatus::Success,
                duration_nanos: 30_000,
            };
            self.catalog.record_execution(&mut totals, &execution);
        }
        let families = families_of_totals(&self.catalog.families(), &totals)?;
        Ok(expose(Format::Text, &families))
    }
}
