//! The Redis scheme: a batch is one script call, applied once under its id.
//!
//! # Layout
//! - [`register`]: making the families known, once an instance
//! - [`lease`]: what is said before an execution begins
//! - [`lease_time`]: the time by which leases run out
//! - [`connection`]: the one connection, and calls on it that end in time
//! - [`trouble`]: what is the matter with Redis, in words

use std::{cell::Cell, time::Duration};

use functional_scaffold_protocol::calls::{Applied, Script, applied_from_reply, apply_merged_call};

use crate::{
    clock::{Deadline, Mark},
    config::RedisConfig,
    instance::Ready,
    log::{self, Level},
    metrics::{
        single_flight::SingleFlight,
        sinks::{StoreError, Stored},
    },
};

pub mod connection;
pub mod lease;
pub mod lease_time;
pub mod register;
pub mod trouble;

use connection::Client;
use lease_time::LeaseTime;

/// Redis, as one instance writes to it.
pub struct Redis {
    config: RedisConfig,
    client: Client,
    registering: SingleFlight,
    /// As Redis told it last; nothing before the families are registered.
    lease_time: Cell<Option<LeaseTime>>,
}

impl Redis {
    /// Opens nothing yet.
    #[must_use]
    pub fn new(config: RedisConfig) -> Self {
        Self {
            client: Client::new(config.clone()),
            config,
            registering: SingleFlight::default(),
            lease_time: Cell::new(None),
        }
    }

    /// The longest wait for one answer.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.config.timeout
    }

    /// Sends the batch that waits.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn store(
        &self,
        ready: &Ready,
        deadline: Deadline,
    ) -> Result<Option<Stored>, StoreError> {
        let stored = self.apply(ready, deadline).await;
        if matches!(stored, Err(StoreError::Timeout(_))) {
            self.client.close();
        }
        stored
    }

    /// Whether it takes writes, and who. A `PING` is answered by a replica, too,
    /// and by a Redis whose memory is full: this is a write that changes nothing.
    ///
    /// # Errors
    /// What it said instead.
    pub async fn check(&self, ready: &Ready) -> Result<String, String> {
        let address = self.config.shown();
        let deadline = Deadline::after(self.timeout());
        let registered = register::again(self, ready, deadline).await;
        if matches!(registered, Err(StoreError::Timeout(_))) {
            self.client.close();
        }
        match registered {
            Ok(_time) => Ok(format!("{address} takes writes")),
            Err(error) => Err(format!("{address}: {error}")),
        }
    }

    async fn apply(&self, ready: &Ready, deadline: Deadline) -> Result<Option<Stored>, StoreError> {
        register::ensure(self, ready, deadline).await?;
        loop {
            let call = {
                let mut writer = ready.writer.borrow_mut();
                let Some(frozen) = writer.freeze() else {
                    return Ok(None);
                };
                let prefix = &ready.config.prefix;
                apply_merged_call(prefix, &frozen.id, frozen.leases(), &frozen.total)
            };
            let asked = Mark::now();
            let reply = self.client.call(&Script::APPLY, &call, deadline).await?;
            match applied_from_reply(reply).map_err(StoreError::Reply)? {
                Applied::Late(leases) => {
                    ready.writer.borrow_mut().remove_late(&leases);
                    log::write_list(Level::Warn, "results_late", "leases", &leases);
                }
                Applied::Duplicate => {
                    return Ok(Some(Stored {
                        duplicate: true,
                        refused: Vec::new(),
                    }));
                }
                Applied::Stored {
                    lease_time_millis,
                    refused,
                } => {
                    self.lease_time
                        .set(Some(LeaseTime::told(lease_time_millis, asked)));
                    return Ok(Some(Stored {
                        duplicate: false,
                        refused,
                    }));
                }
            }
        }
    }
}
