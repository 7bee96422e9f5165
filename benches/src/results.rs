//! What was measured, kept as JSON in target/ so that the report can be written
//! again, or a section of it measured anew.

use std::{fs, io, path::PathBuf};

use anyhow::{Context as _, ensure};
use functional_scaffold_tests::{app::on_spin, repository};
use serde::{Deserialize, Serialize};

use crate::{report, report::Answer, section::SECTIONS};

/// What files are named for: the two runtimes have a report each.
pub(crate) fn report_name() -> &'static str {
    match on_spin() {
        true => "benchmarks-on-spin",
        false => "benchmarks",
    }
}

/// Everything that the report is written from.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Results {
    /// What it was measured on, by name.
    pub(crate) machine: Vec<(String, String)>,
    /// The sections, in the order of the report.
    pub(crate) sections: Vec<Measured>,
}

/// A section's answer, and when it was true.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// The section's name.
    pub(crate) name: String,
    /// When its measuring began.
    pub(crate) began: String,
    /// What was measured.
    pub(crate) commit: String,
    /// How it can be done again.
    pub(crate) command: String,
    /// What else the machine did.
    pub(crate) load_average: String,
    /// The answer.
    pub(crate) answer: Answer,
}

impl Results {
    /// Reads those of the last report, if there was one.
    ///
    /// # Errors
    /// They are of another shape.
    pub(crate) fn read() -> anyhow::Result<Option<Self>> {
        let path = json_path();
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.with_context(|| format!("cannot read {}", path.display()))?,
        };
        serde_json::from_slice(&text)
            .with_context(|| format!("{} is of another version", path.display()))
    }

    /// Puts newer sections in the place of those of an earlier report.
    ///
    /// # Errors
    /// That one is from another machine: what is measured in one run is compared.
    pub(crate) fn replaced_by(mut self, newer: Self) -> anyhow::Result<Self> {
        ensure!(
            self.machine == newer.machine,
            "{} is of another machine or of other versions, so a section alone cannot be put \
             into it: leave out --only",
            json_path().display()
        );
        for section in newer.sections {
            self.sections.retain(|older| older.name != section.name);
            self.sections.push(section);
        }
        let place = |measured: &Measured| SECTIONS.iter().position(|it| it.name == measured.name);
        self.sections.sort_by_key(place);
        Ok(self)
    }

    /// Writes them, and the report with its charts to docs/.
    ///
    /// # Errors
    /// A file cannot be written, or a chart not be drawn.
    pub(crate) fn write(&self) -> anyhow::Result<()> {
        let mut json = serde_json::to_string_pretty(self)?;
        json.push('\n');
        write(json_path(), &json)?;
        let docs = repository().join("docs");
        for measured in &self.sections {
            for chart in &measured.answer.charts {
                write(docs.join(chart.file()), &chart.draw()?)?;
            }
        }
        let report = format!("{}.md", report_name());
        write(docs.join(report), &report::write_document(self))
    }
}

fn json_path() -> PathBuf {
    repository().join(format!("target/{}.json", report_name()))
}

fn write(path: PathBuf, text: &str) -> anyhow::Result<()> {
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}
