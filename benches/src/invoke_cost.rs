//! Section: what counting costs a `POST /invoke`, by `metrics_durability`, for an
//! algorithm that takes no time and for one that takes about a millisecond.

use crate::{
    chart::Chart,
    comparison::{Comparison, Measured, p99, rate},
    measure::Bench,
    report::{Findings, Target},
    services::{MILLISECOND, Mode, SMALL, Service, app, long_lived_app, naive},
    store::Store,
};

pub(crate) fn run(bench: &Bench) -> anyhow::Result<Findings> {
    let store = Store::start()?;
    let service = [
        app("off", Mode::Off, &store)?,
        app("batched", Mode::Durability("batched"), &store)?,
        app("exact", Mode::Durability("exact"), &store)?,
        app("strict", Mode::Durability("strict"), &store)?,
    ];
    let naive = [
        naive("naive", true, &store)?,
        naive("naive-off", false, &store)?,
    ];
    let long_lived = [
        long_lived_app("off-1024", Mode::Off, &store)?,
        long_lived_app("batched-1024", Mode::Durability("batched"), &store)?,
        long_lived_app("exact-1024", Mode::Durability("exact"), &store)?,
    ];
    let service: Vec<&Service<'_>> = service.iter().collect();
    let and_naive: Vec<_> = service.iter().copied().chain([&naive[0]]).collect();
    let all: Vec<_> = service.iter().copied().chain(&naive).collect();
    let compare = |services, invocation| Comparison {
        bench,
        store: &store,
        services,
        invocation,
    };

    let closed = compare(&all, &SMALL).closed()?;
    let capacities = closed.half_of_capacity();
    let half = compare(&and_naive, &SMALL).open(&capacities)?;
    // The rate of the slowest mode, which is beyond the capacity of `naive`.
    let same_rate = capacities[service.len() - 1];
    let same = compare(&service, &SMALL).open(&vec![same_rate; service.len()])?;
    let millisecond = compare(&and_naive, &MILLISECOND).closed()?;
    let long_lived = compare(&long_lived.each_ref(), &SMALL).closed()?;

    let on_spin = bench.runtime.is_spin();
    let mut targets = throughput_targets(&closed, &long_lived, &millisecond, on_spin);
    targets.extend(latency_targets(
        &half,
        "each at half of its own capacity",
        on_spin,
    ));
    targets.extend(latency_targets(&same, "all at the same rate", on_spin));
    Ok(Findings {
        title: "What counting costs".into(),
        method: METHOD.into(),
        charts: vec![Chart {
            name: "invoke".into(),
            caption: "Requests a second (n = 17, 32 connections)".into(),
            bars: closed.rates(),
        }],
        tables: vec![
            closed.throughput_table("Closed loop, 32 connections, n = 17"),
            long_lived.throughput_table(
                "Closed loop, 32 connections, n = 17, 1,024 requests an instance",
            ),
            millisecond.throughput_table("Closed loop, 32 connections, an algorithm of about 1 ms"),
            half.latency_table("Open loop, n = 17, each at half of its own capacity"),
            same.latency_table("Open loop, n = 17, all at half of the capacity of `strict`"),
        ],
        targets,
        notes: vec![NOTE.into()],
    })
}

fn throughput_targets(
    closed: &Measured,
    long_lived: &Measured,
    millisecond: &Measured,
    on_spin: bool,
) -> Vec<Target> {
    let times = |base, measured: &Measured, name| {
        let base = measured.figure(base, rate);
        measured.figure(name, rate).ratio_to(&base)
    };
    let times_off = |measured: &Measured, name| times("off", measured, name);
    let batched = if on_spin { 0.92 } else { 0.95 };
    let modes = [("batched", batched), ("exact", 0.75), ("strict", 0.65)];
    let mut targets = Vec::new();
    for (name, bound) in modes {
        let claim = format!("`{name}`: throughput, times `off`");
        targets.push(Target::at_least(claim, bound, times_off(closed, name)));
    }
    targets.push(Target::at_least(
        "`batched`, 1,024 requests an instance: throughput, times `off`",
        0.95,
        times("off-1024", long_lived, "batched-1024"),
    ));
    for (name, _) in modes {
        let claim = format!("`{name}`: throughput with an algorithm of 1 ms, times `off`");
        targets.push(Target::at_least(claim, 0.95, times_off(millisecond, name)));
    }
    let commands = closed.figure("batched", |run| run.commands);
    let claim = "`batched`: Redis commands a request under load";
    targets.push(Target::at_most(claim, 0.2, commands));
    // The last instances of a load serve fewer than 128 requests.
    for (name, _) in modes {
        let claim = format!("`{name}`: connections to Redis for 128 requests, one an instance");
        let connections = closed.figure(name, |run| run.connections);
        targets.push(Target::at_most(claim, 1.1, connections));
    }
    targets
}

fn latency_targets(open: &Measured, pace: &str, on_spin: bool) -> Vec<Target> {
    let off = open.figure("off", p99);
    let batched = open.figure("batched", p99).ratio_to(&off);
    let exact = open.figure("exact", p99).above(&off);
    let mut targets = vec![
        Target::at_most(format!("`batched`: p99, {pace}, times `off`"), 1.1, batched),
        Target::at_most(format!("`exact`: p99, {pace}, above `off`, ms"), 1.0, exact),
    ];
    if on_spin {
        // The second part of a response that leaves in two waits for 40 ms.
        let claim = format!("`exact`: p99.9, {pace}, ms: no step at 40");
        let p999 = open.figure("exact", |run| run.responses.p999);
        targets.push(Target::at_most(claim, 35.0, p999));
    }
    targets
}

const METHOD: &str = "\
`POST /invoke` to the service with metrics off, with each `metrics_durability`, and to a component \
written the straightforward way (`naive`, benches/components/naive/: the SDK's Redis client, a \
connection and six commands per request; `naive-off` is the same without them). Instances \
serve 128 requests, which is the default; those of `off-1024`, `batched-1024` and `exact-1024` serve \
1,024 (`--max-instance-reuse-count`, [ADR 46](adr/0046-what-batched-costs.md)). All run at the same \
time on one Redis (append-only, `everysec`), and one at a time is under load, for 3 s.

In the closed loop, each of 32 connections sends its next request after the last response. In the \
open loop, requests are due at a fixed rate, and latency counts from the due time (no coordinated \
omission): once at half of each service's capacity, once at the same rate for all.

Each run is checked: every response had status 200, and `request_counter` in Redis grew by just as \
many.";

const NOTE: &str = "\
Server, Redis and the load generator share this machine's cores, so processor time that one saves is \
available to the others. The generator is oha, because it waits for the requests in flight at the end, \
so that responses and counts can be compared. In the open loop it sleeps between requests with a timer \
of one millisecond, so a few requests come together.";
