//! The Redis that the application uses: one server, or a master with a replica and a
//! Sentinel.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, ensure};
use functional_scaffold_testkit::{
    process::poll_until,
    program::Program,
    redis::{RedisOptions, RedisServer},
    sentinel::{MASTER, Sentinel},
};
use tempfile::TempDir;

use crate::{
    contents::Contents,
    plan::{Fsync, Plan, Schedule},
};

const CHECK_AOF: Program = Program {
    name: "redis-check-aof",
    executables: &["redis-check-aof", "valkey-check-aof"],
    package: "redis-tools",
};
/// The user as which a replica connects to its master.
const REPLICATOR: &str = "replicator";
/// Longer than any other fault, none of which is meant to start a failover.
const NEVER_DOWN: &str = "600000";
/// When Sentinel takes a silent master for dead, during a failover.
const DOWN_AFTER: &str = "500";
const FAILOVER_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest time that a replica needs to be in sync, usually.
const SYNC_TIMEOUT: Duration = Duration::from_secs(10);
/// The size of a disk that is not full. It takes memory only as it fills.
const DISK_SIZE: &str = "4g";

#[derive(Debug)]
pub(crate) struct RedisSet {
    nodes: Vec<Node>,
    /// The index of the master.
    master: usize,
    /// Its port.
    port: Arc<AtomicU16>,
    sentinel: Option<Sentinel>,
    clock: Option<Clock>,
    fsync: Fsync,
}

#[derive(Debug)]
struct Node {
    // First, so that the server ends before its disk goes.
    redis: RedisServer,
    disk: Option<Disk>,
}

impl RedisSet {
    pub(crate) fn start(plan: &Plan) -> anyhow::Result<Self> {
        let is_wide = plan.schedule == Schedule::Wide;
        // The append-only file is cut by the time of day.
        let has_clock = is_wide && plan.fsync == Fsync::Always;
        let clock = has_clock.then(Clock::new).transpose();
        let clock = clock.unwrap_or_else(|error| {
            eprintln!("no clock will jump: {error:#}");
            None
        });
        let node = || {
            // With a disk that can be filled, where this user may mount one.
            let disk = is_wide.then(Disk::mount).transpose();
            let disk = disk.unwrap_or_else(|error| {
                eprintln!("no disk will be full: {error:#}");
                None
            });
            let mut options = RedisOptions::new().append_only(plan.fsync.name());
            options = match plan.fsync {
                // The timestamps by which the file is cut. A rewrite would lose them.
                Fsync::Everysec => options
                    .line("aof-timestamp-enabled", &["yes"])
                    .line("auto-aof-rewrite-percentage", &["0"]),
                Fsync::Always => options,
            };
            if is_wide {
                let password = format!(">{REPLICATOR}");
                options = options
                    .line("user", &[REPLICATOR, "on", &password, "~*", "&*", "+@all"])
                    // A clock that jumped back while it waits would make it wait for as long.
                    .line("repl-diskless-sync-delay", &["0"])
                    .line("masteruser", &[REPLICATOR])
                    .line("masterauth", &[REPLICATOR]);
            }
            if let Some(clock) = &clock {
                for (name, value) in clock.environment() {
                    options = options.environment(name, value);
                }
            }
            if let Some(disk) = &disk {
                options = options.folder(disk.folder.path());
            }
            let redis = options.start()?;
            anyhow::Ok(Node { redis, disk })
        };
        let mut nodes = vec![node()?];
        if is_wide {
            nodes.push(node()?);
        }
        let mut set = Self {
            port: Arc::new(AtomicU16::new(nodes[0].redis.port())),
            nodes,
            master: 0,
            sentinel: None,
            clock,
            fsync: plan.fsync,
        };
        if is_wide {
            set.start_replica()?;
            set.wait_until_in_sync(FAILOVER_TIMEOUT)?;
            let lines = [
                format!("down-after-milliseconds {MASTER} {NEVER_DOWN}"),
                format!("failover-timeout {MASTER} 4000"),
            ];
            set.sentinel = Some(Sentinel::start(set.master().port(), &lines)?);
        }
        Ok(set)
    }

    pub(crate) fn master(&self) -> &RedisServer {
        &self.nodes[self.master].redis
    }

    /// The port of the master, which a failover changes.
    pub(crate) fn port(&self) -> &Arc<AtomicU16> {
        &self.port
    }

