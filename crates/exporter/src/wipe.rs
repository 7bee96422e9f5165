//! The command `wipe`: begins a new epoch of the store, with every count gone.
//! Registrations, leases and the ids of stored batches stay.

use std::hash::{BuildHasher as _, RandomState};

use anyhow::ensure;
use functional_scaffold_protocol::{
    calls::{Script, is_own_key},
    removal::wipe_call,
};

use crate::{commands::WipeOptions, config::Config, inventory::Inventory, script};

/// Wipes the store.
///
/// # Errors
/// Redis cannot be written, or it was not said that it is meant.
pub async fn wipe(config: &Config, options: &WipeOptions) -> anyhow::Result<()> {
    let mut store = Inventory::open(config).await?;
    let registered = store.registered().await?;
    let keys: Vec<&str> = registered
        .iter()
        .flat_map(|family| family.layouts.iter().map(|layout| layout.key.as_str()))
        .filter(|key| !is_own_key(&store.prefix, key))
        .collect();
    ensure!(
        options.yes,
        "nothing was wiped; --yes wipes the {} families in Redis at {}",
        registered.len(),
        store.redis.address()
    );
    let epoch = RandomState::new().hash_one(0);
    let call = wipe_call(&store.prefix, epoch, keys);
    let foreign = script::call(&mut store.connection, &Script::WIPE, &call).await;
    for key in foreign.map_err(|error| store.redis.failure(&error))? {
        eprintln!("the key {key:?} holds no hash: it is left as it is");
    }
    eprintln!("wiped {} families", registered.len());
    Ok(())
}
