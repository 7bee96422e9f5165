//! The options of the metric path.

use std::{
    fmt::{self, Display, Formatter},
    time::Duration,
};

use functional_scaffold_protocol::{
    calls::DEFAULT_PREFIX,
    replay_key::ReplayKey,
    shard::{MAX_SHARDS, shard_of, shard_prefix},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::{outbound_http::Origin, variables::Reader};

/// How long an instance tries to store its increments after its last response. Spin
/// cannot reuse an instance that still works, and holds only a few hundred of them. If
/// this were not limited, an outage of Redis would take the application down.
pub(crate) const LINGER: Duration = Duration::from_secs(1);

/// The longest `execution_limit_ms`, an hour.
pub(crate) const MAX_EXECUTION_LIMIT_MS: u64 = 3_600_000;

/// The longest `metrics_prefix`, in bytes. With it, one execution of a batch
/// still fits into a log line.
pub(crate) const MAX_PREFIX_BYTES: usize = 128;

/// The longest `metrics_job_name` and `instance_id`, in bytes. With them, one
/// cell of a group still fits into a log line.
const MAX_NAME_BYTES: usize = 256;

/// The metrics scheme.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backend {
    /// Batches go to Redis, from which the exporter serves them.
    Redis,
    /// Each instance pushes its totals to a Pushgateway, as one group.
    Pushgateway,
    /// Each instance serves its totals on its own `/metrics`.
    Pull,
    /// Nothing is counted.
    Off,
}

/// What Redis must acknowledge before a request continues. Always `Batched` in
/// the other schemes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// Nothing.
    Batched,
    /// The lease, before the execution.
    Exact,
    /// The lease, and the result before the response.
    Strict,
}

/// The options of the metric path, by scheme.
#[derive(Clone, PartialEq, Eq)]
pub struct Config {
    pub(crate) backend: Backend,
    pub(crate) durability: Durability,
    /// How long to wait for a lease, 1 to 1,000 ms.
    pub(crate) lease_timeout: Duration,
    /// After how long an execution counts as crashed, 100 ms to an hour.
    pub(crate) execution_limit: Duration,
    pub(crate) redis: RedisConfig,
    pub(crate) pushgateway: PushgatewayConfig,
    /// Whether `/metrics` is served in the pull scheme.
    pub(crate) metrics_endpoint: bool,
    /// The prefix of every Redis key; with shards, what their prefixes begin with.
    pub(crate) prefix: String,
    /// How many there are, 1 to [`MAX_SHARDS`]; `None` without shards.
    pub(crate) shards: Option<u32>,
    /// How long increments collect before a flush, 0 to 500 ms.
    pub(crate) flush_interval: Duration,
    /// Authenticates the batches in the log.
    pub(crate) replay_key: Option<ReplayKey>,
}

/// All but the unreserved characters of RFC 3986, section 2.3.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// How to reach Redis.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct RedisConfig {
    /// One for all shards, or one for each.
    pub(crate) servers: Vec<Server>,
    pub(crate) tls: bool,
    pub(crate) database: u32,
    /// ACL user; empty for the default user.
    pub(crate) username: String,
    /// Empty for none.
    pub(crate) password: String,
    /// How long to wait for one reply, 1 to 10,000 ms.
    pub(crate) timeout: Duration,
}

/// A Redis, or a node of a Redis Cluster.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    /// Host name or address, IPv6 without brackets.
    host: String,
    port: u16,
}

/// Where one instance writes, for life.
pub(crate) struct Shard {
    /// `None` without shards.
    pub(crate) number: Option<u32>,
    /// The prefix of every key.
    pub(crate) prefix: String,
    /// In Redis Cluster, any node.
    pub(crate) server: Server,
}

/// How to reach a Pushgateway, and under which name to push.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct PushgatewayConfig {
    pub(crate) origin: Origin,
    /// The label `job`.
    pub(crate) job: String,
    /// The prefix of the label `instance`; may be empty.
    pub(crate) instance: String,
    /// How long to wait for one response, 1 to 1,000 ms.
    pub(crate) timeout: Duration,
}

impl Config {
    /// Returns whether anything is counted.
    pub(crate) fn counts(&self) -> bool {
        self.backend != Backend::Off
    }

    /// The same without leases.
    pub(crate) fn batched(&self) -> Self {
        Self {
            durability: Durability::Batched,
            ..self.clone()
        }
    }

