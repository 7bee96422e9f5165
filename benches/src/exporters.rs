//! A Redis filled with the series of many algorithms, the exporters that show
//! them, and the wait of other clients of that Redis.

use std::{
    any::Any,
    collections::HashMap,
    ffi::OsStr,
    net::TcpStream,
    path::Path,
    process::Command,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, ensure};
use functional_scaffold_protocol::{
    batch::Batch,
    calls::{DEFAULT_PREFIX, Registration, Script, register_call},
    catalog::{
        Catalog, ExecutionStatus, FinishedExecution, FinishedRequest, LATENCY_BOUNDS_NANOS,
        RequestLabels,
    },
    exposition::{Format, expose},
    series::families_of_totals,
};
use functional_scaffold_testkit::{
    exporter::Exporter,
    process::{Process, free_port},
    repository,
};

use crate::{
    machine::{cpu_of_threads, cpu_of_tree, peak_memory},
    store::Store,
    writers::{algorithm_name, endpoint, prefixes},
};

const START_TIMEOUT: Duration = Duration::from_secs(20);
/// A Python exporter takes long over a million series.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(180);
/// Ten times the size of a million series.
const MAX_SCRAPE_BYTES: u64 = 1 << 30;
/// Fields per page: the exporter's default.
const SCAN_COUNT: u32 = 500;

/// The series of each algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// All families, with every bucket of the histograms.
    Service,
    /// Requests alone: all are in one hash, which is read page after page.
    OneHash,
}

impl Shape {
    pub(crate) fn series_of_an_algorithm(self) -> u64 {
        match self {
            Self::Service => 50,
            Self::OneHash => 3,
        }
    }
}

/// The values that an exposition must show, by name and labels.
pub(crate) struct Samples(HashMap<String, f64>);

impl Samples {
    fn of(catalog: &Catalog, totals: &Batch) -> anyhow::Result<Self> {
        let families = families_of_totals(&catalog.families(), totals)?;
        let exposed = expose(Format::Text, &families);
        Ok(Self(samples(&exposed).collect::<anyhow::Result<_>>()?))
    }

    /// The number of series.
    pub(crate) fn series(&self) -> usize {
        self.0.len()
    }

    /// Fails unless an exposition has each stored series once with its value, and
    /// no other series except the exporter's own.
    fn check(&self, exposition: &str) -> anyhow::Result<()> {
        let mut seen = 0;
        for sample in samples(exposition) {
            let (name, value) = sample?;
            let expected = self.0.get(&name);
            ensure!(
                expected == Some(&value),
                "a scrape has {name} {value}, stored is {expected:?}"
            );
            seen += 1;
        }
        let series = self.series();
        ensure!(seen == series, "a scrape has {seen} of {series} series");
        Ok(())
    }
}

/// The content of a filled store.
pub(crate) struct Filled {
    connection: redis::Connection,
    keys: Vec<String>,
    /// The number of fields of the hashes.
    cells: usize,
    pub(crate) samples: Samples,
}

impl Filled {
    /// Stores the series of this number of algorithms.
    pub(crate) fn fill(port: u16, shape: Shape, algorithms: u64) -> anyhow::Result<Self> {
        let catalog = Catalog::new(DEFAULT_PREFIX);
        let totals = totals(&catalog, shape, algorithms);
        Ok(Self {
            connection: store(port, DEFAULT_PREFIX, &totals)?,
            cells: totals.len(),
            keys: totals.hashes().map(|(key, _)| key.to_owned()).collect(),
            samples: Samples::of(&catalog, &totals)?,
        })
    }

