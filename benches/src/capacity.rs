//! Section: how many shards a load needs. Instances at a time on one Redis, on several
//! and on a Redis Cluster; the cost and the memory of the ids that Redis remembers; a
//! scrape over shards; and what follows for loads that this machine does not bear.

use std::{
    array,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, ensure};
use functional_scaffold_protocol::{
    batch::{Batch, BatchId},
    calls::{
        APPLIED_PAIRS, DEFAULT_PREFIX, REMEMBERED_SECONDS, Script, applied_keys,
        apply_call_from_parts,
    },
    catalog::Catalog,
    shard::MAX_SHARDS,
};

use crate::{
    exporters::{Scraped, Shape, fill_shards},
    machine::cpu_of_threads,
    measure::{Bench, Figure, alternate, as_float, millis, number},
    report::{Cell, Findings, Table},
    store::{Shards, Store},
    writers::{
        Cost, REQUESTS_OF_AN_INSTANCE, Workload, algorithm_name, cpu_of_all, endpoint,
        memory_of_a_connection, prefixes, record, scattered,
    },
};

/// Instances at a time, each with a connection.
const INSTANCES: usize = 1_000;
const SMOKE_INSTANCES: usize = 20;
/// Long enough for the first instances to end, also in `exact`.
const LASTING: Duration = Duration::from_secs(3);

const SERVERS: usize = 4;
const MASTERS: usize = 3;
/// Four per master, as docs/shards.md advises.
const SHARDS_OF_CLUSTER: usize = 4 * MASTERS;

/// The page with the table of shards.
const PAGE: &str = "shards.md";

pub(crate) fn run(bench: &Bench) -> anyhow::Result<Findings> {
    let setups = Setups::start()?;
    let connection = setups.memory_of_a_connection(bench)?;
    let (over_shards, over_shards_note) = setups.measure(bench)?;
    drop(setups);
    let (remembering, fullnesses) = remembering(bench)?;
    let (scraping, scrape) = scraping(bench)?;
    let mut notes = vec![
        over_shards_note,
        format!(
            "While an instance lives, its connection takes {} kB of Redis's memory. What remains of \
             it for hours is the id of its last batch.",
            number(connection / 1e3)
        ),
        format!(
            "A scrape takes {} µs per sample from one Redis, and {} µs from {SERVERS}. All \
             instances write the same series, so each shard has nearly all of them. An app with a \
             million series on {SERVERS} shards is the last row, not the second.",
            number(scrape.of_one),
            number(scrape.over_shards),
        ),
    ];
    let estimate = Estimate { fullnesses, scrape };
    notes.push(estimate.paragraph());
    Ok(Findings {
        title: "Capacity".into(),
        method: format!(
            "How many [shards](shards.md) a load needs. Instances as for [where metrics \
             go](#where-metrics-go), but {INSTANCES} at a time, one call in flight each. An \
             instance has a random name and with it one shard for life. After each run, every \
             shard has counted the requests of its instances once, and has no open lease. \
             Processor time is that of all Redis servers together. Clients and servers share this \
             machine's cores, so requests/s on the clock grow little with the shards.\n\n\
             *Ids that Redis remembers*: each run begins with as many remembered ids as a given \
             load leaves, in the hashes of both turns ([how Redis \
             remembers](protocol.md#batches)). One hash is filled by the real script, and copied. \
             It is checked that a batch of a remembered writer is a duplicate. These servers do \
             not rewrite their append-only files meanwhile. *A scrape over \
             shards*: as for [what a scrape costs](#what-a-scrape-costs). The first scrape is \
             compared sample by sample with the sum of what is stored."
        ),
        tables: vec![
            over_shards,
            remembering,
            scraping,
            estimate.table().quoted_in(PAGE),
        ],
        charts: vec![],
        targets: vec![],
        notes,
    })
}

fn workload(bench: &Bench, kind: Kind) -> Workload {
    Workload {
        prefix: DEFAULT_PREFIX.to_owned(),
        leased: kind.leased,
        batch: kind.batch,
        algorithms: 1,
        instances: match bench.smoke {
            true => SMOKE_INSTANCES,
            false => INSTANCES,
        },
        pipelined: 1,
        lasting: LASTING,
    }
}

