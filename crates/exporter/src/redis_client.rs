//! The connection to Redis: opened on first use, kept, and replaced when it breaks.
//! Every wait is bounded, and no error shows the password.
//!
//! All keys of a store are in one slot of a Redis Cluster, so one connection is enough
//! there, too. It moves to the node that `MOVED` names. The redis crate's cluster client
//! would do the same, but holds each reply in memory as a whole (see `redis_transport`).

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use functional_scaffold_protocol::calls::{Call, Script};
use futures_util::future::BoxFuture;
use redis::{
    AsyncConnectionConfig, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, FromRedisValue,
    RedisConnectionInfo, RedisError, aio::MultiplexedConnection,
};
use thiserror::Error;
use tokio::{
    sync::Mutex,
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};

use crate::{
    cli::{Config, StoreConfig},
    redis_transport::{Node, Transport},
};

/// Attempts of [`RedisClient::run`]: a broken connection, a slot that moved twice, and
/// back to the configured node.
const MAX_ATTEMPTS: usize = 5;

/// Why Redis could not be used.
///
/// It holds a redacted text instead of the client's error, because a server may
/// repeat the arguments of a refused AUTH.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
#[error("{text}")]
pub(crate) struct Failure {
    pub(crate) reason: Reason,
    /// The error code of Redis's reply, such as `READONLY`.
    code: Option<String>,
    text: String,
    /// The node that has the keys, if this one of a cluster has not: host (empty for the
    /// same host) and port.
    moved_to: Option<Node>,
}

/// The class of a failure: a bounded set, fit for a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// No connection, or it broke.
    Connection,
    /// No reply in time.
    Timeout,
    /// Credentials are missing or were refused.
    Auth,
    /// Redis is loading its data set.
    Loading,
    /// Any other error reply.
    Server,
    /// The shards are being changed, or were read while they changed.
    Closed,
    /// A defect of the exporter.
    Internal,
}

impl Reason {
    /// Every reason, at the index `reason as usize`.
    pub(crate) const ALL: [Self; 7] = [
        Self::Connection,
        Self::Timeout,
        Self::Auth,
        Self::Loading,
        Self::Server,
        Self::Closed,
        Self::Internal,
    ];

    /// The label's value.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Timeout => "timeout",
            Self::Auth => "auth",
            Self::Loading => "loading",
            Self::Server => "server",
            Self::Closed => "closed",
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

/// Error codes of states that pass: a replica after a failover, a full memory or
/// disk, a script that runs too long, a cluster under repair.
const TRANSIENT_CODES: [&str; 10] = [
    "READONLY",
    "OOM",
    "MISCONF",
    "BUSY",
    "MASTERDOWN",
    "NOREPLICAS",
    "TRYAGAIN",
    "CLUSTERDOWN",
    // To a node that is gone, until its replica replaces it.
    "MOVED",
    // The slot is being moved.
    "ASK",
];

impl Failure {
    /// A failure that did not come from the Redis client.
    pub(crate) fn new(reason: Reason, text: impl Into<String>) -> Self {
        Self {
            reason,
            code: None,
            text: text.into(),
            moved_to: None,
        }
    }

    pub(crate) fn timeout(limit: Duration) -> Self {
        Self::new(Reason::Timeout, format!("no reply within {limit:?}"))
    }

    /// Classifies an error of the client and redacts the password: a server that
    /// does not know AUTH replies ``unknown command 'AUTH', with args beginning
    /// with: '<password>'``.
    fn of(error: &RedisError, password: Option<&str>) -> Self {
        let mut text = error.to_string();
        if let Some(password) = password.filter(|password| !password.is_empty()) {
            text = text.replace(password, "[redacted]");
        }
        Self {
            reason: Reason::of(error),
            code: error.code().map(str::to_owned),
            text,
            moved_to: moved_to(error),
        }
    }

    /// The same failure of one of several stores, which the text names.
    pub(crate) fn of_store(mut self, name: &str) -> Self {
        if !name.is_empty() {
            self.text = format!("{name}: {}", self.text);
        }
        self
    }

    /// The error code of Redis's reply, if the failure is one.
    pub(crate) fn code(&self) -> Option<&str> {
        self.code.as_deref()
    }

    /// Whether the same command may succeed later, without a change of the command or
    /// of the stored data.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(
            self.reason,
            Reason::Connection | Reason::Timeout | Reason::Loading
        ) || self
            .code()
            .is_some_and(|code| TRANSIENT_CODES.contains(&code))
    }
}