    /// Reads every hash page by page, the next page of each at once, and discards
    /// the pages.
    pub(crate) fn read_and_discard(&mut self) -> anyhow::Result<()> {
        let mut cells = 0;
        let mut left: Vec<(&String, Vec<u8>)> =
            self.keys.iter().map(|key| (key, b"0".to_vec())).collect();
        while !left.is_empty() {
            let mut pages = redis::pipe();
            for (key, cursor) in &left {
                let page = pages.cmd("HSCAN").arg(*key).arg(cursor);
                page.arg("COUNT").arg(SCAN_COUNT);
            }
            let pages: Vec<(Vec<u8>, redis::Value)> = pages.query(&mut self.connection)?;
            for ((_, at), (cursor, discarded)) in left.iter_mut().zip(pages) {
                *at = cursor;
                cells += discarded.as_sequence().map_or(0, <[_]>::len) / 2;
            }
            left.retain(|(_, cursor)| cursor != b"0");
        }
        // A scan may return a field twice.
        ensure!(cells >= self.cells, "{cells} cells of {}", self.cells);
        Ok(())
    }
}

/// Stores the series of this number of algorithms in every shard. Returns their sum.
pub(crate) fn fill_shards(
    stores: &[&Store],
    shape: Shape,
    algorithms: u64,
) -> anyhow::Result<Samples> {
    let mut sum = Batch::default();
    let catalog = Catalog::new(DEFAULT_PREFIX);
    let of_each = totals(&catalog, shape, algorithms);
    for (filled, prefix) in stores.iter().zip(prefixes(DEFAULT_PREFIX, stores.len())) {
        store(filled.port(), &prefix, &of_each)?;
        sum.merge(&of_each);
    }
    Samples::of(&catalog, &sum)
}

/// Registers the families under a prefix, and stores totals whose keys have the
/// default one.
fn store(port: u16, prefix: &str, totals: &Batch) -> anyhow::Result<redis::Connection> {
    let catalog = Catalog::new(prefix);
    let mut connection = redis::Client::open(("127.0.0.1", port))?.get_connection()?;
    let families = catalog.families();
    let named = families
        .iter()
        .map(|&family| (family.name.as_str(), family));
    let call = register_call(prefix, 1, &Registration::new(named, &[]));
    let mut register = redis::cmd("EVAL");
    register.arg(Script::REGISTER.source);
    for part in call.parts() {
        register.arg(part);
    }
    register.exec(&mut connection)?;
    for (key, fields) in totals.hashes() {
        let key = key.replacen(DEFAULT_PREFIX, prefix, 1);
        let fields: Vec<_> = fields.iter().collect();
        for some in fields.chunks(1000) {
            let mut set = redis::cmd("HSET");
            set.arg(&key).arg(some).exec(&mut connection)?;
        }
    }
    Ok(connection)
}

/// Totals with a count in every bucket, and no value twice.
fn totals(catalog: &Catalog, shape: Shape, algorithms: u64) -> Batch {
    let requests = &catalog.families()[0].key;
    let mut totals = Batch::default();
    for number in 0..algorithms {
        let (name, endpoint) = (algorithm_name(number), endpoint(number));
        let mut own = Batch::default();
        for (key, field) in catalog.zero_cells(&name, &[&endpoint]) {
            own.inc(key, &field, 0);
        }
        let beyond = LATENCY_BOUNDS_NANOS.last().map(|last| last + 1);
        for duration_nanos in LATENCY_BOUNDS_NANOS.into_iter().chain(beyond) {
            for code in [200, 422] {
                let request = FinishedRequest {
                    labels: RequestLabels::new("POST", &endpoint, code),
                    duration_nanos,
                };
                catalog.record_request(&mut own, &request);
            }
            let execution = FinishedExecution {
                algorithm: &name,
                status: ExecutionStatus::Success,
                duration_nanos,
            };
            catalog.record_execution(&mut own, &execution);
        }
        let is_stored = |key: &str| shape == Shape::Service || key == requests;
        let cells = own.cells().filter(|(key, _, _)| is_stored(key));
        for (place, (key, field, by)) in (1..).zip(cells) {
            totals.inc(key, field, by + 1000 * number + place);
        }
    }
    totals
}

