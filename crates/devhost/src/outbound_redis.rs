//! Outbound Redis, `spin:redis@3.0.0`.
//!
//! As on Spin, each open makes a TCP connection, commands on it are multiplexed,
//! and it is closed with its resource. Nothing times out: the component must bound
//! its waits. `rediss://` trusts the machine's certificates, or those in the file
//! of `SSL_CERT_FILE`.

use std::fmt::Display;
use std::sync::Arc;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncCommands, ConnectionAddr, ErrorKind, FromRedisValue, IntoConnectionInfo, RedisError,
    RedisResult, Value,
};
use wasmtime::component::{Accessor, Resource};

use crate::allowed_hosts::Destination;
use crate::component::ComponentSettings;
use crate::platform::redis::redis::{
    Error, Host, HostConnection, HostConnectionWithStore, RedisParameter, RedisResult as Reply,
};
use crate::platform::{InstanceData, Platform};

type Connection = MultiplexedConnection;

type Result<T> = std::result::Result<T, Error>;

/// Spin's limit on connections of one instance.
const MAX_CONNECTIONS: usize = 1024;
/// Spin's limit on the memory of one reply.
const MAX_REPLY_BYTES: usize = 128 << 20;

impl Host for InstanceData {}

impl HostConnection for InstanceData {
    async fn drop(&mut self, connection: Resource<Connection>) -> wasmtime::Result<()> {
        self.table.delete(connection)?;
        self.redis_connections -= 1;
        Ok(())
    }
}

impl<T: Send> HostConnectionWithStore<T> for Platform {
    async fn open(accessor: &Accessor<T, Self>, address: String) -> Result<Resource<Connection>> {
        let settings = accessor.with(|mut access| Arc::clone(&access.get().settings));
        let connection = connect(&settings, &address).await?;
        accessor.with(|mut access| {
            let data = access.get();
            if data.redis_connections >= MAX_CONNECTIONS {
                return Err(Error::TooManyConnections);
            }
            let connection = data.table.push(connection);
            data.redis_connections += 1;
            connection.map_err(|_full| Error::TooManyConnections)
        })
    }

    async fn publish(
        accessor: &Accessor<T, Self>,
        connection: Resource<Connection>,
        channel: String,
        payload: Vec<u8>,
    ) -> Result<()> {
        let mut connection = get(accessor, &connection)?;
        connection
            .publish(channel, payload)
            .await
            .map_err(other_error)
    }

    async fn get(
        accessor: &Accessor<T, Self>,
        connection: Resource<Connection>,
        key: String,
    ) -> Result<Option<Vec<u8>>> {
        let mut connection = get(accessor, &connection)?;
        let value: Option<Vec<u8>> = connection.get(key).await.map_err(other_error)?;
        let payload = value.as_ref().map_or(0, Vec::len);
        check_size(size_of::<Option<Vec<u8>>>() + payload)?;
        Ok(value)
    }

    async fn set(
        accessor: &Accessor<T, Self>,
        connection: Resource<Connection>,
        key: String,
        value: Vec<u8>,
    ) -> Result<()> {
        let mut connection = get(accessor, &connection)?;
        connection.set(key, value).await.map_err(other_error)
    }

    async fn incr(
        accessor: &Accessor<T, Self>,
        connection: Resource<Connection>,
        key: String,
    ) -> Result<i64> {
        let mut connection = get(accessor, &connection)?;
        connection.incr(key, 1).await.map_err(other_error)
    }

    async fn del(
        accessor: &Accessor<T, Self>,
        connection: Resource<Connection>,
        keys: Vec<String>,
    ) -> Result<u32> {
        let mut connection = get(accessor, &connection)?;
        connection.del(keys).await.map_err(other_error)
    }

    async fn sadd(
        accessor: &Accessor<T, Self>,
        connection: Resource<Connection>,
        key: String,
        values: Vec<String>,
    ) -> Result<u32> {
        let mut connection = get(accessor, &connection)?;
        connection.sadd(key, values).await.map_err(|error| {
            // The only command for which Spin returns type errors as such.
            match error.kind() {
                ErrorKind::TypeError => Error::TypeError,
                _ => other_error(error),
            }
        })
    }

    async fn smembers(
        accessor: &Accessor<T, Self>,
        connection: Resource<Connection>,
        key: String,
    ) -> Result<Vec<String>> {
        let mut connection = get(accessor, &connection)?;
        connection.smembers(key).await.map_err(other_error)
    }

    async fn srem(
        accessor: &Accessor<T, Self>,
        connection: Resource<Connection>,
        key: String,
        values: Vec<String>,
    ) -> Result<u32> {
        let mut connection = get(accessor, &connection)?;
        connection.srem(key, values).await.map_err(other_error)
    }

    async fn execute(
        accessor: &Accessor<T, Self>,
        connection: Resource<Connection>,
        command: String,
        arguments: Vec<RedisParameter>,
    ) -> Result<Vec<Reply>> {
        let mut connection = get(accessor, &connection)?;
        let mut command = redis::cmd(&command);
        for argument in arguments {
            match argument {
                RedisParameter::Int64(value) => command.arg(value),
                RedisParameter::Binary(value) => command.arg(value),
            };
        }
        let Replies(replies) = command
            .query_async(&mut connection)
            .await
            .map_err(other_error)?;
        let payload: usize = replies.iter().map(reply_size).sum();
        check_size(size_of::<Vec<Reply>>() + payload)?;
        Ok(replies)
    }
}

