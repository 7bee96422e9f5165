//! Scrapes of Redis. There is one read at a time, which all waiting scrapes share.

pub(crate) mod decode_errors;
pub(crate) mod high_water;
mod info;
pub(crate) mod labels;
pub(crate) mod leases;
pub(crate) mod limits;
pub(crate) mod pass;
pub(crate) mod reader;
pub(crate) mod reading;
pub(crate) mod registry;
pub(crate) mod scan;
pub(crate) mod self_metrics;
mod snapshot;
pub(crate) mod store;
mod sum;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use crate::{
    redis_client::{Failure, Reason},
    scrape::{
        decode_errors::DecodeErrorLog,
        reader::Reader,
        reading::{Reading, Unread},
        self_metrics::SelfMetrics,
        snapshot::Snapshot,
        store::{Store, addresses},
    },
};

/// What is left of a client's time-out for the response to arrive.
const MARGIN: Duration = Duration::from_millis(500);
/// Scrapes that wait for the next read. Further ones wait, within their time-out, to
/// be queued.
const MAX_QUEUED: usize = 1024;

type Waiting = oneshot::Sender<Arc<Snapshot>>;

/// Queues scrapes for the task that reads Redis.
#[derive(Clone)]
pub(crate) struct Scraper {
    queue: mpsc::Sender<Waiting>,
    metrics: Arc<SelfMetrics>,
    timeout: Duration,
}

impl Scraper {
    /// Starts the task that reads, which ends with the last clone of the scraper. A read
    /// takes `timeout` at most.
    pub(crate) fn start(
        stores: &[Arc<Store>],
        timeout: Duration,
        state_file: Option<PathBuf>,
        metrics: Arc<SelfMetrics>,
    ) -> Self {
        let (queue, waiting) = mpsc::channel(MAX_QUEUED);
        let reader = Reader::new(stores, timeout, state_file);
        let log = Log {
            addresses: addresses(stores.iter().map(|store| &**store)),
            ..Log::default()
        };
        tokio::spawn(read_loop(reader, log, waiting, Arc::clone(&metrics)));
        Self {
            queue,
            metrics,
            timeout,
        }
    }

    /// Reads Redis. All scrapes that arrive during a read share the *next* one: the
    /// current read may have passed a cell that was written before the scrape
    /// arrived, and a scrape must show what was counted before it.
    ///
    /// A scrape that is not served within the exporter's or the client's time-out
    /// shows Redis as down.
    pub(crate) async fn scrape(&self, client_timeout: Option<Duration>) -> Arc<Snapshot> {
        let started = Instant::now();
        let limit = limit(self.timeout, client_timeout);
        let read = async {
            let (sender, snapshot) = oneshot::channel();
            self.queue.send(sender).await.ok()?;
            snapshot.await.ok()
        };
        let failure = match timeout(limit, read).await {
            Ok(Some(snapshot)) => return snapshot,
            Ok(None) => Failure::new(Reason::Internal, "the reading task has ended"),
            Err(_elapsed) => Failure::timeout(limit),
        };
        Snapshot::new(Err(failure.into()), started, &self.metrics)
    }
}

/// The time that a scrape may take, within the exporter's and the client's time-out.
fn limit(timeout: Duration, client_timeout: Option<Duration>) -> Duration {
    client_timeout.map_or(timeout, |client_timeout| {
        let limit = client_timeout.saturating_sub(MARGIN);
        timeout.min(limit.max(client_timeout / 2))
    })
}

async fn read_loop(
    mut reader: Reader,
    mut log: Log,
    mut queue: mpsc::Receiver<Waiting>,
    metrics: Arc<SelfMetrics>,
) {
    let mut waiting = Vec::new();
    while queue.recv_many(&mut waiting, MAX_QUEUED).await > 0 {
        // A scrape that timed out meanwhile must not cause a read.
        waiting.retain(|sender| !sender.is_closed());
        if waiting.is_empty() {
            continue;
        }
        let started = Instant::now();
        let reading = reader.read().await;
        metrics.count_read(&reading);
        log.log(&reading);
        let snapshot = Snapshot::new(reading, started, &metrics);
        for sender in waiting.drain(..) {
            // The scrape may have timed out.
            let _ = sender.send(Arc::clone(&snapshot));
        }
    }
}

/// Logs changes of state: an exporter is scraped several times a minute.
#[derive(Default)]
struct Log {
    addresses: String,
    decode_errors: DecodeErrorLog,
    down: Option<Reason>,
}

impl Log {
    fn log(&mut self, reading: &Result<Reading, Unread>) {
        let Self { addresses, .. } = self;
        let down = reading.as_ref().err().map(|unread| unread.failure.reason);
        let was_down = std::mem::replace(&mut self.down, down);
        match reading {
            Ok(reading) => {
                if was_down.is_some() {
                    tracing::info!("Redis ({addresses}) can be read again");
                }
                tracing::debug!(
                    families = reading.families.len(),
                    cells = reading.cells,
                    "read Redis"
                );
                self.decode_errors.log(&reading.decode_errors);
            }
            Err(Unread { failure, .. }) if was_down != down => {
                tracing::warn!(
                    reason = failure.reason.label(),
                    "cannot read Redis ({addresses}): {failure}"
                );
            }
            Err(_logged) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_second_of_the_clients_time_out_is_left_for_the_response() {
        for (client, expected) in [
            (None, 8_000),
            (Some(10_000), 8_000),
            (Some(8_000), 7_500),
            (Some(1_000), 500),
            (Some(600), 300),
        ] {
            let limit = limit(Duration::from_secs(8), client.map(Duration::from_millis));
            assert_eq!(limit, Duration::from_millis(expected), "{client:?}");
        }
    }
}