/// The mode in which instances write, and their requests per batch.
#[derive(Debug, Clone, Copy)]
struct Kind {
    leased: bool,
    batch: u64,
}

impl Kind {
    const fn of(leased: bool, batch: u64) -> Self {
        Self { leased, batch }
    }

    fn mode(self) -> &'static str {
        match self.leased {
            true => "`exact`",
            false => "`batched`",
        }
    }
}

const KINDS: [Kind; 4] = [
    Kind::of(false, 16),
    Kind::of(false, 4),
    Kind::of(true, 16),
    Kind::of(true, 4),
];

/// Where an app's shards may be.
struct Setups([(String, Shards); 3]);

/// One turn of a setup.
struct OverShards {
    cost: Cost,
    /// Processor time of the replicas.
    replicas: Duration,
}

impl OverShards {
    fn micros(&self, cpu: Duration) -> f64 {
        cpu.as_secs_f64() * 1e6 / as_float(self.cost.completed.requests)
    }

    fn requests_per_core(&self) -> f64 {
        1e6 / self.micros(self.cost.redis + self.replicas)
    }
}

impl Setups {
    fn start() -> anyhow::Result<Self> {
        let prefixes = prefixes(DEFAULT_PREFIX, SHARDS_OF_CLUSTER);
        let cluster = Shards::on_cluster(MASTERS, &prefixes)?;
        let name = format!(
            "a Redis Cluster of {MASTERS} masters with a replica each; {} shards on the busiest",
            cluster.most_on_a_server()
        );
        Ok(Self([
            ("one Redis".to_owned(), Shards::on_servers(1)?),
            (format!("{SERVERS} Redis"), Shards::on_servers(SERVERS)?),
            (name, cluster),
        ]))
    }

    /// In bytes, on the first server.
    fn memory_of_a_connection(&self, bench: &Bench) -> anyhow::Result<f64> {
        let [(_, one), ..] = &self.0;
        memory_of_a_connection(&one.servers()[0], &workload(bench, KINDS[0]))
    }

    /// The table, and what it says.
    fn measure(&self, bench: &Bench) -> anyhow::Result<(Table, String)> {
        let kinds = KINDS
            .into_iter()
            .filter(|kind| kind.batch == KINDS[0].batch);
        let mut contestants = Vec::new();
        for kind in kinds {
            for (name, shards) in &self.0 {
                contestants.push((kind, name, shards));
            }
        }
        let runs = alternate(bench.rounds, &contestants, |(kind, _, shards)| {
            let replicas: Vec<&Store> = shards.replicas().iter().collect();
            let before = cpu_of_all(&replicas)?;
            let cost = Cost::measure(bench, &shards.stores(), &workload(bench, *kind))?;
            shards.wait_for_replicas()?;
            Ok(OverShards {
                cost,
                replicas: cpu_of_all(&replicas)?.saturating_sub(before),
            })
        })?;
        let micros = |runs: &[OverShards]| Figure::of(runs, |run| run.micros(run.cost.redis));
        let mut rows: Vec<Vec<Cell>> = Vec::new();
        let mut ratios = Vec::new();
        for (place, ((kind, name, shards), runs_of_it)) in contestants.iter().zip(&runs).enumerate()
        {
            let one = micros(&runs[place / self.0.len() * self.0.len()]);
            let times_one = micros(runs_of_it).ratio_to(&one);
            ratios.push(times_one.median());
            rows.push(vec![
                name.as_str().into(),
                shards.stores().len().to_string().into(),
                kind.mode().into(),
                Figure::of(runs_of_it, OverShards::requests_per_core).into(),
                micros(runs_of_it).into(),
                times_one.into(),
                match shards.replicas() {
                    [] => "".into(),
                    _ => Figure::of(runs_of_it, |run| run.micros(run.replicas)).into(),
                },
                Figure::of(runs_of_it, |run| run.cost.requests_per_second()).into(),
            ]);
        }
        let columns = [
            "",
            "shards",
            "mode",
            "requests/s of a Redis core, replicas included",
            "masters, µs of CPU a request",
            "times one Redis",
            "replicas, µs",
            "requests/s on the clock",
        ];
        let caption = format!(
            "{INSTANCES} instances at a time, {} a batch",
            KINDS[0].batch
        );
        let [_, servers, cluster, _, servers_exact, cluster_exact] = ratios[..] else {
            anyhow::bail!("{} setups", ratios.len());
        };
        let note = format!(
            "On {SERVERS} servers, a request costs {} times as much processor time as on one in \
             `batched`, and {} times in `exact`. Shards have nothing to agree on. But here they \
             share two cores, and each has fewer instances, so that it reads fewer calls at a \
             time; how much of it is due to which was not measured. In the cluster, masters need \
             {} and {} times as much; they also send everything to their replicas.",
            number(servers),
            number(servers_exact),
            number(cluster),
            number(cluster_exact),
        );
        Ok((Table::new(&caption, &columns, rows), note))
    }
}

