//! Every option, as a flag and as an environment variable, and the checks that
//! need more than one of them. Owns names, defaults and help; opens nothing but
//! files with secrets and of the certificate authority.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum, builder::NonEmptyStringValueParser};
use functional_scaffold_schema::protocol::DEFAULT_PREFIX;
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _};
use tracing::level_filters::LevelFilter;

use crate::{
    commands::{PushOptions, SeriesCommand, WipeOptions},
    exposure::{Exposure, ExposureOptions},
    page::options::{PageConfig, PageOptions},
};

const MAX_TIMEOUT_MS: u64 = 600_000;

/// Redis takes a longer pause between two scripts, of 5 s, for a time in which
/// it stood still, and extends every lease by it (`STILL_MS` in `clock.lua`).
const MAX_SETTLE_INTERVAL_MS: u64 = 4_999;

/// Serves the metric families registered in Redis to Prometheus.
///
/// Reads the hash metrics:families and the hash of every family named there,
/// and serves them on /metrics. What to export is decided by whoever registers
/// a family. Executions that were never heard of again are counted as crashed
/// when their lease runs out; nothing else is written. Also serves /healthz
/// (alive), /readyz (Redis answers) and / (a page
/// that draws the last minutes).
///
/// With Redis down, /metrics still answers 200, with functional_scaffold_redis_up 0.
#[derive(Parser)]
#[command(name = "functional-scaffold-exporter", version, about, long_about, after_help = EXAMPLES)]
pub struct Cli {
    /// Where the metrics are.
    #[command(flatten)]
    pub redis: RedisOptions,
    /// How they are served.
    #[command(flatten)]
    pub serve: ServeOptions,
    /// How safely.
    #[command(flatten)]
    pub exposure: ExposureOptions,
    /// What is drawn of them.
    #[command(flatten)]
    pub page: PageOptions,
    /// What is logged.
    #[command(flatten)]
    pub log: LogOptions,
    /// What is done instead of serving.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What the exporter can do beside serving.
#[derive(Subcommand)]
pub enum Command {
    /// Store batches that the service gave to its log.
    ///
    /// Reads log lines with "event":"batch_not_stored" and stores each batch
    /// once, however often it is replayed within an hour. Other lines are
    /// ignored. At the end it reports what became of the batches; the exit
    /// code is 0 if all of them are stored.
    #[command(after_help = REPLAY_EXAMPLES)]
    Replay(ReplayOptions),
    /// Relay the families to a Pushgateway, as one group.
    ///
    /// Reads what a scrape reads, at every interval, and replaces the group. Let
    /// Prometheus scrape the Pushgateway with honor_labels: true, and not the
    /// exporter of the same store as well.
    Push(PushOptions),
    /// List what is in the store, or remove some of it.
    #[command(subcommand)]
    Series(SeriesCommand),
    /// Ask the exporter of the same options whether it is alive.
    ///
    /// Asks /healthz where --listen (or EXPORTER_LISTEN) says, over TLS if it has
    /// a certificate; any will do. The exit code is 0 if the answer is 200 within
    /// 2.5 s. For the health check of a container, which has no other program.
    Health,
    /// Begin a new epoch: every count begins at 0.
    ///
    /// Prometheus sees it as a restart. Registrations and leases stay, and what
    /// was stored before is not stored again.
    Wipe(WipeOptions),
}

const REPLAY_EXAMPLES: &str = "\
Examples:
  functional-scaffold-exporter replay app.log app.log.1
  kubectl logs -f deployment/app | functional-scaffold-exporter replay
  functional-scaffold-exporter replay --to http://127.0.0.1:9091 app.log";

/// Which batches are stored, and how hard that is tried.
#[derive(Debug, Args)]
pub struct ReplayOptions {
    /// Log files, one after the other; `-`, or none, is standard input.
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,

    /// Store also what was given up more than an hour ago. Redis may not know
    /// any more whether it was stored before, and then it is counted twice.
    #[arg(long)]
    pub force: bool,

