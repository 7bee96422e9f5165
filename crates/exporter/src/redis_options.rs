//! The options that say where Redis is, and what they come to together. Opens
//! nothing but the files of the password and of the certificate authority.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use clap::{ArgAction, Args, builder::NonEmptyStringValueParser};
use functional_scaffold_protocol::calls::DEFAULT_PREFIX;
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _};

/// The longest wait that an option may ask for, in milliseconds.
pub const MAX_TIMEOUT_MS: u64 = 600_000;

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

impl RedisOptions {
    /// Where Redis is, with database and credentials.
    ///
    /// # Errors
    /// Options that contradict each other, a URL that cannot be used, or a password's
    /// file that cannot be read. No error shows a password.
    pub fn connection_info(&self) -> anyhow::Result<ConnectionInfo> {
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

    /// The certificates (PEM) to trust instead of the machine's, if a file is named.
    ///
    /// # Errors
    /// Redis is not reached over TLS, or the file cannot be read or holds none.
    pub fn certificate_authority(&self, redis: &ConnectionInfo) -> anyhow::Result<Option<Vec<u8>>> {
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
