//! The command `wipe`: starts a new epoch, with every count gone. Registrations, leases and
//! the ids of applied batches stay.

use std::collections::BTreeSet;

use anyhow::ensure;
use functional_scaffold_protocol::{calls::Script, escape::escape, removal::wipe_call};

use crate::{
    cli::{Config, WipeOptions},
    commands::stores::{ConnectedStore, RegistryEntry, change_all},
    redis_client::{self, Failure},
    scrape::{registry::family_name, store::addresses},
};

/// Unserved hashes that one call deletes. It blocks Redis for some 10 ms.
const HASHES_PER_CALL: usize = 1000;

/// Wipes every store. All of them get the same epoch.
pub(crate) async fn wipe(config: &Config, options: &WipeOptions) -> anyhow::Result<()> {
    let mut stores = ConnectedStore::all(config).await?;
    let mut selected = Vec::new();
    for store in &stores {
        selected.push(Hashes::select(store).await?);
    }
    let names = selected.iter().flat_map(|hashes| &hashes.names);
    let names: BTreeSet<&String> = names.collect();
    ensure!(
        options.yes,
        "nothing was wiped; --yes wipes the {} families in Redis at {}",
        names.len(),
        addresses(stores.iter().map(|store| &*store.store))
    );
    let epoch = redis_client::random();
    let mut of_store = selected.iter();
    change_all(&mut stores, "wipe", async |store| {
        if let Some(hashes) = of_store.next() {
            hashes.wipe(store, epoch).await?;
        }
        Ok(())
    })
    .await?;
    eprintln!("wiped {} families", names.len());
    Ok(())
}

/// The metric hashes of one store that are wiped.
#[derive(Default)]
struct Hashes {
    /// Names of the families.
    names: BTreeSet<String>,
    /// Keys of the families that readers serve.
    served: BTreeSet<String>,
    /// Keys of the families that readers do not serve: they collide with others, or are too
    /// many.
    unserved: BTreeSet<String>,
}

impl Hashes {
    /// Selects the hashes of all valid registrations, and prints which are left alone.
    async fn select(store: &ConnectedStore) -> Result<Self, Failure> {
        let served = store.families().await?;
        let served = served.iter().flat_map(|family| &family.layouts);
        let served: BTreeSet<_> = served.map(|layout| layout.key.as_str()).collect();
        let mut selected = Self::default();
        for RegistryEntry { field, key } in store.registrations().await? {
            let Some(key) = key else { continue };
            if let Some(why) = store.why_untouchable(&key).await? {
                eprintln!("{}", escape(&format!("{field}: not wiped: {why}")));
                continue;
            }
            selected.names.insert(family_name(&field).to_owned());
            match served.contains(key.as_str()) {
                true => selected.served.insert(key),
                false => selected.unserved.insert(key),
            };
        }
        Ok(selected)
    }

    /// Deletes the hashes. One call deletes all that are served and begins the epoch, so that
    /// no reader sees half of the wipe.
    async fn wipe(&self, store: &mut ConnectedStore, epoch: u64) -> Result<(), Failure> {
        let served: Vec<&String> = self.served.iter().collect();
        let unserved: Vec<&String> = self.unserved.iter().collect();
        for keys in [&served[..]]
            .into_iter()
            .chain(unserved.chunks(HASHES_PER_CALL))
        {
            let keys = keys.iter().map(|key| key.as_str());
            let call = wipe_call(store.prefix(), epoch, keys);
            for key in store.connection.call(&Script::WIPE, &call).await? {
                eprintln!("the key {key:?} does not hold a hash, and was left alone");
            }
        }
        Ok(())
    }
}
