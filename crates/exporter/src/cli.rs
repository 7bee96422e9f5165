//! The command line: every option, as a flag and as an environment variable, and
//! their checked form, [`Config`].

use std::{
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use clap::{
    ArgAction, Args, Parser, Subcommand, ValueEnum,
    builder::{FalseyValueParser, NonEmptyStringValueParser},
    value_parser,
};
use functional_scaffold_protocol::{
    calls::DEFAULT_PREFIX,
    labels::is_label_name,
    replay_key::ReplayKey,
    shard::{MAX_SHARDS, shard_prefix},
};
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _};
use serde::Serialize;
use tokio_rustls::TlsAcceptor;
use tracing::level_filters::LevelFilter;
use url::Url;

use crate::{
    commands::{log_lines::Trust, selector::Selector},
    server::{auth::Auth, listen::tls_acceptor},
};

/// The longest time-out of an option, in milliseconds.
const MAX_TIMEOUT_MS: u64 = 600_000;
/// A pause of more than 5 s between two scripts counts as a standstill of Redis, and
/// extends every lease (`MAX_GAP_MS` in `clock.lua`).
const MAX_SETTLE_INTERVAL_MS: u64 = 4_999;
/// Bounds of the page's read interval. A shorter one would load Redis and show no
/// more.
const PAGE_INTERVAL_MS: RangeInclusive<u64> = 500..=60_000;

/// Serves the metric families registered in Redis to Prometheus.
///
/// Reads the hash metrics:families and the hash of every family listed there, and
/// serves them on /metrics: what is exported is what the writers register. Counts an
/// execution as crashed when its lease expires; writes nothing else. Also serves
/// /healthz (the exporter is alive), /readyz (Redis replies) and / (a page with
/// charts of the last minutes).
///
/// While Redis is down, /metrics still responds 200, with functional_scaffold_redis_up 0.
#[derive(Parser)]
#[command(name = "functional-scaffold-exporter", version, about, long_about, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(flatten)]
    redis: RedisOptions,
    #[command(flatten)]
    serve: ServeOptions,
    #[command(flatten)]
    security: SecurityOptions,
    #[command(flatten)]
    page: PageOptions,
    #[command(flatten)]
    follow: FollowServeOptions,
    #[command(flatten)]
    pub(crate) log: LogOptions,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

const EXAMPLES: &str = "\
Examples:
  functional-scaffold-exporter
  functional-scaffold-exporter --redis-host redis.internal --redis-db 2
  REDIS_PASSWORD_FILE=/run/secrets/redis functional-scaffold-exporter --listen 0.0.0.0:8001

A flag takes precedence over its environment variable. An empty REDIS_URL, REDIS_TLS,
REDIS_CA_FILE, REDIS_USERNAME, REDIS_PASSWORD, REDIS_PASSWORD_FILE or
EXPORTER_STATE_FILE counts as not set.

A dedicated Redis user needs these permissions only:
  ACL SETUSER exporter on >PASSWORD ~metrics:* +ping +select +info +hscan +hlen
      +zscan +hmget +evalsha +eval +time +hget +hset +hsetnx +hincrby +zadd +zrem
      +zcard +zscore +zrangebyscore +zremrangebyscore
and for replay and follow also +unlink. With %R~metrics:* and no scripts the exporter
can read, but can neither count crashes nor tell a wiped Redis from lost writes.";

/// What the exporter can do instead of serving.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Store batches that the service wrote to its log.
    ///
    /// Reads log lines with "event":"batch_not_stored" and stores each batch once,
    /// however often it is replayed within an hour. Ignores other lines, and refuses
    /// batches that the key has not signed. Prints a summary at the end; the exit code is
    /// 0 if every batch is stored, with all of its executions.
    #[command(after_help = REPLAY_EXAMPLES)]
    Replay(ReplayOptions),
    /// Replay the app's logs as they grow.
    ///
    /// Reads the logs across rotation and restarts, in the formats of the app itself, of
    /// Docker (json-file) and of Kubernetes (CRI), and stores each batch that Redis does
    /// not have, once. While Redis does not respond it waits: the log keeps the batches.
    /// With --listen it serves metrics about that. The exporter does the same beside
    /// serving with --follow.
    #[command(after_help = FOLLOW_EXAMPLES)]
    Follow(FollowOptions),
    /// Relay the families to a Pushgateway, as one group.
    ///
    /// Reads what a scrape reads, at every interval, and replaces the group. Let
    /// Prometheus scrape the Pushgateway with honor_labels: true, and not the
    /// exporter of the same store as well.
    Push(PushOptions),
    /// List the stored series, or remove some of them.
    #[command(subcommand)]
    Series(SeriesCommand),
    /// Check that the exporter with the same options is alive.
    ///
    /// Requests /healthz at the address of --listen (or EXPORTER_LISTEN), over TLS if
    /// a certificate is configured; any certificate is accepted. The exit code is 0 if
    /// the response is 200 within 2.5 s. For the health check of a container, which
    /// has no other program.
    Health,
    /// Start a new epoch: reset every count to 0.
    ///
    /// Prometheus sees a counter reset. Registrations and leases stay, and batches
    /// that were stored before are not stored again. Counts whose key is
    /// reserved, in another slot of a Redis Cluster, or forbidden to the Redis user
    /// stay, and are printed.
    Wipe(WipeOptions),
}

