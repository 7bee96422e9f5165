//! Label sets in exposition syntax, `code="200",method="POST"`: names sorted, values
//! escaped. Redis stores them in this form, so that a scrape copies them.

use thiserror::Error;

/// Why a text is not a canonical label set.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum LabelsError {
    /// A name is empty or has a character outside `[a-zA-Z0-9_]`.
    #[error("invalid label name {0:?}")]
    Name(String),
    /// A name is not greater than the one before it (in byte order).
    #[error("label {0:?} is repeated or out of order")]
    Order(String),
    /// The name belongs to the exposition format.
    #[error("label name {0:?} is reserved")]
    Reserved(String),
    /// The value is empty. To Prometheus that is the same as no such label, so two
    /// label sets would be one series.
    #[error("label {0:?} is empty")]
    Empty(String),
    /// A quote, comma or escape is missing or misplaced at this byte.
    #[error("malformed label set at byte {0}")]
    Syntax(usize),
}

/// Appends a label set to `out`, escaping values as the
/// [text format](https://prometheus.io/docs/instrumenting/exposition_formats/#text-format-details)
/// does.
///
/// The names in `labels` must strictly increase in byte order. They are constants of
/// the caller, so this is checked in debug builds only. A label with an empty value
/// is left out, which is the same to Prometheus.
///
/// # Examples
/// ```
/// use functional_scaffold_protocol::labels::{check_labels, write_labels};
///
/// let mut labels = String::new();
/// write_labels(&mut labels, &[("file", r"C:\log"), ("kind", "a \"b\""), ("user", "")]);
/// assert_eq!(labels, r#"file="C:\\log",kind="a \"b\"""#);
/// assert_eq!(check_labels(&labels), Ok(()));
/// ```
pub fn write_labels(out: &mut String, labels: &[(&str, &str)]) {
    debug_assert!(
        labels.windows(2).all(|pair| pair[0].0 < pair[1].0),
        "label names must be sorted: {labels:?}"
    );
    let mut first = true;
    for (name, value) in labels.iter().filter(|(_, value)| !value.is_empty()) {
        if !std::mem::take(&mut first) {
            out.push(',');
        }
        out.push_str(name);
        out.push_str("=\"");
        for character in value.chars() {
            match character {
                '\\' => out.push_str("\\\\"),
                '"' => out.push_str("\\\""),
                '\n' => out.push_str("\\n"),
                other => out.push(other),
            }
        }
        out.push('"');
    }
}

/// Checks that a text is a label set as [`write_labels`] writes it. The empty text is
/// the empty label set.
///
/// # Errors
/// The first deviation; nothing is repaired.
pub fn check_labels(text: &str) -> Result<(), LabelsError> {
    let bytes = text.as_bytes();
    let mut at = 0;
    let mut previous = "";
    while at < bytes.len() {
        let name_end = bytes[at..]
            .iter()
            .position(|&byte| byte == b'=')
            .map(|length| at + length)
            .ok_or(LabelsError::Syntax(at))?;
        let name = &text[at..name_end];
        check_label_name(name)?;
        if name <= previous {
            return Err(LabelsError::Order(name.to_owned()));
        }
        previous = name;
        at = value_end(bytes, name_end + 1)?;
        if at == name_end + 3 {
            return Err(LabelsError::Empty(name.to_owned()));
        }
        match bytes.get(at) {
            None => return Ok(()),
            Some(b',') if at + 1 < bytes.len() => at += 1,
            Some(_) => return Err(LabelsError::Syntax(at)),
        }
    }
    Ok(())
}

/// Returns whether a text is a metric name without colons, which are for recording rules:
/// `[a-zA-Z_][a-zA-Z0-9_]*`.
#[must_use]
pub fn is_metric_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes
        .next()
        .is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Returns whether a series may have a label of this name: a metric name that is not
/// reserved.
#[must_use]
pub fn is_label_name(name: &str) -> bool {
    check_label_name(name).is_ok()
}

fn check_label_name(name: &str) -> Result<(), LabelsError> {
    if !is_metric_name(name) {
        return Err(LabelsError::Name(name.to_owned()));
    }
    // `le` belongs to the buckets of a histogram, and names that begin with two
    // underscores belong to Prometheus.
    if name == "le" || name.starts_with("__") {
        return Err(LabelsError::Reserved(name.to_owned()));
    }
    Ok(())
}

/// The position after the closing quote of the quoted value at `start`.
fn value_end(bytes: &[u8], start: usize) -> Result<usize, LabelsError> {
    if bytes.get(start) != Some(&b'"') {
        return Err(LabelsError::Syntax(start));
    }
    let mut at = start + 1;
    loop {
        match bytes.get(at) {
            Some(b'"') => return Ok(at + 1),
            Some(b'\\') if matches!(bytes.get(at + 1), Some(b'\\' | b'"' | b'n')) => at += 2,
            None | Some(b'\\' | b'\n') => return Err(LabelsError::Syntax(at)),
            Some(_) => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn writes_escapes() {
        let mut out = String::new();
        write_labels(&mut out, &[("a", "x\"\\\n"), ("aa", ""), ("b", "é|,=")]);
        assert_eq!(out, "a=\"x\\\"\\\\\\n\",b=\"é|,=\"");
        assert_eq!(check_labels(&out), Ok(()));
    }

    #[test]
    fn reports_what_is_not_canonical() {
        for (text, error) in [
            ("a", LabelsError::Syntax(0)),
            ("a=1", LabelsError::Syntax(2)),
            ("a=\"1", LabelsError::Syntax(4)),
            ("a=\"1\",", LabelsError::Syntax(5)),
            ("a=\"1\"b=\"2\"", LabelsError::Syntax(5)),
            ("a=\"\\t\"", LabelsError::Syntax(3)),
            ("a=\"\n\"", LabelsError::Syntax(3)),
            ("=\"1\"", LabelsError::Name(String::new())),
            ("1a=\"1\"", LabelsError::Name("1a".into())),
            ("a-b=\"1\"", LabelsError::Name("a-b".into())),
            ("b=\"1\",a=\"2\"", LabelsError::Order("a".into())),
            ("a=\"1\",a=\"2\"", LabelsError::Order("a".into())),
            ("a=\"\"", LabelsError::Empty("a".into())),
            ("le=\"1\"", LabelsError::Reserved("le".into())),
            ("__name__=\"1\"", LabelsError::Reserved("__name__".into())),
        ] {
            assert_eq!(check_labels(text), Err(error), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn accepts_everything_that_it_writes(values in prop::collection::vec(any::<String>(), 0..4)) {
            let names = ["a", "b_1", "c", "d"];
            let labels: Vec<_> = names.iter().copied().zip(values.iter().map(String::as_str)).collect();
            let mut out = String::new();
            write_labels(&mut out, &labels);
            prop_assert_eq!(check_labels(&out), Ok(()));
        }

        #[test]
        fn never_panics(text in any::<String>()) {
            let _ = check_labels(&text);
        }

        #[test]
        fn never_panics_near_syntax(text in "[abl_e=\"\\\\,n\n]{0,24}") {
            let _ = check_labels(&text);
        }
    }
}
