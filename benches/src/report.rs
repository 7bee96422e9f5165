//! The report: what a section answers, and how it reads as Markdown. The numbers
//! stay numbers until here, so a report can be written again without measuring.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::{chart::Chart, results::Results, rounds::Figure};

/// What a section found out. Texts are Markdown.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// The heading.
    pub(crate) title: String,
    /// What was measured, how, and how it was seen that it happened.
    pub(crate) method: String,
    /// The figures.
    pub(crate) tables: Vec<Table>,
    /// A figure or two to look at.
    pub(crate) charts: Vec<Chart>,
    /// What was to be reached.
    pub(crate) targets: Vec<Target>,
    /// What the figures do not say, or what bounds them; a paragraph each.
    pub(crate) notes: Vec<String>,
}

/// A table; its first column says what each row is.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Table {
    /// What it shows.
    pub(crate) caption: String,
    /// The headings, with units.
    pub(crate) columns: Vec<String>,
    /// As many cells as headings each.
    pub(crate) rows: Vec<Vec<Cell>>,
}

/// What stands in a table.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Cell {
    /// As it is.
    Text(String),
    /// A median and its spread.
    Figure(Figure),
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

/// A bound that a median was to keep.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Target {
    /// What is to be how, with the unit.
    pub(crate) claim: String,
    /// The bound.
    pub(crate) bound: Bound,
    /// What was measured.
    pub(crate) figure: Figure,
}

/// A bound, inclusive.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) enum Bound {
    /// Not less.
    AtLeast(f64),
    /// Not more.
    AtMost(f64),
}

impl Target {
    /// Whether the median keeps the bound. What was not measured does not.
    pub(crate) fn is_reached(&self) -> bool {
        let median = self.figure.median();
        match self.bound {
            Bound::AtLeast(bound) => median >= bound,
            Bound::AtMost(bound) => median <= bound,
        }
    }
}

/// Writes the whole document.
pub(crate) fn write_document(results: &Results) -> String {
    let mut text = String::from(
        "<!-- Written by `cargo xtask bench` from target/benchmarks.json; `cargo xtask bench --render` \
         writes it again. Do not edit. -->\n\n# Benchmarks\n\n\
         Everything was measured on one machine, in turns (A B C, C B A, …), and each run was \
         checked to have done what it was timed for. A figure is the median of the rounds, with \
         the least and the greatest in parentheses; a ratio is taken within each round. **The \
         ratios are what holds elsewhere**, absolute figures are this machine's.\n\n",
    );
    write_targets(&mut text, results);
    for measured in &results.sections {
        let _ = write!(text, "## {}\n\n", measured.answer.title);
        write_answer(&mut text, &measured.answer);
    }
    write_circumstances(&mut text, results);
    text
}

/// Writes a section, without its heading.
pub(crate) fn write_answer(text: &mut String, answer: &Answer) {
    let _ = write!(text, "{}\n\n", answer.method);
    for chart in &answer.charts {
        let _ = write!(text, "![{}]({})\n\n", chart.caption, chart.file);
    }
    for table in &answer.tables {
        let _ = write!(text, "**{}**\n\n", table.caption);
        write_table(text, &table.columns, &table.rows);
    }
    for note in &answer.notes {
        let _ = write!(text, "{note}\n\n");
    }
}

fn write_targets(text: &mut String, results: &Results) {
    let answers = results.sections.iter().map(|measured| &measured.answer);
    let rows: Vec<Vec<Cell>> = answers
        .flat_map(|answer| &answer.targets)
        .map(target_row)
        .collect();
    if rows.is_empty() {
        return;
    }
    text.push_str("## What was to be reached\n\n");
    let columns = ["", "aim", "measured", ""].map(str::to_owned);
    write_table(text, &columns, &rows);
}

