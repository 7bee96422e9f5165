//! The lines of logs, and the batches in them.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read as _},
    path::{Path, PathBuf},
    thread,
};

use anyhow::Context as _;
use functional_scaffold_protocol::batch::LoggedPart;
use serde::Deserialize;
use tokio::sync::mpsc;

/// The event of lines with a batch.
const EVENT: &str = "batch_not_stored";
/// Longer lines are skipped. A line with a batch has at most 4,000 bytes, and what a log
/// shipper adds.
const MAX_LINE_BYTES: u64 = 16 << 20;
/// The number of `{` in a line that are tried as the start of the object.
const MAX_STARTS: usize = 16;
/// Lines that are read ahead.
const READ_AHEAD: usize = 16;

#[derive(Debug)]
pub(crate) struct LogLine {
    /// File and number: `app.log:17`.
    pub(crate) place: String,
    /// Without its line break. None if it is too long.
    pub(crate) text: Option<Vec<u8>>,
}

/// A batch, or a part of one, from a log line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LoggedLine {
    /// The time of the line in RFC 3339, if it has one.
    pub(crate) time: Option<String>,
    pub(crate) part: LoggedPart,
}

/// Opens the files (`-`, or none, is standard input), and reads their lines as they
/// come. A later read error is an item.
pub(crate) fn read_lines(
    files: &[PathBuf],
) -> anyhow::Result<mpsc::Receiver<anyhow::Result<LogLine>>> {
    let stdin = [PathBuf::from("-")];
    let files = if files.is_empty() { &stdin } else { files };
    let mut sources: Vec<(String, Box<dyn BufRead + Send>)> = Vec::with_capacity(files.len());
    for file in files {
        let source: Box<dyn BufRead + Send> = if file == Path::new("-") {
            Box::new(BufReader::new(io::stdin()))
        } else {
            let open = File::open(file);
            Box::new(BufReader::new(
                open.with_context(|| format!("cannot open {}", file.display()))?,
            ))
        };
        sources.push((file.display().to_string(), source));
    }
    let (lines, receiver) = mpsc::channel(READ_AHEAD);
    // A thread, because reading a file or a terminal blocks. A read of standard input
    // ends with the process at the latest.
    thread::spawn(move || {
        for (name, source) in sources {
            if send_lines(&name, source, &lines).is_none() {
                return;
            }
        }
    });
    Ok(receiver)
}

/// None if the receiver is gone.
fn send_lines(
    name: &str,
    mut source: impl BufRead,
    lines: &mpsc::Sender<anyhow::Result<LogLine>>,
) -> Option<()> {
    for number in 1_u64.. {
        let place = format!("{name}:{number}");
        let line = match next_line(&mut source) {
            Ok(None) => break,
            Ok(Some(text)) => Ok(LogLine { place, text }),
            Err(error) => Err(error).with_context(|| format!("cannot read {place}")),
        };
        let failed = line.is_err();
        lines.blocking_send(line).ok()?;
        if failed {
            break;
        }
    }
    Some(())
}

/// Reads a line; `Some(None)` is one that is too long, and is skipped.
fn next_line(source: &mut impl BufRead) -> io::Result<Option<Option<Vec<u8>>>> {
    let mut line = Vec::new();
    let mut too_long = false;
    loop {
        let read = source
            .by_ref()
            .take(MAX_LINE_BYTES)
            .read_until(b'\n', &mut line)?;
        let ended = line.last() == Some(&b'\n');
        if read == 0 && line.is_empty() && !too_long {
            return Ok(None);
        }
        if ended || read == 0 || (read as u64) < MAX_LINE_BYTES {
            if ended {
                line.pop();
            }
            return Ok(Some((!too_long).then_some(line)));
        }
        too_long = true;
        line.clear();
    }
}

