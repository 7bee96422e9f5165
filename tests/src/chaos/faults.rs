//! The servers of a run, and doing to them what the schedule says. Notes when
//! what happened; judges nothing.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use tokio::{task::block_in_place, time::sleep};

use crate::redis_server::RedisServer;

use super::{
    Fsync, Plan,
    power_cut::AppendOnlyFile,
    proxy::Proxy,
    risk::{Events, Span},
    runtime::Runtime,
    schedule::Fault,
};

/// The servers, and what has happened to them.
#[derive(Debug)]
pub struct Scene {
    /// Redis itself.
    pub redis: RedisServer,
    /// The way to it.
    pub proxy: Proxy,
    /// The application.
    pub runtime: Runtime,
    /// What happened.
    pub events: Events,
    fsync: Fsync,
    append_only_file: Option<AppendOnlyFile>,
    began: Instant,
}

impl Scene {
    /// Starts Redis, the way to it, and the application.
    ///
    /// # Errors
    /// One of them does not start.
    pub async fn start(plan: &Plan, folder: &Path, began: Instant) -> anyhow::Result<Self> {
        let redis = block_in_place(RedisServer::start)?;
        let proxy = Proxy::start(redis.port()).await?;
        let runtime = block_in_place(|| Runtime::start(proxy.port(), plan.durability, folder))?;
        let append_only_file = match plan.fsync {
            Fsync::Always => None,
            Fsync::Everysec => {
                let (_, data): (String, String) = redis.call(&["CONFIG", "GET", "dir"])?;
                Some(AppendOnlyFile::watch(Path::new(&data), began))
            }
        };
        let scene = Self {
            redis,
            proxy,
            runtime,
            events: Events::default(),
            fsync: plan.fsync,
            append_only_file,
            began,
        };
        scene.set_fsync()?;
        Ok(scene)
    }

    /// Does a fault, and waits for its end.
    ///
    /// # Errors
    /// A server does not do or survive what it should.
    pub async fn suffer(&mut self, fault: Fault) -> anyhow::Result<()> {
        let from = self.began.elapsed();
        match fault {
            Fault::KillRedis(time) => self.kill_redis(from + time).await?,
            Fault::StopRedis(time) => {
                self.redis.hang()?;
                sleep(time).await;
                self.redis.resume()?;
            }
            Fault::CutConnections => {
                self.proxy.cut();
                // It is noticed at the next call, and the one after it succeeds.
                self.events.cuts.push(from);
                return Ok(());
            }
            Fault::DropReplies(time) => {
                self.proxy.mute();
                sleep(time).await;
                self.proxy.cut();
            }
            Fault::DelayCalls(time) => {
                self.proxy.hold();
                sleep(time).await;
                self.proxy.release();
            }
            Fault::KillRuntime => {
                block_in_place(|| self.runtime.kill_and_start_again())?;
                let to = self.began.elapsed();
                self.events.kills.push(Span { from, to });
                return Ok(());
            }
        }
        let to = self.began.elapsed();
        self.events.troubles.push(Span { from, to });
        Ok(())
    }

    async fn kill_redis(&mut self, away_until: Duration) -> anyhow::Result<()> {
        // Connections end with Redis, not before.
        self.proxy.refuse();
        if let Some(file) = &self.append_only_file {
            self.redis.hang()?;
            let from = block_in_place(|| file.forget())?;
            let to = self.began.elapsed();
            self.events.forgotten.push(Span { from, to });
        }
        block_in_place(|| self.redis.restart())?;
        self.set_fsync()?;
        sleep(away_until.saturating_sub(self.began.elapsed())).await;
        self.proxy.cut();
        Ok(())
    }

    fn set_fsync(&self) -> anyhow::Result<()> {
        let policy = self.fsync.name();
        block_in_place(|| self.redis.call(&["CONFIG", "SET", "appendfsync", policy]))
    }
}
