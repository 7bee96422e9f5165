//! When increments are written, retried, and given to the log.

use std::{rc::Rc, time::Duration};

use serde::Serialize;
use serde_json::json;
use spin_sdk::wasip3::random::random::get_random_u64;

use crate::{
    clock::{Deadline, unix_seconds, wait},
    instance::Ready,
    log::{self, Level},
    metrics::{
        sinks::{Logged, StoreError, Stored},
        writer::Ticket,
    },
};

/// How long an instance tries to store what it has. Spin cannot use an
/// instance that lingers, and holds a few hundred of them: with flushes that
/// wait for ever, a stopped Redis takes the whole application down.
const LINGER: Duration = Duration::from_secs(1);

/// The pause before a failed write is tried again.
const BACKOFF: Duration = Duration::from_millis(50);

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
    let mut left = LINGER;
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
        left = left.saturating_sub(timeout - deadline.remaining() + BACKOFF);
        let exhausted = left.is_zero();
        if exhausted || matches!(error, StoreError::Denied(_)) {
            give_up(ready, &error);
            return;
        }
        drop(flight);
        wait(BACKOFF).await;
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
        log::write(level, "increments_refused", json!({ "refused": refused }));
    }
    Ok(())
}

fn give_up(ready: &Ready, error: &StoreError) {
    #[derive(Serialize)]
    struct Fields {
        reason: String,
        #[serde(flatten)]
        logged: Logged,
    }
    let given_up = ready
        .writer
        .borrow_mut()
        .give_up([get_random_u64(), get_random_u64()], unix_seconds());
    for batch in given_up {
        let fields = Fields {
            reason: error.to_string(),
            logged: ready.sink.give_up(ready, batch),
        };
        log::write(Level::Error, "batch_not_stored", fields);
    }
}
