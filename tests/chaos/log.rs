//! The log's batches, replayed as an operator would: a log shipper feeds one `replay`
//! during the run, and another `replay` reads the whole log at its end.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{Read as _, Write as _},
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, anyhow};
use functional_scaffold_testkit::{exporter, runtime::REPLAY_KEY};
use serde_json::Value;

use functional_scaffold_tests::batch_log::{BatchLog, EVENT};

/// How often the shipper looks for new lines. It is slow enough for an instance to store
/// other batches before the one that it gave up is replayed.
const SHIP: Duration = Duration::from_secs(1);
/// The event of a lease that Redis did not acknowledge in time.
const LEASE_GIVEN_UP: &str = "lease_given_up";
/// The writer's name in every forged line.
pub(crate) const FORGER: &str = "f0f0f0f0f0f0f0f0";
/// The event of an execution that begins without an acknowledged lease.
const UNLEASED: &str = "execution_unleased";

#[derive(Debug, Default)]
pub(crate) struct Logged {
    pub(crate) batches: i64,
    /// The leases of the executions in them.
    pub(crate) leases: BTreeSet<String>,
    /// The number of lines without a whole batch, because their writer was killed.
    pub(crate) torn: i64,
    /// The number of batches that miss lines, because their writer was killed between
    /// them.
    pub(crate) incomplete: i64,
    /// The number of lines that a client forged.
    pub(crate) forged: i64,
    /// When leases were not acknowledged in time, since the beginning of the run.
    pub(crate) leases_given_up: Vec<Duration>,
    /// The number of executions that began without an acknowledged lease.
    pub(crate) unleased: i64,
}

impl Logged {
    pub(crate) fn read(log: &str, began: SystemTime) -> anyhow::Result<Self> {
        let is_forged = |line: &&str| {
            // A kill may have cut off a forged line, so that a batch follows in it.
            let start = line.rfind("{\"time\":").unwrap_or_default();
            line[start..].contains(FORGER) && line.contains(EVENT)
        };
        let batches = BatchLog::read(log.lines().filter(|line| !is_forged(line)));
        let mut logged = Self {
            forged: log.lines().filter(is_forged).count() as i64,
            batches: batches.batches.len() as i64,
            torn: batches.torn as i64,
            incomplete: batches.incomplete as i64,
            unleased: log.lines().filter(|line| line.contains(UNLEASED)).count() as i64,
            ..Self::default()
        };
        let leased = batches.batches.into_iter().flat_map(|batch| batch.leased);
        logged.leases.extend(leased.map(|leased| leased.lease.id));
        for line in log.lines().filter(|line| line.contains(LEASE_GIVEN_UP)) {
            // A kill may have cut it off.
            let Ok(line) = serde_json::from_str::<Value>(line) else {
                continue;
            };
            let time = line["time"].as_str().context("a line has no time")?;
            let time = humantime::parse_rfc3339(time)?;
            logged
                .leases_given_up
                .push(time.duration_since(began).unwrap_or_default());
        }
        Ok(logged)
    }
}

/// The numbers that `replay` reported, by their names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Report(BTreeMap<String, i64>);

impl Report {
    /// Reads the lines `<what>: <number>`.
    pub(crate) fn parse(text: &str) -> Self {
        let line = |line: &str| {
            let (what, count) = line.split_once(": ")?;
            Some((what.to_owned(), count.parse().ok()?))
        };
        Self(text.lines().filter_map(line).collect())
    }

    /// The number under a name.
    pub(crate) fn of(&self, what: &str) -> i64 {
        self.0.get(what).copied().unwrap_or_default()
    }

    /// The number of batches that are stored now.
    pub(crate) fn stored(&self) -> i64 {
        self.of("applied") + self.of("already applied")
    }

    /// Every other number that is not 0, or a note that there is no report. The verdict
    /// compares late executions with the log and the faults.
    pub(crate) fn failures(&self) -> Vec<String> {
        if self.0.is_empty() {
            return vec!["nothing".to_owned()];
        }
        let others = self.0.iter().filter(|(what, count)| {
            !["applied", "already applied", "late"].contains(&what.as_str()) && **count != 0
        });
        others
            .map(|(what, count)| format!("{what}: {count}"))
            .collect()
    }
}

fn command(redis_port: u16, shards: &str) -> anyhow::Result<Command> {
    let mut command = Command::new(exporter::program()?);
    command
        .arg("replay")
        .env("REPLAY_KEY", REPLAY_KEY)
        .env("REDIS_PORT", redis_port.to_string())
        .env("METRICS_SHARDS", shards);
    Ok(command)
}

pub(crate) fn replay_all(log: &str, redis_port: u16, shards: &str) -> anyhow::Result<Report> {
    let file = tempfile::NamedTempFile::new()?;
    file.as_file().write_all(log.as_bytes())?;
    let output = command(redis_port, shards)?.arg(file.path()).output()?;
    Ok(Report::parse(&String::from_utf8_lossy(&output.stdout)))
}

/// A log shipper in front of a `replay`.
#[derive(Debug)]
pub(crate) struct Shipper {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<anyhow::Result<Report>>>,
}

impl Shipper {
    /// Follows the file that the log is written to.
    pub(crate) fn start(log: PathBuf, redis_port: u16, shards: &str) -> anyhow::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let is_stopped = Arc::clone(&stop);
        let command = command(redis_port, shards)?;
        let thread = thread::spawn(move || ship(log, command, &is_stopped));
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }

    /// Ships the rest, waits until it is replayed, and returns the report.
    pub(crate) fn end(mut self) -> anyhow::Result<Report> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("it was ended")?;
        thread
            .join()
            .map_err(|_panic| anyhow!("the shipper panicked"))?
    }
}

impl Drop for Shipper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn ship(log: PathBuf, mut command: Command, is_stopped: &AtomicBool) -> anyhow::Result<Report> {
    let mut log = File::open(log)?;
    let mut replay = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut pipe = replay.stdin.take().context("its input is piped")?;
    let mut unsent = Vec::new();
    loop {
        let is_last = is_stopped.load(Ordering::Relaxed);
        log.read_to_end(&mut unsent)?;
        if let Some(last) = unsent.iter().rposition(|&byte| byte == b'\n') {
            let lines: Vec<u8> = unsent.drain(..=last).collect();
            pipe.write_all(&lines)
                .context("replay ended before its input")?;
        }
        if is_last {
            break;
        }
        for _ in 0..20 {
            if !is_stopped.load(Ordering::Relaxed) {
                thread::sleep(SHIP / 20);
            }
        }
    }
    drop(pipe);
    let output = replay.wait_with_output()?;
    Ok(Report::parse(&String::from_utf8_lossy(&output.stdout)))
}

#[test]
fn a_report_is_split_into_stored_batches_and_failures() {
    let report =
        Report::parse("applied: 3\nalready applied: 4\ntoo old: 0\nunreadable: 2\nlate: 5\n");
    assert_eq!((report.of("applied"), report.stored()), (3, 7));
    assert_eq!(report.failures(), ["unreadable: 2"]);
    assert_eq!(Report::parse("").failures().len(), 1);
}
