//! The Prometheus text format, version 0.0.4
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>). Owns how
//! a family is written: escaping, cumulation, exact decimals.

use std::fmt::Write as _;

use crate::{
    cell::le_of_bound,
    family::{Family, Kind},
    labels::write_with_le,
    series::{FamilySeries, Histogram, Series},
};

/// The content type of what this module writes.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Appends a family: its help, its type, and every series.
pub fn write_family(out: &mut String, family: &FamilySeries) {
    let FamilySeries { family, series } = family;
    write_help_line(out, &family.name, &family.help);
    write_type_line(out, &family.name, family.kind);
    match series {
        Series::Values(values) => {
            for (labels, value) in values {
                write_sample_name(out, &family.name, "", labels);
                write_decimal(out, i128::from(*value), family.scale);
                out.push('\n');
            }
        }
        Series::Histograms(histograms) => {
            let les: Vec<String> = family.bounds.iter().map(|&le| le_of_bound(le)).collect();
            for (labels, histogram) in histograms {
                write_histogram(out, family, &les, labels, histogram);
            }
        }
    }
}

/// Appends `# HELP name text`, or nothing if there is no text.
pub fn write_help_line(out: &mut String, name: &str, help: &str) {
    if help.is_empty() {
        return;
    }
    out.push_str("# HELP ");
    out.push_str(name);
    out.push(' ');
    for character in help.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            other => out.push(other),
        }
    }
    out.push('\n');
}

/// Appends `# TYPE name type`.
pub fn write_type_line(out: &mut String, name: &str, kind: Kind) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "# TYPE {name} {}", kind.name());
}

/// Appends one sample line with a value that is no integer of a family: the
/// reader's own metrics. `labels` is in exposition syntax.
pub fn write_sample_line(out: &mut String, name: &str, labels: &str, value: f64) {
    write_sample_name(out, name, "", labels);
    let _ = writeln!(out, "{value}");
}

fn write_histogram(
    out: &mut String,
    family: &Family,
    les: &[String],
    labels: &str,
    histogram: &Histogram,
) {
    let mut count = 0_u64;
    let les = les.iter().map(String::as_str).chain(["+Inf"]);
    for (le, in_bucket) in les.zip(&histogram.buckets) {
        count = count.saturating_add(*in_bucket);
        out.push_str(&family.name);
        out.push_str("_bucket{");
        write_with_le(out, labels, le);
        let _ = writeln!(out, "}} {count}");
    }
    write_sample_name(out, &family.name, "_sum", labels);
    write_decimal(out, histogram.sum, family.scale);
    out.push('\n');
    write_sample_name(out, &family.name, "_count", labels);
    let _ = writeln!(out, "{count}");
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
fn write_decimal(out: &mut String, value: i128, scale: u64) {
    // Writing to a String cannot fail.
    let _ = if scale == 1 {
        write!(out, "{value}")
    } else if is_power_of_ten(scale) {
        let digits = scale.ilog10() as usize;
        let scale = u128::from(scale);
        let (whole, fraction) = (value.unsigned_abs() / scale, value.unsigned_abs() % scale);
        let sign = if value < 0 { "-" } else { "" };
        if fraction == 0 {
            write!(out, "{sign}{whole}")
        } else {
            let fraction = format!("{fraction:0digits$}");
            write!(out, "{sign}{whole}.{}", fraction.trim_end_matches('0'))
        }
    } else {
        #[allow(
            clippy::cast_precision_loss,
            reason = "a quotient that is no decimal is rounded anyway"
        )]
        let quotient = value as f64 / scale as f64;
        write!(out, "{quotient}")
    };
}

fn is_power_of_ten(scale: u64) -> bool {
    10_u64.checked_pow(scale.ilog10()) == Some(scale)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn family(kind: Kind, scale: u64) -> Family {
        Family {
            name: "f".into(),
            kind,
            help: "a \\ and\na line".into(),
            unit: String::new(),
            key: "k".into(),
            bounds: match kind {
                Kind::Histogram => vec![0.5, 1.0],
                Kind::Counter | Kind::Gauge => Vec::new(),
            },
            scale,
        }
    }

    #[test]
    fn writes_a_counter() {
        let mut out = String::new();
        let series = Series::Values(vec![("".into(), 1), ("a=\"x\"".into(), 20)]);
        write_family(
            &mut out,
            &FamilySeries {
                family: family(Kind::Counter, 1),
                series,
            },
        );
        assert_eq!(
            out,
            "# HELP f a \\\\ and\\na line\n# TYPE f counter\nf 1\nf{a=\"x\"} 20\n"
        );
    }

    #[test]
    fn writes_a_histogram_cumulated() {
        let mut out = String::new();
        let histogram = Histogram {
            buckets: [1, 2, 4].into(),
            sum: 12_345,
        };
        write_family(
            &mut out,
            &FamilySeries {
                family: family(Kind::Histogram, 1000),
                series: Series::Histograms(vec![("a=\"x\"".into(), histogram)]),
            },
        );
        let samples: Vec<_> = out.lines().skip(2).collect();
        assert_eq!(
            samples,
            [
                "f_bucket{a=\"x\",le=\"0.5\"} 1",
                "f_bucket{a=\"x\",le=\"1\"} 3",
                "f_bucket{a=\"x\",le=\"+Inf\"} 7",
                "f_sum{a=\"x\"} 12.345",
                "f_count{a=\"x\"} 7",
            ]
        );
    }

    #[test]
    fn decimals_are_exact() {
        for (value, scale, text) in [
            (0, 1_000_000_000, "0"),
            (1, 1_000_000_000, "0.000000001"),
            (-1_500_000_000, 1_000_000_000, "-1.5"),
            (20_000_000_000, 1_000_000_000, "20"),
            (
                i128::from(i64::MAX) * 3,
                1_000_000_000,
                "27670116110.564327421",
            ),
            (1, 3, "0.3333333333333333"),
            (7, 1, "7"),
        ] {
            let mut out = String::new();
            write_decimal(&mut out, value, scale);
            assert_eq!(out, text);
        }
    }

    proptest! {
        #[test]
        fn every_line_is_a_comment_or_a_sample(help: String, values in prop::collection::vec(any::<i64>(), 0..4)) {
            let series = values.iter().enumerate().map(|(n, &value)| (format!("a=\"{n}\"").into(), value)).collect();
            let family = Family { help, ..family(Kind::Gauge, 1000) };
            let mut out = String::new();
            write_family(&mut out, &FamilySeries { family, series: Series::Values(series) });
            prop_assert!(out.ends_with('\n'));
            for line in out.lines().filter(|line| !line.starts_with("# ")) {
                let (_, value) = line.rsplit_once(' ').ok_or_else(|| TestCaseError::fail(line.to_owned()))?;
                prop_assert!(value.parse::<f64>().is_ok(), "{}", line);
            }
        }
    }
}
