//! What counting costs a `POST /invoke`: nothing counted, each durability, and
//! the naive way; for an algorithm that takes no time and for one that takes
//! about a millisecond.

use std::time::Duration;

use crate::{
    chart::Chart,
    contestant::{Contestant, Mode, Pace, Run},
    report::{Answer, Bound, Cell, Table, Target},
    rounds::{Figure, alternate},
    section::Bench,
    store::Store,
};

/// A prime that is seen at once.
const SMALL: Input = Input {
    name: "n = 17",
    body: r#"{"number": 17}"#,
};
/// The product of the two largest primes below 2^32: next to the hardest there is.
const HARD: Input = Input {
    name: "about 1 ms",
    body: r#"{"number": "18446743979220271189"}"#,
};

struct Input {
    name: &'static str,
    body: &'static str,
}

const LASTING: Duration = Duration::from_secs(4);
const WARM_UP: Duration = Duration::from_secs(1);

/// Measures it.
pub(crate) fn run(bench: &Bench) -> anyhow::Result<Answer> {
    let store = Store::start()?;
    let contestants = [
        Contestant::app("off", Mode::Off, &store)?,
        Contestant::app("relaxed", Mode::Durability("relaxed"), &store)?,
        Contestant::app("exact", Mode::Durability("exact"), &store)?,
        Contestant::app("strict", Mode::Durability("strict"), &store)?,
    ];
    for contestant in &contestants {
        contestant.run(bench, &store, SMALL.body, Pace::Closed(32), WARM_UP)?;
    }
    let closed = |input: &Input, connections| {
        let pace = Pace::Closed(connections);
        let runs = alternate(bench.rounds, &contestants, |contestant| {
            contestant.run(bench, &store, input.body, pace, LASTING)
        })?;
        anyhow::Ok(throughput(input, connections, &contestants, &runs))
    };
    let (small, small_ratios) = closed(&SMALL, 32)?;
    let mut targets = vec![Target {
        claim: "throughput of `relaxed`, times `off`".into(),
        bound: Bound::AtLeast(0.9),
        figure: small_ratios[1].1.clone(),
    }];
    let (hard, hard_ratios) = closed(&HARD, 32)?;
    for (name, figure) in &hard_ratios[1..] {
        targets.push(Target {
            claim: format!("throughput of `{name}` with the 1 ms algorithm, times `off`"),
            bound: Bound::AtLeast(0.95),
            figure: figure.clone(),
        });
    }
    Ok(Answer {
        title: "What counting costs".into(),
        method: "".into(),
        charts: vec![Chart {
            file: "benchmarks-invoke.svg".into(),
            caption: "Throughput beside nothing counted (n = 17)".into(),
            bars: small_ratios,
        }],
        tables: vec![small, hard],
        targets,
        notes: vec![],
    })
}

/// A table, and for each contestant its ratio to the first.
fn throughput(
    input: &Input,
    connections: u32,
    contestants: &[Contestant<'_>],
    runs: &[Vec<Run>],
) -> (Table, Vec<(String, Figure)>) {
    let rate = |runs: &[Run]| Figure::of(runs, |run| run.answered.rate);
    let base = rate(&runs[0]);
    let mut rows: Vec<Vec<Cell>> = Vec::new();
    let mut ratios = Vec::new();
    for (contestant, runs) in contestants.iter().zip(runs) {
        let figure = |quantity: fn(&Run) -> f64| Cell::from(Figure::of(runs, quantity));
        let ratio = rate(runs).ratio_to(&base);
        ratios.push((contestant.name.to_owned(), ratio.clone()));
        rows.push(vec![
            format!("`{}`", contestant.name).into(),
            rate(runs).into(),
            ratio.into(),
            figure(|run| run.server_micros),
            figure(|run| run.redis_micros),
            figure(|run| run.generator_micros),
            figure(|run| run.script_calls),
            figure(|run| run.connections),
        ]);
    }
    let columns = [
        "",
        "requests/s",
        "times `off`",
        "server, µs of CPU a request",
        "Redis, µs",
        "generator, µs",
        "script calls a request",
        "connections for 128 requests",
    ];
    let table = Table {
        caption: format!("{}, {connections} connections, closed loop", input.name),
        columns: columns.map(str::to_owned).into(),
        rows,
    };
    (table, ratios)
}
