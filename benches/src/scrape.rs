//! What a scrape costs, beside reading the same hashes and throwing them away,
//! and beside an exporter in Python.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::ensure;

use crate::{
    chart::Chart,
    cpu,
    filled::{Filled, Shape},
    load::as_float,
    probe::Probe,
    report::{Answer, Bound, Cell, Table, Target, number},
    rounds::{Figure, alternate},
    section::Bench,
    server::{Network, Server},
    store::Store,
};

const SIZES: [Size; 5] = [
    Size::of(1_000, 20),
    Size::of(10_000, 5),
    COMPARED,
    Size {
        shape: Shape::OneHash,
        ..COMPARED
    },
    // Once: the Python exporter takes half a minute for each.
    Size {
        rounds: Some(1),
        ..Size::of(1_000_000, 1)
    },
];
/// Where the aims are set.
const COMPARED: Size = Size::of(100_000, 2);
/// A hash of it takes some pages.
const SMOKE: Size = Size::of(3_000, 1);

/// How many series, and how often they are read in a turn.
#[derive(Clone, Copy)]
struct Size {
    series: u64,
    shape: Shape,
    scrapes: u32,
    rounds: Option<usize>,
}

impl Size {
    const fn of(series: u64, scrapes: u32) -> Self {
        Self {
            series,
            shape: Shape::Service,
            scrapes,
            rounds: None,
        }
    }

    fn algorithms(self) -> u64 {
        self.series / self.shape.series_of_an_algorithm()
    }
}

/// Redis says of every command that takes longer, in microseconds.
const SLOW_MICROS: &str = "100";
/// What a scrape may take of the Python exporter's time.
const PYTHON_SHARE: f64 = 1.0 / 20.0;
const NOBODY: Duration = Duration::from_millis(300);

