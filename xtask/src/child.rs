//! One child process, in a process group of its own: a Ctrl-C in the terminal
//! reaches only xtask, which then stops the children in its order, each with
//! whatever it started itself. Dropping a child stops it.

use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::interrupt::{self, Interrupted};

/// How long a child may take to end after SIGTERM, before SIGKILL.
const STOP_TIMEOUT: Duration = Duration::from_secs(8);

const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A running child process.
pub(crate) struct Child {
    name: String,
    process: std::process::Child,
}

impl Child {
    /// Starts `command`, with nothing on its standard input unless the command
    /// says otherwise.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub(crate) fn spawn(name: &str, command: &mut Command) -> Result<Self> {
        let process = command.process_group(0).spawn().with_context(|| {
            format!("cannot start {name} ({})", command.get_program().display())
        })?;
        Ok(Self {
            name: name.to_owned(),
            process,
        })
    }

    /// What the user knows it by.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Its standard input, once, when the command made it a pipe.
    pub(crate) fn take_stdin(&mut self) -> Option<std::process::ChildStdin> {
        self.process.stdin.take()
    }

    /// How it ended, if it did.
    ///
    /// # Errors
    ///
    /// When the system does not say.
    pub(crate) fn exit_status(&mut self) -> Result<Option<ExitStatus>> {
        let status = self.process.try_wait();
        status.with_context(|| format!("cannot wait for {}", self.name))
    }

    /// Waits for its end, at most `limit`.
    ///
    /// # Errors
    ///
    /// [`Interrupted`], or when the limit passed. It still runs then.
    pub(crate) fn wait(&mut self, limit: Option<Duration>) -> Result<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.exit_status()? {
                return Ok(status);
            }
            if interrupt::requested() {
                bail!(Interrupted);
            }
            if let Some(limit) = limit.filter(|limit| start.elapsed() > *limit) {
                bail!("{} took more than {} s", self.name, limit.as_secs());
            }
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// Ends it: SIGTERM, and SIGKILL for whatever of its group is left when it
    /// ended, after [`STOP_TIMEOUT`], or at a second Ctrl-C.
    pub(crate) fn stop(&mut self) {
        self.signal(Signal::TERM);
        let start = Instant::now();
        while let Ok(None) = self.exit_status() {
            if start.elapsed() > STOP_TIMEOUT || interrupt::insisted() {
                eprintln!("{} did not stop; killing it", self.name);
                break;
            }
            thread::sleep(POLL_INTERVAL);
        }
        self.signal(Signal::KILL);
        // SIGKILL cannot be refused, so this does not wait for long.
        let _reaped = self.process.wait();
    }

    fn signal(&self, signal: Signal) {
        let group = i32::try_from(self.process.id())
            .ok()
            .and_then(Pid::from_raw);
        if let Some(group) = group {
            // No such group: nothing of it runs any more, which is the aim.
            let _gone = kill_process_group(group, signal);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Runs `command` to its end, its output going to the terminal.
///
/// # Errors
///
/// When it cannot be started, takes longer than `limit` (it is stopped then),
/// or ends without success; [`Interrupted`].
pub(crate) fn run(name: &str, command: &mut Command, limit: Option<Duration>) -> Result<()> {
    let mut child = Child::spawn(name, command.stdin(Stdio::null()))?;
    let status = child.wait(limit)?;
    if status.success() {
        return Ok(());
    }
    bail!("{name} {}", describe_end(status))
}

/// Runs `command` to its end and returns what it wrote to standard output,
/// trimmed. For short answers only: the pipe is read at the end.
///
/// # Errors
///
/// As [`run`].
pub(crate) fn capture(name: &str, command: &mut Command, limit: Duration) -> Result<String> {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = Child::spawn(name, command)?;
    let status = child.wait(Some(limit))?;
    if !status.success() {
        bail!("{name} {}", describe_end(status));
    }
    let mut output = String::new();
    if let Some(mut pipe) = child.process.stdout.take() {
        pipe.read_to_string(&mut output)
            .with_context(|| format!("cannot read what {name} wrote"))?;
    }
    Ok(output.trim().to_owned())
}

/// Says how a process ended, to follow its name: `ended with exit code 1`.
pub(crate) fn describe_end(status: ExitStatus) -> String {
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
        let answer = capture("echo", &mut shell("echo ' 4.1.0 '"), STOP_TIMEOUT);
        assert_eq!(answer.expect("sh runs"), "4.1.0");
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
