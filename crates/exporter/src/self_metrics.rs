//! The exporter's own metrics. Owns their names and meanings; what they count
//! is counted elsewhere.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use functional_scaffold_protocol::{
    exposition::{Exposition, Metadata},
    family::Kind,
    labels::write_labels,
};

use crate::connection::Reason;

/// Prefix of the metrics about the system itself: the exporter's own, and some
/// families that instances write to Redis.
const PREFIX: &str = "functional_scaffold_";

/// The exporter's own metrics, without their prefix. A family in Redis that has
/// one of these names is not served.
const OWN_NAMES: [&str; 13] = [
    "build_info",
    "redis_up",
    "scrape_duration_seconds",
    "families",
    "series",
    "cells",
    "decode_errors",
    "redis_reads_total",
    "redis_read_failures_total",
    "settle_failures_total",
    "regressions_total",
    "oldest_lease_age_seconds",
    "last_flush_timestamp_seconds",
];

/// Whether a family of this name would collide with a metric of the exporter's
/// own.
#[must_use]
pub fn is_own_name(name: &str) -> bool {
    let own = |rest| OWN_NAMES.contains(&rest);
    name == IN_FLIGHT || name.strip_prefix(PREFIX).is_some_and(own)
}

/// The one metric of the exporter's own whose name is not of that beginning:
/// users know it beside `algorithm_executions_total`. It is a gauge for each
/// algorithm, of the open leases; see [`crate::leases`].
pub const IN_FLIGHT: &str = "algorithm_executions_in_flight";

/// Counts since the exporter began.
#[derive(Debug, Default)]
pub struct Totals {
    reads: AtomicU64,
    failures: [AtomicU64; Reason::ALL.len()],
    settle_failures: [AtomicU64; Reason::ALL.len()],
    regressions: AtomicU64,
}

impl Totals {
    /// Counts a finished read of Redis.
    pub fn count_read(&self, failure: Option<Reason>) {
        self.reads.fetch_add(1, Ordering::Relaxed);
        if let Some(reason) = failure {
            self.failures[reason as usize].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts an attempt to settle leases that failed.
    pub fn count_settle_failure(&self, reason: Reason) {
        self.settle_failures[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts series that stepped back.
    pub fn count_regressions(&self, series: u64) {
        self.regressions.fetch_add(series, Ordering::Relaxed);
    }
}

/// What one scrape shows of itself.
#[derive(Debug, Clone, Copy)]
pub struct ScrapeFigures<'a> {
    /// Whether Redis could be read.
    pub up: bool,
    /// How long that took, or was tried.
    pub duration: Duration,
    /// Families served.
    pub families: usize,
    /// Label sets served.
    pub series: usize,
    /// Fields read.
    pub cells: u64,
    /// What was not served.
    pub offences: &'a crate::offences::Offences,
    /// How long the longest running execution has had its lease, 0 without
    /// any, in seconds. None where it is not known.
    pub oldest_lease_age_seconds: Option<f64>,
    /// When a batch was last stored, in seconds since 1970.
    pub last_flush_seconds: Option<f64>,
}

/// Appends the exporter's own metrics to an exposition.
pub fn write(out: &mut Exposition, totals: &Totals, figures: &ScrapeFigures<'_>) {
    let version = concat!("version=\"", env!("CARGO_PKG_VERSION"), "\"");
    gauge(
        out,
        "build_info",
        "Version of the exporter; the value is always 1.",
    )
    .sample(version, 1.0);
    gauge(
        out,
        "redis_up",
        "Whether this scrape could read Redis (1) or not (0).",
    )
    .sample("", if figures.up { 1.0 } else { 0.0 });
    gauge(
        out,
        "scrape_duration_seconds",
        "Time that this scrape's read of Redis took, decoding included.",
    )
    .sample("", figures.duration.as_secs_f64());
    gauge(out, "families", "Families from Redis in this scrape.")
        .sample("", figures.families as f64);
    gauge(
        out,
        "series",
        "Label sets from Redis in this scrape; a histogram's counts once.",
    )
    .sample("", figures.series as f64);
    gauge(out, "cells", "Hash fields read from Redis for this scrape.")
        .sample("", figures.cells as f64);

    let mut errors = gauge(
        out,
        "decode_errors",
        "Fields, keys and registrations in Redis that this scrape could not serve, by reason. None are listed if there are none.",
    );
    for (family, reason, count) in figures.offences.counts() {
        let mut labels = String::new();
        write_labels(&mut labels, &[("family", family), ("reason", reason)]);
        errors.sample(&labels, count as f64);
    }

    counter(
        out,
        "redis_reads_total",
        "Reads of Redis since the exporter began, failed ones included; scrapes may share one.",
    )
    .sample("", totals.reads.load(Ordering::Relaxed) as f64);
    counter(
        out,
        "redis_read_failures_total",
        "Reads of Redis that failed since the exporter began, by reason.",
    )
    .sample_by_reason(&totals.failures);
    counter(
        out,
        "settle_failures_total",
        "Attempts to settle leases that failed since the exporter began, by reason.",
    )
    .sample_by_reason(&totals.settle_failures);
    counter(
        out,
        "regressions_total",
        "Series that stepped back since the exporter began, because Redis lost writes. They are served from their highest value on.",
    )
    .sample("", totals.regressions.load(Ordering::Relaxed) as f64);
    if let Some(age) = figures.oldest_lease_age_seconds {
        gauge(
            out,
            "oldest_lease_age_seconds",
            "For how long the oldest open lease has been taken; 0 if none is open.",
        )
        .sample("", age);
    }
    if let Some(time) = figures.last_flush_seconds {
        gauge(
            out,
            "last_flush_timestamp_seconds",
            "When a batch was last stored, by the clock of Redis. Not there if never.",
        )
        .sample("", time);
    }
}

/// A family of which help and type are written.
struct Begun<'a> {
    out: &'a mut Exposition,
    name: String,
}

impl Begun<'_> {
    fn sample(&mut self, labels: &str, value: f64) {
        self.out.write_sample(&self.name, labels, value);
    }

    fn sample_by_reason(&mut self, counts: &[AtomicU64; Reason::ALL.len()]) {
        for reason in Reason::ALL {
            let mut labels = String::new();
            write_labels(&mut labels, &[("reason", reason.label())]);
            let count = counts[reason as usize].load(Ordering::Relaxed);
            self.sample(&labels, count as f64);
        }
    }
}

fn gauge<'a>(out: &'a mut Exposition, name: &str, help: &str) -> Begun<'a> {
    begin(out, name, Kind::Gauge, help)
}

