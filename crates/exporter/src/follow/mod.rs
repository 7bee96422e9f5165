//! Replays the app's logs as they grow: the command `follow`, and `--follow` beside
//! serving.
//!
//! - `logs`: the files, and how far each was read
//! - `unwrap`: lines of container runtimes
//!
//! The log itself is the queue: while Redis does not respond, nothing more is read. A
//! position moves only when every batch before it is stored, or cannot be, so that a
//! follower can be killed at any time. It then reads some lines again, and Redis knows
//! their batches.

mod logs;
mod unwrap;

use std::{
    collections::BTreeMap,
    future::Future,
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Context as _;
use functional_scaffold_protocol::batch::BatchId;
use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};

use self::logs::{Found, Logs, Place};
use crate::{
    cli::{Config, FollowConfig, ReplayPolicy},
    commands::{
        log_lines::{Rejection, Trust},
        replay::Replayer,
    },
    scrape::self_metrics::FollowMetrics,
    server::{serve_follower, stop_signal},
};

/// Between two looks at files that have nothing to read. Polling works on every volume.
const POLL: Duration = Duration::from_secs(1);
/// Between two writes of the positions, and the age of what is written.
const SAVE: Duration = Duration::from_secs(3);
/// The time that a batch waits for missing parts after everything was read. An app writes
/// all parts within milliseconds.
const PATIENCE: Duration = Duration::from_secs(60);
/// The time, after the signal to end, for storing the rest of the log. The files may be
/// gone afterwards, and Kubernetes kills after 30 s.
const GRACE: Duration = Duration::from_secs(15);
/// Lines that are left out and logged between two looks. More are only counted.
const MAX_SHOWN: usize = 10;

/// Follows until SIGTERM or SIGINT. If there is an address to `listen` on, serves the
/// metrics of that, to its end.
pub(crate) async fn follow(
    mut config: Config,
    follow: FollowConfig,
    listen: Option<String>,
) -> anyhow::Result<()> {
    let stop = stop_signal().context("cannot receive signals")?;
    let trust = follow.trust?;
    let logs = Logs::new(follow.paths, follow.positions);
    let metrics = Arc::default();
    let mut follower = Follower::new(&config, logs, trust, Arc::clone(&metrics))?;
    let following = follower.run_until(async {
        let name = stop.await;
        tracing::info!("stopping on {name}");
    });
    match listen {
        None => following.await,
        Some(listen) => {
            config.listen = listen;
            serve_follower(config, metrics, following).await?;
        }
    }
    Ok(())
}

/// A follower in a thread with a connection of its own, so that no scrape waits for it.
pub(crate) struct Following {
    pub(crate) metrics: Arc<FollowMetrics>,
    /// Absent if no batch can be trusted.
    thread: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl Following {
    pub(crate) fn start(config: &Config, follow: FollowConfig) -> anyhow::Result<Self> {
        let metrics = Arc::new(FollowMetrics::default());
        let trust = match follow.trust {
            Ok(trust) => trust,
            Err(error) => {
                tracing::error!("no log is followed: {error:#}");
                let thread = None;
                return Ok(Self { metrics, thread });
            }
        };
        let logs = Logs::new(follow.paths, follow.positions);
        let mut follower = Follower::new(config, logs, trust, Arc::clone(&metrics))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start a runtime")?;
        let (stop, stopped) = oneshot::channel();
        let stopped = async move {
            let _ = stopped.await;
        };
        let thread = thread::Builder::new()
            .name("follow".to_owned())
            .spawn(move || runtime.block_on(follower.run_until(stopped)))
            .context("cannot start a thread")?;
        let thread = Some((stop, thread));
        Ok(Self { metrics, thread })
    }

    /// Stores what is there, and ends.
    pub(crate) fn stop(self) {
        if let Some((stop, thread)) = self.thread {
            drop(stop);
            // It has shown why if it panicked.
            let _ = thread.join();
        }
    }
}

struct Follower {
    logs: Logs,
    trust: Trust,
    replayer: Replayer,
    patience: Duration,
    /// Batches with missing parts, and the parts that are there.
    open: BTreeMap<BatchId, (Instant, Vec<Place>)>,
    metrics: Arc<FollowMetrics>,
    rejected: [u64; 2],
    shown: usize,
    saved: Option<Instant>,
    /// The current problem. Changes are logged.
    trouble: Option<String>,
    logged: [u64; 2],
}

impl Drop for Follower {
    /// Also when it panics.
    fn drop(&mut self) {
        self.metrics.up.store(0, Ordering::Relaxed);
    }
}

impl Follower {
    fn new(
        config: &Config,
        logs: Logs,
        trust: Trust,
        metrics: Arc<FollowMetrics>,
    ) -> anyhow::Result<Self> {
        let policy = ReplayPolicy {
            is_endless: true,
            ..ReplayPolicy::default()
        };
        Ok(Self {
            logs,
            trust,
            replayer: Replayer::new(config, policy)?,
            patience: PATIENCE,
            open: BTreeMap::new(),
            metrics,
            rejected: [0; 2],
            shown: 0,
            saved: None,
            trouble: None,
            logged: [0; 2],
        })
    }

