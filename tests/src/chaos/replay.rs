//! The log's batches back into Redis, as an operator would do it: a log shipper
//! that feeds one `replay` all the time, and at the end a `replay` of the files.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, anyhow, bail};
use serde_json::Value;

use crate::{batch_log::BatchLog, workspace_binary};

use super::runtime;

/// How often the shipper looks for new lines: so long that the instance which
/// gave a batch up may write others before that one is replayed.
const SHIP: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(50);
/// Redis is never away for so long; the command's own patience.
const END_TIMEOUT: Duration = Duration::from_secs(40);
/// The event of a lease that Redis did not acknowledge in time.
const LEASE_GIVEN_UP: &str = "lease_given_up";

/// What `replay` reported, by what it calls it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report(BTreeMap<String, i64>);

impl Report {
    /// Reads the lines `<what>: <how many>`.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let line = |line: &str| {
            let (what, count) = line.split_once(": ")?;
            Some((what.to_owned(), count.parse().ok()?))
        };
        Self(text.lines().filter_map(line).collect())
    }

    /// How many batches it says this of; none if it does not say.
    #[must_use]
    pub fn of(&self, what: &str) -> i64 {
        self.0.get(what).copied().unwrap_or_default()
    }

    /// All batches that are stored now.
    #[must_use]
    pub fn stored(&self) -> i64 {
        self.of("applied") + self.of("already applied")
    }

    /// What was not stored, in words; nothing if all was, and it said so.
    #[must_use]
    pub fn troubles(&self) -> Vec<String> {
        if self.0.is_empty() {
            return vec!["it reported nothing".to_owned()];
        }
        let fine = ["applied", "already applied"];
        self.0
            .iter()
            .filter(|(what, count)| !fine.contains(&what.as_str()) && **count != 0)
            .map(|(what, count)| format!("{what}: {count}"))
            .collect()
    }
}

/// Replays all files of a folder from their beginnings.
///
/// # Errors
/// The command cannot be run.
pub fn replay_all(folder: &Path, redis_port: u16) -> anyhow::Result<Report> {
    let mut command = command(redis_port)?;
    let output = command.args(runtime::outputs(folder)).output()?;
    Ok(Report::parse(&String::from_utf8_lossy(&output.stdout)))
}

/// What the files hold, read without the command.
#[derive(Debug, Default)]
pub struct Logged {
    /// Batches.
    pub batches: i64,
    /// The leases of the executions in them.
    pub leases: BTreeSet<String>,
    /// Lines about a batch that hold none: their writer was killed meanwhile.
    pub torn: i64,
    /// Batches of which lines are missing: their writer was killed between them.
    pub incomplete: i64,
    /// When leases were not acknowledged in time, since the run's beginning.
    pub leases_given_up: Vec<Duration>,
}

/// Looks for batches in all files of a folder, after a run that began then.
///
/// # Errors
/// A file cannot be read.
pub fn logged(folder: &Path, began: Instant) -> anyhow::Result<Logged> {
    let began = SystemTime::now() - began.elapsed();
    let mut logged = Logged::default();
    for file in runtime::outputs(folder) {
        let text = String::from_utf8_lossy(&fs::read(file)?).into_owned();
        logged.add(BatchLog::read(text.lines()));
        for line in text.lines() {
            if line.contains(LEASE_GIVEN_UP) {
                let line: Value = serde_json::from_str(line)?;
                let time = line["time"].as_str().context("a line has a time")?;
                let time = humantime::parse_rfc3339(time)?;
                let since = time.duration_since(began).unwrap_or_default();
                logged.leases_given_up.push(since);
            }
        }
    }
    Ok(logged)
}

impl Logged {
    fn add(&mut self, log: BatchLog) {
        self.batches += log.batches.len() as i64;
        self.torn += log.torn as i64;
        self.incomplete += log.incomplete as i64;
        let leased = log.batches.into_iter().flat_map(|batch| batch.leased);
        self.leases.extend(leased.map(|leased| leased.lease.id));
    }
}

/// A log shipper with a `replay` behind it.
#[derive(Debug)]
pub struct Shipper {
    switch: Arc<Switch>,
    thread: Option<JoinHandle<anyhow::Result<Report>>>,
}

#[derive(Debug, Default)]
struct Switch {
    /// No more will be written.
    stop: AtomicBool,
    /// Nobody waits for what is not replayed yet.
    abandon: AtomicBool,
}

