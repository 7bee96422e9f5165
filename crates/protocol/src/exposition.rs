//! Exposition of families in the
//! [text format 0.0.4](https://prometheus.io/docs/instrumenting/exposition_formats/) and in
//! [OpenMetrics 1.0](https://github.com/prometheus/OpenMetrics/blob/v1.0.0/specification/OpenMetrics.md).
//! A sample has the same name, labels and value in both, so no series depends on the
//! format that a scrape asks for. Only OpenMetrics has the times at which series began.

use std::{collections::HashSet, fmt::Write as _};

use crate::{
    family::{Family, Kind},
    series::{FamilySeries, Histogram, Series},
};

/// An exposition format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The text format 0.0.4.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// The format's content type.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Suffix of a counter's samples in OpenMetrics.
const TOTAL: &str = "_total";

/// Suffix of the time at which a series began, which OpenMetrics has. The text format
/// would take it for another metric.
const CREATED: &str = "_created";

/// The suffixes of a family's sample names, with `_created`, which OpenMetrics reserves.
/// Families in one exposition must not share a sample name.
#[must_use]
pub fn sample_suffixes(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Histogram => &["", "_bucket", "_sum", "_count", CREATED],
        Kind::Counter | Kind::Gauge => &[""],
    }
}

/// The comment lines before a family's samples.
#[derive(Debug, Clone, Copy)]
pub struct Metadata<'a> {
    /// Name of the family's samples.
    pub name: &'a str,
    /// Type of the metric.
    pub kind: Kind,
    /// Help text, or empty.
    pub help: &'a str,
    /// Base unit, or empty.
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

/// Writes an exposition family by family.
#[derive(Debug)]
pub struct Exposition {
    format: Format,
    out: String,
    /// Family and sample names that are taken in OpenMetrics.
    reserved: HashSet<String>,
    /// Name of the samples that tell when a series of the current family began, in
    /// OpenMetrics.
    created: Option<String>,
}

impl Exposition {
    /// Creates an exposition for `families`, with room for `capacity` bytes. The sample
    /// names of the families must differ; see [`sample_suffixes`].
    pub fn begin<'a>(
        format: Format,
        families: impl IntoIterator<Item = &'a Family>,
        capacity: usize,
    ) -> Self {
        let reserved = match format {
            Format::Text => HashSet::new(),
            Format::OpenMetrics => families.into_iter().flat_map(sample_names).collect(),
        };
        Self {
            format,
            out: String::with_capacity(capacity),
            reserved,
            created: None,
        }
    }

    /// Appends a family with all its series.
    pub fn write_family(&mut self, family: &FamilySeries) {
        self.write_family_since(family, |_labels| None);
    }

    /// Appends a family with all its series. `since` tells when the series with these
    /// labels began, in milliseconds since 1970.
    pub fn write_family_since(
        &mut self,
        family: &FamilySeries,
        since: impl Fn(&str) -> Option<i64>,
    ) {
        let FamilySeries { family, series } = family;
        self.write_metadata(&Metadata::of(family));
        match series {
            Series::Values(values) => {
                for (labels, value) in values {
                    write_sample_name(&mut self.out, &family.name, "", labels);
                    write_decimal(&mut self.out, i128::from(*value), family.scale);
                    self.out.push('\n');
                    self.write_created(labels, &since);
                }
            }
            Series::Histograms(histograms) => {
                let les: Vec<String> = family.bounds.iter().map(|&le| le_value(le)).collect();
                for (labels, histogram) in histograms {
                    self.write_histogram(family, &les, labels, histogram);
                    self.write_created(labels, &since);
                }
            }
        }
    }

    /// Appends the comment lines of a family.
    pub fn write_metadata(&mut self, metadata: &Metadata<'_>) {
        let (name, kind) = match self.format {
            Format::Text => (metadata.name, metadata.kind.name()),
            Format::OpenMetrics => self.open_metrics_type(metadata),
        };
        let has_created = self.format == Format::OpenMetrics
            && [Kind::Counter, Kind::Histogram]
                .map(Kind::name)
                .contains(&kind);
        self.created = has_created.then(|| format!("{name}{CREATED}"));
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

    /// Appends a sample of the family whose metadata was written last. `labels` is in
    /// exposition syntax.
    pub fn write_sample(&mut self, name: &str, labels: &str, value: f64) {
        write_sample_name(&mut self.out, name, "", labels);
        // Writing to a String cannot fail.
        let _ = writeln!(self.out, "{value}");
    }

    /// Appends when a series of the family whose metadata was written last began, if the
    /// format has that.
    fn write_created(&mut self, labels: &str, since: impl Fn(&str) -> Option<i64>) {
        if let Some(name) = &self.created
            && let Some(millis) = since(labels)
        {
            write_sample_name(&mut self.out, name, "", labels);
            write_fraction(&mut self.out, millis.into(), 1000, 3);
            self.out.push('\n');
        }
    }

    /// Returns the complete exposition.
    #[must_use]
    pub fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.out.push_str("# EOF\n");
        }
        self.out
    }

    /// Returns the name and type of a family in OpenMetrics. There, the counter `x_total`
    /// is the family `x`, which owns the sample names `x_total` and `x_created`.
    ///
    /// A counter gets the type `unknown`, under its own name, if that does not end in
    /// `_total`, or if another family is `x` or has samples `x_created`.
    fn open_metrics_type<'a>(&mut self, metadata: &Metadata<'a>) -> (&'a str, &'static str) {
        let Metadata { name, kind, .. } = *metadata;
        if kind != Kind::Counter {
            return (name, kind.name());
        }
        match name.strip_suffix(TOTAL) {
            Some(stem) if self.reserve(stem) => (stem, kind.name()),
            _ => (name, "unknown"),
        }
    }

    /// Reserves the names of a counter. Returns false if one of them is taken.
    fn reserve(&mut self, stem: &str) -> bool {
        let created = format!("{stem}{CREATED}");
        let is_free = !self.reserved.contains(stem) && !self.reserved.contains(&created);
        if is_free {
            self.reserved.insert(stem.to_owned());
            self.reserved.insert(created);
        }
        is_free
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
            // In OpenMetrics a sum only grows, and a count needs a sum.
            return;
        }
        write_sample_name(out, &family.name, "_sum", labels);
        write_decimal(out, histogram.sum, family.scale);
        out.push('\n');
        write_sample_name(out, &family.name, "_count", labels);
        let _ = writeln!(out, "{count}");
    }
}

