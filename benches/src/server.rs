//! Exporters that are scraped, each found to show what is stored.

use std::{ffi::OsStr, net::TcpStream, path::Path, process::Command, time::Duration};

use anyhow::ensure;
use functional_scaffold_tests::{
    exporter::Exporter,
    process::{Process, free_port, poll_until},
    repository,
};

use crate::{
    cpu,
    filled::{Filled, count_samples},
    store::Store,
};

const START_TIMEOUT: Duration = Duration::from_secs(20);
/// A Python exporter takes long over a million series.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(180);

/// A million series are a tenth of it.
pub(crate) const MAX_SCRAPE_BYTES: u64 = 1 << 30;

/// An exporter.
pub(crate) struct Server {
    url: String,
    process: u32,
    used_by: UsedBy,
    /// How many are stored.
    samples: usize,
    /// What ends with it.
    _running: Box<dyn std::any::Any>,
}

/// How a process's processor time is read.
type UsedBy = fn(u32) -> anyhow::Result<Duration>;

impl Server {
    /// Its processor time so far.
    ///
    /// # Errors
    /// It is gone.
    pub(crate) fn used(&self) -> anyhow::Result<Duration> {
        (self.used_by)(self.process)
    }

    /// The most memory that it had at a time, in bytes.
    ///
    /// # Errors
    /// It is gone.
    pub(crate) fn peak_memory(&self) -> anyhow::Result<u64> {
        cpu::peak_memory(self.process)
    }

    /// Whether a scrape has as many samples as the one that was compared with
    /// what is stored.
    ///
    /// # Errors
    /// It is not.
    pub(crate) fn check(&self, scrape: &str) -> anyhow::Result<()> {
        let samples = count_samples(scrape);
        ensure!(
            samples == self.samples,
            "a scrape has {samples} samples instead of {}",
            self.samples
        );
        Ok(())
    }
}

/// What starts and scrapes exporters.
pub(crate) struct Network {
    runtime: tokio::runtime::Runtime,
    agent: ureq::Agent,
}

impl Network {
    /// Knows no server yet.
    ///
    /// # Errors
    /// This is no machine for tokio.
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self {
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?,
            agent: ureq::Agent::config_builder()
                .timeout_global(Some(SCRAPE_TIMEOUT))
                .build()
                .into(),
        })
    }

    /// Scrapes a server.
    ///
    /// # Errors
    /// No answer.
    pub(crate) fn scrape(&self, server: &Server) -> anyhow::Result<String> {
        self.get(&server.url)
    }

    fn get(&self, url: &str) -> anyhow::Result<String> {
        let mut answer = self.agent.get(url).call()?;
        let body = answer.body_mut().with_config().limit(MAX_SCRAPE_BYTES);
        Ok(body.read_to_string()?)
    }

    /// The exporter of this repository, found to show what is stored.
    ///
    /// # Errors
    /// It does not.
    pub(crate) fn exporter(&self, store: &Store, filled: &Filled) -> anyhow::Result<Server> {
        let variables = [
            // The page would read Redis in between.
            ("EXPORTER_PAGE_INTERVAL_MS", OsStr::new("0")),
            ("EXPORTER_SCRAPE_TIMEOUT_MS", OsStr::new("60000")),
        ];
        let starting = Exporter::start_with(store.port(), &variables);
        let exporter = self.runtime.block_on(starting)?;
        let (url, process) = (exporter.url("/metrics"), exporter.process_id());
        self.checked(
            url,
            (process, cpu::of_threads as UsedBy),
            Box::new(exporter),
            filled,
        )
    }

    /// The one in `benches/peers/exporter`, found to show what is stored.
    ///
    /// # Errors
    /// It does not.
    pub(crate) fn python_exporter(
        &self,
        python: &Path,
        store: &Store,
        filled: &Filled,
    ) -> anyhow::Result<Server> {
        let port = free_port()?;
        let mut command = Command::new(python);
        command
            .arg(repository().join("benches/peers/exporter/exporter.py"))
            .args(["--redis-port", &store.port().to_string()])
            .args(["--port", &port.to_string()]);
        let process = Process::start(&mut command, "give a Python with --python")?;
        poll_until(START_TIMEOUT, || {
            Ok(TcpStream::connect(("127.0.0.1", port))?)
        })?;
        let url = format!("http://127.0.0.1:{port}/metrics");
        // It has a thread for each scrape, which ends with it.
        let account = (process.id(), cpu::of_tree as UsedBy);
        self.checked(url, account, Box::new(process), filled)
    }

    fn checked(
        &self,
        url: String,
        (process, used_by): (u32, UsedBy),
        running: Box<dyn std::any::Any>,
        filled: &Filled,
    ) -> anyhow::Result<Server> {
        let text = self.get(&url)?;
        filled.check(&text)?;
        Ok(Server {
            url,
            process,
            used_by,
            samples: filled.series(),
            _running: running,
        })
    }
}
