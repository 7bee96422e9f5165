//! What counting costs a `POST /invoke`: nothing counted, each durability, and
//! the naive way; for an algorithm that takes no time and for one that takes
//! about a millisecond.

use functional_scaffold_tests::app::on_spin;

use crate::{
    chart::Chart,
    comparison::{Comparison, Measured, p99, rate},
    contestant::{Contestant, MILLISECOND, SMALL},
    report::{Answer, Target},
    section::Bench,
    services::{Mode, app, naive},
    store::Store,
};

/// Measures it.
///
/// # Errors
/// What was timed did not happen.
pub(crate) fn run(bench: &Bench) -> anyhow::Result<Answer> {
    let store = Store::start()?;
    let service = [
        app("off", Mode::Off, &store)?,
        app("relaxed", Mode::Durability("relaxed"), &store)?,
        app("exact", Mode::Durability("exact"), &store)?,
        app("strict", Mode::Durability("strict"), &store)?,
    ];
    let naive = [
        naive("naive", true, &store)?,
        naive("naive-off", false, &store)?,
    ];
    let service: Vec<&Contestant<'_>> = service.iter().collect();
    let and_naive: Vec<_> = service.iter().copied().chain([&naive[0]]).collect();
    let all: Vec<_> = service.iter().copied().chain(&naive).collect();
    let compare = |contestants, request| Comparison {
        bench,
        store: &store,
        contestants,
        request,
    };

    let closed = compare(&all, &SMALL).closed()?;
    let capacities = closed.half_of_capacity();
    let half = compare(&and_naive, &SMALL).open(&capacities)?;
    // The slowest of the modes; the naive way could not take it.
    let same_rate = capacities[service.len() - 1];
    let same = compare(&service, &SMALL).open(&vec![same_rate; service.len()])?;
    let millisecond = compare(&and_naive, &MILLISECOND).closed()?;

    let mut targets = throughput_targets(&closed, &millisecond);
    targets.extend(latency_targets(&half, "each at half of its own capacity"));
    targets.extend(latency_targets(&same, "all at the same rate"));
    Ok(Answer {
        title: "What counting costs".into(),
        method: METHOD.into(),
        charts: vec![Chart {
            name: "invoke".into(),
            caption: "Requests a second (n = 17, 32 connections)".into(),
            bars: closed.rates(),
        }],
        tables: vec![
            closed.throughput_table("Closed loop, 32 connections, n = 17"),
            millisecond.throughput_table("Closed loop, 32 connections, an algorithm of about 1 ms"),
            half.latency_table("Open loop, n = 17, each at half of its own capacity"),
            same.latency_table("Open loop, n = 17, all at half of the capacity of `strict`"),
        ],
        targets,
        notes: vec![NOTE.into()],
    })
}

fn throughput_targets(closed: &Measured, millisecond: &Measured) -> Vec<Target> {
    let times_off = |measured: &Measured, name| {
        let off = measured.figure("off", rate);
        measured.figure(name, rate).ratio_to(&off)
    };
    let modes = [("relaxed", 0.9), ("exact", 0.75), ("strict", 0.65)];
    let mut targets: Vec<Target> = modes
        .iter()
        .map(|(name, bound)| {
            let claim = format!("`{name}`: throughput, times `off`");
            Target::at_least(claim, *bound, times_off(closed, name))
        })
        .collect();
    for (name, _) in modes {
        let claim = format!("`{name}`: throughput with an algorithm of 1 ms, times `off`");
        targets.push(Target::at_least(claim, 0.95, times_off(millisecond, name)));
    }
    targets.push(Target::at_most(
        "`relaxed`: Redis commands a request under load",
        0.2,
        closed.figure("relaxed", |run| run.commands),
    ));
    // An instance takes 128 requests; those of a load's end have taken fewer.
    for (name, _) in modes {
        targets.push(Target::at_most(
            format!("`{name}`: connections to Redis for 128 requests, which is one an instance"),
            1.1,
            closed.figure(name, |run| run.connections),
        ));
    }
    targets
}

fn latency_targets(open: &Measured, pace: &str) -> Vec<Target> {
    let off = open.figure("off", p99);
    let mut targets = vec![
        Target::at_most(
            format!("`relaxed`: p99, {pace}, times `off`"),
            1.1,
            open.figure("relaxed", p99).ratio_to(&off),
        ),
        Target::at_most(
            format!("`exact`: p99, {pace}, above `off`, ms"),
            1.0,
            open.figure("exact", p99).above(&off),
        ),
    ];
    if on_spin() {
        // Where a response leaves in two pieces, the second waits that long.
        targets.push(Target::at_most(
            format!("`exact`: p99.9, {pace}, ms: no step at 40"),
            35.0,
            open.figure("exact", |run| run.answered.p999),
        ));
    }
    targets
}

const METHOD: &str = "\
`POST /invoke` against the service with metrics off, with each `metrics_durability`, and against \
a component that does as one would at first (`naive`, benches/components/naive/: with the SDK's \
means alone, a connection and six commands a request; `naive-off` is the same without). All of \
them run at the same time, one Redis (append-only, `everysec`) serves all, and one at a time is \
under load, for 3 s.

In the closed loop each of 32 connections sends its next request when the last is answered. In \
the open loop requests are due at a rate, and latency counts from when one was due (no \
coordinated omission): once at half of what each could take, once at one rate for all.

Each run is checked: every request was answered with 200, and `request_counter` in Redis grew by \
just as many.";

const NOTE: &str = "\
Server, Redis and the load generator share this machine's cores, so what one of them spares \
another has. The generator is oha: of the usual ones it alone waits for the requests under way \
at the end, without which answers and counts could not be compared. It takes some 12 µs a request \
in the closed loop, wrk some 7, and ratios come out higher by a percent or so for it. At a rate \
it sleeps between requests as exactly as its timer is, to the millisecond, so a few come \
together.";