    /// Put the groups of a service that pushes to a Pushgateway in their places
    /// there, instead of storing batches in Redis. Of any age: it changes nothing
    /// where they are.
    #[arg(long, value_name = "URL")]
    pub to: Option<String>,

    /// How long Redis or the Pushgateway, while it is away, is tried again.
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = clap::value_parser!(u64).range(0..=86_400))]
    pub retry_seconds: u64,
}

const EXAMPLES: &str = "\
Examples:
  functional-scaffold-exporter
  functional-scaffold-exporter --redis-host redis.internal --redis-db 2
  REDIS_PASSWORD_FILE=/run/secrets/redis functional-scaffold-exporter --listen 0.0.0.0:8001

A flag wins over its environment variable. An empty REDIS_URL, REDIS_TLS,
REDIS_CA_FILE, REDIS_USERNAME, REDIS_PASSWORD, REDIS_PASSWORD_FILE or
EXPORTER_STATE_FILE counts as not set.

A Redis user of its own needs no more than this:
  ACL SETUSER exporter on >PASSWORD ~metrics:* +ping +select +hscan +zscan
      +hmget +evalsha +eval +time +hget +hset +hsetnx +hincrby +zadd +zrem
      +zcard +zscore +zrangebyscore +zremrangebyscore
and for replay also +zcount +expire. With %R~metrics:* and no
scripts it can read, but not count what crashed, nor tell a wiped Redis from lost
writes.";

/// Where the metrics are.
#[derive(Args)]
#[command(next_help_heading = "Redis")]
pub struct RedisOptions {
    /// Host name or IP address of Redis.
    #[arg(long, global = true, env, value_name = "HOST", default_value = "127.0.0.1", value_parser = NonEmptyStringValueParser::new())]
    pub redis_host: String,

    /// Port of Redis.
    #[arg(long, global = true, env, value_name = "PORT", default_value = "6379", value_parser = port)]
    pub redis_port: u16,

    /// Whether Redis is reached over TLS. Its certificate has to name the host
    /// and to be trusted.
    #[arg(long, global = true, env, value_name = "BOOL", default_value = "false", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean, action = ArgAction::Set)]
    pub redis_tls: bool,

    /// File with the certificates (PEM) of the authorities that are trusted with
    /// Redis's own, instead of those that this machine trusts.
    #[arg(long, global = true, env, value_name = "FILE")]
    pub redis_ca_file: Option<PathBuf>,

    /// Number of the Redis database that holds the metrics.
    #[arg(long, global = true, env = "REDIS_METRICS_DB", value_name = "NUMBER", default_value = "0", value_parser = clap::value_parser!(i64).range(0..))]
    pub redis_db: i64,

    /// User name (Redis ACL). Without one, a password is for the default user.
    #[arg(long, global = true, env, value_name = "NAME")]
    pub redis_username: Option<String>,

    /// Password. Prefer the variable or the file: a flag shows in the list of
    /// processes.
    #[arg(
        long,
        global = true,
        env,
        value_name = "PASSWORD",
        hide_env_values = true
    )]
    pub redis_password: Option<String>,

    /// File that holds the password; one line end after it is not part of it.
    #[arg(long, global = true, env, value_name = "FILE")]
    pub redis_password_file: Option<PathBuf>,

    /// Redis as a URL, instead of host, port and TLS:
    /// redis://user:password@redis.internal:6379/2, rediss://… for TLS, or
    /// redis+unix:///run/redis.sock?db=2. What it leaves out (user, password,
    /// database) is taken from the other options.
    #[arg(long, global = true, env, value_name = "URL", hide_env_values = true)]
    pub redis_url: Option<String>,

    /// Longest wait, in milliseconds, for a connection and for each reply.
    #[arg(long, global = true, env, value_name = "MS", default_value = "2000", value_parser = clap::value_parser!(u64).range(1..=MAX_TIMEOUT_MS))]
    pub redis_timeout_ms: u64,

    /// What every key of the metrics begins with.
    #[arg(long, global = true, env, value_name = "PREFIX", default_value = DEFAULT_PREFIX)]
    pub metrics_prefix: String,
}