    /// The shard of the instance with this nonce.
    pub(crate) fn shard(&self, nonce: u64) -> Shard {
        let number = self.shards.map(|shards| shard_of(nonce, shards));
        let servers = &self.redis.servers;
        let own = servers.get(number.unwrap_or_default() as usize);
        Shard {
            number,
            prefix: match number {
                Some(number) => shard_prefix(&self.prefix, number),
                None => self.prefix.clone(),
            },
            server: own.or(servers.first()).cloned().unwrap_or_default(),
        }
    }

    /// Reads the variables of the metric path. Errors stay in `reader`.
    pub fn read(reader: &mut Reader) -> Self {
        let backends = [
            ("redis", Backend::Redis),
            ("pushgateway", Backend::Pushgateway),
            ("pull", Backend::Pull),
            ("off", Backend::Off),
        ];
        let durabilities = [
            ("batched", Durability::Batched),
            ("exact", Durability::Exact),
            ("strict", Durability::Strict),
        ];
        let backend = reader.choice("metrics_backend", Backend::Redis, &backends);
        let durability = reader.choice("metrics_durability", Durability::Exact, &durabilities);
        let durability = match backend {
            Backend::Redis => durability,
            Backend::Pushgateway | Backend::Pull | Backend::Off => Durability::Batched,
        };
        // With leases, a longer interval would let a death turn more responses
        // into crashes.
        let flush_interval = Duration::from_millis(match durability {
            Durability::Batched => 50,
            Durability::Exact | Durability::Strict => 20,
        });
        let (prefix, shards) = read_shards(reader);
        Self {
            backend,
            durability,
            lease_timeout: reader.millis("lease_timeout_ms", "20", 1..=1_000),
            execution_limit: reader.millis(
                "execution_limit_ms",
                "30000",
                100..=MAX_EXECUTION_LIMIT_MS,
            ),
            redis: RedisConfig {
                servers: read_servers(reader, shards),
                tls: reader.boolean("redis_tls", false),
                database: reader.integer("redis_metrics_db", "0", 0..=65_535),
                username: reader.text("redis_username", ""),
                password: reader.text("redis_password", ""),
                timeout: reader.millis("redis_timeout_ms", "300", 1..=10_000),
            },
            pushgateway: PushgatewayConfig {
                origin: reader.origin(
                    "pushgateway_url",
                    "http://127.0.0.1:9091",
                    backend == Backend::Pushgateway,
                ),
                job: reader.short_text("metrics_job_name", "functional_scaffold", MAX_NAME_BYTES),
                instance: reader.short_text("instance_id", "", MAX_NAME_BYTES),
                timeout: reader.millis("push_timeout_ms", "300", 1..=1_000),
            },
            metrics_endpoint: reader.boolean("metrics_endpoint", true),
            prefix,
            // Only Redis has them.
            shards: shards.filter(|_| backend == Backend::Redis),
            flush_interval: reader
                .optional("flush_interval_ms", 0..=500)
                .map_or(flush_interval, Duration::from_millis),
            replay_key: reader.replay_key("replay_key"),
        }
    }
}

/// Reads the prefix and the number of shards.
fn read_shards(reader: &mut Reader) -> (String, Option<u32>) {
    let prefix = reader.short_text("metrics_prefix", DEFAULT_PREFIX, MAX_PREFIX_BYTES);
    let shards = reader.optional("metrics_shards", 1..=MAX_SHARDS);
    if shards.is_some() && prefix.contains(['{', '}']) {
        let reason = format!("{prefix:?} has a brace: a shard's number is the hash tag");
        reader.refuse("metrics_prefix", reason);
    }
    (prefix, shards)
}

/// Reads the servers of these shards.
fn read_servers(reader: &mut Reader, shards: Option<u32>) -> Vec<Server> {
    let hosts = reader.outbound_text("redis_host", "127.0.0.1");
    let port = reader.port("redis_port", "6379");
    let (mut servers, mut count) = (Vec::new(), 0);
    // The text before an @ may be a password, with or without commas.
    if hosts.contains('@') {
        let reason = "contains an @; set user and password in redis_username and redis_password";
        reader.refuse("redis_host", reason.to_owned());
        return servers;
    }
    for host in hosts.split(',') {
        let host = host.trim();
        count += 1;
        match Server::parse(host, port) {
            Some(server) => servers.push(server),
            None => {
                let reason =
                    format!("{host:?} is not a host name or address, with or without a port");
                reader.refuse("redis_host", reason);
            }
        }
    }
    if count > 1 && shards != Some(count) {
        let shards = shards.unwrap_or_default();
        let reason = format!(
            "{count} hosts for {shards} shards (metrics_shards): it has to be one for all, or \
             one for each"
        );
        reader.refuse("redis_host", reason);
    }
    servers
}

