//! Redis Sentinel: promotes a replica when the master is gone.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    process::Command,
};

use tempfile::TempDir;

use crate::{
    process::{Process, START_TIMEOUT, on_free_port},
    redis::{REDIS, check_ping},
};

/// The name of the master that it watches.
pub const MASTER: &str = "metrics";

/// A running Sentinel, whose vote alone is enough. Stopped on drop.
#[derive(Debug)]
pub struct Sentinel {
    _process: Process,
    #[cfg(feature = "client")]
    port: u16,
    _folder: TempDir,
}

impl Sentinel {
    /// Starts one that watches the master on a port of loopback, and its replicas.
    /// `lines` complete its configuration, `sentinel <line>` each.
    ///
    /// # Errors
    /// There is no redis-server, or it does not respond.
    pub fn start(master: u16, lines: &[String]) -> anyhow::Result<Self> {
        on_free_port(|port| {
            let folder = TempDir::new()?;
            let file = folder.path().join("sentinel.conf");
            let mut text = format!(
                "bind 127.0.0.1\nport {port}\ndir {}\nsentinel monitor {MASTER} 127.0.0.1 {master} 1\n",
                folder.path().display()
            );
            for line in lines {
                text.push_str(&format!("sentinel {line}\n"));
            }
            // It keeps its state in this file.
            fs::write(&file, text)?;
            let mut command = Command::new(REDIS.find()?);
            let mut process = Process::start(command.arg(file).arg("--sentinel"))?;
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            process.wait_until(START_TIMEOUT, |_| check_ping(address, None, None))?;
            Ok(Self {
                _process: process,
                #[cfg(feature = "client")]
                port,
                _folder: folder,
            })
        })
    }

    /// The port of the current master.
    ///
    /// # Errors
    /// Sentinel does not respond.
    #[cfg(feature = "client")]
    pub fn master(&self) -> anyhow::Result<u16> {
        let (_host, port): (String, u16) = self.call(&["GET-MASTER-ADDR-BY-NAME", MASTER])?;
        Ok(port)
    }

    /// Calls `SENTINEL` with these words.
    ///
    /// # Errors
    /// Sentinel's own.
    #[cfg(feature = "client")]
    pub fn call<T: ::redis::FromRedisValue>(&self, words: &[&str]) -> anyhow::Result<T> {
        let client = ::redis::Client::open(format!("redis://127.0.0.1:{}", self.port))?;
        let mut connection = client.get_connection()?;
        Ok(::redis::cmd("SENTINEL").arg(words).query(&mut connection)?)
    }
}
