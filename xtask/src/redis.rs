//! The Redis that `up` uses: one that the user named, which is only checked, or
//! one that is started on loopback and keeps its data (AOF). Another Redis that
//! happens to run on this machine is never used without being named.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use functional_scaffold_testkit::http;
use functional_scaffold_testkit::redis::{REDIS, RedisOptions, check_ping, is_redis};

use crate::command;
use crate::install::{InstallOptions, find_or_install};
use crate::net;
use crate::process::{self, Child};
use crate::settings::{Given, SPIN_PREFIX, Settings};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

const IMAGE: &str = "docker.io/library/redis:7";
const DOCKER_TIMEOUT: Duration = Duration::from_secs(10);

/// Settings that app and exporter share, by the names that the exporter reads.
const SHARED: [&str; 8] = [
    "REDIS_HOST",
    "REDIS_PORT",
    "REDIS_TLS",
    "REDIS_METRICS_DB",
    "REDIS_USERNAME",
    "REDIS_PASSWORD",
    "METRICS_PREFIX",
    "METRICS_SHARDS",
];

/// The settings with which app and exporter reach Redis, as far as they are given.
#[derive(Debug, Default)]
pub(crate) struct RedisSettings(BTreeMap<&'static str, Given>);

impl RedisSettings {
    pub(crate) fn read(settings: &Settings) -> Self {
        let given = SHARED.iter().map(|name| Some((*name, settings.get(name)?)));
        Self(given.flatten().collect())
    }

    /// The host that the user named; a list with shards.
    pub(crate) fn host(&self) -> Option<&str> {
        self.get("REDIS_HOST")
    }

    /// The servers that the user named.
    fn servers(&self) -> Result<Vec<(&str, u16)>> {
        let default = self.port()?;
        let hosts = self.host().into_iter().flat_map(|hosts| hosts.split(','));
        let servers = hosts.map(|host| match host.trim().rsplit_once(':') {
            Some((name, port)) if !name.contains(':') || name.ends_with(']') => {
                let wrong = || format!("REDIS_HOST has {host:?}; its port must be a port");
                Ok((
                    name.trim_matches(['[', ']']),
                    port.parse().with_context(wrong)?,
                ))
            }
            _ => Ok((host.trim().trim_matches(['[', ']']), default)),
        });
        servers.collect()
    }

    /// The port, 6379 unless it is given.
    pub(crate) fn port(&self) -> Result<u16> {
        let Some(Given { value, source }) = self.0.get("REDIS_PORT") else {
            return Ok(6379);
        };
        let port = value.parse();
        port.with_context(|| format!("{source} is {value:?}; it must be a port"))
    }

    /// True if it is reached over TLS. Exporter and app refuse other values than
    /// `true` and `false`.
    fn tls(&self) -> bool {
        self.get("REDIS_TLS") == Some("true")
    }

    /// The file with the certificate authorities. Only the exporter has a
    /// variable for it.
    pub(crate) fn certificate_authorities(&self) -> Option<OsString> {
        env::var_os("REDIS_CA_FILE").filter(|file| !file.is_empty())
    }

    /// The prefix of every key, with shards of those of the first one.
    pub(crate) fn metrics_prefix(&self) -> String {
        let prefix = self.get("METRICS_PREFIX").unwrap_or("metrics:");
        match self.get("METRICS_SHARDS") {
            Some(_) => format!("{prefix}{{0}}:"),
            None => prefix.to_owned(),
        }
    }

    fn username(&self) -> Option<&str> {
        self.get("REDIS_USERNAME")
    }

    fn password(&self) -> Option<&str> {
        self.get("REDIS_PASSWORD")
    }

    /// Fails unless a Redis with these credentials responds there. There is no
    /// TLS in xtask: app and exporter report what does not work with it.
    pub(crate) fn check(&self, address: SocketAddr) -> Result<()> {
        match self.tls() {
            true => http::connect(address, CONNECT_TIMEOUT).map(drop),
            false => check_ping(address, self.username(), self.password()),
        }
    }

    /// The same settings, at another address.
    pub(crate) fn at(mut self, host: &str, port: u16) -> Self {
        let address = [
            ("REDIS_HOST", host.to_owned()),
            ("REDIS_PORT", port.to_string()),
        ];
        for (name, value) in address {
            let source = name.to_owned();
            self.0.insert(name, Given { value, source });
        }
        self
    }

    /// Environment variables of the app.
    pub(crate) fn for_app(&self) -> impl Iterator<Item = (String, &str)> {
        let values = self.for_exporter();
        values.map(|(name, value)| (format!("{SPIN_PREFIX}{name}"), value))
    }

    /// Environment variables of the exporter.
    pub(crate) fn for_exporter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let values = self.0.iter();
        values.map(|(name, given)| (*name, given.value.as_str()))
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|given| given.value.as_str())
    }
}