    /// Kills the master. With `appendfsync everysec`, also removes the last second from
    /// its append-only file. Returns the time since `began` from which everything is lost.
    pub(crate) fn kill(&mut self, began: Instant) -> anyhow::Result<Option<Duration>> {
        let redis = &mut self.nodes[self.master].redis;
        let lost_from = match self.fsync {
            Fsync::Always => None,
            Fsync::Everysec => {
                redis.suspend()?;
                Some(cut_last_second(redis.folder(), began)?)
            }
        };
        redis.kill();
        Ok(lost_from)
    }

    /// Starts the master on its append-only file.
    pub(crate) fn restart(&mut self) -> anyhow::Result<()> {
        self.nodes[self.master].redis.restart()
    }

    /// Leaves the master's disk no free byte. Returns false if it has no disk.
    pub(crate) fn fill_disk(&self) -> anyhow::Result<bool> {
        let Some(disk) = &self.nodes[self.master].disk else {
            return Ok(false);
        };
        disk.fill()?;
        Ok(true)
    }

    /// Frees the disk again, and starts the master if that ended it.
    pub(crate) fn free_disk(&mut self) -> anyhow::Result<()> {
        let node = &mut self.nodes[self.master];
        if let Some(disk) = &node.disk {
            disk.free()?;
        }
        if node.redis.wait_until_ready().is_err() {
            node.redis.restart()?;
        }
        if self.fsync == Fsync::Always {
            return Ok(());
        }
        // The part of a write that Redis 7.0 left in its append-only file would keep it
        // from starting again.
        let redis = &node.redis;
        let _: String = redis.call(&["BGREWRITEAOF"])?;
        poll_until(FAILOVER_TIMEOUT, || {
            let info: String = redis.call(&["INFO", "persistence"])?;
            let is_done = info.contains("aof_rewrite_in_progress:0")
                && info.contains("aof_rewrite_scheduled:0");
            ensure!(is_done, "its append-only file is being written");
            Ok(())
        })
    }

    /// Puts the clock of every server ahead by this offset, as libfaketime reads it.
    pub(crate) fn set_clock(&self, offset: &str) -> anyhow::Result<()> {
        match &self.clock {
            Some(clock) => clock.set(offset),
            None => Ok(()),
        }
    }

    /// Cuts the replica off from its master, so that it becomes stale.
    pub(crate) fn stop_replication(&mut self) -> anyhow::Result<()> {
        if self.wait_until_in_sync(SYNC_TIMEOUT).is_err() {
            // A clock that jumps can stop a replica from trying.
            self.start_replica()?;
            self.wait_until_in_sync(FAILOVER_TIMEOUT)?;
        }
        let master = self.master();
        let _: () = master.call(&["ACL", "SETUSER", REPLICATOR, "off"])?;
        let _: i64 = master.call(&["CLIENT", "KILL", "TYPE", "replica"])?;
        Ok(())
    }

    /// Kills the master, waits until Sentinel has promoted the stale replica, and makes
    /// the old master its replica. Returns what the old master held, and what the new one
    /// holds. Nothing may write to the new one meanwhile.
    pub(crate) fn fail_over(&mut self) -> anyhow::Result<(Contents, Contents)> {
        let sentinel = self.sentinel.as_ref().context("there is no Sentinel")?;
        // No call is executed any more, and none of those that wait ever will be.
        let _: () = self
            .master()
            .call(&["CLIENT", "PAUSE", "600000", "WRITE"])?;
        let before = Contents::read(self.master())?;
        let down_after = "down-after-milliseconds";
        let _: () = sentinel.call(&["SET", MASTER, down_after, DOWN_AFTER])?;
        self.nodes[self.master].redis.kill();
        let promoted = 1 - self.master;
        let redis = &self.nodes[promoted].redis;
        poll_until(FAILOVER_TIMEOUT, || {
            let is_master = replication(redis)?.contains("role:master");
            ensure!(
                is_master && sentinel.master()? == redis.port(),
                "no failover"
            );
            Ok(())
        })?;
        let _: () = sentinel.call(&["SET", MASTER, down_after, NEVER_DOWN])?;
        let after = Contents::read(redis)?;
        self.port.store(redis.port(), Ordering::SeqCst);
        self.master = promoted;
        self.start_replica()?;
        Ok((before, after))
    }

    fn start_replica(&mut self) -> anyhow::Result<()> {
        let port = self.master().port().to_string();
        let replica = &mut self.nodes[1 - self.master].redis;
        replica.restart_with(&RedisOptions::new().line("replicaof", &["127.0.0.1", &port]))?;
        replica.wait_until_ready()
    }

    fn wait_until_in_sync(&self, limit: Duration) -> anyhow::Result<()> {
        let replica = &self.nodes[1 - self.master].redis;
        poll_until(limit, || {
            let is_up = replication(replica)?.contains("master_link_status:up");
            ensure!(is_up, "the replica is not in sync");
            Ok(())
        })
    }
}

