//! The Redis that `up` uses: one that the user named, which is only checked,
//! or one of our own, on loopback, whose counts survive a restart (AOF). A
//! Redis that happens to run here is nobody's business: it is never used
//! without being named.

use std::env;
use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail, ensure};

use crate::InstallOptions;
use crate::address;
use crate::child::Child;
use crate::debian::{self, Program};
use crate::probe;
use crate::redis_container;
use crate::redis_settings::RedisSettings;
use crate::tools;

/// Below the workspace's root, and ignored by git.
const DATA_FOLDER: &str = ".functional-scaffold/redis";

const PROGRAM: Program = Program {
    what: "Redis",
    names: &["redis-server", "valkey-server"],
    package: "redis-server",
};

/// Where Redis comes from.
pub(crate) enum RedisServer {
    /// The user's, at this address.
    Named,
    /// Started from a program.
    Program(PathBuf),
    /// Started in a container.
    Docker,
}

impl RedisServer {
    /// Finds a Redis, or something to start one with.
    ///
    /// # Errors
    ///
    /// When the one that the user named does not answer, or nothing can be
    /// started.
    pub(crate) fn find(settings: &RedisSettings, install: InstallOptions) -> Result<Self> {
        let credentials = settings.credentials();
        if let Some(host) = settings.host() {
            let port = settings.port()?;
            // Whether it answers over TLS, app and exporter see: xtask has none.
            let answers = match settings.tls() {
                true => probe::connects(host, port),
                false => probe::redis_pong(host, port, credentials),
            };
            answers.with_context(|| {
                format!("REDIS_HOST names the Redis at {host}:{port}, which does not answer")
            })?;
            return Ok(Self::Named);
        }
        ensure!(
            !settings.tls(),
            "REDIS_TLS is for a Redis that REDIS_HOST names; it is not set"
        );
        ensure!(
            credentials.username.is_none(),
            "REDIS_USERNAME is for a Redis that REDIS_HOST names; it is not set"
        );
        let not_installed = match debian::program(&PROGRAM, install) {
            Ok(program) => return Ok(Self::Program(program)),
            Err(error) => error,
        };
        let Err(no_docker) = redis_container::engine_answers() else {
            return Ok(Self::Docker);
        };
        bail!(
            "no Redis: install redis-server or valkey-server (Debian: apt-get install redis-server; \
             macOS: brew install redis), start Docker, or name a Redis with REDIS_HOST \
             (Debian: {not_installed:#}; Docker: {no_docker:#})"
        )
    }

    /// Whether it is to be started here.
    pub(crate) fn is_own(&self) -> bool {
        !matches!(self, Self::Named)
    }

    /// Starts it, if it is ours.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub(crate) fn start(&self, settings: &RedisSettings) -> Result<Option<Child>> {
        let port = settings.port()?;
        // A folder for each port: two servers must not write one AOF.
        let folder = env::current_dir()?.join(DATA_FOLDER).join(port.to_string());
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        let (mut command, place) = match self {
            Self::Named => return Ok(None),
            Self::Program(program) => (tools::command(program), Place::here(&folder)),
            Self::Docker => (redis_container::run(port, &folder)?, Place::in_container()),
        };
        // The configuration goes over standard input: a password on a command
        // line shows in the list of processes.
        command.arg("-").stdin(Stdio::piped());
        let configuration = configuration(&place, port, settings.credentials().password);
        let mut redis = Child::spawn("Redis", &mut command)?;
        if let Some(mut stdin) = redis.take_stdin() {
            let written = stdin.write_all(configuration.as_bytes());
            written.context("cannot write Redis's configuration")?;
        }
        eprintln!("Redis keeps its data and its log in {}", folder.display());
        Ok(Some(redis))
    }

    /// The `redis-cli` that reaches it.
    pub(crate) fn cli(&self, settings: &RedisSettings) -> Result<String> {
        let port = settings.port()?;
        let mut words = vec!["redis-cli".to_owned()];
        match (self, settings.host()) {
            (Self::Docker, _) => {
                words.insert(0, format!("docker exec {}", redis_container::name(port)))
            }
            (Self::Named, Some(host)) => words.push(format!("-h {host}")),
            _ => (),
        }
        words.push(format!("-p {port}"));
        words.extend(settings.database().map(|number| format!("-n {number}")));
        if settings.tls() {
            words.push("--tls".to_owned());
            let authority = settings.certificate_authority();
            words.extend(authority.map(|file| format!("--cacert {}", file.display())));
        }
        let credentials = settings.credentials();
        words.extend(credentials.username.map(|name| format!("--user {name}")));
        words.extend(credentials.password.map(|_| "--askpass".to_owned()));
        Ok(words.join(" "))
    }
}

/// Sees to it that our own Redis can have its port.
///
/// # Errors
///
/// When the port is in use, and what the user may do.
pub(crate) fn check_port(port: u16) -> Result<()> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    match address::check_free(address, "Redis", "--redis-port") {
        Err(_in_use) if probe::is_redis(port) => bail!(
            "port {port}, meant for our own Redis, is in use by another Redis; to count in that one, \
             set REDIS_HOST=127.0.0.1 REDIS_PORT={port}; to leave it alone, choose another port \
             with --redis-port"
        ),
        outcome => outcome,
    }
}

/// What differs between a server here and one in a container.
struct Place {
    folder: PathBuf,
    bind: &'static str,
    protected_mode: &'static str,
}

impl Place {
    fn here(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            bind: "127.0.0.1",
            protected_mode: "yes",
        }
    }

    /// Loopback is ensured where the port is published.
    fn in_container() -> Self {
        Self {
            folder: PathBuf::from("/data"),
            bind: "0.0.0.0",
            protected_mode: "no",
        }
    }
}

fn configuration(place: &Place, port: u16, password: Option<&str>) -> String {
    let Place {
        folder,
        bind,
        protected_mode,
    } = place;
    let folder = quote(&folder.display().to_string());
    let mut lines = format!(
        "port {port}\nbind {bind}\nprotected-mode {protected_mode}\n\
         dir {folder}\nappendonly yes\nappendfsync everysec\nsave \"\"\n\
         logfile redis.log\nloglevel notice\n"
    );
    if let Some(password) = password {
        lines.push_str(&format!("requirepass {}\n", quote(password)));
    }
    lines
}

/// A string as Redis's configuration reads it.
fn quote(text: &str) -> String {
    let mut quoted = String::from('"');
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => quoted.extend(['\\', char::from(byte)]),
            b' '..=b'~' => quoted.push(char::from(byte)),
            _ => quoted.push_str(&format!("\\x{byte:02x}")),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_redis_keeps_an_aof_and_listens_on_loopback() {
        let place = Place::here(Path::new("/a b/redis"));
        let lines = configuration(&place, 6380, Some("se\"cret"));
        for line in [
            "port 6380",
            "bind 127.0.0.1",
            "dir \"/a b/redis\"",
            "appendonly yes",
            "requirepass \"se\\\"cret\"",
        ] {
            assert!(
                lines.lines().any(|found| found == line),
                "{line} in {lines}"
            );
        }
    }

    #[test]
    fn quoted_text_stays_on_its_line() {
        assert_eq!(quote("a\nb\\"), r#""a\x0ab\\""#);
    }

    #[test]
    fn the_printed_redis_cli_shows_no_password() {
        let settings = RedisSettings::default().at("10.0.0.1", 6390);
        let cli = RedisServer::Named.cli(&settings).expect("a port");
        assert_eq!(cli, "redis-cli -h 10.0.0.1 -p 6390");
    }
}
