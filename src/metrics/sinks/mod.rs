//! Where batches are stored, one file or folder a scheme. Everything in which
//! the schemes differ is here; when a batch is written, tried again and given
//! up is [`super::flush`]'s for all of them.
//!
//! # Layout
//! - [`redis`]: increments, applied once under the batch's id
//! - [`pushgateway`]: this instance's totals, as a group of its own
//! - [`pull`]: this instance's totals, kept until somebody asks
//! - [`totals`]: what the last two keep

use std::time::Duration;

use functional_scaffold_protocol::{
    batch::{LoggedBatch, SentBatch},
    calls::ReplyError,
    lease::EncodedLease,
    series::TotalsError,
};
use thiserror::Error;

use crate::{
    clock::Deadline,
    config::{Backend, Config, Durability},
    instance::Ready,
};

pub mod pull;
pub mod pushgateway;
pub mod redis;
pub mod totals;

use pull::Pull;
use pushgateway::Pushgateway;
use redis::Redis;

/// The one scheme of an instance.
pub enum Sink {
    /// Batches go to Redis.
    Redis(Box<Redis>),
    /// Totals go to a Pushgateway.
    Pushgateway(Pushgateway),
    /// Totals wait to be scraped.
    Pull(Pull),
    /// Nothing is counted.
    Off,
}

/// What became of a batch that is stored.
#[derive(Debug, Default)]
pub struct Stored {
    /// Whether it was stored before: an answer had been lost.
    pub duplicate: bool,
    /// Increments that could not be applied, each a text that begins with its
    /// key.
    pub refused: Vec<String>,
}

/// Why a batch is not stored, or a call has no answer.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Spin does not let the component reach this host.
    #[error("the manifest's allowed_outbound_hosts does not allow {0}")]
    Denied(String),
    /// No answer came in time.
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// Redis, or the way to it, reported this.
    #[error("{}", redis::trouble::in_words(.0))]
    Redis(String),
    /// Another request was at it, and failed.
    #[error("another request's attempt failed")]
    Elsewhere,
    /// The script answered what it never answers.
    #[error(transparent)]
    Reply(ReplyError),
    /// The way to the Pushgateway failed like this.
    #[error("{0}")]
    Http(String),
    /// The Pushgateway does not take it.
    #[error("answered {status}: {text}")]
    Refused {
        /// The answer's status code.
        status: u16,
        /// The beginning of its body.
        text: String,
    },
    /// The numbers cannot be put as families.
    #[error(transparent)]
    Totals(#[from] TotalsError),
}

impl Sink {
    /// The scheme that is configured. Reaches nothing yet.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        match config.backend {
            Backend::Redis => Self::Redis(Box::new(Redis::new(config.redis.clone()))),
            Backend::Pushgateway => Self::Pushgateway(Pushgateway::new(config.pushgateway.clone())),
            Backend::Pull => Self::Pull(Pull::default()),
            Backend::Off => Self::Off,
        }
    }

    /// Whether anything is counted.
    #[must_use]
    pub fn counts(&self) -> bool {
        !matches!(self, Self::Off)
    }

    /// Whether batches are written by this instance itself, soon after they are
    /// recorded.
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        matches!(self, Self::Redis(_) | Self::Pushgateway(_))
    }

    /// The longest wait for one write.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        match self {
            Self::Redis(redis) => redis.timeout(),
            Self::Pushgateway(pushgateway) => pushgateway.timeout(),
            Self::Pull(_) | Self::Off => Duration::ZERO,
        }
    }

    /// Takes a lease for an execution on behalf of a request to `endpoint`, where
    /// the scheme has leases and one is wanted.
    pub async fn lease(&self, ready: &Ready, endpoint: &'static str) -> Option<EncodedLease> {
        match self {
            Self::Redis(redis) if ready.config.durability != Durability::Relaxed => {
                redis::lease::take(redis, ready, endpoint).await
            }
            _ => None,
        }
    }

    /// Stores the batch that waits, None if none does. Only for whom the write is
    /// under way: see [`Ready::writing`].
    ///
    /// # Errors
    /// It is not stored, or that is not known; it may be tried again.
    pub async fn store(
        &self,
        ready: &Ready,
        deadline: Deadline,
    ) -> Result<Option<Stored>, StoreError> {
        match self {
            Self::Redis(redis) => redis.store(ready, deadline).await,
            Self::Pushgateway(pushgateway) => pushgateway.store(ready, deadline).await,
            Self::Pull(pull) => Ok(pull.store(ready)),
            Self::Off => Ok(None),
        }
    }

    /// A batch that is given up, as it is to be logged.
    pub fn give_up(&self, ready: &Ready, batch: SentBatch) -> LoggedBatch {
        match self {
            Self::Pushgateway(pushgateway) => {
                let (group, totals) = pushgateway.give_up(ready, &batch.total());
                LoggedBatch {
                    batch: SentBatch {
                        id: batch.id,
                        increments: totals,
                        leased: Vec::new(),
                    },
                    group: Some(group),
                }
            }
            Self::Redis(_) | Self::Pull(_) | Self::Off => LoggedBatch { batch, group: None },
        }
    }
}