/// The samples of an exposition without the exporter's own: name with sorted
/// labels, and value.
fn samples(exposition: &str) -> impl Iterator<Item = anyhow::Result<(String, f64)>> {
    lines(exposition).map(|line| sample(line).with_context(|| format!("not a sample: {line:?}")))
}

/// The families that a service stores.
static STORED: LazyLock<Vec<String>> = LazyLock::new(|| {
    let catalog = Catalog::new(DEFAULT_PREFIX);
    let families = catalog.families().into_iter();
    families.map(|family| family.name.clone()).collect()
});

/// Lines of stored samples, without what an exporter adds: metrics of its own, and
/// the executions in flight.
fn lines(exposition: &str) -> impl Iterator<Item = &str> {
    exposition.lines().filter(|line| {
        let is_own = line.starts_with("functional_scaffold_")
            && !STORED.iter().any(|name| line.starts_with(name));
        !is_own && !line.starts_with('#') && !line.starts_with("algorithm_executions_in_flight")
    })
}

/// Label values here have no comma and no brace.
fn sample(line: &str) -> Option<(String, f64)> {
    let (name, value) = line.rsplit_once(' ')?;
    let value = value.parse().ok()?;
    let Some((name, labels)) = name.split_once('{') else {
        return Some((name.to_owned(), value));
    };
    let mut labels: Vec<&str> = labels.strip_suffix('}')?.split(',').collect();
    labels.sort_unstable();
    Some((format!("{name}{{{}}}", labels.join(",")), value))
}

/// A running exporter whose first scrape showed all stored series.
pub(crate) struct Scraped {
    url: String,
    process: u32,
    /// Reads the processor time of a process.
    cpu: fn(u32) -> anyhow::Result<Duration>,
    agent: ureq::Agent,
    samples: usize,
    _running: Box<dyn Any>,
}

impl Scraped {
    /// Starts this repository's exporter of the shards on these servers, or of the
    /// only one, without shards.
    pub(crate) fn exporter(stores: &[&Store], stored: &Samples) -> anyhow::Result<Self> {
        let hosts: Vec<String> = stores
            .iter()
            .map(|store| format!("127.0.0.1:{}", store.port()))
            .collect();
        let (hosts, shards) = (hosts.join(","), stores.len().to_string());
        let mut variables = vec![
            // The page would read Redis between the scrapes.
            ("EXPORTER_PAGE_INTERVAL_MS", OsStr::new("0")),
            ("EXPORTER_SCRAPE_TIMEOUT_MS", OsStr::new("60000")),
        ];
        if stores.len() > 1 {
            variables.push(("METRICS_SHARDS", OsStr::new(&shards)));
            variables.push(("REDIS_HOST", OsStr::new(&hosts)));
        }
        let first = stores.first().context("no store")?;
        let exporter = Exporter::start_with(first.port(), &variables)?;
        let url = exporter.url("/metrics");
        let process = exporter.process().id();
        Self::checked(url, process, cpu_of_threads, exporter, stored)
    }

    /// Starts the exporter of `benches/peers/exporter`.
    pub(crate) fn python(python: &Path, store: &Store, stored: &Samples) -> anyhow::Result<Self> {
        let port = free_port()?;
        let mut command = Command::new(python);
        command
            .arg(repository().join("benches/peers/exporter/exporter.py"))
            .args(["--redis-port", &store.port().to_string()])
            .args(["--port", &port.to_string()]);
        let mut process = Process::start(&mut command)?;
        process.wait_until(START_TIMEOUT, |_| {
            Ok(TcpStream::connect(("127.0.0.1", port))?)
        })?;
        let url = format!("http://127.0.0.1:{port}/metrics");
        // It has a thread for each scrape, which ends with it.
        Self::checked(url, process.id(), cpu_of_tree, process, stored)
    }

