//! Child processes and signals. Each child has a process group: Ctrl-C in the
//! terminal reaches xtask alone, which then stops the children in order.

use std::fmt;
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// How long a child may take to end after SIGTERM, before SIGKILL.
const STOP_TIMEOUT: Duration = Duration::from_secs(8);
/// How long a server may take to become ready. Redis reads its AOF first.
const START_TIMEOUT: Duration = Duration::from_secs(60);
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

/// A running child process, stopped on drop.
pub(crate) struct Child {
    name: String,
    process: std::process::Child,
}

impl Child {
    /// Starts `command`; `name` is what the user knows it by.
    pub(crate) fn spawn(name: &str, command: &mut Command) -> Result<Self> {
        let process = command.process_group(0).spawn().with_context(|| {
            format!("cannot start {name} ({})", command.get_program().display())
        })?;
        Ok(Self {
            name: name.to_owned(),
            process,
        })
    }

    /// The piped standard input, the first time.
    pub(crate) fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.process.stdin.take()
    }

    fn exit_status(&mut self) -> Result<Option<ExitStatus>> {
        let status = self.process.try_wait();
        status.with_context(|| format!("cannot wait for {}", self.name))
    }

    /// Waits until it ends, at most `limit`. After an error it still runs.
    fn wait(&mut self, limit: Option<Duration>) -> Result<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.exit_status()? {
                return Ok(status);
            }
            check_interrupted()?;
            if let Some(limit) = limit.filter(|limit| start.elapsed() > *limit) {
                bail!("{} took more than {} s", self.name, limit.as_secs());
            }
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// Sends SIGTERM to the group, and SIGKILL to what is left of it when the
    /// child has ended, after [`STOP_TIMEOUT`], or at a second Ctrl-C.
    fn stop(&mut self) {
        self.signal(Signal::TERM);
        let start = Instant::now();
        while let Ok(None) = self.exit_status() {
            if start.elapsed() > STOP_TIMEOUT || CTRL_CS.load(Ordering::Relaxed) > 1 {
                eprintln!("{} did not stop; killing it", self.name);
                break;
            }
            thread::sleep(POLL_INTERVAL);
        }
        self.signal(Signal::KILL);
        let _reaped = self.process.wait();
    }

    fn signal(&self, signal: Signal) {
        let group = i32::try_from(self.process.id());
        if let Some(group) = group.ok().and_then(Pid::from_raw) {
            // Fails where nothing of the group runs any more.
            let _gone = kill_process_group(group, signal);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.stop();
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
        let name = child.name.clone();
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
        for child in &mut self.0 {
            if let Some(status) = child.exit_status()? {
                bail!("{} {}", child.name, describe_end(status));
            }
        }
        Ok(())
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        while let Some(child) = self.0.pop() {
            eprintln!("stopping {}", child.name);
        }
    }
}

/// Runs `command` to its end, its output going to the terminal. It fails where
/// the command does, or takes longer than `limit`; it is stopped then.
pub(crate) fn run(name: &str, command: &mut Command, limit: Option<Duration>) -> Result<()> {
    let mut child = Child::spawn(name, command.stdin(Stdio::null()))?;
    let status = child.wait(limit)?;
    match status.success() {
        true => Ok(()),
        false => bail!("{name} {}", describe_end(status)),
    }
}

/// Runs `command` as [`run`] does, and returns its standard output, trimmed. For
/// short output only: the pipe is read at the end.
pub(crate) fn capture(name: &str, command: &mut Command, limit: Duration) -> Result<String> {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = Child::spawn(name, command)?;
    let status = child.wait(Some(limit))?;
    if !status.success() {
        bail!("{name} {}", describe_end(status));
    }
    let mut output = String::new();
    if let Some(mut pipe) = child.process.stdout.take() {
        let read = pipe.read_to_string(&mut output);
        read.with_context(|| format!("cannot read the output of {name}"))?;
    }
    Ok(output.trim().to_owned())
}

/// To follow a process's name: `ended with exit code 1`.
fn describe_end(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
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
        let output = capture("echo", &mut shell("echo ' 4.1.0 '"), STOP_TIMEOUT);
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
        assert!(start.elapsed() < STOP_TIMEOUT);
    }
}
