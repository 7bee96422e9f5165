//! The labels of a label set. Label sets are written and checked by
//! `functional-scaffold-protocol`; nothing is checked here.

/// The label `name` as it is written in the label set, `name="value"`, which
/// is a label set of its own. `labels` is in canonical form; any other text
/// gives something or nothing.
#[must_use]
pub(crate) fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    let mut rest = labels;
    loop {
        let (this, value) = rest.split_once("=\"")?;
        let length = this.len() + 2 + closing_quote(value)? + 1;
        let (label, following) = rest.split_at(length);
        if this == name {
            return Some(label);
        }
        rest = following.strip_prefix(',')?;
    }
}

/// Splits at the commas that are in no value.
pub(crate) fn split(labels: &str) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    labels.split(move |character: char| {
        match character {
            '"' if !escaped => quoted = !quoted,
            ',' if !quoted => return true,
            _ => {}
        }
        escaped = character == '\\' && !escaped;
        false
    })
}

/// The value of a label that [`label`] found, without quotes and escapes.
#[must_use]
pub(crate) fn value(label: &str) -> String {
    let quoted = label.split_once('=').map_or("", |(_, quoted)| quoted);
    let escaped = quoted
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'))
        .unwrap_or_default();
    let mut value = String::with_capacity(escaped.len());
    let mut characters = escaped.chars();
    while let Some(character) = characters.next() {
        value.push(match character {
            '\\' => match characters.next() {
                Some('n') => '\n',
                Some(other) => other,
                None => break,
            },
            other => other,
        });
    }
    value
}

fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    })
}

#[cfg(test)]
mod tests {
    use functional_scaffold_protocol::labels::write_labels;

    use super::*;

    #[test]
    fn finds_a_label_by_its_name_alone() {
        let tricky = "x\",algorithm=\"no\\\n";
        let mut labels = String::new();
        write_labels(
            &mut labels,
            &[("a", tricky), ("algorithm", tricky), ("b", "é")],
        );
        let found = label(&labels, "algorithm").expect("it is there");
        assert_eq!(value(found), tricky);
        assert_eq!(label(&labels, "b"), Some("b=\"é\""));
        for absent in ["no", "x", "", "lgorithm"] {
            assert_eq!(label(&labels, absent), None, "{absent}");
        }
    }

    #[test]
    fn arbitrary_text_never_panics() {
        for text in [
            "",
            "a",
            "a=\"",
            "a=\"\\",
            "a=\"\\\"",
            "é=\"é\"é",
            ",=\"\",",
            "a=\"1\"b",
        ] {
            let _ = label(text, "b");
            let _ = value(text);
        }
    }
}
