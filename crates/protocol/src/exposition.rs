//! The formats in which metrics are served: the
//! [text format 0.0.4](https://prometheus.io/docs/instrumenting/exposition_formats/)
//! and [OpenMetrics 1.0](https://github.com/prometheus/OpenMetrics/blob/v1.0.0/specification/OpenMetrics.md).
//! Owns how a family is written in each: metadata, escaping, cumulation. A
//! sample has the same name, labels and value in both, so that no series
//! depends on the format that a scrape asks for.

use std::{collections::HashSet, fmt::Write as _};

use crate::{
    family::{Family, Kind},
    series::{FamilySeries, Histogram, Series},
};

/// A format of the exposition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The text format 0.0.4.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// Its content type.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// What the name of a counter ends in.
const TOTAL: &str = "_total";

/// What OpenMetrics keeps for the time at which a series began. It is not
/// written: nobody knows that time.
const CREATED: &str = "_created";

/// The names of a family's samples, less the family's own name; with `_created`,
/// which is OpenMetrics' even where it is not written. No two families served
/// together may share one.
#[must_use]
pub fn sample_suffixes(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Histogram => &["", "_bucket", "_sum", "_count", CREATED],
        Kind::Counter | Kind::Gauge => &[""],
    }
}

/// What is said of a family before its samples.
#[derive(Debug, Clone, Copy)]
pub struct Metadata<'a> {
    /// The family's name, that of its samples.
    pub name: &'a str,
    /// Its type.
    pub kind: Kind,
    /// One line on it, or empty.
    pub help: &'a str,
    /// Its base unit, or empty.
    pub unit: &'a str,
}

impl<'a> Metadata<'a> {
    /// The metadata of a registered family.
    #[must_use]
    pub fn of(family: &'a Family) -> Self {
        Self {
            name: &family.name,
            kind: family.kind,
            help: &family.help,
            unit: &family.unit,
        }
    }
}

/// An exposition that is being written, family by family.
#[derive(Debug)]
pub struct Exposition {
    format: Format,
    out: String,
    /// Names that no OpenMetrics counter may take.
    taken: HashSet<String>,
}

