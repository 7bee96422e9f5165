//! The exporter, its replay, and its output as somebody else's parser reads it.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    io::Write as _,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, ensure};

use crate::{
    process::{Process, free_port},
    workspace_binary,
};

/// A running exporter.
#[derive(Debug)]
pub struct Exporter {
    port: u16,
    process: Process,
}

/// Samples by name and sorted labels, in exposition syntax.
pub type Samples = BTreeMap<String, f64>;

impl Exporter {
    /// Starts one on a Redis and waits until it serves.
    ///
    /// # Errors
    /// It is not built, or does not answer.
    pub async fn start(redis_port: u16) -> anyhow::Result<Self> {
        Self::start_with(redis_port, &[]).await
    }

    /// The same with further environment variables.
    ///
    /// # Errors
    /// It is not built, or does not answer.
    pub async fn start_with(redis_port: u16, variables: &[(&str, &OsStr)]) -> anyhow::Result<Self> {
        let port = free_port()?;
        let mut command = Command::new(workspace_binary("functional-scaffold-exporter")?);
        command
            .env("REDIS_PORT", redis_port.to_string())
            .envs(variables.iter().copied())
            .env("EXPORTER_LISTEN", format!("127.0.0.1:{port}"));
        let process = Process::start(&mut command, "run `cargo xtask build`")?;
        let exporter = Self { port, process };
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        while let Err(error) = reqwest::get(exporter.url("/healthz")).await {
            ensure!(
                tokio::time::Instant::now() < deadline,
                "the exporter does not answer: {error}"
            );
            tokio::time::sleep(crate::process::POLL).await;
        }
        Ok(exporter)
    }

    /// Its process.
    #[must_use]
    pub fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// The URL of a path.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Where it listens, as Prometheus wants a target.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Scrapes the metrics' text.
    ///
    /// # Errors
    /// No answer.
    pub async fn scrape(&self) -> anyhow::Result<String> {
        let response = reqwest::get(self.url("/metrics")).await?;
        Ok(response.error_for_status()?.text().await?)
    }
}

/// Stores the batches that a log holds, as an operator would.
///
/// # Errors
/// Not all of them could be stored.
pub fn replay(redis_port: u16, log: &str) -> anyhow::Result<()> {
    let mut command = Command::new(workspace_binary("functional-scaffold-exporter")?);
    command
        .arg("replay")
        .env("REDIS_PORT", redis_port.to_string());
    feed(&mut command, log, "run `cargo xtask build`").map(drop)
}

/// Puts the groups that a log holds in their places, as an operator would.
///
/// # Errors
/// Not all of them were taken.
pub fn replay_to_pushgateway(url: &str, log: &str) -> anyhow::Result<()> {
    let mut command = Command::new(workspace_binary("functional-scaffold-exporter")?);
    command.args(["replay", "--to", url]);
    feed(&mut command, log, "run `cargo xtask build`").map(drop)
}

/// Parses an exposition with Python's `prometheus_client`, the reference.
///
/// # Errors
/// The parser is missing or refuses the text.
pub fn parse_with_prometheus_client(text: &str) -> anyhow::Result<Samples> {
    const SCRIPT: &str = r#"
import json, sys
from prometheus_client.parser import text_string_to_metric_families
def escape(value):
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
samples = {}
for family in text_string_to_metric_families(sys.stdin.read()):
    for sample in family.samples:
        labels = ",".join(f'{name}="{escape(value)}"' for name, value in sorted(sample.labels.items()))
        key = sample.name + ("{" + labels + "}" if labels else "")
        assert key not in samples, f"{key} comes twice"
        samples[key] = sample.value
json.dump(samples, sys.stdout)
"#;
    // Debian's package serves Debian's python3, which may not be the first on
    // PATH.
    let output = feed(
        Command::new("/usr/bin/python3").args(["-c", SCRIPT]),
        text,
        "install python3-prometheus-client",
    )?;
    Ok(serde_json::from_str(&output)?)
}

/// Checks an exposition with `promtool check metrics`, warnings included.
///
/// # Errors
/// promtool is missing or finds fault.
pub fn check_with_promtool(text: &str) -> anyhow::Result<()> {
    let complaints = feed(
        Command::new("promtool").args(["check", "metrics"]),
        text,
        "install prometheus",
    )?;
    ensure!(complaints.trim().is_empty(), "promtool: {complaints}");
    Ok(())
}

/// Runs a command on an input; gives what it wrote to stdout and stderr.
fn feed(command: &mut Command, input: &str, install: &str) -> anyhow::Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {program}; {install}"))?;
    let mut stdin = child.stdin.take().context("stdin is piped")?;
    let input = input.to_owned();
    // Written beside the reading: a large input would fill both pipes.
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output()?;
    let _ = writer.join();
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{program} ended with {}; {install}?\n{stderr}",
        output.status
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned() + &stderr)
}
