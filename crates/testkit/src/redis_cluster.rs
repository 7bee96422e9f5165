//! Redis Cluster: masters with a replica each.

use std::time::Duration;

use anyhow::{Context as _, ensure};

use crate::{
    process::{START_TIMEOUT, free_port, on_free_port, poll_until},
    redis::{RedisOptions, RedisServer, TESTER},
};

const SLOTS: usize = 16_384;

/// After this time in milliseconds a node counts as failed, which begins a failover:
/// longer than any pause of a busy machine.
const NODE_TIMEOUT: &str = "30000";

/// A running cluster. Stopped on drop.
///
/// A node is named by its number: the masters come first, then their replicas in the
/// same order. A failover changes the roles and no numbers.
#[derive(Debug)]
pub struct RedisCluster {
    nodes: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    server: RedisServer,
    id: String,
    /// Whether it was killed or suspended.
    is_down: bool,
}

impl RedisCluster {
    /// Starts a cluster of so many masters, 3 or more, with a replica each.
    ///
    /// # Errors
    /// There is no redis-server, or they do not form a cluster.
    pub fn start(masters: usize) -> anyhow::Result<Self> {
        Self::start_with(masters, &RedisOptions::new())
    }

    /// Like [`Self::start`], with these lines in the configuration of every node.
    ///
    /// # Errors
    /// There is no redis-server, or they do not form a cluster.
    pub fn start_with(masters: usize, options: &RedisOptions) -> anyhow::Result<Self> {
        let options = RedisOptions::new()
            .line("cluster-enabled", &["yes"])
            .line("cluster-node-timeout", &[NODE_TIMEOUT])
            // A replica that has never reached its master may replace it, too.
            .line("cluster-replica-validity-factor", &["0"])
            // Replicas stay with their masters.
            .line("cluster-allow-replica-migration", &["no"])
            .line("repl-diskless-sync-delay", &["0"])
            .lines_of(options);
        let start_node = || {
            let server = on_free_port(|port| {
                let bus = free_port()?.to_string();
                options
                    .clone()
                    .port(port)
                    .line("cluster-port", &[&bus])
                    .start()
            })?;
            let id = server.call(&["CLUSTER", "MYID"])?;
            anyhow::Ok(Node {
                server,
                id,
                is_down: false,
            })
        };
        let nodes = (0..2 * masters)
            .map(|_| start_node())
            .collect::<Result<_, _>>()?;
        let cluster = Self { nodes };
        cluster.assemble(masters)?;
        Ok(cluster)
    }

    fn assemble(&self, masters: usize) -> anyhow::Result<()> {
        for (number, node) in self.nodes.iter().enumerate() {
            let call = |words: &[&str]| node.server.call::<()>(&[&["CLUSTER"], words].concat());
            call(&["SET-CONFIG-EPOCH", &(number + 1).to_string()])?;
            if number < masters {
                let [first, end] = [number, number + 1].map(|number| SLOTS * number / masters);
                call(&["ADDSLOTSRANGE", &first.to_string(), &(end - 1).to_string()])?;
            }
            // Without gossip, which takes seconds.
            for other in &self.nodes[..number] {
                let [port, bus] = other.ports()?;
                call(&["MEET", "127.0.0.1", &port, &bus])?;
            }
        }
        poll_until(START_TIMEOUT, || {
            for node in &self.nodes {
                let view = node.view()?;
                let known = view.lines().filter(|line| !line.contains("handshake"));
                ensure!(
                    known.count() == self.nodes.len(),
                    "not all have met:\n{view}"
                );
            }
            Ok(())
        })?;
        for (master, replica) in self.nodes.iter().zip(&self.nodes[masters..]) {
            replica
                .server
                .call::<()>(&["CLUSTER", "REPLICATE", &master.id])?;
        }
        self.wait_until_healthy()
    }

    /// Waits until every node that runs says that the cluster is well, and every
    /// replica has its master's data.
    ///
    /// # Errors
    /// They do not.
    pub fn wait_until_healthy(&self) -> anyhow::Result<()> {
        poll_until(START_TIMEOUT, || {
            for node in self.up() {
                let info: String = node.server.call(&["CLUSTER", "INFO"])?;
                ensure!(info.contains("cluster_state:ok"), "a node says:\n{info}");
                let view = node.view()?;
                let replicas = view.lines().filter(|line| line.contains("slave")).count();
                ensure!(replicas == self.nodes.len() / 2, "a node knows:\n{view}");
                let info: String = node.server.call(&["INFO", "replication"])?;
                ensure!(
                    info.contains("role:master") || info.contains("master_link_status:up"),
                    "a replica says:\n{info}"
                );
            }
            Ok(())
        })
    }

    /// The server of a node.
    #[must_use]
    pub fn node(&self, number: usize) -> &RedisServer {
        &self.nodes[number].server
    }

    /// The node that has the slot of a key, or of a prefix with a hash tag, and on which
    /// all running nodes agree.
    ///
    /// # Errors
    /// They do not agree.
    pub fn master_of(&self, key: &str) -> anyhow::Result<usize> {
        let mut agreed = None;
        for node in self.up() {
            let slot: usize = node.server.call(&["CLUSTER", "KEYSLOT", key])?;
            let view = node.view()?;
            let line = view.lines().find(|line| has_slot(line, slot));
            let line = line.with_context(|| format!("no node has slot {slot}:\n{view}"))?;
            let owner = self
                .nodes
                .iter()
                .position(|node| line.starts_with(&node.id));
            ensure!(
                *agreed.get_or_insert(owner) == owner,
                "nodes disagree:\n{view}"
            );
        }
        agreed.flatten().context("no node runs")
    }

    /// Kills a node.
    pub fn kill(&mut self, number: usize) {
        self.nodes[number].is_down = true;
        self.nodes[number].server.kill();
    }

