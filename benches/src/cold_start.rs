//! Section: the time to the first response of a new instance and of a new server,
//! and the sizes of the components.

use std::{
    fs,
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use functional_scaffold_testkit::{
    process::{Process, poll_until},
    repository,
};
use ureq::Agent;

use crate::{
    exporters::get,
    measure::{Bench, Figure, alternate, as_float, millis},
    report::{Cell, Findings, Table, Target},
    services::{Mode, Python, SMALL, Service, app, exposed_count, fastapi, naive},
    store::Store,
};

/// After a second without requests Spin ends an instance.
const IDLE: Duration = Duration::from_millis(1_500);
/// New instances per round.
const INSTANCES: usize = 4;
const COUNT_TIMEOUT: Duration = Duration::from_secs(5);
const SPIN_TIMEOUT: Duration = Duration::from_secs(60);

pub(crate) fn run(bench: &Bench) -> anyhow::Result<Findings> {
    let service = size("functional_scaffold")?;
    Ok(Findings {
        title: "Cold start and size".into(),
        method: METHOD.into(),
        charts: Vec::new(),
        tables: vec![
            instances(bench)?,
            servers(bench)?,
            sizes()?,
            core_instances(bench)?,
        ],
        targets: vec![Target::at_most("the service component, kB", 500.0, service)],
        notes: Vec::new(),
    })
}

fn instances(bench: &Bench) -> anyhow::Result<Table> {
    let store = Store::start()?;
    let services = [
        app("pull", Mode::Pull, &store)?,
        app("batched", Mode::Durability("batched"), &store)?,
        app("exact", Mode::Durability("exact"), &store)?,
        app("strict", Mode::Durability("strict"), &store)?,
    ];
    let client = Agent::new_with_defaults();
    for service in &services {
        // Opens the client's connection, so that it is not measured.
        invoke(&client, service)?;
    }
    let rounds = bench.rounds * if bench.smoke { 1 } else { INSTANCES };
    let measured = alternate(rounds, &services, |service| {
        sleep(IDLE);
        let connections = store.work()?.connections;
        let first = invoke(&client, service)?;
        let second = invoke(&client, service)?;
        let is_new = || match &service.counted {
            Some(_) => anyhow::Ok(store.work()?.connections == connections + 1),
            // In the pull scheme an instance exposes its own count.
            None => {
                let exposition = get(&client, &format!("{}/metrics", service.origin))?;
                Ok(exposed_count(&exposition, &SMALL)? == 2)
            }
        };
        poll_until(COUNT_TIMEOUT, || {
            let name = service.name;
            ensure!(
                is_new()?,
                "{name}: the responses are not of one new instance"
            );
            Ok(())
        })?;
        Ok((first, second))
    })?;
    let rows = services.iter().zip(&measured).map(|(service, measured)| {
        let first = Figure::of(measured, |(first, _)| *first);
        let second = Figure::of(measured, |(_, second)| *second);
        let longer = first.above(&second);
        let name = format!("`{}`", service.name);
        vec![name.into(), first.into(), second.into(), longer.into()]
    });
    let columns = [
        "",
        "first response, ms",
        "second response, ms",
        "difference, ms",
    ];
    let caption = "A request to a new instance, and the next one";
    Ok(Table::new(caption, &columns, rows))
}

/// Sends a request, and returns the milliseconds until its response.
fn invoke(client: &Agent, service: &Service<'_>) -> anyhow::Result<f64> {
    let url = format!("{}{}", service.origin, SMALL.path);
    let request = client.post(&url).content_type("application/json");
    let began = Instant::now();
    let response = request.send(SMALL.body);
    let mut response = response.with_context(|| service.name.to_owned())?;
    let text = response.body_mut().read_to_string()?;
    let took = began.elapsed();
    let name = service.name;
    ensure!(text.contains(r#""is_prime":true"#), "{name}: {text}");
    Ok(millis(took))
}

/// Starts a server.
type Start = for<'a> fn(&Bench, &'a Store) -> anyhow::Result<Service<'a>>;

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
        invoke(&client, &server)?;
        Ok(began.elapsed())
    })?;
    let took = measured.iter();
    let took: Vec<_> = took
        .map(|took| Figure::of(took, Duration::as_secs_f64))
        .collect();
    let rows = starts.iter().zip(&took).map(|((name, _), figure)| {
        let ratio = figure.ratio_to(&took[0]);
        vec![
            format!("`{name}`").into(),
            figure.clone().into(),
            ratio.into(),
        ]
    });
    let caption = "From the start of a built server to its first response";
    Ok(Table::new(caption, &["", "s", "times `exact`"], rows))
}

fn sizes() -> anyhow::Result<Table> {
    let components = [
        ("the service", "functional_scaffold"),
        ("the example, `prime-check`", "prime_check"),
        ("`naive`", "naive"),
    ];
    let mut rows: Vec<Vec<Cell>> = Vec::new();
    for (name, file) in components {
        rows.push(vec![name.into(), size(file)?.into()]);
    }
    Ok(Table::new("Components", &["", "kB"], rows))
}

/// The size of a built component in thousands of bytes.
fn size(component: &str) -> anyhow::Result<Figure> {
    let file = format!("target/wasm32-wasip2/release/{component}.wasm");
    let file = repository().join(file);
    let metadata = fs::metadata(&file).with_context(|| format!("no {}", file.display()))?;
    Ok(Figure::once(as_float(metadata.len()) / 1e3))
}

/// The core instances in Spin's pool: `total_core_instances` in Spin's
/// crates/core/src/lib.rs.
const CORE_INSTANCES: f64 = 4000.0;

/// The core instances of the composed application. Spin names the number in its
/// error where there are more than the limit.
fn core_instances(bench: &Bench) -> anyhow::Result<Table> {
    let row = if bench.runtime.is_spin() {
        let mut command = Command::new(bench.runtime.program());
        command
            .args(["up", "--listen", "127.0.0.1:0", "--from"])
            .arg(repository().join("spin.toml"))
            .env("SPIN_WASMTIME_CORE_INSTANCE_COUNT", "1");
        let mut spin = Process::start(&mut command)?;
        spin.wait(SPIN_TIMEOUT)?;
        let output = spin.output()?;
        let number = output
            .split_once("transitively contains ")
            .and_then(|(_, rest)| rest.split(' ').next())
            .with_context(|| format!("Spin does not name the core instances:\n{output}"))?;
        let needed: f64 = number.parse()?;
        let instances = (CORE_INSTANCES / needed).floor();
        [needed, instances]
            .map(|number| Figure::once(number).into())
            .to_vec()
    } else {
        vec!["not measured: the runtime is not Spin".into(), "".into()]
    };
    let columns = [
        "of one instance",
        "instances that fit in Spin's pool of 4,000",
    ];
    let caption = "Core instances of the service composed with the example, on Spin";
    Ok(Table::new(caption, &columns, [row]))
}

const METHOD: &str = "\
A new instance: after 1.5 s without requests, in which Spin ends every instance, two requests follow \
one after the other. It is checked that one new instance serves both: Redis has one new connection, or, \
in the pull scheme, which needs none, the instance's own `/metrics` counts two. The first response of \
`exact` and `strict` waits for the connection and for the lease in Redis.

A new server: from the start of its process to the response of a `POST /invoke`. Whether it serves \
is checked every 10 ms. The dev host and Spin compile the components, or find them in their cache.";
