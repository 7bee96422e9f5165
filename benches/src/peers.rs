//! Beside what somebody would write instead: the same algorithm and the same
//! metrics, in Python.

use anyhow::Context as _;

use crate::{
    chart::Chart,
    comparison::{Comparison, rate},
    contestant::{Contestant, SMALL},
    report::{Answer, Target},
    section::Bench,
    services::{Mode, Python, app, fastapi},
    store::Store,
};

/// Measures it.
///
/// # Errors
/// What was timed did not happen.
pub(crate) fn run(bench: &Bench) -> anyhow::Result<Answer> {
    let python = bench.python.as_deref();
    let python = python.context("there is no Python to compare with; see --python")?;
    let store = Store::start()?;
    let contestants = [
        fastapi("fastapi-redis", Python::Redis, python, &store)?,
        fastapi(
            "fastapi-prometheus-client",
            Python::PrometheusClient,
            python,
            &store,
        )?,
        fastapi("fastapi-off", Python::Off, python, &store)?,
        app("relaxed", Mode::Durability("relaxed"), &store)?,
        app("exact", Mode::Durability("exact"), &store)?,
        app("strict", Mode::Durability("strict"), &store)?,
        app("off", Mode::Off, &store)?,
    ];
    let contestants: Vec<&Contestant<'_>> = contestants.iter().collect();
    let comparison = Comparison {
        bench,
        store: &store,
        contestants: &contestants,
        request: &SMALL,
    };
    let closed = comparison.closed()?;
    let open = comparison.open(&closed.half_of_capacity())?;

    let target = |name, peer, bound| {
        let ratio = closed
            .figure(name, rate)
            .ratio_to(&closed.figure(peer, rate));
        Target::at_least(
            format!("`{name}`: throughput, times `{peer}`"),
            bound,
            ratio,
        )
    };
    Ok(Answer {
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
            target("relaxed", "fastapi-redis", 2.0),
            target("exact", "fastapi-redis", 1.4),
            target("relaxed", "fastapi-prometheus-client", 2.0),
            target("exact", "fastapi-prometheus-client", 1.4),
        ],
        notes: vec![NOTE.into()],
    })
}

const METHOD: &str = "\
The same algorithm, metrics, client and Redis, and in Python what somebody would write instead \
(benches/peers/fastapi/): FastAPI on uvicorn with uvloop and httptools, two workers. \
`fastapi-redis` counts with redis-py and hiredis, one pipeline of the same six commands a \
request over connections that are kept, awaited before the answer; `fastapi-prometheus-client` \
counts in files, by prometheus_client in multiprocess mode; `fastapi-off` not at all.

Each run is checked: every request was answered with 200, and the counter in Redis, or in what \
`/metrics` answers, grew by just as many.";

const NOTE: &str = "\
What they keep differs: with prometheus_client, counts are on one machine and gone with its \
files; a pipeline that fails, or that was applied though its answer was lost, is nobody's to \
count again; `exact` and `strict` hold [what they \
promise](operations.md#modes-and-what-each-loses) through both. n = 17 is nothing but the \
serving; a harder number, in Python, is nothing but the algorithm.";