    fn checked(
        url: String,
        process: u32,
        cpu: fn(u32) -> anyhow::Result<Duration>,
        running: impl Any,
        stored: &Samples,
    ) -> anyhow::Result<Self> {
        let config = ureq::Agent::config_builder().timeout_global(Some(SCRAPE_TIMEOUT));
        let scraped = Self {
            url,
            process,
            cpu,
            agent: config.build().into(),
            samples: stored.series(),
            _running: Box::new(running),
        };
        stored.check(&scraped.scrape()?)?;
        Ok(scraped)
    }

    pub(crate) fn scrape(&self) -> anyhow::Result<String> {
        get(&self.agent, &self.url)
    }

    /// Processor time so far.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        (self.cpu)(self.process)
    }

    pub(crate) fn peak_memory(&self) -> anyhow::Result<u64> {
        peak_memory(self.process)
    }

    /// Fails unless a scrape has as many samples as are stored.
    pub(crate) fn check(&self, scrape: &str) -> anyhow::Result<()> {
        let (samples, stored) = (lines(scrape).count(), self.samples);
        ensure!(
            samples == stored,
            "a scrape has {samples} of {stored} samples"
        );
        Ok(())
    }
}

/// Gets a text, which may be as long as an exposition of millions of series.
pub(crate) fn get(agent: &ureq::Agent, url: &str) -> anyhow::Result<String> {
    let mut response = agent.get(url).call()?;
    let body = response.body_mut().with_config().limit(MAX_SCRAPE_BYTES);
    Ok(body.read_to_string()?)
}

/// A client that pings Redis all the time: its longest wait is what a reader costs
/// other clients.
pub(crate) struct Pinging {
    is_ended: Arc<AtomicBool>,
    thread: thread::JoinHandle<redis::RedisResult<Duration>>,
}

impl Pinging {
    pub(crate) fn start(port: u16) -> anyhow::Result<Self> {
        const PAUSE: Duration = Duration::from_micros(300);
        let mut connection = redis::Client::open(("127.0.0.1", port))?.get_connection()?;
        let is_ended = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&is_ended);
        let thread = thread::spawn(move || {
            let mut longest = Duration::ZERO;
            // At least once: a short read may be over before this begins.
            loop {
                let began = Instant::now();
                redis::cmd("PING").exec(&mut connection)?;
                longest = longest.max(began.elapsed());
                if ended.load(Ordering::Relaxed) {
                    return Ok(longest);
                }
                thread::sleep(PAUSE);
            }
        });
        Ok(Self { is_ended, thread })
    }

    /// Ends it, and returns the longest wait for a reply.
    pub(crate) fn stop(self) -> anyhow::Result<Duration> {
        self.is_ended.store(true, Ordering::Relaxed);
        let longest = self.thread.join();
        Ok(longest.map_err(|_panic| anyhow!("the pinging thread panicked"))??)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_compared_by_name_labels_and_value() {
        let text = "# TYPE a counter\na{x=\"1\",le=\"2.0\"} 3\nfunctional_scaffold_up 1\nb 5e-05\n";
        let samples: anyhow::Result<Vec<_>> = samples(text).collect();
        let expected = [
            ("a{le=\"2.0\",x=\"1\"}".to_owned(), 3.0),
            ("b".to_owned(), 0.000_05),
        ];
        assert_eq!(samples.expect("samples"), expected);
    }

    #[test]
    fn an_algorithm_has_the_declared_number_of_series() {
        let catalog = Catalog::new(DEFAULT_PREFIX);
        let count = |shape, algorithms| {
            let totals = totals(&catalog, shape, algorithms);
            let families = families_of_totals(&catalog.families(), &totals);
            let text = expose(Format::Text, &families.expect("the catalog's"));
            u64::try_from(lines(&text).count()).expect("few")
        };
        for shape in [Shape::Service, Shape::OneHash] {
            let more = count(shape, 3) - count(shape, 2);
            assert_eq!(more, shape.series_of_an_algorithm(), "{shape:?}");
        }
    }
}
