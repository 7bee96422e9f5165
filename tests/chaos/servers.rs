//! The servers of a run, and the faults injected into them.

use std::{
    path::Path,
    process::Command,
    thread::sleep,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::ensure;
use functional_scaffold_testkit::{
    program::{self, Program},
    redis::{RedisOptions, RedisServer},
    runtime::{App, AppOptions, Runtime},
};

use crate::{
    doubt::{EXECUTION_LIMIT_MS, Events, REQUESTS_AN_INSTANCE, Span},
    plan::{Fault, Fsync, Plan},
    proxy::Proxy,
};

const CHECK_AOF: Program = Program {
    name: "redis-check-aof",
    executables: &["redis-check-aof", "valkey-check-aof"],
    package: "redis-tools",
};
/// The time after which the dev host ends a loop.
const HOST_LIMIT: &str = "500ms";

/// The servers, and what has happened to them.
#[derive(Debug)]
pub(crate) struct Servers {
    pub(crate) app: App,
    pub(crate) proxy: Proxy,
    pub(crate) redis: RedisServer,
    pub(crate) events: Events,
    fsync: Fsync,
    began: Instant,
}

impl Servers {
    pub(crate) fn start(plan: &Plan, began: Instant) -> anyhow::Result<Self> {
        let redis = RedisOptions::new()
            .append_only(plan.fsync.name())
            // The timestamps by which the file is cut. A rewrite would lose them.
            .line("aof-timestamp-enabled", &["yes"])
            .line("auto-aof-rewrite-percentage", &["0"])
            .start()?;
        let proxy = Proxy::start(redis.port())?;
        let options = AppOptions::with_redis(proxy.port())
            .rogue()
            .arguments(&["--execution-limit", HOST_LIMIT])
            .arguments(&[
                "--max-instance-reuse-count",
                &REQUESTS_AN_INSTANCE.to_string(),
            ])
            .variable("metrics_durability", plan.durability.name())
            .variable("execution_limit_ms", &EXECUTION_LIMIT_MS.to_string())
            // Without a line per request, which would be most of the work.
            .variable("log_level", "info");
        let runtime = Runtime::Devhost(program::built("devhost")?);
        Ok(Self {
            app: App::start_on(runtime, &options)?,
            proxy,
            fsync: plan.fsync,
            redis,
            events: Events::default(),
            began,
        })
    }

    /// Injects a fault, and waits for its end.
    pub(crate) fn inject(&mut self, fault: Fault) -> anyhow::Result<()> {
        let from = self.began.elapsed();
        match fault {
            Fault::KillRedis(time) => self.kill_redis(from + time)?,
            Fault::SuspendRedis(time) => {
                self.redis.suspend()?;
                sleep(time);
                self.redis.resume()?;
            }
            Fault::CutConnections => {
                self.proxy.cut();
                // The next call fails, and the one after it succeeds.
                self.events.cuts.push(from);
                return Ok(());
            }
            Fault::DropReplies(time) => {
                self.proxy.mute();
                sleep(time);
                self.proxy.cut();
            }
            Fault::DelayCalls(time) => {
                self.proxy.hold();
                sleep(time);
                self.proxy.release();
            }
            Fault::KillRuntime => {
                self.app.kill_and_restart()?;
                let to = self.began.elapsed();
                self.events.kills.push(Span { from, to });
                return Ok(());
            }
        }
        let to = self.began.elapsed();
        self.events.outages.push(Span { from, to });
        Ok(())
    }

    fn kill_redis(&mut self, refused_until: Duration) -> anyhow::Result<()> {
        // Connections end with Redis, not before.
        self.proxy.refuse();
        if self.fsync == Fsync::Everysec {
            self.redis.suspend()?;
            let from = cut_last_second(self.redis.folder(), self.began)?;
            let to = self.began.elapsed();
            self.events.forgotten.push(Span { from, to });
        }
        self.redis.restart()?;
        sleep(refused_until.saturating_sub(self.began.elapsed()));
        self.proxy.cut();
        Ok(())
    }
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
