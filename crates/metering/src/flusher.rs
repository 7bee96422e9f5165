//! Decides when batches are stored, retried, and written to the log.

use std::{cell::RefCell, time::Duration};

use functional_scaffold_protocol::{batch::LoggedPart, replay_key::ReplayKey};
use serde::Serialize;
use serde_json::json;
use spin_sdk::wasip3::random::random::get_random_u64;

use crate::{
    batcher::{Batcher, Ticket},
    config::LINGER,
    denied::turn_off,
    log::{self, Level},
    single_flight::SingleFlight,
    sinks::{
        Sink,
        error::{StoreError, Stored},
    },
    time::{Deadline, sleep},
};

/// The header `Retry-After` of a request that Redis did not acknowledge, in seconds.
/// After this time the instance has stored the batch or given it up, and then the next
/// request starts another attempt.
pub const RETRY_AFTER: &str = "1";

/// The pause before a failed attempt is repeated.
const BACKOFF: Duration = Duration::from_millis(50);

/// The `event` of a log line that holds a batch.
const BATCH_NOT_STORED: &str = "batch_not_stored";

/// The longest reason in such a line. The rest is for the batch.
const MAX_REASON_BYTES: usize = 500;

/// Stores the batches of one instance, one attempt at a time.
pub(crate) struct Flusher {
    /// How long increments collect before a flush.
    interval: Duration,
    /// Held during an attempt.
    storing: SingleFlight,
    /// Authenticates the batches in the log.
    replay_key: Option<ReplayKey>,
}

impl Flusher {
    pub(crate) fn new(interval: Duration, replay_key: Option<ReplayKey>) -> Self {
        Self {
            interval,
            storing: SingleFlight::default(),
            replay_key,
        }
    }

    /// Flushes until nothing is left to store. Runs after a response.
    pub(crate) async fn run(&self, batcher: &RefCell<Batcher>, sink: &Sink) {
        loop {
            // Requests that finish meanwhile share the batch.
            sleep(self.interval).await;
            self.flush(batcher, sink).await;
            if batcher.borrow_mut().end_flushing() {
                return;
            }
        }
    }

    /// Waits until the batch of a request is acknowledged, at most for the sink's
    /// time-out, and stores it itself if no other task is storing one. Returns false
    /// if it is not acknowledged whole. A failed attempt ends all waits: it is
    /// repeated by the flush after the response.
    pub(crate) async fn wait_for(
        &self,
        ticket: Ticket,
        batcher: &RefCell<Batcher>,
        sink: &Sink,
    ) -> bool {
        let deadline = Deadline::after(sink.timeout());
        loop {
            {
                let batcher = batcher.borrow();
                if batcher.is_resolved(ticket) || batcher.store_error().is_some() {
                    return batcher.is_acknowledged(ticket);
                }
            }
            let Some(_storing) = self.storing.begin() else {
                // Without a deadline: the other attempt started earlier and has
                // no longer limit, so it ends before ours.
                self.storing.ended().await;
                continue;
            };
            // An execution in this instance can use up the time while Redis is well.
            let deadline = match deadline.remaining() {
                Duration::ZERO => Deadline::after(sink.timeout()),
                _ => deadline,
            };
            let _ = attempt(batcher, sink, deadline).await;
        }
    }

    /// Stores one batch, or writes everything to the log.
    async fn flush(&self, batcher: &RefCell<Batcher>, sink: &Sink) {
        // Time in executions does not count: no other task of the instance makes
        // progress during one.
        let mut left = LINGER;
        let mut cause = None;
        loop {
            let Some(storing) = self.storing.begin() else {
                self.storing.ended().await;
                continue;
            };
            let timeout = sink.timeout().min(left);
            let deadline = Deadline::after(timeout);
            let Err(error) = attempt(batcher, sink, deadline).await else {
                return;
            };
            // An execution in this instance can make the attempt end after its
            // deadline. The attempt is then charged less than its time-out: the
            // overrun less, because that time was the execution's. The pauses are
            // always charged, so the number of attempts is bounded.
            let took = timeout.saturating_sub(deadline.remaining() + deadline.overrun());
            left = left.saturating_sub(took + BACKOFF);
            let is_last =
                left.is_zero() || matches!(error, StoreError::Denied(_) | StoreError::TooOld);
            let error = match cause {
                Some(cause) if says_less(&error, sink.timeout()) => cause,
                _ => error,
            };
            if is_last {
                self.write_to_log(batcher, sink, &error);
                return;
            }
            cause = Some(error);
            drop(storing);
            sleep(BACKOFF).await;
        }
    }

    /// Writes everything that is not stored to the log, from which it can be
    /// replayed. A batch that is too old goes there alone, because the next one is not.
    fn write_to_log(&self, batcher: &RefCell<Batcher>, sink: &Sink, error: &StoreError) {
        #[derive(Serialize)]
        struct Fields<'a> {
            #[serde(flatten)]
            reason: &'a Reason<'a>,
            #[serde(flatten)]
            part: LoggedPart,
        }