    /// Follows until `stop`, and then until what is there is stored, or for [`GRACE`].
    async fn run_until(&mut self, stop: impl Future<Output = ()>) {
        let stopping = Notify::new();
        let mut run = pin!(self.run(&stopping));
        tokio::select! {
            () = &mut run => return,
            () = stop => stopping.notify_one(),
        }
        if timeout(GRACE, run).await.is_err() {
            tracing::warn!(
                "not all lines are stored after {GRACE:?}; following the same files again stores them"
            );
        }
    }

    /// Follows until it is stopped. Nothing is cancelled halfway: a batch may have been
    /// joined from parts that would not be read again.
    async fn run(&mut self, stopping: &Notify) {
        tracing::info!("following {}", self.logs);
        loop {
            let result = self.logs.scan();
            let has_read = self.read(result).await;
            let pause = if has_read { Duration::ZERO } else { POLL };
            tokio::select! {
                biased;
                () = stopping.notified() => break,
                () = sleep(pause) => {}
            }
        }
        let mut result = self.logs.scan();
        // Without further looks, because the log may grow for ever.
        while self.read(result).await {
            result = Ok(());
        }
    }

    /// Reads a chunk of each file, and shows how that went, after the `result` of a scan.
    /// Returns whether there was something.
    async fn read(&mut self, mut result: anyhow::Result<()>) -> bool {
        self.shown = 0;
        let mut has_read = false;
        for id in self.logs.unread() {
            match self.logs.read(id, &self.trust) {
                Ok((found, to)) => {
                    for found in found {
                        self.take(found).await;
                    }
                    has_read |= self.logs.advance(to);
                }
                Err(error) => result = Err(error).context("cannot read a log"),
            }
        }
        if !has_read {
            self.give_up_parts().await;
        }
        if self.saved.is_none_or(|saved| saved.elapsed() >= SAVE) {
            self.saved = Some(Instant::now());
            let again = self.open.values().flat_map(|(_, places)| places);
            if let Err(error) = self.logs.save(again.copied()) {
                result = Err(error);
            }
        }
        self.show(result, has_read);
        has_read
    }

    /// Stores a batch, or counts a line that is left out.
    async fn take(&mut self, found: Found) {
        let Found { place, name, line } = found;
        let line = match line {
            Ok(line) => line,
            Err(why) => {
                self.rejected[usize::from(matches!(why, Rejection::Refused(_)))] += 1;
                self.shown += 1;
                if self.shown <= MAX_SHOWN {
                    tracing::error!("{name}: {why}");
                }
                return;
            }
        };
        let id = line.part.logged.batch.id.clone();
        if line.part.part.is_some() {
            let now = Instant::now();
            let (since, places) = self
                .open
                .entry(id.clone())
                .or_insert_with(|| (now, Vec::new()));
            *since = now;
            places.push(place);
        }
        let waits = {
            let storing = pin!(self.replayer.replay_line(&name, line));
            wait(&mut self.logs, &self.metrics, storing).await
        };
        if !waits {
            self.open.remove(&id);
        }
        if let Some(id) = self.replayer.given_up.take() {
            self.open.remove(&id);
        }
    }

    async fn give_up_parts(&mut self) {
        let open = self.open.iter();
        let overdue = open.filter(|(_, (since, _))| since.elapsed() > self.patience);
        let overdue: Vec<_> = overdue.map(|(id, _)| id.clone()).collect();
        for id in overdue {
            let giving_up = pin!(self.replayer.give_up(&id));
            wait(&mut self.logs, &self.metrics, giving_up).await;
            self.open.remove(&id);
        }
    }

