//! When increments are written, retried, and given to the log. One flush runs
//! in an instance at a time, as work that goes on after a response.

use std::{rc::Rc, time::Duration};

use functional_scaffold_schema::{
    batch::LoggedBatch,
    protocol::{Script, applied_from_reply, apply_call, register_call},
};
use serde::Serialize;
use serde_json::json;
use spin_sdk::wasip3::random::random::get_random_u64;

use crate::{
    clock::{Mark, unix_seconds, wait},
    instance::{Instance, Ready},
    log::{self, Level},
    metrics::redis::StoreError,
    routes,
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

/// Stores one batch, or gives everything to the log.
async fn flush(instance: &Instance, ready: &Ready) {
    let deadline = Mark::now().after(LINGER);
    let script = &instance.apply_script;
    loop {
        match attempt(ready, script).await {
            Ok(()) => return,
            Err(error) => {
                let exhausted = deadline.remaining() <= BACKOFF;
                if exhausted || matches!(error, StoreError::Denied(_)) {
                    give_up(ready, &error);
                    return;
                }
                log::write(
                    Level::Debug,
                    "flush_failed",
                    json!({ "reason": error.to_string() }),
                );
            }
        }
        wait(BACKOFF).await;
    }
}

async fn attempt(ready: &Ready, script: &Script) -> Result<(), StoreError> {
    register(ready).await?;
    let prefix = &ready.config.prefix;
    let call = {
        let mut writer = ready.writer.borrow_mut();
        let Some(LoggedBatch { id, increments }) = writer.freeze() else {
            return Ok(());
        };
        apply_call(prefix, id, increments)
    };
    let reply = ready.store.call(script, &call).await?;
    let applied = applied_from_reply(reply).map_err(StoreError::Reply)?;
    ready.writer.borrow_mut().acknowledge();
    log::write(
        Level::Debug,
        "flushed",
        json!({ "arguments": call.arguments.len(), "duplicate": applied.duplicate }),
    );
    if !applied.refused.is_empty() {
        log::write(
            Level::Error,
            "increments_refused",
            json!({ "refused": applied.refused }),
        );
    }
    Ok(())
}

/// Registers the families before the first write.
async fn register(ready: &Ready) -> Result<(), StoreError> {
    let families = ready.writer.borrow().unregistered();
    if families.is_empty() {
        return Ok(());
    }
    let endpoints = [routes::INVOKE, routes::INVOKE_NAMED];
    let script = Script::register();
    let prefix = &ready.config.prefix;
    let call = register_call(prefix, &families, &[]);
    let standing = ready.store.call(&script, &call).await?;
    let (own_layouts, zero_cells) = {
        let mut writer = ready.writer.borrow_mut();
        let own_layouts = writer.adopt(&standing);
        let zero_cells = writer.zero_cells(&ready.algorithm.name, &endpoints);
        (own_layouts, zero_cells)
    };
    let call = register_call(prefix, &own_layouts, &zero_cells);
    ready.store.call(&script, &call).await?;
    ready.writer.borrow_mut().set_registered();
    Ok(())
}

fn give_up(ready: &Ready, error: &StoreError) {
    #[derive(Serialize)]
    struct Fields<'a> {
        reason: String,
        #[serde(flatten)]
        batch: &'a LoggedBatch,
    }
    let given_up = ready
        .writer
        .borrow_mut()
        .give_up(get_random_u64(), unix_seconds());
    for batch in &given_up {
        let fields = Fields {
            reason: error.to_string(),
            batch,
        };
        log::write(Level::Error, "batch_not_stored", fields);
    }
}