/// The node that a `MOVED` names.
fn moved_to(error: &RedisError) -> Option<Node> {
    if error.code() != Some("MOVED") {
        return None;
    }
    let (address, _slot) = error.redirect_node()?;
    let (host, port) = address.rsplit_once(':')?;
    Some(Node {
        host: host.trim_matches(['[', ']']).to_owned(),
        port: port.parse().ok()?,
    })
}

/// One Redis and at most one connection to it.
pub(crate) struct RedisClient {
    transport: Transport,
    /// Database and credentials.
    info: RedisConnectionInfo,
    /// For a connection attempt, and for each reply.
    timeout: Duration,
    password: Option<Arc<str>>,
    opened: AtomicU64,
    // A tokio Mutex, held while a connection is opened, so that concurrent callers
    // wait for the same one.
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    connection: Option<Connection>,
    /// The node of a cluster that has the keys, if another than the configured one has.
    node: Option<Node>,
}

/// A connection to Redis. Clones share it, and may send commands concurrently.
#[derive(Clone)]
pub(crate) struct Connection {
    inner: MultiplexedConnection,
    /// Sends and receives; ends with the last clone.
    _driver: Arc<Driver>,
    password: Option<Arc<str>>,
    number: u64,
    /// Whether it was opened for the caller. A kept connection may have broken
    /// since it was last used.
    is_new: bool,
}

struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl RedisClient {
    /// Checks the address; connects on first use.
    pub(crate) fn new(config: &Config, store: &StoreConfig) -> Result<Self, Failure> {
        let ConnectionInfo { addr, redis } = store.redis.clone();
        let password: Option<Arc<str>> = redis.password.as_deref().map(Arc::from);
        let transport = Transport::new(addr, config.redis_ca.as_deref())
            .map_err(|error| Failure::new(Reason::Connection, error.to_string()))?;
        Ok(Self {
            transport,
            info: redis,
            timeout: config.redis_timeout,
            password,
            opened: AtomicU64::default(),
            kept: Mutex::default(),
        })
    }

    /// Returns the kept connection, or opens one.
    pub(crate) async fn connection(&self) -> Result<Connection, Failure> {
        let mut kept = self.kept.lock().await;
        if let Some(connection) = &kept.connection {
            return Ok(connection.clone());
        }
        let opened = match self.open(kept.node.clone()).await {
            // The configured node knows which one replaces it.
            Err(_unreachable) if kept.node.take().is_some() => self.open(None).await,
            opened => opened,
        };
        let connection = opened?;
        kept.connection = Some(connection.clone());
        Ok(Connection {
            is_new: true,
            ..connection
        })
    }

    /// Opens a connection to a node, or to the configured one.
    async fn open(&self, node: Option<Node>) -> Result<Connection, Failure> {
        let options = AsyncConnectionConfig::new().set_response_timeout(self.timeout);
        let opening = async {
            let stream = self.transport.connect(node).await?;
            MultiplexedConnection::new_with_config(&self.info, stream, options).await
        };
        let (inner, driver) = timeout(self.timeout, opening)
            .await
            .map_err(|_elapsed| Failure::timeout(self.timeout))?
            .map_err(|error| Failure::of(&error, self.password.as_deref()))?;
        Ok(Connection {
            inner,
            _driver: Arc::new(Driver(tokio::spawn(driver))),
            password: self.password.clone(),
            number: self.opened.fetch_add(1, Ordering::Relaxed),
            is_new: false,
        })
    }

    /// Closes a connection, unless another has taken its place. The next one goes to the
    /// node `next`, where `Some(None)` is the configured one and `None` the same as before.
    async fn discard(&self, connection: &Connection, next: Option<Option<Node>>) {
        let mut kept = self.kept.lock().await;
        let is_kept = |kept: &mut Connection| kept.number == connection.number;
        if kept.connection.take_if(is_kept).is_some()
            && let Some(mut node) = next
        {
            if let Some(node) = node.as_mut().filter(|node| node.host.is_empty()) {
                node.host = self.host(kept.node.as_ref());
            }
            kept.node = node;
        }
    }

    /// The host of a node, or the configured one.
    fn host(&self, node: Option<&Node>) -> String {
        match (node, self.transport.address()) {
            (Some(node), _) => node.host.clone(),
            (None, ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. }) => {
                host.clone()
            }
            (None, ConnectionAddr::Unix(_)) => "localhost".to_owned(),
        }
    }

    /// Runs commands over the kept connection, and again over a new one if the kept
    /// one turns out to be broken, as it is after a restart of Redis, or if another node
    /// of the cluster has the keys. The commands must be safe to repeat.
    //
    // The future is boxed, because the compiler cannot prove that the future of an async
    // closure which borrows is `Send`, as a spawned task requires.
    pub(crate) async fn run<S: Send, T>(
        &self,
        limit: Duration,
        state: &mut S,
        commands: impl Fn(&mut S, Connection) -> BoxFuture<'_, Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let deadline = Instant::now() + limit;
        let mut attempts_left = MAX_ATTEMPTS;
        loop {
            attempts_left -= 1;
            let connection = timeout_at(deadline, self.connection())
                .await
                .unwrap_or_else(|_elapsed| Err(Failure::timeout(limit)))?;
            let failure = match timeout_at(deadline, commands(state, connection.clone())).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(failure)) => failure,
                Err(_elapsed) => Failure::timeout(limit),
            };
            let has_moved = failure.moved_to.is_some();
            let next = match (failure.reason, failure.code()) {
                _ if has_moved => Some(failure.moved_to.clone()),
                // This node is cut off, but the configured one may know a better one.
                (_, Some("CLUSTERDOWN" | "MASTERDOWN")) => Some(None),
                // Also after a time-out: if the peer is gone without a word, TCP takes a
                // quarter of an hour to notice.
                (reason, _) if reason != Reason::Server => None,
                _ => return Err(failure),
            };
            self.discard(&connection, next).await;
            let is_broken = failure.reason == Reason::Connection && !connection.is_new;
            if !(has_moved || is_broken) || attempts_left == 0 {
                return Err(failure);
            }
        }
    }

    /// The time for a connection attempt and one reply.
    pub(crate) fn round_trip_limit(&self) -> Duration {
        2 * self.timeout
    }

    /// Fails unless Redis answers a `PING`.
    pub(crate) async fn ping(&self) -> Result<(), Failure> {
        self.run(self.round_trip_limit(), &mut (), |(), mut connection| {
            Box::pin(async move { connection.query(&redis::cmd("PING")).await })
        })
        .await
    }

    /// Where Redis is, without credentials.
    pub(crate) fn address(&self) -> String {
        format!("{}, database {}", self.transport.address(), self.info.db)
    }
}

