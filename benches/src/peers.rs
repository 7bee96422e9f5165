//! Section: the service beside the same algorithm and metrics in Python.

use anyhow::Context as _;

use crate::{
    chart::Chart,
    comparison::{Comparison, rate},
    measure::Bench,
    report::{Findings, Target},
    services::{Mode, Python, SMALL, Service, app, fastapi},
    store::Store,
};

pub(crate) fn run(bench: &Bench) -> anyhow::Result<Findings> {
    let python = bench.python.as_deref();
    let python = python.context("there is no Python to compare with; see --python")?;
    let store = Store::start()?;
    let fastapi = |name, counts| fastapi(name, counts, python, &store);
    let services = [
        fastapi("fastapi-redis", Python::Redis)?,
        fastapi("fastapi-prometheus-client", Python::PrometheusClient)?,
        fastapi("fastapi-off", Python::Off)?,
        app("batched", Mode::Durability("batched"), &store)?,
        app("exact", Mode::Durability("exact"), &store)?,
        app("strict", Mode::Durability("strict"), &store)?,
        app("off", Mode::Off, &store)?,
    ];
    let services: Vec<&Service<'_>> = services.iter().collect();
    let comparison = Comparison {
        bench,
        store: &store,
        services: &services,
        invocation: &SMALL,
    };
    let closed = comparison.closed()?;
    let open = comparison.open(&closed.half_of_capacity())?;

    let target = |name, peer, bound| {
        let base = closed.figure(peer, rate);
        let ratio = closed.figure(name, rate).ratio_to(&base);
        Target::at_least(
            format!("`{name}`: throughput, times `{peer}`"),
            bound,
            ratio,
        )
    };
    Ok(Findings {
        title: "Beside FastAPI".into(),
        method: METHOD.into(),
        charts: vec![Chart {
            name: "peers".into(),
            caption: "Requests a second (n = 17, 32 connections)".into(),
            bars: closed.rates(),
        }],
        tables: vec![
            closed.throughput_table("Closed loop, 32 connections, n = 17"),
            open.latency_table("Open loop, n = 17, each at half of its own capacity"),
        ],
        targets: vec![
            target("batched", "fastapi-redis", 2.0),
            target("exact", "fastapi-redis", 1.4),
            target("batched", "fastapi-prometheus-client", 2.0),
            target("exact", "fastapi-prometheus-client", 1.4),
        ],
        notes: vec![NOTE.into()],
    })
}

const METHOD: &str = "\
The same algorithm, metrics, client and Redis, in Python (benches/peers/fastapi/): FastAPI on \
uvicorn with uvloop and httptools, in two processes, each with its own listening socket. \
`fastapi-redis` counts with redis-py and hiredis: one pipeline of the same six commands per request \
over kept connections, awaited before the response. `fastapi-prometheus-client` counts in files, with \
prometheus_client in multiprocess mode. `fastapi-off` does not count.

Each run is checked: every response had status 200, and the counter in Redis, or in `/metrics`, grew \
by just as many.";

const NOTE: &str = "\
Their guarantees differ. With prometheus_client, counts stay on one machine and end with its files. \
With redis-py, a pipeline that fails loses counts, and one whose reply is lost may be sent twice; \
`exact` and `strict` keep [their promises](operations.md#modes-and-what-each-loses) in both cases. \
n = 17 measures only the serving; with a harder number, Python would spend its time in the algorithm.";
