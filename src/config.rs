//! The Spin variables, typed: every option of the component, its default and
//! its range. Owns refusing a wrong value by name and reason.

use std::{collections::BTreeMap, net::Ipv6Addr, num::NonZeroU16, time::Duration};

use functional_scaffold_schema::protocol::DEFAULT_PREFIX;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use spin_sdk::variables;
use thiserror::Error;

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

/// How Redis is reached.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisConfig {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Whether it is reached over TLS.
    pub tls: bool,
    /// Number of the database.
    pub database: u32,
    /// ACL user; empty for the default user.
    pub username: String,
    /// Password; empty for none.
    pub password: String,
    /// The longest wait for one answer, 1 to 10,000 ms.
    pub timeout: Duration,
}

impl RedisConfig {
    /// The address for Spin's outbound Redis, user info percent-encoded. It
    /// holds the password: not to be logged.
    #[must_use]
    pub fn url(&self) -> String {
        // RFC 3986, section 2.3: what need not be encoded anywhere.
        const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
            .remove(b'-')
            .remove(b'.')
            .remove(b'_')
            .remove(b'~');
        let encode = |text| utf8_percent_encode(text, ENCODED);
        let user_info = match (self.username.is_empty(), self.password.is_empty()) {
            (true, true) => String::new(),
            _ => format!("{}:{}@", encode(&self.username), encode(&self.password)),
        };
        let (scheme, authority) = (self.scheme(), self.authority());
        format!("{scheme}://{user_info}{authority}/{}", self.database)
    }

    /// The address as it may be shown, and as `allowed_outbound_hosts` has it.
    #[must_use]
    pub fn shown(&self) -> String {
        format!("{}://{}", self.scheme(), self.authority())
    }

    fn scheme(&self) -> &'static str {
        if self.tls { "rediss" } else { "redis" }
    }

    fn authority(&self) -> String {
        if self.host.contains(':') && !self.host.starts_with('[') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
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
        let mut reader = Reader {
            values,
            errors: Vec::new(),
        };
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
        if reader.errors.is_empty() {
            Ok(config)
        } else {
            Err(reader.errors)
        }
    }
}

/// Takes values by name and collects what is wrong with them, so that all of
/// it is reported at once.
struct Reader<'a> {
    values: &'a BTreeMap<&'a str, String>,
    errors: Vec<ConfigError>,
}

impl Reader<'_> {
    /// An empty value is as good as none: that is how an optional variable is
    /// left out in a manifest.
    fn text(&self, name: &'static str, default: &str) -> String {
        self.values
            .get(name)
            .filter(|value| !value.is_empty())
            .map_or(default, String::as_str)
            .to_owned()
    }

    fn short_text(&mut self, name: &'static str, default: &str, most_bytes: usize) -> String {
        let text = self.text(name, default);
        if text.len() > most_bytes {
            self.refuse(name, format!("{text:?} is longer than {most_bytes} bytes"));
        }
        text
    }

    /// Refuses an empty value of those that `allowed_outbound_hosts` is built
    /// from: the host would not parse it, and deny every address.
    fn refuse_empty(&mut self, names: &[&'static str]) {
        for name in names {
            if self.values.get(name).is_some_and(String::is_empty) {
                let reason = "must not be empty: allowed_outbound_hosts is built from it";
                self.refuse(name, reason.to_owned());
            }
        }
    }

    fn integer<T>(
        &mut self,
        name: &'static str,
        default: T,
        range: std::ops::RangeInclusive<T>,
    ) -> T
    where
        T: Copy + PartialOrd + std::fmt::Display + std::str::FromStr,
    {
        let text = self.text(name, "");
        if text.is_empty() {
            return default;
        }
        match text.trim().parse() {
            Ok(value) if range.contains(&value) => value,
            _ => {
                let (least, most) = (range.start(), range.end());
                self.refuse(
                    name,
                    format!("{text:?} is not an integer from {least} to {most}"),
                );
                default
            }
        }
    }

    fn millis(
        &mut self,
        name: &'static str,
        default: u64,
        range: std::ops::RangeInclusive<u64>,
    ) -> Duration {
        Duration::from_millis(self.integer(name, default, range))
    }

    fn boolean(&mut self, name: &'static str, default: bool) -> bool {
        match self.text(name, "").as_str() {
            "" => default,
            "true" => true,
            "false" => false,
            other => {
                self.refuse(name, format!("{other:?} is not true or false"));
                default
            }
        }
    }

    fn backend(&mut self) -> Backend {
        match self.text("metrics_backend", "redis").as_str() {
            "redis" => Backend::Redis,
            "pushgateway" => Backend::Pushgateway,
            "pull" => Backend::Pull,
            "off" => Backend::Off,
            other => {
                self.refuse(
                    "metrics_backend",
                    format!("{other:?} is not redis, pushgateway, pull or off"),
                );
                Backend::Off
            }
        }
    }

    fn durability(&mut self) -> Durability {
        match self.text("metrics_durability", "exact").as_str() {
            "relaxed" => Durability::Relaxed,
            "exact" => Durability::Exact,
            "strict" => Durability::Strict,
            other => {
                self.refuse(
                    "metrics_durability",
                    format!("{other:?} is not relaxed, exact or strict"),
                );
                Durability::Relaxed
            }
        }
    }

    fn host(&mut self) -> String {
        let host = self.text("redis_host", "127.0.0.1");
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
        if !host.bytes().all(plain) {
            self.refuse(
                "redis_host",
                format!("{host:?} is not a host name or address (the port is redis_port)"),
            );
        }
        host
    }

    /// A URL of scheme, host and port, as `allowed_outbound_hosts` takes it: with
    /// anything more the host would deny every address, Redis's as well.
    fn origin(&mut self, name: &'static str, default: &str) -> Origin {
        let url = self.text(name, default);
        origin(&url).unwrap_or_else(|| {
            // What stands before an @ may be a password.
            let shown = url.rsplit('@').next().unwrap_or_default();
            self.refuse(
                name,
                format!("{shown:?} is not http:// or https:// with host and port alone"),
            );
            Origin {
                tls: false,
                authority: String::new(),
            }
        })
    }

    fn log_level(&mut self) -> Level {
        let name = self.text("log_level", Level::Info.name());
        Level::from_name(&name).unwrap_or_else(|| {
            self.refuse(
                "log_level",
                format!("{name:?} is not error, warn, info or debug"),
            );
            Level::Info
        })
    }

    fn refuse(&mut self, name: &'static str, reason: String) {
        self.errors.push(ConfigError { name, reason });
    }
}

fn origin(url: &str) -> Option<Origin> {
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let is_host = match host.strip_prefix('[') {
        Some(rest) => rest
            .strip_suffix(']')
            .is_some_and(|address| address.parse::<Ipv6Addr>().is_ok()),
        None => !host.is_empty() && host.bytes().all(plain),
    };
    let is_port = port.is_none_or(|port| port.parse::<NonZeroU16>().is_ok());
    let tls = match scheme {
        "http" => false,
        "https" => true,
        _ => return None,
    };
    (is_host && is_port).then(|| Origin {
        tls,
        authority: authority.to_owned(),
    })
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