impl Exposition {
    /// Begins an exposition in which `families` are going to be, with room for
    /// `capacity` bytes. Their sample names have to differ; see
    /// [`sample_suffixes`].
    pub fn begin<'a>(
        format: Format,
        families: impl IntoIterator<Item = &'a Family>,
        capacity: usize,
    ) -> Self {
        let taken = match format {
            Format::Text => HashSet::new(),
            Format::OpenMetrics => families.into_iter().flat_map(sample_names).collect(),
        };
        Self {
            format,
            out: String::with_capacity(capacity),
            taken,
        }
    }

    /// Appends a family: its metadata and every series.
    pub fn write_family(&mut self, family: &FamilySeries) {
        let FamilySeries { family, series } = family;
        self.write_metadata(&Metadata::of(family));
        match series {
            Series::Values(values) => {
                for (labels, value) in values {
                    write_sample_name(&mut self.out, &family.name, "", labels);
                    write_decimal(&mut self.out, i128::from(*value), family.scale);
                    self.out.push('\n');
                }
            }
            Series::Histograms(histograms) => {
                let les: Vec<String> = family.bounds.iter().map(|&le| le_value(le)).collect();
                for (labels, histogram) in histograms {
                    self.write_histogram(family, &les, labels, histogram);
                }
            }
        }
    }

    /// Appends what is said of a family before its samples.
    pub fn write_metadata(&mut self, metadata: &Metadata<'_>) {
        let (name, kind) = match self.format {
            Format::Text => (metadata.name, metadata.kind.name()),
            Format::OpenMetrics => self.open_metrics_type(metadata),
        };
        let out = &mut self.out;
        if !metadata.help.is_empty() {
            write_help_line(out, name, metadata.help, self.format);
        }
        // Writing to a String cannot fail.
        let _ = writeln!(out, "# TYPE {name} {kind}");
        let stem = name.strip_suffix(metadata.unit);
        if self.format == Format::OpenMetrics
            && !metadata.unit.is_empty()
            && stem.is_some_and(|stem| stem.ends_with('_'))
        {
            let _ = writeln!(out, "# UNIT {name} {}", metadata.unit);
        }
    }

    /// Appends a sample of the family whose metadata was written last.
    /// `labels` is in exposition syntax.
    pub fn write_sample(&mut self, name: &str, labels: &str, value: f64) {
        write_sample_name(&mut self.out, name, "", labels);
        // Writing to a String cannot fail.
        let _ = writeln!(self.out, "{value}");
    }

    /// The exposition, complete.
    #[must_use]
    pub fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.out.push_str("# EOF\n");
        }
        self.out
    }

    /// The name and type of a family in OpenMetrics, where a counter `x` has
    /// samples `x_total`. A counter of another name, or whose `x` or
    /// `x_created` another family has, is of unknown type: its samples would be
    /// renamed otherwise, or another family's.
    fn open_metrics_type<'a>(&mut self, metadata: &Metadata<'a>) -> (&'a str, &'static str) {
        let Metadata { name, kind, .. } = *metadata;
        if kind != Kind::Counter {
            return (name, kind.name());
        }
        match name.strip_suffix(TOTAL) {
            Some(stem) if self.take(stem) => (stem, kind.name()),
            _ => (name, "unknown"),
        }
    }

    fn take(&mut self, stem: &str) -> bool {
        let created = format!("{stem}{CREATED}");
        let free = !self.taken.contains(stem) && !self.taken.contains(&created);
        if free {
            self.taken.insert(stem.to_owned());
            self.taken.insert(created);
        }
        free
    }

    fn write_histogram(
        &mut self,
        family: &Family,
        les: &[String],
        labels: &str,
        histogram: &Histogram,
    ) {
        let out = &mut self.out;
        let mut count = 0_u64;
        let les = les.iter().map(String::as_str).chain(["+Inf"]);
        for (le, in_bucket) in les.zip(&histogram.buckets) {
            count = count.saturating_add(*in_bucket);
            out.push_str(&family.name);
            out.push_str("_bucket{");
            out.push_str(labels);
            if !labels.is_empty() {
                out.push(',');
            }
            out.push_str("le=\"");
            out.push_str(le);
            // Writing to a String cannot fail.
            let _ = writeln!(out, "\"}} {count}");
        }
        let negative = histogram.sum < 0 || family.bounds.first().is_some_and(|&le| le < 0.0);
        if negative && self.format == Format::OpenMetrics {
            // There a sum only grows, and there is no count without a sum.
            return;
        }
        write_sample_name(out, &family.name, "_sum", labels);
        write_decimal(out, histogram.sum, family.scale);
        out.push('\n');
        write_sample_name(out, &family.name, "_count", labels);
        let _ = writeln!(out, "{count}");
    }
}

/// The families as one exposition.
#[must_use]
pub fn expose(format: Format, families: &[FamilySeries]) -> String {
    let names = families.iter().map(|family| &family.family);
    let mut exposition = Exposition::begin(format, names, 0);
    for family in families {
        exposition.write_family(family);
    }
    exposition.finish()
}

fn sample_names(family: &Family) -> impl Iterator<Item = String> {
    sample_suffixes(family.kind)
        .iter()
        .map(|suffix| format!("{}{suffix}", family.name))
}

/// Appends `# HELP name text`.
fn write_help_line(out: &mut String, name: &str, help: &str, format: Format) {
    out.push_str("# HELP ");
    out.push_str(name);
    out.push(' ');
    for character in help.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            // The text format has no escape for it in a help text.
            '"' if format == Format::OpenMetrics => out.push_str("\\\""),
            other => out.push(other),
        }
    }
    out.push('\n');
}

/// Appends a sample's name and labels with the space that ends them.
fn write_sample_name(out: &mut String, name: &str, suffix: &str, labels: &str) {
    out.push_str(name);
    out.push_str(suffix);
    if !labels.is_empty() {
        out.push('{');
        out.push_str(labels);
        out.push('}');
    }
    out.push(' ');
}

