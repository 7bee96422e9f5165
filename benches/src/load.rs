//! Requests by `oha`: as many as are answered (closed loop), or at a rate
//! whatever the answers take (open loop).

use std::{collections::BTreeMap, path::Path, process::Command, time::Duration};

use anyhow::{Context as _, ensure};
use serde::Deserialize;

use crate::cpu;

/// What is sent, and over how many connections.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    /// Where to.
    pub(crate) url: String,
    /// The JSON that is posted.
    pub(crate) body: &'static str,
    /// Connections, each kept open.
    pub(crate) connections: u32,
    /// How long requests are begun.
    pub(crate) lasting: Duration,
}

/// What came back. Every request was answered with 200.
#[derive(Debug, Clone)]
pub(crate) struct Answered {
    /// How many.
    pub(crate) requests: u64,
    /// A second.
    pub(crate) rate: f64,
    /// Latency in milliseconds. In an open loop from when a request was due, so
    /// that one that waits for its turn counts as waiting (no coordinated
    /// omission).
    pub(crate) p50: f64,
    /// The same.
    pub(crate) p99: f64,
    /// The same.
    pub(crate) p999: f64,
    /// Processor time of the generator.
    pub(crate) generator: Duration,
}

impl Load {
    /// Each connection sends its next request when the last is answered.
    ///
    /// # Errors
    /// A request was not answered with 200.
    pub(crate) fn closed(&self, oha: &Path) -> anyhow::Result<Answered> {
        // A second thread would cost a third more processor time, which the
        // server lacks then.
        self.run(oha, &["--worker-threads", "1"])
    }

    /// So many requests a second are due, evenly.
    ///
    /// # Errors
    /// A request was not answered with 200.
    pub(crate) fn open(&self, oha: &Path, rate: f64) -> anyhow::Result<Answered> {
        let due = format!("{rate:.0}");
        self.run(oha, &["-q", &due, "--latency-correction"])
    }

    fn run(&self, oha: &Path, further: &[&str]) -> anyhow::Result<Answered> {
        let before = cpu::of_ended_children()?;
        let output = Command::new(oha)
            .args(["--no-tui", "--output-format", "json"])
            .args(["-m", "POST", "-d", self.body])
            .args(["-T", "application/json"])
            .args(["-c", &self.connections.to_string()])
            .args(["-z", &format!("{}ms", self.lasting.as_millis())])
            // Without it the last ones are given up, and whether they were
            // counted nobody knows.
            .arg("--wait-ongoing-requests-after-deadline")
            .args(["-t", "30s"])
            .args(further)
            .arg(&self.url)
            .output()
            .with_context(|| format!("cannot start {}", oha.display()))?;
        let generator = cpu::of_ended_children()?.saturating_sub(before);
        ensure!(
            output.status.success(),
            "oha ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        let report: Report =
            serde_json::from_slice(&output.stdout).context("cannot understand oha's report")?;
        report.answered(generator).with_context(|| self.url.clone())
    }
}

/// The part of oha's report that is used. Times are in seconds.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    summary: Summary,
    latency_percentiles: BTreeMap<String, Option<f64>>,
    status_code_distribution: BTreeMap<String, u64>,
    error_distribution: BTreeMap<String, u64>,
}

#[derive(Deserialize)]
struct Summary {
    total: f64,
}

impl Report {
    fn answered(&self, generator: Duration) -> anyhow::Result<Answered> {
        let codes = &self.status_code_distribution;
        ensure!(
            self.error_distribution.is_empty() && codes.keys().eq(["200"]),
            "not every request was answered with 200: {codes:?}, {:?}",
            self.error_distribution
        );
        let requests = codes["200"];
        let percentile = |name: &str| {
            let seconds = self.latency_percentiles.get(name).copied().flatten();
            let seconds = seconds.with_context(|| format!("oha reports no {name}"))?;
            anyhow::Ok(seconds * 1e3)
        };
        Ok(Answered {
            requests,
            rate: as_float(requests) / self.summary.total,
            p50: percentile("p50")?,
            p99: percentile("p99")?,
            p999: percentile("p99.9")?,
            generator,
        })
    }
}

/// A count, for arithmetic; exact below 2^53.
pub(crate) fn as_float(count: u64) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
    let float = count as f64;
    float
}