        let nonces = [get_random_u64(), get_random_u64()];
        let batches = match error {
            StoreError::TooOld => {
                Vec::from_iter(batcher.borrow_mut().take_frozen_for_log(nonces[0]))
            }
            _ => batcher.borrow_mut().take_for_log(nonces),
        };
        let error = error.to_string();
        let reason = &Reason {
            reason: log::clip(&error, MAX_REASON_BYTES),
        };
        let room = room_beside(reason);
        let batcher = batcher.borrow();
        for batch in batches {
            for part in sink.logged(batch, &batcher).into_parts(room) {
                let fields = Fields { reason, part };
                let key = self.replay_key.as_ref();
                log::write_whole(Level::Error, BATCH_NOT_STORED, fields, key);
            }
        }
    }
}

/// Whether an error is less informative than the one before it. The last attempt
/// of a flush has only the time that is left, in which even a healthy server may
/// not reply.
fn says_less(error: &StoreError, timeout: Duration) -> bool {
    match error {
        StoreError::Timeout(limit) => *limit < timeout,
        StoreError::OtherTask => true,
        _ => false,
    }
}

/// Stores the next batch. The caller must hold [`Flusher::storing`].
async fn attempt(
    batcher: &RefCell<Batcher>,
    sink: &Sink,
    deadline: Deadline,
) -> Result<(), StoreError> {
    let stored = match sink.store(batcher, deadline).await {
        Ok(stored) => stored,
        Err(error) if turn_off(batcher, &error) => return Ok(()),
        Err(error) => {
            let reason = error.to_string();
            let is_new = batcher.borrow_mut().record_failure(&reason);
            let level = if is_new { Level::Warn } else { Level::Debug };
            log::write(level, "flush_failed", json!({ "reason": reason }));
            return Err(error);
        }
    };
    let Some(Stored { duplicate, refused }) = stored else {
        return Ok(());
    };
    let mut batcher = batcher.borrow_mut();
    batcher.acknowledge(duplicate, &refused);
    log::write(Level::Debug, "flushed", json!({ "duplicate": duplicate }));
    if !refused.is_empty() {
        // Each is a loss, and only these lines have the amounts.
        log::write_list(Level::Error, "increments_refused", "refused", &refused);
    }
    Ok(())
}

/// The number of bytes that a log line with this reason has for a batch.
fn room_beside(reason: &Reason<'_>) -> usize {
    let room = log::room_beside(Level::Error, BATCH_NOT_STORED, reason);
    room.saturating_sub(ReplayKey::MEMBER_BYTES)
}

#[derive(Serialize)]
struct Reason<'a> {
    reason: &'a str,
}

#[cfg(test)]
mod tests {
    use functional_scaffold_protocol::{
        batch::LoggedBatch,
        catalog::{ExecutionStatus, FinishedRequest, RequestLabels},
        shard::{MAX_SHARDS, shard_prefix},
    };

    use super::*;
    use crate::{
        batcher::{Execution, Workload},
        config::MAX_PREFIX_BYTES,
    };

    #[test]
    fn what_cannot_be_split_fits_into_a_line() {
        let algorithm = "a".repeat(64);
        let endpoint: &'static str = format!("/invoke/{algorithm}").leak();
        let shard = MAX_SHARDS - 1;
        let prefix = shard_prefix(&"p".repeat(MAX_PREFIX_BYTES), shard);
        let workload = Workload {
            algorithm,
            endpoints: &[],
        };
        let mut batcher = Batcher::new(&prefix, workload, u64::MAX);
        for _ in 0..3 {
            let request = FinishedRequest {
                labels: RequestLabels::new("OPTIONS", endpoint, 500),
                duration_nanos: 1 << 40,
            };
            let lease = batcher.lease(request.labels.route(), 1 << 40, 1 << 50);
            let execution = Execution {
                status: ExecutionStatus::InvalidInput,
                duration_nanos: 1 << 40,
            };
            let _ticket = batcher.record(&request, Some(execution), Some(lease));
        }
        let reason = "r".repeat(MAX_REASON_BYTES);
        let room = room_beside(&Reason { reason: &reason });
        let batch = batcher.take_for_log([1, 2]).remove(0);
        assert_eq!(batch.leased.len(), 3);
        let parts = LoggedBatch {
            batch,
            group: None,
            shard: Some(shard),
        }
        .into_parts(room);
        assert!(parts.len() > 1);
        for part in parts {
            let bytes = json!(part).to_string().len();
            assert!(bytes <= room, "{bytes} of {room}");
        }
    }

    #[test]
    fn clients_retry_when_an_attempt_has_ended() {
        assert_eq!(RETRY_AFTER, LINGER.as_secs().to_string());
    }

    #[test]
    fn a_shortened_wait_says_less_than_a_reply() {
        let full = Duration::from_millis(300);
        let cut = full - Duration::from_millis(1);
        assert!(says_less(&StoreError::Timeout(cut), full));
        assert!(says_less(&StoreError::OtherTask, full));
        assert!(!says_less(&StoreError::Timeout(full), full));
        assert!(!says_less(&StoreError::Redis("LOADING".into()), full));
    }
}
