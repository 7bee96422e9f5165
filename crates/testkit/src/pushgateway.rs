//! A Pushgateway.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::Command,
};

use tempfile::TempDir;

use crate::{
    http,
    process::{Process, START_TIMEOUT, Signal, on_free_port},
    program::Program,
};

/// The program.
pub const PUSHGATEWAY: Program = Program {
    name: "Pushgateway",
    executables: &["prometheus-pushgateway", "pushgateway"],
    package: "prometheus-pushgateway",
};

/// Completes a command that runs the program: it listens there and keeps its
/// groups in `folder`.
pub fn command(mut program: Command, listen: SocketAddr, folder: &Path) -> Command {
    let groups = folder.join("groups");
    program
        .arg(format!("--web.listen-address={listen}"))
        .arg(format!("--persistence.file={}", groups.display()))
        // Without an interval it writes them only when it is stopped.
        .arg("--persistence.interval=10s")
        // Allows `PUT /api/v1/admin/wipe`: nothing else shrinks the number of groups.
        .arg("--web.enable-admin-api")
        .arg("--log.level=warn");
    program
}

/// A running Pushgateway. Stopped on drop.
#[derive(Debug)]
pub struct Pushgateway {
    process: Process,
    address: SocketAddr,
    _folder: TempDir,
}

impl Pushgateway {
    /// Starts one on a free port and waits until it is ready.
    ///
    /// # Errors
    /// There is no program, or it does not respond.
    pub fn start() -> anyhow::Result<Self> {
        Self::start_with(&[])
    }

    /// Like [`Self::start`], with further arguments.
    ///
    /// # Errors
    /// There is no program, or it does not respond.
    pub fn start_with(arguments: &[&str]) -> anyhow::Result<Self> {
        on_free_port(|port| {
            let folder = TempDir::new()?;
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let mut command = command(Command::new(PUSHGATEWAY.find()?), address, folder.path());
            let mut process = Process::start(command.args(arguments))?;
            process.wait_until(START_TIMEOUT, |_| http::check_ok(address, "/-/ready"))?;
            Ok(Self {
                process,
                address,
                _folder: folder,
            })
        })
    }

    /// The address, as Prometheus takes a target.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL, as `pushgateway_url` takes it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The process.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Everything that was pushed to it, and its own metrics.
    ///
    /// # Errors
    /// It does not respond.
    pub fn scrape(&self) -> anyhow::Result<String> {
        http::get_text(self.address, "/metrics")
    }

    /// The number of groups.
    ///
    /// # Errors
    /// It does not respond.
    pub fn groups(&self) -> anyhow::Result<usize> {
        let text = self.scrape()?;
        let lines = text.lines();
        let groups = lines.filter(|line| line.starts_with("push_time_seconds{"));
        Ok(groups.count())
    }

    /// Suspends the process: it accepts connections and does not respond.
    ///
    /// # Errors
    /// It is gone.
    pub fn suspend(&self) -> anyhow::Result<()> {
        self.process.signal(Signal::STOP)
    }

    /// Resumes the process, which then handles what came meanwhile.
    ///
    /// # Errors
    /// It is gone.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.process.signal(Signal::CONT)
    }
}
