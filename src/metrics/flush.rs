//! When increments are written, retried, and given to the log.

use std::{rc::Rc, time::Duration};

use functional_scaffold_protocol::batch::LoggedPart;
use serde::Serialize;
use serde_json::json;
use spin_sdk::wasip3::random::random::get_random_u64;

use crate::{
    clock::{Deadline, unix_seconds, wait},
    instance::Ready,
    log::{self, Level},
    metrics::{
        sinks::{StoreError, Stored},
        writer::Ticket,
    },
};

/// How long an instance tries to store what it has. Spin cannot use an
/// instance that lingers, and holds a few hundred of them: with flushes that
/// wait for ever, a stopped Redis takes the whole application down.
const LINGER: Duration = Duration::from_secs(1);

/// The pause before a failed write is tried again.
const BACKOFF: Duration = Duration::from_millis(50);

/// The event of the lines that hold what was given up.
const BATCH_NOT_STORED: &str = "batch_not_stored";

/// So much of why a batch was given up stands in its lines, each of which is to
/// have room for something of the batch.
const MAX_REASON_BYTES: usize = 500;

/// Writes what is recorded until nothing is left, as work that goes on after a
/// response.
pub async fn run(ready: Rc<Ready>) {
    loop {
        // Requests that finish meanwhile go into the same batch.
        wait(ready.config.flush_interval).await;
        flush(&ready).await;
        if ready.writer.borrow_mut().end_flushing() {
            return;
        }
    }
}

/// Waits until the batch of a request is answered for, for `redis_timeout_ms`
/// at the most, and no longer than Redis is known to answer. Writes it itself
/// as soon as no other write is under way.
pub async fn answered(ready: &Ready, ticket: Ticket) {
    let deadline = Deadline::after(ready.sink.timeout());
    loop {
        let waits = {
            let writer = ready.writer.borrow();
            !writer.is_answered(ticket) && writer.waits_for_batches()
        };
        if !waits {
            return;
        }
        let Some(_flight) = ready.writing.begin() else {
            // It began before this wait and takes no longer.
            ready.writing.ended().await;
            continue;
        };
        // What fails is tried again after the response.
        let _ = attempt(ready, deadline).await;
    }
}

/// Stores one batch, or gives everything to the log.
async fn flush(ready: &Ready) {
    // Of what the attempts took, not of the clock: while an execution computes,
    // nothing else of the instance goes on, and no attempt either.
    let mut left = LINGER;
    let mut answer = None;
    loop {
        let Some(flight) = ready.writing.begin() else {
            ready.writing.ended().await;
            continue;
        };
        let timeout = ready.sink.timeout().min(left);
        let deadline = Deadline::after(timeout);
        let Err(error) = attempt(ready, deadline).await else {
            return;
        };
        // It ends late where an execution computed meanwhile, and had so much less
        // of its time. The pauses alone bound how often it is tried.
        let took = timeout.saturating_sub(deadline.distance());
        left = left.saturating_sub(took + BACKOFF);
        let exhausted = left.is_zero() || matches!(error, StoreError::Denied(_));
        let why = match answer {
            Some(answer) if says_less(&error, ready.sink.timeout()) => answer,
            _ => error,
        };
        if exhausted {
            give_up(ready, &why);
            return;
        }
        answer = Some(why);
        drop(flight);
        wait(BACKOFF).await;
    }
}

/// Whether an attempt failed for a reason that says less than the one before: the
/// last attempt of a flush has only what is left of its time, in which a server
/// that has answered before may not answer.
fn says_less(error: &StoreError, timeout: Duration) -> bool {
    match error {
        StoreError::Timeout(limit) => *limit < timeout,
        StoreError::Elsewhere => true,
        _ => false,
    }
}

