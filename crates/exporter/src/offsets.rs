//! What Redis lost and was served before, kept in Redis: an offset for each field
//! of a metric hash, added when it is served. Owns how offsets are read and added
//! to, once whoever adds; which ones are needed is [`crate::marks`]'s.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::{Mutex, PoisonError},
};

use functional_scaffold_protocol::{
    batch::Batch,
    calls::{Call, LostCountsAdded, Script, add_lost_counts_call, lost_counts_added_from_reply},
};
use redis::{ErrorKind, RedisError, aio::MultiplexedConnection};

use crate::{
    connection::{Failure, Reason, Redis},
    script,
};

/// Fields of one call, so that no script takes long.
const MAX_FIELDS: usize = 5_000;

/// Whether offsets are in Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    /// Perhaps: what is read anew tells.
    Perhaps,
    /// Redis refused them.
    Refused,
}

/// Adds to offsets, and logs when that cannot be.
pub struct OffsetWriter {
    prefix: String,
    // A std Mutex: it is never held across an await.
    failing: Mutex<Option<Reason>>,
}

impl OffsetWriter {
    /// Writes offsets under `prefix`.
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
            failing: Mutex::default(),
        }
    }

    /// Adds `lost` to the offsets, if they still have the version that was read
    /// with what was lost.
    ///
    /// # Errors
    /// No answer came: it may have been done, or be done later.
    pub async fn add(
        &self,
        connection: &mut MultiplexedConnection,
        redis: &Redis,
        epoch: &str,
        version: Option<&str>,
        lost: &Batch,
    ) -> Result<Added, Failure> {
        let mut version = version.map(str::to_owned);
        for (part, lost) in parts(lost).iter().enumerate() {
            // Random enough: the keys are seeded by the system.
            let next = format!("{:016x}", RandomState::new().hash_one(0));
            let call = add_lost_counts_call(&self.prefix, epoch, version.as_deref(), &next, lost);
            match self.call(connection, &call).await {
                Ok(LostCountsAdded::Added { refused }) => {
                    self.note(None);
                    for text in refused {
                        tracing::error!("offset refused: {text}");
                    }
                }
                Ok(LostCountsAdded::Overtaken) => return Ok(Added::Perhaps),
                Err(error) => {
                    let failure = redis.failure(&error);
                    self.note(Some(&failure));
                    // A script that ends in an error has written nothing, but the
                    // parts before it are written.
                    let nothing_written = part == 0 && error.code().is_some();
                    return if nothing_written {
                        Ok(Added::Refused)
                    } else {
                        Err(failure)
                    };
                }
            }
            version = Some(next);
        }
        Ok(Added::Perhaps)
    }

    async fn call(
        &self,
        connection: &mut MultiplexedConnection,
        call: &Call,
    ) -> Result<LostCountsAdded, RedisError> {
        let reply = script::call(connection, &Script::ADD_LOST_COUNTS, call).await?;
        lost_counts_added_from_reply(reply).map_err(|error| {
            let text = "the offset script answered something else";
            RedisError::from((ErrorKind::TypeError, text, error.to_string()))
        })
    }

    fn note(&self, failure: Option<&Failure>) {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        let reason = failure.map(|failure| failure.reason);
        if let Some(failure) = failure
            && *failing != reason
        {
            tracing::warn!(
                reason = failure.reason.label(),
                "what Redis lost cannot be kept in Redis: {failure}"
            );
        }
        *failing = reason;
    }
}

fn parts(lost: &Batch) -> Vec<Batch> {
    let cells: Vec<_> = lost.cells().collect();
    let parts = cells.chunks(MAX_FIELDS).map(|cells| {
        let mut part = Batch::default();
        for (key, field, by) in cells {
            part.inc(key, field, *by);
        }
        part
    });
    parts.collect()
}
