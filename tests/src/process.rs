//! A child process with its output in a file, signals, and bounded waits.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, TcpListener},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// A running child. Ended on drop.
#[derive(Debug)]
pub struct Process {
    child: Child,
    output: PathBuf,
    _folder: TempDir,
}

impl Process {
    /// Starts a command; `install` says how to get it where it is missing.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(command: &mut Command, install: &str) -> anyhow::Result<Self> {
        let folder = TempDir::new()?;
        let output = folder.path().join("output");
        let file = File::create(&output)?;
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {program}; {install}"))?;
        Ok(Self {
            child,
            output,
            _folder: folder,
        })
    }

    /// Everything it wrote so far, stdout and stderr in order.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn output(&self) -> anyhow::Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(&self.output)?).into_owned())
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until its output holds `text`.
    ///
    /// # Errors
    /// It ended, or `bound` passed.
    pub fn wait_for_output(&mut self, text: &str, bound: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + bound;
        loop {
            let output = self.output()?;
            if output.contains(text) {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("ended with {status} before it wrote {text:?}:\n{output}");
            }
            if Instant::now() > deadline {
                bail!("did not write {text:?} within {bound:?}:\n{output}");
            }
            sleep(POLL);
        }
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// It is gone.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = Pid::from_child(&self.child);
        Ok(kill_process(pid, signal)?)
    }

    /// Waits for its end and gives its exit code.
    ///
    /// # Errors
    /// It goes on for longer than `bound`, or a signal ended it.
    pub fn wait(&mut self, bound: Duration) -> anyhow::Result<i32> {
        let deadline = Instant::now() + bound;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return status
                    .code()
                    .with_context(|| format!("ended with {status}"));
            }
            if Instant::now() > deadline {
                bail!("did not end within {bound:?}");
            }
            sleep(POLL);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SIGTERM first: `spin up` ends its own child then, which SIGKILL would
        // leave behind. A stopped process has to go on to take it.
        let _ = self.signal(Signal::TERM);
        let _ = self.signal(Signal::CONT);
        if self.wait(Duration::from_secs(3)).is_err() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// How often a condition is looked at.
pub const POLL: Duration = Duration::from_millis(10);

/// Looks until `condition` gives a value.
///
/// # Errors
/// `bound` passed; the last reason that `condition` gave.
pub fn poll_until<T>(
    bound: Duration,
    mut condition: impl FnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + bound;
    loop {
        match condition() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() > deadline => {
                return Err(error.context(format!("still so after {bound:?}")));
            }
            Err(_) => sleep(POLL),
        }
    }
}

/// A port that nothing listens on now.
///
/// # Errors
/// There is none.
pub fn free_port() -> anyhow::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
}