/// The origin of Redis.
pub(crate) enum RedisServer {
    /// The user's, at the address of the settings.
    Named,
    /// Started from a program.
    Program(PathBuf),
    /// Started in a container, where there is Docker and no program.
    Docker,
}

impl RedisServer {
    /// Checks the one that the user named, or finds a way to start one.
    pub(crate) fn find(settings: &RedisSettings, install: InstallOptions) -> Result<Self> {
        for (host, port) in settings.servers()? {
            resolve(host, port)
                .and_then(|address| settings.check(address))
                .with_context(|| {
                    format!("REDIS_HOST names the Redis at {host}:{port}, which does not respond")
                })?;
        }
        if settings.host().is_some() {
            return Ok(Self::Named);
        }
        ensure!(
            !settings.tls(),
            "REDIS_TLS is for a Redis that REDIS_HOST names; it is not set"
        );
        ensure!(
            settings.username().is_none(),
            "REDIS_USERNAME is for a Redis that REDIS_HOST names; it is not set"
        );
        let not_installed = match find_or_install(&REDIS, install) {
            Ok(program) => return Ok(Self::Program(program)),
            Err(error) => error,
        };
        let Err(no_docker) = check_docker() else {
            return Ok(Self::Docker);
        };
        bail!(
            "no Redis: install redis-server or valkey-server (Debian: apt-get install redis-server; \
             macOS: brew install redis), start Docker, or name a Redis with REDIS_HOST \
             (Debian: {not_installed:#}; Docker: {no_docker:#})"
        )
    }

    /// True if `up` starts it.
    pub(crate) fn is_own(&self) -> bool {
        !matches!(self, Self::Named)
    }

    /// Starts it, unless it is the user's.
    pub(crate) fn start(&self, settings: &RedisSettings) -> Result<Option<Child>> {
        let port = settings.port()?;
        let folder = command::data_folder("redis", port)?;
        let mut options = RedisOptions::new()
            .port(port)
            .append_only("everysec")
            .line("logfile", &["redis.log"]);
        if let Some(password) = settings.password() {
            options = options.line("requirepass", &[password]);
        }
        let (command, options) = match self {
            Self::Named => return Ok(None),
            Self::Program(program) => (command::program(program), options.folder(&folder)),
            // The published port is bound to loopback.
            Self::Docker => {
                let options = options.folder(Path::new("/data"));
                let options = options.line("bind", &["0.0.0.0"]);
                (
                    docker_run(port, &folder)?,
                    options.line("protected-mode", &["no"]),
                )
            }
        };
        eprintln!("Redis keeps its data and its log in {}", folder.display());
        let mut command = RedisOptions::command(command);
        Child::start("Redis", &mut command, &options.configuration()).map(Some)
    }

    /// The `redis-cli` command that reaches it.
    pub(crate) fn cli(&self, settings: &RedisSettings) -> Result<String> {
        let mut port = settings.port()?;
        let mut words = vec!["redis-cli".to_owned()];
        match (self, settings.servers()?.first()) {
            (Self::Docker, _) => words.insert(0, format!("docker exec {}", container(port))),
            (Self::Named, Some((host, own_port))) => {
                port = *own_port;
                words.push(format!("-h {host}"));
            }
            _ => {}
        }
        words.push(format!("-p {port}"));
        let database = settings.get("REDIS_METRICS_DB");
        words.extend(database.map(|number| format!("-n {number}")));
        if settings.tls() {
            words.push("--tls".to_owned());
            let authorities = settings.certificate_authorities();
            words.extend(authorities.map(|file| format!("--cacert {}", file.display())));
        }
        let username = settings.username();
        words.extend(username.map(|name| format!("--user {name}")));
        words.extend(settings.password().map(|_| "--askpass".to_owned()));
        Ok(words.join(" "))
    }
}

/// Fails where the port of our own Redis is in use.
pub(crate) fn check_port(port: u16) -> Result<()> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    match net::check_free(address, "Redis", "--redis-port") {
        Err(_in_use) if is_redis(address) => bail!(
            "port {port}, meant for our own Redis, is in use by another Redis; to count in that one, \
             set REDIS_HOST=127.0.0.1 REDIS_PORT={port}; to leave it alone, choose another port \
             with --redis-port"
        ),
        outcome => outcome,
    }
}