impl Connection {
    pub(crate) async fn query<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T, Failure> {
        let reply = command.query_async(&mut self.inner).await;
        reply.map_err(|error| Failure::of(&error, self.password.as_deref()))
    }

    /// Calls a script by its digest, and with its source where Redis does not know
    /// it: after a restart, a failover or SCRIPT FLUSH.
    //
    // `redis::Script` would load it instead, which takes one more permission (ACL)
    // and one more round trip.
    pub(crate) async fn call(
        &mut self,
        script: &Script,
        call: &Call,
    ) -> Result<Vec<String>, Failure> {
        let eval = |command: &str, script: &str| {
            let mut command = redis::cmd(command);
            command.arg(script);
            for part in call.parts() {
                command.arg(part);
            }
            command
        };
        // Not as strings: a script may name a member that is not UTF-8.
        let reply: Result<Vec<Vec<u8>>, _> = self.query(&eval("EVALSHA", script.sha)).await;
        let reply = match reply {
            Err(failure) if failure.code() == Some("NOSCRIPT") => {
                self.query(&eval("EVAL", script.source)).await
            }
            reply => reply,
        };
        let texts = reply?.into_iter();
        let texts = texts.map(|text| String::from_utf8_lossy(&text).into_owned());
        Ok(texts.collect())
    }
}

/// A random number for the epochs and versions that scripts are given. The
/// hasher's keys come from the operating system.
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one(())
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_password_that_the_server_repeats_is_redacted() {
        let error = RedisError::from((
            ErrorKind::ResponseError,
            "An error was signalled by the server",
            "unknown command 'AUTH', with args beginning with: 's3cret' ".to_owned(),
        ));
        let failure = Failure::of(&error, Some("s3cret"));
        assert_eq!(failure.reason, Reason::Server);
        let text = failure.to_string();
        assert!(
            !text.contains("s3cret") && text.contains("'[redacted]'"),
            "{text}"
        );
    }

    #[test]
    fn errors_are_classified() {
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
    fn what_a_cluster_replies_while_a_slot_has_no_node_is_transient() {
        for kind in [
            ErrorKind::Moved,
            ErrorKind::Ask,
            ErrorKind::TryAgain,
            ErrorKind::ClusterDown,
        ] {
            let error = RedisError::from((kind, "x", "1 127.0.0.1:7000".to_owned()));
            assert!(Failure::of(&error, None).is_transient(), "{error}");
        }
        let error = RedisError::from((ErrorKind::ResponseError, "x"));
        assert!(!Failure::of(&error, None).is_transient());
    }

    #[test]
    fn a_reasons_value_is_its_index_in_all() {
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
        }
    }
}
