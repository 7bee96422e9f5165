//! The Spin variables, typed: every option of the component, its default and
//! its range. Owns refusing a wrong value by name and reason.

mod reader;
mod redis;

use std::{collections::BTreeMap, time::Duration};

use functional_scaffold_protocol::calls::DEFAULT_PREFIX;
use spin_sdk::variables;
use thiserror::Error;

use self::reader::Reader;
pub use self::redis::RedisConfig;
use crate::{log::Level, outbound_http::Origin};

/// Where the metrics go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// Batches into Redis, for the exporter to serve.
    Redis,
    /// Each instance's totals to a Pushgateway, as a group of their own.
    Pushgateway,
    /// Each instance's totals on its own `/metrics`.
    Pull,
    /// Nowhere: nothing is counted.
    Off,
}

/// What is acknowledged by Redis before a request goes on; nothing in the other
/// schemes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Nothing.
    Relaxed,
    /// A lease, before the algorithm runs.
    Exact,
    /// The lease, and the result before the response.
    Strict,
}

/// How a Pushgateway is reached, and under which name.
#[derive(Clone, PartialEq, Eq)]
pub struct PushgatewayConfig {
    /// Where it is.
    pub origin: Origin,
    /// The label `job` of what is pushed.
    pub job: String,
    /// What the label `instance` begins with; may be empty.
    pub instance: String,
    /// The longest wait for one answer, 1 to 1,000 ms.
    pub timeout: Duration,
}

/// Everything that can be configured. Read once an instance.
#[derive(Clone, PartialEq, Eq)]
pub struct Config {
    /// Where the metrics go.
    pub backend: Backend,
    /// The Redis that they go to.
    pub redis: RedisConfig,
    /// The Pushgateway that they go to.
    pub pushgateway: PushgatewayConfig,
    /// Whether `/metrics` answers, where there is something to see.
    pub metrics_endpoint: bool,
    /// The prefix of every Redis key.
    pub prefix: String,
    /// What is acknowledged before a request goes on.
    pub durability: Durability,
    /// How long an execution waits for its lease at the most, 1 to 1,000 ms.
    pub lease_timeout: Duration,
    /// After how long an execution is taken for crashed, 100 ms to an hour.
    pub execution_limit: Duration,
    /// How long increments collect before they are written, 0 to 500 ms. By
    /// default longer where a death makes no answered execution a crashed one.
    pub flush_interval: Duration,
    /// The API key that `/invoke` wants, if any.
    pub api_key: Option<String>,
    /// The largest body taken, in bytes, up to 64 MiB.
    pub max_body_bytes: u64,
    /// How much is logged.
    pub log_level: Level,
}

/// A variable with a value that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("variable {name}: {reason}")]
pub struct ConfigError {
    /// The variable's name.
    pub name: &'static str,
    /// What is wrong, with the offending value unless it is a secret.
    pub reason: String,
}

/// The longest `execution_limit_ms`, an hour.
pub const MAX_EXECUTION_LIMIT_MS: u64 = 3_600_000;

const MAX_BODY_BYTES: u64 = 64 * 1024 * 1024;
/// The longest prefix of keys and the longest names of a group, in bytes: one
/// execution, or one cell of a group, is to fit into a log line with them.
pub const MAX_PREFIX_BYTES: usize = 128;
const MAX_NAME_BYTES: usize = 256;

const NAMES: [&str; 21] = [
    "metrics_backend",
    "metrics_endpoint",
    "metrics_durability",
    "lease_timeout_ms",
    "execution_limit_ms",
    "redis_host",
    "redis_port",
    "redis_tls",
    "redis_metrics_db",
    "redis_username",
    "redis_password",
    "redis_timeout_ms",
    "pushgateway_url",
    "metrics_job_name",
    "instance_id",
    "push_timeout_ms",
    "metrics_prefix",
    "flush_interval_ms",
    "api_key",
    "max_body_bytes",
    "log_level",
];

impl Config {
    /// Reads the variables from the host. One that the manifest does not
    /// declare has its default.
    ///
    /// # Errors
    /// Every variable with a wrong value, and what the host could not resolve.
    pub async fn load() -> Result<Self, Vec<ConfigError>> {
        let mut values = BTreeMap::new();
        let mut errors = Vec::new();
        for name in NAMES {
            match variables::get(name).await {
                Ok(value) => {
                    values.insert(name, value);
                }
                Err(variables::Error::Undefined(_)) => {}
                Err(error) => errors.push(ConfigError {
                    name,
                    reason: error.to_string(),
                }),
            }
        }
        match Self::from_values(&values) {
            Ok(config) if errors.is_empty() => Ok(config),
            Ok(_) => Err(errors),
            Err(wrong) => Err(errors.into_iter().chain(wrong).collect()),
        }
    }

    fn from_values(values: &BTreeMap<&str, String>) -> Result<Self, Vec<ConfigError>> {
        let mut reader = Reader::new(values);
        reader.refuse_empty(&["redis_host", "redis_port"]);
        let backend = reader.backend();
        if backend == Backend::Pushgateway {
            reader.refuse_empty(&["pushgateway_url"]);
        }
        let durability = match (reader.durability(), backend) {
            (durability, Backend::Redis) => durability,
            _ => Durability::Relaxed,
        };
        let flush_interval_ms = match durability {
            Durability::Relaxed => 50,
            Durability::Exact | Durability::Strict => 20,
        };
        let config = Self {
            backend,
            redis: RedisConfig {
                host: reader.host(),
                port: reader.integer("redis_port", 6379, 1..=u16::MAX),
                tls: reader.boolean("redis_tls", false),
                database: reader.integer("redis_metrics_db", 0, 0..=65_535),
                username: reader.text("redis_username", ""),
                password: reader.text("redis_password", ""),
                timeout: reader.millis("redis_timeout_ms", 300, 1..=10_000),
            },
            pushgateway: PushgatewayConfig {
                origin: reader.origin("pushgateway_url", "http://127.0.0.1:9091"),
                job: reader.short_text("metrics_job_name", "functional_scaffold", MAX_NAME_BYTES),
                instance: reader.short_text("instance_id", "", MAX_NAME_BYTES),
                timeout: reader.millis("push_timeout_ms", 300, 1..=1_000),
            },
            metrics_endpoint: reader.boolean("metrics_endpoint", true),
            prefix: reader.short_text("metrics_prefix", DEFAULT_PREFIX, MAX_PREFIX_BYTES),
            durability,
            lease_timeout: reader.millis("lease_timeout_ms", 20, 1..=1_000),
            execution_limit: reader.millis(
                "execution_limit_ms",
                30_000,
                100..=MAX_EXECUTION_LIMIT_MS,
            ),
            flush_interval: reader.millis("flush_interval_ms", flush_interval_ms, 0..=500),
            api_key: Some(reader.text("api_key", "")).filter(|key| !key.is_empty()),
            max_body_bytes: reader.integer("max_body_bytes", 1 << 20, 1..=MAX_BODY_BYTES),
            log_level: reader.log_level(),
        };
        reader.finish(config)
    }
}

#[cfg(test)]
mod tests;
