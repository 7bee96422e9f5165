//! What the scripts of the protocol reply, read or refused.

use thiserror::Error;

use crate::protocol::Registration;

/// What became of a batch that Redis has answered for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// It is stored.
    Stored {
        /// Lease time, in milliseconds.
        lease_time_millis: i64,
        /// Increments that could not be applied: key, field, amount and Redis's error.
        refused: Vec<String>,
    },
    /// It had been stored before; nothing changed now.
    Duplicate,
    /// Nothing was stored: the leases with these ids have run out, and their
    /// executions are counted as crashed. To be sent again without them.
    Late(Vec<String>),
}

/// What the call that settles leases answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// Names the store's contents: another one after they were wiped.
    pub epoch: String,
    /// How many leases were settled.
    pub leases: u64,
    /// Lease time, in milliseconds: a lease runs out when its score is not above
    /// it.
    pub lease_time_millis: i64,
    /// How many leases the next call is to pass over, which count in other keys
    /// than those named. None if every lease that ran out was looked at.
    pub next_skip: Option<u64>,
    /// Counts that could not be applied: key, field, amount and Redis's error.
    pub refused: Vec<String>,
}

/// Reads the reply to [`settle_call`](super::settle_call).
///
/// # Errors
/// The reply is not one of the script's.
pub fn settled_from_reply(mut reply: Vec<String>) -> Result<Settled, ReplyError> {
    let read = |reply: &[String]| {
        let [epoch, leases, time, skip, ..] = reply else {
            return None;
        };
        Some(Settled {
            epoch: epoch.clone(),
            leases: leases.parse().ok()?,
            lease_time_millis: time.parse().ok()?,
            next_skip: match skip.as_str() {
                "" => None,
                skip => Some(skip.parse().ok()?),
            },
            refused: Vec::new(),
        })
    };
    match read(&reply) {
        Some(settled) => Ok(Settled {
            refused: reply.split_off(4),
            ..settled
        }),
        None => Err(ReplyError(reply)),
    }
}

/// What became of increments of offsets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OffsetAdded {
    /// They are added.
    Added {
        /// Those that could not be: key, field, amount and Redis's error.
        refused: Vec<String>,
    },
    /// Nothing was added: another reader changed the offsets, or the store was
    /// wiped. To be read again.
    Overtaken,
}

/// Reads the reply to [`offset_call`](super::offset_call).
///
/// # Errors
/// The reply is not one of the script's.
pub fn offset_added_from_reply(mut reply: Vec<String>) -> Result<OffsetAdded, ReplyError> {
    match reply.first().map(String::as_str) {
        Some("added") => Ok(OffsetAdded::Added {
            refused: reply.split_off(1),
        }),
        Some("overtaken") if reply.len() == 1 => Ok(OffsetAdded::Overtaken),
        _ => Err(ReplyError(reply)),
    }
}

/// A reply that the script does not give.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("unexpected script reply {0:?}")]
pub struct ReplyError(Vec<String>);

/// Reads the reply to [`apply_call`](super::apply_call).
///
/// # Errors
/// The reply is not one of the script's.
pub fn applied_from_reply(mut reply: Vec<String>) -> Result<Applied, ReplyError> {
    let time = reply.get(1).and_then(|time| time.parse().ok());
    match (reply.first().map(String::as_str), time) {
        (Some("applied"), Some(lease_time_millis)) => Ok(Applied::Stored {
            lease_time_millis,
            refused: reply.split_off(2),
        }),
        (Some("duplicate"), _) if reply.len() == 1 => Ok(Applied::Duplicate),
        (Some("late"), _) if reply.len() > 1 => Ok(Applied::Late(reply.split_off(1))),
        _ => Err(ReplyError(reply)),
    }
}

/// What the call that registers families answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    /// Lease time, in milliseconds.
    pub lease_time_millis: i64,
    /// The registration that stands for each family, in the call's order.
    pub standing: Vec<String>,
}

/// Reads the reply to [`register_call`](super::register_call) of `registration`.
///
/// # Errors
/// The reply is not one of the script's.
pub fn registered_from_reply(
    registration: &Registration,
    mut reply: Vec<String>,
) -> Result<Registered, ReplyError> {
    match reply.first().and_then(|time| time.parse().ok()) {
        Some(lease_time_millis) if reply.len() == 1 + registration.families() => Ok(Registered {
            lease_time_millis,
            standing: reply.split_off(1),
        }),
        _ => Err(ReplyError(reply)),
    }
}

/// Reads the reply to [`known_call`](super::known_call): lease time, in
/// milliseconds, or None if the families have to be registered.
///
/// # Errors
/// The reply is not one of the script's.
pub fn known_from_reply(reply: Vec<String>) -> Result<Option<i64>, ReplyError> {
    let time = match reply.as_slice() {
        [] => return Ok(None),
        [time] => time.parse().ok(),
        _ => None,
    };
    time.map(Some).ok_or(ReplyError(reply))
}
