//! The stores that the exporter reads: one, or one for each shard.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::{
    cli::Config,
    redis_client::RedisClient,
    scrape::{leases::Settler, scan::ReadOptions, self_metrics::SelfMetrics},
};

/// One store, and how it is read.
pub(crate) struct Store {
    /// The number of the shard; `None` without shards.
    pub(crate) shard: Option<u32>,
    pub(crate) redis: RedisClient,
    pub(crate) options: ReadOptions,
    pub(crate) settler: Settler,
}

impl Store {
    /// Every store of a configuration. Connects on first use.
    pub(crate) fn all(
        config: &Config,
        metrics: &Arc<SelfMetrics>,
    ) -> anyhow::Result<Vec<Arc<Self>>> {
        let stores = config.stores.iter().map(|store| {
            let redis = RedisClient::new(config, store).context("unusable address of Redis")?;
            let options = ReadOptions::new(config, store);
            Ok(Arc::new(Self {
                shard: store.shard,
                redis,
                settler: Settler::new(options.clone(), Arc::clone(metrics)),
                options,
            }))
        });
        stores.collect()
    }

    /// Settles expired leases at an interval, forever.
    pub(crate) async fn settle_loop(self: Arc<Self>, interval: Duration) {
        let mut ticks = interval_at(Instant::now() + interval, interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.settler.settle_alone(&self.redis).await;
        }
    }

    /// The name in texts; empty without shards.
    pub(crate) fn name(&self) -> String {
        match self.shard {
            Some(shard) => format!("shard {shard}"),
            None => String::new(),
        }
    }
}

/// Where stores are, without credentials.
pub(crate) fn addresses<'a>(stores: impl Iterator<Item = &'a Store>) -> String {
    let mut addresses: Vec<_> = stores.map(|store| store.redis.address()).collect();
    addresses.dedup();
    addresses.join("; ")
}
