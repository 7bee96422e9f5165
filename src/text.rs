//! Makes texts from algorithms and clients safe to show on one line.

use functional_scaffold_metering::is_unsafe;

/// The longest text, in characters.
const MAX_CHARS: usize = 1000;

/// Puts a text on one line of at most 1,000 characters. Characters that are not shown as
/// themselves ([`is_unsafe`]) become spaces. A text that is cut ends with `…`.
#[must_use]
pub fn one_line(text: &str) -> String {
    let mut line = String::new();
    for (at, char) in text.trim_ascii().chars().enumerate() {
        if at == MAX_CHARS {
            line.pop();
            line.push('…');
            break;
        }
        line.push(if is_unsafe(char) { ' ' } else { char });
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_breaks_a_line_or_turns_it_around_becomes_a_space() {
        for (text, line) in [
            ("number: -1 is negative", "number: -1 is negative"),
            ("first\nsecond\r\n\tthird\n", "first second   third"),
            ("a\u{85}b\u{2028}c\u{2029}d", "a b c d"),
            ("\u{1b}[31mred\u{0}", "[31mred"),
            ("a\u{202e}b\u{2066}c\u{200f}d\u{61c}e", "a b c d e"),
            ("a\u{200b}b\u{feff}c\u{e0041}d", "a b c d"),
            ("naïve 数 🦀", "naïve 数 🦀"),
            ("", ""),
        ] {
            assert_eq!(one_line(text).trim(), line, "{text:?}");
        }
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let fits = "é".repeat(1000);
        assert_eq!(one_line(&fits), fits);
        let cut = one_line(&"é".repeat(1_000_000));
        assert_eq!(cut, "é".repeat(999) + "…");
    }
}
