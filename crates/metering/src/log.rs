//! Writes log lines to stderr, one JSON object a line.

use std::{cell::Cell, time::SystemTime};

use functional_scaffold_protocol::{escape::to_json, replay_key::ReplayKey};
use serde::Serialize;
use serde_json::{Value, json};

/// The longest line, in bytes with its newline. A host passes on output in pieces
/// of at most 4,096 bytes, and pieces of two instances mix, so a line must be one
/// piece. A pipe, too, takes at most 4,096 bytes at once, and the host may put a
/// prefix before the line.
const MAX_LINE_BYTES: usize = 4000;

/// The severity of a line, most severe first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// A loss.
    Error,
    /// A failure that leads to a loss if it lasts.
    Warn,
    /// One line for each request.
    Info,
    /// One line for each flush.
    Debug,
}

impl Level {
    /// Every level, most severe first.
    pub const ALL: [Self; 4] = [Self::Error, Self::Warn, Self::Info, Self::Debug];

    /// The level's name in log lines.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }
}

thread_local! {
    static LEAST_SEVERE: Cell<Level> = const { Cell::new(Level::Info) };
}

/// Sets the least severe level that is written.
pub fn set_level(level: Level) {
    LEAST_SEVERE.set(level);
}

/// Returns whether lines of this level are written.
#[must_use]
pub fn enabled(level: Level) -> bool {
    level <= LEAST_SEVERE.get()
}

/// Writes a line with the time, the level, the event's name, and `fields`, which
/// must serialise as an object. Texts are clipped if the line would be too long.
pub fn write(level: Level, event: &'static str, fields: impl Serialize) {
    if enabled(level) {
        write_line(&clipped_line(level, event, fields));
    }
}

/// Writes `items` as a list under `name`, in as many lines as they need.
pub fn write_list(level: Level, event: &'static str, name: &str, items: &[String]) {
    if enabled(level) {
        let lines = list_lines(level, event, name, items);
        lines.iter().for_each(|line| write_line(line));
    }
}

/// Writes a line without clipping it, after an empty one, and with a message
/// authentication code if there is a key.
pub(crate) fn write_whole(
    level: Level,
    event: &'static str,
    fields: impl Serialize,
    key: Option<&ReplayKey>,
) {
    if enabled(level) {
        write_line(&whole_line(level, event, fields, key));
    }
}

/// The number of bytes that a line with these fields has left for the members of
/// another object.
pub(crate) fn room_beside(level: Level, event: &'static str, fields: impl Serialize) -> usize {
    MAX_LINE_BYTES.saturating_sub(whole_line(level, event, fields, None).len())
}

/// Cuts a text to at most `max_bytes`.
pub(crate) fn clip(text: &str, max_bytes: usize) -> &str {
    &text[..text.floor_char_boundary(max_bytes)]
}

/// Cuts a text so that it takes at most `max_bytes` in a line, in which JSON may need six
/// bytes for a character.
#[must_use]
pub fn clip_escaped(text: &str, max_bytes: usize) -> &str {
    let mut clipped = clip(text, max_bytes);
    // Nearly all are, and need no allocation.
    let is_plain = |byte| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\';
    if clipped.bytes().all(is_plain) {
        return clipped;
    }
    while json_bytes(clipped) > max_bytes + "\"\"".len() {
        clipped = clip(clipped, clipped.len() / 2);
    }
    clipped
}

fn line(level: Level, event: &'static str, fields: impl Serialize) -> String {
    object(level, event, fields) + "\n"
}

/// An algorithm may not have ended its line, and readers of the log skip lines that are
/// too long. So this one begins with a line break.
fn whole_line(
    level: Level,
    event: &'static str,
    fields: impl Serialize,
    key: Option<&ReplayKey>,
) -> String {
    let mut object = object(level, event, fields);
    if let Some(key) = key {
        key.sign(&mut object);
    }
    format!("\n{object}\n")
}

fn object(level: Level, event: &'static str, fields: impl Serialize) -> String {
    #[derive(Serialize)]
    struct Line<F> {
        time: String,
        level: &'static str,
        event: &'static str,
        #[serde(flatten)]
        fields: F,
    }

    // Objects of strings and numbers always serialise.
    to_json(&Line {
        time: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
        level: level.name(),
        event,
        fields,
    })
}

fn clipped_line(level: Level, event: &'static str, fields: impl Serialize) -> String {
    let text = line(level, event, &fields);
    if text.len() <= MAX_LINE_BYTES {
        return text;
    }
    let mut fields = serde_json::to_value(&fields).unwrap_or_default();
    let mut max_bytes = MAX_LINE_BYTES;
    loop {
        max_bytes /= 2;
        clip_strings(&mut fields, max_bytes);
        let text = line(level, event, &fields);
        if text.len() <= MAX_LINE_BYTES || max_bytes == 0 {
            return text;
        }
    }
}

