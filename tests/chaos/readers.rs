//! The programs that read Redis: exporters, and a relay to a Pushgateway.

use std::{net::SocketAddr, process::Command, time::Duration};

use anyhow::ensure;
use functional_scaffold_testkit::{
    exporter::{self, Exporter},
    process::{Process, poll_until},
    pushgateway::Pushgateway,
};
use tempfile::TempDir;

use crate::{plan::Plan, watcher::RELAY};

/// The longest time between two pushes on a busy machine.
const PUSH_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct Readers {
    exporters: Vec<Exporter>,
    relay: Option<Relay>,
    /// Of the exporters' high-water marks.
    _folder: TempDir,
}

#[derive(Debug)]
struct Relay {
    _process: Process,
    pushgateway: Pushgateway,
}

impl Readers {
    /// Starts them on a path to Redis.
    pub(crate) fn start(plan: &Plan, redis_port: u16) -> anyhow::Result<Self> {
        let folder = TempDir::new()?;
        let is_wide = plan.has_more_readers();
        let shards = plan.shards();
        let mut exporters = Vec::new();
        for number in 0..1 + usize::from(is_wide) {
            let marks = folder.path().join(format!("marks-{number}.json"));
            let variables = [
                ("EXPORTER_STATE_FILE", marks.as_os_str()),
                ("METRICS_SHARDS", shards.as_ref()),
            ];
            exporters.push(Exporter::start_with(redis_port, &variables)?);
        }
        let relay = is_wide
            .then(|| Relay::start(redis_port, &shards))
            .transpose()?;
        Ok(Self {
            exporters,
            relay,
            _folder: folder,
        })
    }

    /// Returns the name and the address of each reader.
    pub(crate) fn addresses(&self) -> Vec<(String, SocketAddr)> {
        let exporters = self.exporters.iter().enumerate();
        let mut all: Vec<_> = exporters
            .map(|(index, exporter)| (format!("exporter {}", index + 1), exporter.address()))
            .collect();
        if let Some(relay) = &self.relay {
            all.push((RELAY.to_owned(), relay.pushgateway.address()));
        }
        all
    }

    /// Waits until the relay has pushed what Redis holds now.
    pub(crate) fn wait_for_push(&self) -> anyhow::Result<()> {
        let Some(relay) = &self.relay else {
            return Ok(());
        };
        // The first push may have read Redis before.
        for _ in 0..2 {
            let before = relay.pushes()?;
            poll_until(PUSH_TIMEOUT, || {
                ensure!(relay.pushes()? != before, "no push");
                Ok(())
            })?;
        }
        Ok(())
    }

    pub(crate) fn kill_and_restart(&mut self) -> anyhow::Result<()> {
        self.exporters[0].kill_and_restart()
    }
}

impl Relay {
    /// The time of the last push to each group.
    fn pushes(&self) -> anyhow::Result<Vec<String>> {
        let text = self.pushgateway.scrape()?;
        let lines = text.lines();
        let times = lines.filter(|line| line.starts_with("push_time_seconds{"));
        Ok(times.map(str::to_owned).collect())
    }

    fn start(redis_port: u16, shards: &str) -> anyhow::Result<Self> {
        let pushgateway = Pushgateway::start()?;
        let mut command = exporter::command(&exporter::program()?);
        command
            .args(["push", "--interval", "1s"])
            .env("REDIS_PORT", redis_port.to_string())
            .env("METRICS_SHARDS", shards)
            .env("PUSHGATEWAY_URL", pushgateway.url());
        Ok(Self {
            _process: Process::start(&mut command)?,
            pushgateway,
        })
    }
}

/// Runs a command of the exporter on the shards of the Redis that listens on a port.
pub(crate) fn command(redis_port: u16, shards: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let mut command: Command = exporter::command(&exporter::program()?);
    let output = command
        .args(arguments)
        .env("REDIS_PORT", redis_port.to_string())
        .env("METRICS_SHARDS", shards)
        .output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{arguments:?} failed: {text}");
    Ok(())
}