const REPLAY_EXAMPLES: &str = "\
Examples:
  export REPLAY_KEY_FILE=/run/secrets/replay_key
  functional-scaffold-exporter replay app.log app.log.1
  kubectl logs -f -l app.kubernetes.io/component=app --tail=-1 |
      functional-scaffold-exporter replay
  functional-scaffold-exporter replay --to http://127.0.0.1:9091 app.log";

const FOLLOW_EXAMPLES: &str = "\
Examples:
  export REPLAY_KEY_FILE=/run/secrets/replay_key
  functional-scaffold-exporter follow --positions /var/lib/exporter/positions /var/log/app
  functional-scaffold-exporter follow --listen 0.0.0.0:8001 --positions positions app.log
  functional-scaffold-exporter --follow /var/log/app --positions /var/lib/exporter/positions";

#[derive(Args)]
pub(crate) struct ReplayOptions {
    /// Log files, read one after the other; `-`, or none, is standard input.
    #[arg(value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,

    #[command(flatten)]
    pub(crate) trust: TrustOptions,

    #[command(flatten)]
    pub(crate) policy: ReplayPolicy,
}

#[derive(Args)]
pub(crate) struct TrustOptions {
    /// Key with which the service signs batches: the value of its variable replay_key.
    /// Prefer the variable or the file: other users can see a flag in the process list.
    #[arg(long, env, value_name = "KEY", hide_env_values = true)]
    replay_key: Option<String>,

    /// File with the key; one line break at its end is ignored.
    #[arg(long, env, value_name = "FILE")]
    replay_key_file: Option<PathBuf>,

    /// Store batches that no key has signed. Everybody who can write a line to the log
    /// can then add to every count: an algorithm by its output, a client where a text of
    /// it begins a line.
    #[arg(long, env = "EXPORTER_TRUST_UNAUTHENTICATED_LOG", value_parser = FalseyValueParser::new())]
    trust_unauthenticated_log: bool,
}

/// What `replay` stores, and where.
#[derive(Args, Clone, Default)]
pub(crate) struct ReplayPolicy {
    /// Also store batches that are older than an hour. Redis may no longer know
    /// whether such a batch was stored before, and then counts it twice.
    #[arg(long)]
    pub(crate) force: bool,

    /// Restore the groups of a service that pushes to a Pushgateway there, instead of
    /// storing batches in Redis. Works for groups of any age, and changes nothing
    /// where a group is up to date.
    #[arg(long, value_name = "URL")]
    pub(crate) to: Option<String>,

    /// How long to retry while Redis or the Pushgateway is unavailable.
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = value_parser!(u64).range(0..=86_400))]
    pub(crate) retry_seconds: u64,

    /// Retries whatever Redis replies, for ever.
    #[arg(skip)]
    pub(crate) is_endless: bool,
}

#[derive(Args)]
pub(crate) struct FollowOptions {
    /// Directories, and log files. A directory: every file in it, new ones included, down
    /// to three levels below it. A file: the file and its rotations, whose names begin
    /// with its name and a dot or a hyphen.
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,

    /// File that remembers how far each log was read.
    #[arg(long, env = "EXPORTER_POSITIONS", value_name = "FILE")]
    positions: PathBuf,

    /// Address and port on which to serve /metrics (about following only), /healthz and
    /// /readyz. Without it, nothing is served.
    #[arg(long, env = "EXPORTER_LISTEN", value_name = "HOST:PORT")]
    listen: Option<String>,

    #[command(flatten)]
    trust: TrustOptions,
}

#[derive(Subcommand)]
pub(crate) enum SeriesCommand {
    /// Print the series, one per line.
    #[command(after_help = LIST_EXAMPLES)]
    List(ListOptions),
    /// Remove series, or whole families.
    ///
    /// A removed series is gone from the exporter's next scrape, and starts at 0 if it
    /// is written again. Exporters that read the store at least once a week notice the
    /// removal. A removed family is registered again by the next instance that writes
    /// it.
    #[command(after_help = REMOVE_EXAMPLES)]
    Remove(RemoveOptions),
}

const LIST_EXAMPLES: &str = "\
Examples:
  functional-scaffold-exporter series list
  functional-scaffold-exporter series list --families
  functional-scaffold-exporter series list 'http_requests_total{status=\"error\"}'";

