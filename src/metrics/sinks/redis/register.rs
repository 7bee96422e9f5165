//! Registering the families, once an instance: before its first lease, so that
//! a crash is counted under a name that the exporter knows, or else before its
//! first batch.

use functional_scaffold_schema::protocol::register_call;
use spin_sdk::wasip3::random::random::get_random_u64;

use crate::{
    clock::Deadline,
    instance::Ready,
    metrics::sinks::{StoreError, redis::Redis},
    routes,
};

/// Registers the families, unless they are. Who waits for another request to do
/// so shares its success or failure: in an outage each wait would follow on the
/// one before it otherwise.
///
/// # Errors
/// Redis did not answer; the next one who needs it tries again.
pub async fn ensure(redis: &Redis, ready: &Ready, deadline: Deadline) -> Result<(), StoreError> {
    if ready.writer.borrow().is_registered() {
        return Ok(());
    }
    let Some(_flight) = redis.registering.begin() else {
        let ended = deadline.bounds(redis.registering.ended()).await;
        ended.ok_or(StoreError::Timeout(deadline.limit()))?;
        let registered = ready.writer.borrow().is_registered();
        return registered.then_some(()).ok_or(StoreError::Elsewhere);
    };
    again(redis, ready, deadline).await?;
    ready.writer.borrow_mut().set_registered();
    Ok(())
}

/// Registers the families, whether they are or not. It changes nothing where
/// they are, and needs what every write of metrics needs: a Redis that accepts
/// them.
///
/// # Errors
/// Redis did not answer, or refused.
pub async fn again(redis: &Redis, ready: &Ready, deadline: Deadline) -> Result<(), StoreError> {
    let endpoints = [routes::INVOKE, routes::INVOKE_NAMED];
    let script = &redis.scripts.register;
    let prefix = &ready.config.prefix;
    let epoch = get_random_u64();
    let call = {
        let writer = ready.writer.borrow();
        let zero_cells = writer.zero_cells(&endpoints);
        register_call(prefix, epoch, &writer.families(), &zero_cells)
    };
    let standing = redis.client.call(script, &call, deadline).await?;
    let call = {
        let mut writer = ready.writer.borrow_mut();
        let own_layouts = writer.adopt(&standing);
        if own_layouts.is_empty() {
            return Ok(());
        }
        register_call(prefix, epoch, &own_layouts, &writer.zero_cells(&endpoints))
    };
    redis.client.call(script, &call, deadline).await?;
    Ok(())
}
