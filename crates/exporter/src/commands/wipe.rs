//! The command `wipe`: starts a new epoch, with every count gone. Registrations, leases and
//! the ids of applied batches stay.

use std::collections::BTreeSet;

use anyhow::ensure;
use functional_scaffold_protocol::{
    calls::{Script, is_own_key},
    removal::wipe_call,
};

use crate::{
    cli::{Config, WipeOptions},
    commands::stores::{ConnectedStore, change_all},
    redis_client,
    scrape::store::addresses,
};

/// Wipes every store. All of them get the same epoch.
pub(crate) async fn wipe(config: &Config, options: &WipeOptions) -> anyhow::Result<()> {
    let mut stores = ConnectedStore::all(config).await?;
    let mut names = BTreeSet::new();
    for store in &stores {
        let families = store.families().await?;
        names.extend(families.into_iter().map(|family| family.name));
    }
    ensure!(
        options.yes,
        "nothing was wiped; --yes wipes the {} families in Redis at {}",
        names.len(),
        addresses(stores.iter().map(|store| &*store.store))
    );
    let epoch = redis_client::random();
    change_all(&mut stores, "wipe", async |store| {
        let families = store.families().await?;
        let prefix = store.prefix();
        let keys = families
            .iter()
            .flat_map(|family| family.layouts.iter().map(|layout| layout.key.as_str()))
            .filter(|key| !is_own_key(prefix, key));
        let call = wipe_call(prefix, epoch, keys);
        for key in store.connection.call(&Script::WIPE, &call).await? {
            eprintln!("the key {key:?} does not hold a hash, and was left alone");
        }
        Ok(())
    })
    .await?;
    eprintln!("wiped {} families", names.len());
    Ok(())
}
