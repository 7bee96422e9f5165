//! Registering the families, once an instance: before its first lease, so that
//! a crash is counted under a name that the exporter knows, or else before its
//! first batch.

use functional_scaffold_protocol::{
    calls::{
        Registration, Script, is_registered_call, is_registered_from_reply, register_call,
        registered_from_reply,
    },
    catalog::Catalog,
};
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

/// The routes whose errors and crashes are borne at 0.
const ENDPOINTS: [&str; 2] = [routes::INVOKE, routes::INVOKE_NAMED];

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
    match known(redis, ready, deadline).await? {
        Some(time) => Ok(time),
        None => again(redis, ready, deadline).await,
    }
}

/// Lease time, if another instance has registered just the same before: which
/// spares Redis and this one most of the work.
async fn known(
    redis: &Redis,
    ready: &Ready,
    deadline: Deadline,
) -> Result<Option<LeaseTime>, StoreError> {
    let script = &Script::IS_REGISTERED;
    let prefix = &ready.config.prefix;
    let registration = registration(ready, &Catalog::new(prefix));
    let call = is_registered_call(prefix, &registration);
    let asked = Mark::now();
    let reply = redis.client.call(script, &call, deadline).await?;
    let millis = is_registered_from_reply(reply).map_err(StoreError::Reply)?;
    let time = millis.map(|millis| LeaseTime::told(millis, asked));
    redis.lease_time.set(time);
    Ok(time)
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
    let script = &Script::REGISTER;
    let prefix = &ready.config.prefix;
    let epoch = get_random_u64();
    let catalog = Catalog::new(prefix);
    let ours = registration(ready, &catalog);
    let call = register_call(prefix, epoch, &ours);
    let asked = Mark::now();
    let reply = redis.client.call(script, &call, deadline).await?;
    let registered = registered_from_reply(&ours, reply).map_err(StoreError::Reply)?;
    let time = LeaseTime::told(registered.lease_time_millis, asked);
    let own_layouts = {
        let mut writer = ready.writer.borrow_mut();
        let families = writer.adopt(&catalog, &registered.standing);
        let named = families
            .iter()
            .map(|(field, family)| (field.as_str(), family));
        (!families.is_empty()).then(|| Registration::new(named, &writer.zero_cells(&ENDPOINTS)))
    };
    if let Some(own_layouts) = own_layouts {
        let call = register_call(prefix, epoch, &own_layouts);
        redis.client.call(script, &call, deadline).await?;
    }
    redis.lease_time.set(Some(time));
    Ok(time)
}

fn registration(ready: &Ready, catalog: &Catalog) -> Registration {
    Registration::of_catalog(catalog, &ready.algorithm.name, &ENDPOINTS)
}
