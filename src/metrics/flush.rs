//! When increments are written, retried, and given to the log. One flush runs
//! in an instance at a time, as work that goes on after a response.

use std::{rc::Rc, time::Duration};

use functional_scaffold_schema::{
    batch::SentBatch,
    protocol::{Applied, applied_from_reply, apply_call},
};
use serde::Serialize;
use serde_json::json;
use spin_sdk::wasip3::random::random::get_random_u64;

use crate::{
    clock::{Mark, unix_seconds, wait},
    instance::{Instance, Ready},
    log::{self, Level},
    metrics::{redis::StoreError, register, writer::Ticket},
};

/// How long an instance tries to store what it has. Spin cannot use an
/// instance that lingers, and holds a few hundred of them: with flushes that
/// wait for ever, a stopped Redis takes the whole application down.
const LINGER: Duration = Duration::from_secs(1);

/// The pause before a failed write is tried again.
const BACKOFF: Duration = Duration::from_millis(50);

/// Writes what is recorded until nothing is left.
pub async fn run(instance: Rc<Instance>, ready: Rc<Ready>) {
    loop {
        // Requests that finish meanwhile go into the same batch.
        wait(ready.config.flush_interval).await;
        flush(&instance, &ready).await;
        if ready.writer.borrow_mut().end_flushing() {
            return;
        }
    }
}

/// Waits until the batch of a request is answered for, or `limit` has passed.
/// Meanwhile it writes itself, if nobody else does.
pub async fn answered(instance: &Rc<Instance>, ready: &Rc<Ready>, ticket: Ticket, limit: Duration) {
    // How often it looks whether another request's flush is through: waking
    // across requests would cost every request more.
    const LOOK: Duration = Duration::from_millis(1);

    let deadline = Mark::now().after(limit);
    loop {
        if ready.writer.borrow().is_answered(ticket) || deadline.remaining().is_zero() {
            return;
        }
        let flushing = !ready.writer.borrow_mut().begin_flushing();
        if flushing {
            wait(LOOK).await;
            continue;
        }
        if let Err(error) = attempt(instance, ready).await {
            note_failure(ready, &error);
        }
        if !ready.writer.borrow_mut().end_flushing() {
            // What is left is written after this response.
            spin_sdk::wit_bindgen::spawn(run(Rc::clone(instance), Rc::clone(ready)));
        }
    }
}

/// Stores one batch, or gives everything to the log.
async fn flush(instance: &Instance, ready: &Ready) {
    let deadline = Mark::now().after(LINGER);
    loop {
        match attempt(instance, ready).await {
            Ok(()) => return,
            Err(error) => {
                note_failure(ready, &error);
                let exhausted = deadline.remaining() <= BACKOFF;
                if exhausted || matches!(error, StoreError::Denied(_)) {
                    give_up(ready, &error);
                    return;
                }
            }
        }
        wait(BACKOFF).await;
    }
}

async fn attempt(instance: &Instance, ready: &Ready) -> Result<(), StoreError> {
    let limit = ready.config.redis.timeout;
    register::ensure(instance, ready, limit).await?;
    loop {
        let call = {
            let mut writer = ready.writer.borrow_mut();
            let keys = writer.crash_keys().map(str::to_owned);
            let Some(batch) = writer.freeze() else {
                return Ok(());
            };
            apply_call(
                &ready.config.prefix,
                batch,
                &keys.each_ref().map(String::as_str),
            )
        };
        let script = &instance.scripts.apply;
        let reply = ready.store.call(script, &call, limit).await?;
        let refused = match applied_from_reply(reply).map_err(StoreError::Reply)? {
            Applied::Late(leases) => {
                ready.writer.borrow_mut().remove_late(&leases);
                log::write(Level::Warn, "results_late", json!({ "leases": leases }));
                continue;
            }
            Applied::Duplicate => {
                ready.writer.borrow_mut().acknowledge(true);
                Vec::new()
            }
            Applied::Stored { refused } => {
                ready.writer.borrow_mut().acknowledge(false);
                refused
            }
        };
        let arguments = call.arguments.len();
        log::write(Level::Debug, "flushed", json!({ "arguments": arguments }));
        if !refused.is_empty() {
            // Every line is a loss; a key that goes on refusing is no news.
            let level = match ready.writer.borrow_mut().note_refused(&refused) {
                true => Level::Error,
                false => Level::Info,
            };
            log::write(level, "increments_refused", json!({ "refused": refused }));
        }
        return Ok(());
    }
}

/// Logs what is the matter when it begins or changes, not at every attempt.
fn note_failure(ready: &Ready, error: &StoreError) {
    let reason = error.to_string();
    let level = match ready.writer.borrow_mut().record_failure(&reason) {
        true => Level::Warn,
        false => Level::Debug,
    };
    log::write(level, "flush_failed", json!({ "reason": reason }));
}

fn give_up(ready: &Ready, error: &StoreError) {
    #[derive(Serialize)]
    struct Fields<'a> {
        reason: String,
        #[serde(flatten)]
        batch: &'a SentBatch,
    }
    let given_up = ready
        .writer
        .borrow_mut()
        .give_up([get_random_u64(), get_random_u64()], unix_seconds());
    for batch in &given_up {
        let fields = Fields {
            reason: error.to_string(),
            batch,
        };
        log::write(Level::Error, "batch_not_stored", fields);
    }
}
