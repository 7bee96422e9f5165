//! Section: the cost of a scrape, beside reading the same hashes and discarding
//! them, and beside an exporter in Python.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::ensure;

use crate::{
    chart::Chart,
    exporters::{Filled, Pinging, Scraped, Shape},
    machine::{cpu_of_this_thread, cpu_of_threads},
    measure::{Bench, Figure, alternate, as_float, millis, number},
    report::{Cell, Findings, Table, Target},
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
    // One round: the Python exporter takes half a minute for each scrape.
    Size {
        max_rounds: 1,
        ..Size::of(1_000_000, 1)
    },
];
/// The size of the targets.
const COMPARED: Size = Size::of(100_000, 2);
/// A hash has several pages.
const SMOKE: Size = Size::of(3_000, 1);

/// The number of series, and how often they are read in a turn.
#[derive(Clone, Copy)]
struct Size {
    series: u64,
    shape: Shape,
    scrapes: u32,
    max_rounds: usize,
}

impl Size {
    const fn of(series: u64, scrapes: u32) -> Self {
        Self {
            series,
            shape: Shape::Service,
            scrapes,
            max_rounds: usize::MAX,
        }
    }
}

/// Redis logs commands that take longer, in microseconds.
const SLOW_MICROS: &str = "100";
/// The target for a scrape's share of the Python exporter's time.
const PYTHON_SHARE: f64 = 1.0 / 20.0;
const IDLE: Duration = Duration::from_millis(300);

pub(crate) fn run(bench: &Bench) -> anyhow::Result<Findings> {
    let sizes: &[Size] = if bench.smoke { &[SMOKE] } else { &SIZES };
    let (mut tables, mut charts) = (Vec::new(), Vec::new());
    let (mut targets, mut notes) = (Vec::new(), Vec::new());
    for size in sizes {
        let measured = Measured::measure(bench, *size)?;
        tables.push(measured.table());
        if size.series == COMPARED.series {
            charts.push(measured.chart());
            targets.extend(measured.targets());
            notes.push(measured.note());
        }
    }
    Ok(Findings {
        title: "What a scrape costs".into(),
        method: format!(
            "Redis holds the service's own families, with the {} series of each of many algorithms \
             and every bucket in use. *In one hash*, it holds only the counter of requests, of \
             more algorithms: the pages of one hash can only be read one after the other. *Read \
             and discarded* is a native client that reads the same hashes page by page (`HSCAN`, \
             the exporter's page size, one request in flight per hash) and discards them: no \
             exporter can be faster. *In Python* is a collector of `prometheus_client` with \
             redis-py and hiredis that reads each hash with one `HGETALL` \
             (`benches/peers/exporter`). Before the measurement, each exporter's scrape is compared \
             sample by sample with the stored data; every measured one must have as many samples. \
             The longest wait is that of a second client, which pings Redis all the time. Without \
             a reader, it is caused by the machine alone. The longest command is by Redis's clock \
             (`SLOWLOG`), and 0 if none took {SLOW_MICROS} µs.",
            Shape::Service.series_of_an_algorithm(),
        ),
        tables,
        charts,
        targets,
        notes,
    })
}

enum Reader {
    Idle,
    Discarding,
    Exporter(Scraped),
}

/// One turn: figures of a scrape, but for the longest ones.
struct Run {
    millis: f64,
    reader_millis: f64,
    redis_millis: f64,
    longest_wait_millis: f64,
    longest_command_millis: f64,
}

/// The readers in the order of the tables, and their turns.
struct Measured {
    /// The number of series, and how they are spread.
    what: String,
    chart_name: &'static str,
    readers: Vec<(&'static str, Reader)>,
    runs: Vec<Vec<Run>>,
    /// Peak memory of the exporters, in bytes.
    peaks: Vec<Option<u64>>,
}

const DISCARDING: usize = 1;
const EXPORTER: usize = 2;
const PYTHON: usize = 3;

impl Measured {
    fn measure(bench: &Bench, size: Size) -> anyhow::Result<Self> {
        let store = Store::start()?;
        let algorithms = size.series / size.shape.series_of_an_algorithm();
        let mut filled = Filled::fill(store.port(), size.shape, algorithms)?;
        let _: () = store.call(&["CONFIG", "SET", "slowlog-log-slower-than", SLOW_MICROS])?;
        let _: () = store.call(&["CONFIG", "SET", "slowlog-max-len", "100000"])?;
        let (chart_name, spread) = match size.shape {
            Shape::Service => ("scrape", ""),
            Shape::OneHash => ("scrape-one-hash", " in one hash"),
        };
        let exporter = Scraped::exporter(&[&store], &filled.samples)?;
        let mut readers = vec![
            ("no reader", Reader::Idle),
            ("read and discarded", Reader::Discarding),
            ("the exporter", Reader::Exporter(exporter)),
        ];
        if let Some(python) = &bench.python {
            let exporter = Scraped::python(python, &store, &filled.samples)?;
            readers.push(("in Python", Reader::Exporter(exporter)));
        }
        let rounds = bench.rounds.min(size.max_rounds);
        let runs = alternate(rounds, &readers, |(_, reader)| {
            turn(reader, size.scrapes, &store, &mut filled)
        })?;
        let peaks = readers.iter().map(|(_, reader)| match reader {
            Reader::Exporter(exporter) => exporter.peak_memory().map(Some),
            _ => Ok(None),
        });
        let series = number(as_float(filled.samples.series() as u64));
        Ok(Self {
            what: format!("{series} series{spread}"),
            chart_name,
            peaks: peaks.collect::<anyhow::Result<_>>()?,
            readers,
            runs,
        })
    }

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
                    Some(peak) => Figure::once(as_float(peak) / 1e6).into(),
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
        Table::new(&self.what, &columns, rows)
    }

