//! The exporter's own metrics. `docs/exporter.md` lists them, too.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use functional_scaffold_protocol::{
    exposition::{Exposition, Format, Metadata},
    family::Kind,
    labels::write_labels,
};

use crate::{
    redis_client::Reason,
    scrape::reading::{Reading, Unread},
};

/// A metric about the exporter itself.
struct Metric {
    name: &'static str,
    kind: Kind,
    help: &'static str,
}

const BUILD_INFO: Metric = gauge(
    "functional_scaffold_build_info",
    "Version of the exporter; the value is always 1.",
);
const REDIS_UP: Metric = gauge(
    "functional_scaffold_redis_up",
    "Whether this scrape could read Redis (1) or not (0). With shards, of each; while one is 0, no families are served.",
);
const SCRAPE_DURATION: Metric = gauge(
    "functional_scaffold_scrape_duration_seconds",
    "Time that this scrape's read of Redis took, decoding included.",
);
const FAMILIES: Metric = gauge(
    "functional_scaffold_families",
    "Families from Redis in this scrape.",
);
const SERIES: Metric = gauge(
    "functional_scaffold_series",
    "Label sets from Redis in this scrape; a histogram counts once.",
);
const CELLS: Metric = gauge(
    "functional_scaffold_cells",
    "Hash fields read from Redis for this scrape.",
);
const DECODE_ERRORS: Metric = gauge(
    "functional_scaffold_decode_errors",
    "Fields, keys and registrations in Redis that this scrape could not serve, by reason. Absent without errors.",
);
const REDIS_READS: Metric = counter(
    "functional_scaffold_redis_reads_total",
    "Reads of Redis since the exporter started, including failed ones; scrapes may share one.",
);
const REDIS_READ_FAILURES: Metric = counter(
    "functional_scaffold_redis_read_failures_total",
    "Failed reads of Redis since the exporter started, by reason.",
);
const SETTLE_FAILURES: Metric = counter(
    "functional_scaffold_settle_failures_total",
    "Failed attempts to settle leases since the exporter started, by reason.",
);
const SETTLE_REFUSED: Metric = counter(
    "functional_scaffold_settle_refused_total",
    "Counts of settled leases that Redis refused since the exporter started. Nothing adds them later.",
);
const REGRESSIONS: Metric = counter(
    "functional_scaffold_regressions_total",
    "Series that stepped back since the exporter started, because Redis lost writes. They continue from their highest value.",
);
const OLDEST_LEASE_AGE: Metric = gauge(
    "functional_scaffold_oldest_lease_age_seconds",
    "Age of the oldest open lease; 0 if none is open.",
);
const LEASE_OVERDUE: Metric = gauge(
    "functional_scaffold_oldest_lease_overdue_seconds",
    "Time since the first open lease expired; 0 if none has. Above 0, expired leases are not settled.",
);
const LAST_FLUSH: Metric = gauge(
    "functional_scaffold_last_flush_timestamp_seconds",
    "When a batch was last stored, by Redis's clock. Absent if never.",
);
const MEMORY_USED: Metric = gauge(
    "functional_scaffold_redis_memory_used_bytes",
    "Memory that Redis uses. Absent if the Redis user has no right to INFO.",
);
const MEMORY_MAX: Metric = gauge(
    "functional_scaffold_redis_memory_max_bytes",
    "Memory that Redis may use (maxmemory); 0 if there is no limit.",
);
const MEMORY_POLICY: Metric = gauge(
    "functional_scaffold_redis_maxmemory_policy",
    "What Redis does when its memory is full; the value is always 1. Every policy but noeviction may delete counts.",
);
const PERSISTENCE_OK: Metric = gauge(
    "functional_scaffold_redis_persistence_ok",
    "Whether Redis's last write to disk succeeded (1) or not (0): rdb is a snapshot, aof the append-only file if it is on.",
);
const FOLLOW_UP: Metric = gauge(
    "functional_scaffold_follow_up",
    "Whether the app's logs are read, and batches in them stored (1), or something keeps the exporter from it (0). Absent, like all of functional_scaffold_follow, if no log is followed.",
);
const FOLLOW_FILES: Metric = gauge(
    "functional_scaffold_follow_files",
    "Log files that are followed.",
);
const FOLLOW_LAG: Metric = gauge(
    "functional_scaffold_follow_lag_bytes",
    "Bytes of the followed logs that are not dealt with: a restart would read them.",
);
const FOLLOW_BATCHES: Metric = counter(
    "functional_scaffold_follow_batches_total",
    "Batches found in the followed logs since the exporter started, by outcome.",
);
const FOLLOW_REFUSED: Metric = counter(
    "functional_scaffold_follow_lines_refused_total",
    "Lines about batches in the followed logs that were left out since the exporter started, by reason.",
);