const REMOVE_EXAMPLES: &str = "\
Examples:
  functional-scaffold-exporter series remove --dry-run 'jobs_total{kind=\"nightly\"}'
  functional-scaffold-exporter series remove --yes jobs_total job_seconds

Without --yes it prints what would be removed, and fails. The Redis user of the
exporter needs +hdel +type +unlink +zadd +zrange +zremrangebyrank +expire for it.";

#[derive(Args)]
pub(crate) struct ListOptions {
    /// Families (jobs_total), or series with certain labels
    /// (jobs_total{kind="nightly"}); all families if none is given.
    #[arg(value_name = "SELECTOR")]
    pub(crate) selectors: Vec<Selector>,

    /// Print families instead: name, type and number of series, separated by tabs.
    #[arg(long)]
    pub(crate) families: bool,
}

#[derive(Args)]
pub(crate) struct RemoveOptions {
    /// A family with its registration (jobs_total), all its series
    /// (jobs_total{}), or the series with certain labels
    /// (jobs_total{kind="nightly"}).
    #[arg(value_name = "SELECTOR", required = true)]
    pub(crate) selectors: Vec<Selector>,

    /// Only print what would be removed.
    #[arg(long, conflicts_with = "yes")]
    pub(crate) dry_run: bool,

    /// Confirm the removal.
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Args)]
pub(crate) struct WipeOptions {
    /// Confirm the reset of every count.
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Args)]
pub(crate) struct PushOptions {
    /// URL of the Pushgateway: http://pushgateway:9091, or
    /// https://user:password@host/path. Prefer the variable if it contains a password:
    /// other users can see a flag in the process list.
    #[arg(long, env = "PUSHGATEWAY_URL", value_name = "URL", hide_env_values = true, value_parser = NonEmptyStringValueParser::new())]
    pub(crate) to: String,

    /// Time between two pushes; a failed push is retried within it.
    #[arg(long, env = "EXPORTER_PUSH_INTERVAL", value_name = "TIME", default_value = "15s", value_parser = push_interval)]
    pub(crate) interval: Duration,

    /// Value of the group's label job.
    #[arg(long, env = "METRICS_JOB_NAME", value_name = "NAME", default_value = "functional_scaffold", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) job: String,

    /// A further label of the group; may be repeated. Without an instance, the group is
    /// the relay's own, with the labels instance and scheme=redis, and is deleted when it
    /// stops.
    #[arg(long, value_name = "NAME=VALUE", value_parser = grouping)]
    pub(crate) grouping: Vec<(String, String)>,

    /// Push once and exit, to the group of --job and --grouping alone. The exit code is 0
    /// if the Pushgateway accepted the push.
    #[arg(long)]
    pub(crate) once: bool,
}

#[derive(Args)]
#[command(next_help_heading = "Redis")]
struct RedisOptions {
    /// Host name or IP address of Redis. With --metrics-shards also a list, separated by
    /// commas, of one host per shard; each may have its own port, as in redis-0:6380. A
    /// single host has every shard: a Redis Cluster, of which it is any node.
    #[arg(long, global = true, env, value_name = "HOST", default_value = "127.0.0.1", value_parser = NonEmptyStringValueParser::new())]
    redis_host: String,

    /// Port of Redis.
    #[arg(long, global = true, env, value_name = "PORT", default_value = "6379", value_parser = port)]
    redis_port: u16,

    /// Whether to use TLS. Redis's certificate must be trusted and valid for the
    /// host.
    #[arg(long, global = true, env, value_name = "BOOL", default_value = "false", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean, action = ArgAction::Set)]
    redis_tls: bool,

    /// PEM file with the certificate authorities to trust for Redis, instead of the
    /// system's.
    #[arg(long, global = true, env, value_name = "FILE")]
    redis_ca_file: Option<PathBuf>,

    /// Number of the Redis database with the metrics.
    #[arg(long, global = true, env = "REDIS_METRICS_DB", value_name = "NUMBER", default_value = "0", value_parser = value_parser!(i64).range(0..))]
    redis_db: i64,

    /// User name (Redis ACL). Without it, the password is the default user's.
    #[arg(long, global = true, env, value_name = "NAME")]
    redis_username: Option<String>,

