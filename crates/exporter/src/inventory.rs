//! What is in a store, for the commands that look after it: registrations, and
//! the fields of each series. Owns the connection; changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use functional_scaffold_protocol::{
    calls::{families_key, lost_counts_key},
    cell::decode_field,
    family::Family,
};
use redis::aio::MultiplexedConnection;

use crate::{
    config::Config,
    connection::Redis,
    offences::Offences,
    registry::{self, Registered},
    scan::{ScanError, Scanner},
    selector::Selector,
};

/// The fields of series by label set.
pub type FieldsOfSeries = BTreeMap<String, BTreeSet<String>>;

/// A store that is looked after.
pub struct Inventory {
    /// Classes and words its errors.
    pub redis: Redis,
    /// The one connection of a command.
    pub connection: MultiplexedConnection,
    /// What every key begins with.
    pub prefix: String,
    scan_count: u32,
}

impl Inventory {
    /// Connects to the store.
    ///
    /// # Errors
    /// Redis cannot be reached.
    pub async fn open(config: &Config) -> anyhow::Result<Self> {
        let redis = Redis::new(config).context("unusable address of Redis")?;
        let lease = redis.lease().await;
        let lease = lease.with_context(|| format!("cannot reach Redis ({})", redis.address()))?;
        Ok(Self {
            connection: lease.connection,
            redis,
            prefix: config.prefix.clone(),
            scan_count: config.scan_count,
        })
    }

    /// Every registration, sound or not: field and JSON, in order of the fields.
    ///
    /// # Errors
    /// Redis cannot be read.
    pub async fn registrations(&self) -> anyhow::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut all = BTreeMap::new();
        let scanner = Scanner::new(self.connection.clone(), self.scan_count);
        let key = families_key(&self.prefix);
        let scanned = scanner.scan(&key, |field, json| {
            all.insert(field.to_vec(), json.to_vec());
        });
        scanned.await.map_err(|error| self.failed(error))?;
        Ok(all.into_iter().collect())
    }

    /// The families that are served.
    ///
    /// # Errors
    /// Redis cannot be read.
    pub async fn registered(&self) -> anyhow::Result<Vec<Registered>> {
        let registrations = self.registrations().await?;
        // What is wrong with the others, a scrape says.
        Ok(registry::families(registrations, &mut Offences::default()))
    }

    /// The fields of the series of a hash that any of the selectors selects, or
    /// of all series if there are no selectors. Also of those that Redis lost and
    /// that only their offsets are left of: they are served.
    ///
    /// # Errors
    /// Redis cannot be read.
    pub async fn fields(
        &self,
        layout: &Family,
        selectors: &[&Selector],
    ) -> anyhow::Result<FieldsOfSeries> {
        let mut series = FieldsOfSeries::new();
        let selected = |labels: &str| {
            selectors.is_empty() || selectors.iter().any(|selector| selector.matches(labels))
        };
        let scanner = Scanner::new(self.connection.clone(), self.scan_count);
        for key in [&layout.key, &lost_counts_key(&self.prefix, &layout.key)] {
            let scanned = scanner.scan(key, |field, _value| {
                let Ok(cell) = decode_field(layout, field) else {
                    return;
                };
                let labels = cell.labels();
                if selected(labels) {
                    let fields = series.entry(labels.to_owned()).or_default();
                    fields.insert(String::from_utf8_lossy(field).into_owned());
                }
            });
            scanned.await.map_err(|error| self.failed(error))?;
        }
        Ok(series)
    }

    fn failed(&self, error: ScanError) -> anyhow::Error {
        match error {
            ScanError::Redis(error) => self.redis.failure(&error).into(),
            other => other.into(),
        }
    }
}
