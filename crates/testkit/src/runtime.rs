//! The application on what runs it: the dev host, or the Spin CLI. Both take the
//! same command line.

use std::{
    env,
    ffi::OsString,
    fs::File,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail, ensure};

use crate::{
    manifest::Manifest,
    process::{Process, START_TIMEOUT, Signal, on_free_port},
    program, repository,
};

/// The first Spin with the released WASI 0.3.
pub const OLDEST_SPIN: Version = Version([4, 1, 0]);

/// A runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Runtime {
    /// This repository's own host.
    Devhost(PathBuf),
    /// The Spin CLI.
    Spin(PathBuf),
}

impl Runtime {
    /// The one that `SCAFFOLD_RUNTIME` names: `devhost`, the default, or `spin`.
    ///
    /// # Errors
    /// It is not built, not installed, or too old.
    pub fn from_environment() -> anyhow::Result<Self> {
        match env::var("SCAFFOLD_RUNTIME").as_deref() {
            Ok("spin") => Self::spin(),
            Ok("devhost") | Err(_) => Ok(Self::Devhost(program::built("devhost")?)),
            Ok(other) => bail!("SCAFFOLD_RUNTIME is {other:?}, not devhost or spin"),
        }
    }

    /// `spin up` starts another process, which does not end by SIGTERM while an
    /// algorithm loops in it, and outlives it. So both are a group.
    fn start(&self, command: &mut Command) -> anyhow::Result<Process> {
        match self {
            Self::Devhost(_) => Process::start(command),
            Self::Spin(_) => Process::start_group(command),
        }
    }

