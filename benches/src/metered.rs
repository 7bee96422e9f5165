//! Section: what the middleware costs a hello-world app, beside the app alone and beside
//! middleware that does nothing; and what an app's own counter costs beside an `INCR`.

use crate::{
    comparison::{Comparison, Measured, p99, rate},
    measure::Bench,
    report::{Findings, Target},
    services::{COUNTED, HELLO, Mode, Service, WORK, counting, hello},
    store::Store,
};

pub(crate) fn run(bench: &Bench) -> anyhow::Result<Findings> {
    let store = Store::start()?;
    let services = [
        hello("alone", "alone", Mode::Off, &store)?,
        hello("pass-through", "pass-through", Mode::Off, &store)?,
        hello("off", "metered", Mode::Off, &store)?,
        hello("batched", "metered", Mode::Durability("batched"), &store)?,
        hello("exact", "metered", Mode::Durability("exact"), &store)?,
    ];
    let services: Vec<&Service<'_>> = services.iter().collect();
    let compare = |invocation| Comparison {
        bench,
        store: &store,
        services: &services,
        invocation,
    };
    let closed = compare(&HELLO).closed()?;
    let millisecond = compare(&WORK).closed()?;
    // A rate that all of them can serve.
    let exact = closed.figure("exact", rate).median() / 2.0;
    let open = compare(&HELLO).open(&vec![exact; services.len()])?;
    let counting = [
        counting("none", "/none", &store)?,
        counting("counter", "/counter", &store)?,
        counting("incr", "/incr", &store)?,
    ];
    let counting: Vec<&Service<'_>> = counting.iter().collect();
    let counted = Comparison {
        bench,
        store: &store,
        services: &counting,
        invocation: &COUNTED,
    };
    let counted = counted.closed()?;
    Ok(Findings {
        title: "What middleware costs an app".into(),
        method: METHOD.into(),
        charts: Vec::new(),
        tables: vec![
            closed.throughput_table("Closed loop, 32 connections, hello world"),
            millisecond.throughput_table("Closed loop, 32 connections, about 1 ms of work"),
            open.latency_table("Open loop, hello world, all at half of the capacity of `exact`"),
            counted.throughput_table("Closed loop, 32 connections, a count in each request"),
        ],
        targets: targets(&closed, &millisecond, &open),
        notes: Vec::new(),
    })
}

fn targets(closed: &Measured, millisecond: &Measured, open: &Measured) -> Vec<Target> {
    let throughput = |measured: &Measured, base| {
        let base = measured.figure(base, rate);
        measured.figure("batched", rate).ratio_to(&base)
    };
    let mut targets = vec![
        Target::at_least(
            "middleware, `batched`: throughput, times `pass-through`",
            0.9,
            throughput(closed, "pass-through"),
        ),
        Target::at_least(
            "middleware, `batched`: throughput with 1 ms of work, times `alone`",
            0.97,
            throughput(millisecond, "alone"),
        ),
    ];
    // The second part of a response that leaves in two waits for 40 ms on Spin.
    let alone = open.figure("alone", p99);
    for mode in ["batched", "exact"] {
        let above = open.figure(mode, p99).above(&alone);
        let claim = format!("middleware, `{mode}`: p99 above `alone`, ms: no step of 40");
        targets.push(Target::at_most(claim, 35.0, above));
    }
    targets
}

const METHOD: &str = "\
`POST` to a hello-world app (benches/components/hello/, the SDK's `#[http_service]`) alone, behind \
middleware that hands requests and responses through (benches/components/pass-through/), and behind \
this repository's middleware with metrics off, `batched` and `exact`. All run at the same time on one \
Redis, and one at a time is under load, for 3 s.

The last table is of an app that counts one greeting in each request \
(benches/components/counting/): by the `metrics` crate (`counter`), and by a connection to Redis and \
`INCR` (`incr`), as the SDK's examples do it.

Each run is checked: every response had status 200, and the count in Redis grew by just as many.";
