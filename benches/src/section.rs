//! What a section is: one question, measured and answered. [`SECTIONS`] lists
//! them in the order of the report.

use std::{path::PathBuf, time::Duration};

use crate::{growth, invoke_cost, report::Answer, scrape, storage};

/// One question.
pub(crate) struct Section {
    /// What `--only` knows it by.
    pub(crate) name: &'static str,
    /// Measures and answers it. Fails if what was timed did not happen.
    pub(crate) run: fn(&Bench) -> anyhow::Result<Answer>,
}

/// Every section.
pub(crate) const SECTIONS: [Section; 4] = [
    Section {
        name: "invoke-cost",
        run: invoke_cost::run,
    },
    Section {
        name: "storage",
        run: storage::run,
    },
    Section {
        name: "scrape",
        run: scrape::run,
    },
    Section {
        name: "growth",
        run: growth::run,
    },
];

/// How much is measured, and with what.
pub(crate) struct Bench {
    /// How often each contestant is measured.
    pub(crate) rounds: usize,
    /// Whether this is only to see that the checks hold.
    pub(crate) smoke: bool,
    /// The load generator.
    pub(crate) oha: PathBuf,
    /// A Python that has what `peers/fastapi/requirements.txt` lists, if any.
    pub(crate) python: Option<PathBuf>,
}

impl Bench {
    /// How long a load lasts: as long as the section wants, in a smoke run
    /// no longer than it takes to see that requests are answered.
    pub(crate) fn lasting(&self, full: Duration) -> Duration {
        match self.smoke {
            true => full.min(Duration::from_millis(500)),
            false => full,
        }
    }
}
