//! The batches in the application's log, read without the exporter's `replay`,
//! which is under test; and that command, as an operator runs it.

use std::process::Command;

use functional_scaffold_protocol::batch::{Joiner, LoggedPart, SentBatch};
use functional_scaffold_testkit::{exporter, runtime::REPLAY_KEY};

use crate::run_with_input;

/// The event of a line that holds a batch or a part of one.
pub const EVENT: &str = "batch_not_stored";

/// The lines about batches.
#[derive(Debug, Default)]
pub struct BatchLog {
    /// The batches of which every part is there.
    pub batches: Vec<SentBatch>,
    /// The number of batches of which parts are missing.
    pub incomplete: usize,
    /// The number of lines that hold no part.
    pub torn: usize,
}

impl BatchLog {
    /// Reads the lines about batches among others.
    pub fn read<'a>(lines: impl IntoIterator<Item = &'a str>) -> Self {
        let mut log = Self::default();
        let mut joiner = Joiner::default();
        for line in lines.into_iter().filter(|line| line.contains(EVENT)) {
            // A line that was cut off has no line break.
            let start = line.rfind("{\"time\":").unwrap_or_default();
            let part = serde_json::from_str::<LoggedPart>(&line[start..]).ok();
            match part.map(|part| joiner.push(part)) {
                Some(Ok(whole)) => log.batches.extend(whole.map(|logged| logged.batch)),
                None | Some(Err(_)) => log.torn += 1,
            }
        }
        log.incomplete = joiner.incomplete().count();
        log
    }
}

/// Stores the batches of a log in Redis.
///
/// # Errors
/// Not all of them could be stored.
pub fn replay(redis_port: u16, log: &str) -> anyhow::Result<()> {
    let mut command = Command::new(exporter::program()?);
    command
        .arg("replay")
        .env("REPLAY_KEY", REPLAY_KEY)
        .env("REDIS_PORT", redis_port.to_string());
    run_with_input(&mut command, log, "run `cargo xtask build`").map(drop)
}

/// Pushes the groups of a log to a Pushgateway.
///
/// # Errors
/// Not all of them could be pushed.
pub fn replay_to_pushgateway(url: &str, log: &str) -> anyhow::Result<()> {
    let mut command = Command::new(exporter::program()?);
    command
        .args(["replay", "--to", url])
        .env("REPLAY_KEY", REPLAY_KEY);
    run_with_input(&mut command, log, "run `cargo xtask build`").map(drop)
}
