//! What it takes until there is an answer: of an instance that is new, of a
//! server that is new; and how large the parts are.

use std::{
    env, fs,
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use functional_scaffold_tests::{
    process::{Process, poll_until},
    repository,
};
use ureq::Agent;

use crate::{
    contestant::{Contestant, SMALL},
    load::as_float,
    report::{Answer, Cell, Table, Target},
    rounds::{Figure, alternate},
    section::Bench,
    services::{Mode, Python, app, fastapi, naive},
    store::Store,
};

/// Spin ends an instance that had nothing to do for a second.
const IDLE: Duration = Duration::from_millis(1_500);
/// How many new instances a round takes.
const INSTANCES: usize = 4;
const COUNT_TIMEOUT: Duration = Duration::from_secs(5);

/// Measures it.
///
/// # Errors
/// What was timed did not happen.
pub(crate) fn run(bench: &Bench) -> anyhow::Result<Answer> {
    let api = size("functional_scaffold")?;
    Ok(Answer {
        title: "Cold start and size".into(),
        method: METHOD.into(),
        charts: Vec::new(),
        tables: vec![
            instances(bench)?,
            servers(bench)?,
            sizes()?,
            core_instances()?,
        ],
        targets: vec![Target::at_most("the api component, kB", 500.0, api)],
        notes: Vec::new(),
    })
}

/// Latencies in milliseconds.
struct Instance {
    first: f64,
    second: f64,
}

fn instances(bench: &Bench) -> anyhow::Result<Table> {
    let store = Store::start()?;
    let services = [
        app("pull", Mode::Pull, &store)?,
        app("relaxed", Mode::Durability("relaxed"), &store)?,
        app("exact", Mode::Durability("exact"), &store)?,
        app("strict", Mode::Durability("strict"), &store)?,
    ];
    let client = Agent::new_with_defaults();
    for service in &services {
        // Opens the client's connection, which is not to be measured.
        post(&client, service)?;
    }
    let rounds = bench.rounds * if bench.smoke { 1 } else { INSTANCES };
    let measured = alternate(rounds, &services, |service| {
        sleep(IDLE);
        let connections = store.work()?.connections;
        let first = post(&client, service)?;
        let second = post(&client, service)?;
        let is_new = || match &service.counted {
            Some(_) => anyhow::Ok(store.work()?.connections == connections + 1),
            None => Ok(own_count(&client, service)? == 2),
        };
        poll_until(COUNT_TIMEOUT, || {
            ensure!(
                is_new()?,
                "{}: both answers are not of one new instance",
                service.name
            );
            Ok(())
        })?;
        Ok(Instance { first, second })
    })?;
    let rows = services.iter().zip(&measured).map(|(service, measured)| {
        let first = Figure::of(measured, |instance| instance.first);
        let second = Figure::of(measured, |instance| instance.second);
        let longer = first.above(&second);
        vec![
            format!("`{}`", service.name).into(),
            first.into(),
            second.into(),
            longer.into(),
        ]
    });
    Ok(Table {
        caption: "A request to a new instance, and the next one".into(),
        columns: [
            "",
            "first answer, ms",
            "second answer, ms",
            "difference, ms",
        ]
        .map(str::to_owned)
        .into(),
        rows: rows.collect(),
    })
}

/// How many requests an instance says it has answered itself.
fn own_count(client: &Agent, service: &Contestant<'_>) -> anyhow::Result<u64> {
    let url = format!("{}/metrics", service.origin);
    let text = client.get(&url).call()?.body_mut().read_to_string()?;
    let series = format!("http_requests_total{{{}}} ", SMALL.labels.to_text());
    let sample = text.lines().find_map(|line| line.strip_prefix(&series));
    Ok(sample.map_or(Ok(0), str::parse)?)
}

/// Sends one request and says how many milliseconds its answer took.
fn post(client: &Agent, service: &Contestant<'_>) -> anyhow::Result<f64> {
    let url = format!("{}{}", service.origin, SMALL.path);
    let began = Instant::now();
    let answer = client
        .post(&url)
        .content_type("application/json")
        .send(SMALL.body);
    let text = answer
        .with_context(|| service.name.to_owned())?
        .body_mut()
        .read_to_string()?;
    let took = began.elapsed();
    ensure!(
        text.contains(r#""is_prime":true"#),
        "{}: {text}",
        service.name
    );
    Ok(took.as_secs_f64() * 1e3)
}

/// How a server is started.
type Start = for<'a> fn(&Bench, &'a Store) -> anyhow::Result<Contestant<'a>>;

fn servers(bench: &Bench) -> anyhow::Result<Table> {
    let mut starts: Vec<(&str, Start)> = vec![
        ("exact", |_, store| {
            app("exact", Mode::Durability("exact"), store)
        }),
        ("naive", |_, store| naive("naive", true, store)),
    ];
    if bench.python.is_some() {
        starts.push(("fastapi-redis", |bench, store| {
            let python = bench.python.as_deref().context("no Python")?;
            fastapi("fastapi-redis", Python::Redis, python, store)
        }));
    }
    let store = Store::start()?;
    let client = Agent::new_with_defaults();
    let measured = alternate(bench.rounds, &starts, |(_, start)| {
        let began = Instant::now();
        let server = start(bench, &store)?;
        post(&client, &server)?;
        Ok(began.elapsed())
    })?;
    let took = measured
        .iter()
        .map(|took| Figure::of(took, Duration::as_secs_f64));
    let took: Vec<Figure> = took.collect();
    let rows = starts.iter().zip(&took).map(|((name, _), figure)| {
        let ratio = figure.ratio_to(&took[0]);
        vec![
            format!("`{name}`").into(),
            figure.clone().into(),
            ratio.into(),
        ]
    });
    Ok(Table {
        caption: "From the start of a server that is built to its first answer".into(),
        columns: ["", "s", "times `exact`"].map(str::to_owned).into(),
        rows: rows.collect(),
    })
}

fn sizes() -> anyhow::Result<Table> {
    let row = |what: &str, file: &str| -> anyhow::Result<Vec<Cell>> {
        Ok(vec![what.into(), size(file)?.into()])
    };
    Ok(Table {
        caption: "Components".into(),
        columns: ["", "kB"].map(str::to_owned).into(),
        rows: vec![
            row("api", "functional_scaffold")?,
            row("the example, `prime-check`", "prime_check")?,
            row("`naive`", "naive")?,
        ],
    })
}

/// Of a built component, in thousands of bytes.
fn size(component: &str) -> anyhow::Result<Figure> {
    let file = format!("target/wasm32-wasip2/release/{component}.wasm");
    let file = repository().join(file);
    let metadata = fs::metadata(&file).with_context(|| format!("no {}", file.display()))?;
    Ok(Figure::of(&[metadata.len()], |bytes| {
        as_float(*bytes) / 1e3
    }))
}

/// How many core instances Spin's pool holds; `total_core_instances` in Spin's
/// crates/core/src/lib.rs.
const CORE_INSTANCES: f64 = 4000.0;

/// The core instances of a composed application. Spin says how many there are
/// when there are more than it may take, and does not start then.
fn core_instances() -> anyhow::Result<Table> {
    let mut rows = Vec::new();
    if let Some(spin) = env::var_os("SPIN_BIN") {
        let mut command = Command::new(spin);
        command
            .args(["up", "--listen", "127.0.0.1:0", "--from"])
            .arg(repository().join("spin.toml"))
            .env("SPIN_WASMTIME_CORE_INSTANCE_COUNT", "1");
        let mut spin = Process::start(&mut command, "it is what SPIN_BIN names")?;
        spin.wait(Duration::from_secs(60))?;
        let output = spin.output()?;
        let number = output
            .split_once("transitively contains ")
            .and_then(|(_, rest)| rest.split(' ').next())
            .with_context(|| format!("Spin does not say how many core instances:\n{output}"))?;
        let taken: f64 = number.parse()?;
        let figure = |value: f64| Cell::from(Figure::of(&[value], |value| *value));
        rows.push(vec![
            figure(taken),
            figure((CORE_INSTANCES / taken).floor()),
        ]);
    } else {
        rows.push(vec!["not asked: `SPIN_BIN` was not set".into(), "".into()]);
    }
    Ok(Table {
        caption: "Core instances of the service composed with the example, on Spin".into(),
        columns: [
            "of one instance",
            "instances that Spin's pool of 4,000 holds",
        ]
        .map(str::to_owned)
        .into(),
        rows,
    })
}

const METHOD: &str = "\
A new instance: nothing was asked for 1.5 s, after which Spin has ended every instance, and then \
two requests came one after the other. That both were answered by one new instance is checked: \
Redis saw one new connection, or, in the pull scheme, which needs none, the instance's own \
`/metrics` counted two. The first answer of `exact` and `strict` waits for the connection and \
for Redis to take the lease.

A new server: from the start of its process to the answer of a `POST /invoke`. It is looked every \
10 ms whether it serves. The dev host and Spin compile the components, or find them in their \
cache.";