/// Writers in each hash.
const PER_HASH: [u64; 4] = [0, 64, 480, 1_500];
const SMOKE_PER_HASH: [u64; 2] = [8, 600];
/// Pairs of hashes that are filled.
const SMOKE_PAIRS: u64 = 16;
/// Entries up to which Redis keeps a hash in its compact encoding; one is the turn
/// (docs/protocol.md, Cost and memory).
const COMPACT_ENTRIES: f64 = 512.0;
const COMPACT: &str = "listpack";

/// A Redis that remembers so many writers in each hash of ids.
struct Remembering {
    per_hash: u64,
    /// Redis's name of the encoding of the hashes, and the memory of a writer in bytes.
    filled: Option<(String, f64)>,
    store: Store,
}

/// The measurements at a fullness of the hashes.
struct Fullness {
    is_compact: bool,
    /// Memory of a writer.
    bytes: Option<f64>,
    /// Processor time of Redis per request, of each of [`KINDS`].
    micros: [f64; KINDS.len()],
}

fn remembering(bench: &Bench) -> anyhow::Result<(Table, Vec<Fullness>)> {
    let (sizes, pairs): (&[u64], _) = match bench.smoke {
        true => (&SMOKE_PER_HASH, SMOKE_PAIRS),
        false => (&PER_HASH, APPLIED_PAIRS),
    };
    let mut stores = Vec::new();
    for &per_hash in sizes {
        stores.push(Remembering::start(per_hash, pairs)?);
    }
    let contestants: Vec<_> = stores
        .iter()
        .flat_map(|remembering| KINDS.map(|kind| (remembering, kind)))
        .collect();
    let costs = alternate(bench.rounds, &contestants, |(remembering, kind)| {
        Cost::measure(bench, &[&remembering.store], &workload(bench, *kind))
    })?;
    let (mut rows, mut fullnesses) = (Vec::new(), Vec::new());
    for (remembering, costs) in stores.iter().zip(costs.chunks(KINDS.len())) {
        remembering.check()?;
        let micros = |kind: usize| Figure::of(&costs[kind], Cost::micros_per_request);
        let encoding = remembering.filled.as_ref().map(|(encoding, _)| encoding);
        let bytes = remembering.filled.as_ref().map(|(_, bytes)| *bytes);
        let mut row: Vec<Cell> = vec![
            remembering.per_hash.to_string().into(),
            number(load_of(as_float(remembering.per_hash))).into(),
            encoding.map_or("", String::as_str).into(),
            bytes.map_or(Cell::from(""), |bytes| Figure::once(bytes).into()),
        ];
        row.extend((0..KINDS.len()).map(|kind| micros(kind).into()));
        rows.push(row);
        fullnesses.push(Fullness {
            is_compact: encoding.is_none_or(|encoding| encoding == COMPACT),
            bytes,
            micros: array::from_fn(|kind| micros(kind).median()),
        });
    }
    let mut columns: Vec<String> = [
        "writers in a hash",
        "the load that fills it, requests/s of a shard",
        "encoding",
        "bytes a writer",
    ]
    .map(str::to_owned)
    .into();
    columns.extend(KINDS.map(|kind| format!("{}, {} a batch, µs", kind.mode(), kind.batch)));
    let caption = "Ids that Redis remembers, and processor time of Redis a request";
    Ok((Table::new(caption, &columns, rows), fullnesses))
}

/// The requests per second of a shard at which each of its hashes of ids has so many
/// writers at the end of its turn.
fn load_of(per_hash: f64) -> f64 {
    per_hash * as_float(APPLIED_PAIRS * REQUESTS_OF_AN_INSTANCE) / as_float(REMEMBERED_SECONDS)
}

