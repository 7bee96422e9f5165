//! The stores that a command reads and changes.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use functional_scaffold_protocol::{
    calls::{CLOSED, Command, close_command, is_own_key, open_command, state_key},
    family::Family,
};

use crate::{
    cli::Config,
    redis_client::{Connection, Failure},
    scrape::{
        decode_errors::DecodeErrors,
        limits::MAX_REGISTRATIONS,
        registry::{RegisteredFamily, read_registrations, served_families},
        store::Store,
    },
};

/// A store with a connection to it.
pub(crate) struct ConnectedStore {
    pub(crate) store: Arc<Store>,
    pub(crate) connection: Connection,
    /// The prefixes of all stores, which may be on the same Redis.
    prefixes: Arc<[String]>,
}

/// A registration, valid or not.
pub(crate) struct RegistryEntry {
    /// The field, in the hash of families.
    pub(crate) field: String,
    /// The key of the family's hash; `None` if the registration is invalid.
    pub(crate) key: Option<String>,
}

impl ConnectedStore {
    /// Connects to every store.
    pub(crate) async fn all(config: &Config) -> anyhow::Result<Vec<Self>> {
        let stores = Store::all(config, &Arc::default())?;
        let prefixes = stores.iter().map(|store| store.options.prefix.clone());
        let prefixes: Arc<[String]> = prefixes.collect();
        let mut open = Vec::new();
        for store in stores {
            let unreachable = || format!("cannot reach Redis ({})", store.redis.address());
            let connection = Self::connect(&store).await.with_context(unreachable)?;
            open.push(Self {
                store,
                connection,
                prefixes: Arc::clone(&prefixes),
            });
        }
        Ok(open)
    }

    /// Connects to the node that has the keys.
    async fn connect(store: &Store) -> Result<Connection, Failure> {
        let redis = &store.redis;
        let mut key = state_key(&store.options.prefix);
        let finding = redis.run(redis.round_trip_limit(), &mut key, |key, mut connection| {
            Box::pin(async move {
                let mut exists = redis::cmd("HGET");
                exists.arg(&*key).arg(CLOSED);
                match connection.query::<Option<Vec<u8>>>(&exists).await {
                    // The command will show which of its commands Redis refuses.
                    Err(failure) if failure.code().is_some_and(|code| code != "MOVED") => {
                        Ok(connection)
                    }
                    found => found.map(|_closed| connection),
                }
            })
        });
        finding.await
    }

    pub(crate) fn prefix(&self) -> &str {
        &self.store.options.prefix
    }

    /// The families that are served. Scrapes report why others are not.
    pub(crate) async fn families(&self) -> Result<Vec<RegisteredFamily>, Failure> {
        let errors = &mut DecodeErrors::default();
        let options = &self.store.options;
        let registrations =
            read_registrations(&self.connection, options, MAX_REGISTRATIONS, errors).await?;
        Ok(served_families(registrations, errors))
    }

    /// Every registration, however many there are, whether or not it is served.
    pub(crate) async fn registrations(&self) -> Result<Vec<RegistryEntry>, Failure> {
        let errors = &mut DecodeErrors::default();
        let options = &self.store.options;
        let registrations =
            read_registrations(&self.connection, options, usize::MAX, errors).await?;
        let registrations = registrations.into_iter().filter_map(|(field, json)| {
            let field = String::from_utf8(field).ok()?;
            let key = Family::decode(&field, &json).ok().map(|family| family.key);
            Some(RegistryEntry { field, key })
        });
        Ok(registrations.collect())
    }

    /// Why the hash of a family has to be left alone; `None` if it may be changed.
    ///
    /// It has to be known before shards are closed: a call with such a key fails whenever it
    /// is repeated, and the shards would stay closed.
    pub(crate) async fn why_untouchable(&self, key: &str) -> Result<Option<String>, Failure> {
        if self.prefixes.iter().any(|prefix| is_own_key(prefix, key)) {
            return Ok(Some(format!("the key {key:?} is reserved")));
        }
        // In a cluster, the hash tag of the prefix puts such a key into the store's slot.
        if key.starts_with(self.prefix()) {
            return Ok(None);
        }
        // Redis checks the keys of a script before it runs it.
        let mut command = redis::cmd("EVAL");
        command.arg("return 0").arg(2);
        command.arg(state_key(self.prefix())).arg(key);
        let Err(failure) = self.connection.clone().query::<i64>(&command).await else {
            return Ok(None);
        };
        match failure.code() {
            Some("CROSSSLOT") => Ok(Some(format!(
                "the key {key:?} is in another slot of the Redis Cluster"
            ))),
            Some("NOPERM") => Ok(Some(format!(
                "the key {key:?} may not be changed by this Redis user"
            ))),
            _ => Err(failure),
        }
    }

    /// The command that has closed the store to readers. Without shards, none ever has.
    pub(crate) async fn closed_by(&mut self) -> Result<Option<String>, Failure> {
        if self.store.shard.is_none() {
            return Ok(None);
        }
        let mut command = redis::cmd("HGET");
        command.arg(state_key(self.prefix())).arg(CLOSED);
        let closed: Option<Vec<u8>> = self.connection.query(&command).await?;
        Ok(closed.map(|by| String::from_utf8_lossy(&by).into_owned()))
    }

    async fn run(&mut self, command: &Command) -> Result<(), Failure> {
        let mut words = redis::cmd(command.name);
        words.arg(&command.arguments);
        self.connection.query(&words).await
    }
}

/// Changes every store. Of several, each is closed to readers before the first is changed,
/// and opened after the last, so that no reader adds up shards from before and after.
/// `command` names the command with its arguments.
///
/// If a change fails, the shards stay closed: running the command again completes it, and
/// no other can run before.
pub(crate) async fn change_all(
    stores: &mut [ConnectedStore],
    command: &str,
    mut change: impl AsyncFnMut(&mut ConnectedStore) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let is_sharded = stores.len() > 1;
    if is_sharded {
        close_all(stores, command).await?;
    }
    for store in &mut *stores {
        change(store).await.with_context(|| match is_sharded {
            true => format!(
                "{} could not be changed; nothing is served until the same command succeeds",
                store.store.name()
            ),
            false => format!(
                "Redis ({}) could not be changed",
                store.store.redis.address()
            ),
        })?;
    }
    if is_sharded {
        for store in &mut *stores {
            let command = open_command(store.prefix());
            store.run(&command).await.with_context(|| {
                format!(
                    "everything is changed, but {} is still closed to readers: run the same command again",
                    store.store.name()
                )
            })?;
        }
    }
    Ok(())
}

/// Closes every shard. If one cannot be closed, tries to open those before it again.
async fn close_all(stores: &mut [ConnectedStore], command: &str) -> anyhow::Result<()> {
    for store in &mut *stores {
        let by = store.closed_by().await?;
        if let Some(by) = by.filter(|by| by != command) {
            bail!(
                "`{by}` was interrupted, or is running: it has to be completed first, by running it again"
            );
        }
    }
    for number in 0..stores.len() {
        let command = close_command(stores[number].prefix(), command);
        let Err(failure) = stores[number].run(&command).await else {
            continue;
        };
        for store in &mut stores[..number] {
            let command = open_command(store.prefix());
            // The error below is shown in any case.
            let _ = store.run(&command).await;
        }
        let name = stores[number].store.name();
        return Err(failure).with_context(|| {
            format!("nothing was changed, but {name} may be closed to readers; if it is, run the same command again")
        });
    }
    Ok(())
}