/// Measures it.
pub(crate) fn run(bench: &Bench) -> anyhow::Result<Answer> {
    let sizes: &[Size] = if bench.smoke { &[SMOKE] } else { &SIZES };
    let mut tables = Vec::new();
    let mut charts = Vec::new();
    let mut targets = Vec::new();
    let mut notes = Vec::new();
    for size in sizes {
        let measured = measure(bench, *size)?;
        tables.push(measured.table());
        if size.series == COMPARED.series {
            charts.push(measured.chart());
            targets.extend(measured.targets());
            notes.push(measured.bounds());
        }
    }
    Ok(Answer {
        title: "What a scrape costs".into(),
        method: format!(
            "Redis holds the service's own families, with the {} series of \
             each of many algorithms, every bucket in use; or, *in one hash*, the requests of more \
             algorithms alone, of which no page can be read before the one before it. *Read and discarded* is a native client \
             that reads the same hashes page by page (`HSCAN`, the exporter's page), the next page \
             of each at once, and throws them away: the limit. *In Python* is a collector of \
             `prometheus_client` with redis-py and hiredis that reads each hash with one `HGETALL` \
             (`benches/peers/exporter`). Before they are timed, each exporter's scrape is compared \
             sample by sample with what was stored; every timed one has to have as many samples. \
             The longest wait is that of a second client, which pings Redis all the while; what it \
             is with nobody reading is the machine's own. The longest command is by Redis's clock \
             (`SLOWLOG`), 0 where none took {SLOW_MICROS} µs.",
            Shape::Service.series_of_an_algorithm(),
        ),
        tables,
        charts,
        targets,
        notes,
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

/// Who read, in the order of the tables, and their turns.
struct Measured {
    /// How many series, and how they are spread.
    what: String,
    name: &'static str,
    readers: Vec<(&'static str, Reader)>,
    runs: Vec<Vec<Run>>,
    /// Peak memory in bytes, of those who serve.
    peaks: Vec<Option<u64>>,
}

const DISCARDING: usize = 1;
const EXPORTER: usize = 2;
const PYTHON: usize = 3;

fn measure(bench: &Bench, size: Size) -> anyhow::Result<Measured> {
    let store = Store::start()?;
    let mut filled = Filled::fill(store.port(), size.shape, size.algorithms())?;
    let _: () = store.call(&["CONFIG", "SET", "slowlog-log-slower-than", SLOW_MICROS])?;
    let _: () = store.call(&["CONFIG", "SET", "slowlog-max-len", "100000"])?;
    let (name, spread) = match size.shape {
        Shape::Service => ("scrape", ""),
        Shape::OneHash => ("scrape-one-hash", " in one hash"),
    };
    let network = Network::new()?;
    let exporter = network.exporter(&store, &filled)?;
    let mut readers = vec![
        ("nobody", Reader::Nobody),
        ("read and discarded", Reader::Discarding),
        ("the exporter", Reader::Serving(exporter)),
    ];
    if let Some(python) = &bench.python {
        let server = network.python_exporter(python, &store, &filled)?;
        readers.push(("in Python", Reader::Serving(server)));
    }
    let rounds = size.rounds.unwrap_or(bench.rounds).min(bench.rounds);
    let runs = alternate(rounds, &readers, |(_, reader)| {
        turn(reader, size, &store, &mut filled, &network)
    })?;
    let peaks = readers.iter().map(|(_, reader)| match reader {
        Reader::Serving(server) => server.peak_memory().map(Some),
        _ => Ok(None),
    });
    Ok(Measured {
        what: format!(
            "{} series{}",
            number(as_float(filled.series() as u64)),
            spread
        ),
        name,
        peaks: peaks.collect::<anyhow::Result<_>>()?,
        readers,
        runs,
    })
}

impl Measured {
    fn figure(&self, reader: usize, quantity: fn(&Run) -> f64) -> Figure {
        Figure::of(&self.runs[reader], quantity)
    }

    fn time(&self, reader: usize) -> Figure {
        self.figure(reader, |run| run.millis)
    }

    fn table(&self) -> Table {
        let rows = (0..self.readers.len()).map(|place| {
            let reads = place >= DISCARDING;
            let if_it_reads = |figure: Figure| if reads { figure.into() } else { Cell::from("") };
            vec![
                self.readers[place].0.into(),
                if_it_reads(self.time(place)),
                if_it_reads(self.time(place).ratio_to(&self.time(DISCARDING))),
                if_it_reads(self.figure(place, |run| run.reader_millis)),
                if_it_reads(self.figure(place, |run| run.redis_millis)),
                self.figure(place, |run| run.longest_wait_millis).into(),
                self.figure(place, |run| run.longest_command_millis).into(),
                match self.peaks[place] {
                    Some(peak) => Figure::of(&[as_float(peak) / 1e6], |peak| *peak).into(),
                    None => "".into(),
                },
            ]
        });
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
        Table {
            caption: self.what.clone(),
            columns: columns.map(str::to_owned).into(),
            rows: rows.collect(),
        }
    }

    fn chart(&self) -> Chart {
        let bars = (DISCARDING..self.readers.len())
            .map(|place| (self.readers[place].0.to_owned(), self.time(place)));
        Chart {
            name: self.name.into(),
            caption: format!("Time of a scrape of {}, ms", self.what),
            bars: bars.collect(),
        }
    }

    fn targets(&self) -> Vec<Target> {
        let own = self.time(EXPORTER);
        let mut targets = vec![Target {
            claim: format!(
                "a scrape of {}, times reading and discarding them",
                self.what
            ),
            bound: Bound::AtMost(1.5),
            figure: own.ratio_to(&self.time(DISCARDING)),
        }];
        if self.readers.len() > PYTHON {
            targets.push(Target {
                claim: format!("a scrape of {}, times the Python exporter", self.what),
                bound: Bound::AtMost(PYTHON_SHARE),
                figure: own.ratio_to(&self.time(PYTHON)),
            });
        }
        // "Never": the longest of all rounds.
        let longest = self.figure(EXPORTER, |run| run.longest_wait_millis).max();
        targets.push(Target {
            claim: format!(
                "the longest wait of others for Redis during it, {}, ms",
                self.what
            ),
            bound: Bound::AtMost(5.0),
            figure: Figure::of(&[longest], |millis| *millis),
        });
        targets
    }

    fn bounds(&self) -> String {
        let redis = self.figure(EXPORTER, |run| run.redis_millis).median();
        let mut text = format!(
            "Of the exporter's {} ms for {} Redis itself works for {} ms, on the one core \
             that it has, to hand out the pages: whoever reads them page by page is not faster.",
            number(self.time(EXPORTER).median()),
            self.what,
            number(redis),
        );
        if self.readers.len() > PYTHON {
            let all_at_once = self.figure(PYTHON, |run| run.redis_millis).median();
            text.push_str(&format!(
                " A twentieth of the Python exporter's time is {} ms. To be handed out each hash \
                 at once costs Redis {} ms, and others wait longer for it.",
                number(self.time(PYTHON).median() * PYTHON_SHARE),
                number(all_at_once),
            ));
        }
        text
    }
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
            Reader::Discarding => filled.read_and_discard()?,
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

/// Of the readers' and of who pings: what asks for the log empties it, too, which
/// takes long itself.
fn longest_command_micros(store: &Store) -> anyhow::Result<u64> {
    let log: Vec<Vec<redis::Value>> = store.call(&["SLOWLOG", "GET", "-1"])?;
    let mut longest = 0;
    for entry in log {
        ensure!(entry.len() > 3, "an entry of SLOWLOG without its command");
        let command: Vec<Vec<u8>> = redis::from_redis_value(&entry[3])?;
        if command.first().is_some_and(|name| name != b"SLOWLOG") {
            longest = longest.max(redis::from_redis_value(&entry[2])?);
        }
    }
    Ok(longest)
}
