//! One read of Redis for all the scrapes that wait for one. Owns who shares what
//! with whom, and for how long is waited; how Redis is read is [`crate::reader`]'s,
//! what a scrape shows of it [`crate::snapshot`]'s.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use crate::{
    connection::{Failure, Reason, Redis},
    offences::OffenceLog,
    reader::{Plan, Reader, Reading},
    self_metrics::Totals,
    settle::Settler,
    snapshot::Snapshot,
};

/// What a scrape's own limit is cut by, so that the answer is there in time.
const MARGIN: Duration = Duration::from_millis(500);
/// Scrapes that wait for the next read. Further ones wait to be among them,
/// within their own limit.
const MAX_QUEUED: usize = 1024;

type Waiting = oneshot::Sender<Arc<Snapshot>>;

/// Where scrapes are asked for.
#[derive(Debug, Clone)]
pub struct Scraper {
    queue: mpsc::Sender<Waiting>,
    totals: Arc<Totals>,
    limit: Duration,
}

impl Scraper {
    /// Starts the task that reads; it ends with the last clone of the scraper.
    #[must_use]
    pub fn start(
        redis: Arc<Redis>,
        settler: Arc<Settler>,
        plan: Plan,
        totals: Arc<Totals>,
    ) -> Self {
        let (queue, waiting) = mpsc::channel(MAX_QUEUED);
        let limit = plan.limit;
        let reader = Reader::new(Arc::clone(&redis), settler, plan);
        let reading = read_for_all(redis, reader, waiting, Arc::clone(&totals));
        tokio::spawn(reading);
        Self {
            queue,
            totals,
            limit,
        }
    }

    /// What Redis holds now. There is one read at a time, and all the scrapes
    /// that arrive during one share the *next*: the one under way may have
    /// passed a cell that was written before the scrape arrived, and what was
    /// counted before a scrape must be in it.
    ///
    /// A scrape that is not served within the limit, or within what it `asked`
    /// for, shows Redis as down.
    pub async fn scrape(&self, asked: Option<Duration>) -> Arc<Snapshot> {
        let began = Instant::now();
        let limit = asked.map_or(self.limit, |asked| self.limit.min(in_time_for(asked)));
        let asking = async {
            let (reply, answer) = oneshot::channel();
            self.queue.send(reply).await.ok()?;
            answer.await.ok()
        };
        let failure = match timeout(limit, asking).await {
            Ok(Some(snapshot)) => return snapshot,
            Ok(None) => Failure::new(Reason::Internal, "the reading task has ended".into()),
            Err(_elapsed) => Failure::timeout(limit),
        };
        Snapshot::new(Err(failure), began, &self.totals)
    }
}

/// What is left of a limit for the read.
fn in_time_for(asked: Duration) -> Duration {
    asked.saturating_sub(MARGIN).max(asked / 2)
}

async fn read_for_all(
    redis: Arc<Redis>,
    mut reader: Reader,
    mut queue: mpsc::Receiver<Waiting>,
    totals: Arc<Totals>,
) {
    let mut log = Log::default();
    let mut waiting = Vec::new();
    while queue.recv_many(&mut waiting, MAX_QUEUED).await > 0 {
        // Whoever gave up meanwhile costs Redis nothing.
        waiting.retain(|reply| !reply.is_closed());
        if waiting.is_empty() {
            continue;
        }
        let began = Instant::now();
        let reading = reader.read().await;
        totals.count_read(reading.as_ref().err().map(|failure| failure.reason));
        totals.count_regressions(reading.as_ref().map_or(0, |reading| reading.regressions));
        log.log(&reading, &redis);
        let snapshot = Snapshot::new(reading, began, &totals);
        for reply in waiting.drain(..) {
            // The other side may have given up.
            let _ = reply.send(Arc::clone(&snapshot));
        }
    }
}

/// Logs changes, not states: an exporter is scraped several times a minute.
#[derive(Debug, Default)]
struct Log {
    offences: OffenceLog,
    down: Option<Reason>,
}

impl Log {
    fn log(&mut self, reading: &Result<Reading, Failure>, redis: &Redis) {
        let was_down = self.down;
        self.down = reading.as_ref().err().map(|failure| failure.reason);
        match reading {
            Ok(reading) => {
                if was_down.is_some() {
                    tracing::info!("Redis ({}) can be read again", redis.address());
                }
                tracing::debug!(
                    families = reading.families.len(),
                    cells = reading.cells,
                    "read Redis"
                );
                self.offences.log(&reading.offences);
            }
            Err(failure) if was_down != self.down => {
                tracing::warn!(
                    reason = failure.reason.label(),
                    "cannot read Redis ({}): {failure}",
                    redis.address()
                );
            }
            Err(_known) => {}
        }
    }
}
