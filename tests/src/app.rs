//! The application on the runtime that `SCAFFOLD_RUNTIME` names.

use std::{env, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context as _, bail};
use functional_scaffold_protocol::batch::SentBatch;
use functional_scaffold_testkit::manifest::Manifest;
use rustix::process::Signal;
use serde_json::Value;

use crate::{
    batch_log::BatchLog,
    process::{Process, free_port},
    repository, workspace_binary,
};

/// How the application is started.
#[derive(Debug, Clone)]
pub struct AppOptions {
    /// The manifest.
    pub manifest: PathBuf,
    /// Spin variables, also those that the manifest leaves out.
    pub variables: Vec<(&'static str, String)>,
    /// Further arguments of `up`.
    pub arguments: Vec<String>,
    /// The runtime's own environment variables.
    pub environment: Vec<(&'static str, PathBuf)>,
}

impl AppOptions {
    /// The application of this repository, with Redis on `redis_port`.
    #[must_use]
    pub fn with_redis(redis_port: u16) -> Self {
        Self {
            manifest: repository().join("spin.toml"),
            variables: vec![("redis_port", redis_port.to_string())],
            arguments: Vec::new(),
            environment: Vec::new(),
        }
    }

    /// The same with another variable.
    #[must_use]
    pub fn variable(mut self, name: &'static str, value: &str) -> Self {
        self.variables.push((name, value.to_owned()));
        self
    }

    /// The same with instances that live on, however many requests they took.
    #[must_use]
    pub fn lasting(mut self) -> Self {
        let arguments = [
            "--max-instance-reuse-count",
            "100000",
            "--idle-instance-timeout",
            "3600s",
        ];
        self.arguments.extend(arguments.map(str::to_owned));
        self
    }

    /// The algorithm that misbehaves on request, instead of `prime-check`.
    #[must_use]
    pub fn rogue(mut self) -> Self {
        self.manifest = repository().join("tests/rogue/spin.toml");
        self
    }
}

/// The running application.
#[derive(Debug)]
pub struct App {
    port: u16,
    process: Process,
    _manifest: Manifest,
}

impl App {
    /// Starts it and waits until it serves. Sends it no request: those are
    /// counted.
    ///
    /// # Errors
    /// It is not built, or does not start.
    pub fn start(options: &AppOptions) -> anyhow::Result<Self> {
        let port = free_port()?;
        let names: Vec<_> = options.variables.iter().map(|(name, _)| *name).collect();
        let manifest = Manifest::declaring(&options.manifest, &names)?;
        let mut command = runtime()?;
        command
            .arg("up")
            .arg("--from")
            .arg(manifest.path())
            .args(["--listen", &format!("127.0.0.1:{port}")])
            .args(&options.arguments)
            .envs(options.environment.iter().cloned());
        for (name, value) in &options.variables {
            let name = format!("SPIN_VARIABLE_{}", name.to_uppercase());
            command.env(name, value);
        }
        let mut process = Process::start(&mut command, "run `cargo xtask build`")?;
        // Spin compiles the components first, on two cores beside other tests.
        process.wait_for_output("Serving http://", Duration::from_secs(120))?;
        Ok(Self {
            port,
            process,
            _manifest: manifest,
        })
    }

    /// The URL of a path.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// The port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The runtime's process.
    #[must_use]
    pub fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// Everything it wrote so far.
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
    pub fn log(&self, event: &str) -> anyhow::Result<Vec<Value>> {
        let output = self.output()?;
        let lines = output
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        Ok(lines.filter(|line| line["event"] == event).collect())
    }

    /// The batches that were given to the log so far. One that is being written
    /// is left out.
    ///
    /// # Errors
    /// The output cannot be read.
    pub fn logged_batches(&self) -> anyhow::Result<Vec<SentBatch>> {
        Ok(BatchLog::read(self.output()?.lines()).batches)
    }

    /// Ends it with SIGTERM, and gives its exit code.
    ///
    /// # Errors
    /// It does not end within ten seconds.
    pub fn terminate(mut self) -> anyhow::Result<i32> {
        self.process.signal(Signal::TERM)?;
        self.process.wait(Duration::from_secs(10))
    }
}

/// Whether the tests run on Spin itself.
#[must_use]
pub fn on_spin() -> bool {
    env::var("SCAFFOLD_RUNTIME").is_ok_and(|runtime| runtime == "spin")
}

fn runtime() -> anyhow::Result<Command> {
    match env::var("SCAFFOLD_RUNTIME").as_deref() {
        Ok("spin") => {
            let spin = env::var("SPIN_BIN").context("SCAFFOLD_RUNTIME=spin needs SPIN_BIN")?;
            Ok(Command::new(spin))
        }
        Ok("devhost") | Err(_) => Ok(Command::new(workspace_binary("devhost")?)),
        Ok(other) => bail!("SCAFFOLD_RUNTIME is {other:?}, not devhost or spin"),
    }
}
