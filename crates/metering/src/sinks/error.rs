//! The result of an attempt to store a batch.

use std::time::Duration;

use functional_scaffold_protocol::{calls::ReplyError, series::TotalsError};
use thiserror::Error;

use crate::sinks::redis_error;

/// A batch that is stored.
#[derive(Debug, Default)]
pub(crate) struct Stored {
    /// Whether an earlier attempt stored it and its reply was lost.
    pub(crate) duplicate: bool,
    /// Increments that could not be applied, each a text that starts with its
    /// key.
    pub(crate) refused: Vec<String>,
}

/// In `strict` durability, Redis has not acknowledged an execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the execution is not acknowledged")]
pub struct Unacknowledged;

/// Why a batch is not stored, or a call has no reply.
#[derive(Debug, Error)]
pub(crate) enum StoreError {
    /// Spin does not let the component reach this host.
    #[error("the manifest's allowed_outbound_hosts does not allow {0}")]
    Denied(String),
    /// Spin does not let the component reach this node of a Redis Cluster, which has
    /// the keys.
    #[error(
        "the manifest's allowed_outbound_hosts does not allow {0}, the node of the Redis \
         Cluster that has the keys"
    )]
    DeniedNode(String),
    /// No reply arrived in time.
    #[error("no reply within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// An error of Redis or of the connection to it.
    #[error("{}", redis_error::explain(.0))]
    Redis(String),
    /// Redis Cluster names another node, which the client asks next.
    #[error("{}", redis_error::explain(.0))]
    Moved(String),
    /// Redis may have forgotten whether it stored the batch.
    #[error("it is too old: Redis may have stored it and forgotten that")]
    TooOld,
    /// Another task made the attempt for both, and it failed.
    #[error("another request's attempt failed")]
    OtherTask,
    /// The script's reply is not one of the protocol.
    #[error(transparent)]
    Reply(ReplyError),
    /// An error of the connection to the Pushgateway.
    #[error("{0}")]
    Http(String),
    /// The Pushgateway refused the push.
    #[error("responded {status}: {text}")]
    Refused {
        /// The response's status code.
        status: u16,
        /// The beginning of its body.
        text: String,
    },
    /// The totals cannot be encoded as families.
    #[error(transparent)]
    Totals(#[from] TotalsError),
}