/// How the metrics are served.
#[derive(Args)]
#[command(next_help_heading = "Serving")]
pub struct ServeOptions {
    /// Address and port to listen on. Only this machine reaches the default;
    /// in a container use 0.0.0.0:8001.
    #[arg(long, env = "EXPORTER_LISTEN", value_name = "HOST:PORT", default_value = "127.0.0.1:8001", value_parser = NonEmptyStringValueParser::new())]
    pub listen: String,

    /// Longest time, in milliseconds, that a scrape may take. Keep it below
    /// Prometheus's scrape_timeout (10 s unless configured), else Prometheus
    /// gives up before it is told that Redis is down.
    #[arg(long, env = "EXPORTER_SCRAPE_TIMEOUT_MS", value_name = "MS", default_value = "8000", value_parser = clap::value_parser!(u64).range(1..=MAX_TIMEOUT_MS))]
    pub scrape_timeout_ms: u64,

    /// About how many fields of a hash Redis hands out at a time (HSCAN
    /// COUNT). It serves nobody else meanwhile: 500 take less than a
    /// millisecond.
    #[arg(long, env = "EXPORTER_SCAN_COUNT", value_name = "FIELDS", default_value = "500", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub scan_count: u32,

    /// Pause, in milliseconds, between two looks for executions whose lease
    /// ran out, in times without a scrape. Below 5000: Redis takes a longer
    /// pause for a standstill of its own, and extends all leases by it.
    #[arg(long, env = "EXPORTER_SETTLE_INTERVAL_MS", value_name = "MS", default_value = "2000", value_parser = clap::value_parser!(u64).range(10..=MAX_SETTLE_INTERVAL_MS))]
    pub settle_interval_ms: u64,

    /// File for what was served last, written before each answer. With it, a
    /// counter does not step back either when the exporter and Redis end
    /// together (a power cut) and Redis comes back with less. Each exporter, also
    /// one that pushes, needs one of its own.
    #[arg(long, env = "EXPORTER_STATE_FILE", value_name = "FILE")]
    pub state_file: Option<PathBuf>,
}

/// What is logged, on standard error.
#[derive(Args)]
#[command(next_help_heading = "Log")]
pub struct LogOptions {
    /// Least severe level that is logged: off, error, warn, info, debug, trace.
    #[arg(
        long,
        global = true,
        env = "EXPORTER_LOG_LEVEL",
        value_name = "LEVEL",
        default_value = "info"
    )]
    pub log_level: LevelFilter,

    /// Form of a log line.
    #[arg(
        long,
        global = true,
        env = "EXPORTER_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "text"
    )]
    pub log_format: LogFormat,
}

/// Form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// A line to read.
    Text,
    /// A JSON object a line.
    Json,
}

/// The options of the exporter, checked. It holds the password: it has no
/// `Debug` on purpose.
#[derive(Clone)]
pub struct Config {
    /// Address and port to listen on.
    pub listen: String,
    /// Where Redis is, with database and credentials.
    pub redis: ConnectionInfo,
    /// Certificates (PEM) of the authorities to trust, instead of the machine's.
    pub redis_ca: Option<Vec<u8>>,
    /// Longest wait for a connection and for each reply.
    pub redis_timeout: Duration,
    /// Longest time that a scrape may take.
    pub scrape_timeout: Duration,
    /// What every key begins with.
    pub prefix: String,
    /// `COUNT` of each HSCAN.
    pub scan_count: u32,
    /// Pause between two settlings of leases.
    pub settle_interval: Duration,
    /// Where what was served last is kept, if it is.
    pub state_file: Option<PathBuf>,
    /// Who may ask, and how.
    pub exposure: Exposure,
    /// What the page shows.
    pub page: PageConfig,
}

