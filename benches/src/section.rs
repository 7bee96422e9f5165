//! What a section is: one question, measured and answered. [`SECTIONS`] lists
//! them in the order of the report.

use std::{path::PathBuf, time::Duration};

use crate::{cold_start, growth, invoke_cost, peers, report::Answer, scrape, storage};

/// One question.
pub(crate) struct Section {
    /// What `--only` knows it by.
    pub(crate) name: &'static str,
    /// Whether it compares with something in Python. Without one it is skipped.
    pub(crate) wants_python: bool,
    /// Measures and answers it. Fails if what was timed did not happen.
    pub(crate) run: fn(&Bench) -> anyhow::Result<Answer>,
}

/// Every section.
pub(crate) const SECTIONS: &[Section] = &[
    Section {
        name: "invoke-cost",
        wants_python: false,
        run: invoke_cost::run,
    },
    Section {
        name: "peers",
        wants_python: true,
        run: peers::run,
    },
    Section {
        name: "storage",
        wants_python: false,
        run: storage::run,
    },
    Section {
        name: "scrape",
        wants_python: false,
        run: scrape::run,
    },
    Section {
        name: "growth",
        wants_python: false,
        run: growth::run,
    },
    Section {
        name: "cold-start",
        wants_python: false,
        run: cold_start::run,
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
            true => full.min(Duration::from_millis(200)),
            false => full,
        }
    }
}
