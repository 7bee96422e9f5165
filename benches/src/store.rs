//! The Redis that everything measured writes to, with the persistence that `cargo
//! xtask up` gives it.

use std::{cell::RefCell, time::Duration};

use anyhow::Context as _;
use functional_scaffold_testkit::redis::{RedisOptions, RedisServer};

use crate::machine::cpu_of_tree;

/// A Redis with a connection that is kept, so that reading its statistics opens
/// none.
pub(crate) struct Store {
    server: RedisServer,
    connection: RefCell<redis::Connection>,
}

/// The work of a Redis since its start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Work {
    scripts: u64,
    /// Additions to sorted sets. Scripts make some only after a crash, or where a
    /// lease did not arrive.
    leases: u64,
    /// Increments, including those in scripts.
    increments: u64,
    pub(crate) connections: u64,
    pub(crate) cpu: Duration,
}

impl Work {
    /// The number of commands that clients sent since `before`: leases and scripts,
    /// or increments where there are no scripts. Commands of opening a connection
    /// are left out.
    pub(crate) fn commands_since(&self, before: &Self) -> u64 {
        match self.scripts - before.scripts {
            0 => self.increments - before.increments,
            scripts => scripts + self.leases - before.leases,
        }
    }
}

impl Store {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let server = RedisOptions::new().append_only("everysec").start()?;
        Ok(Self {
            connection: RefCell::new(server.connect()?),
            server,
        })
    }

    pub(crate) fn port(&self) -> u16 {
        self.server.port()
    }

    pub(crate) fn process_id(&self) -> u32 {
        self.server.process().id()
    }

    pub(crate) fn call<T: redis::FromRedisValue>(&self, command: &[&str]) -> anyhow::Result<T> {
        let mut call = redis::cmd(command[0]);
        call.arg(&command[1..]);
        Ok(call.query(&mut self.connection.borrow_mut())?)
    }

    /// A field of a hash, 0 where there is none.
    pub(crate) fn count(&self, key: &str, field: &str) -> anyhow::Result<u64> {
        let count: Option<u64> = self.call(&["HGET", key, field])?;
        Ok(count.unwrap_or_default())
    }

    pub(crate) fn work(&self) -> anyhow::Result<Work> {
        let calls: String = self.call(&["INFO", "commandstats"])?;
        let calls = |command: &str| {
            let prefix = format!("cmdstat_{command}:calls=");
            let found = calls.lines().find_map(|line| line.strip_prefix(&prefix));
            let digits = found.and_then(|rest| rest.split(',').next());
            digits.map_or(Ok(0), str::parse::<u64>)
        };
        Ok(Work {
            scripts: calls("evalsha")? + calls("eval")?,
            leases: calls("zadd")?,
            increments: calls("hincrby")? + calls("incr")?,
            connections: self.info("stats", "total_connections_received")?,
            cpu: cpu_of_tree(self.process_id())?,
        })
    }

    /// The memory that its data takes, in bytes.
    pub(crate) fn memory(&self) -> anyhow::Result<u64> {
        self.info("memory", "used_memory")
    }

    fn info(&self, section: &str, name: &str) -> anyhow::Result<u64> {
        let text: String = self.call(&["INFO", section])?;
        let prefix = format!("{name}:");
        let value = text.lines().find_map(|line| line.strip_prefix(&prefix));
        Ok(value
            .with_context(|| format!("no {name} in INFO"))?
            .parse()?)
    }
}
