//! Reads label sets, which `functional-scaffold-protocol` writes and checks. Any other
//! text gives any result, but no panic.

/// Finds a label by its name, as it is in the label set: `name="value"`.
pub(crate) fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    split(labels).find(|label| label.split_once('=').is_some_and(|(this, _)| this == name))
}

/// Splits at the commas between labels.
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

/// The value of a label, without quotes and escapes.
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

#[cfg(test)]
mod tests {
    use functional_scaffold_protocol::labels::write_labels;

    use super::*;

    #[test]
    fn a_label_is_found_by_its_name() {
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