impl Remembering {
    /// Fills the hashes of so many pairs.
    fn start(per_hash: u64, pairs: u64) -> anyhow::Result<Self> {
        let mut remembering = Self {
            per_hash,
            filled: None,
            store: Store::start()?,
        };
        if per_hash > 0 {
            // No rewrites of gigabytes during the runs.
            let off = ["CONFIG", "SET", "auto-aof-rewrite-percentage", "0"];
            let _: () = remembering.store.call(&off)?;
            let bytes = remembering.fill(pairs)?;
            remembering.filled = Some((remembering.encoding(0)?, bytes));
        }
        Ok(remembering)
    }

    /// Fills one hash with the real script, and copies it. Returns the memory of a writer.
    fn fill(&self, pairs: u64) -> anyhow::Result<f64> {
        const AT_ONCE: usize = 500;
        let client = redis::Client::open(("127.0.0.1", self.store.port()))?;
        let mut connection = client.get_connection()?;
        let load = ["SCRIPT", "LOAD", Script::APPLY_UNLIMITED.source];
        let _: String = self.store.call(&load)?;
        let writers: Vec<u64> = (0..self.per_hash).collect();
        for some in writers.chunks(AT_ONCE) {
            let replies = apply(&mut connection, 0, some)?;
            let applied = replies.iter().filter(|reply| *reply == "applied").count();
            ensure!(applied == some.len(), "{applied} of {} batches", some.len());
        }
        let own = self.hashes(0);
        let mut lengths = Vec::new();
        for key in &own {
            lengths.push(self.store.call::<u64>(&["HLEN", key])?);
        }
        // With the number of the turn.
        let filled = lengths
            .iter()
            .position(|length| *length == self.per_hash + 1);
        let filled = &own[filled.with_context(|| format!("{own:?} have {lengths:?} entries"))?];
        let hashes = (0..pairs).flat_map(|pair| self.hashes(pair));
        let others: Vec<String> = hashes.filter(|key| key != filled).collect();
        let before = self.store.memory()?;
        for some in others.chunks(AT_ONCE) {
            let mut copies = redis::pipe();
            for key in some {
                copies.cmd("COPY").arg(filled).arg(key);
            }
            let copied: Vec<u64> = copies.query(&mut connection)?;
            ensure!(
                copied.iter().all(|copied| *copied == 1),
                "copied: {copied:?}"
            );
        }
        let grown = self.store.memory()?.saturating_sub(before);
        let replies = apply(&mut connection, pairs - 1, &writers[..1])?;
        ensure!(
            replies == ["duplicate"],
            "of a remembered writer: {replies:?}"
        );
        Ok(as_float(grown) / as_float(others.len() as u64 * self.per_hash))
    }

    fn hashes(&self, pair: u64) -> [String; 2] {
        applied_keys(DEFAULT_PREFIX, &writer(pair, 0))
    }

    fn encoding(&self, pair: u64) -> anyhow::Result<String> {
        let [key, _] = self.hashes(pair);
        self.store.call(&["OBJECT", "ENCODING", &key])
    }

    /// Fails if the writers of the measurement changed the encoding of the hashes.
    fn check(&self) -> anyhow::Result<()> {
        if let Some((before, _)) = &self.filled {
            let encoding = self.encoding(0)?;
            ensure!(
                encoding == *before,
                "a hash of {} writers was a {before}, and is a {encoding} after so many rounds",
                self.per_hash
            );
        }
        Ok(())
    }
}

/// The first batch of a writer of this pair.
fn writer(pair: u64, number: u64) -> BatchId {
    let bits = APPLIED_PAIRS.trailing_zeros();
    BatchId {
        nonce: (pair << (u64::BITS - bits)) | (scattered(number) >> bits),
        sequence: 1,
    }
}