/// Appends `value / scale`: as an exact decimal where the scale is a power of
/// ten, otherwise as the nearest float.
pub(crate) fn write_decimal(out: &mut String, value: i128, scale: u64) {
    // Writing to a String cannot fail.
    if scale == 1 {
        // Most values fit, and 128 bits take several times as long to print.
        let _ = match i64::try_from(value) {
            Ok(value) => write!(out, "{value}"),
            Err(_larger) => write!(out, "{value}"),
        };
    } else if is_power_of_ten(scale) {
        write_fraction(out, value, u128::from(scale), scale.ilog10() as usize);
    } else {
        #[allow(
            clippy::cast_precision_loss,
            reason = "a quotient that is no decimal is rounded anyway"
        )]
        let quotient = value as f64 / scale as f64;
        let _ = write!(out, "{quotient}");
    }
}

/// Appends `value / scale` where the scale is 10 to the power of `digits`.
fn write_fraction(out: &mut String, value: i128, scale: u128, digits: usize) {
    let (whole, fraction) = (value.unsigned_abs() / scale, value.unsigned_abs() % scale);
    let sign = if value < 0 { "-" } else { "" };
    // Writing to a String cannot fail.
    let _ = write!(out, "{sign}{whole}");
    if fraction > 0 {
        let _ = write!(out, ".{fraction:0digits$}");
        out.truncate(out.trim_end_matches('0').len());
    }
}

fn is_power_of_ten(scale: u64) -> bool {
    10_u64.checked_pow(scale.ilog10()) == Some(scale)
}

/// The text of a bound as the value of `le`: with a point or an exponent
/// (`1.0`, `5e-05`), as
/// [OpenMetrics](https://github.com/prometheus/OpenMetrics/blob/v1.0.0/specification/OpenMetrics.md#considerations-canonical-numbers)
/// wants it and Prometheus 3 makes it of whatever it scrapes. Where formats
/// differed, a bucket's series would change with the format that a scrape
/// happens to ask for.
pub(crate) fn le_value(bound: f64) -> String {
    let shortest = format!("{bound:e}");
    let Some((mantissa, Ok(exponent))) = shortest
        .split_once('e')
        .map(|(mantissa, exponent)| (mantissa, exponent.parse::<i32>()))
    else {
        // Not finite, which no bound is.
        return shortest;
    };
    // The limits of %g in Go, whose programs the others are.
    if !(-4..6).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", exponent.abs());
    }
    let mut plain = bound.to_string();
    if !plain.contains('.') {
        plain.push_str(".0");
    }
    plain
}

#[cfg(test)]
#[path = "exposition_tests.rs"]
mod tests;

#[cfg(test)]
mod number_tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn decimals_are_exact() {
        for (value, scale, text) in [
            (0, 1_000_000_000, "0"),
            (1, 1_000_000_000, "0.000000001"),
            (-1_500_000_000, 1_000_000_000, "-1.5"),
            (-1, 10, "-0.1"),
            (20_000_000_000, 1_000_000_000, "20"),
            (
                i128::from(i64::MAX) * 3,
                1_000_000_000,
                "27670116110.564327421",
            ),
            (i128::from(i64::MAX) + 1, 1, "9223372036854775808"),
            (1, 3, "0.3333333333333333"),
            (7, 1, "7"),
        ] {
            let mut out = String::new();
            write_decimal(&mut out, value, scale);
            assert_eq!(out, text);
        }
    }

    #[test]
    fn bounds_are_written_as_go_writes_them() {
        for (bound, text) in [
            (0.0, "0.0"),
            (1.0, "1.0"),
            (-1.0, "-1.0"),
            (0.25, "0.25"),
            (0.0001, "0.0001"),
            (0.00005, "5e-05"),
            (0.000_012_5, "1.25e-05"),
            (123_456.0, "123456.0"),
            (1e6, "1e+06"),
            (1_234_567.5, "1.2345675e+06"),
            (1e10, "1e+10"),
            (1e-100, "1e-100"),
        ] {
            assert_eq!(le_value(bound), text);
        }
    }

    proptest! {
        #[test]
        fn bounds_read_back(bound in prop::num::f64::NORMAL) {
            prop_assert_eq!(le_value(bound).parse::<f64>(), Ok(bound));
        }
    }
}
