//! Leases on executions: acknowledged by Redis before an execution begins, so
//! that one which dies with its instance is still counted. An execution never
//! waits longer for its lease than it was given, and runs all the same.

use functional_scaffold_protocol::{calls::lease_command, lease::EncodedLease};
use serde_json::json;

use crate::{
    clock::{Deadline, Mark},
    instance::Ready,
    log::{self, Level},
    metrics::sinks::{
        StoreError,
        redis::{Redis, register},
    },
};

/// Takes a lease for an execution on behalf of a request to `endpoint`.
///
/// None if Redis did not answer the last time, or does not register the families.
/// A lease that was not acknowledged in time is given all the same: it may still
/// land, and so the batch with the result has to close it.
pub async fn take(redis: &Redis, ready: &Ready, endpoint: &'static str) -> Option<EncodedLease> {
    let config = &ready.config;
    if !ready.writer.borrow().waits_for_leases() {
        ready.writer.borrow_mut().record_unleased();
        return None;
    }
    let deadline = Deadline::after(config.lease_timeout);
    let time = match register::ensure(redis, ready, deadline).await {
        Ok(time) => time,
        Err(error) => {
            give_up(ready, &error);
            return None;
        }
    };
    let limit = u64::try_from(config.execution_limit.as_millis()).unwrap_or(u64::MAX);
    let lease = ready.writer.borrow_mut().lease(endpoint, limit);
    let command = lease_command(&config.prefix, &lease, time.at(Mark::now()));
    if let Err(error) = redis.client.command(command, deadline).await {
        give_up(ready, &error);
    }
    Some(lease)
}

fn give_up(ready: &Ready, error: &StoreError) {
    let reason = error.to_string();
    let mut writer = ready.writer.borrow_mut();
    writer.record_unleased();
    // A line for each execution, as it has one for its request; one that tells
    // of a new state stands out among those who waited at the same time.
    let known = !writer.waits_for_leases() || writer.lease_trouble() == Some(&reason);
    let level = if known { Level::Info } else { Level::Warn };
    log::write(level, "lease_given_up", json!({ "reason": reason }));
    writer.give_up_leases(reason);
}