    /// The Spin CLI: the one that `SPIN_BIN` names, else `spin` on `PATH`.
    ///
    /// # Errors
    /// There is none, or it is too old.
    pub fn spin() -> anyhow::Result<Self> {
        let named = env::var_os("SPIN_BIN").filter(|name| !name.is_empty());
        let name = named.unwrap_or_else(|| OsString::from("spin"));
        let program = which::which(&name).ok().with_context(|| {
            format!(
                "no Spin CLI: {} is not a program here. Install Spin {OLDEST_SPIN} or newer, \
                 or say where it is with SPIN_BIN",
                name.display()
            )
        })?;
        let output = Command::new(&program).arg("--version").output();
        let output = output.with_context(|| format!("cannot start {}", program.display()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version = Version::parse(&text)
            .with_context(|| format!("cannot read Spin's version in {text:?}"))?;
        ensure!(
            version >= OLDEST_SPIN,
            "{} is Spin {version}, which cannot load WASI 0.3 components; \
             Spin {OLDEST_SPIN} or newer is needed",
            program.display()
        );
        Ok(Self::Spin(program))
    }

    /// The path of the program.
    #[must_use]
    pub fn program(&self) -> &Path {
        match self {
            Self::Devhost(program) | Self::Spin(program) => program,
        }
    }

    /// Returns whether it is Spin itself.
    #[must_use]
    pub fn is_spin(&self) -> bool {
        matches!(self, Self::Spin(_))
    }
}

/// Completes a command that runs a runtime so that it serves the application of a
/// manifest there.
pub fn command(mut program: Command, manifest: &Path, listen: SocketAddr) -> Command {
    program
        .args(["up", "--from"])
        .arg(manifest)
        .args(["--listen", &listen.to_string()]);
    program
}

/// Arguments that keep one instance however long it idles and however many
/// requests it has served.
pub const LASTING_INSTANCE: [&str; 4] = [
    "--max-instance-reuse-count",
    "1000000000",
    "--idle-instance-timeout",
    "31536000s",
];

/// The version of a Spin CLI. A pre-release counts as its release: a Spin built
/// from source calls itself `4.1.0-pre0` whatever it can do.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Version([u32; 3]);

impl Version {
    /// Parses `spin 4.1.0 (4af5d2c 2026-07-01)`, with or without `-rc.1`.
    fn parse(text: &str) -> anyhow::Result<Self> {
        let version = text.split_whitespace().nth(1).context("no version")?;
        let numbers = version.split('-').next().unwrap_or(version);
        let numbers: Result<Vec<u32>, _> = numbers.split('.').map(str::parse).collect();
        let Ok(numbers) = numbers?.try_into() else {
            bail!("not three numbers");
        };
        Ok(Self(numbers))
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self([major, minor, patch]) = self;
        write!(formatter, "{major}.{minor}.{patch}")
    }
}

/// The key with which the application signs batches in its log.
pub const REPLAY_KEY: &str = "the key of all tests: 32 bytes or more";

/// How the application is started.
#[derive(Debug, Clone)]
pub struct AppOptions {
    /// The manifest.
    pub manifest: PathBuf,
    /// The only component of it that is served.
    pub component: Option<&'static str>,
    /// Spin variables, also those that the manifest leaves out. The last of a name
    /// counts.
    pub variables: Vec<(&'static str, String)>,
    /// Further arguments of `up`.
    pub arguments: Vec<String>,
    /// The runtime's own environment variables.
    pub environment: Vec<(&'static str, PathBuf)>,
}

impl AppOptions {
    /// `prime-check` of this repository's application in `exact`, with Redis on
    /// `redis_port`. `/readyz` shows why it is not ready. Hosts take half a second to load Python and JavaScript.
    #[must_use]
    pub fn with_redis(redis_port: u16) -> Self {
        Self {
            manifest: repository().join("spin.toml"),
            component: Some("prime-check"),
            variables: vec![
                ("redis_port", redis_port.to_string()),
                ("metrics_durability", "exact".to_owned()),
                ("readyz_details", "public".to_owned()),
                ("replay_key", REPLAY_KEY.to_owned()),
            ],
            arguments: Vec::new(),
            environment: Vec::new(),
        }
    }

    /// Sets a variable.
    #[must_use]
    pub fn variable(mut self, name: &'static str, value: &str) -> Self {
        self.variables.push((name, value.to_owned()));
        self
    }

    /// Adds arguments of `up`.
    #[must_use]
    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments
            .extend(arguments.iter().map(|&argument| argument.to_owned()));
        self
    }

    /// Keeps one instance, however many requests it has served.
    #[must_use]
    pub fn lasting(self) -> Self {
        self.arguments(&LASTING_INSTANCE)
    }

    /// Serves every component of the manifest.
    #[must_use]
    pub fn every_component(mut self) -> Self {
        self.component = None;
        self
    }

    /// Serves every component of another manifest.
    #[must_use]
    pub fn manifest(mut self, path: PathBuf) -> Self {
        self.manifest = path;
        self.every_component()
    }

    /// Serves the algorithm that misbehaves on request instead of `prime-check`.
    #[must_use]
    pub fn rogue(self) -> Self {
        self.manifest(repository().join("tests/rogue/spin.toml"))
    }

    /// Serves the algorithm that misbehaves on request, on `/invoke/rogue` with a guard
    /// and on all other paths without.
    #[must_use]
    pub fn guarded_rogue(self) -> Self {
        self.manifest(repository().join("tests/rogue/guarded.toml"))
    }

    fn command(&self, runtime: &Runtime, manifest: &Manifest, listen: SocketAddr) -> Command {
        let mut command = command(Command::new(runtime.program()), manifest.path(), listen);
        command
            .args(&self.arguments)
            .envs(self.environment.iter().cloned())
            // Away from a .env of the user's.
            .current_dir(env::temp_dir());
        for (name, value) in &self.variables {
            command.env(format!("SPIN_VARIABLE_{}", name.to_uppercase()), value);
        }
        command
    }
}

/// The running application. Stopped on drop.
#[derive(Debug)]
pub struct App {
    process: Process,
    runtime: Runtime,
    options: AppOptions,
    manifest: Manifest,
    address: SocketAddr,
    starts: usize,
}

impl App {
    /// Starts it on the runtime that `SCAFFOLD_RUNTIME` names and waits until it
    /// serves. Sends it no request, because requests are counted.
    ///
    /// # Errors
    /// It is not built, or does not start.
    pub fn start(options: &AppOptions) -> anyhow::Result<Self> {
        Self::start_on(Runtime::from_environment()?, options)
    }

    /// Like [`Self::start`], on this runtime.
    ///
    /// # Errors
    /// It does not start.
    pub fn start_on(runtime: Runtime, options: &AppOptions) -> anyhow::Result<Self> {
        let names: Vec<_> = options.variables.iter().map(|(name, _)| *name).collect();
        // A runtime compiles what its cache does not have, which takes 20 s for
        // Python. Runtimes that start at the same time would all do so.
        let lock = File::create(env::temp_dir().join("functional-scaffold-start.lock"))?;
        lock.lock()?;
        on_free_port(|port| {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let manifest = Manifest::serving(&options.manifest, &names, options.component)?;
            let mut app = Self {
                process: runtime.start(&mut options.command(&runtime, &manifest, address))?,
                runtime: runtime.clone(),
                options: options.clone(),
                manifest,
                address,
                starts: 0,
            };
            app.wait_until_it_serves()?;
            Ok(app)
        })
    }

    /// Kills the runtime, starts it on the same port, and waits until it serves.
    /// The output is appended to the same file.
    ///
    /// # Errors
    /// It ended by itself before, or does not start.
    pub fn kill_and_restart(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.process.exit_status()? {
            bail!("the runtime ended by itself: {status}\n{}", self.output()?);
        }
        let mut command = self
            .options
            .command(&self.runtime, &self.manifest, self.address);
        self.process.replace(&mut command, "")?;
        self.wait_until_it_serves()
    }

    /// The runtime says so: a connection could be one to another process that
    /// took the port.
    fn wait_until_it_serves(&mut self) -> anyhow::Result<()> {
        self.starts += 1;
        let starts = self.starts;
        self.process.wait_until(START_TIMEOUT, |process| {
            let lines = process.output()?.matches("Serving http://").count();
            ensure!(lines == starts, "it does not serve");
            Ok(())
        })
    }

    /// The URL of a path.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The runtime's process.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Everything that runtime and components wrote so far.
    ///
    /// # Errors
    /// The output cannot be read.
    pub fn output(&self) -> anyhow::Result<String> {
        self.process.output()
    }

    /// The log lines of one event so far.
    ///
    /// # Errors
    /// The output cannot be read.
    #[cfg(feature = "client")]
    pub fn log(&self, event: &str) -> anyhow::Result<Vec<serde_json::Value>> {
        let output = self.output()?;
        let lines = output
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        Ok(lines.filter(|line| line["event"] == event).collect())
    }

    /// Ends it with SIGTERM, and returns its exit code.
    ///
    /// # Errors
    /// It does not end, or a signal ended it.
    pub fn terminate(&mut self) -> anyhow::Result<i32> {
        self.process.signal(Signal::TERM)?;
        let status = self.process.wait(START_TIMEOUT)?;
        status
            .code()
            .with_context(|| format!("it ended with {status}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spin_4_1_0_is_the_oldest() {
        for (text, is_new_enough) in [
            ("spin 4.1.0 (4af5d2c 2026-07-01)", true),
            ("spin 4.10.2", true),
            ("spin 5.0.0-pre0 (a 2027-01-01)", true),
            ("spin 4.1.0-pre0 (94a8fc8a 2026-08-21)", true),
            ("spin 4.0.1 (a 2026-03-01)", false),
            ("spin 3.6.3\n", false),
        ] {
            let version = Version::parse(text).expect("a version");
            assert_eq!(version >= OLDEST_SPIN, is_new_enough, "{text}");
        }
    }

    #[test]
    fn what_is_no_version_is_refused() {
        for text in ["spin", "spin four", "spin 4.1"] {
            Version::parse(text).expect_err(text);
        }
    }
}