impl Cli {
    /// Brings the options together.
    ///
    /// # Errors
    /// The URL cannot be used, or the password's file cannot be read. No error
    /// shows a password.
    pub fn check(self) -> anyhow::Result<Config> {
        let redis = self.redis.connection_info()?;
        Ok(Config {
            listen: self.serve.listen,
            redis_ca: self.redis.certificate_authority(&redis)?,
            redis,
            redis_timeout: Duration::from_millis(self.redis.redis_timeout_ms),
            scrape_timeout: Duration::from_millis(self.serve.scrape_timeout_ms),
            prefix: self.redis.metrics_prefix,
            scan_count: self.serve.scan_count,
            settle_interval: Duration::from_millis(self.serve.settle_interval_ms),
            state_file: (self.serve.state_file).filter(|file| !file.as_os_str().is_empty()),
            exposure: self.exposure.check()?,
            page: self.page.check()?,
        })
    }
}

impl RedisOptions {
    fn connection_info(&self) -> anyhow::Result<ConnectionInfo> {
        let mut info = match given(self.redis_url.as_deref()) {
            Some(url) => self.info_from_url(url)?,
            None => {
                let mut info = (self.redis_host.as_str(), self.redis_port)
                    .into_connection_info()
                    .context("unusable host or port of Redis")?;
                if self.redis_tls {
                    info.addr = ConnectionAddr::TcpTls {
                        host: self.redis_host.clone(),
                        port: self.redis_port,
                        insecure: false,
                        tls_params: None,
                    };
                }
                info.redis.db = self.redis_db;
                info
            }
        };
        if info.redis.username.is_none() {
            info.redis.username = given(self.redis_username.as_deref()).map(str::to_owned);
        }
        if info.redis.password.is_none() {
            info.redis.password = self.password()?;
        }
        Ok(info)
    }

    /// The URL itself never enters an error: it may hold the password.
    fn info_from_url(&self, text: &str) -> anyhow::Result<ConnectionInfo> {
        let url = redis::parse_redis_url(text).context(
            "REDIS_URL is not a URL that begins with redis://, rediss:// or redis+unix://",
        )?;
        let over_tls = matches!(url.scheme(), "rediss" | "valkeys");
        ensure!(
            over_tls || !self.redis_tls,
            "REDIS_TLS is set, and REDIS_URL does not begin with rediss://: which one holds?"
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

    fn certificate_authority(&self, redis: &ConnectionInfo) -> anyhow::Result<Option<Vec<u8>>> {
        let Some(file) = given_file(self.redis_ca_file.as_deref()) else {
            return Ok(None);
        };
        ensure!(
            matches!(redis.addr, ConnectionAddr::TcpTls { .. }),
            "REDIS_CA_FILE is for TLS: set REDIS_TLS=true, or REDIS_URL to a rediss:// one"
        );
        let read = || format!("cannot read REDIS_CA_FILE {}", file.display());
        let authority = std::fs::read_to_string(file).with_context(read)?;
        // The client would trust nobody, and not say why.
        ensure!(
            authority.contains("-----BEGIN CERTIFICATE-----"),
            "REDIS_CA_FILE {} holds no certificate in PEM",
            file.display()
        );
        Ok(Some(authority.into_bytes()))
    }

    fn password(&self) -> anyhow::Result<Option<String>> {
        let password = given(self.redis_password.as_deref());
        let Some(file) = given_file(self.redis_password_file.as_deref()) else {
            return Ok(password.map(str::to_owned));
        };
        ensure!(
            password.is_none(),
            "both REDIS_PASSWORD and REDIS_PASSWORD_FILE are set: which one holds?"
        );
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("cannot read REDIS_PASSWORD_FILE {}", file.display()))?;
        let line = text.strip_suffix('\n').unwrap_or(&text);
        let line = line.strip_suffix('\r').unwrap_or(line);
        Ok(given(Some(line)).map(str::to_owned))
    }
}

/// An empty variable counts as not set: that is what `${REDIS_PASSWORD:-}` in
/// a Compose file gives.
fn given(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.is_empty())
}

fn given_file(file: Option<&Path>) -> Option<&Path> {
    file.filter(|file| !file.as_os_str().is_empty())
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
             named redis: give --redis-port, or set enableServiceLinks: false)"
                .to_owned()
        } else {
            "not a port from 1 to 65535".to_owned()
        }
    })
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