fn list_lines(level: Level, event: &'static str, name: &str, items: &[String]) -> Vec<String> {
    let list = |items: &[String]| clipped_line(level, event, json!({ name: items }));
    let room = MAX_LINE_BYTES.saturating_sub(list(&[]).len());
    let mut lines = Vec::new();
    let mut rest = items;
    while !rest.is_empty() {
        let mut bytes = 0;
        let fitting = rest.iter().take_while(|item| {
            bytes += json_bytes(item) + 1;
            bytes <= room
        });
        // An item that is longer than a line is clipped.
        let (these, others) = rest.split_at(fitting.count().max(1));
        lines.push(list(these));
        rest = others;
    }
    lines
}

/// Clips every string in a value.
fn clip_strings(value: &mut Value, max_bytes: usize) {
    match value {
        Value::String(text) => text.truncate(text.floor_char_boundary(max_bytes)),
        Value::Array(items) => items
            .iter_mut()
            .for_each(|item| clip_strings(item, max_bytes)),
        Value::Object(members) => members
            .values_mut()
            .for_each(|member| clip_strings(member, max_bytes)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn json_bytes(text: &str) -> usize {
    to_json(&text).len()
}

fn write_line(line: &str) {
    // A closed stderr must not fail a request.
    let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_piece_for_the_host() {
        // JSON may need six bytes for each of these.
        let path = "/\u{1}é\"".repeat(5000);
        let fields = json!({ "path": path, "code": 404, "more": [path, { "x": path }] });
        let text = clipped_line(Level::Info, "request", &fields);
        assert!(
            (500..=MAX_LINE_BYTES).contains(&text.len()),
            "{}",
            text.len()
        );
        let (line, end) = text.split_at(text.len() - 1);
        assert_eq!(end, "\n");
        let line: Value = serde_json::from_str(line).expect("it is still JSON");
        assert_eq!(
            (&line["event"], &line["code"]),
            (&json!("request"), &json!(404))
        );
        let clipped = line["path"].as_str().expect("a text");
        assert!(!clipped.is_empty() && path.starts_with(clipped));
    }

    #[test]
    fn text_of_others_neither_ends_a_line_nor_moves_on_a_terminal() {
        let hostile = "/a\n{\"event\":\"x\"}\u{1b}[2J\u{9b}\u{7f}\u{2028}\u{202e}\u{2066}";
        let line = clipped_line(Level::Info, "request", json!({ "path": hostile }));
        let object = line.strip_suffix('\n').expect("a line");
        assert!(
            object.chars().all(|shown| (' '..='~').contains(&shown)),
            "{object:?}"
        );
        let object: Value = serde_json::from_str(object).expect("JSON");
        assert_eq!(object["path"], hostile);
    }

    #[test]
    fn a_long_list_is_split_into_lines() {
        let mut items: Vec<_> = (0..200).map(|number| format!("{number}/\"x\"")).collect();
        items.insert(100, "y".repeat(2 * MAX_LINE_BYTES));
        let lines = list_lines(Level::Warn, "results_late", "leases", &items);
        assert!((3..6).contains(&lines.len()), "{}", lines.len());
        let mut listed: Vec<String> = Vec::new();
        for line in &lines {
            assert!(line.len() <= MAX_LINE_BYTES, "{}", line.len());
            let mut line: Value = serde_json::from_str(line).expect("JSON");
            listed.extend(serde_json::from_value::<Vec<_>>(line["leases"].take()).expect("texts"));
        }
        assert!(items[100].starts_with(&listed[100]) && listed[100].len() > 1000);
        items.remove(100);
        listed.remove(100);
        assert_eq!(listed, items);
    }

    #[test]
    fn a_text_is_clipped_by_what_it_takes_in_a_line() {
        for text in ["", "/invoke", "é"] {
            assert_eq!(clip_escaped(text, 20), text);
        }
        for character in [
            "x",
            "\"",
            "\u{7f}",
            "\u{85}",
            "\u{2028}",
            "é",
            "🦀",
            "\u{e0001}",
        ] {
            let text = character.repeat(1000);
            let clipped = clip_escaped(&text, 20);
            assert!(!clipped.is_empty() && text.starts_with(clipped));
            assert!(json_bytes(clipped) <= 22, "{clipped:?}");
        }
    }

    #[test]
    fn a_whole_line_does_not_continue_a_line_of_an_algorithm() {
        let fields = json!({ "id": "0" });
        let line = whole_line(Level::Error, "batch_not_stored", &fields, None);
        assert!(line.starts_with("\n{") && line.ends_with("}\n"), "{line}");
        assert_eq!(line.lines().count(), 2);
    }

    #[test]
    fn members_of_the_given_room_fit_beside_the_fields() {
        let fields = json!({ "reason": "r" });
        let room = room_beside(Level::Error, "batch_not_stored", &fields);
        let mut both = json!({ "reason": "r", "more": "" });
        let empty = json!({ "more": "" }).to_string().len();
        both["more"] = Value::from("x".repeat(room - empty));
        let line = whole_line(Level::Error, "batch_not_stored", &both, None);
        assert!((MAX_LINE_BYTES - 2..=MAX_LINE_BYTES).contains(&line.len()));
    }
}