/// Sends a batch of one request of each of these writers. Returns the first words of the
/// replies.
fn apply(
    connection: &mut redis::Connection,
    pair: u64,
    writers: &[u64],
) -> anyhow::Result<Vec<String>> {
    let catalog = Catalog::new(DEFAULT_PREFIX);
    let mut batch = Batch::default();
    record(
        &catalog,
        &mut batch,
        &algorithm_name(0),
        &endpoint(0),
        60_000,
    );
    let frozen = i64::try_from(SystemTime::UNIX_EPOCH.elapsed()?.as_millis())?;
    let mut calls = redis::pipe();
    for &number in writers {
        let id = writer(pair, number);
        let call = apply_call_from_parts(DEFAULT_PREFIX, &id, frozen, [].iter(), &batch);
        let command = calls.cmd("EVALSHA").arg(Script::APPLY_UNLIMITED.sha);
        for part in call.parts() {
            command.arg(part);
        }
    }
    let replies: Vec<Vec<String>> = calls.query(connection)?;
    let words = replies.into_iter().map(|reply| reply.into_iter().next());
    words.collect::<Option<_>>().context("an empty reply")
}

const SERIES: u64 = 1_000_000;
const SMOKE_SERIES: u64 = 3_000;

/// Shards full of series, and their exporter.
struct Scraping {
    name: &'static str,
    shards: Shards,
    /// Series of each shard. All have the same.
    series: usize,
    exporter: Scraped,
}

/// One scrape.
struct Scrape {
    took: Duration,
    exporter: Duration,
    /// All servers.
    redis: Duration,
}

/// The time of a scrape per sample that is read, in microseconds.
struct ScrapeMicros {
    of_one: f64,
    over_shards: f64,
}

fn scraping(bench: &Bench) -> anyhow::Result<(Table, ScrapeMicros)> {
    let series = match bench.smoke {
        true => SMOKE_SERIES,
        false => SERIES,
    };
    let mut contestants = Vec::new();
    let part = series / as_count(SERVERS);
    for (name, servers, series) in [
        ("one Redis", 1, series),
        ("4 shards, as many samples in all", SERVERS, part),
        ("4 shards, as many samples in each", SERVERS, series),
    ] {
        contestants.push(Scraping::start(name, servers, series)?);
    }
    let runs = alternate(bench.rounds, &contestants, Scraping::turn)?;
    let mut rows: Vec<Vec<Cell>> = Vec::new();
    let mut micros = Vec::new();
    for (scraping, runs) in contestants.iter().zip(&runs) {
        let samples = scraping.samples();
        let took = Figure::of(runs, |run| millis(run.took));
        micros.push(took.median() * 1e3 / samples);
        rows.push(vec![
            scraping.name.into(),
            number(as_float(as_count(scraping.series))).into(),
            number(samples).into(),
            took.into(),
            Figure::of(runs, |run| millis(run.exporter)).into(),
            Figure::of(runs, |run| millis(run.redis)).into(),
            Figure::once(as_float(scraping.exporter.peak_memory()?) / 1e6).into(),
        ]);
    }
    let columns = [
        "",
        "series",
        "samples read from Redis",
        "ms",
        "exporter, ms of CPU",
        "Redis, ms of CPU of all",
        "peak memory of the exporter, MB",
    ];
    let [of_one, _, over_shards] = micros[..] else {
        anyhow::bail!("{} scrapes", micros.len());
    };
    let micros = ScrapeMicros {
        of_one,
        over_shards,
    };
    Ok((Table::new("A scrape over shards", &columns, rows), micros))
}

impl Scraping {
    fn start(name: &'static str, servers: usize, series: u64) -> anyhow::Result<Self> {
        let shape = Shape::Service;
        let shards = Shards::on_servers(servers)?;
        let stores = shards.stores();
        let samples = fill_shards(&stores, shape, series / shape.series_of_an_algorithm())?;
        let exporter = Scraped::exporter(&stores, &samples)?;
        Ok(Self {
            name,
            series: samples.series(),
            exporter,
            shards,
        })
    }

    fn samples(&self) -> f64 {
        as_float(as_count(self.series * self.shards.stores().len()))
    }

    fn turn(&self) -> anyhow::Result<Scrape> {
        let redis = || {
            let servers = self.shards.servers().iter();
            let used = servers.map(|store| cpu_of_threads(store.process_id()));
            used.sum::<anyhow::Result<Duration>>()
        };
        let before = (self.exporter.cpu()?, redis()?);
        let began = Instant::now();
        let text = self.exporter.scrape()?;
        let took = began.elapsed();
        let used = (self.exporter.cpu()?, redis()?);
        self.exporter.check(&text)?;
        Ok(Scrape {
            took,
            exporter: used.0.saturating_sub(before.0),
            redis: used.1.saturating_sub(before.1),
        })
    }
}

