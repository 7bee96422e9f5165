//! Child processes and signals. Each child has a process group: Ctrl-C in the
//! terminal reaches xtask alone, which then stops the children in order.

use std::fmt;
use std::io::{Read, Seek};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use functional_scaffold_testkit::process::{Process, describe_end};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Limit for a server to become ready. Redis reads its AOF first; the app's runtime
/// compiles what is not in its cache, which takes 20 s of processor time for Python.
const START_TIMEOUT: Duration = Duration::from_secs(240);
const PROBE_TIMEOUT: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

static SIGNALS: AtomicUsize = AtomicUsize::new(0);
static CTRL_CS: AtomicUsize = AtomicUsize::new(0);

/// The error of work that the user interrupted.
#[derive(Debug)]
pub(crate) struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// Counts SIGINT, SIGTERM and SIGHUP from now on instead of dying of them. Every
/// wait in this module ends with [`Interrupted`] once one arrived.
pub(crate) fn handle_signals() -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot handle signals")?;
    thread::spawn(move || {
        for signal in signals.forever() {
            SIGNALS.fetch_add(1, Ordering::Relaxed);
            if signal == SIGINT {
                CTRL_CS.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    Ok(())
}

fn check_interrupted() -> Result<()> {
    match SIGNALS.load(Ordering::Relaxed) {
        0 => Ok(()),
        _ => bail!(Interrupted),
    }
}

/// A running child whose output goes to the terminal. Stopped on drop; a second
/// Ctrl-C kills it.
pub(crate) struct Child(Process);

impl Child {
    /// Starts `command` with `input` on its standard input; `name` is for messages.
    pub(crate) fn start(name: &str, command: &mut Command, input: &str) -> Result<Self> {
        let process = Process::start_in_terminal(name, command, input);
        Ok(Self(
            process.with_context(|| format!("cannot start {name}"))?,
        ))
    }

    /// Waits until it ends, at most `limit`.
    fn wait(&mut self, limit: Option<Duration>) -> Result<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.0.exit_status()? {
                return Ok(status);
            }
            check_interrupted()?;
            if let Some(limit) = limit.filter(|limit| start.elapsed() > *limit) {
                bail!("{} took more than {} s", self.0.name(), limit.as_secs());
            }
            thread::sleep(POLL_INTERVAL);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.0.stop(|| CTRL_CS.load(Ordering::Relaxed) > 1);
    }
}

/// The servers of `up`, in the order in which they were started. They are
/// stopped in the opposite order, so that the app can still store its last
/// counts.
#[derive(Default)]
pub(crate) struct Children(Vec<Child>);

impl Children {
    /// Adds a child, and waits until `is_ready` succeeds.
    pub(crate) fn add(&mut self, child: Child, is_ready: impl Fn() -> Result<()>) -> Result<()> {
        let name = child.0.name().to_owned();
        self.0.push(child);
        let start = Instant::now();
        loop {
            let outcome = is_ready();
            // After the probe: it may have reached another server, on the port
            // that our child could not bind.
            self.check()?;
            match outcome {
                Ok(()) => return Ok(()),
                Err(error) if start.elapsed() > START_TIMEOUT => {
                    let seconds = START_TIMEOUT.as_secs();
                    return Err(error)
                        .with_context(|| format!("{name} was not ready after {seconds} s"));
                }
                Err(_not_yet) => thread::sleep(POLL_INTERVAL),
            }
        }
    }

    /// Waits until the user interrupts, which is no error, or a child ends,
    /// which is one.
    pub(crate) fn watch(&mut self) -> Result<()> {
        loop {
            match self.check() {
                Ok(()) => thread::sleep(POLL_INTERVAL),
                Err(error) if error.is::<Interrupted>() => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn check(&mut self) -> Result<()> {
        check_interrupted()?;
        for Child(process) in &mut self.0 {
            if let Some(status) = process.exit_status()? {
                bail!("{} {}", process.name(), describe_end(status));
            }
        }
        Ok(())
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        while let Some(child) = self.0.pop() {
            eprintln!("stopping {}", child.0.name());
        }
    }
}

/// Runs `command` to its end, its output going to the terminal. It fails where
/// the command does, or takes longer than `limit`; it is stopped then.
pub(crate) fn run(name: &str, command: &mut Command, limit: Option<Duration>) -> Result<()> {
    let status = Child::start(name, command, "")?.wait(limit)?;
    ensure!(status.success(), "{name} {}", describe_end(status));
    Ok(())
}

/// Runs `command` as [`run`] does, and returns its standard output, trimmed.
pub(crate) fn capture(name: &str, command: &mut Command, limit: Duration) -> Result<String> {
    let mut file = tempfile::tempfile().context("cannot create a temporary file")?;
    run(name, command.stdout(file.try_clone()?), Some(limit))?;
    let mut output = String::new();
    file.rewind()?;
    let read = file.read_to_string(&mut output);
    read.with_context(|| format!("cannot read the output of {name}"))?;
    Ok(output.trim().to_owned())
}

/// Returns whether `command` ends with success within half a minute. Its output is
/// dropped.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command.stderr(Stdio::null());
    capture("", command, PROBE_TIMEOUT).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn captures_what_a_command_wrote() {
        let output = capture("echo", &mut shell("echo ' 4.1.0 '"), START_TIMEOUT);
        assert_eq!(output.expect("sh runs"), "4.1.0");
    }

    #[test]
    fn names_the_exit_code_of_a_failed_command() {
        let error = run("the step", &mut shell("exit 3"), None).expect_err("it fails");
        assert_eq!(error.to_string(), "the step ended with exit code 3");
    }

    #[test]
    fn ends_a_command_at_its_limit_with_what_it_started() {
        let start = Instant::now();
        let limit = Duration::from_millis(100);
        let error = run("sleep", &mut shell("sleep 60 & sleep 60"), Some(limit));
        error.expect_err("it takes too long");
        assert!(start.elapsed() < START_TIMEOUT);
    }
}