/// Every metric of the exporter, in the order in which they are written.
const METRICS: [&Metric; 24] = [
    &BUILD_INFO,
    &REDIS_UP,
    &SCRAPE_DURATION,
    &FAMILIES,
    &SERIES,
    &CELLS,
    &DECODE_ERRORS,
    &REDIS_READS,
    &REDIS_READ_FAILURES,
    &SETTLE_FAILURES,
    &SETTLE_REFUSED,
    &REGRESSIONS,
    &OLDEST_LEASE_AGE,
    &LEASE_OVERDUE,
    &LAST_FLUSH,
    &MEMORY_USED,
    &MEMORY_MAX,
    &MEMORY_POLICY,
    &PERSISTENCE_OK,
    &FOLLOW_UP,
    &FOLLOW_FILES,
    &FOLLOW_LAG,
    &FOLLOW_BATCHES,
    &FOLLOW_REFUSED,
];

pub(crate) use functional_scaffold_protocol::catalog::IN_FLIGHT;

const fn gauge(name: &'static str, help: &'static str) -> Metric {
    let kind = Kind::Gauge;
    Metric { name, kind, help }
}

const fn counter(name: &'static str, help: &'static str) -> Metric {
    let kind = Kind::Counter;
    Metric { name, kind, help }
}

/// Whether the exporter itself exposes a family of this name; a family of that name in
/// Redis is not served. The prefix does not decide: instances also write families that
/// begin with `functional_scaffold_`.
pub(crate) fn is_own_name(name: &str) -> bool {
    name == IN_FLIGHT || METRICS.iter().any(|metric| metric.name == name)
}

/// Counts since the exporter started.
#[derive(Debug, Default)]
pub(crate) struct SelfMetrics {
    /// The labels of each store: `shard="0"`, or none if there is one.
    stores: Vec<String>,
    reads: AtomicU64,
    read_failures: ByReason,
    settle_failures: ByReason,
    settle_refused: AtomicU64,
    regressions: AtomicU64,
    /// Of the follower, if there is one.
    follow: Option<Arc<FollowMetrics>>,
}

/// The outcomes of batches in followed logs.
const OUTCOMES: [&str; 5] = [
    "applied",
    "already_applied",
    "too_old",
    "incomplete",
    "failed",
];
/// The reasons for which lines of followed logs are left out.
const LINE_REASONS: [&str; 2] = ["unreadable", "refused"];

/// Counts of the follower, and its state.
#[derive(Debug, Default)]
pub(crate) struct FollowMetrics {
    pub(crate) up: AtomicU64,
    pub(crate) files: AtomicU64,
    pub(crate) lag_bytes: AtomicU64,
    /// By [`OUTCOMES`].
    pub(crate) batches: [AtomicU64; OUTCOMES.len()],
    /// By [`LINE_REASONS`].
    pub(crate) lines_refused: [AtomicU64; LINE_REASONS.len()],
}

type ByReason = [AtomicU64; Reason::ALL.len()];

impl SelfMetrics {
    /// Counts of an exporter with stores of these labels, and perhaps a follower.
    pub(crate) fn new(stores: Vec<String>, follow: Option<Arc<FollowMetrics>>) -> Self {
        Self {
            stores,
            follow,
            ..Self::default()
        }
    }

