//! The exporter's own metrics. Owns their names and meanings; what they count
//! is counted elsewhere.

use std::{
    fmt::Write as _,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use functional_scaffold_schema::{
    exposition::{write_help_line, write_sample_line, write_type_line},
    family::Kind,
    labels::write_labels,
};

use crate::connection::Reason;

/// What the names of the exporter's own metrics begin with. No family of that
/// beginning is served, so that a later version may add to them.
pub const RESERVED_PREFIX: &str = "functional_scaffold_";

/// Counts since the exporter began.
#[derive(Debug, Default)]
pub struct Totals {
    reads: AtomicU64,
    failures: [AtomicU64; Reason::ALL.len()],
}

impl Totals {
    /// Counts a finished read of Redis.
    pub fn count_read(&self, failure: Option<Reason>) {
        self.reads.fetch_add(1, Ordering::Relaxed);
        if let Some(reason) = failure {
            self.failures[reason as usize].fetch_add(1, Ordering::Relaxed);
        }
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
}

/// Appends the exporter's own metrics to an exposition.
pub fn write(out: &mut String, totals: &Totals, figures: &ScrapeFigures<'_>) {
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
    let mut failures = counter(
        out,
        "redis_read_failures_total",
        "Reads of Redis that failed since the exporter began, by reason.",
    );
    for reason in Reason::ALL {
        let mut labels = String::new();
        write_labels(&mut labels, &[("reason", reason.label())]);
        let count = totals.failures[reason as usize].load(Ordering::Relaxed);
        failures.sample(&labels, count as f64);
    }
}

/// A family of which help and type are written.
struct Begun<'a> {
    out: &'a mut String,
    name: String,
}

impl Begun<'_> {
    fn sample(&mut self, labels: &str, value: f64) {
        write_sample_line(self.out, &self.name, labels, value);
    }
}

fn gauge<'a>(out: &'a mut String, name: &str, help: &str) -> Begun<'a> {
    begin(out, name, Kind::Gauge, help)
}

fn counter<'a>(out: &'a mut String, name: &str, help: &str) -> Begun<'a> {
    begin(out, name, Kind::Counter, help)
}

fn begin<'a>(out: &'a mut String, name: &str, kind: Kind, help: &str) -> Begun<'a> {
    let mut full = String::from(RESERVED_PREFIX);
    // Writing to a String cannot fail.
    let _ = full.write_str(name);
    write_help_line(out, &full, help);
    write_type_line(out, &full, kind);
    Begun { out, name: full }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offences::Offences;

    #[test]
    fn writes_every_metric_with_help_and_type() {
        let mut offences = Offences::default();
        offences.add("jobs_total", "value", String::new);
        let totals = Totals::default();
        totals.count_read(None);
        totals.count_read(Some(Reason::Loading));
        let figures = ScrapeFigures {
            up: true,
            duration: Duration::from_millis(1500),
            families: 2,
            series: 3,
            cells: 4,
            offences: &offences,
        };
        let mut out = String::new();
        write(&mut out, &totals, &figures);
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
            ]
        );
        assert_eq!(
            out.matches("# TYPE ").count(),
            out.matches("# HELP ").count()
        );
    }
}
