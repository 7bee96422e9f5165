//! The connection to Redis: opened when needed, kept, replaced when broken,
//! every wait bounded. Owns how a failure is classed and worded, so that no
//! credential leaves; what is sent, but for the handshake and `PING`, is
//! others' business.

use std::{fmt, time::Duration};

use redis::{
    AsyncConnectionConfig, ErrorKind, RedisError, TlsCertificates, aio::MultiplexedConnection,
};
use thiserror::Error;
use tokio::{sync::Mutex, time::timeout};

use crate::config::Config;

/// Why Redis could not be read.
///
/// It holds text and not its cause: a server may repeat a refused AUTH with
/// its arguments, so what is printed has to go through [`Redis::failure`].
#[derive(Debug, Clone, Error, PartialEq, Eq)]
#[error("{text}")]
pub struct Failure {
    /// Its class.
    pub reason: Reason,
    text: String,
    may_pass: bool,
}

/// The class of a failure: a bounded set, fit for a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// No connection, or it broke.
    Connection,
    /// No answer in time.
    Timeout,
    /// The credentials were refused, or some are needed.
    Auth,
    /// Redis is loading its data set.
    Loading,
    /// Any other error that Redis answered.
    Server,
    /// A defect of the exporter itself.
    Internal,
}

impl Reason {
    /// Every reason, in the order of their positions.
    pub const ALL: [Self; 6] = [
        Self::Connection,
        Self::Timeout,
        Self::Auth,
        Self::Loading,
        Self::Server,
        Self::Internal,
    ];

    /// The label's value.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Timeout => "timeout",
            Self::Auth => "auth",
            Self::Loading => "loading",
            Self::Server => "server",
            Self::Internal => "internal",
        }
    }

    fn of(error: &RedisError) -> Self {
        match (error.kind(), error.code()) {
            _ if error.is_timeout() => Self::Timeout,
            _ if error.is_io_error() => Self::Connection,
            (ErrorKind::AuthenticationFailed, _) | (_, Some("NOAUTH" | "WRONGPASS" | "NOPERM")) => {
                Self::Auth
            }
            (ErrorKind::BusyLoadingError, _) => Self::Loading,
            _ => Self::Server,
        }
    }
}

impl Failure {
    /// A failure that did not come from the Redis client.
    #[must_use]
    pub fn new(reason: Reason, text: String) -> Self {
        Self {
            reason,
            text,
            may_pass: matches!(
                reason,
                Reason::Connection | Reason::Timeout | Reason::Loading
            ),
        }
    }

    /// Whether the same may succeed a little later, with nothing changed but
    /// the state of Redis.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        self.may_pass
    }

    /// Redis gave no answer within `limit`.
    #[must_use]
    pub fn timeout(limit: Duration) -> Self {
        Self::new(Reason::Timeout, format!("no answer within {limit:?}"))
    }
}

/// One Redis and at most one connection to it.
pub struct Redis {
    client: redis::Client,
    /// Set on the client's connections as well as waited for here.
    limit: Duration,
    secret: Option<String>,
    // A tokio Mutex, held while a connection is opened: that opens one at a
    // time however many wait for it.
    open: Mutex<Option<Open>>,
}

struct Open {
    number: u64,
    connection: MultiplexedConnection,
}

/// A connection on loan.
pub struct Lease {
    /// Commands may be sent on clones of it at once.
    pub connection: MultiplexedConnection,
    /// Whether it was opened for this lease. A kept one may have broken since.
    pub fresh: bool,
    number: u64,
}

impl Redis {
    /// Opens nothing yet.
    ///
    /// # Errors
    /// The client refuses the address, or a certificate of the authority.
    pub fn new(config: &Config) -> Result<Self, Failure> {
        let secret = config.redis.redis.password.clone();
        let address = config.redis.clone();
        let client = match &config.redis_ca {
            None => redis::Client::open(address),
            Some(authority) => redis::Client::build_with_tls(
                address,
                TlsCertificates {
                    client_tls: None,
                    root_cert: Some(authority.clone()),
                },
            ),
        };
        let client = client.map_err(|error| failure(&error, secret.as_deref()))?;
        Ok(Self {
            client,
            limit: config.redis_timeout,
            secret,
            open: Mutex::new(None),
        })
    }

