//! Escapes of characters that are not shown as themselves.
//!
//! A text of a client, of an algorithm or from Redis may hold a line break that begins
//! a forged line, a sequence that a terminal executes, or a mark that reorders what
//! follows it. Such characters are written as `\u001b`, which is valid in JSON strings,
//! too.

use std::{borrow::Cow, fmt::Write as _};

use serde::Serialize;

/// Returns whether a character ends a line, controls a terminal, is invisible, or changes
/// the direction of text.
#[must_use]
pub fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// Escapes every character of a text that is not shown as itself.
///
/// # Examples
/// ```
/// use functional_scaffold_protocol::escape::escape;
///
/// assert_eq!(escape("é\n\u{1b}[2J"), r"é\u000a\u001b[2J");
/// ```
#[must_use]
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_unsafe(character) {
            for unit in character.encode_utf16(&mut [0; 2]) {
                // Writing to a string does not fail.
                let _ = write!(escaped, "\\u{unit:04x}");
            }
        } else {
            escaped.push(character);
        }
    }
    Cow::Owned(escaped)
}

/// Serialises a value as JSON on one line, in which every character is shown as itself.
/// Returns an empty text for what JSON cannot express, a map with keys other than
/// strings.
#[must_use]
pub fn to_json(value: &impl Serialize) -> String {
    let json = serde_json::to_string(value).unwrap_or_default();
    match escape(&json) {
        Cow::Borrowed(_) => json,
        Cow::Owned(escaped) => escaped,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts_that_are_shown_as_themselves_are_unchanged() {
        for text in ["", "GET /a?b=\"c\"\\", "naïve 数 🦀"] {
            assert_eq!(escape(text), text);
        }
    }

    #[test]
    fn what_moves_ends_or_reorders_text_is_escaped() {
        for (character, escaped) in [
            ('\n', r"\u000a"),
            ('\u{7f}', r"\u007f"),
            ('\u{9b}', r"\u009b"),
            ('\u{2028}', r"\u2028"),
            ('\u{202e}', r"\u202e"),
            ('\u{2066}', r"\u2066"),
            ('\u{feff}', r"\ufeff"),
            ('\u{e0001}', r"\udb40\udc01"),
        ] {
            assert_eq!(escape(&format!("a{character}b")), format!("a{escaped}b"));
        }
    }

    proptest! {
        #[test]
        fn json_keeps_its_value(text: String) {
            let json = to_json(&[&text]);
            prop_assert!(!json.chars().any(is_unsafe));
            prop_assert_eq!(serde_json::from_str::<[String; 1]>(&json).ok(), Some([text]));
        }
    }
}