    fn chart(&self) -> Chart {
        let bars = (DISCARDING..self.readers.len())
            .map(|place| (self.readers[place].0.to_owned(), self.time(place)));
        Chart {
            name: self.chart_name.into(),
            caption: format!("Time of a scrape of {}, ms", self.what),
            bars: bars.collect(),
        }
    }

    fn targets(&self) -> Vec<Target> {
        let what = &self.what;
        let own = self.time(EXPORTER);
        let mut targets = vec![Target::at_most(
            format!("a scrape of {what}, times reading and discarding them"),
            1.5,
            own.ratio_to(&self.time(DISCARDING)),
        )];
        if self.readers.len() > PYTHON {
            targets.push(Target::at_most(
                format!("a scrape of {what}, times the Python exporter"),
                PYTHON_SHARE,
                own.ratio_to(&self.time(PYTHON)),
            ));
        }
        // "Never longer": the longest of all rounds.
        let longest = self.figure(EXPORTER, |run| run.longest_wait_millis).max();
        targets.push(Target::at_most(
            format!("the longest wait of others for Redis during it, {what}, ms"),
            5.0,
            Figure::once(longest),
        ));
        targets
    }

    fn note(&self) -> String {
        let redis = self.figure(EXPORTER, |run| run.redis_millis).median();
        let mut text = format!(
            "Of the exporter's {} ms for {}, Redis needs {} ms on its one core to return the \
             pages. No reader that reads page by page can be faster.",
            number(self.time(EXPORTER).median()),
            self.what,
            number(redis),
        );
        if self.readers.len() > PYTHON {
            let whole = self.figure(PYTHON, |run| run.redis_millis).median();
            text.push_str(&format!(
                " A twentieth of the Python exporter's time is {} ms. Returning each hash at once \
                 costs Redis {} ms, and other clients wait longer meanwhile.",
                number(self.time(PYTHON).median() * PYTHON_SHARE),
                number(whole),
            ));
        }
        text
    }
}

fn turn(reader: &Reader, scrapes: u32, store: &Store, filled: &mut Filled) -> anyhow::Result<Run> {
    let _: () = store.call(&["SLOWLOG", "RESET"])?;
    let reader_cpu = || match reader {
        Reader::Exporter(exporter) => exporter.cpu(),
        _ => cpu_of_this_thread(),
    };
    let redis_cpu = || cpu_of_threads(store.process_id());
    let before = (reader_cpu()?, redis_cpu()?);
    let pinging = Pinging::start(store.port())?;
    let began = Instant::now();
    let mut texts = Vec::new();
    for _ in 0..scrapes {
        match reader {
            Reader::Idle => thread::sleep(IDLE / scrapes),
            Reader::Discarding => filled.read_and_discard()?,
            Reader::Exporter(exporter) => texts.push(exporter.scrape()?),
        }
    }
    let took = began.elapsed() / scrapes;
    let reader_used = reader_cpu()?.saturating_sub(before.0) / scrapes;
    let redis_used = redis_cpu()?.saturating_sub(before.1) / scrapes;
    let longest_wait = pinging.stop()?;
    if let Reader::Exporter(exporter) = reader {
        for text in &texts {
            exporter.check(text)?;
        }
    }
    Ok(Run {
        millis: millis(took),
        reader_millis: millis(reader_used),
        redis_millis: millis(redis_used),
        longest_wait_millis: millis(longest_wait),
        longest_command_millis: as_float(longest_command_micros(store)?) / 1e3,
    })
}

/// The longest command of readers and of the pinging client: not SLOWLOG, which
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