/// Opens a connection if the component may reach its destination.
async fn connect(settings: &ComponentSettings, address: &str) -> Result<Connection> {
    let url = redis::parse_redis_url(address).ok_or(Error::InvalidAddress)?;
    let scheme = url.scheme().to_owned();
    let info = url.into_connection_info();
    let mut info = info.map_err(|_invalid| Error::InvalidAddress)?;
    let (ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. }) =
        &mut info.addr
    else {
        // A Unix socket, which no entry allows.
        return Err(Error::InvalidAddress);
    };
    let destination = Destination::new(&scheme, host, Some(*port)).ok_or(Error::InvalidAddress)?;
    let allowed = settings.allowed_hosts.allows(&destination);
    if !allowed.map_err(Error::Other)? {
        settings.report_denied_host(&destination);
        return Err(Error::InvalidAddress);
    }
    *host = destination.host();
    redis::Client::open(info)
        .map_err(|_invalid| Error::InvalidAddress)?
        .get_multiplexed_async_connection()
        .await
        .map_err(other_error)
}

fn get<T>(
    accessor: &Accessor<T, Platform>,
    connection: &Resource<Connection>,
) -> Result<Connection> {
    accessor.with(|mut access| match access.get().table.get(connection) {
        Ok(connection) => Ok(connection.clone()),
        Err(_) => Err(other_error("could not find connection for resource")),
    })
}

fn other_error(error: impl Display) -> Error {
    Error::Other(error.to_string())
}

fn check_size(bytes: usize) -> Result<()> {
    if bytes > MAX_REPLY_BYTES {
        return Err(Error::Other(format!(
            "query result exceeds limit of {MAX_REPLY_BYTES} bytes"
        )));
    }
    Ok(())
}

fn reply_size(reply: &Reply) -> usize {
    size_of::<Reply>()
        + match reply {
            Reply::Nil | Reply::Int64(_) => 0,
            Reply::Binary(bytes) => bytes.len(),
            Reply::Status(text) => text.len(),
        }
}

/// A reply with flattened arrays, because the interface has no nesting.
#[derive(Debug)]
struct Replies(Vec<Reply>);

impl FromRedisValue for Replies {
    fn from_redis_value(value: &Value) -> RedisResult<Self> {
        let mut replies = Vec::new();
        flatten(value, &mut replies)?;
        Ok(Self(replies))
    }
}

fn flatten(value: &Value, replies: &mut Vec<Reply>) -> RedisResult<()> {
    let unsupported = |what: &str| {
        Err(RedisError::from((
            ErrorKind::TypeError,
            "Could not convert Redis response",
            format!("Redis {what} not supported"),
        )))
    };
    replies.push(match value {
        Value::Nil => Reply::Nil,
        Value::Int(value) => Reply::Int64(*value),
        Value::Boolean(value) => Reply::Int64(i64::from(*value)),
        Value::BulkString(bytes) => Reply::Binary(bytes.clone()),
        Value::SimpleString(text) => Reply::Status(text.clone()),
        Value::Okay => Reply::Status("OK".to_owned()),
        Value::Double(value) => Reply::Binary(value.to_string().into_bytes()),
        Value::BigNumber(value) => Reply::Binary(value.to_string().into_bytes()),
        Value::Array(values) | Value::Set(values) => {
            return values.iter().try_for_each(|value| flatten(value, replies));
        }
        Value::Map(_) => return unsupported("Map type is"),
        Value::Attribute { .. } => return unsupported("Attribute type is"),
        Value::VerbatimString { .. } => return unsupported("string with format attribute is"),
        Value::Push { .. } => return unsupported("Pub/Sub types are"),
        Value::ServerError(error) => {
            return Err(RedisError::from((
                ErrorKind::ResponseError,
                "Server error",
                format!("{error:?}"),
            )));
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allowed_hosts::reached;

    #[test]
    fn what_is_opened_is_what_was_checked() {
        for scheme in ["redis", "rediss", "valkey"] {
            reached::check(scheme, async |settings, address| {
                let connection = connect(settings, address).await;
                assert!(connection.is_err(), "nothing there speaks Redis's protocol");
            });
        }
    }

    #[test]
    fn nested_replies_are_flattened() {
        let value = Value::Array(vec![
            Value::Int(1),
            Value::Array(vec![Value::Nil, Value::Okay]),
            Value::BulkString(b"x".to_vec()),
            Value::Double(0.5),
            Value::Boolean(true),
        ]);
        let Replies(replies) = Replies::from_redis_value(&value).expect("reply is supported");
        let text = format!("{replies:?}");
        assert_eq!(replies.len(), 6, "{text}");
        assert!(matches!(&replies[1], Reply::Nil), "{text}");
        assert!(
            matches!(&replies[2], Reply::Status(ok) if ok == "OK"),
            "{text}"
        );
        assert!(
            matches!(&replies[4], Reply::Binary(half) if half == b"0.5"),
            "{text}"
        );
        assert!(matches!(&replies[5], Reply::Int64(1)), "{text}");
    }

    #[test]
    fn unsupported_replies_are_errors() {
        let error = Replies::from_redis_value(&Value::Map(Vec::new())).expect_err("a map");
        assert!(
            error
                .to_string()
                .contains("Redis Map type is not supported")
        );
    }
}
