//! One read of Redis for all the scrapes that wait for one, and its text. Owns
//! who shares what with whom; how Redis is read is [`crate::reader`]'s.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use axum::body::Bytes;
use functional_scaffold_schema::exposition::write_family;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use crate::{
    connection::{Failure, Reason, Redis},
    offences::OffenceLog,
    reader::{Plan, Reader, Reading},
    self_metrics::{self, ScrapeFigures, Totals},
    settle::Settler,
};

/// About the length of a line, to reserve room for all of them at once.
const LINE_BYTES: usize = 96;
/// Scrapes that wait for the next read. Further ones wait to be among them,
/// within their own limit.
const MAX_QUEUED: usize = 1024;

/// What a scrape shows.
#[derive(Debug)]
pub struct Snapshot {
    reading: Result<Reading, Failure>,
    duration: Duration,
    totals: Arc<Totals>,
    text: OnceLock<Bytes>,
}

impl Snapshot {
    fn new(reading: Result<Reading, Failure>, began: Instant, totals: &Arc<Totals>) -> Arc<Self> {
        Arc::new(Self {
            reading,
            duration: began.elapsed(),
            totals: Arc::clone(totals),
            text: OnceLock::new(),
        })
    }

    /// The snapshot in the text format 0.0.4, written once for all who share it.
    #[must_use]
    pub fn text(&self) -> Bytes {
        self.text.get_or_init(|| self.write().into()).clone()
    }

    fn write(&self) -> String {
        let nothing = Reading::default();
        let reading = self.reading.as_ref().unwrap_or(&nothing);
        let figures = ScrapeFigures {
            up: self.reading.is_ok(),
            duration: self.duration,
            families: reading.families.len(),
            series: reading.families.iter().map(|one| one.series.len()).sum(),
            cells: reading.cells,
            offences: &reading.offences,
            oldest_lease_age_seconds: reading.oldest_lease_age_seconds,
            last_flush_seconds: reading.flushed_millis.map(|millis| millis as f64 / 1000.0),
        };
        let lines = usize::try_from(reading.cells).unwrap_or(0);
        let mut out = String::with_capacity(4096 + lines.saturating_mul(LINE_BYTES));
        self_metrics::write(&mut out, &self.totals, &figures);
        for family in reading.in_flight.iter().chain(&reading.families) {
            write_family(&mut out, family);
        }
        out
    }
}

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
    /// A scrape that is not served within the limit shows Redis as down.
    pub async fn scrape(&self) -> Arc<Snapshot> {
        let began = Instant::now();
        let asking = async {
            let (reply, answer) = oneshot::channel();
            self.queue.send(reply).await.ok()?;
            answer.await.ok()
        };
        let failure = match timeout(self.limit, asking).await {
            Ok(Some(snapshot)) => return snapshot,
            Ok(None) => Failure::new(Reason::Internal, "the reading task has ended".into()),
            Err(_elapsed) => Failure::timeout(self.limit),
        };
        Snapshot::new(Err(failure), began, &self.totals)
    }
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