    /// Password. Prefer the variable or the file: other users can see a flag in the
    /// process list.
    #[arg(
        long,
        global = true,
        env,
        value_name = "PASSWORD",
        hide_env_values = true
    )]
    redis_password: Option<String>,

    /// File with the password; one line break at its end is ignored.
    #[arg(long, global = true, env, value_name = "FILE")]
    redis_password_file: Option<PathBuf>,

    /// Redis as a URL, instead of host, port and TLS:
    /// redis://user:password@redis.internal:6379/2, rediss://… for TLS, or
    /// redis+unix:///run/redis.sock?db=2. The other options provide what it leaves out
    /// (user, password, database).
    #[arg(long, global = true, env, value_name = "URL", hide_env_values = true)]
    redis_url: Option<String>,

    /// Time-out, in milliseconds, for a connection attempt and for each reply.
    #[arg(long, global = true, env, value_name = "MS", default_value = "2000", value_parser = value_parser!(u64).range(1..=MAX_TIMEOUT_MS))]
    redis_timeout_ms: u64,

    /// Prefix of every key.
    #[arg(long, global = true, env, value_name = "PREFIX", default_value = DEFAULT_PREFIX)]
    metrics_prefix: String,

    /// Number of shards, as the app's variable metrics_shards has it. Their counts are
    /// added up. While one cannot be read, none is served.
    #[arg(long, global = true, env, value_name = "NUMBER", value_parser = shards)]
    metrics_shards: Option<NumberOfShards>,
}

#[derive(Args)]
#[command(next_help_heading = "Serving")]
struct ServeOptions {
    /// Address and port to listen on. The default is reachable from this machine only;
    /// use 0.0.0.0:8001 in a container.
    #[arg(long, env = "EXPORTER_LISTEN", value_name = "HOST:PORT", default_value = "127.0.0.1:8001", value_parser = NonEmptyStringValueParser::new())]
    listen: String,

    /// Time-out, in milliseconds, for a scrape. Keep it below Prometheus's
    /// scrape_timeout (10 s by default), or Prometheus gives up before the response
    /// can say that Redis is down.
    #[arg(long, env = "EXPORTER_SCRAPE_TIMEOUT_MS", value_name = "MS", default_value = "8000", value_parser = value_parser!(u64).range(1..=MAX_TIMEOUT_MS))]
    scrape_timeout_ms: u64,

    /// Approximate number of hash fields that Redis returns at a time (HSCAN COUNT).
    /// Redis serves no other client meanwhile: 500 take less than a millisecond.
    #[arg(long, env = "EXPORTER_SCAN_COUNT", value_name = "FIELDS", default_value = "500", value_parser = value_parser!(u32).range(1..=100_000))]
    scan_count: u32,

    /// Time, in milliseconds, between two checks for expired leases, besides those of
    /// scrapes. Below 5000: a longer pause counts as a standstill of Redis, and extends
    /// all leases.
    #[arg(long, env = "EXPORTER_SETTLE_INTERVAL_MS", value_name = "MS", default_value = "2000", value_parser = value_parser!(u64).range(10..=MAX_SETTLE_INTERVAL_MS))]
    settle_interval_ms: u64,

    /// File for the values that were served last, written before each response. With
    /// it, no counter steps back even if the exporter and Redis stop together (a power
    /// cut) and Redis loses writes. Each exporter, also one that pushes, needs its own
    /// file.
    #[arg(long, env = "EXPORTER_STATE_FILE", value_name = "FILE")]
    state_file: Option<PathBuf>,

    /// Maximum number of samples from Redis. If there are more, the largest families are
    /// left out, and counted in functional_scaffold_decode_errors as too_many. Memory
    /// grows by 0.2 to 1.5 KB per sample.
    #[arg(long, env = "EXPORTER_MAX_SAMPLES", value_name = "NUMBER", default_value = "5000000", value_parser = value_parser!(u32).range(1..))]
    max_samples: u32,

    /// Maximum number of concurrent scrapes; further ones get a 503.
    #[arg(long, env = "EXPORTER_MAX_SCRAPES", value_name = "NUMBER", default_value = "40", value_parser = value_parser!(u16).range(1..=1000))]
    max_scrapes: u16,

    /// Time-out, in milliseconds, for a client to finish the TLS handshake, to send the
    /// head of a request (idle time before it included), and to read a response.
    #[arg(long, env = "EXPORTER_CLIENT_TIMEOUT_MS", value_name = "MS", default_value = "30000", value_parser = value_parser!(u64).range(100..=600_000))]
    client_timeout_ms: u64,
}

