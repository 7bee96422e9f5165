//! What a scrape costs, beside reading the same hashes and throwing them away,
//! and beside an exporter in Python.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::ensure;

use crate::{
    cpu,
    filled::{Filled, SERIES_OF_AN_ALGORITHM},
    load::as_float,
    probe::Probe,
    report::{Answer, Bound, Cell, Table, Target},
    rounds::{Figure, alternate},
    section::Bench,
    server::{Network, Server},
    store::Store,
};

const SIZES: [Size; 4] = [
    Size::of(1_000, 20),
    Size::of(10_000, 5),
    COMPARED,
    // Once: the Python exporter takes half a minute for each.
    Size {
        rounds: Some(1),
        ..Size::of(1_000_000, 1)
    },
];
/// Where the aims are set.
const COMPARED: Size = Size::of(100_000, 2);
const SMOKE: Size = Size::of(1_000, 1);

/// How many series, and how often they are read in a turn.
#[derive(Clone, Copy)]
struct Size {
    series: u64,
    scrapes: u32,
    rounds: Option<usize>,
}

impl Size {
    const fn of(series: u64, scrapes: u32) -> Self {
        Self {
            series,
            scrapes,
            rounds: None,
        }
    }
}

/// Redis says of every command that takes longer, in microseconds.
const SLOW_MICROS: &str = "100";
const NOBODY: Duration = Duration::from_millis(300);

/// Measures it.
pub(crate) fn run(bench: &Bench) -> anyhow::Result<Answer> {
    let sizes: &[Size] = if bench.smoke { &[SMOKE] } else { &SIZES };
    let mut tables = Vec::new();
    let mut targets = Vec::new();
    for size in sizes {
        let (table, reached) = measure(bench, *size)?;
        tables.push(table);
        if size.series == COMPARED.series {
            targets = reached;
        }
    }
    Ok(Answer {
        title: "What a scrape costs".into(),
        method: format!(
            "Redis holds the service's own families, with the {SERIES_OF_AN_ALGORITHM} series of \
             each of many algorithms, every bucket in use. *Read and discarded* is a native client \
             that reads the same hashes page by page (`HSCAN`, the exporter's page), the next page \
             of each at once, and throws them away: the limit. *In Python* is a collector of \
             `prometheus_client` with redis-py and hiredis that reads each hash with one `HGETALL` \
             (`benches/peers/exporter`). Before they are timed, each exporter's scrape is compared \
             sample by sample with what was stored; every timed one has to have as many samples. \
             The longest wait is that of a second client, which pings Redis all the while; what it \
             is with nobody reading is the machine's own. The longest command is by Redis's clock \
             (`SLOWLOG`), 0 where none took {SLOW_MICROS} µs."
        ),
        tables,
        charts: vec![],
        targets,
        notes: vec![],
    })
}

/// Who reads.
enum Reader {
    Nobody,
    Discarding,
    Serving(Server),
}

/// One turn, each quantity of one scrape but the longest ones.
struct Run {
    millis: f64,
    reader_millis: f64,
    redis_millis: f64,
    longest_wait_millis: f64,
    longest_command_millis: f64,
}