fn counter<'a>(out: &'a mut Exposition, name: &str, help: &str) -> Begun<'a> {
    begin(out, name, Kind::Counter, help)
}

fn begin<'a>(out: &'a mut Exposition, name: &str, kind: Kind, help: &str) -> Begun<'a> {
    let name = format!("{PREFIX}{name}");
    out.write_metadata(&Metadata {
        name: &name,
        kind,
        help,
        unit: if name.ends_with("_seconds") {
            "seconds"
        } else {
            ""
        },
    });
    Begun { out, name }
}

#[cfg(test)]
mod tests {
    use functional_scaffold_protocol::exposition::Format;

    use super::*;
    use crate::offences::Offences;

    #[test]
    fn writes_every_metric_with_help_and_type() {
        let mut offences = Offences::default();
        offences.add("jobs_total", "value", String::new);
        let totals = Totals::default();
        totals.count_read(None);
        totals.count_read(Some(Reason::Loading));
        totals.count_settle_failure(Reason::Auth);
        totals.count_regressions(2);
        let figures = ScrapeFigures {
            up: true,
            duration: Duration::from_millis(1500),
            families: 2,
            series: 3,
            cells: 4,
            offences: &offences,
            oldest_lease_age_seconds: Some(0.5),
            last_flush_seconds: Some(1_753_000_000.25),
        };
        let mut out = Exposition::begin(Format::Text, [], 0);
        write(&mut out, &totals, &figures);
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
                "functional_scaffold_redis_read_failures_total{reason=\"internal\"} 0",
                "functional_scaffold_settle_failures_total{reason=\"connection\"} 0",
                "functional_scaffold_settle_failures_total{reason=\"timeout\"} 0",
                "functional_scaffold_settle_failures_total{reason=\"auth\"} 1",
                "functional_scaffold_settle_failures_total{reason=\"loading\"} 0",
                "functional_scaffold_settle_failures_total{reason=\"server\"} 0",
                "functional_scaffold_settle_failures_total{reason=\"internal\"} 0",
                "functional_scaffold_regressions_total 2",
                "functional_scaffold_oldest_lease_age_seconds 0.5",
                "functional_scaffold_last_flush_timestamp_seconds 1753000000.25",
            ]
        );
        assert_eq!(
            out.matches("# TYPE ").count(),
            out.matches("# HELP ").count()
        );
        let types = out.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        let names: Vec<_> = types.filter_map(|rest| rest.split(' ').next()).collect();
        assert_eq!(names, OWN_NAMES.map(|name| format!("{PREFIX}{name}")));
        assert!(names.iter().all(|name| is_own_name(name)));
        assert!(!is_own_name("functional_scaffold_late_results_total"));
    }
}
