//! The Redis that everything measured writes to, with the persistence that `cargo
//! xtask up` gives it; or several, or a Redis Cluster.

use std::{cell::RefCell, ops::Range, time::Duration};

use anyhow::{Context as _, ensure};
use functional_scaffold_testkit::{
    process::poll_until,
    redis::{RedisOptions, RedisServer},
    redis_cluster::RedisCluster,
};

use crate::machine::cpu_of_tree;

/// A Redis with a connection that is kept, so that reading its statistics opens
/// none.
pub(crate) struct Store {
    port: u16,
    process: u32,
    connection: RefCell<redis::Connection>,
    /// The server, unless it is a cluster's node.
    _running: Option<RedisServer>,
}

/// The servers of an app's shards.
pub(crate) struct Shards {
    /// Each has one shard or more.
    servers: Vec<Store>,
    /// The nodes to which Redis Cluster copies them.
    replicas: Vec<Store>,
    /// The server of each shard.
    of_shards: Vec<usize>,
    _cluster: Option<RedisCluster>,
}

impl Shards {
    /// A server for each shard; a single one is for an app without shards.
    pub(crate) fn on_servers(shards: usize) -> anyhow::Result<Self> {
        let servers = (0..shards).map(|_| Store::start());
        Ok(Self {
            servers: servers.collect::<anyhow::Result<_>>()?,
            replicas: Vec::new(),
            of_shards: (0..shards).collect(),
            _cluster: None,
        })
    }

    /// A Redis Cluster of so many masters with a replica each, which distributes the
    /// shards with this prefix by the hashes of their numbers.
    pub(crate) fn on_cluster(masters: usize, prefixes: &[String]) -> anyhow::Result<Self> {
        let cluster = RedisCluster::start_with(masters, &options())?;
        let nodes = |numbers: Range<usize>| {
            let nodes = numbers.map(|number| Store::of(cluster.node(number)));
            nodes.collect::<anyhow::Result<Vec<_>>>()
        };
        let of_shards = prefixes.iter().map(|prefix| cluster.master_of(prefix));
        Ok(Self {
            servers: nodes(0..masters)?,
            replicas: nodes(masters..2 * masters)?,
            of_shards: of_shards.collect::<anyhow::Result<_>>()?,
            _cluster: Some(cluster),
        })
    }

    /// The server of each shard.
    pub(crate) fn stores(&self) -> Vec<&Store> {
        let places = self.of_shards.iter();
        places.map(|place| &self.servers[*place]).collect()
    }

    pub(crate) fn servers(&self) -> &[Store] {
        &self.servers
    }

    pub(crate) fn replicas(&self) -> &[Store] {
        &self.replicas
    }

    /// Waits until the replicas have what their masters have.
    pub(crate) fn wait_for_replicas(&self) -> anyhow::Result<()> {
        const LIMIT: Duration = Duration::from_secs(20);
        for (master, replica) in self.servers.iter().zip(&self.replicas) {
            let sent = master.info("replication", "master_repl_offset")?;
            poll_until(LIMIT, || {
                let received = replica.info("replication", "slave_repl_offset")?;
                ensure!(
                    received >= sent,
                    "{received} of {sent} bytes are replicated"
                );
                Ok(())
            })?;
        }
        Ok(())
    }

    /// The number of shards of the server that has most.
    pub(crate) fn most_on_a_server(&self) -> usize {
        let count = |place| self.of_shards.iter().filter(|of| **of == place).count();
        (0..self.servers.len()).map(count).max().unwrap_or(0)
    }
}

fn options() -> RedisOptions {
    RedisOptions::new().append_only("everysec")
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
        let server = options().start()?;
        let store = Self::of(&server)?;
        Ok(Self {
            _running: Some(server),
            ..store
        })
    }

    fn of(server: &RedisServer) -> anyhow::Result<Self> {
        Ok(Self {
            port: server.port(),
            process: server.process().id(),
            connection: RefCell::new(server.connect()?),
            _running: None,
        })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn process_id(&self) -> u32 {
        self.process
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
