//! The command `wipe`: starts a new epoch of the store, with every count gone.
//! Registrations, leases and the ids of applied batches stay.

use anyhow::ensure;
use functional_scaffold_protocol::{
    calls::{Script, is_own_key},
    removal::wipe_call,
};

use crate::{
    cli::{Config, WipeOptions},
    commands::series::Store,
    redis_client,
};

/// Wipes the store.
pub(crate) async fn wipe(config: &Config, options: &WipeOptions) -> anyhow::Result<()> {
    let mut store = Store::open(config).await?;
    let families = store.families().await?;
    ensure!(
        options.yes,
        "nothing was wiped; --yes wipes the {} families in Redis at {}",
        families.len(),
        store.redis.address()
    );
    let prefix = &config.prefix;
    let keys = families
        .iter()
        .flat_map(|family| family.layouts.iter().map(|layout| layout.key.as_str()))
        .filter(|key| !is_own_key(prefix, key));
    let call = wipe_call(prefix, redis_client::random(), keys);
    for key in store.connection.call(&Script::WIPE, &call).await? {
        eprintln!("the key {key:?} does not hold a hash, and was left alone");
    }
    eprintln!("wiped {} families", families.len());
    Ok(())
}