/// Finds the batch, or the part of one, in a line. None if the line is about something
/// else; an error if the batch cannot be read.
///
/// The object may come after a prefix of a log shipper, or as a string in the
/// shipper's own object (Docker's `log`, journald's `MESSAGE`).
pub(crate) fn find_batch(line: &[u8]) -> anyhow::Result<Option<LoggedLine>> {
    let has_event = line
        .windows(EVENT.len())
        .any(|window| window == EVENT.as_bytes());
    if !has_event {
        return Ok(None);
    }
    let starts = (0..line.len()).filter(|&at| line[at] == b'{');
    let mut first_error = None;
    for start in starts.take(MAX_STARTS) {
        match parse_object(&line[start..]) {
            Ok(object) => return batch_of(object, &line[start..]),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    Err(match first_error {
        Some(error) => error.into(),
        None => anyhow::anyhow!("there is no JSON object"),
    })
}

/// The members that tell a line of the service from others.
#[derive(Deserialize)]
struct Object {
    event: Option<serde_json::Value>,
    time: Option<serde_json::Value>,
    #[serde(flatten)]
    others: serde_json::Map<String, serde_json::Value>,
}

/// Parses the object at the start of a text, and ignores what follows it.
fn parse_object<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, serde_json::Error> {
    T::deserialize(&mut serde_json::Deserializer::from_slice(text))
}

fn batch_of(object: Object, text: &[u8]) -> anyhow::Result<Option<LoggedLine>> {
    match object.event {
        Some(event) if event == EVENT => {
            let part = parse_object(text).context("the batch is invalid")?;
            let time = object
                .time
                .and_then(|time| time.as_str().map(str::to_owned));
            Ok(Some(LoggedLine { time, part }))
        }
        Some(_other) => Ok(None),
        None => {
            // The object is a log shipper's, and one of its strings is the line.
            let line = object
                .others
                .values()
                .filter_map(serde_json::Value::as_str)
                .find(|text| text.contains(EVENT))
                .context("the JSON object is not a log line of the service")?;
            let text = line.find('{').map_or("", |start| &line[start..]);
            let object: Object = parse_object(text.as_bytes())?;
            if object.event.is_none() {
                anyhow::bail!("the JSON object is wrapped more than once");
            }
            batch_of(object, text.as_bytes())
        }
    }
}

#[cfg(test)]
mod tests {
    use functional_scaffold_protocol::batch::{LoggedBatch, Part, SentBatch};

    use super::*;

    const BATCH: &str = r#"{"time":"2026-07-25T10:00:00.000Z","level":"error","event":"batch_not_stored","reason":"r","id":"1200-00000000000000ab-7","increments":{"m:a":{"x=\"{\"":2}}}"#;

    fn found_part(line: &str) -> Option<LoggedPart> {
        let found = find_batch(line.as_bytes()).expect("it can be read")?;
        assert_eq!(found.time.as_deref(), Some("2026-07-25T10:00:00.000Z"));
        Some(found.part)
    }

    fn found(line: &str) -> Option<SentBatch> {
        Some(found_part(line)?.logged.batch)
    }

    #[test]
    fn a_batch_is_found_after_a_prefix_and_inside_a_shippers_object() {
        let plain = found(BATCH).expect("a batch");
        assert_eq!(plain.id.sequence, 7);
        let quoted = serde_json::to_string(BATCH).expect("a text");
        for line in [
            format!("app-1 | 2026 stderr F {BATCH}"),
            format!("{{pod=\"x\"}} {BATCH}"),
            format!("{BATCH} trailing"),
            format!("{{\"log\":{quoted},\"stream\":\"stderr\",\"time\":\"t\"}}"),
            format!("x {{\"MESSAGE\":{quoted}}}"),
        ] {
            assert_eq!(found(&line).as_ref(), Some(&plain), "{line}");
        }
    }

    #[test]
    fn group_and_part_of_a_batch_are_read() {
        let batch = found(BATCH).expect("a batch");
        for (members, group, part) in [
            ("", None, None),
            (r#""group":"/metrics/job/j","#, Some("/metrics/job/j"), None),
            (
                r#""part":{"number":2,"of":3},"#,
                None,
                Some(Part { number: 2, of: 3 }),
            ),
        ] {
            let line = BATCH.replacen("\"reason\"", &format!("{members}\"reason\""), 1);
            let logged = LoggedBatch {
                batch: batch.clone(),
                group: group.map(str::to_owned),
            };
            assert_eq!(found_part(&line), Some(LoggedPart { logged, part }));
        }
    }

    #[test]
    fn other_lines_are_ignored_and_broken_batches_are_errors() {
        for line in [
            "",
            "GET / 200",
            "{",
            r#"{"event":"flushed"}"#,
            r#"{"event":"note","text":"batch_not_stored"}"#,
        ] {
            assert_eq!(
                find_batch(line.as_bytes()).expect("no error"),
                None,
                "{line}"
            );
        }
        for line in [
            &BATCH[..BATCH.len() - 2],
            &BATCH[2..],
            "batch_not_stored",
            &BATCH.replace("1200-", "x-"),
            &BATCH.replace("\":2", "\":-2"),
            &BATCH.replace("increments", "incr"),
            &BATCH.replace("\"reason\":\"r\"", "\"part\":{\"number\":1}"),
            r#"{"n":{"event":"batch_not_stored"}}"#,
            r#"{"log":"batch_not_stored"}"#,
        ] {
            assert!(find_batch(line.as_bytes()).is_err(), "{line}");
        }
        assert!(find_batch(b"\xff{\xff batch_not_stored").is_err());
    }

    #[test]
    fn lines_come_without_line_breaks_and_the_last_may_have_none() {
        let mut source = io::Cursor::new(b"a\n\nb".to_vec());
        for expected in [Some("a"), Some(""), Some("b"), None] {
            let line = next_line(&mut source)
                .expect("it reads")
                .map(|line| String::from_utf8(line.expect("it is short")).expect("UTF-8"));
            assert_eq!(line.as_deref(), expected);
        }
    }
}