fn check_docker() -> Result<()> {
    let mut version = command::program("docker");
    version.args(["version", "--format", "{{.Server.Version}}"]);
    version.stderr(Stdio::null());
    process::capture("`docker version`", &mut version, DOCKER_TIMEOUT).map(drop)
}

/// The command that runs Redis in a container with its data in `folder`. Redis's
/// arguments may follow.
fn docker_run(port: u16, folder: &Path) -> Result<Command> {
    let mut inspect = command::program("docker");
    inspect.args(["image", "inspect", "--format", "{{.Id}}", IMAGE]);
    inspect.stderr(Stdio::null());
    if process::capture("docker", &mut inspect, DOCKER_TIMEOUT).is_err() {
        let mut pull = command::program("docker");
        process::run("docker pull", pull.args(["pull", IMAGE]), None)?;
    }
    let (user, group) = (rustix::process::getuid(), rustix::process::getgid());
    let mut run = command::program("docker");
    run.args(["run", "--rm", "--interactive", "--name", &container(port)]);
    run.args(["--publish", &format!("127.0.0.1:{port}:{port}")]);
    // Otherwise the data would belong to the image's own user.
    run.args(["--user", &format!("{}:{}", user.as_raw(), group.as_raw())]);
    run.arg("--volume")
        .arg(format!("{}:/data", folder.display()));
    run.args([IMAGE, "redis-server"]);
    Ok(run)
}

fn container(port: u16) -> String {
    format!("functional-scaffold-redis-{port}")
}

fn resolve(host: &str, port: u16) -> Result<SocketAddr> {
    let addresses = (host, port).to_socket_addrs();
    let mut addresses = addresses.with_context(|| format!("cannot resolve {host}"))?;
    addresses.next().context("the host has no address")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn app_and_exporter_get_the_same_settings() {
        let settings = Settings::of(&[], &[("SPIN_VARIABLE_REDIS_METRICS_DB", "3")]);
        let settings = RedisSettings::read(&settings).at("127.0.0.1", 6380);
        let app: Vec<_> = settings.for_app().collect();
        assert!(app.contains(&("SPIN_VARIABLE_REDIS_METRICS_DB".to_owned(), "3")));
        let exporter: Vec<_> = settings.for_exporter().collect();
        assert!(exporter.contains(&("REDIS_METRICS_DB", "3")));
        assert!(exporter.contains(&("REDIS_PORT", "6380")));
    }

    #[test]
    fn a_wrong_port_is_named_with_its_source() {
        let settings = Settings::of(&[], &[("SPIN_VARIABLE_REDIS_PORT", "redis")]);
        let error = RedisSettings::read(&settings).port();
        let expected = "SPIN_VARIABLE_REDIS_PORT in .env is \"redis\"; it must be a port";
        assert_eq!(error.expect_err("no port").to_string(), expected);
    }

    #[test]
    fn host_port_and_prefix_have_defaults() {
        let settings = RedisSettings::default();
        assert_eq!(settings.host(), None);
        assert_eq!(settings.port().expect("the default"), 6379);
        assert_eq!(settings.metrics_prefix(), "metrics:");
    }

    #[test]
    fn hosts_of_shards_may_have_ports() {
        let hosts = "a, b:7000,::1,[::1]:7001";
        let settings = Settings::of(&[("REDIS_HOST", hosts), ("METRICS_SHARDS", "4")], &[]);
        let settings = RedisSettings::read(&settings);
        let servers = settings.servers().expect("ports");
        let expected = [("a", 6379), ("b", 7000), ("::1", 6379), ("::1", 7001)];
        assert_eq!(servers, expected);
        assert_eq!(settings.metrics_prefix(), "metrics:{0}:");
        let settings = Settings::of(&[("REDIS_HOST", "a:x")], &[]);
        RedisSettings::read(&settings)
            .servers()
            .expect_err("no port");
    }

    #[test]
    fn the_printed_redis_cli_shows_no_password() {
        let settings = Settings::of(&[("REDIS_PASSWORD", "secret")], &[]);
        let settings = RedisSettings::read(&settings).at("10.0.0.1", 6390);
        let cli = RedisServer::Named.cli(&settings).expect("a port");
        assert_eq!(cli, "redis-cli -h 10.0.0.1 -p 6390 --askpass");
    }
}
