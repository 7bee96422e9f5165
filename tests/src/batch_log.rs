//! The batches that a log holds, put together of their lines. Reads them without
//! the exporter's `replay`, which is under test.

use functional_scaffold_protocol::batch::{Joiner, LoggedPart, SentBatch};

/// The event of a line that holds a batch, or a part of one.
pub const EVENT: &str = "batch_not_stored";

/// What lines about batches hold.
#[derive(Debug, Default)]
pub struct BatchLog {
    /// Those of which every part is there.
    pub batches: Vec<SentBatch>,
    /// How many of which parts are missing.
    pub incomplete: usize,
    /// Lines that hold no part.
    pub torn: usize,
}

impl BatchLog {
    /// Reads the lines about batches among others.
    pub fn read<'a>(lines: impl IntoIterator<Item = &'a str>) -> Self {
        let mut log = Self::default();
        let mut joiner = Joiner::default();
        for line in lines {
            if !line.contains(EVENT) {
                continue;
            }
            let part = serde_json::from_str::<LoggedPart>(line).ok();
            match part.map(|part| joiner.push(part)) {
                Some(Ok(whole)) => log.batches.extend(whole.map(|logged| logged.batch)),
                None | Some(Err(_)) => log.torn += 1,
            }
        }
        log.incomplete = joiner.incomplete().count();
        log
    }
}
