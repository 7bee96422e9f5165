//! Registering the families, once an instance: before its first lease, so that
//! a crash is counted under a name that the exporter knows, or else before its
//! first batch.

use functional_scaffold_schema::protocol::{register_call, registered_from_reply};
use spin_sdk::wasip3::random::random::get_random_u64;

use crate::{
    clock::{Deadline, Mark},
    instance::Ready,
    metrics::sinks::{
        StoreError,
        redis::{Redis, lease_time::LeaseTime},
    },
    routes,
};

/// Registers the families, unless they are. Who waits for another request to do
/// so shares its success or failure: in an outage each wait would follow on the
/// one before it otherwise. Gives lease time.
///
/// # Errors
/// Redis did not answer; the next one who needs it tries again.
pub async fn ensure(
    redis: &Redis,
    ready: &Ready,
    deadline: Deadline,
) -> Result<LeaseTime, StoreError> {
    if let Some(time) = redis.lease_time.get() {
        return Ok(time);
    }
    let Some(_flight) = redis.registering.begin() else {
        let ended = deadline.bounds(redis.registering.ended()).await;
        ended.ok_or(StoreError::Timeout(deadline.limit()))?;
        return redis.lease_time.get().ok_or(StoreError::Elsewhere);
    };
    again(redis, ready, deadline).await
}

/// Registers the families, whether they are or not. It changes nothing where
/// they are, and needs what every write of metrics needs: a Redis that accepts
/// them.
///
/// # Errors
/// Redis did not answer, or refused.
pub async fn again(
    redis: &Redis,
    ready: &Ready,
    deadline: Deadline,
) -> Result<LeaseTime, StoreError> {
    let endpoints = [routes::INVOKE, routes::INVOKE_NAMED];
    let script = &redis.scripts.register;
    let prefix = &ready.config.prefix;
    let epoch = get_random_u64();
    let call = {
        let writer = ready.writer.borrow();
        let zero_cells = writer.zero_cells(&endpoints);
        register_call(prefix, epoch, &writer.families(), &zero_cells)
    };
    let asked = Mark::now();
    let reply = redis.client.call(script, &call, deadline).await?;
    let registered = registered_from_reply(reply).map_err(StoreError::Reply)?;
    let time = LeaseTime::told(registered.lease_time_millis, asked);
    let call = {
        let mut writer = ready.writer.borrow_mut();
        let own_layouts = writer.adopt(&registered.standing);
        (!own_layouts.is_empty())
            .then(|| register_call(prefix, epoch, &own_layouts, &writer.zero_cells(&endpoints)))
    };
    if let Some(call) = call {
        redis.client.call(script, &call, deadline).await?;
    }
    redis.lease_time.set(Some(time));
    Ok(time)
}