impl Server {
    /// Makes a server, unless the host is neither a name nor an address.
    pub(crate) fn new(host: &str, port: u16) -> Option<Self> {
        let is_host_byte = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte);
        let is_host = !host.is_empty() && port != 0 && host.bytes().all(is_host_byte);
        let host = host.to_owned();
        is_host.then_some(Self { host, port })
    }

    /// Parses `host` or `host:port`. An IPv6 address with a port has brackets.
    fn parse(text: &str, port: u16) -> Option<Self> {
        let (host, port) = match text.rsplit_once(':') {
            Some((host, tail)) if !host.contains(':') || host.ends_with(']') => {
                (host, tail.parse().ok()?)
            }
            _ => (text, port),
        };
        let host = host.strip_prefix('[').unwrap_or(host);
        Self::new(host.strip_suffix(']').unwrap_or(host), port)
    }

    /// The node that an error of Redis Cluster redirects to. Redis leaves the host out if it is
    /// that of the node that was asked, and writes IPv6 without brackets.
    pub(crate) fn of_redirect(&self, error: &str) -> Option<Self> {
        let mut words = error.split_ascii_whitespace();
        // As Spin's client writes it, and as Redis does.
        words.find(|word| matches!(*word, "Moved:" | "MOVED"))?;
        let _slot: u16 = words.next()?.parse().ok()?;
        let (host, port) = words.next()?.rsplit_once(':')?;
        let host = match host {
            "" => &self.host,
            _ => host,
        };
        Self::new(host, port.parse().ok()?)
    }
}

/// As in a URL.
impl Display for Server {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        match host.contains(':') {
            true => write!(formatter, "[{host}]:{port}"),
            false => write!(formatter, "{host}:{port}"),
        }
    }
}

impl RedisConfig {
    /// The address of a server for Spin's outbound Redis, with percent-encoded user
    /// info. It holds the password and must not be logged.
    pub(crate) fn url(&self, server: &Server) -> String {
        let encode = |text| utf8_percent_encode(text, ENCODED);
        let user_info = match (self.username.is_empty(), self.password.is_empty()) {
            (true, true) => String::new(),
            _ => format!("{}:{}@", encode(&self.username), encode(&self.password)),
        };
        let scheme = self.scheme();
        format!("{scheme}://{user_info}{server}/{}", self.database)
    }

    /// The password, as it is and as the address has it. Neither may be logged.
    pub(crate) fn secrets(&self) -> [String; 2] {
        let encoded = utf8_percent_encode(&self.password, ENCODED);
        [self.password.clone(), encoded.to_string()]
    }

    /// The address of a server without user info, as `allowed_outbound_hosts` has it.
    pub(crate) fn address(&self, server: &Server) -> String {
        format!("{}://{server}", self.scheme())
    }