    /// The connection there is, or a new one.
    ///
    /// # Errors
    /// None could be opened in time.
    pub async fn lease(&self) -> Result<Lease, Failure> {
        let mut open = self.open.lock().await;
        if let Some(Open { number, connection }) = open.as_ref() {
            return Ok(Lease {
                connection: connection.clone(),
                fresh: false,
                number: *number,
            });
        }
        let options = AsyncConnectionConfig::new()
            .set_connection_timeout(self.limit)
            .set_response_timeout(self.limit);
        let opening = self
            .client
            .get_multiplexed_async_connection_with_config(&options);
        // The client's own limit leaves out the look-up of the host's name.
        let connection = timeout(self.limit, opening)
            .await
            .map_err(|_elapsed| Failure::timeout(self.limit))?
            .map_err(|error| self.failure(&error))?;
        let number = self.next_number();
        *open = Some(Open {
            number,
            connection: connection.clone(),
        });
        Ok(Lease {
            connection,
            fresh: true,
            number,
        })
    }

    /// Closes the connection of a lease, unless another has taken its place.
    pub async fn discard(&self, lease: &Lease) {
        let mut open = self.open.lock().await;
        if open
            .as_ref()
            .is_some_and(|open| open.number == lease.number)
        {
            *open = None;
        }
    }

    /// Whether Redis answers a `PING` now.
    ///
    /// # Errors
    /// It does not, within twice the limit.
    pub async fn ping(&self) -> Result<(), Failure> {
        let asking = self.ask(|mut connection| async move {
            redis::cmd("PING").exec_async(&mut connection).await
        });
        timeout(2 * self.limit, asking)
            .await
            .unwrap_or_else(|_elapsed| Err(Failure::timeout(2 * self.limit)))
    }

    /// Sends commands over the kept connection, and once more over a new one
    /// where the kept one turns out to be broken: so only what may be repeated.
    ///
    /// # Errors
    /// Redis did not answer, or answered with an error.
    pub async fn ask<T, F>(
        &self,
        mut command: impl FnMut(MultiplexedConnection) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, RedisError>>,
    {
        loop {
            let lease = self.lease().await?;
            let error = match command(lease.connection.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let failure = self.failure(&error);
            if failure.reason != Reason::Server {
                self.discard(&lease).await;
            }
            if lease.fresh || failure.reason != Reason::Connection {
                return Err(failure);
            }
        }
    }

    /// Classes an error of the client and takes the password out of its text.
    #[must_use]
    pub fn failure(&self, error: &RedisError) -> Failure {
        failure(error, self.secret.as_deref())
    }

    /// Where Redis is, without credentials.
    #[must_use]
    pub fn address(&self) -> impl fmt::Display {
        let info = self.client.get_connection_info();
        format!("{}, database {}", info.addr, info.redis.db)
    }

    /// Numbers connections so that nobody closes another's.
    fn next_number(&self) -> u64 {
        static NUMBER: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
    }
}

fn failure(error: &RedisError, secret: Option<&str>) -> Failure {
    let text = without(&error.to_string(), secret);
    let mut failure = Failure::new(Reason::of(error), text);
    // A replica after a failover, a full memory or disk, a script that runs
    // too long, a cluster that is being mended.
    failure.may_pass |= matches!(
        error.code(),
        Some(
            "READONLY"
                | "OOM"
                | "MISCONF"
                | "BUSY"
                | "MASTERDOWN"
                | "NOREPLICAS"
                | "TRYAGAIN"
                | "CLUSTERDOWN"
        )
    );
    failure
}

/// `text` with the password taken out. A server that does not know AUTH
/// answers ``unknown command 'AUTH', with args beginning with: '<password>'``.
fn without(text: &str, secret: Option<&str>) -> String {
    match secret {
        Some(secret) if !secret.is_empty() => text.replace(secret, "[redacted]"),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_password_that_the_server_repeats_is_taken_out() {
        let error = RedisError::from((
            ErrorKind::ResponseError,
            "An error was signalled by the server",
            "unknown command 'AUTH', with args beginning with: 's3cret' ".to_owned(),
        ));
        let failure = failure(&error, Some("s3cret"));
        assert_eq!(failure.reason, Reason::Server);
        let text = failure.to_string();
        assert!(
            !text.contains("s3cret") && text.contains("'[redacted]'"),
            "{text}"
        );
    }

    #[test]
    fn errors_are_classed() {
        let io = |kind: io::ErrorKind| RedisError::from(io::Error::from(kind));
        let kind = |kind: ErrorKind| RedisError::from((kind, "x"));
        for (error, reason) in [
            (io(io::ErrorKind::TimedOut), Reason::Timeout),
            (io(io::ErrorKind::ConnectionRefused), Reason::Connection),
            (io(io::ErrorKind::BrokenPipe), Reason::Connection),
            (kind(ErrorKind::AuthenticationFailed), Reason::Auth),
            (kind(ErrorKind::BusyLoadingError), Reason::Loading),
            (kind(ErrorKind::ResponseError), Reason::Server),
        ] {
            assert_eq!(Reason::of(&error), reason, "{error}");
        }
    }

    #[test]
    fn a_reasons_position_is_its_place_among_all() {
        for (position, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, position);
        }
    }
}
