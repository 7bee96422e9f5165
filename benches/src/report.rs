//! The report: the findings of each section, kept as JSON in target/ and written
//! as Markdown and charts to docs/. Figures stay numbers until they are written,
//! so a report can be written again without measuring.

use std::{
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use functional_scaffold_testkit::{repository, runtime::Runtime};
use serde::{Deserialize, Serialize};

use crate::{
    chart::Chart,
    measure::{Figure, number},
};

/// The result of a section. Texts are Markdown.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Findings {
    pub(crate) title: String,
    /// Describes the measurement and its checks.
    pub(crate) method: String,
    pub(crate) tables: Vec<Table>,
    pub(crate) charts: Vec<Chart>,
    pub(crate) targets: Vec<Target>,
    /// Limits of the figures, a paragraph each.
    pub(crate) notes: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Table {
    caption: String,
    /// Headings with units.
    columns: Vec<String>,
    rows: Vec<Vec<Cell>>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Cell {
    Text(String),
    Figure(Figure),
}

impl Table {
    pub(crate) fn new<S: ToString>(
        caption: &str,
        columns: &[S],
        rows: impl IntoIterator<Item = Vec<Cell>>,
    ) -> Self {
        Self {
            caption: caption.to_owned(),
            columns: columns.iter().map(S::to_string).collect(),
            rows: rows.into_iter().collect(),
        }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<Figure> for Cell {
    fn from(figure: Figure) -> Self {
        Self::Figure(figure)
    }
}

/// An inclusive bound for the median of a figure.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Target {
    /// The measured quantity, with the unit.
    claim: String,
    bound: Bound,
    figure: Figure,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Target {
    pub(crate) fn at_least(claim: impl Into<String>, bound: f64, figure: Figure) -> Self {
        Self {
            claim: claim.into(),
            bound: Bound::AtLeast(bound),
            figure,
        }
    }

    pub(crate) fn at_most(claim: impl Into<String>, bound: f64, figure: Figure) -> Self {
        Self {
            claim: claim.into(),
            bound: Bound::AtMost(bound),
            figure,
        }
    }

    /// Without a measurement it is not reached.
    fn is_reached(&self) -> bool {
        let median = self.figure.median();
        match self.bound {
            Bound::AtLeast(bound) => median >= bound,
            Bound::AtMost(bound) => median <= bound,
        }
    }

    fn row(&self) -> Vec<Cell> {
        let bound = match self.bound {
            Bound::AtLeast(bound) => format!("≥ {}", number(bound)),
            Bound::AtMost(bound) => format!("≤ {}", number(bound)),
        };
        let verdict = match self.is_reached() {
            true => "reached",
            false => "**not reached**",
        };
        let claim = self.claim.as_str();
        vec![
            claim.into(),
            bound.into(),
            self.figure.clone().into(),
            verdict.into(),
        ]
    }
}

/// All that the report is written from.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Results {
    /// Properties of the machine and versions of programs, by name.
    pub(crate) machine: Vec<(String, String)>,
    /// In the order of the report.
    pub(crate) sections: Vec<Measured>,
}

/// The findings of a section with their circumstances.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) name: String,
    pub(crate) began: String,
    pub(crate) commit: String,
    /// The command that measures it again.
    pub(crate) command: String,
    pub(crate) load_average: String,
    pub(crate) findings: Findings,
}

/// The files of a report. Each runtime has its own report.
pub(crate) struct Files {
    name: &'static str,
}

impl Files {
    pub(crate) fn of(runtime: &Runtime) -> Self {
        let name = match runtime.is_spin() {
            true => "benchmarks-on-spin",
            false => "benchmarks",
        };
        Self { name }
    }

    fn json(&self) -> PathBuf {
        repository().join(format!("target/{}.json", self.name))
    }

    fn chart(&self, chart: &Chart) -> String {
        format!("{}-{}.svg", self.name, chart.name)
    }

    /// Reads the results of the last report, if there is one.
    pub(crate) fn read(&self) -> anyhow::Result<Option<Results>> {
        let path = self.json();
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.with_context(|| format!("cannot read {}", path.display()))?,
        };
        serde_json::from_slice(&text)
            .with_context(|| format!("{} is of another version", path.display()))
    }

    /// Replaces sections of an earlier report, in the order of `names`.
    pub(crate) fn replace(
        &self,
        mut earlier: Results,
        newer: Results,
        names: &[&str],
    ) -> anyhow::Result<Results> {
        ensure!(
            earlier.machine == newer.machine,
            "{} is from another machine or other versions, so a section alone cannot be put into \
             it: omit --only",
            self.json().display()
        );
        for section in newer.sections {
            earlier.sections.retain(|older| older.name != section.name);
            earlier.sections.push(section);
        }
        let place = |measured: &Measured| names.iter().position(|name| *name == measured.name);
        earlier.sections.sort_by_key(place);
        Ok(earlier)
    }

    /// Writes the results, and the report with its charts.
    pub(crate) fn write(&self, results: &Results) -> anyhow::Result<()> {
        let mut json = serde_json::to_string_pretty(results)?;
        json.push('\n');
        write(&self.json(), &json)?;
        let docs = repository().join("docs");
        for measured in &results.sections {
            for chart in &measured.findings.charts {
                write(&docs.join(self.chart(chart)), &chart.draw()?)?;
            }
        }
        write(
            &docs.join(format!("{}.md", self.name)),
            &self.document(results),
        )
    }

    fn document(&self, results: &Results) -> String {
        let mut text = String::from(HEAD);
        let findings = results.sections.iter().map(|measured| &measured.findings);
        let targets = findings.clone().flat_map(|findings| &findings.targets);
        let targets: Vec<_> = targets.map(Target::row).collect();
        if !targets.is_empty() {
            text.push_str("## Targets\n\n");
            write_table(&mut text, &["", "target", "measured", ""], &targets);
        }
        for findings in findings {
            let _ = write!(text, "## {}\n\n", findings.title);
            self.write_findings(&mut text, findings);
        }
        write_circumstances(&mut text, results);
        text
    }

    /// Writes the findings of a section, without the heading.
    pub(crate) fn write_findings(&self, text: &mut String, findings: &Findings) {
        let _ = write!(text, "{}\n\n", findings.method);
        for chart in &findings.charts {
            let _ = write!(text, "![{}]({})\n\n", chart.caption, self.chart(chart));
        }
        for table in &findings.tables {
            let _ = write!(text, "**{}**\n\n", table.caption);
            write_table(text, &table.columns, &table.rows);
        }
        for note in &findings.notes {
            let _ = write!(text, "{note}\n\n");
        }
    }
}

const HEAD: &str = "\
<!-- Generated by `cargo xtask bench`; `cargo xtask bench --render` writes it again. Do not edit. \
-->

# Benchmarks

Everything was measured on one machine, in turns (A B C, C B A, …), and each run was checked to \
have done what it was timed for. A figure is the median of the rounds, with minimum and maximum in \
parentheses; a ratio is taken within each round. Figures **and ratios** are those of this machine \
and of the runtime named at the end: [on Spin](benchmarks-on-spin.md) they differ from [the dev \
host's](benchmarks.md).

";

fn write_circumstances(text: &mut String, results: &Results) {
    text.push_str("## Machine, versions, commands\n\n");
    let machine = results.machine.iter();
    let rows: Vec<Vec<Cell>> = machine
        .map(|(name, value)| vec![name.as_str().into(), value.as_str().into()])
        .collect();
    write_table(text, &["", ""], &rows);
    let sections = results.sections.iter();
    let rows: Vec<Vec<Cell>> = sections
        .map(|measured| {
            vec![
                measured.findings.title.as_str().into(),
                measured.began.as_str().into(),
                measured.commit.as_str().into(),
                format!("`{}`", measured.command).into(),
                measured.load_average.as_str().into(),
            ]
        })
        .collect();
    let columns = [
        "section",
        "began (UTC)",
        "commit",
        "command",
        "load average before",
    ];
    write_table(text, &columns, &rows);
    text.truncate(text.trim_end().len());
    text.push('\n');
}

fn write_table<S: AsRef<str>>(text: &mut String, columns: &[S], rows: &[Vec<Cell>]) {
    let columns: Vec<&str> = columns.iter().map(AsRef::as_ref).collect();
    let _ = writeln!(text, "| {} |", columns.join(" | "));
    let _ = writeln!(text, "| {} |", vec!["---"; columns.len()].join(" | "));
    for row in rows {
        let cells = row.iter().map(|cell| match cell {
            Cell::Text(text) => text.clone(),
            Cell::Figure(figure) => figure.to_string(),
        });
        let cells: Vec<String> = cells.collect();
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
    text.push('\n');
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(rounds: &[f64]) -> Figure {
        Figure::of(rounds, |value| *value)
    }

    #[test]
    fn a_target_is_reached_by_its_median() {
        let at_least = |rounds: &[f64]| Target::at_least("x", 0.9, figure(rounds));
        assert!(at_least(&[0.8, 0.9, 1.0]).is_reached());
        assert!(!at_least(&[0.8, 0.89, 1.0]).is_reached());
        let at_most = |rounds: &[f64]| Target::at_most("x", 1.1, figure(rounds));
        assert!(at_most(&[1.2, 1.1, 1.0]).is_reached());
        assert!(!at_most(&[]).is_reached());
    }

    #[test]
    fn a_table_shows_medians_with_their_spread() {
        let rows = [vec!["off".into(), figure(&[3.0, 1.0, 2.0]).into()]];
        let mut text = String::new();
        write_table(&mut text, &["mode", "ms"], &rows);
        assert_eq!(
            text,
            "| mode | ms |\n| --- | --- |\n| off | 2.00 (1.00 – 3.00) |\n\n"
        );
    }
}
