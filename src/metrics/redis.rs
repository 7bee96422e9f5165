//! The instance's one Redis connection, and calls on it that end in time.
//!
//! A connection costs Redis more than the work done on it, so it is kept
//! across requests. Spin bounds no wait, so every one is bounded here; a call
//! that was given up may still be executed when Redis comes back.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use functional_scaffold_schema::protocol::{Call, ReplyError, Script};
use spin_sdk::redis::{Connection, Error, RedisParameter, RedisResult};
use thiserror::Error;

use crate::{
    clock::{Mark, wait, within},
    config::RedisConfig,
    metrics::trouble::in_words,
};

/// Why a call has no answer.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Spin does not let the component reach this host.
    #[error("the manifest's allowed_outbound_hosts does not allow {0}")]
    Denied(String),
    /// No answer came in time.
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// Redis, or the way to it, reported this.
    #[error("{}", in_words(.0))]
    Redis(String),
    /// The script answered what it never answers.
    #[error(transparent)]
    Reply(ReplyError),
}

/// Redis, as one instance reaches it.
pub struct Store {
    config: RedisConfig,
    url: String,
    connection: RefCell<Option<Rc<Connection>>>,
    opening: Cell<bool>,
}

impl Store {
    /// Opens nothing yet.
    #[must_use]
    pub fn new(config: RedisConfig) -> Self {
        Self {
            url: config.url(),
            config,
            connection: RefCell::new(None),
            opening: Cell::new(false),
        }
    }

    /// Calls a script by its digest, and by its source where Redis does not
    /// know it: after a restart, or on the very first call. Every wait in it
    /// ends after `limit`.
    ///
    /// # Errors
    /// See [`StoreError`]. The connection is closed where it may be at fault, so
    /// that the next call opens another.
    pub async fn call(
        &self,
        script: &Script,
        call: &Call,
        limit: Duration,
    ) -> Result<Vec<String>, StoreError> {
        let parameters = |script| parameters(script, call);
        let by_digest = self
            .execute("EVALSHA", parameters(&script.sha), limit)
            .await;
        match by_digest {
            Err(StoreError::Redis(reason)) if is_noscript(&reason) => {
                self.execute("EVAL", parameters(&script.source), limit)
                    .await
            }
            other => other,
        }
    }

    async fn execute(
        &self,
        command: &str,
        parameters: Vec<RedisParameter>,
        limit: Duration,
    ) -> Result<Vec<String>, StoreError> {
        let connection = self.connection(limit).await?;
        let reply = within(limit, connection.execute(command, parameters)).await;
        match reply {
            Some(Ok(results)) => Ok(results.into_iter().map(text_of_result).collect()),
            Some(Err(error)) => {
                let error = self.store_error(error);
                let healthy = matches!(&error, StoreError::Redis(reason) if is_noscript(reason));
                if !healthy {
                    self.close(&connection);
                }
                Err(error)
            }
            None => {
                // A shorter wait says nothing of the connection.
                if limit >= self.config.timeout {
                    self.close(&connection);
                }
                Err(StoreError::Timeout(limit))
            }
        }
    }

    /// The kept connection, or a new one. One task opens at a time: otherwise
    /// every flush during an outage would open one more.
    async fn connection(&self, limit: Duration) -> Result<Rc<Connection>, StoreError> {
        // How often a task looks whether another one has opened.
        const LOOK: Duration = Duration::from_millis(2);

        let mut deadline = None;
        loop {
            if let Some(connection) = self.connection.borrow().as_ref() {
                return Ok(Rc::clone(connection));
            }
            if !self.opening.get() {
                break;
            }
            let deadline = *deadline.get_or_insert_with(|| Mark::now().after(limit));
            if deadline.remaining().is_zero() {
                return Err(StoreError::Timeout(limit));
            }
            wait(LOOK).await;
        }
        let _opening = Opening::begin(&self.opening);
        let opened = within(limit, Connection::open(&self.url)).await;
        let connection = match opened {
            Some(Ok(connection)) => Rc::new(connection),
            Some(Err(error)) => return Err(self.store_error(error)),
            None => return Err(StoreError::Timeout(limit)),
        };
        *self.connection.borrow_mut() = Some(Rc::clone(&connection));
        Ok(connection)
    }

    /// Closes the connection, unless another has taken its place already.
    fn close(&self, connection: &Rc<Connection>) {
        let mut kept = self.connection.borrow_mut();
        if kept
            .as_ref()
            .is_some_and(|kept| Rc::ptr_eq(kept, connection))
        {
            *kept = None;
        }
    }

    fn store_error(&self, error: Error) -> StoreError {
        match error {
            // Spin says so of a host that is not allowed as well; the address
            // itself was built from checked parts.
            Error::InvalidAddress => StoreError::Denied(self.config.shown()),
            Error::TooManyConnections => StoreError::Redis("too many connections".to_owned()),
            Error::TypeError => StoreError::Redis("unexpected type".to_owned()),
            Error::Other(reason) => StoreError::Redis(reason),
        }
    }
}

/// Marks that a connection is being opened, until dropped: also where the
/// opening is given up.
struct Opening<'a>(&'a Cell<bool>);

impl<'a> Opening<'a> {
    fn begin(flag: &'a Cell<bool>) -> Self {
        flag.set(true);
        Self(flag)
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

fn parameters(script: &str, call: &Call) -> Vec<RedisParameter> {
    [script.as_bytes().to_vec()]
        .into_iter()
        .chain(call.parts())
        .map(RedisParameter::Binary)
        .collect()
}

/// Whether Redis does not know the digest. Spin hands on the Redis client's
/// text, which spells the error code its own way.
fn is_noscript(reason: &str) -> bool {
    reason.contains("NOSCRIPT") || reason.contains("NoScriptError")
}

fn text_of_result(result: RedisResult) -> String {
    match result {
        RedisResult::Nil => String::new(),
        RedisResult::Status(text) => text,
        RedisResult::Int64(integer) => integer.to_string(),
        RedisResult::Binary(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
    }
}
