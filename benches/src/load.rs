//! Requests by `oha`: in a closed loop (each connection waits for its response),
//! or at a rate that does not depend on the responses (open loop).

use std::{collections::BTreeMap, path::Path, process::Command, time::Duration};

use anyhow::{Context as _, ensure};
use serde::Deserialize;

use crate::{machine::cpu_of_ended_children, measure::as_float};

#[derive(Debug, Clone)]
pub(crate) struct Load {
    pub(crate) url: String,
    /// JSON for a POST.
    pub(crate) body: &'static str,
    pub(crate) pace: Pace,
    pub(crate) lasting: Duration,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Pace {
    /// Over this number of connections, as fast as responses arrive.
    Closed(u32),
    /// Requests per second, evenly.
    Open(f64),
}

/// Connections of an open loop: more than are ever busy at half of capacity, so
/// that a request waits for the server and not for a connection.
const OPEN_CONNECTIONS: u32 = 64;

/// Responses, all with status 200.
#[derive(Debug, Clone)]
pub(crate) struct Responses {
    pub(crate) count: u64,
    /// Per second.
    pub(crate) rate: f64,
    /// Latency in milliseconds. In an open loop from when a request was due, so
    /// that waiting for its turn counts (no coordinated omission).
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    /// Processor time of the generator.
    pub(crate) generator: Duration,
}

impl Load {
    /// Fails unless every response has status 200.
    pub(crate) fn send(&self, oha: &Path) -> anyhow::Result<Responses> {
        let (connections, arguments) = match self.pace {
            // A second thread costs a third more processor time, which the server
            // would lack.
            Pace::Closed(connections) => (connections, vec!["--worker-threads".into(), "1".into()]),
            Pace::Open(rate) => {
                let rate = format!("{rate:.0}");
                (
                    OPEN_CONNECTIONS,
                    vec!["-q".into(), rate, "--latency-correction".to_owned()],
                )
            }
        };
        let before = cpu_of_ended_children()?;
        let output = Command::new(oha)
            .args(["--no-tui", "--output-format", "json"])
            .args(["-m", "POST", "-d", self.body])
            .args(["-T", "application/json"])
            .args(["-c", &connections.to_string()])
            .args(["-z", &format!("{}ms", self.lasting.as_millis())])
            // Otherwise the last requests are aborted, and may be counted or not.
            .arg("--wait-ongoing-requests-after-deadline")
            .args(["-t", "30s"])
            .args(arguments)
            .arg(&self.url)
            .output()
            .with_context(|| format!("cannot start {}", oha.display()))?;
        let generator = cpu_of_ended_children()?.saturating_sub(before);
        ensure!(
            output.status.success(),
            "oha ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        let report: OhaReport =
            serde_json::from_slice(&output.stdout).context("cannot parse oha's report")?;
        report
            .responses(generator)
            .with_context(|| self.url.clone())
    }
}

/// The part of oha's report that is used. Times are in seconds.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OhaReport {
    summary: Summary,
    latency_percentiles: BTreeMap<String, Option<f64>>,
    status_code_distribution: BTreeMap<String, u64>,
    error_distribution: BTreeMap<String, u64>,
}

#[derive(Deserialize)]
struct Summary {
    total: f64,
}

impl OhaReport {
    fn responses(&self, generator: Duration) -> anyhow::Result<Responses> {
        let codes = &self.status_code_distribution;
        ensure!(
            self.error_distribution.is_empty() && codes.keys().eq(["200"]),
            "not every response had status 200: {codes:?}, {:?}",
            self.error_distribution
        );
        let count = codes["200"];
        let percentile = |name: &str| {
            let seconds = self.latency_percentiles.get(name).copied().flatten();
            let seconds = seconds.with_context(|| format!("oha reports no {name}"))?;
            anyhow::Ok(seconds * 1e3)
        };
        Ok(Responses {
            count,
            rate: as_float(count) / self.summary.total,
            p50: percentile("p50")?,
            p99: percentile("p99")?,
            p999: percentile("p99.9")?,
            generator,
        })
    }
}