#[derive(Args)]
#[command(next_help_heading = "Authentication and TLS")]
struct SecurityOptions {
    /// File with bearer tokens, one per line. Every route but /healthz and /readyz
    /// then requires one.
    #[arg(
        long,
        global = true,
        env = "EXPORTER_AUTH_BEARER_FILE",
        value_name = "FILE"
    )]
    auth_bearer_file: Option<PathBuf>,

    /// File with credentials for basic authentication, one user:password per line.
    /// With a token file as well, either is accepted.
    #[arg(
        long,
        global = true,
        env = "EXPORTER_AUTH_BASIC_FILE",
        value_name = "FILE"
    )]
    auth_basic_file: Option<PathBuf>,

    /// Further host names by which clients may address the exporter, separated by commas.
    /// Without credentials it answers to IP addresses, localhost, the host of --listen,
    /// and, unless it listens on loopback, names that public DNS does not have: without
    /// a dot, or below .svc, .local and .internal. This protects it from web pages whose
    /// name resolves to its address.
    #[arg(
        long,
        global = true,
        env = "EXPORTER_ALLOWED_HOSTS",
        value_name = "NAMES",
        value_delimiter = ','
    )]
    allowed_hosts: Vec<String>,

    /// PEM file with the TLS certificate and its intermediates. It is read at the
    /// start: a new certificate needs a restart.
    #[arg(
        long,
        global = true,
        env = "EXPORTER_TLS_CERT_FILE",
        value_name = "FILE"
    )]
    tls_cert_file: Option<PathBuf>,

    /// PEM file with the certificate's private key.
    #[arg(
        long,
        global = true,
        env = "EXPORTER_TLS_KEY_FILE",
        value_name = "FILE"
    )]
    tls_key_file: Option<PathBuf>,
}

#[derive(Args)]
#[command(next_help_heading = "Page")]
struct PageOptions {
    /// Time, in milliseconds, between two reads of Redis for the page at /; longer
    /// if a read takes long. 0 disables these reads, and the page shows links only.
    #[arg(long, env = "EXPORTER_PAGE_INTERVAL_MS", value_name = "MS", default_value = "5000", value_parser = page_interval)]
    page_interval_ms: u64,

    /// URL of Prometheus, for a link on the page.
    #[arg(long, env = "EXPORTER_PROMETHEUS_URL", value_name = "URL")]
    prometheus_url: Option<String>,

    /// URL of the Grafana dashboard, for a link on the page.
    #[arg(long, env = "EXPORTER_GRAFANA_URL", value_name = "URL")]
    grafana_url: Option<String>,
}

#[derive(Args)]
#[command(next_help_heading = "Following the app's log")]
struct FollowServeOptions {
    /// Log files of the app, or directories, separated by commas: batches in them that
    /// Redis does not have are stored as soon as it responds, as the command follow does.
    #[arg(
        long,
        env = "EXPORTER_FOLLOW",
        value_name = "PATHS",
        value_delimiter = ','
    )]
    follow: Vec<PathBuf>,

    /// File that remembers how far each log was read. --follow requires it.
    #[arg(long, env = "EXPORTER_POSITIONS", value_name = "FILE")]
    positions: Option<PathBuf>,

    #[command(flatten)]
    trust: TrustOptions,
}

#[derive(Args)]
#[command(next_help_heading = "Log")]
pub(crate) struct LogOptions {
    /// Lowest level to log, on standard error: off, error, warn, info, debug, trace.
    #[arg(
        long,
        global = true,
        env = "EXPORTER_LOG_LEVEL",
        value_name = "LEVEL",
        default_value = "info"
    )]
    pub(crate) log_level: LevelFilter,

    /// Format of the log.
    #[arg(
        long,
        global = true,
        env = "EXPORTER_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "text"
    )]
    pub(crate) log_format: LogFormat,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum LogFormat {
    /// Plain text.
    Text,
    /// One JSON object per line.
    Json,
}

/// The options of the exporter, checked. It has no `Debug`, because it holds secrets.
pub(crate) struct Config {
    pub(crate) listen: String,
    /// At least one.
    pub(crate) stores: Vec<StoreConfig>,
    /// The prefix of every key where there are no shards.
    pub(crate) prefix: String,
    /// Certificate authorities (PEM) to trust instead of the system's.
    pub(crate) redis_ca: Option<Vec<u8>>,
    pub(crate) redis_timeout: Duration,
    pub(crate) scrape_timeout: Duration,
    pub(crate) scan_count: u32,
    pub(crate) max_samples: usize,
    pub(crate) settle_interval: Duration,
    pub(crate) state_file: Option<PathBuf>,
    /// Without it, no credentials are required.
    pub(crate) auth: Option<Auth>,
    /// Checked without credentials.
    pub(crate) allowed_hosts: Vec<String>,
    /// Without it, connections are plain HTTP.
    pub(crate) tls: Option<TlsAcceptor>,
    pub(crate) max_scrapes: usize,
    pub(crate) client_timeout: Duration,
    /// Without it, nothing is read for the page.
    pub(crate) page_interval: Option<Duration>,
    pub(crate) links: Links,
    /// Without it, no log is followed.
    pub(crate) follow: Option<FollowConfig>,
}

/// One store: the only one, or a shard. It has no `Debug`, because it holds a password.
#[derive(Clone)]
pub(crate) struct StoreConfig {
    /// The number of the shard; `None` without shards.
    pub(crate) shard: Option<u32>,
    /// Address, database and credentials.
    pub(crate) redis: ConnectionInfo,
    /// The prefix of every key.
    pub(crate) prefix: String,
}