fn measure(bench: &Bench, size: Size) -> anyhow::Result<(Table, Vec<Target>)> {
    let store = Store::start()?;
    let mut filled = Filled::fill(store.port(), size.series / SERIES_OF_AN_ALGORITHM)?;
    let _: () = store.call(&["CONFIG", "SET", "slowlog-log-slower-than", SLOW_MICROS])?;
    let _: () = store.call(&["CONFIG", "SET", "slowlog-max-len", "100000"])?;
    let network = Network::new()?;
    let mut readers = vec![
        ("nobody", Reader::Nobody),
        ("read and discarded", Reader::Discarding),
        (
            "the exporter",
            Reader::Serving(network.exporter(&store, &filled)?),
        ),
    ];
    if let Some(python) = &bench.python {
        let server = network.python_exporter(python, &store, &filled)?;
        readers.push(("in Python", Reader::Serving(server)));
    }
    let rounds = size.rounds.unwrap_or(bench.rounds).min(bench.rounds);
    let runs = alternate(rounds, &readers, |(_, reader)| {
        turn(reader, size, &store, &mut filled, &network)
    })?;
    let figure = |place: usize, quantity: fn(&Run) -> f64| Figure::of(&runs[place], quantity);
    let base = figure(1, |run| run.millis);
    let mut rows: Vec<Vec<Cell>> = Vec::new();
    for (place, (name, reader)) in readers.iter().enumerate() {
        let of_reader = |quantity| match reader {
            Reader::Nobody => "".into(),
            _ => Cell::from(figure(place, quantity)),
        };
        rows.push(vec![
            (*name).into(),
            of_reader(|run| run.millis),
            match reader {
                Reader::Nobody => "".into(),
                _ => figure(place, |run| run.millis).ratio_to(&base).into(),
            },
            of_reader(|run| run.reader_millis),
            of_reader(|run| run.redis_millis),
            figure(place, |run| run.longest_wait_millis).into(),
            figure(place, |run| run.longest_command_millis).into(),
            match reader {
                Reader::Serving(server) => {
                    let peak = as_float(server.peak_memory()?) / 1e6;
                    Figure::of(&[peak], |peak| *peak).into()
                }
                _ => "".into(),
            },
        ]);
    }
    let columns = [
        "",
        "ms",
        "times read and discarded",
        "reader, ms of CPU",
        "Redis, ms of CPU",
        "longest wait of another client, ms",
        "longest command, ms",
        "peak memory, MB",
    ];
    let table = Table {
        caption: format!("{} series", filled.series()),
        columns: columns.map(str::to_owned).into(),
        rows,
    };
    let own = figure(2, |run| run.millis);
    let mut targets = vec![Target {
        claim: format!(
            "a scrape of {} series, times reading and discarding them",
            size.series
        ),
        bound: Bound::AtMost(1.5),
        figure: own.ratio_to(&base),
    }];
    if readers.len() > 3 {
        let python = figure(3, |run| run.millis);
        targets.push(Target {
            claim: "the same, times the Python exporter".into(),
            bound: Bound::AtMost(1.0 / 20.0),
            figure: own.ratio_to(&python),
        });
    }
    // "Never": the longest of all rounds.
    let longest = figure(2, |run| run.longest_wait_millis).max();
    targets.push(Target {
        claim: "longest wait of another client of Redis during it, ms".into(),
        bound: Bound::AtMost(5.0),
        figure: Figure::of(&[longest], |millis| *millis),
    });
    Ok((table, targets))
}

fn turn(
    reader: &Reader,
    size: Size,
    store: &Store,
    filled: &mut Filled,
    network: &Network,
) -> anyhow::Result<Run> {
    let _: () = store.call(&["SLOWLOG", "RESET"])?;
    let used_by_reader = || match reader {
        Reader::Serving(server) => server.used(),
        _ => cpu::of_this_thread(),
    };
    let used_by_redis = || cpu::of_threads(store.process_id());
    let before = (used_by_reader()?, used_by_redis()?);
    let probe = Probe::start(store.port())?;
    let began = Instant::now();
    let mut texts = Vec::new();
    for _ in 0..size.scrapes {
        match reader {
            Reader::Nobody => thread::sleep(NOBODY / size.scrapes),
            Reader::Discarding => {
                let cells = filled.read_and_discard()?;
                ensure!(cells > 0, "nothing was read");
            }
            Reader::Serving(server) => texts.push(network.scrape(server)?),
        }
    }
    let took = began.elapsed() / size.scrapes;
    let reader_used = used_by_reader()?.saturating_sub(before.0) / size.scrapes;
    let redis_used = used_by_redis()?.saturating_sub(before.1) / size.scrapes;
    let longest_wait = probe.stop()?;
    if let Reader::Serving(server) = reader {
        for text in &texts {
            server.check(text)?;
        }
    }
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    Ok(Run {
        millis: millis(took),
        reader_millis: millis(reader_used),
        redis_millis: millis(redis_used),
        longest_wait_millis: millis(longest_wait),
        longest_command_millis: as_float(longest_command_micros(store)?) / 1e3,
    })
}

fn longest_command_micros(store: &Store) -> anyhow::Result<u64> {
    let log: Vec<Vec<redis::Value>> = store.call(&["SLOWLOG", "GET", "-1"])?;
    let mut longest = 0;
    for entry in log {
        ensure!(entry.len() > 2, "an entry of SLOWLOG without its time");
        longest = longest.max(redis::from_redis_value(&entry[2])?);
    }
    Ok(longest)
}
