//! redis-server (or valkey-server).

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{bail, ensure};
use tempfile::TempDir;

use crate::{
    http::connect,
    process::{Process, START_TIMEOUT, Signal, on_free_port},
    program::Program,
};

/// The program.
pub const REDIS: Program = Program {
    name: "Redis",
    executables: &["redis-server", "valkey-server"],
    package: "redis-server",
};

/// The user of the launcher and of the tests. Whatever a test does to the default
/// user, which the programs under test are, does not lock the test out.
pub(crate) const TESTER: &str = "tester";

const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// How a server is started.
#[derive(Debug, Clone)]
pub struct RedisOptions {
    port: Option<u16>,
    folder: Option<PathBuf>,
    lines: Vec<String>,
    environment: Vec<(&'static str, PathBuf)>,
}

impl RedisOptions {
    /// A server on a free port of loopback, with its data in a temporary folder
    /// and no persistence.
    #[must_use]
    pub fn new() -> Self {
        Self {
            port: None,
            folder: None,
            lines: Vec::new(),
            environment: Vec::new(),
        }
    }

    /// Listens on this port.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// Keeps the data in this folder, which must exist.
    #[must_use]
    pub fn folder(mut self, folder: &Path) -> Self {
        self.folder = Some(folder.to_owned());
        self
    }

    /// Adds a line to the configuration. The last line of a name counts.
    #[must_use]
    pub fn line(mut self, name: &str, values: &[&str]) -> Self {
        let values = values.iter().map(|value| quote(value));
        let words: Vec<_> = [name.to_owned()].into_iter().chain(values).collect();
        self.lines.push(words.join(" "));
        self
    }

    /// Adds the lines of `others`.
    #[must_use]
    pub(crate) fn lines_of(mut self, others: &Self) -> Self {
        self.lines.extend(others.lines.iter().cloned());
        self
    }

    /// Sets an environment variable of the server.
    #[must_use]
    pub fn environment(mut self, name: &'static str, value: PathBuf) -> Self {
        self.environment.push((name, value));
        self
    }

    /// Writes an append-only file: `policy` is `always`, `everysec` or `no`.
    #[must_use]
    pub fn append_only(self, policy: &str) -> Self {
        self.line("appendonly", &["yes"])
            .line("appendfsync", &[policy])
    }

    /// The configuration, which [`Self::command`] reads from standard input: a
    /// password on a command line shows in the list of processes.
    #[must_use]
    pub fn configuration(&self) -> String {
        let mut lines = "bind 127.0.0.1\nsave \"\"\n".to_owned();
        if let Some(port) = self.port {
            lines.push_str(&format!("port {port}\n"));
        }
        if let Some(folder) = &self.folder {
            let folder = quote(&folder.display().to_string());
            lines.push_str(&format!("dir {folder}\n"));
        }
        for line in &self.lines {
            lines.push_str(line);
            lines.push('\n');
        }
        lines
    }

    /// Completes a command that runs the program, here or in a container, so that
    /// it reads its configuration from standard input.
    pub fn command(mut program: Command) -> Command {
        program.arg("-");
        program
    }

    /// Starts the server and waits until it responds to a `PING`.
    ///
    /// # Errors
    /// There is no program, or it does not respond.
    pub fn start(self) -> anyhow::Result<RedisServer> {
        match self.port {
            Some(port) => self.start_on(port),
            None => on_free_port(|port| self.clone().start_on(port)),
        }
    }

    fn program(&self) -> anyhow::Result<Command> {
        let mut program = Self::command(Command::new(REDIS.find()?));
        program.envs(self.environment.iter().cloned());
        Ok(program)
    }

    fn start_on(self, port: u16) -> anyhow::Result<RedisServer> {
        let temporary = TempDir::new()?;
        let folder = self.folder.unwrap_or_else(|| temporary.path().to_owned());
        let password = format!(">{TESTER}");
        let options = Self {
            port: Some(port),
            folder: Some(folder.clone()),
            lines: self.lines,
            environment: self.environment,
        }
        .line("user", &[TESTER, "on", &password, "~*", "&*", "+@all"]);
        let mut server = RedisServer {
            process: Process::start_with_input(&mut options.program()?, &options.configuration())?,
            options,
            port,
            folder,
            _temporary: temporary,
        };
        server.wait_until_ready()?;
        Ok(server)
    }
}

impl Default for RedisOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// A running redis-server. Stopped on drop.
#[derive(Debug)]
pub struct RedisServer {
    // First, so that the process ends before its folder goes.
    process: Process,
    options: RedisOptions,
    port: u16,
    folder: PathBuf,
    _temporary: TempDir,
}

impl RedisServer {
    /// Starts a server with [`RedisOptions::new`].
    ///
    /// # Errors
    /// There is no program, or it does not respond.
    pub fn start() -> anyhow::Result<Self> {
        RedisOptions::new().start()
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// The process, to wait for its end.
    pub fn process_mut(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The folder of the data.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Kills the server, starts it on the same port and data, and waits until it
    /// responds.
    ///
    /// # Errors
    /// It does not respond.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.restart_with(&RedisOptions::new())?;
        self.wait_until_ready()
    }

    /// Like [`Self::restart`] with the further lines of `options`, for this one
    /// time; does not wait.
    ///
    /// # Errors
    /// There is no program.
    pub fn restart_with(&mut self, options: &RedisOptions) -> anyhow::Result<()> {
        let once = self.options.clone().lines_of(options);
        self.process
            .replace(&mut once.program()?, &once.configuration())
    }

    /// Waits until it responds to a `PING`.
    ///
    /// # Errors
    /// It ended, or does not respond.
    pub fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        self.process.wait_until(START_TIMEOUT, |_| {
            check_ping(address, Some(TESTER), Some(TESTER))
        })
    }