impl Switch {
    /// Waits for so long, or until no more will be written.
    fn wait(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        while !self.stop.load(Ordering::Relaxed) && Instant::now() < deadline {
            thread::sleep(LOOK);
        }
    }
}

impl Shipper {
    /// Follows the application's outputs in a folder.
    ///
    /// # Errors
    /// The exporter is not built.
    pub fn start(folder: &Path, redis_port: u16) -> anyhow::Result<Self> {
        let mut command = command(redis_port)?;
        let mut replay = command
            .stdin(Stdio::piped())
            .stdout(File::create(folder.join("replay.out"))?)
            .stderr(File::create(folder.join("replay.log"))?)
            .spawn()?;
        let pipe = replay.stdin.take().context("its input is piped")?;
        let switch = Arc::new(Switch::default());
        let follower = Follower {
            folder: folder.to_owned(),
            life: 1,
            read: 0,
            unfinished: Vec::new(),
            replay,
            pipe,
        };
        let until = Arc::clone(&switch);
        let thread = thread::spawn(move || follower.run(&until));
        Ok(Self {
            switch,
            thread: Some(thread),
        })
    }

    /// Ships what there is, waits until it is replayed, and gives the report.
    ///
    /// # Errors
    /// `replay` ended before its input did, or does not end after it.
    pub fn end(mut self) -> anyhow::Result<Report> {
        self.switch.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("it runs until it is ended")?;
        thread
            .join()
            .map_err(|_panic| anyhow!("the shipper panicked"))?
    }
}

impl Drop for Shipper {
    fn drop(&mut self) {
        self.switch.abandon.store(true, Ordering::Relaxed);
        self.switch.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Follower {
    folder: PathBuf,
    life: usize,
    read: u64,
    /// The beginning of a line whose end has not come yet.
    unfinished: Vec<u8>,
    replay: Child,
    pipe: ChildStdin,
}

impl Follower {
    fn run(mut self, switch: &Switch) -> anyhow::Result<Report> {
        loop {
            let stopping = switch.stop.load(Ordering::Relaxed);
            // Looked for before the file is read: what the one before holds is
            // then all that it will ever hold.
            let next = runtime::output(&self.folder, self.life + 1).exists();
            self.ship()?;
            if next {
                // A line that its writer did not live to end is a line.
                self.unfinished.push(b'\n');
                self.send()?;
                (self.life, self.read) = (self.life + 1, 0);
            } else if stopping {
                break;
            } else {
                switch.wait(SHIP);
            }
        }
        self.finish(switch)
    }

    fn ship(&mut self) -> anyhow::Result<()> {
        let mut file = File::open(runtime::output(&self.folder, self.life))?;
        file.seek(SeekFrom::Start(self.read))?;
        let mut new = Vec::new();
        self.read += file.read_to_end(&mut new)? as u64;
        self.unfinished.extend(new);
        self.send()
    }

    fn send(&mut self) -> anyhow::Result<()> {
        let Some(last) = self.unfinished.iter().rposition(|&byte| byte == b'\n') else {
            return Ok(());
        };
        let lines: Vec<u8> = self.unfinished.drain(..=last).collect();
        let sent = self.pipe.write_all(&lines);
        sent.context("replay ended before its input; see replay.log")
    }

    fn finish(self, switch: &Switch) -> anyhow::Result<Report> {
        let Self {
            folder,
            mut replay,
            pipe,
            ..
        } = self;
        drop(pipe);
        let deadline = Instant::now() + END_TIMEOUT;
        while replay.try_wait()?.is_none() {
            let abandoned = switch.abandon.load(Ordering::Relaxed);
            if abandoned || Instant::now() > deadline {
                replay.kill()?;
                replay.wait()?;
                bail!("replay did not end with its input; see replay.log");
            }
            thread::sleep(LOOK);
        }
        Ok(Report::parse(&fs::read_to_string(
            folder.join("replay.out"),
        )?))
    }
}

fn command(redis_port: u16) -> anyhow::Result<Command> {
    let mut command = Command::new(workspace_binary("functional-scaffold-exporter")?);
    command
        .arg("replay")
        .env("REDIS_PORT", redis_port.to_string())
        .stdin(Stdio::null());
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_and_its_troubles_are_told() {
        let report = Report::parse("applied: 3\nalready applied: 4\ntoo old: 0\nunreadable: 2\n");
        assert_eq!((report.of("applied"), report.stored()), (3, 7));
        assert_eq!(report.troubles(), ["unreadable: 2"]);
        assert_eq!(Report::parse("").troubles().len(), 1);
    }
}