    pub(crate) fn count_read(&self, reading: &Result<Reading, Unread>) {
        self.reads.fetch_add(1, Ordering::Relaxed);
        match reading {
            Ok(reading) => {
                self.regressions
                    .fetch_add(reading.regressions, Ordering::Relaxed);
            }
            Err(Unread { failure, .. }) => {
                self.read_failures[failure.reason as usize].fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    pub(crate) fn count_settle_failure(&self, reason: Reason) {
        self.settle_failures[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts increments of settled leases that Redis refused.
    pub(crate) fn count_refused(&self, counts: u64) {
        self.settle_refused.fetch_add(counts, Ordering::Relaxed);
    }
}

/// Appends the exporter's own metrics to an exposition. `reading` is empty if Redis could
/// not be read; then `up` says of each store whether it could, as far as that is known.
pub(crate) fn write(
    out: &mut Exposition,
    metrics: &SelfMetrics,
    up: Option<&[bool]>,
    reading: &Reading,
    duration: Duration,
) {
    let series: usize = reading.families.iter().map(|one| one.series.len()).sum();
    write_build_info(out);
    write_metadata(out, &REDIS_UP);
    for (store, labels) in metrics.stores.iter().enumerate() {
        let is_up = up.is_none_or(|up| up.get(store).copied().unwrap_or(false));
        out.write_sample(REDIS_UP.name, labels, f64::from(u8::from(is_up)));
    }
    write_value(out, &SCRAPE_DURATION, duration.as_secs_f64());
    write_value(out, &FAMILIES, reading.families.len() as f64);
    write_value(out, &SERIES, series as f64);
    write_value(out, &CELLS, reading.cells as f64);
    write_metadata(out, &DECODE_ERRORS);
    for (family, reason, count) in reading.decode_errors.counts() {
        let mut labels = String::new();
        write_labels(&mut labels, &[("family", family), ("reason", reason)]);
        out.write_sample(DECODE_ERRORS.name, &labels, count as f64);
    }
    write_value(out, &REDIS_READS, load(&metrics.reads));
    for (metric, counts) in [
        (&REDIS_READ_FAILURES, &metrics.read_failures),
        (&SETTLE_FAILURES, &metrics.settle_failures),
    ] {
        write_metadata(out, metric);
        for (reason, count) in Reason::ALL.into_iter().zip(counts) {
            let labels = format!("reason=\"{}\"", reason.label());
            out.write_sample(metric.name, &labels, load(count));
        }
    }
    write_value(out, &SETTLE_REFUSED, load(&metrics.settle_refused));
    write_regressions(out, metrics.regressions.load(Ordering::Relaxed));
    if let Some(age) = reading.oldest_lease_age_seconds {
        write_value(out, &OLDEST_LEASE_AGE, age);
    }
    if let Some(overdue) = reading.lease_overdue_seconds {
        write_value(out, &LEASE_OVERDUE, overdue);
    }
    if let Some(millis) = reading.flushed_millis {
        write_value(out, &LAST_FLUSH, millis as f64 / 1000.0);
    }
    write_stores(out, metrics, reading);
    if let Some(follow) = &metrics.follow {
        write_follow(out, follow);
    }
}

/// Appends the metrics about each Redis.
fn write_stores(out: &mut Exposition, metrics: &SelfMetrics, reading: &Reading) {
    let stores = || metrics.stores.iter().zip(&reading.stores);
    let memory = || stores().filter_map(|(labels, store)| Some((labels, store.memory.as_ref()?)));
    if memory().next().is_some() {
        write_metadata(out, &MEMORY_USED);
        for (labels, memory) in memory() {
            out.write_sample(MEMORY_USED.name, labels, memory.used_bytes as f64);
        }
        write_metadata(out, &MEMORY_MAX);
        for (labels, memory) in memory() {
            out.write_sample(MEMORY_MAX.name, labels, memory.max_bytes as f64);
        }
        write_metadata(out, &MEMORY_POLICY);
        for (labels, memory) in memory() {
            let labels = and_label(labels, "policy", memory.policy);
            out.write_sample(MEMORY_POLICY.name, &labels, 1.0);
        }
    }
    let persistence =
        || stores().filter_map(|(labels, store)| Some((labels, store.persistence.as_ref()?)));
    if persistence().next().is_some() {
        write_metadata(out, &PERSISTENCE_OK);
    }
    for (labels, persistence) in persistence() {
        for (kind, is_ok) in [("rdb", Some(persistence.rdb)), ("aof", persistence.aof)] {
            if let Some(is_ok) = is_ok {
                let labels = and_label(labels, "kind", kind);
                out.write_sample(PERSISTENCE_OK.name, &labels, f64::from(u8::from(is_ok)));
            }
        }
    }
}

/// Adds a label, whose value needs no escaping.
fn and_label(labels: &str, name: &str, value: &str) -> String {
    let separator = if labels.is_empty() { "" } else { "," };
    format!("{labels}{separator}{name}=\"{value}\"")
}

/// Appends the regressions that an exporter or a relay has counted.
pub(crate) fn write_regressions(out: &mut Exposition, count: u64) {
    write_value(out, &REGRESSIONS, count as f64);
}

/// The metrics of a follower that does not read families.
pub(crate) fn of_follower(format: Format, follow: &FollowMetrics) -> String {
    let mut out = Exposition::begin(format, [], 4096);
    write_build_info(&mut out);
    write_follow(&mut out, follow);
    out.finish()
}

fn write_build_info(out: &mut Exposition) {
    let version = concat!("version=\"", env!("CARGO_PKG_VERSION"), "\"");
    write_metadata(out, &BUILD_INFO);
    out.write_sample(BUILD_INFO.name, version, 1.0);
}

fn write_follow(out: &mut Exposition, follow: &FollowMetrics) {
    write_value(out, &FOLLOW_UP, load(&follow.up));
    write_value(out, &FOLLOW_FILES, load(&follow.files));
    write_value(out, &FOLLOW_LAG, load(&follow.lag_bytes));
    write_metadata(out, &FOLLOW_BATCHES);
    for (outcome, count) in OUTCOMES.into_iter().zip(&follow.batches) {
        let labels = format!("outcome=\"{outcome}\"");
        out.write_sample(FOLLOW_BATCHES.name, &labels, load(count));
    }
    write_metadata(out, &FOLLOW_REFUSED);
    for (reason, count) in LINE_REASONS.into_iter().zip(&follow.lines_refused) {
        let labels = format!("reason=\"{reason}\"");
        out.write_sample(FOLLOW_REFUSED.name, &labels, load(count));
    }
}

fn load(count: &AtomicU64) -> f64 {
    count.load(Ordering::Relaxed) as f64
}

fn write_metadata(out: &mut Exposition, metric: &Metric) {
    let units = ["seconds", "bytes"];
    let unit = metric.name.rsplit_once('_').map_or("", |(_, last)| last);
    out.write_metadata(&Metadata {
        name: metric.name,
        kind: metric.kind,
        help: metric.help,
        unit: if units.contains(&unit) { unit } else { "" },
    });
}

fn write_value(out: &mut Exposition, metric: &Metric, value: f64) {
    write_metadata(out, metric);
    out.write_sample(metric.name, "", value);
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use functional_scaffold_protocol::{
        family::Family,
        series::{FamilySeries, Series},
    };

    use super::*;
    use crate::{
        redis_client::Failure,
        scrape::{
            info::{Memory, Persistence},
            reading::StoreInfo,
        },
    };

    #[test]
    fn writes_every_metric_with_help_and_type() {
        let metrics = SelfMetrics::new(vec![String::new()], Some(Arc::default()));
        let counter = |name: &str, labels: &[&str]| {
            let registration = br#"{"type":"counter","key":"k"}"#;
            let values = labels.iter().map(|&labels| (labels.into(), 1));
            FamilySeries {
                family: Family::decode(name, registration).expect("a family"),
                series: Series::Values(values.collect()),
            }
        };
        let mut reading = Reading {
            families: vec![counter("a", &["", "x=\"1\""]), counter("b", &[""])],
            cells: 4,
            oldest_lease_age_seconds: Some(0.5),
            lease_overdue_seconds: Some(0.25),
            flushed_millis: Some(1_753_000_000_250),
            stores: vec![StoreInfo {
                memory: Some(Memory {
                    used_bytes: 1_500_000,
                    max_bytes: 0,
                    policy: "volatile-lru",
                }),
                persistence: Some(Persistence {
                    rdb: false,
                    aof: Some(true),
                }),
            }],
            ..Reading::default()
        };
        reading
            .decode_errors
            .add("jobs_total", "value", String::new);
        metrics.count_read(&Err(Failure::new(Reason::Loading, "").into()));
        metrics.count_settle_failure(Reason::Auth);
        metrics.count_refused(3);
        metrics.count_read(&Ok(Reading {
            regressions: 2,
            ..Reading::default()
        }));
        let mut out = Exposition::begin(Format::Text, [], 0);
        let duration = Duration::from_millis(1500);
        write(&mut out, &metrics, None, &reading, duration);
        let out = out.finish();
        let samples: Vec<_> = out.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            samples,
            [
                concat!(
                    "functional_scaffold_build_info{version=\"",
                    env!("CARGO_PKG_VERSION"),
                    "\"} 1"
                ),
                "functional_scaffold_redis_up 1",
                "functional_scaffold_scrape_duration_seconds 1.5",
                "functional_scaffold_families 2",
                "functional_scaffold_series 3",
                "functional_scaffold_cells 4",
                "functional_scaffold_decode_errors{family=\"jobs_total\",reason=\"value\"} 1",
                "functional_scaffold_redis_reads_total 2",
                "functional_scaffold_redis_read_failures_total{reason=\"connection\"} 0",
                "functional_scaffold_redis_read_failures_total{reason=\"timeout\"} 0",
                "functional_scaffold_redis_read_failures_total{reason=\"auth\"} 0",
                "functional_scaffold_redis_read_failures_total{reason=\"loading\"} 1",
                "functional_scaffold_redis_read_failures_total{reason=\"server\"} 0",
                "functional_scaffold_redis_read_failures_total{reason=\"closed\"} 0",
                "functional_scaffold_redis_read_failures_total{reason=\"internal\"} 0",
                "functional_scaffold_settle_failures_total{reason=\"connection\"} 0",
                "functional_scaffold_settle_failures_total{reason=\"timeout\"} 0",
                "functional_scaffold_settle_failures_total{reason=\"auth\"} 1",
                "functional_scaffold_settle_failures_total{reason=\"loading\"} 0",
                "functional_scaffold_settle_failures_total{reason=\"server\"} 0",
                "functional_scaffold_settle_failures_total{reason=\"closed\"} 0",
                "functional_scaffold_settle_failures_total{reason=\"internal\"} 0",
                "functional_scaffold_settle_refused_total 3",
                "functional_scaffold_regressions_total 2",
                "functional_scaffold_oldest_lease_age_seconds 0.5",
                "functional_scaffold_oldest_lease_overdue_seconds 0.25",
                "functional_scaffold_last_flush_timestamp_seconds 1753000000.25",
                "functional_scaffold_redis_memory_used_bytes 1500000",
                "functional_scaffold_redis_memory_max_bytes 0",
                "functional_scaffold_redis_maxmemory_policy{policy=\"volatile-lru\"} 1",
                "functional_scaffold_redis_persistence_ok{kind=\"rdb\"} 0",
                "functional_scaffold_redis_persistence_ok{kind=\"aof\"} 1",
                "functional_scaffold_follow_up 0",
                "functional_scaffold_follow_files 0",
                "functional_scaffold_follow_lag_bytes 0",
                "functional_scaffold_follow_batches_total{outcome=\"applied\"} 0",
                "functional_scaffold_follow_batches_total{outcome=\"already_applied\"} 0",
                "functional_scaffold_follow_batches_total{outcome=\"too_old\"} 0",
                "functional_scaffold_follow_batches_total{outcome=\"incomplete\"} 0",
                "functional_scaffold_follow_batches_total{outcome=\"failed\"} 0",
                "functional_scaffold_follow_lines_refused_total{reason=\"unreadable\"} 0",
                "functional_scaffold_follow_lines_refused_total{reason=\"refused\"} 0",
            ]
        );
        assert_eq!(
            out.matches("# TYPE ").count(),
            out.matches("# HELP ").count()
        );
        let types = out.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        let names: Vec<_> = types.filter_map(|rest| rest.split(' ').next()).collect();
        assert_eq!(names, METRICS.map(|metric| metric.name));
        assert!(names.iter().all(|name| is_own_name(name)));
        assert!(!is_own_name("functional_scaffold_late_results_total"));
    }

    #[test]
    fn metrics_about_shards_name_them() {
        let stores = ["shard=\"0\"", "shard=\"1\""];
        let metrics = SelfMetrics::new(stores.map(str::to_owned).into(), None);
        let samples = |up: Option<&[bool]>, reading: &Reading| {
            let mut out = Exposition::begin(Format::Text, [], 0);
            write(&mut out, &metrics, up, reading, Duration::ZERO);
            let out = out.finish();
            let lines = out.lines().filter(|line| !line.starts_with('#'));
            let about_stores = lines.filter(|line| line.contains("shard="));
            about_stores.map(str::to_owned).collect::<Vec<_>>()
        };
        let down = [true, false];
        assert_eq!(
            samples(Some(&down), &Reading::default()),
            [
                "functional_scaffold_redis_up{shard=\"0\"} 1",
                "functional_scaffold_redis_up{shard=\"1\"} 0",
            ]
        );
        // A time-out of the whole read says nothing about one shard.
        let unknown = samples(Some(&[]), &Reading::default());
        assert!(
            unknown.iter().all(|line| line.ends_with(" 0")),
            "{unknown:?}"
        );
        let memory = |used_bytes| StoreInfo {
            memory: Some(Memory {
                used_bytes,
                max_bytes: 9,
                policy: "noeviction",
            }),
            persistence: None,
        };
        let reading = Reading {
            stores: vec![memory(1), memory(2)],
            ..Reading::default()
        };
        assert_eq!(
            samples(None, &reading)[2..],
            [
                "functional_scaffold_redis_memory_used_bytes{shard=\"0\"} 1",
                "functional_scaffold_redis_memory_used_bytes{shard=\"1\"} 2",
                "functional_scaffold_redis_memory_max_bytes{shard=\"0\"} 9",
                "functional_scaffold_redis_memory_max_bytes{shard=\"1\"} 9",
                "functional_scaffold_redis_maxmemory_policy{shard=\"0\",policy=\"noeviction\"} 1",
                "functional_scaffold_redis_maxmemory_policy{shard=\"1\",policy=\"noeviction\"} 1",
            ]
        );
    }

    #[test]
    fn the_documentation_lists_every_metric() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/exporter.md");
        let page = fs::read_to_string(page).expect("it is in the repository");
        let rows = page.lines().filter_map(|line| {
            let (name, rest) = line.strip_prefix("| `")?.split_once(['{', '`'])?;
            Some((name, rest.split('|').nth(1)?.trim()))
        });
        let listed: Vec<_> = rows.filter(|(name, _)| is_own_name(name)).collect();
        let metrics = METRICS.map(|metric| (metric.name, metric.kind.name()));
        let in_flight = (IN_FLIGHT, Kind::Gauge.name());
        let expected: Vec<_> = metrics.into_iter().chain([in_flight]).collect();
        assert_eq!(listed, expected);
    }
}