    fn scheme(&self) -> &'static str {
        if self.tls { "rediss" } else { "redis" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::variables::VariableError;

    fn config(values: &[(&'static str, &str)]) -> Result<Config, Vec<VariableError>> {
        let values = values.iter().map(|&(name, value)| (name, value.to_owned()));
        let mut reader = Reader::new(values.collect());
        let config = Config::read(&mut reader);
        reader.finish(config)
    }

    fn valid(values: &[(&'static str, &str)]) -> Config {
        config(values).expect("every value is valid")
    }

    /// The URL of the instance whose nonce is 0.
    fn url(config: &Config) -> String {
        config.redis.url(&config.shard(0).server)
    }

    #[test]
    fn every_variable_has_a_default() {
        assert_eq!(url(&valid(&[])), "redis://127.0.0.1:6379/0");
        let empty = valid(&[("redis_tls", ""), ("flush_interval_ms", "")]);
        assert!(empty == valid(&[]), "empty counts as unset");
    }

    #[test]
    fn increments_collect_for_longer_without_leases() {
        for (values, millis) in [
            (&[("metrics_durability", "exact")][..], 20),
            (&[("metrics_durability", "strict")], 20),
            (&[("metrics_durability", "batched")], 50),
            (&[("metrics_backend", "pushgateway")], 50),
            (
                &[
                    ("metrics_durability", "batched"),
                    ("flush_interval_ms", "7"),
                ],
                7,
            ),
        ] {
            let interval = valid(values).flush_interval;
            assert_eq!(interval, Duration::from_millis(millis));
        }
    }

    #[test]
    fn all_wrong_values_are_refused_by_name() {
        let (long_prefix, long_name) = ("é".repeat(65), "x".repeat(257));
        for (name, value) in [
            ("metrics_backend", "statsd"),
            ("metrics_durability", "sure"),
            ("lease_timeout_ms", "0"),
            ("execution_limit_ms", "99"),
            ("redis_host", ""),
            ("redis_host", "redis://x"),
            ("redis_port", ""),
            ("redis_port", "0"),
            ("redis_port", "65536"),
            ("redis_tls", "yes"),
            ("redis_metrics_db", "-1"),
            ("redis_timeout_ms", "0"),
            ("flush_interval_ms", "501"),
            ("flush_interval_ms", "1.5"),
            ("metrics_endpoint", "on"),
            ("push_timeout_ms", "1001"),
            ("pushgateway_url", "127.0.0.1:9091"),
            ("pushgateway_url", "redis://h:9091"),
            ("pushgateway_url", "http://h:9091/pushgateway"),
            ("pushgateway_url", "http://h:x"),
            ("pushgateway_url", "http://h:"),
            ("pushgateway_url", "http://h:0"),
            ("pushgateway_url", "http://[::1"),
            ("pushgateway_url", "http://"),
            ("pushgateway_url", "http://*:9091"),
            ("metrics_prefix", &long_prefix),
            ("metrics_shards", "0"),
            ("metrics_shards", "257"),
            ("redis_host", "h:0"),
            ("redis_host", "h:65536"),
            ("redis_host", "[::1]6379"),
            ("metrics_job_name", &long_name),
            ("instance_id", &long_name),
        ] {
            let errors = config(&[(name, value)]).err().expect("it is refused");
            assert_eq!(errors.len(), 1);
            assert_eq!(errors[0].name, name);
            assert!(errors[0].reason.contains(value), "{}", errors[0]);
        }
        let both = config(&[("redis_port", "x"), ("metrics_backend", "y")]);
        assert_eq!(both.err().map(|errors| errors.len()), Some(2));
    }

    #[test]
    fn a_short_replay_key_is_refused_without_being_shown() {
        assert!(valid(&[("replay_key", "")]).replay_key.is_none());
        let long = "x".repeat(ReplayKey::MIN_BYTES);
        assert!(valid(&[("replay_key", &long)]).replay_key.is_some());
        let errors = config(&[("replay_key", "s3cret")]).err().expect("refused");
        assert_eq!(errors[0].name, "replay_key");
        assert!(!errors[0].reason.contains("s3cret"), "{}", errors[0]);
    }

    #[test]
    fn a_refused_choice_lists_the_choices() {
        let errors = config(&[("metrics_durability", "sure")]).err();
        assert_eq!(
            errors.expect("it is refused")[0].to_string(),
            "variable metrics_durability: \"sure\" is not batched, exact or strict"
        );
    }

    #[test]
    fn a_pushgateway_url_has_scheme_host_and_port_alone() {
        for (url, shown) in [
            ("http://127.0.0.1:9091", "http://127.0.0.1:9091"),
            ("http://push.example_1/", "http://push.example_1"),
            ("https://[::1]:9091", "https://[::1]:9091"),
            ("https://[::1]", "https://[::1]"),
            ("", "http://127.0.0.1:9091"),
        ] {
            let config = valid(&[("pushgateway_url", url)]);
            assert_eq!(config.pushgateway.origin.to_string(), shown);
        }
        let used = [("metrics_backend", "pushgateway"), ("pushgateway_url", "")];
        assert!(config(&used).is_err(), "no host would be allowed");
    }

    #[test]
    fn a_refused_address_is_shown_without_a_password() {
        for (name, value) in [
            ("pushgateway_url", "http://me:s3cret@h:9091"),
            ("redis_host", "redis://me:s3cret@h"),
            ("redis_host", "me:s3cret@h"),
            ("redis_host", "redis://me:s3cret,s3cret@h"),
            ("redis_host", "me:s3@cret,s3cret@h,me:s3cret"),
            ("pushgateway_url", "http://me:s3,s3cret@h:9091"),
        ] {
            for error in config(&[(name, value)]).err().expect("it is refused") {
                let error = error.to_string();
                assert!(!error.contains("s3") && error.contains(name), "{error}");
            }
        }
    }

    #[test]
    fn only_redis_acknowledges() {
        for (backend, durability) in [
            ("redis", Durability::Strict),
            ("pushgateway", Durability::Batched),
            ("pull", Durability::Batched),
        ] {
            let config = valid(&[
                ("metrics_backend", backend),
                ("metrics_durability", "strict"),
            ]);
            assert_eq!(config.durability, durability);
        }
    }

    #[test]
    fn tls_has_its_own_scheme() {
        let config = valid(&[("redis_tls", "true"), ("redis_password", "s3cret")]);
        assert_eq!(url(&config), "rediss://:s3cret@127.0.0.1:6379/0");
        let address = config.redis.address(&config.shard(0).server);
        assert_eq!(address, "rediss://127.0.0.1:6379");
    }

    #[test]
    fn an_instance_keeps_to_the_shard_of_its_nonce() {
        let plain = valid(&[("metrics_prefix", "{m}:")]);
        for nonce in [0, 7, u64::MAX] {
            let shard = plain.shard(nonce);
            assert_eq!((shard.number, &*shard.prefix), (None, "{m}:"));
        }
        let values = [
            ("metrics_shards", "3"),
            ("redis_host", "a, b:7000,[2001:db8::1]:7001"),
            ("redis_port", "6380"),
        ];
        let several = valid(&values);
        let one = valid(&[("metrics_shards", "3"), ("redis_host", "::1")]);
        for (nonce, number, server) in [
            (0, 0, "a:6380"),
            (4, 1, "b:7000"),
            (5, 2, "[2001:db8::1]:7001"),
        ] {
            let shard = several.shard(nonce);
            assert_eq!(shard.number, Some(number));
            assert_eq!(shard.prefix, format!("metrics:{{{number}}}:"));
            assert_eq!(shard.server.to_string(), server);
            let shard = one.shard(nonce);
            assert_eq!(shard.number, Some(number));
            assert_eq!(shard.server.to_string(), "[::1]:6379");
        }
        let pushed = [("metrics_shards", "3"), ("metrics_backend", "pushgateway")];
        assert_eq!(valid(&pushed).shard(4).prefix, "metrics:");
    }

    #[test]
    fn hosts_and_braces_must_agree_with_the_shards() {
        for (values, reason) in [
            (
                &[("redis_host", "a,b")][..],
                "variable redis_host: 2 hosts for 0 shards (metrics_shards): it has to be one for \
                 all, or one for each",
            ),
            (
                &[("redis_host", "a,b"), ("metrics_shards", "3")],
                "variable redis_host: 2 hosts for 3 shards (metrics_shards): it has to be one for \
                 all, or one for each",
            ),
            (
                &[("redis_host", "a,,b"), ("metrics_shards", "3")],
                "variable redis_host: \"\" is not a host name or address, with or without a port",
            ),
            (
                &[("metrics_prefix", "{m}:"), ("metrics_shards", "1")],
                "variable metrics_prefix: \"{m}:\" has a brace: a shard's number is the hash tag",
            ),
        ] {
            let errors = config(values).err().expect("it is refused");
            let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
            assert_eq!(errors, [reason]);
        }
    }

    #[test]
    fn a_redirect_names_the_node_to_ask() {
        let asked = Server::new("h", 1).expect("a host");
        for (error, node) in [
            (
                "An error was signalled by the server - Moved: 3999 127.0.0.1:6381",
                Some("127.0.0.1:6381"),
            ),
            ("MOVED 3999 ::1:6381", Some("[::1]:6381")),
            (
                "MOVED 3999 redis-1.example:6381",
                Some("redis-1.example:6381"),
            ),
            ("MOVED 3999 :6381", Some("h:6381")),
            // A host name that the cluster does not know.
            ("MOVED 3999 ?:6381", None),
            ("MOVED 3999 me:s3cret@h:6381", None),
            ("MOVED 3999 h:0", None),
            ("MOVED", None),
            (
                "An error was signalled by the server - Ask: 3999 127.0.0.1:6381",
                None,
            ),
        ] {
            let moved = asked.of_redirect(error).map(|node| node.to_string());
            assert_eq!(moved.as_deref(), node, "{error}");
        }
    }

    #[test]
    fn user_info_is_percent_encoded() {
        let config = valid(&[
            ("redis_host", "::1"),
            ("redis_username", "me"),
            ("redis_password", "p@ss/w:rd é"),
            ("redis_metrics_db", "3"),
        ]);
        assert_eq!(
            url(&config),
            "redis://me:p%40ss%2Fw%3Ard%20%C3%A9@[::1]:6379/3"
        );
    }
}