fn as_count(number: usize) -> u64 {
    number as u64
}

/// Requests per second of an app.
const LOADS: [f64; 4] = [10_000.0, 100_000.0, 500_000.0, 1_000_000.0];
/// The share of the highest rate of a Redis core that leaves room to catch up after a
/// pause.
const SHARE: f64 = 0.7;
/// The series of the scrape in the table.
const SCRAPED: f64 = 100_000.0;

/// The needs of loads, from measured costs.
struct Estimate {
    fullnesses: Vec<Fullness>,
    scrape: ScrapeMicros,
}

/// The needs of one load.
#[derive(Debug, PartialEq)]
struct Need {
    shards: u32,
    /// Share of the highest rate of their cores.
    share: f64,
    /// Memory of all ids, in bytes.
    ids: f64,
}

impl Estimate {
    /// The fewest shards for a load of one of [`KINDS`]; `None` if it needs more than
    /// there may be.
    ///
    /// More shards have fewer ids each, whose encoding then may be another one, with
    /// other costs. The highest cost and memory that were measured with an encoding are
    /// taken.
    fn need(&self, requests: f64, kind: usize) -> Option<Need> {
        let writers = requests / as_float(REQUESTS_OF_AN_INSTANCE);
        (1..=MAX_SHARDS).find_map(|shards| {
            let rate = requests / f64::from(shards);
            let is_compact = rate < load_of(COMPACT_ENTRIES - 1.0);
            let measured = self.fullnesses.iter();
            let measured = measured.filter(|fullness| fullness.is_compact == is_compact);
            let micros = measured.clone().map(|fullness| fullness.micros[kind]);
            let bytes = measured.filter_map(|fullness| fullness.bytes);
            let share = rate * micros.reduce(f64::max)? / 1e6;
            // Both turns are full.
            let remembered = writers * as_float(2 * REMEMBERED_SECONDS);
            (share <= SHARE).then_some(Need {
                shards,
                share,
                ids: remembered * bytes.reduce(f64::max)?,
            })
        })
    }

    fn table(&self) -> Table {
        let mut rows: Vec<Vec<Cell>> = Vec::new();
        for requests in LOADS {
            for (place, kind) in KINDS.into_iter().enumerate() {
                let mut row: Vec<Cell> = vec![
                    number(requests).into(),
                    kind.mode().into(),
                    kind.batch.to_string().into(),
                ];
                row.extend(match self.need(requests, place) {
                    None => [
                        format!("more than {MAX_SHARDS}"),
                        String::new(),
                        String::new(),
                    ]
                    .map(Cell::from),
                    Some(need) => [
                        need.shards.to_string(),
                        number(need.ids / 1e9),
                        number(self.scrape_seconds(need.shards)),
                    ]
                    .map(Cell::from),
                });
                rows.push(row);
            }
        }
        let columns = [
            "requests/s".to_owned(),
            "mode".to_owned(),
            "requests a batch".to_owned(),
            "shards".to_owned(),
            "ids remembered, GB in all".to_owned(),
            format!("a scrape of {} series, s", number(SCRAPED)),
        ];
        Table::new("How many shards for what load", &columns, rows)
    }

    /// The time of a scrape of [`SCRAPED`] series from so many shards.
    fn scrape_seconds(&self, shards: u32) -> f64 {
        let micros = match shards {
            1 => self.scrape.of_one,
            _ => self.scrape.over_shards,
        };
        SCRAPED * f64::from(shards) * micros / 1e6
    }

