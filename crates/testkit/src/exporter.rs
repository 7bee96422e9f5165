//! The exporter of this repository.

use std::{
    ffi::{OsStr, OsString},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    http,
    process::{Process, START_TIMEOUT, Signal, on_free_port},
    program,
};

/// The program.
pub const EXPORTER: &str = "functional-scaffold-exporter";

/// The path of the program as it was built.
///
/// # Errors
/// It is not built.
pub fn program() -> anyhow::Result<PathBuf> {
    program::built(EXPORTER)
}

/// A command that runs the program with no variable of the caller's environment.
#[must_use]
pub fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear();
    command
}

/// A running exporter. Stopped on drop.
#[derive(Debug)]
pub struct Exporter {
    process: Process,
    address: SocketAddr,
    program: PathBuf,
    variables: Vec<(OsString, OsString)>,
}

impl Exporter {
    /// Starts an exporter of this Redis, and waits until it serves.
    ///
    /// # Errors
    /// It is not built, or does not respond.
    pub fn start(redis_port: u16) -> anyhow::Result<Self> {
        Self::start_with(redis_port, &[])
    }

    /// Like [`Self::start`], with further environment variables.
    ///
    /// # Errors
    /// It is not built, or does not respond.
    pub fn start_with(redis_port: u16, variables: &[(&str, &OsStr)]) -> anyhow::Result<Self> {
        Self::start_program(&program()?, redis_port, variables)
    }

    /// Like [`Self::start_with`], of the program at a path.
    ///
    /// # Errors
    /// It cannot be started, or does not respond.
    pub fn start_program(
        program: &Path,
        redis_port: u16,
        variables: &[(&str, &OsStr)],
    ) -> anyhow::Result<Self> {
        on_free_port(|port| {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let own = [
                ("REDIS_PORT", redis_port.to_string().into()),
                ("EXPORTER_LISTEN", address.to_string().into()),
            ];
            let own = own.map(|(name, value): (_, OsString)| (name.into(), value));
            let further = variables
                .iter()
                .map(|&(name, value)| (name.into(), value.into()));
            let variables: Vec<(OsString, OsString)> = own.into_iter().chain(further).collect();
            let process = Process::start(command(program).envs(variables.iter().cloned()))?;
            let mut exporter = Self {
                process,
                address,
                program: program.to_owned(),
                variables,
            };
            exporter.wait_until_it_serves()?;
            Ok(exporter)
        })
    }

    /// Kills it, starts it with the same options on the same port, and waits until it
    /// serves.
    ///
    /// # Errors
    /// It does not start.
    pub fn kill_and_restart(&mut self) -> anyhow::Result<()> {
        let mut command = command(&self.program);
        command.envs(self.variables.iter().cloned());
        self.process.replace(&mut command, "")?;
        self.wait_until_it_serves()
    }

    /// A plain connection tells, whether it speaks TLS or not.
    fn wait_until_it_serves(&mut self) -> anyhow::Result<()> {
        let address = self.address;
        self.process.wait_until(START_TIMEOUT, |_| {
            http::connect(address, http::TIMEOUT).map(drop)
        })
    }

    /// The address, as Prometheus takes a target.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of a path.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The process, whose output is the log.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// The process, to wait for its end.
    pub fn process_mut(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Stops it with SIGTERM and returns the whole log.
    ///
    /// # Errors
    /// It does not end, or not with success.
    pub fn stop(mut self) -> anyhow::Result<String> {
        self.process.signal(Signal::TERM)?;
        let status = self.process.wait(START_TIMEOUT)?;
        let log = self.process.output()?;
        anyhow::ensure!(status.success(), "it ended with {status}:\n{log}");
        Ok(log)
    }

    /// The text of `/metrics`.
    ///
    /// # Errors
    /// There is no response with status 200.
    pub fn scrape(&self) -> anyhow::Result<String> {
        http::get_text(self.address, "/metrics")
    }
}
