//! The command line: every option, as a flag and as an environment variable,
//! brought together from the groups that own them. Owns how it is served and
//! logged, and what is done instead of serving.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum, builder::NonEmptyStringValueParser};
use redis::ConnectionInfo;
use tracing::level_filters::LevelFilter;

use crate::{
    commands::{PushOptions, SeriesCommand, WipeOptions},
    exposure::{Exposure, ExposureOptions},
    page::options::{PageConfig, PageOptions},
    redis_options::{MAX_TIMEOUT_MS, RedisOptions},
};

/// Redis takes a longer pause between two scripts, of 5 s, for a time in which
/// it stood still, and extends every lease by it (`MAX_GAP_MS` in `clock.lua`).
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
and for replay also +expire. With %R~metrics:* and no
scripts it can read, but not count what crashed, nor tell a wiped Redis from lost
writes.";

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

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
