//! Exact integers from decimal text.
//!
//! JSON has one kind of number: `17`, `17.0` and `1.7e1` are the same value,
//! and JSON Schema's `integer` admits all three
//! (<https://json-schema.org/draft/2020-12/json-schema-validation#section-6.1.1>).
//! They are read here digit by digit, so nothing is rounded on the way.

/// Why a text has no value as a `u64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DecimalError {
    /// It is below zero.
    Negative,
    /// It is not a whole number.
    Fraction,
    /// It is above `u64::MAX`.
    TooLarge,
}

/// The value of a JSON number (RFC 8259, section 6), whose syntax must have
/// been checked. `-0` is 0.
///
/// # Errors
///
/// [`DecimalError`] when that value is no `u64`.
pub(crate) fn from_json_number(number: &str) -> Result<u64, DecimalError> {
    match number.strip_prefix('-') {
        None => from_unsigned(number),
        Some(magnitude) if from_unsigned(magnitude) == Ok(0) => Ok(0),
        Some(_) => Err(DecimalError::Negative),
    }
}

fn from_unsigned(number: &str) -> Result<u64, DecimalError> {
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let significant = digits.trim_end_matches('0');
    if significant.is_empty() {
        return Ok(0);
    }
    // The value is `significant * 10^power`.
    let power = exponent_value(exponent)
        .saturating_sub_unsigned(length(fraction))
        .saturating_add_unsigned(length(&digits) - length(significant));
    if power < 0 {
        return Err(DecimalError::Fraction);
    }
    let scale = u32::try_from(power)
        .ok()
        .and_then(|power| 10_u64.checked_pow(power));
    // Nothing but digits is in there, so the only failure is an overflow.
    let value = significant.parse::<u64>().ok();
    value
        .zip(scale)
        .and_then(|(value, scale)| value.checked_mul(scale))
        .ok_or(DecimalError::TooLarge)
}

/// An exponent's value; one too large for an `i64` stays at its end.
fn exponent_value(exponent: &str) -> i64 {
    exponent.parse().unwrap_or(if exponent.starts_with('-') {
        i64::MIN
    } else {
        i64::MAX
    })
}

fn length(digits: &str) -> u64 {
    digits.len() as u64
}

#[cfg(test)]
mod tests {
    use super::{DecimalError, from_json_number};
    use proptest::prelude::*;

    #[test]
    fn reads_every_notation_of_an_integer() {
        for (text, value) in [
            ("0", 0),
            ("-0", 0),
            ("0.000", 0),
            ("-0.0e5", 0),
            ("0e99999999999999999999", 0),
            ("17", 17),
            ("17.0", 17),
            ("17.000e0", 17),
            ("1.7e1", 17),
            ("1.7E+01", 17),
            ("170e-1", 17),
            ("0.0017e4", 17),
            ("1e3", 1000),
            ("9007199254740993.0", 9_007_199_254_740_993),
            ("1e19", 10_000_000_000_000_000_000),
            ("18446744073709551615", u64::MAX),
            ("1.8446744073709551615e19", u64::MAX),
            ("184467440737095516150e-1", u64::MAX),
        ] {
            assert_eq!(from_json_number(text), Ok(value), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_u64() {
        for (text, error) in [
            ("-1", DecimalError::Negative),
            ("-1.5", DecimalError::Negative),
            ("-1e999", DecimalError::Negative),
            ("-1e-999", DecimalError::Negative),
            ("1.5", DecimalError::Fraction),
            ("0.1", DecimalError::Fraction),
            ("15e-1", DecimalError::Fraction),
            ("1e-99999999999999999999", DecimalError::Fraction),
            ("18446744073709551615.5", DecimalError::Fraction),
            ("18446744073709551616", DecimalError::TooLarge),
            ("18446744073709551616.0", DecimalError::TooLarge),
            ("2e19", DecimalError::TooLarge),
            ("1e20", DecimalError::TooLarge),
            ("1e4294967296", DecimalError::TooLarge),
            ("1e99999999999999999999", DecimalError::TooLarge),
        ] {
            assert_eq!(from_json_number(text), Err(error), "{text}");
        }
    }

    proptest! {
        #[test]
        fn shifting_the_point_keeps_the_value(value: u64, shift in 0_usize..40) {
            let digits = format!("{value:040}");
            let (whole, fraction) = digits.split_at(digits.len() - shift);
            let text = format!("{whole}.{fraction}0e{shift}");
            prop_assert_eq!(from_json_number(&text), Ok(value));
            prop_assert_eq!(from_json_number(&format!("{value}{}e-{shift}", "0".repeat(shift))), Ok(value));
        }

        #[test]
        fn no_number_makes_it_panic(text in "-?[0-9]{1,30}(\\.[0-9]{1,30})?([eE][+-]?[0-9]{1,30})?") {
            let _ = from_json_number(&text);
        }
    }
}
