//! The report: the findings of each section, kept as JSON beside this program and
//! written as Markdown and charts to docs/. Figures stay numbers until they are
//! written, so a report can be written again without measuring, and a section alone can
//! be measured again, on another machine, too.

use std::{
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
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
    /// A page in docs/ that has the table as well, between two comments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    quoted_in: Option<String>,
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
            quoted_in: None,
        }
    }

    /// Writes the table into this page in docs/, too. The page has the lines of
    /// [`Self::quotation_marks`].
    pub(crate) fn quoted_in(mut self, page: &str) -> Self {
        self.quoted_in = Some(page.to_owned());
        self
    }

    /// The lines around the table in the other page.
    fn quotation_marks(&self) -> [String; 2] {
        let caption = &self.caption;
        [
            format!("<!-- {caption}: written by `cargo xtask bench`. Do not edit. -->\n"),
            format!("<!-- End of {caption}. -->\n"),
        ]
    }

    /// Returns the other page with this table.
    ///
    /// # Errors
    /// There are no two such lines.
    pub(crate) fn quote(&self, page: &str) -> anyhow::Result<String> {
        let [first, last] = self.quotation_marks();
        let parts = page.split_once(&first);
        let parts = parts.and_then(|(head, rest)| Some((head, rest.split_once(&last)?.1)));
        let (head, tail) = parts.with_context(|| format!("no lines {first}{last}"))?;
        let mut table = String::from("\n");
        write_table(&mut table, &self.columns, &self.rows);
        Ok(format!("{head}{first}{table}{last}{tail}"))
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
    /// In the order of the report.
    pub(crate) sections: Vec<Measured>,
}

/// The findings of a section with their circumstances.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) name: String,
    /// Properties of the machine and versions of programs, by name.
    pub(crate) machine: Vec<(String, String)>,
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
        repository().join(format!("benches/{}.json", self.name))
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
    pub(crate) fn replace(mut earlier: Results, newer: Results, names: &[&str]) -> Results {
        for section in newer.sections {
            earlier.sections.retain(|older| older.name != section.name);
            earlier.sections.push(section);
        }
        let place = |measured: &Measured| names.iter().position(|name| *name == measured.name);
        earlier.sections.sort_by_key(place);
        earlier
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
            for table in &measured.findings.tables {
                if let Some(page) = &table.quoted_in {
                    let path = docs.join(page);
                    let text = fs::read_to_string(&path);
                    let text = text.with_context(|| format!("cannot read {}", path.display()))?;
                    write(&path, &table.quote(&text)?)?;
                }
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

Each section was measured on one machine, in turns (A B C, C B A, …), and each run was checked to \
have done what it was timed for. A figure is the median of the rounds, with minimum and maximum in \
parentheses; a ratio is taken within each round. Figures **and ratios** are those of the machine \
and of the runtime named at the end: [on Spin](benchmarks-on-spin.md) they differ from [the dev \
host's](benchmarks.md). Figures of different machines do not compare.

";

/// Properties of a machine and versions of programs, by name.
type Machine = [(String, String)];

fn write_circumstances(text: &mut String, results: &Results) {
    text.push_str("## Machine, versions, commands\n\n");
    let mut machines: Vec<&Machine> = Vec::new();
    for measured in &results.sections {
        if !machines.contains(&measured.machine.as_slice()) {
            machines.push(&measured.machine);
        }
    }
    // A report that was measured in parts may be of several.
    let is_one = machines.len() == 1;
    let number = |place: usize| match is_one {
        true => String::new(),
        false => format!("machine {}", place + 1),
    };
    write_machines(text, &machines, number);
    let rows: Vec<Vec<Cell>> = results
        .sections
        .iter()
        .map(|measured| {
            let place = machines.iter().position(|of| *of == measured.machine);
            let place = place.filter(|_| !is_one).map(|place| number(place).into());
            let title = Cell::from(measured.findings.title.as_str());
            let rest = [
                measured.began.as_str().into(),
                measured.commit.as_str().into(),
                format!("`{}`", measured.command).into(),
                measured.load_average.as_str().into(),
            ];
            [title].into_iter().chain(place).chain(rest).collect()
        })
        .collect();
    let columns = ["section"]
        .into_iter()
        .chain((!is_one).then_some("measured on"))
        .chain(["began (UTC)", "commit", "command", "load average before"]);
    write_table(text, &columns.collect::<Vec<_>>(), &rows);
    text.truncate(text.trim_end().len());
    text.push('\n');
}

/// A table with a column for each machine.
fn write_machines(text: &mut String, machines: &[&Machine], number: impl Fn(usize) -> String) {
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in machines.iter().copied().flatten() {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let rows = names.iter().map(|name| {
        let values = machines.iter().map(|machine| {
            let found = machine.iter().find(|(of, _)| of == name);
            Cell::from(found.map_or("", |(_, value)| value))
        });
        [Cell::from(*name)].into_iter().chain(values).collect()
    });
    let numbers = (0..machines.len()).map(number);
    let columns: Vec<String> = [String::new()].into_iter().chain(numbers).collect();
    write_table(text, &columns, &rows.collect::<Vec<_>>());
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

    fn measured(name: &str, processor: &str) -> Measured {
        Measured {
            name: name.into(),
            machine: vec![("processor".into(), processor.into())],
            began: "2026-01-01T00:00:00Z".into(),
            commit: "abc".into(),
            command: "bench".into(),
            load_average: "0 0 0".into(),
            findings: Findings {
                title: name.into(),
                method: String::new(),
                tables: Vec::new(),
                charts: Vec::new(),
                targets: Vec::new(),
                notes: Vec::new(),
            },
        }
    }

    #[test]
    fn sections_of_several_machines_name_theirs() {
        let results = |processors: [&str; 2]| {
            let sections = ["a", "b"].into_iter().zip(processors);
            let sections = sections.map(|(name, processor)| measured(name, processor));
            let mut text = String::new();
            write_circumstances(
                &mut text,
                &Results {
                    sections: sections.collect(),
                },
            );
            text
        };
        let one = results(["x", "x"]);
        assert!(one.contains("| processor | x |\n"), "{one}");
        assert!(one.contains("| b | 2026"), "{one}");
        let two = results(["x", "y"]);
        assert!(two.contains("|  | machine 1 | machine 2 |\n"), "{two}");
        assert!(two.contains("| processor | x | y |\n"), "{two}");
        assert!(two.contains("| b | machine 2 | 2026"), "{two}");
    }

    #[test]
    fn a_page_quotes_a_table_between_its_marks() -> anyhow::Result<()> {
        let table = |cell: &str| Table::new("How many", &["load"], [vec![cell.into()]]);
        let [first, last] = table("").quotation_marks();
        let page = table("old").quote(&format!("# A\n\n{first}{last}\nText.\n"))?;
        let page = table("new").quote(&page)?;
        let quoted = "\n| load |\n| --- |\n| new |\n\n";
        assert_eq!(page, format!("# A\n\n{first}{quoted}{last}\nText.\n"));
        let missing = table("new").quote("# A\n");
        missing.expect_err("there are no marks");
        Ok(())
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
