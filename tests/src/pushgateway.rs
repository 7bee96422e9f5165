//! A Pushgateway of one's own on a free port.

use std::{process::Command, time::Duration};

use anyhow::ensure;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::process::{POLL, Process, free_port};

/// A running Pushgateway.
#[derive(Debug)]
pub struct Pushgateway {
    port: u16,
    process: Process,
    _folder: TempDir,
}

impl Pushgateway {
    /// Starts one with a file of its own for its groups, and waits until it
    /// answers.
    ///
    /// # Errors
    /// There is no prometheus-pushgateway, or it does not answer.
    pub async fn start() -> anyhow::Result<Self> {
        let folder = TempDir::new()?;
        let port = free_port()?;
        let mut command = Command::new("prometheus-pushgateway");
        command
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .arg(format!(
                "--persistence.file={}",
                folder.path().join("groups").display()
            ));
        let install = "install it with `apt-get install prometheus-pushgateway`";
        let pushgateway = Self {
            process: Process::start(&mut command, install)?,
            port,
            _folder: folder,
        };
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while pushgateway.scrape().await.is_err() {
            ensure!(
                tokio::time::Instant::now() < deadline,
                "the Pushgateway does not answer:\n{}",
                pushgateway.process.output()?
            );
            tokio::time::sleep(POLL).await;
        }
        Ok(pushgateway)
    }

    /// Where it is, as `pushgateway_url` wants it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Where it listens, as Prometheus wants a target.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its process.
    #[must_use]
    pub fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// Everything that was pushed to it, and its own metrics.
    ///
    /// # Errors
    /// No answer.
    pub async fn scrape(&self) -> anyhow::Result<String> {
        let response = reqwest::get(format!("{}/metrics", self.url())).await?;
        Ok(response.error_for_status()?.text().await?)
    }

    /// How many groups it holds.
    ///
    /// # Errors
    /// No answer.
    pub async fn groups(&self) -> anyhow::Result<usize> {
        let text = self.scrape().await?;
        let groups = text
            .lines()
            .filter(|line| line.starts_with("push_time_seconds{"));
        Ok(groups.count())
    }

    /// Stops it where it stands: it takes connections and answers nothing.
    ///
    /// # Errors
    /// It is gone.
    pub fn suspend(&self) -> anyhow::Result<()> {
        self.process.signal(Signal::STOP)
    }

    /// Lets it go on, with what came meanwhile.
    ///
    /// # Errors
    /// It is gone.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.process.signal(Signal::CONT)
    }
}
