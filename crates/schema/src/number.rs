//! Numbers as Prometheus writes them: exact decimals of scaled integers, and a
//! bucket's bound in the one form that every format and version agrees on.

use std::fmt::Write as _;

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
mod tests {
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
