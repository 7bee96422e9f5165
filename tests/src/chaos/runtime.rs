//! The application on the dev host: on one port through all its deaths, its
//! output in files that outlive them, one for each life.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    process::{POLL, free_port},
    repository, workspace_binary,
};

use super::Durability;

/// The variable `execution_limit_ms`: small, so that leases run out soon.
pub const EXECUTION_LIMIT_MS: u64 = 1_000;
/// After how long a lease runs out: the limit, and the margin of 5 s.
pub const LEASE: Duration = Duration::from_millis(EXECUTION_LIMIT_MS + 5_000);
/// How many requests an instance takes, as on Spin.
pub const REQUESTS_AN_INSTANCE: usize = 128;
/// After how long the dev host ends a loop.
const HOST_LIMIT: &str = "500ms";
/// The component is compiled first, and other programs may be at work.
const START_TIMEOUT: Duration = Duration::from_secs(60);
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// The running application. Killed on drop.
#[derive(Debug)]
pub struct Runtime {
    port: u16,
    redis_port: u16,
    durability: Durability,
    folder: PathBuf,
    lives: usize,
    child: Child,
}

impl Runtime {
    /// Starts it, with Redis on a port and its output in a folder.
    ///
    /// # Errors
    /// It is not built, or does not serve.
    pub fn start(redis_port: u16, durability: Durability, folder: &Path) -> anyhow::Result<Self> {
        let port = free_port()?;
        let mut runtime = Self {
            port,
            redis_port,
            durability,
            folder: folder.to_owned(),
            lives: 1,
            child: launch(port, redis_port, durability, folder, 1)?,
        };
        runtime.wait_until_it_serves()?;
        Ok(runtime)
    }

    /// Where it listens, as the beginning of a URL.
    #[must_use]
    pub fn origin(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Ends it with SIGKILL, and starts it on the same port.
    ///
    /// # Errors
    /// It is gone already, or does not serve again.
    pub fn kill_and_start_again(&mut self) -> anyhow::Result<()> {
        let ended = self.child.try_wait()?;
        ensure!(ended.is_none(), "the runtime ended by itself: {ended:?}");
        self.child.kill()?;
        self.child.wait()?;
        self.lives += 1;
        self.child = launch(
            self.port,
            self.redis_port,
            self.durability,
            &self.folder,
            self.lives,
        )?;
        self.wait_until_it_serves()
    }

    /// Ends it with SIGTERM.
    ///
    /// # Errors
    /// It does not end.
    pub fn terminate(&mut self) -> anyhow::Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        let deadline = Instant::now() + END_TIMEOUT;
        while self.child.try_wait()?.is_none() {
            ensure!(Instant::now() < deadline, "the runtime does not end");
            sleep(POLL);
        }
        Ok(())
    }

    fn wait_until_it_serves(&mut self) -> anyhow::Result<()> {
        let output = output(&self.folder, self.lives);
        let deadline = Instant::now() + START_TIMEOUT;
        while !fs::read_to_string(&output)?.contains("Serving http://") {
            let ended = self.child.try_wait()?;
            if ended.is_some() || Instant::now() > deadline {
                bail!("the runtime does not serve; see {}", output.display());
            }
            sleep(POLL);
        }
        Ok(())
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The file with the output of one life, counted from 1.
#[must_use]
pub fn output(folder: &Path, life: usize) -> PathBuf {
    folder.join(format!("app-{life}.log"))
}

/// The files there are so far.
#[must_use]
pub fn outputs(folder: &Path) -> Vec<PathBuf> {
    let files = (1..).map(|life| output(folder, life));
    files.take_while(|file| file.exists()).collect()
}

fn launch(
    port: u16,
    redis_port: u16,
    durability: Durability,
    folder: &Path,
    life: usize,
) -> anyhow::Result<Child> {
    let output = File::create(output(folder, life))?;
    let mut command = Command::new(workspace_binary("devhost")?);
    command
        .arg("up")
        .arg("--from")
        .arg(repository().join("tests/rogue/spin.toml"))
        .args(["--listen", &format!("127.0.0.1:{port}")])
        .args(["--execution-limit", HOST_LIMIT])
        .arg("--max-instance-reuse-count")
        .arg(REQUESTS_AN_INSTANCE.to_string())
        .env("SPIN_VARIABLE_REDIS_PORT", redis_port.to_string())
        .env("SPIN_VARIABLE_METRICS_DURABILITY", durability.name())
        .env(
            "SPIN_VARIABLE_EXECUTION_LIMIT_MS",
            EXECUTION_LIMIT_MS.to_string(),
        )
        // A line a request would be most of what there is to do.
        // A line for each execution that gives up its lease.
        .env("SPIN_VARIABLE_LOG_LEVEL", "info")
        // Away from a .env with variables for another purpose.
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output);
    command
        .spawn()
        .context("cannot start the dev host; run `cargo xtask build`")
}
