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
    filled::{Filled, SERIES_OF_AN_ALGORITHM},
    load::as_float,
    probe::Probe,
    report::{Answer, Bound, Cell, Table, Target, number},
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
            targets = measured.targets();
            notes.push(measured.bounds());
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
    series: usize,
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
    let mut filled = Filled::fill(store.port(), size.series / SERIES_OF_AN_ALGORITHM)?;
    let _: () = store.call(&["CONFIG", "SET", "slowlog-log-slower-than", SLOW_MICROS])?;
    let _: () = store.call(&["CONFIG", "SET", "slowlog-max-len", "100000"])?;
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
        series: filled.series(),
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
            caption: format!("{} series", self.series),
            columns: columns.map(str::to_owned).into(),
            rows: rows.collect(),
        }
    }

    fn chart(&self) -> Chart {
        let bars = (DISCARDING..self.readers.len())
            .map(|place| (self.readers[place].0.to_owned(), self.time(place)));
        Chart {
            name: "scrape".into(),
            caption: format!("Time of a scrape of {} series, ms", self.series),
            bars: bars.collect(),
        }
    }

    fn targets(&self) -> Vec<Target> {
        let own = self.time(EXPORTER);
        let mut targets = vec![Target {
            claim: format!(
                "a scrape of {} series, times reading and discarding them",
                self.series
            ),
            bound: Bound::AtMost(1.5),
            figure: own.ratio_to(&self.time(DISCARDING)),
        }];
        if self.readers.len() > PYTHON {
            targets.push(Target {
                claim: "the same, times the Python exporter".into(),
                bound: Bound::AtMost(PYTHON_SHARE),
                figure: own.ratio_to(&self.time(PYTHON)),
            });
        }
        // "Never": the longest of all rounds.
        let longest = self.figure(EXPORTER, |run| run.longest_wait_millis).max();
        targets.push(Target {
            claim: "the longest wait of another client of Redis during it, ms".into(),
            bound: Bound::AtMost(5.0),
            figure: Figure::of(&[longest], |millis| *millis),
        });
        targets
    }

    fn bounds(&self) -> String {
        let redis = self.figure(EXPORTER, |run| run.redis_millis).median();
        let mut text = format!(
            "Of the exporter's {} ms for {} series Redis itself works for {} ms, on the one core \
             that it has, to hand out the pages: whoever reads them page by page is not faster.",
            number(self.time(EXPORTER).median()),
            self.series,
            number(redis),
        );
        if self.readers.len() > PYTHON {
            let all_at_once = self.figure(PYTHON, |run| run.redis_millis).median();
            text.push_str(&format!(
                " A twentieth of the Python exporter's time is {} ms. To be handed out each hash \
                 at once costs Redis {} ms, in which it serves nobody else, as the longest \
                 command shows.",
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