    /// Kills the server. The port stays with it for [`Self::restart`].
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Suspends the process: it accepts connections and does not respond.
    ///
    /// # Errors
    /// It is gone.
    pub fn suspend(&self) -> anyhow::Result<()> {
        self.process.signal(Signal::STOP)
    }

    /// Resumes the process.
    ///
    /// # Errors
    /// It is gone.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.process.signal(Signal::CONT)
    }
}

#[cfg(feature = "client")]
impl RedisServer {
    /// Calls a command over a new connection.
    ///
    /// # Errors
    /// Redis's own, or no reply within half a minute.
    pub fn call<T: ::redis::FromRedisValue>(&self, command: &[&str]) -> anyhow::Result<T> {
        let mut call = ::redis::cmd(command[0]);
        call.arg(&command[1..]);
        Ok(call.query(&mut self.connect()?)?)
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// Redis's own.
    pub fn connect(&self) -> anyhow::Result<::redis::Connection> {
        const LIMIT: Duration = Duration::from_secs(30);
        let address = format!("redis://{TESTER}:{TESTER}@127.0.0.1:{}", self.port);
        let client = ::redis::Client::open(address)?;
        let connection = client.get_connection_with_timeout(LIMIT)?;
        connection.set_read_timeout(Some(LIMIT))?;
        Ok(connection)
    }

    /// The cells of a hash of integers that are not 0.
    ///
    /// # Errors
    /// Redis's own.
    pub fn cells(&self, key: &str) -> anyhow::Result<std::collections::BTreeMap<String, i64>> {
        let mut cells: std::collections::BTreeMap<String, i64> = self.call(&["HGETALL", key])?;
        cells.retain(|_, value| *value != 0);
        Ok(cells)
    }

    /// The number of calls of a command, from `INFO commandstats`.
    ///
    /// # Errors
    /// Redis's own.
    pub fn calls(&self, command: &str) -> anyhow::Result<u64> {
        let stats: String = self.call(&["INFO", "commandstats"])?;
        let prefix = format!("cmdstat_{command}:calls=");
        let mut lines = stats.lines();
        let digits = lines.find_map(|line| line.strip_prefix(&prefix)?.split(',').next());
        Ok(digits.map_or(Ok(0), str::parse)?)
    }
}

/// Succeeds if a Redis responds to `PING` with `PONG`.
///
/// # Errors
/// Says what happened instead; an error of Redis begins with `Redis responds "-`.
pub fn check_ping(
    address: SocketAddr,
    username: Option<&str>,
    password: Option<&str>,
) -> anyhow::Result<()> {
    let mut connection = BufReader::new(connect(address, PING_TIMEOUT)?);
    if let Some(password) = password {
        let words = ["AUTH"].into_iter().chain(username).chain([password]);
        let reply = call(&mut connection, &words.collect::<Vec<_>>())?;
        ensure!(reply == "+OK", "Redis responds {reply:?} to AUTH");
    }
    let reply = call(&mut connection, &["PING"])?;
    ensure!(reply == "+PONG", "Redis responds {reply:?} to PING");
    Ok(())
}

/// Tells whether a Redis listens there, even one that refuses us.
#[must_use]
pub fn is_redis(address: SocketAddr) -> bool {
    match check_ping(address, None, None) {
        Ok(()) => true,
        Err(error) => error.to_string().starts_with("Redis responds \"-"),
    }
}

/// Sends a command and reads the first line of the reply.
fn call(connection: &mut BufReader<TcpStream>, words: &[&str]) -> anyhow::Result<String> {
    let mut request = format!("*{}\r\n", words.len());
    for word in words {
        request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    connection.get_mut().write_all(request.as_bytes())?;
    let mut line = String::new();
    connection.read_line(&mut line)?;
    if line.is_empty() {
        bail!("Redis closed the connection");
    }
    Ok(line.trim_end().to_owned())
}

/// Quotes a string for Redis's configuration.
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
    fn the_configuration_listens_on_loopback_and_quotes_values() {
        let options = RedisOptions::new()
            .port(6380)
            .folder(Path::new("/a b/redis"))
            .append_only("everysec")
            .line("requirepass", &["se\"cret"]);
        assert_eq!(
            options.configuration(),
            "bind 127.0.0.1\nsave \"\"\nport 6380\ndir \"/a b/redis\"\nappendonly \"yes\"\n\
             appendfsync \"everysec\"\nrequirepass \"se\\\"cret\"\n"
        );
        assert_eq!(quote("a\nb\\"), r#""a\x0ab\\""#);
    }

    #[test]
    fn data_survives_a_restart_and_further_lines_do_not() -> anyhow::Result<()> {
        let mut redis = RedisOptions::new().append_only("always").start()?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, redis.port()));
        assert!(is_redis(address));
        let mut connection = BufReader::new(connect(address, PING_TIMEOUT)?);
        assert_eq!(call(&mut connection, &["SET", "a", "1"])?, "+OK");
        redis.restart_with(&RedisOptions::new().line("requirepass", &["p w"]))?;
        redis.wait_until_ready()?;
        check_ping(address, None, None).expect_err("it has a password");
        assert!(is_redis(address));
        check_ping(address, None, Some("p w"))?;
        redis.restart()?;
        let mut connection = BufReader::new(connect(address, PING_TIMEOUT)?);
        assert_eq!(call(&mut connection, &["STRLEN", "a"])?, ":1");
        redis.kill();
        assert!(!is_redis(address));
        Ok(())
    }
}