pub(crate) fn target_row(target: &Target) -> Vec<Cell> {
    let aim = match target.bound {
        Bound::AtLeast(bound) => format!("≥ {}", number(bound)),
        Bound::AtMost(bound) => format!("≤ {}", number(bound)),
    };
    let verdict = match target.is_reached() {
        true => "reached",
        false => "**not reached**",
    };
    let claim = target.claim.as_str();
    let figure = target.figure.clone();
    vec![claim.into(), aim.into(), figure.into(), verdict.into()]
}

fn write_circumstances(text: &mut String, results: &Results) {
    text.push_str("## Machine, versions, commands\n\n");
    let rows: Vec<Vec<Cell>> = results
        .machine
        .iter()
        .map(|(name, value)| vec![name.as_str().into(), value.as_str().into()])
        .collect();
    write_table(text, &["", ""].map(str::to_owned), &rows);
    let rows: Vec<Vec<Cell>> = results
        .sections
        .iter()
        .map(|measured| {
            vec![
                measured.answer.title.as_str().into(),
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
    write_table(text, &columns.map(str::to_owned), &rows);
    text.truncate(text.trim_end().len());
    text.push('\n');
}

pub(crate) fn write_table(text: &mut String, columns: &[String], rows: &[Vec<Cell>]) {
    let line = |text: &mut String, cells: &[String]| {
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    };
    line(text, columns);
    let rule: Vec<String> = columns.iter().map(|_| "---".to_owned()).collect();
    line(text, &rule);
    for row in rows {
        let cells: Vec<String> = row.iter().map(cell).collect();
        line(text, &cells);
    }
    text.push('\n');
}

fn cell(cell: &Cell) -> String {
    match cell {
        Cell::Text(text) => text.clone(),
        Cell::Figure(figure) => {
            let (median, min, max) = (figure.median(), figure.min(), figure.max());
            match min == max {
                true => number(median),
                false => format!("{} ({} – {})", number(median), number(min), number(max)),
            }
        }
    }
}

/// A number with three digits that count, or all before the point.
pub(crate) fn number(value: f64) -> String {
    let places = match value.abs() {
        100.0.. => 0,
        10.0.. => 1,
        _ => 2,
    };
    let text = format!("{value:.places$}");
    let (whole, rest) = text.split_once('.').unwrap_or((&text, ""));
    let (sign, digits) = whole.split_at(usize::from(whole.starts_with('-')));
    let mut grouped = String::from(sign);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if !rest.is_empty() {
        grouped.push('.');
        grouped.push_str(rest);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(rounds: &[f64]) -> Figure {
        Figure::of(rounds, |value| *value)
    }

    #[test]
    fn numbers_have_three_digits_that_count() {
        let shown = [0.9136, 12.34, 123.4, 1_234_567.0, -1234.5, 0.0].map(number);
        assert_eq!(
            shown,
            ["0.91", "12.3", "123", "1,234,567", "-1,234", "0.00"]
        );
    }

    #[test]
    fn a_target_is_kept_by_its_median() {
        let target = |rounds: &[f64], bound| Target {
            claim: "x".into(),
            bound,
            figure: figure(rounds),
        };
        assert!(target(&[0.8, 0.9, 1.0], Bound::AtLeast(0.9)).is_reached());
        assert!(!target(&[0.8, 0.89, 1.0], Bound::AtLeast(0.9)).is_reached());
        assert!(target(&[1.2, 1.1, 1.0], Bound::AtMost(1.1)).is_reached());
        assert!(!target(&[], Bound::AtMost(1.1)).is_reached());
    }

    #[test]
    fn a_table_shows_medians_with_their_spread() {
        let rows = [vec!["off".into(), figure(&[3.0, 1.0, 2.0]).into()]];
        let mut text = String::new();
        write_table(&mut text, &["mode", "ms"].map(str::to_owned), &rows);
        assert_eq!(
            text,
            "| mode | ms |\n| --- | --- |\n| off | 2.00 (1.00 – 3.00) |\n\n"
        );
    }
}
