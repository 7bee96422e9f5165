//! The input, `{"number": 17}`: what is accepted, and what a caller is told
//! about anything else.
//!
//! `number` is a JSON number with a whole value from 0 to `u64::MAX`, in any
//! notation (`17`, `17.0`, `1.7e1`), or a string that holds the same digits
//! as the plain integer would: many clients keep numbers as floats and lose
//! digits above 2^53. In a string nothing else is allowed (`" 17 "`, `"+17"`,
//! `"017"`, `"1e3"` are refused).
//!
//! A number is read from its own text ([`RawValue`]), never through a float:
//! `serde_json` turns an integer above `u64::MAX` into the nearest `f64`, and
//! the message would then name a number that nobody sent.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::decimal::{self, DecimalError};

/// How much of an offending value a message repeats.
const MAX_EXCERPT_CHARS: usize = 40;

/// How long a message of the JSON parser may be; it repeats a field's name.
const MAX_PARSER_MESSAGE_CHARS: usize = 160;

/// Why an input is refused, in words for the caller.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InputError {
    #[error("the input is not valid JSON: {0}")]
    NotJson(#[source] serde_json::Error),
    #[error("the input must be an object such as {{\"number\": 17}}, not {0}")]
    NotAnObject(&'static str),
    /// A missing, unknown or repeated field, in the parser's words.
    #[error("{}", excerpt(&.0.to_string(), MAX_PARSER_MESSAGE_CHARS))]
    Fields(#[source] serde_json::Error),
    #[error("number must be an integer or a string of decimal digits, not {0}")]
    NotANumber(&'static str),
    #[error("a string as number must hold decimal digits alone, without leading zeros: {0}")]
    NotDigits(String),
    #[error("number must not be negative: {0}")]
    Negative(String),
    #[error("number must be whole: {0}")]
    Fraction(String),
    #[error("number must not be above {max}: {0}", max = u64::MAX)]
    TooLarge(String),
}

/// The input's shape. A field that is not listed is refused by its name, since
/// a misspelt one must not pass in silence.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input<'a> {
    #[serde(borrow)]
    number: &'a RawValue,
}

/// The number that an input asks about.
///
/// # Errors
///
/// [`InputError`], always the caller's fault.
pub(crate) fn parse(json: &str) -> Result<u64, InputError> {
    let whole: &RawValue = serde_json::from_str(json).map_err(InputError::NotJson)?;
    // serde would also take the fields from an array, by position.
    if !whole.get().starts_with('{') {
        return Err(InputError::NotAnObject(kind(whole)));
    }
    let input: Input<'_> = serde_json::from_str(json).map_err(InputError::Fields)?;
    parse_number(input.number)
}

fn parse_number(value: &RawValue) -> Result<u64, InputError> {
    let shown = || excerpt(value.get(), MAX_EXCERPT_CHARS);
    let digits: Cow<'_, str> = match value.get().as_bytes() {
        [b'"', ..] => {
            let text: String = serde_json::from_str(value.get()).map_err(InputError::NotJson)?;
            if !is_plain_integer(&text) {
                return Err(InputError::NotDigits(shown()));
            }
            Cow::Owned(text)
        }
        [b'-' | b'0'..=b'9', ..] => Cow::Borrowed(value.get()),
        _ => return Err(InputError::NotANumber(kind(value))),
    };
    decimal::from_json_number(&digits).map_err(|error| match error {
        DecimalError::Negative => InputError::Negative(shown()),
        DecimalError::Fraction => InputError::Fraction(shown()),
        DecimalError::TooLarge => InputError::TooLarge(shown()),
    })
}

/// Whether a text is written as JSON writes an integer from 0 up.
fn is_plain_integer(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_digit())
        && (text == "0" || !text.starts_with('0'))
}

/// What kind of JSON value it is, with its article.
fn kind(value: &RawValue) -> &'static str {
    match value.get().as_bytes() {
        [b'{', ..] => "an object",
        [b'[', ..] => "an array",
        [b'"', ..] => "a string",
        [b't' | b'f', ..] => "a boolean",
        [b'n', ..] => "null",
        _ => "a number",
    }
}

