//! Registering the families, once an instance: before its first lease, so that
//! a crash is counted under a name that the exporter knows, or else before its
//! first batch.

use std::time::Duration;

use functional_scaffold_schema::protocol::register_call;
use spin_sdk::wasip3::random::random::get_random_u64;

use crate::{
    clock::{Mark, wait},
    instance::{Instance, Ready},
    metrics::{redis::StoreError, writer::Registration},
    routes,
};

/// Registers the families, unless they are; every wait ends after `limit`.
///
/// # Errors
/// Redis did not answer; the next one who needs it tries again.
pub async fn ensure(instance: &Instance, ready: &Ready, limit: Duration) -> Result<(), StoreError> {
    // How often it looks whether another request is through with it.
    const LOOK: Duration = Duration::from_millis(1);

    let mut deadline = None;
    loop {
        let registration = ready.writer.borrow().registration();
        match registration {
            Registration::Done => return Ok(()),
            Registration::Missing => break,
            Registration::UnderWay => {}
        }
        let deadline = *deadline.get_or_insert_with(|| Mark::now().after(limit));
        if deadline.remaining().is_zero() {
            return Err(StoreError::Timeout(limit));
        }
        wait(LOOK).await;
    }
    let set = |state| ready.writer.borrow_mut().set_registration(state);
    set(Registration::UnderWay);
    let registered = again(instance, ready, limit).await;
    set(match registered {
        Ok(()) => Registration::Done,
        Err(_) => Registration::Missing,
    });
    registered
}

/// Registers the families, whether they are or not; every wait ends after
/// `limit`. It changes nothing where they are, and needs what every write of
/// metrics needs: a Redis that accepts them.
///
/// # Errors
/// Redis did not answer, or refused.
pub async fn again(instance: &Instance, ready: &Ready, limit: Duration) -> Result<(), StoreError> {
    let endpoints = [routes::INVOKE, routes::INVOKE_NAMED];
    let script = &instance.scripts.register;
    let prefix = &ready.config.prefix;
    let epoch = get_random_u64();
    let call = {
        let writer = ready.writer.borrow();
        let zero_cells = writer.zero_cells(&endpoints);
        register_call(prefix, epoch, &writer.families(), &zero_cells)
    };
    let standing = ready.store.call(script, &call, limit).await?;
    let call = {
        let mut writer = ready.writer.borrow_mut();
        let own_layouts = writer.adopt(&standing);
        if own_layouts.is_empty() {
            return Ok(());
        }
        register_call(prefix, epoch, &own_layouts, &writer.zero_cells(&endpoints))
    };
    ready.store.call(script, &call, limit).await?;
    Ok(())
}