impl StoreConfig {
    /// The label of the shard, as metrics have it; empty without shards.
    pub(crate) fn labels(&self) -> String {
        match self.shard {
            Some(shard) => format!("shard=\"{shard}\""),
            None => String::new(),
        }
    }
}

/// The logs to follow.
pub(crate) struct FollowConfig {
    pub(crate) paths: Vec<PathBuf>,
    pub(crate) positions: PathBuf,
    /// An error where no batch can be trusted. It does not keep the exporter from serving.
    pub(crate) trust: anyhow::Result<Trust>,
}

/// Links on the page.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Links {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prometheus: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) grafana: Option<String>,
}

impl Cli {
    /// Combines the options, and reads the files that they name. No error shows a
    /// secret.
    pub(crate) fn check(self) -> anyhow::Result<Config> {
        let stores = self.redis.stores()?;
        let page_interval = Duration::from_millis(self.page.page_interval_ms);
        Ok(Config {
            listen: self.serve.listen,
            redis_ca: self.redis.certificate_authority(&stores)?,
            stores,
            prefix: self.redis.metrics_prefix.clone(),
            redis_timeout: Duration::from_millis(self.redis.redis_timeout_ms),
            scrape_timeout: Duration::from_millis(self.serve.scrape_timeout_ms),
            scan_count: self.serve.scan_count,
            max_samples: self.serve.max_samples as usize,
            settle_interval: Duration::from_millis(self.serve.settle_interval_ms),
            state_file: set_path(&self.serve.state_file).map(Path::to_path_buf),
            auth: Auth::read(
                set_path(&self.security.auth_bearer_file),
                set_path(&self.security.auth_basic_file),
            )?,
            allowed_hosts: self.security.allowed_hosts.clone(),
            tls: self.security.tls()?,
            max_scrapes: self.serve.max_scrapes.into(),
            client_timeout: Duration::from_millis(self.serve.client_timeout_ms),
            page_interval: (!page_interval.is_zero()).then_some(page_interval),
            links: Links {
                prometheus: link("--prometheus-url", &self.page.prometheus_url)?,
                grafana: link("--grafana-url", &self.page.grafana_url)?,
            },
            follow: self.follow.check()?,
        })
    }
}

impl RedisOptions {
    /// The only store, or every shard.
    fn stores(&self) -> anyhow::Result<Vec<StoreConfig>> {
        let servers = self.servers()?;
        let shards = self
            .metrics_shards
            .and_then(|NumberOfShards(number)| number);
        let Some(shards) = shards else {
            ensure!(
                servers.len() == 1,
                "REDIS_HOST has {} hosts: set METRICS_SHARDS to their number",
                servers.len()
            );
            let one = servers.into_iter().map(|redis| StoreConfig {
                shard: None,
                redis,
                prefix: self.metrics_prefix.clone(),
            });
            return Ok(one.collect());
        };
        ensure!(
            servers.len() == 1 || servers.len() == shards as usize,
            "REDIS_HOST has {} hosts, and METRICS_SHARDS is {shards}: name one host for each \
             shard, or one for all",
            servers.len()
        );
        ensure!(
            !self.metrics_prefix.contains(['{', '}']),
            "METRICS_PREFIX contains a brace, which METRICS_SHARDS does not allow"
        );
        // The only host, if there is one, is repeated.
        let servers = servers.iter().cycle().cloned();
        let stores = (0..shards).zip(servers).map(|(shard, redis)| StoreConfig {
            shard: Some(shard),
            redis,
            prefix: shard_prefix(&self.metrics_prefix, shard),
        });
        Ok(stores.collect())
    }

    /// Every server that the options name.
    fn servers(&self) -> anyhow::Result<Vec<ConnectionInfo>> {
        let Some(url) = set(&self.redis_url) else {
            let hosts = self.redis_host.split(',');
            return hosts.map(|host| self.server(host.trim())).collect();
        };
        let server = self.info_from_url(url)?;
        Ok(vec![self.with_credentials(server)?])
    }

    /// The server at a host, which may have a port.
    fn server(&self, text: &str) -> anyhow::Result<ConnectionInfo> {
        let (host, port) = host_and_port(text, self.redis_port)?;
        let mut info = (host.as_str(), port)
            .into_connection_info()
            .context("unusable host or port of Redis")?;
        if self.redis_tls {
            info.addr = ConnectionAddr::TcpTls {
                host,
                port,
                insecure: false,
                tls_params: None,
            };
        }
        info.redis.db = self.redis_db;
        self.with_credentials(info)
    }

    fn with_credentials(&self, mut info: ConnectionInfo) -> anyhow::Result<ConnectionInfo> {
        if info.redis.username.is_none() {
            info.redis.username = set(&self.redis_username).map(str::to_owned);
        }
        if info.redis.password.is_none() {
            info.redis.password = self.password()?;
        }
        Ok(info)
    }