/// The text, cut after `max_chars` characters.
fn excerpt(text: &str, max_chars: usize) -> String {
    match text.char_indices().nth(max_chars) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::parse;
    use proptest::prelude::*;

    fn message(json: &str) -> String {
        match parse(json) {
            Ok(number) => format!("accepted as {number}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn accepts_integers_and_strings_of_digits() {
        for (json, number) in [
            (r#"{"number": 0}"#, 0),
            (r#"{"number": 17}"#, 17),
            (" \n{\t\"number\"\r:17 } ", 17),
            (r#"{"number": 17.0}"#, 17),
            (r#"{"number": 1e3}"#, 1000),
            (r#"{"number": -0}"#, 0),
            (r#"{"number": 9007199254740993}"#, 9_007_199_254_740_993),
            (r#"{"number": 18446744073709551615}"#, u64::MAX),
            (r#"{"number": "0"}"#, 0),
            (r#"{"number": "17"}"#, 17),
            (r#"{"number": "\u0031\u0037"}"#, 17),
            (r#"{"n\u0075mber": 17}"#, 17),
            (
                r#"{"number": "18446744073709551557"}"#,
                18_446_744_073_709_551_557,
            ),
            (r#"{"number": "18446744073709551615"}"#, u64::MAX),
        ] {
            assert_eq!(parse(json).ok(), Some(number), "{json}");
        }
    }

    #[test]
    fn says_what_is_wrong_with_the_number() {
        for (json, expected) in [
            (r#"{"number": -1}"#, "number must not be negative: -1"),
            (r#"{"number": 1.5}"#, "number must be whole: 1.5"),
            (
                r#"{"number": 18446744073709551616}"#,
                "number must not be above 18446744073709551615: 18446744073709551616",
            ),
            (
                r#"{"number": 1e999}"#,
                "number must not be above 18446744073709551615: 1e999",
            ),
            (
                r#"{"number": "18446744073709551616"}"#,
                "number must not be above 18446744073709551615: \"18446744073709551616\"",
            ),
            (
                r#"{"number": null}"#,
                "number must be an integer or a string of decimal digits, not null",
            ),
            (
                r#"{"number": true}"#,
                "number must be an integer or a string of decimal digits, not a boolean",
            ),
            (
                r#"{"number": [17]}"#,
                "number must be an integer or a string of decimal digits, not an array",
            ),
            (
                r#"{"number": {"number": 17}}"#,
                "number must be an integer or a string of decimal digits, not an object",
            ),
        ] {
            assert_eq!(message(json), expected, "{json}");
        }
    }

    #[test]
    fn refuses_strings_with_anything_but_digits() {
        for string in [
            r#""""#,
            r#""abc""#,
            r#"" 17 ""#,
            r#""+17""#,
            r#""-17""#,
            r#""017""#,
            r#""00""#,
            r#""1.0""#,
            r#""1e3""#,
            r#""0x11""#,
            r#""1_000""#,
            r#""１７""#,
            r#""17\n""#,
        ] {
            assert_eq!(
                message(&format!(r#"{{"number": {string}}}"#)),
                format!(
                    "a string as number must hold decimal digits alone, without leading zeros: {string}"
                ),
            );
        }
    }

    #[test]
    fn says_what_is_wrong_with_the_fields() {
        for (json, expected) in [
            ("{}", "missing field `number` at line 1 column 2"),
            (
                r#"{"numbr": 17}"#,
                "unknown field `numbr`, expected `number` at line 1 column 8",
            ),
            (
                r#"{"number": 17, "base": 10}"#,
                "unknown field `base`, expected `number` at line 1 column 21",
            ),
            (
                r#"{"number": 17, "number": 18}"#,
                "duplicate field `number` at line 1 column 23",
            ),
        ] {
            assert_eq!(message(json), expected, "{json}");
        }
    }

    #[test]
    fn says_what_it_got_instead_of_an_object() {
        for (json, kind) in [
            ("[17]", "an array"),
            ("17", "a number"),
            ("-1.5", "a number"),
            ("\"17\"", "a string"),
            ("false", "a boolean"),
            ("null", "null"),
        ] {
            assert_eq!(
                message(json),
                format!("the input must be an object such as {{\"number\": 17}}, not {kind}"),
            );
        }
    }

    #[test]
    fn refuses_what_is_not_json() {
        for json in [
            "",
            "{",
            "abc",
            r#"{"number": 17,}"#,
            r#"{"number": 017}"#,
            r#"{"number": +17}"#,
            r#"{"number": .5}"#,
            r#"{"number": NaN}"#,
            r#"{"number": 17} 18"#,
            r#"{number: 17}"#,
            "\u{feff}{\"number\": 17}",
        ] {
            let message = message(json);
            assert!(
                message.starts_with("the input is not valid JSON: "),
                "{json}: {message}"
            );
        }
        // Valid to the grammar, but no text: half of a surrogate pair.
        assert!(message(r#"{"number": "\ud800"}"#).starts_with("the input is not valid JSON: "));
    }

    #[test]
    fn repeats_only_the_beginning_of_a_long_value() {
        let digits = "9".repeat(1 << 20);
        let letters = "é".repeat(1 << 20);
        for json in [
            format!(r#"{{"number": {digits}}}"#),
            format!(r#"{{"number": -{digits}}}"#),
            format!(r#"{{"number": 0.{digits}}}"#),
            format!(r#"{{"number": 1e{digits}}}"#),
            format!(r#"{{"number": "{digits}"}}"#),
            format!(r#"{{"number": "{letters}"}}"#),
            format!(r#"{{"{letters}": 17}}"#),
            letters,
            "[".repeat(1 << 20),
            format!(
                r#"{{"number": {}{}}}"#,
                "[".repeat(1 << 19),
                "]".repeat(1 << 19)
            ),
        ] {
            let message = message(&json);
            assert!(message.chars().count() <= 200, "{message}");
        }
    }

    proptest! {
        #[test]
        fn reads_every_number_in_both_forms(number: u64) {
            prop_assert_eq!(parse(&format!(r#"{{"number":{number}}}"#)).ok(), Some(number));
            prop_assert_eq!(parse(&format!(r#"{{"number":"{number}"}}"#)).ok(), Some(number));
        }

        #[test]
        fn no_text_makes_it_panic(text in r#"[\[\]{}":,eE+\-.0-9a-z\\ \u{e9}]{0,40}"#) {
            let _ = parse(&text);
            let _ = parse(&format!(r#"{{"number":{text}}}"#));
        }
    }
}
