//! The Redis that everything measured writes to: one for all, with the settings
//! that `cargo xtask up` gives it.

use std::{cell::RefCell, time::Duration};

use anyhow::Context as _;
use functional_scaffold_tests::redis_server::RedisServer;

use crate::cpu;

/// A Redis, and a connection to it that is kept: what is counted of Redis is
/// then not counted of the counting.
pub(crate) struct Store {
    server: RedisServer,
    connection: RefCell<redis::Connection>,
}

/// What Redis did so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Work {
    /// Calls of scripts.
    scripts: u64,
    /// Leases taken. Scripts add to a sorted set only where an instance died or a
    /// lease did not land.
    leases: u64,
    /// Additions, those inside of scripts among them.
    additions: u64,
    /// Connections that were opened.
    pub(crate) connections: u64,
    /// Processor time.
    pub(crate) used: Duration,
}

impl Work {
    /// How many commands clients have sent since. A client sends either leases
    /// and scripts, whose own commands are not counted, or additions; what it
    /// says when it connects is not counted.
    pub(crate) fn commands_since(&self, before: &Self) -> u64 {
        match self.scripts - before.scripts {
            0 => self.additions - before.additions,
            scripts => scripts + self.leases - before.leases,
        }
    }
}

impl Store {
    /// Starts one, with an append-only file that reaches the disk every second.
    ///
    /// # Errors
    /// There is no redis-server, or it does not answer.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let server = RedisServer::start_with(&["--appendfsync", "everysec"])?;
        let client = redis::Client::open(("127.0.0.1", server.port()))?;
        Ok(Self {
            connection: RefCell::new(client.get_connection()?),
            server,
        })
    }

    /// The port it listens on.
    pub(crate) fn port(&self) -> u16 {
        self.server.port()
    }

    /// Its process.
    pub(crate) fn process_id(&self) -> u32 {
        self.server.process_id()
    }

    /// Calls a command.
    ///
    /// # Errors
    /// Redis's own.
    pub(crate) fn call<T: redis::FromRedisValue>(&self, command: &[&str]) -> anyhow::Result<T> {
        let mut call = redis::cmd(command[0]);
        call.arg(&command[1..]);
        Ok(call.query(&mut self.connection.borrow_mut())?)
    }

    /// A field of a hash; 0 where there is none.
    ///
    /// # Errors
    /// Redis's own.
    pub(crate) fn count(&self, key: &str, field: &str) -> anyhow::Result<u64> {
        let mut command = redis::cmd("HGET");
        let count = command.arg(key).arg(field);
        let count: Option<u64> = count.query(&mut self.connection.borrow_mut())?;
        Ok(count.unwrap_or_default())
    }

    /// What it did so far.
    ///
    /// # Errors
    /// Redis's own.
    pub(crate) fn work(&self) -> anyhow::Result<Work> {
        let stats = self.info("stats")?;
        let calls = self.info("commandstats")?;
        let calls = |command: &str| {
            let prefix = format!("cmdstat_{command}:calls=");
            let found = calls.lines().find_map(|line| line.strip_prefix(&prefix));
            let digits = found.and_then(|rest| rest.split(',').next());
            digits.map_or(Ok(0), str::parse::<u64>)
        };
        let connections = stats
            .lines()
            .find_map(|line| line.strip_prefix("total_connections_received:"))
            .context("Redis counts no connections")?;
        Ok(Work {
            scripts: calls("evalsha")? + calls("eval")?,
            leases: calls("zadd")?,
            additions: calls("hincrby")?,
            connections: connections.parse()?,
            used: cpu::of_tree(self.server.process_id())?,
        })
    }

    /// The memory that its data takes, in bytes.
    ///
    /// # Errors
    /// Redis's own.
    pub(crate) fn memory(&self) -> anyhow::Result<u64> {
        let memory = self.info("memory")?;
        let mut lines = memory.lines();
        let used = lines.find_map(|line| line.strip_prefix("used_memory:"));
        Ok(used.context("Redis counts no memory")?.parse()?)
    }

    fn info(&self, section: &str) -> anyhow::Result<String> {
        let mut command = redis::cmd("INFO");
        Ok(command
            .arg(section)
            .query(&mut self.connection.borrow_mut())?)
    }
}