    fn paragraph(&self) -> String {
        let most = LOADS[LOADS.len() - 1];
        let begun = most / as_float(REQUESTS_OF_AN_INSTANCE);
        format!(
            "**How many shards for what load** is computed from the tables above, because two \
             cores bear no more than a few hundred thousand requests/s. A server takes {share:.0} % \
             of its highest rate, so that it can catch up after a pause. An instance serves \
             {REQUESTS_OF_AN_INSTANCE} requests, so at {most} requests/s {begun} begin every \
             second. Redis remembers each for up to {hours} hours. Up to {compact} requests/s a \
             shard, it keeps ids in a listpack, which it searches from the beginning; beyond, in a \
             hash table with some three times the memory. So fewer shards may need more memory. \
             Of the costs that were measured with an encoding, the highest is taken. Each shard is \
             taken to have a core for itself: for the factor of several servers that share cores, \
             or replicate, see above. A scrape takes as long per sample as that of a million \
             series, with the exporter and all servers on two cores. Rewriting the append-only \
             file is not included: a process of its own does it, on another core.",
            share = SHARE * 100.0,
            most = number(most),
            begun = number(begun),
            hours = 2 * REMEMBERED_SECONDS / 3600,
            compact = number(load_of(COMPACT_ENTRIES - 1.0)),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use functional_scaffold_testkit::repository;

    use super::*;

    /// Compact hashes cost more time and less memory.
    fn estimate() -> Estimate {
        let fullness = |is_compact, bytes, micros: f64| Fullness {
            is_compact,
            bytes,
            micros: [micros, 4.0 * micros, 5.0 * micros, 8.0 * micros],
        };
        Estimate {
            fullnesses: vec![
                fullness(true, None, 2.0),
                fullness(true, Some(20.0), 3.0),
                fullness(true, Some(25.0), 2.5),
                fullness(false, Some(70.0), 2.0),
            ],
            scrape: ScrapeMicros {
                of_one: 1.0,
                over_shards: 1.5,
            },
        }
    }

    #[test]
    fn a_hash_is_full_at_the_load_that_the_protocol_names() {
        // 512 writers in each of 8192 hashes in two hours, 128 requests each.
        let load = load_of(COMPACT_ENTRIES);
        assert!((74_500.0..74_600.0).contains(&load), "{load}");
    }

    #[test]
    fn a_small_load_needs_one_shard_at_the_highest_cost_of_its_encoding() {
        let need = estimate().need(10_000.0, 0).expect("few");
        assert_eq!(need.shards, 1);
        assert!((need.share - 0.03).abs() < 1e-9, "{need:?}");
        // 78.125 writers a second for four hours, 25 bytes each.
        assert!((need.ids - 28_125_000.0).abs() < 1.0, "{need:?}");
    }

    #[test]
    fn a_large_load_needs_shards_at_the_allowed_share() {
        let estimate = estimate();
        // 350,000 a second are 70 % of what takes 2 µs.
        assert_eq!(estimate.need(350_000.0, 0).expect("one").shards, 1);
        assert_eq!(estimate.need(350_001.0, 0).expect("two").shards, 2);
        let need = estimate.need(1e6, 0).expect("few");
        assert_eq!(need.shards, 3);
        // Beyond the compact encoding: 112,500,000 writers, 70 bytes each.
        assert!((need.ids - 7.875e9).abs() < 1.0, "{need:?}");
    }

    #[test]
    fn with_enough_shards_the_ids_are_compact() {
        // Not compact: 10 µs a request, so 70,000 requests/s a shard, which is below the
        // 74,400 where that begins. Compact: 15 µs, 46,666.
        let need = estimate().need(1e6, 2).expect("some");
        assert_eq!(need.shards, 22);
        assert!(need.share <= SHARE, "{need:?}");
    }

    #[test]
    fn a_load_beyond_all_shards_has_no_number() {
        assert_eq!(estimate().need(1e9, 3), None);
        let mut text = format!("{:?}", estimate().table());
        assert!(!text.contains("more than"), "{text}");
        let mut slow = estimate();
        for fullness in &mut slow.fullnesses {
            fullness.micros = [1_000.0; KINDS.len()];
        }
        text = format!("{:?}", slow.table());
        assert!(text.contains("more than 256"), "{text}");
    }

    #[test]
    fn a_scrape_reads_every_series_from_every_shard() {
        let estimate = estimate();
        assert!((estimate.scrape_seconds(1) - 0.1).abs() < 1e-9);
        assert!((estimate.scrape_seconds(8) - 1.2).abs() < 1e-9);
    }

    #[test]
    fn the_page_about_shards_has_the_table() {
        let page = fs::read_to_string(repository().join("docs").join(PAGE)).expect("it is there");
        let quoted = estimate().table().quote(&page).expect("it has the marks");
        assert!(quoted.contains("| 1,000,000 | `exact` | 4 |"), "{quoted}");
    }
}