/// Stores the batch. Only for whom it is under way: see [`Ready::writing`].
async fn attempt(ready: &Ready, deadline: Deadline) -> Result<(), StoreError> {
    let stored = match ready.sink.store(ready, deadline).await {
        Ok(stored) => stored,
        Err(error) => {
            let reason = error.to_string();
            // What is the matter is news when it begins or changes.
            let level = match ready.writer.borrow_mut().record_failure(&reason) {
                true => Level::Warn,
                false => Level::Debug,
            };
            log::write(level, "flush_failed", json!({ "reason": reason }));
            return Err(error);
        }
    };
    let Some(Stored { duplicate, refused }) = stored else {
        return Ok(());
    };
    let mut writer = ready.writer.borrow_mut();
    writer.acknowledge(duplicate);
    log::write(Level::Debug, "flushed", json!({ "duplicate": duplicate }));
    if !refused.is_empty() {
        // Every line is a loss; a key that goes on refusing is no news.
        let level = match writer.note_refused(&refused) {
            true => Level::Error,
            false => Level::Info,
        };
        log::write_list(level, "increments_refused", "refused", &refused);
    }
    Ok(())
}

fn give_up(ready: &Ready, error: &StoreError) {
    #[derive(Serialize)]
    struct Reason<'a> {
        reason: &'a str,
    }
    #[derive(Serialize)]
    struct Fields<'a> {
        #[serde(flatten)]
        reason: &'a Reason<'a>,
        #[serde(flatten)]
        part: LoggedPart,
    }

    let given_up = ready
        .writer
        .borrow_mut()
        .give_up([get_random_u64(), get_random_u64()], unix_seconds());
    let error = error.to_string();
    let reason = Reason {
        reason: log::clip(&error, MAX_REASON_BYTES),
    };
    let room = log::room_beside(Level::Error, BATCH_NOT_STORED, &reason);
    for batch in given_up {
        for part in ready.sink.give_up(ready, batch).into_parts(room) {
            let fields = Fields {
                reason: &reason,
                part,
            };
            log::write_whole(Level::Error, BATCH_NOT_STORED, fields);
        }
    }
}

#[cfg(test)]
mod tests {
    use functional_scaffold_protocol::{
        batch::LoggedBatch,
        catalog::{Catalog, ExecutionStatus, FinishedRequest, RequestLabels},
    };

    use super::*;
    use crate::{config::MAX_PREFIX_BYTES, invoke::Executed, metrics::writer::Writer};

    #[test]
    fn what_cannot_be_split_fits_into_a_line() {
        let algorithm = "a".repeat(64);
        let endpoint: &'static str = format!("/invoke/{algorithm}").leak();
        let catalog = Catalog::new(&"p".repeat(MAX_PREFIX_BYTES));
        let mut writer = Writer::new(catalog, algorithm, u64::MAX, 1 << 40);
        for _ in 0..3 {
            let lease = writer.lease(endpoint, 1 << 40);
            let request = FinishedRequest {
                labels: RequestLabels::new("OPTIONS", endpoint, 500),
                duration_nanos: 1 << 40,
            };
            let executed = Executed {
                status: ExecutionStatus::InvalidInput,
                nanos: 1 << 40,
            };
            let _ticket = writer.record(&request, Some((executed, Some(lease))));
        }
        let reason = json!({ "reason": "r".repeat(MAX_REASON_BYTES) });
        let room = log::room_beside(Level::Error, BATCH_NOT_STORED, &reason);
        let batch = writer.give_up([1, 2], 1 << 40).remove(0);
        assert_eq!(batch.leased.len(), 3);
        let parts = LoggedBatch { batch, group: None }.into_parts(room);
        assert!(parts.len() > 1);
        for part in parts {
            let bytes = json!(part).to_string().len();
            assert!(bytes <= room, "{bytes} of {room}");
        }
    }

    #[test]
    fn a_wait_that_was_cut_short_says_less_than_an_answer() {
        let full = Duration::from_millis(300);
        let cut = full - Duration::from_millis(1);
        assert!(says_less(&StoreError::Timeout(cut), full));
        assert!(says_less(&StoreError::Elsewhere, full));
        assert!(!says_less(&StoreError::Timeout(full), full));
        assert!(!says_less(&StoreError::Redis("LOADING".into()), full));
    }
}