/// Writes families as one exposition.
///
/// # Examples
/// ```
/// use functional_scaffold_protocol::{
///     exposition::{Format, expose},
///     family::Family,
///     series::SeriesReader,
/// };
///
/// let json = br#"{"type":"counter","help":"Jobs done.","key":"metrics:jobs"}"#;
/// let family = Family::decode("jobs_total", json).expect("the registration is valid");
/// let mut reader = SeriesReader::new(family);
/// reader.push(br#"kind="nightly""#, b"3").expect("the cell is valid");
/// let text = expose(Format::Text, &[reader.finish()]);
/// let lines: Vec<_> = text.lines().collect();
/// assert_eq!(
///     lines,
///     [
///         "# HELP jobs_total Jobs done.",
///         "# TYPE jobs_total counter",
///         r#"jobs_total{kind="nightly"} 3"#,
///     ]
/// );
/// ```
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

/// Appends the `# HELP` line.
fn write_help_line(out: &mut String, name: &str, help: &str, format: Format) {
    out.push_str("# HELP ");
    out.push_str(name);
    out.push(' ');
    for character in help.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            // The text format has no escape for a quote in a help text.
            '"' if format == Format::OpenMetrics => out.push_str("\\\""),
            other => out.push(other),
        }
    }
    out.push('\n');
}

/// Appends a sample's name, labels, and the space before its value.
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

/// Appends `value / scale`: an exact decimal if the scale is a power of ten, otherwise
/// the nearest float.
fn write_decimal(out: &mut String, value: i128, scale: u64) {
    // Writing to a String cannot fail.
    if scale == 1 {
        // Most values fit into 64 bits, which are several times faster to print.
        let _ = match i64::try_from(value) {
            Ok(value) => write!(out, "{value}"),
            Err(_larger) => write!(out, "{value}"),
        };
    } else if is_power_of_ten(scale) {
        write_fraction(out, value, u128::from(scale), scale.ilog10() as usize);
    } else {
        #[allow(clippy::cast_precision_loss, reason = "the quotient is rounded anyway")]
        let quotient = value as f64 / scale as f64;
        let _ = write!(out, "{quotient}");
    }
}

/// Appends `value / scale`, where the scale is 10 to the power of `digits`.
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

/// Writes a bound as a value of `le`, with a point or an exponent (`1.0`, `5e-05`), as
/// [OpenMetrics](https://github.com/prometheus/OpenMetrics/blob/v1.0.0/specification/OpenMetrics.md#considerations-canonical-numbers)
/// requires. The text format does the same, so that the series of a bucket does not
/// depend on the format of a scrape.
fn le_value(bound: f64) -> String {
    let shortest = format!("{bound:e}");
    let Some((mantissa, Ok(exponent))) = shortest
        .split_once('e')
        .map(|(mantissa, exponent)| (mantissa, exponent.parse::<i32>()))
    else {
        // Not finite; no registered bound is.
        return shortest;
    };
    // Go's limits for an exponent, because Prometheus formats numbers in Go.
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
