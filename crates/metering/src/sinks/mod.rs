//! Where batches are stored. All differences between the schemes are here.
//!
//! # Layout
//! - [`redis`]: increments, applied once under the batch's id
//! - [`pushgateway`]: this instance's totals, as one group
//! - [`pull`]: this instance's totals, kept until they are scraped
//! - [`totals`]: what the last two share
//! - [`error`], [`redis_error`]: why a batch is not stored

use std::{cell::RefCell, time::Duration};

use functional_scaffold_protocol::{
    batch::{LoggedBatch, SentBatch},
    catalog::RouteLabels,
    custom::CustomWrites,
    lease::EncodedLease,
};

use crate::{
    batcher::Batcher,
    config::{Backend, Config, Shard},
    time::Deadline,
};

pub(crate) mod error;
pub(crate) mod pull;
mod pushgateway;
mod redis;
mod redis_error;
mod totals;

use error::{StoreError, Stored, Unacknowledged};
use pull::PullSink;
use pushgateway::PushgatewaySink;
use redis::RedisSink;

/// The scheme of an instance.
pub(crate) enum Sink {
    /// Batches go to Redis.
    Redis(Box<RedisSink>),
    /// Totals go to a Pushgateway.
    Pushgateway(PushgatewaySink),
    /// Totals are kept until they are scraped.
    Pull(PullSink),
    /// Nothing is counted.
    Off,
}

impl Sink {
    /// Makes the configured sink without connecting.
    pub(crate) fn new(config: &Config, shard: &Shard) -> Self {
        match config.backend {
            Backend::Redis => Self::Redis(Box::new(RedisSink::new(config, shard))),
            Backend::Pushgateway => {
                Self::Pushgateway(PushgatewaySink::new(config.pushgateway.clone()))
            }
            Backend::Pull => Self::Pull(PullSink::default()),
            Backend::Off => Self::Off,
        }
    }

    /// Whether anything is counted.
    pub(crate) fn counts(&self) -> bool {
        !matches!(self, Self::Off)
    }

    /// Whether batches must be flushed after the response. In the pull scheme, a
    /// scrape stores them.
    pub(crate) fn needs_flush(&self) -> bool {
        matches!(self, Self::Redis(_) | Self::Pushgateway(_))
    }

    /// The longest wait for one reply.
    pub(crate) fn timeout(&self) -> Duration {
        match self {
            Self::Redis(redis) => redis.timeout(),
            Self::Pushgateway(pushgateway) => pushgateway.timeout(),
            Self::Pull(_) | Self::Off => Duration::ZERO,
        }
    }

    /// Takes a lease for an execution, if the scheme and its durability have
    /// leases.
    pub(crate) async fn lease(
        &self,
        batcher: &RefCell<Batcher>,
        route: RouteLabels<'static>,
        request_id: impl FnOnce() -> String,
    ) -> Result<Option<EncodedLease>, Unacknowledged> {
        match self {
            Self::Redis(redis) => redis.lease(batcher, route, request_id).await,
            Self::Pushgateway(_) | Self::Pull(_) | Self::Off => Ok(None),
        }
    }

    /// Stores the next batch: the frozen one, or else the pending one, which it
    /// freezes. Returns `None` if there is neither. Only one task at a time may
    /// call this.
    ///
    /// After an error the batch may or may not be stored; storing it again is
    /// safe.
    pub(crate) async fn store(
        &self,
        batcher: &RefCell<Batcher>,
        deadline: Deadline,
    ) -> Result<Option<Stored>, StoreError> {
        match self {
            Self::Redis(redis) => redis.store(batcher, deadline).await,
            Self::Pushgateway(pushgateway) => pushgateway.store(batcher, deadline).await,
            Self::Pull(pull) => Ok(pull.store(&mut batcher.borrow_mut())),
            Self::Off => Ok(None),
        }
    }

    /// Converts a batch that was not stored to the form in which it is logged.
    pub(crate) fn logged(&self, batch: SentBatch, batcher: &Batcher) -> LoggedBatch {
        match self {
            Self::Pushgateway(pushgateway) => {
                let (group, totals) = pushgateway.group_with(&batch, batcher);
                let mut custom = CustomWrites {
                    gauges: totals.gauges,
                    families: String::new(),
                    ..batch.custom
                };
                batcher.add_families(0, &totals.counts, &mut custom);
                LoggedBatch {
                    batch: SentBatch {
                        id: batch.id,
                        frozen_ms: None,
                        increments: totals.counts,
                        leased: Vec::new(),
                        custom,
                    },
                    group: Some(group),
                    shard: None,
                }
            }
            Self::Redis(redis) => LoggedBatch {
                batch,
                group: None,
                shard: redis.shard(),
            },
            Self::Pull(_) | Self::Off => LoggedBatch {
                batch,
                group: None,
                shard: None,
            },
        }
    }
}