    /// No error shows the URL: it may contain the password.
    fn info_from_url(&self, text: &str) -> anyhow::Result<ConnectionInfo> {
        let url = redis::parse_redis_url(text).context(
            "REDIS_URL is not a URL that begins with redis://, rediss:// or redis+unix://",
        )?;
        let over_tls = matches!(url.scheme(), "rediss" | "valkeys");
        ensure!(
            over_tls || !self.redis_tls,
            "REDIS_TLS is set, but REDIS_URL does not begin with rediss://"
        );
        ensure!(
            url.fragment().is_none(),
            "REDIS_URL ends with #…: certificates are always checked"
        );
        let mut info = url
            .clone()
            .into_connection_info()
            .context("unusable REDIS_URL")?;
        let names_db = match info.addr {
            ConnectionAddr::Unix(_) => url.query_pairs().any(|(name, _)| name == "db"),
            _ => !url.path().trim_matches('/').is_empty(),
        };
        if !names_db {
            info.redis.db = self.redis_db;
        }
        Ok(info)
    }

    fn certificate_authority(&self, stores: &[StoreConfig]) -> anyhow::Result<Option<Vec<u8>>> {
        let Some(file) = set_path(&self.redis_ca_file) else {
            return Ok(None);
        };
        let is_tls =
            |store: &StoreConfig| matches!(store.redis.addr, ConnectionAddr::TcpTls { .. });
        ensure!(
            stores.iter().all(is_tls),
            "REDIS_CA_FILE needs TLS: set REDIS_TLS=true, or use a rediss:// REDIS_URL"
        );
        let authority = std::fs::read_to_string(file)
            .with_context(|| format!("cannot read REDIS_CA_FILE {}", file.display()))?;
        // The client would trust no certificate, and not say why.
        ensure!(
            authority.contains("-----BEGIN CERTIFICATE-----"),
            "REDIS_CA_FILE {} contains no certificate in PEM format",
            file.display()
        );
        Ok(Some(authority.into_bytes()))
    }

    fn password(&self) -> anyhow::Result<Option<String>> {
        secret(
            "REDIS_PASSWORD",
            &self.redis_password,
            "REDIS_PASSWORD_FILE",
            &self.redis_password_file,
        )
    }
}

impl FollowOptions {
    /// The address to serve on, if there is one.
    pub(crate) fn listen(&self) -> Option<String> {
        set(&self.listen).map(str::to_owned)
    }

    pub(crate) fn check(self) -> FollowConfig {
        FollowConfig {
            trust: self.trust.check(),
            paths: self.paths,
            positions: self.positions,
        }
    }
}

impl FollowServeOptions {
    fn check(&self) -> anyhow::Result<Option<FollowConfig>> {
        let paths = self
            .follow
            .iter()
            .filter(|path| !path.as_os_str().is_empty());
        let paths: Vec<_> = paths.cloned().collect();
        if paths.is_empty() {
            return Ok(None);
        }
        let positions =
            set_path(&self.positions).context("--follow needs --positions (EXPORTER_POSITIONS)")?;
        Ok(Some(FollowConfig {
            paths,
            positions: positions.to_path_buf(),
            trust: self.trust.check(),
        }))
    }
}

impl TrustOptions {
    /// The proof that a batch is the service's. No error shows the key.
    pub(crate) fn check(&self) -> anyhow::Result<Trust> {
        let key = secret(
            "REPLAY_KEY",
            &self.replay_key,
            "REPLAY_KEY_FILE",
            &self.replay_key_file,
        )?;
        match (key, self.trust_unauthenticated_log) {
            (Some(_), true) => {
                bail!("--trust-unauthenticated-log is set, and a key as well: choose one")
            }
            (Some(key), false) => {
                let key = ReplayKey::new(&key).context("unusable REPLAY_KEY")?;
                Ok(Trust::Key(key))
            }
            (None, true) => Ok(Trust::Unauthenticated),
            (None, false) => bail!(
                "replaying needs the key of the service's variable replay_key, in REPLAY_KEY or \
                 REPLAY_KEY_FILE; --trust-unauthenticated-log stores batches without one, and \
                 then anyone who can write to the log can add to every count"
            ),
        }
    }
}

impl SecurityOptions {
    fn tls(&self) -> anyhow::Result<Option<TlsAcceptor>> {
        match (set_path(&self.tls_cert_file), set_path(&self.tls_key_file)) {
            (Some(certificate), Some(key)) => Ok(Some(tls_acceptor(certificate, key)?)),
            (None, None) => Ok(None),
            _ => bail!("TLS needs both --tls-cert-file and --tls-key-file"),
        }
    }
}