    /// Kills the node that has the slot of a key, and lets its replica, which must run,
    /// replace it at once. Returns the replica.
    ///
    /// # Errors
    /// The replica does not replace it.
    pub fn fail_over(&mut self, key: &str) -> anyhow::Result<usize> {
        let old = self.master_of(key)?;
        let replica = (old + self.nodes.len() / 2) % self.nodes.len();
        self.kill(old);
        let force = ["CLUSTER", "FAILOVER", "FORCE"];
        self.nodes[replica].server.call::<()>(&force)?;
        self.wait_for_failover(key, old)
    }

    /// Starts a node that was killed, and waits until it responds.
    ///
    /// # Errors
    /// It does not.
    pub fn restart(&mut self, number: usize) -> anyhow::Result<()> {
        self.nodes[number].server.restart()?;
        self.nodes[number].is_down = false;
        Ok(())
    }

    /// Suspends a node: it accepts connections and does not respond.
    ///
    /// # Errors
    /// It is gone.
    pub fn suspend(&mut self, number: usize) -> anyhow::Result<()> {
        self.nodes[number].is_down = true;
        self.nodes[number].server.suspend()
    }

    /// Resumes a node.
    ///
    /// # Errors
    /// It is gone.
    pub fn resume(&mut self, number: usize) -> anyhow::Result<()> {
        self.nodes[number].server.resume()?;
        self.nodes[number].is_down = false;
        Ok(())
    }

    /// Waits until all running nodes agree that another node than `old` has the slot of
    /// a key. Returns that node.
    ///
    /// # Errors
    /// They do not.
    pub fn wait_for_failover(&self, key: &str, old: usize) -> anyhow::Result<usize> {
        poll_until(START_TIMEOUT, || {
            let new = self.master_of(key)?;
            ensure!(new != old, "node {old} still has the slot of {key}");
            for node in self.up() {
                let info: String = node.server.call(&["CLUSTER", "INFO"])?;
                ensure!(info.contains("cluster_state:ok"), "a node says:\n{info}");
            }
            Ok(new)
        })
    }

    /// Moves the slot of a key to another master, with all keys in it.
    ///
    /// # Errors
    /// Redis's own.
    pub fn move_slot(&self, key: &str, to: usize) -> anyhow::Result<()> {
        const AT_ONCE: &str = "100";
        let from = self.master_of(key)?;
        let [source, target] = [from, to].map(|number| &self.nodes[number]);
        let slot: usize = source.server.call(&["CLUSTER", "KEYSLOT", key])?;
        let slot = &slot.to_string();
        let set = |node: &Node, state: &str, id: &str| {
            let words = ["CLUSTER", "SETSLOT", slot, state, id];
            node.server.call::<()>(&words)
        };
        set(target, "IMPORTING", &source.id)?;
        set(source, "MIGRATING", &target.id)?;
        let [port, _] = target.ports()?;
        loop {
            let words = ["CLUSTER", "GETKEYSINSLOT", slot, AT_ONCE];
            let keys: Vec<String> = source.server.call(&words)?;
            if keys.is_empty() {
                break;
            }
            let words = [
                "MIGRATE",
                "127.0.0.1",
                &port,
                "",
                "0",
                "10000",
                "AUTH2",
                TESTER,
                TESTER,
                "KEYS",
            ];
            let keys = keys.iter().map(String::as_str);
            let words: Vec<_> = words.into_iter().chain(keys).collect();
            source.server.call::<()>(&words)?;
        }
        // The target first: it takes the slot before the source refuses it.
        set(target, "NODE", &target.id)?;
        set(source, "NODE", &target.id)?;
        poll_until(Duration::from_secs(60), || {
            let owner = self.master_of(key)?;
            ensure!(owner == to, "node {owner} has the slot of {key}");
            Ok(())
        })
    }

    fn up(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| !node.is_down)
    }
}

impl Node {
    /// The cluster as this node sees it: a line for each node.
    fn view(&self) -> anyhow::Result<String> {
        self.server.call(&["CLUSTER", "NODES"])
    }

    /// The port, and that of the cluster's bus.
    fn ports(&self) -> anyhow::Result<[String; 2]> {
        let bus: Vec<String> = self.server.call(&["CONFIG", "GET", "cluster-port"])?;
        let bus = bus.into_iter().nth(1).context("no cluster-port")?;
        Ok([self.server.port().to_string(), bus])
    }
}

/// Whether a line of `CLUSTER NODES` is a master's that has this slot.
fn has_slot(line: &str, slot: usize) -> bool {
    let ranges = line.split(' ').skip(8);
    let mut ranges = ranges.filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse::<usize>().ok()?..=last.parse().ok()?)
    });
    ranges.any(|range| range.contains(&slot))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_killed_master_is_replaced_and_a_slot_moves() -> anyhow::Result<()> {
        let mut cluster = RedisCluster::start(3)?;
        let [one, two] = ["a:{1}:", "a:{2}:"];
        let owner = cluster.master_of(one)?;
        let key = format!("{one}x");
        cluster.node(owner).call::<()>(&["SET", &key, "1"])?;
        let other = (owner + 1) % 3;
        cluster
            .node(other)
            .call::<()>(&["GET", &key])
            .expect_err("MOVED");

        cluster.move_slot(one, other)?;
        assert_eq!(cluster.node(other).call::<u64>(&["INCR", &key])?, 2);

        let owner = cluster.master_of(two)?;
        let new = cluster.fail_over(two)?;
        assert_eq!(new, owner + 3, "its replica");
        cluster.restart(owner)?;
        cluster.wait_until_healthy()?;
        assert_eq!(cluster.master_of(two)?, new);
        Ok(())
    }
}
