//! A Redis Cluster: three masters with a replica each, and one entry node. Masters die or
//! are suspended until their replicas replace them.

use std::{
    sync::{Arc, atomic::AtomicU16},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use functional_scaffold_protocol::shard::shard_prefix;
use functional_scaffold_testkit::{
    process::poll_until,
    redis::{RedisOptions, RedisServer},
    redis_cluster::RedisCluster,
};

use crate::{
    contents::Contents,
    plan::{CLUSTER_SHARDS, Fsync, Plan},
};

const MASTERS: usize = 3;
const NODES: usize = 2 * MASTERS;
/// The node that the application and its readers connect to first.
const ENTRY: usize = 0;
/// The user as which a replica connects to its master.
const REPLICATOR: &str = "replicator";
/// Longer than any failover, in milliseconds.
const PAUSE: &str = "600000";
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct Cluster {
    redis: RedisCluster,
    /// The number of faults so far, each of which is about the next shard.
    turns: u32,
    shards: u32,
    failover: Option<Failover>,
}

/// A failover that a fault has begun.
#[derive(Debug, Clone)]
pub(crate) struct Failover {
    /// A key of a slot that moves from one node to the other.
    key: String,
    /// The master that is replaced.
    pub(crate) old: usize,
    /// Its replica.
    new: usize,
}

impl Cluster {
    pub(crate) fn start(plan: &Plan) -> anyhow::Result<Self> {
        ensure!(
            plan.fsync == Fsync::Always,
            "the schedule cluster has no power cuts: failovers lose writes"
        );
        let password = format!(">{REPLICATOR}");
        let options = RedisOptions::new()
            .append_only(plan.fsync.name())
            // Faults begin failovers, which are not ordered.
            .line("cluster-node-timeout", &["1000"])
            .line("user", &[REPLICATOR, "on", &password, "~*", "&*", "+@all"])
            .line("masteruser", &[REPLICATOR])
            .line("masterauth", &[REPLICATOR]);
        Ok(Self {
            redis: RedisCluster::start_with(MASTERS, &options)?,
            turns: 0,
            shards: plan.shards.unwrap_or(CLUSTER_SHARDS),
            failover: None,
        })
    }

    /// The port of each node. The first is that of the entry node.
    pub(crate) fn ports(&self) -> Vec<Arc<AtomicU16>> {
        let ports = (0..NODES).map(|node| self.redis.node(node).port());
        ports.map(|port| Arc::new(AtomicU16::new(port))).collect()
    }

    /// What all masters hold together.
    pub(crate) fn contents(&self) -> anyhow::Result<Contents> {
        let mut contents = Contents::default();
        for node in self.masters()? {
            contents.add_server(self.redis.node(node))?;
        }
        Ok(contents)
    }

    fn masters(&self) -> anyhow::Result<Vec<usize>> {
        let mut masters = Vec::new();
        for node in 0..NODES {
            if role(self.redis.node(node))? == "master" {
                masters.push(node);
            }
        }
        Ok(masters)
    }

    /// The next shard's prefix.
    fn next_shard(&mut self) -> String {
        self.turns += 1;
        shard_prefix("metrics:", self.turns % self.shards)
    }

    /// The next failover: of the master that has the next shard.
    pub(crate) fn next_failover(&mut self) -> anyhow::Result<Failover> {
        let key = self.next_shard();
        let old = self.redis.master_of(&key)?;
        Ok(Failover::of(key, old))
    }

    /// A failover of the entry node; none if that is a replica.
    pub(crate) fn failover_of_entry(&self) -> anyhow::Result<Option<Failover>> {
        if role(self.redis.node(ENTRY))? != "master" {
            return Ok(None);
        }
        // A third of all slots is there.
        let keys = (0..1_000).map(|tag| shard_prefix("metrics:", tag));
        for key in keys {
            if self.redis.master_of(&key)? == ENTRY {
                return Ok(Some(Failover::of(key, ENTRY)));
            }
        }
        anyhow::bail!("the entry node has no slot")
    }

    /// Waits until the replica has all that its master has executed. Meanwhile no call
    /// may arrive.
    pub(crate) fn wait_until_in_sync(&self, failover: &Failover) -> anyhow::Result<()> {
        poll_until(PATIENCE, || {
            let offset = |node, name| replication(self.redis.node(node), name);
            let sent = offset(failover.old, "master_repl_offset")?;
            let received = offset(failover.new, "slave_repl_offset")?;
            ensure!(sent == received, "the replica is at {received} of {sent}");
            Ok(())
        })
    }

    /// Lets the next failover's replica become stale.
    pub(crate) fn make_stale(&mut self) -> anyhow::Result<()> {
        let failover = self.next_failover()?;
        self.pause_replica(&failover)?;
        self.failover = Some(failover);
        Ok(())
    }

    /// The failover whose replica is stale.
    pub(crate) fn stale(&self) -> anyhow::Result<Failover> {
        self.failover.clone().context("no failover has begun")
    }

    /// Lets the replica execute nothing: neither what its master sends, so that it becomes
    /// stale, nor calls once it is a master. Until [`Self::end_failover`].
    pub(crate) fn pause_replica(&self, failover: &Failover) -> anyhow::Result<()> {
        let replica = self.redis.node(failover.new);
        replica.call(&["CLIENT", "PAUSE", PAUSE, "WRITE"])
    }

    /// Kills the master, and returns what it held. Meanwhile no call may arrive.
    pub(crate) fn kill_master(&mut self, failover: Failover) -> anyhow::Result<Contents> {
        let before = Contents::read(self.redis.node(failover.old))?;
        self.redis.kill(failover.old);
        self.failover = Some(failover);
        Ok(before)
    }

    /// Waits until the paused replica has replaced the killed master, and returns what it
    /// holds.
    pub(crate) fn promoted(&self) -> anyhow::Result<Contents> {
        let failover = self.failover.as_ref().context("no failover has begun")?;
        self.wait_for_failover(failover)?;
        Contents::read(self.redis.node(failover.new))
    }

    /// Lets the promoted replica execute calls, and makes the old master its replica.
    pub(crate) fn end_failover(&mut self) -> anyhow::Result<()> {
        let failover = self.failover.take().context("no failover has begun")?;
        let new = self.redis.node(failover.new);
        let _: () = new.call(&["CLIENT", "UNPAUSE"])?;
        self.redis.restart(failover.old)?;
        self.redis.wait_until_healthy()
    }

    /// Suspends the master, and returns what it holds. Meanwhile no call may arrive.
    pub(crate) fn suspend_master(&mut self, failover: Failover) -> anyhow::Result<Contents> {
        let before = Contents::read(self.redis.node(failover.old))?;
        self.redis.suspend(failover.old)?;
        self.failover = Some(failover);
        Ok(before)
    }

    /// Waits until the replica has replaced the suspended master, and resumes that. It
    /// executes the calls that wait there until it learns that it was replaced. Then it
    /// keeps its data until [`Self::let_it_sync`].
    pub(crate) fn resume_master(&mut self) -> anyhow::Result<Failover> {
        let failover = self.failover.take().context("no failover has begun")?;
        self.wait_for_failover(&failover)?;
        let new = self.redis.node(failover.new);
        let _: () = new.call(&["ACL", "SETUSER", REPLICATOR, "off"])?;
        self.redis.resume(failover.old)?;
        poll_until(PATIENCE, || {
            let role = role(self.redis.node(failover.old))?;
            ensure!(role == "slave", "the node that was suspended is a {role}");
            Ok(())
        })?;
        Ok(failover)
    }

    /// What the nodes of a failover hold, the old one first.
    pub(crate) fn contents_of(&self, failover: &Failover) -> anyhow::Result<[Contents; 2]> {
        // While the old one takes others for failed, it does not respond.
        let read = |node| poll_until(PATIENCE, || Contents::read(self.redis.node(node)));
        Ok([read(failover.old)?, read(failover.new)?])
    }

    /// Lets the old master replace its data by that of the new one.
    pub(crate) fn let_it_sync(&self, failover: &Failover) -> anyhow::Result<()> {
        let new = self.redis.node(failover.new);
        let _: () = new.call(&["ACL", "SETUSER", REPLICATOR, "on"])?;
        self.redis.wait_until_healthy()
    }

    fn wait_for_failover(&self, failover: &Failover) -> anyhow::Result<()> {
        let new = self.redis.wait_for_failover(&failover.key, failover.old)?;
        ensure!(new == failover.new, "node {new} replaced {failover:?}");
        Ok(())
    }

    pub(crate) fn kill_entry(&mut self) {
        self.redis.kill(ENTRY);
    }

    pub(crate) fn restart_entry(&mut self) -> anyhow::Result<()> {
        self.redis.restart(ENTRY)?;
        self.redis.wait_until_healthy()
    }

    /// Returns whether [`Self::end_failover`] is due.
    pub(crate) fn has_failover(&self) -> bool {
        self.failover.is_some()
    }

    /// Moves the next shard's slot to another master.
    pub(crate) fn move_slot(&mut self) -> anyhow::Result<()> {
        let shard = self.next_shard();
        let owner = self.redis.master_of(&shard)?;
        let masters = self.masters()?;
        let others: Vec<_> = masters.into_iter().filter(|&node| node != owner).collect();
        let to = others[self.turns as usize % others.len()];
        self.redis.move_slot(&shard, to)
    }
}

impl Failover {
    fn of(key: String, old: usize) -> Self {
        Self {
            key,
            old,
            // Replicas stay with their masters.
            new: (old + MASTERS) % NODES,
        }
    }
}

fn role(redis: &RedisServer) -> anyhow::Result<String> {
    replication(redis, "role")
}

/// A value of `INFO replication`.
fn replication(redis: &RedisServer, name: &str) -> anyhow::Result<String> {
    let info: String = redis.call(&["INFO", "replication"])?;
    let mut lines = info.lines().filter_map(|line| line.split_once(':'));
    let value = lines.find(|(other, _)| *other == name);
    let (_, value) = value.with_context(|| format!("no {name} in:\n{info}"))?;
    Ok(value.to_owned())
}
