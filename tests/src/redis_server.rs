//! A redis-server of one's own, on a free port, with its data in a temporary
//! folder.

use std::{collections::BTreeMap, path::Path, process::Command, time::Duration};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::process::{Process, free_port, poll_until};

/// Who the tests are to it: whatever is done to the default user, who the
/// programs under test are, does not lock the tests out.
const TESTER: &str = "tester";

const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// A running redis-server.
#[derive(Debug)]
pub struct RedisServer {
    port: u16,
    data: TempDir,
    process: Process,
}

impl RedisServer {
    /// Starts one with an append-only file, written at every command.
    ///
    /// # Errors
    /// There is no redis-server, or it does not answer.
    pub fn start() -> anyhow::Result<Self> {
        Self::start_with(&[])
    }

    /// The same with further arguments, of which the last of a kind counts.
    ///
    /// # Errors
    /// There is no redis-server, or it does not answer.
    pub fn start_with(arguments: &[&str]) -> anyhow::Result<Self> {
        let port = free_port()?;
        let data = TempDir::new()?;
        let server = Self {
            process: launch(port, &data, arguments)?,
            port,
            data,
        };
        server.wait_until_it_answers()?;
        Ok(server)
    }

    /// The port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its process.
    #[must_use]
    pub fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// Kills it and starts it again on the same data.
    ///
    /// # Errors
    /// It does not come back.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.relaunch(&[])?;
        self.wait_until_it_answers()
    }

    /// Kills it and starts it on the same data with further arguments. It may
    /// not answer yet: that is the caller's to wait for.
    ///
    /// # Errors
    /// There is no redis-server any more.
    pub fn relaunch(&mut self, arguments: &[&str]) -> anyhow::Result<()> {
        self.process.signal(Signal::KILL)?;
        // It dies of the signal, so there is no exit code.
        let _ = self.process.wait(Duration::from_secs(5));
        self.process = launch(self.port, &self.data, arguments)?;
        Ok(())
    }

    /// Waits until it answers a `PING`.
    ///
    /// # Errors
    /// It does not within half a minute.
    pub fn wait_until_it_answers(&self) -> anyhow::Result<()> {
        poll_until(Duration::from_secs(30), || self.call::<()>(&["PING"]))
    }

    /// The folder of its data.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.data.path()
    }

    /// Stops it without ending it: it accepts connections and answers nothing.
    ///
    /// # Errors
    /// It is gone.
    pub fn hang(&self) -> anyhow::Result<()> {
        self.process.signal(Signal::STOP)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// It is gone.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.process.signal(Signal::CONT)
    }

    /// Calls a command.
    ///
    /// # Errors
    /// Redis's own.
    pub fn call<T: redis::FromRedisValue>(&self, command: &[&str]) -> anyhow::Result<T> {
        let address = format!("redis://{TESTER}:{TESTER}@127.0.0.1:{}", self.port);
        let client = redis::Client::open(address)?;
        let mut connection = client.get_connection_with_timeout(ANSWER_TIMEOUT)?;
        connection.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        let mut call = redis::cmd(command[0]);
        call.arg(&command[1..]);
        Ok(call.query(&mut connection)?)
    }

    /// The cells of a hash of integers that are not 0.
    ///
    /// # Errors
    /// Redis's own.
    pub fn cells(&self, key: &str) -> anyhow::Result<BTreeMap<String, i64>> {
        let mut cells: BTreeMap<String, i64> = self.call(&["HGETALL", key])?;
        cells.retain(|_, value| *value != 0);
        Ok(cells)
    }
}

fn launch(port: u16, data: &TempDir, arguments: &[&str]) -> anyhow::Result<Process> {
    let mut command = Command::new("redis-server");
    command
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
        .args(["--save", "", "--appendonly", "yes"])
        .args(["--appendfsync", "always", "--dir"])
        .arg(data.path())
        .args(["--user", TESTER, "on", &format!(">{TESTER}")])
        .args(["~*", "&*", "+@all"])
        .args(arguments);
    Process::start(
        &mut command,
        "install it with `apt-get install redis-server`",
    )
}