/// A secret from its variable, or from its file without one line break at the end.
fn secret(
    name: &str,
    value: &Option<String>,
    file_name: &str,
    file: &Option<PathBuf>,
) -> anyhow::Result<Option<String>> {
    let value = set(value);
    let Some(file) = set_path(file) else {
        return Ok(value.map(str::to_owned));
    };
    ensure!(
        value.is_none(),
        "both {name} and {file_name} are set: choose one"
    );
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("cannot read {file_name} {}", file.display()))?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    Ok((!line.is_empty()).then(|| line.to_owned()))
}

/// An empty variable counts as not set: `${REDIS_PASSWORD:-}` in a Compose file
/// makes one.
fn set(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.is_empty())
}

fn set_path(path: &Option<PathBuf>) -> Option<&Path> {
    path.as_deref().filter(|path| !path.as_os_str().is_empty())
}

fn link(option: &str, text: &Option<String>) -> anyhow::Result<Option<String>> {
    let Some(text) = set(text) else {
        return Ok(None);
    };
    // No error shows the URL: it may contain a password.
    let url = Url::parse(text).with_context(|| format!("{option} is not a URL"))?;
    ensure!(
        matches!(url.scheme(), "http" | "https"),
        "{option} does not begin with http:// or https://"
    );
    ensure!(
        url.username().is_empty() && url.password().is_none(),
        "{option} contains a user or password, which the page would show"
    );
    Ok(Some(url.into()))
}

fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "true" => Ok(true),
        "false" | "" => Ok(false),
        _ => Err("not true or false".to_owned()),
    }
}

fn port(text: &str) -> Result<u16, String> {
    text.parse().ok().filter(|&port| port > 0).ok_or_else(|| {
        if text.starts_with("tcp://") {
            "not a port from 1 to 65535 (Kubernetes sets REDIS_PORT like this for a service \
             named redis: use --redis-port, or set enableServiceLinks: false)"
                .to_owned()
        } else {
            "not a port from 1 to 65535".to_owned()
        }
    })
}

/// The number of shards; `None` if the variable is empty, as Compose files make it.
#[derive(Debug, Clone, Copy)]
struct NumberOfShards(Option<u32>);

fn shards(text: &str) -> Result<NumberOfShards, String> {
    if text.is_empty() {
        return Ok(NumberOfShards(None));
    }
    let number = text.parse().ok();
    let number = number.filter(|number| (1..=MAX_SHARDS).contains(number));
    match number {
        Some(number) => Ok(NumberOfShards(Some(number))),
        None => Err(format!("not a number from 1 to {MAX_SHARDS}")),
    }
}

/// Splits `host`, `host:port`, `[address]` or `[address]:port`. A text with several colons
/// and no brackets is an IPv6 address.
///
/// The service accepts the same characters, except `%` (the zone of an IPv6 address).
fn host_and_port(text: &str, default_port: u16) -> anyhow::Result<(String, u16)> {
    // No error shows the text: it may be a URL with a password.
    let is_host_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-[]%".contains(&byte);
    ensure!(
        text.bytes().all(is_host_byte),
        "REDIS_HOST is not a host name or address, with or without a port; for a URL, use \
         REDIS_URL"
    );
    let (host, port_text) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest
                .split_once(']')
                .with_context(|| format!("{text:?} in REDIS_HOST has no closing bracket"))?;
            (host, rest.strip_prefix(':'))
        }
        None => match text.split_once(':') {
            Some((host, port)) if !port.contains(':') => (host, Some(port)),
            _ => (text, None),
        },
    };
    ensure!(!host.is_empty(), "REDIS_HOST contains an empty host");
    let port = match port_text {
        None => default_port,
        Some(text) => port(text)
            .map_err(|why| anyhow::anyhow!("the port of {host:?} in REDIS_HOST is {why}"))?,
    };
    Ok((host.to_owned(), port))
}

fn page_interval(text: &str) -> Result<u64, String> {
    let is_valid = |millis: &u64| *millis == 0 || PAGE_INTERVAL_MS.contains(millis);
    text.parse().ok().filter(is_valid).ok_or_else(|| {
        let (least, most) = PAGE_INTERVAL_MS.into_inner();
        format!("not 0, nor from {least} to {most}")
    })
}

fn push_interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let bounds = Duration::from_millis(100)..=Duration::from_secs(24 * 3600);
    if bounds.contains(&interval) {
        Ok(interval)
    } else {
        Err("not a time from 100ms to 1day".into())
    }
}

fn grouping(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("not of the form NAME=VALUE")?;
    if name == "job" {
        return Err("the label job is set with --job".into());
    }
    if !is_label_name(name) {
        return Err(format!("{name:?} is not a label name"));
    }
    Ok((name.to_owned(), value.to_owned()))
}

#[cfg(test)]
#[path = "cli_tests.rs"]
mod tests;