fn replication(redis: &RedisServer) -> anyhow::Result<String> {
    redis.call(&["INFO", "replication"])
}

/// Cuts the last second, and the part of the current one, from the append-only file of a
/// suspended Redis, as a power cut may. A kill -9 alone loses nothing, because all that
/// Redis wrote is in the kernel's memory. Returns the time, since the beginning of the
/// run, from which everything is lost.
fn cut_last_second(data: &Path, began: Instant) -> anyhow::Result<Duration> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let forgotten_from = Duration::from_secs(now.as_secs() - 1);
    let elapsed = began.elapsed();
    let last_kept = (forgotten_from.as_secs() - 1).to_string();
    let manifest = data.join("appendonlydir/appendonly.aof.manifest");
    let mut check = Command::new(CHECK_AOF.find()?);
    let check = check
        .args(["--truncate-to-timestamp", &last_kept])
        .arg(manifest);
    let output = check.output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "the append-only file cannot be cut: {text}"
    );
    Ok(elapsed.saturating_sub(now - forgotten_from))
}

const FAKETIME: &str = "faketime/libfaketimeMT.so.1";

/// A time of day that can be changed, by Debian's libfaketime.
#[derive(Debug)]
struct Clock {
    /// The folder of the system's libraries.
    libraries: PathBuf,
    folder: TempDir,
}

impl Clock {
    fn new() -> anyhow::Result<Self> {
        let mut folders = fs::read_dir("/usr/lib")?
            .flatten()
            .map(|entry| entry.path());
        let libraries = folders
            .find(|folder| folder.join(FAKETIME).is_file())
            .context("no libfaketime; install it with `apt-get install libfaketime`")?;
        let clock = Self {
            libraries,
            folder: TempDir::new()?,
        };
        clock.set("+0")?;
        Ok(clock)
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("offset")
    }

    /// The environment of a program that has this clock.
    fn environment(&self) -> [(&'static str, PathBuf); 4] {
        // With the allocator of libc: that of Redis asks for the time before libfaketime is
        // ready, which then waits for itself.
        let libraries = self.libraries.display();
        let preload = format!("{libraries}/{FAKETIME}:{libraries}/libc.so.6");
        [
            ("LD_PRELOAD", preload.into()),
            ("FAKETIME_TIMESTAMP_FILE", self.file()),
            // In seconds: how often it reads the file.
            ("FAKETIME_CACHE_DURATION", "1".into()),
            // Timers measure real time.
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
        ]
    }

    fn set(&self, offset: &str) -> anyhow::Result<()> {
        let new = self.folder.path().join("new");
        fs::write(&new, offset)?;
        fs::rename(new, self.file())?;
        Ok(())
    }
}

/// A file system of its own, in memory.
#[derive(Debug)]
struct Disk {
    folder: TempDir,
}

impl Disk {
    fn mount() -> anyhow::Result<Self> {
        let folder = TempDir::new()?;
        let options = format!("size={DISK_SIZE},mode=700");
        let arguments = ["-t", "tmpfs", "-o", &options, "scaffold-chaos"];
        run(Command::new("mount").args(arguments).arg(folder.path()))?;
        Ok(Self { folder })
    }

    /// Shrinks it to what is used.
    fn fill(&self) -> anyhow::Result<()> {
        // Redis may write between the two steps.
        poll_until(Duration::from_secs(5), || {
            let mut stat = Command::new("stat");
            let stat = stat.args(["-f", "-c", "%b %f %S"]).arg(self.folder.path());
            let numbers = run(stat)?;
            let numbers: Vec<u64> = numbers
                .split_whitespace()
                .map(str::parse)
                .collect::<Result<_, _>>()?;
            let [blocks, free, size] = numbers[..] else {
                anyhow::bail!("not three numbers: {numbers:?}");
            };
            self.resize(&((blocks - free) * size).to_string())
        })
    }

    fn free(&self) -> anyhow::Result<()> {
        self.resize(DISK_SIZE)
    }

    fn resize(&self, size: &str) -> anyhow::Result<()> {
        let options = format!("remount,size={size}");
        let mut mount = Command::new("mount");
        run(mount.args(["-o", &options]).arg(self.folder.path())).map(drop)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let mut umount = Command::new("umount");
        // The folder is not deleted otherwise, and says so in /proc/mounts.
        let _ = run(umount.arg("--lazy").arg(self.folder.path()));
    }
}

/// Runs a program of the system, and returns what it prints.
fn run(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} failed: {error}");
    Ok(String::from_utf8(output.stdout)?)
}
