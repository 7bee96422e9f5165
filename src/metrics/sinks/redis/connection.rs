//! The instance's one Redis connection, and calls on it that end in time.
//!
//! A connection costs Redis more than the work done on it, so it is kept
//! across requests. Spin bounds no wait, so every one is bounded here; a call
//! that was given up may still be executed when Redis comes back.

use std::{cell::RefCell, rc::Rc};

use functional_scaffold_protocol::calls::{Call, Command, Script};
use spin_sdk::redis::{Connection, Error, RedisParameter, RedisResult};

use crate::{
    clock::Deadline,
    config::RedisConfig,
    metrics::{single_flight::SingleFlight, sinks::StoreError},
};

/// Redis, as one instance reaches it.
pub struct Client {
    config: RedisConfig,
    url: String,
    connection: RefCell<Option<Rc<Connection>>>,
    opening: SingleFlight,
}

impl Client {
    /// Opens nothing yet.
    #[must_use]
    pub fn new(config: RedisConfig) -> Self {
        Self {
            url: config.url(),
            config,
            connection: RefCell::new(None),
            opening: SingleFlight::default(),
        }
    }

    /// Calls a script by its digest, and by its source where Redis does not
    /// know it: after a restart, or on the very first call.
    ///
    /// # Errors
    /// See [`StoreError`]. The connection is closed where it is at fault, so
    /// that the next call opens another; whether a time-out is its fault, the
    /// caller knows.
    pub async fn call(
        &self,
        script: &Script,
        call: &Call,
        deadline: Deadline,
    ) -> Result<Vec<String>, StoreError> {
        let parameters = |script| parameters(script, call);
        let by_digest = self
            .execute("EVALSHA", parameters(script.sha), deadline)
            .await;
        match by_digest {
            Err(StoreError::Redis(reason)) if is_noscript(&reason) => {
                self.execute("EVAL", parameters(script.source), deadline)
                    .await
            }
            other => other,
        }
    }

    /// Calls a command that is no script.
    ///
    /// # Errors
    /// As for a script.
    pub async fn command(&self, command: Command, deadline: Deadline) -> Result<(), StoreError> {
        let arguments = command.arguments.into_iter();
        let parameters = arguments.map(|argument| RedisParameter::Binary(argument.into_bytes()));
        self.execute(command.name, parameters.collect(), deadline)
            .await?;
        Ok(())
    }

    /// Closes the connection, so that the next call opens another.
    pub fn close(&self) {
        self.connection.take();
    }

    async fn execute(
        &self,
        command: &str,
        parameters: Vec<RedisParameter>,
        deadline: Deadline,
    ) -> Result<Vec<String>, StoreError> {
        let connection = self.connection(deadline).await?;
        let reply = deadline.bounds(connection.execute(command, parameters));
        let reply = reply.await;
        match reply {
            Some(Ok(results)) => Ok(results.into_iter().map(text_of_result).collect()),
            Some(Err(error)) => {
                let error = self.store_error(error);
                let healthy = matches!(&error, StoreError::Redis(reason) if is_noscript(reason));
                if !healthy {
                    self.discard(&connection);
                }
                Err(error)
            }
            None => Err(StoreError::Timeout(deadline.limit())),
        }
    }

    /// The kept connection, or a new one. One task opens at a time: otherwise
    /// every flush during an outage would open one more.
    async fn connection(&self, deadline: Deadline) -> Result<Rc<Connection>, StoreError> {
        let timeout = || StoreError::Timeout(deadline.limit());
        loop {
            if let Some(connection) = self.connection.borrow().as_ref() {
                return Ok(Rc::clone(connection));
            }
            let Some(_flight) = self.opening.begin() else {
                let ended = deadline.bounds(self.opening.ended()).await;
                ended.ok_or_else(timeout)?;
                continue;
            };
            let opened = deadline.bounds(Connection::open(&self.url)).await;
            let opened = opened.ok_or_else(timeout)?;
            let connection = Rc::new(opened.map_err(|error| self.store_error(error))?);
            *self.connection.borrow_mut() = Some(Rc::clone(&connection));
            return Ok(connection);
        }
    }

    /// Closes the connection, unless another has taken its place already.
    fn discard(&self, connection: &Rc<Connection>) {
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