    /// Shows counts and trouble in metrics and the log.
    fn show(&mut self, result: anyhow::Result<()>, is_busy: bool) {
        let report = &self.replayer.report;
        let metrics = &self.metrics;
        for (count, shown) in [
            report.applied,
            report.already_applied,
            report.too_old,
            report.incomplete,
            report.failed,
        ]
        .into_iter()
        .zip(&metrics.batches)
        {
            shown.store(count, Ordering::Relaxed);
        }
        let [unreadable, refused] = self.rejected;
        let rejected = [unreadable + report.unreadable, refused + report.refused];
        for (count, shown) in rejected.into_iter().zip(&metrics.lines_refused) {
            shown.store(count, Ordering::Relaxed);
        }
        show_lag(&self.logs, metrics);
        metrics
            .up
            .store(u64::from(result.is_ok()), Ordering::Relaxed);
        let trouble = result.err().map(|error| format!("{error:#}"));
        if trouble != self.trouble {
            match &trouble {
                Some(trouble) => tracing::error!("following goes on, but {trouble}"),
                None => tracing::info!("following works again"),
            }
            self.trouble = trouble;
        }
        let stored = [report.applied, report.already_applied];
        if stored != self.logged && !is_busy {
            let [applied, already] = stored;
            tracing::info!(
                "batches stored since the start: {applied}, and {already} that were stored before"
            );
            self.logged = stored;
        }
    }
}

fn show_lag(logs: &Logs, metrics: &FollowMetrics) {
    let (files, bytes) = logs.lag();
    metrics.files.store(files as u64, Ordering::Relaxed);
    metrics.lag_bytes.store(bytes, Ordering::Relaxed);
}

/// Waits for Redis, and meanwhile opens new files, which may be deleted before it is back.
async fn wait<T>(
    logs: &mut Logs,
    metrics: &FollowMetrics,
    mut storing: Pin<&mut impl Future<Output = T>>,
) -> T {
    let mut ticks = interval(POLL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first is at once.
    ticks.reset();
    loop {
        tokio::select! {
            biased;
            value = &mut storing => return value,
            _ = ticks.tick() => {
                // Errors are shown when it reads again.
                let _ = logs.scan();
                show_lag(logs, metrics);
                metrics.up.store(0, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use functional_scaffold_protocol::{
        batch::{Batch, LoggedBatch, SentBatch},
        custom::CustomWrites,
    };
    use functional_scaffold_testkit::redis::RedisServer;
    use tokio::time::timeout;

    use super::*;
    use crate::cli::Cli;

    /// The lines of a batch in parts, unsigned.
    fn parts(sequence: u64) -> Vec<String> {
        let mut increments = Batch::default();
        for number in 0..30 {
            increments.inc("metrics:request_counter", &number.to_string(), 1);
        }
        let batch = SentBatch {
            id: BatchId {
                nonce: sequence,
                sequence,
            },
            frozen_ms: None,
            increments,
            leased: Vec::new(),
            custom: CustomWrites::default(),
        };
        let parts = LoggedBatch {
            batch,
            group: None,
            shard: None,
        }
        .into_parts(100);
        let time = humantime::format_rfc3339_millis(std::time::SystemTime::now());
        let line = |part| {
            let part = serde_json::to_string(part).expect("it serialises");
            format!(
                "{{\"time\":\"{time}\",\"level\":\"error\",\"event\":\"batch_not_stored\",{}\n",
                &part[1..]
            )
        };
        parts.iter().map(line).collect()
    }

    #[tokio::test]
    async fn parts_that_never_come_are_given_up_and_stored_batches_not_missed() {
        let redis = RedisServer::start().expect("redis-server starts");
        let folder = tempfile::tempdir().expect("a folder");
        let log = folder.path().join("app.log");
        let port = redis.port().to_string();
        let cli = Cli::try_parse_from(["exporter", "--redis-port", &port]).expect("valid");
        let config = cli.check().expect("valid");
        let follow = async |text: &str, expected: [u64; 3]| {
            std::fs::write(&log, text).expect("written");
            let logs = Logs::new(vec![log.clone()], folder.path().join("positions"));
            let mut follower = Follower::new(&config, logs, Trust::Unauthenticated, Arc::default())
                .expect("valid");
            follower.patience = Duration::ZERO;
            let metrics = Arc::clone(&follower.metrics);
            let counts = || {
                let counts = [0, 1, 3].map(|outcome| &metrics.batches[outcome]);
                counts.map(|count| count.load(Ordering::Relaxed))
            };
            let done = async {
                while counts() != expected || metrics.lag_bytes.load(Ordering::Relaxed) > 0 {
                    sleep(Duration::from_millis(10)).await;
                }
            };
            let done = timeout(Duration::from_secs(30), done);
            tokio::select! {
                () = follower.run_until(std::future::pending()) => {}
                done = done => done.unwrap_or_else(|_| panic!("{:?}", counts())),
            }
        };
        let [first, second] = [1, 2].map(parts);
        assert!(first.len() > 2);
        // The first is whole. Of the second, one part is missing.
        follow(&(first.concat() + &second[1..].concat()), [1, 0, 1]).await;
        // A restart that reads only the end of a batch again.
        let _not_written = std::fs::remove_file(folder.path().join("positions"));
        follow(&first[1..].concat(), [0, 1, 0]).await;
    }

    #[tokio::test]
    async fn a_batch_whose_parts_make_room_for_others_waits_no_longer() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = folder.path().join("app.log");
        let lines = (1..=10_001).map(|sequence| parts(sequence).swap_remove(0));
        std::fs::write(&log, lines.collect::<String>()).expect("written");
        let config = Cli::try_parse_from(["exporter"]).expect("valid");
        let config = config.check().expect("valid");
        let logs = Logs::new(vec![log], folder.path().join("positions"));
        let follower = Follower::new(&config, logs, Trust::Unauthenticated, Arc::default());
        let mut follower = follower.expect("valid");
        let mut scanned = follower.logs.scan();
        while follower.read(scanned).await {
            scanned = Ok(());
        }
        assert_eq!(follower.replayer.report.incomplete, 1);
        assert_eq!(follower.open.len(), 10_000);
    }
}
