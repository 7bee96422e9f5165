//! A child process: its output, signals, bounded waits, free ports.

use std::{
    fs::{self, File, OpenOptions},
    io::Write as _,
    net::{Ipv4Addr, TcpListener},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio, id},
    sync::atomic::{AtomicU16, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, kill_process, kill_process_group};
use tempfile::TempDir;

pub use rustix::process::Signal;

/// How often a condition is evaluated.
pub const POLL: Duration = Duration::from_millis(10);

/// How long a server may take to start, beside anything else on the machine.
pub const START_TIMEOUT: Duration = Duration::from_secs(300);

/// How long a process may take to end after SIGTERM, before SIGKILL.
const STOP_TIMEOUT: Duration = Duration::from_secs(8);

/// A running child process. Stopped on drop.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    /// The file that stdout and stderr go to; none where they go to the terminal.
    output: Option<PathBuf>,
    /// Keeps the file.
    _folder: Option<TempDir>,
    has_own_group: bool,
}

impl Process {
    /// Starts a process with its output captured in a file.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start(command: &mut Command) -> anyhow::Result<Self> {
        Self::start_with_input(command, "")
    }

    /// Like [`Self::start`], with `input` on standard input.
    ///
    /// # Errors
    /// The program cannot be started, or does not read its input.
    pub fn start_with_input(command: &mut Command, input: &str) -> anyhow::Result<Self> {
        let folder = TempDir::new()?;
        let output = folder.path().join("output");
        let file = File::create(&output)?;
        command.stdout(file.try_clone()?).stderr(file);
        Ok(Self {
            name: command.get_program().to_string_lossy().into_owned(),
            child: spawn(command, input)?,
            output: Some(output),
            _folder: Some(folder),
            has_own_group: false,
        })
    }

    /// Like [`Self::start`], in a process group: signals reach the processes that it
    /// started as well.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start_group(command: &mut Command) -> anyhow::Result<Self> {
        let mut process = Self::start(command.process_group(0))?;
        process.has_own_group = true;
        Ok(process)
    }

    /// Starts a process whose output goes to the terminal. Its own process group
    /// keeps Ctrl-C from it, and signals reach the processes that it started.
    ///
    /// # Errors
    /// The program cannot be started, or does not read its input.
    pub fn start_in_terminal(
        name: &str,
        command: &mut Command,
        input: &str,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            child: spawn(command.process_group(0), input)?,
            output: None,
            _folder: None,
            has_own_group: true,
        })
    }

    /// Kills the process and starts another that appends to the same output.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn replace(&mut self, command: &mut Command, input: &str) -> anyhow::Result<()> {
        self.kill();
        if let Some(output) = &self.output {
            let mut file = OpenOptions::new().append(true).open(output)?;
            // The killed process may have left half a line.
            file.write_all(b"\n")?;
            command.stdout(file.try_clone()?).stderr(file);
        }
        if self.has_own_group {
            command.process_group(0);
        }
        self.child = spawn(command, input)?;
        Ok(())
    }

    /// The name in messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// A size of the process's memory in bytes: `VmRSS`, or `VmHWM` for its peak.
    ///
    /// # Errors
    /// The process has ended, or the system is not Linux.
    pub fn memory(&self, name: &str) -> anyhow::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id()))?;
        let size = |line: &str| Some(line.strip_prefix(name)?.strip_prefix(':')?.to_owned());
        let size = status.lines().find_map(size);
        let size = size.as_deref().map(str::trim);
        let size = size.and_then(|size| size.strip_suffix(" kB"));
        Ok(size.context("no size")?.parse::<u64>()? << 10)
    }

    /// The output so far of the process and those that it replaced, stdout and stderr
    /// interleaved. Empty if it goes to the terminal.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn output(&self) -> anyhow::Result<String> {
        let Some(output) = &self.output else {
            return Ok(String::new());
        };
        Ok(String::from_utf8_lossy(&fs::read(output)?).into_owned())
    }

    /// The file that the output goes to.
    #[must_use]
    pub fn output_file(&self) -> Option<&Path> {
        self.output.as_deref()
    }

    /// Waits until `condition` returns a value.
    ///
    /// # Errors
    /// The process ended or `bound` passed, with the condition's last error and the
    /// output.
    pub fn wait_until<T>(
        &mut self,
        bound: Duration,
        mut condition: impl FnMut(&Self) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let deadline = Instant::now() + bound;
        loop {
            // Before the condition: another process may serve on the port that an
            // ended one could not have.
            let ended = self.exit_status()?;
            let error = match condition(self) {
                Ok(value) if ended.is_none() => return Ok(value),
                Ok(_) => None,
                Err(error) => Some(error),
            };
            let (name, output) = (&self.name, self.output()?);
            let cause = error.map_or(String::new(), |error| format!(" ({error:#})"));
            if let Some(status) = ended {
                bail!("{name} {}{cause}:\n{output}", describe_end(status));
            }
            if Instant::now() > deadline {
                bail!("{name} is not ready after {bound:?}{cause}:\n{output}");
            }
            sleep(POLL);
        }
    }

    /// Waits until the output contains `text`.
    ///
    /// # Errors
    /// The process ended, or `bound` passed.
    pub fn wait_for_output(&mut self, text: &str, bound: Duration) -> anyhow::Result<()> {
        self.wait_until(bound, |process| {
            let found = process.output()?.contains(text);
            anyhow::ensure!(found, "no {text:?} in its output");
            Ok(())
        })
    }

    /// Sends a signal to the process, or to its whole group.
    ///
    /// # Errors
    /// The process is gone.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let id = Pid::from_child(&self.child);
        match self.has_own_group {
            true => kill_process_group(id, signal),
            false => kill_process(id, signal),
        }
        .with_context(|| format!("cannot send {signal:?} to {}", self.name))
    }

    /// The exit status, if the process has ended.
    ///
    /// # Errors
    /// The system's own.
    pub fn exit_status(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        let status = self.child.try_wait();
        status.with_context(|| format!("cannot wait for {}", self.name))
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// The process runs for longer than `bound`.
    pub fn wait(&mut self, bound: Duration) -> anyhow::Result<ExitStatus> {
        poll_until(bound, || {
            let status = self.exit_status()?;
            status.with_context(|| format!("{} has not ended", self.name))
        })
    }

    /// Sends SIGTERM and waits for the end. After eight seconds, or as soon as
    /// `is_impatient`, sends SIGKILL.
    pub fn stop(&mut self, is_impatient: impl Fn() -> bool) {
        // SIGTERM first: `spin up` ends its own child then, which SIGKILL would
        // leave behind. A suspended process must continue to handle it.
        let _gone = self.signal(Signal::TERM);
        let _gone = self.signal(Signal::CONT);
        let deadline = Instant::now() + STOP_TIMEOUT;
        while let Ok(None) = self.exit_status() {
            if Instant::now() > deadline || is_impatient() {
                break;
            }
            sleep(POLL);
        }
        self.kill();
    }

    /// Sends SIGKILL to the process, or to its whole group, and waits for the end of
    /// the process.
    pub fn kill(&mut self) {
        // It may have ended already.
        if self.has_own_group {
            let _ = self.signal(Signal::KILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(None) | Err(_) = self.exit_status() {
            self.stop(|| false);
        } else if self.has_own_group {
            // Processes that it started may outlive it.
            let _gone = self.signal(Signal::KILL);
        }
    }
}

fn spawn(command: &mut Command, input: &str) -> anyhow::Result<Child> {
    let program = command.get_program().to_string_lossy().into_owned();
    let stdin = if input.is_empty() {
        Stdio::null()
    } else {
        Stdio::piped()
    };
    let child = command.stdin(stdin).spawn();
    let mut child = child.with_context(|| format!("cannot start {program}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A process that ended early says why in its output.
        let _broken_pipe = stdin.write_all(input.as_bytes());
    }
    Ok(child)
}

/// Describes how a process ended, to follow its name: `ended with exit code 1`.
#[must_use]
pub fn describe_end(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

/// Evaluates `condition` until it returns a value.
///
/// # Errors
/// `bound` passed; the condition's last error.
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

/// A port on which nothing listens.
///
/// It lies below the ports that Linux gives to outgoing connections (from 32768
/// by default), so no client takes it before the server does.
///
/// # Errors
/// No port is free.
pub fn free_port() -> anyhow::Result<u16> {
    const FIRST: u16 = 10_240;
    const COUNT: u16 = 22_000;
    static CALLS: AtomicU16 = AtomicU16::new(0);
    // Processes that run at the same time begin far from each other.
    let offset = u16::try_from(u64::from(id()) * 131 % u64::from(COUNT))?;
    for _attempt in 0..COUNT {
        let call = CALLS.fetch_add(1, Ordering::Relaxed) % COUNT;
        let port = FIRST + (offset + call) % COUNT;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port from {FIRST} on is free")
}

/// Starts a server on a free port, or on further ones where another process took
/// the port first.
///
/// # Errors
/// The last attempt's error.
pub fn on_free_port<T>(mut start: impl FnMut(u16) -> anyhow::Result<T>) -> anyhow::Result<T> {
    const ATTEMPTS: usize = 5;
    let mut attempt = 1;
    loop {
        match start(free_port()?) {
            Err(error) if attempt < ATTEMPTS && is_port_taken(&error) => attempt += 1,
            outcome => return outcome,
        }
    }
}

fn is_port_taken(error: &anyhow::Error) -> bool {
    let text = format!("{error:#}").to_lowercase();
    text.contains("address already in use")
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
    fn captures_stdout_and_stderr_of_all_that_it_replaced() {
        let bound = Duration::from_secs(60);
        let mut process = Process::start(&mut shell("echo a; echo b >&2; sleep 60")).expect("sh");
        process.wait_for_output("a\nb\n", bound).expect("written");
        let mut second = shell("cat; sleep 60");
        process.replace(&mut second, "half").expect("sh");
        process
            .wait_for_output("b\n\nhalf", bound)
            .expect("written");
    }

    #[test]
    fn an_early_end_is_reported_with_the_output() {
        let mut process = Process::start(&mut shell("echo why; exit 3")).expect("sh");
        let error = process.wait_for_output("ready", START_TIMEOUT);
        let error = error.expect_err("it ended").to_string();
        assert!(error.starts_with("sh ended with exit code 3"), "{error}");
        assert!(error.ends_with(":\nwhy\n"), "{error}");
    }

    #[test]
    fn a_stopped_group_leaves_no_process_behind() {
        let folder = TempDir::new().expect("a folder");
        let file = folder.path().join("id");
        let script = format!("sleep 60 & echo $! > {}; wait", file.display());
        let mut group = Process::start_in_terminal("a group", &mut shell(&script), "").expect("sh");
        let id = poll_until(START_TIMEOUT, || {
            Ok(fs::read_to_string(&file)?.trim().parse::<i32>()?)
        });
        group.stop(|| false);
        let id = Pid::from_raw(id.expect("written")).expect("an id");
        poll_until(START_TIMEOUT, || match kill_process(id, Signal::CONT) {
            Err(_gone) => Ok(()),
            Ok(()) => bail!("it still runs"),
        })
        .expect("it ended");
    }

    #[test]
    fn an_impatient_stop_does_not_wait() {
        let mut process =
            Process::start(&mut shell("trap '' TERM; echo ready; sleep 60")).expect("sh");
        process
            .wait_for_output("ready", START_TIMEOUT)
            .expect("ready");
        let began = Instant::now();
        process.stop(|| true);
        assert!(began.elapsed() < STOP_TIMEOUT, "{:?}", began.elapsed());
    }

    #[test]
    fn free_ports_differ() {
        let ports = [free_port().expect("one"), free_port().expect("another")];
        assert_ne!(ports[0], ports[1]);
        assert!(ports.iter().all(|port| *port < 32_768), "{ports:?}");
    }
}
