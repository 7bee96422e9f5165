//! A container runtime's lines around those of the app: Docker's json-file, and the CRI
//! format of Kubernetes.

use std::borrow::Cow;

use serde::Deserialize;

use crate::commands::log_lines::MAX_LINE_BYTES;

/// The text in a line of a log file.
#[derive(Debug, PartialEq, Eq)]
struct Text<'a> {
    text: Cow<'a, [u8]>,
    /// The index of its stream, standard output or error, if a container runtime wrote it.
    stream: Option<usize>,
    /// True if the next text of the stream continues the line.
    is_part: bool,
}

/// Joins what a container runtime split, in one file.
#[derive(Clone, Default)]
pub(super) struct Joined {
    /// The beginning of a line by its stream, and where it is in the file.
    begun: [Option<(u64, Vec<u8>)>; 2],
}

impl Joined {
    /// Adds a line of the file, which begins at `start`. Returns the app's line and its
    /// beginning, if the line is complete; `None` as its text if it is too long.
    pub(super) fn push(&mut self, start: u64, line: Vec<u8>) -> Option<(u64, Option<Vec<u8>>)> {
        let Text {
            text,
            stream,
            is_part,
        } = unwrap(&line);
        let Some(stream) = stream else {
            // A file has one format. Whatever looked like the beginning of a line was
            // somebody's text.
            *self = Self::default();
            return Some((start, Some(line)));
        };
        let (start, mut whole) = self.begun[stream].take().unwrap_or((start, Vec::new()));
        // One byte more than the limit shows that the line is too long.
        let room = (MAX_LINE_BYTES + 1).saturating_sub(whole.len());
        whole.extend_from_slice(&text[..text.len().min(room)]);
        if is_part {
            self.begun[stream] = Some((start, whole));
            return None;
        }
        let fits = whole.len() <= MAX_LINE_BYTES;
        Some((start, fits.then_some(whole)))
    }

    /// Where the first incomplete line begins.
    pub(super) fn start(&self) -> Option<u64> {
        let begun = self.begun.iter().flatten();
        begun.map(|(start, _)| *start).min()
    }
}

fn unwrap(line: &[u8]) -> Text<'_> {
    let wrapped = docker(line).or_else(|| cri(line));
    wrapped.unwrap_or(Text {
        text: line.into(),
        stream: None,
        is_part: false,
    })
}

/// `{"log":"text\n","stream":"stderr","time":"…"}`. A part has no line break.
fn docker(line: &[u8]) -> Option<Text<'_>> {
    #[derive(Deserialize)]
    struct Line<'a> {
        #[serde(borrow)]
        log: Cow<'a, str>,
        #[serde(borrow)]
        stream: Cow<'a, str>,
    }

    if !line.starts_with(b"{\"log\":\"") {
        return None;
    }
    let Line { log, stream } = serde_json::from_slice(line).ok()?;
    let stream = Some(stream_index(stream.as_bytes())?);
    let is_part = !log.ends_with('\n');
    let mut text = log.into_owned().into_bytes();
    if !is_part {
        text.pop();
    }
    Some(Text {
        text: text.into(),
        stream,
        is_part,
    })
}

/// `2026-11-29T05:00:00.123456789Z stderr F text`. A part has the tag `P` instead of `F`.
fn cri(line: &[u8]) -> Option<Text<'_>> {
    let mut words = line.splitn(4, |byte| *byte == b' ');
    let (time, stream, tags) = (words.next()?, words.next()?, words.next()?);
    let stream = Some(stream_index(stream)?);
    let is_time = time.len() >= 20 && time[4] == b'-' && time[10] == b'T';
    let is_part = match tags.split(|byte| *byte == b':').next() {
        Some(b"P") => true,
        Some(b"F") => false,
        _ => return None,
    };
    is_time.then(|| Text {
        text: words.next().unwrap_or_default().into(),
        stream,
        is_part,
    })
}

fn stream_index(name: &[u8]) -> Option<usize> {
    [&b"stdout"[..], b"stderr"]
        .iter()
        .position(|known| *known == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(lines: &[&str]) -> Vec<String> {
        let mut joined = Joined::default();
        let mut start = 0;
        let mut whole = Vec::new();
        for line in lines {
            let pushed = joined.push(start, line.as_bytes().to_vec());
            whole.extend(pushed.map(|(start, text)| {
                let text = text.map_or("too long".into(), |text| {
                    String::from_utf8(text).expect("UTF-8")
                });
                format!("{start}: {text}")
            }));
            start += line.len() as u64 + 1;
        }
        whole.extend(joined.start().map(|start| format!("waits at {start}")));
        whole
    }

    #[test]
    fn a_plain_line_is_what_it_is() {
        for line in [
            "",
            "{\"log\":1}",
            "{\"log\":\"a\",\"stream\":\"other\"}",
            "{\"log\":\"a",
            "2026-11-29T05:00:00Z stderr X text",
            "2026-11-29T05:00:00Z other F text",
            "a stderr F text",
            "a b",
        ] {
            assert_eq!(joined(&[line]), [format!("0: {line}")]);
        }
    }

    #[test]
    fn a_runtimes_parts_are_joined_by_stream() {
        let docker = |stream: &str, text: &str| {
            format!("{{\"log\":{text:?},\"stream\":{stream:?},\"time\":\"t\"}}")
        };
        let cri = |stream: &str, tags: &str, text: &str| {
            format!("2026-11-29T05:00:00.123456789+08:00 {stream} {tags} {text}")
        };
        let lines = [
            docker("stderr", "a "),
            docker("stdout", "x\n"),
            docker("stderr", "\"b\"\n"),
            docker("stdout", "y"),
        ];
        let lines = lines.each_ref().map(String::as_str);
        let starts = [
            0,
            lines[0].len() + 1,
            0,
            lines[0].len() + lines[1].len() + lines[2].len() + 3,
        ];
        let expected = [
            format!("{}: x", starts[1]),
            "0: a \"b\"".to_owned(),
            format!("waits at {}", starts[3]),
        ];
        assert_eq!(joined(&lines), expected);
        let lines = [
            cri("stderr", "P", "a "),
            cri("stdout", "F:x", "x y"),
            cri("stderr", "P:x", "b "),
            cri("stderr", "F", "c"),
        ];
        let lines = lines.each_ref().map(String::as_str);
        let expected = [
            format!("{}: x y", lines[0].len() + 1),
            "0: a b c".to_owned(),
        ];
        assert_eq!(joined(&lines), expected);
    }

    #[test]
    fn a_text_that_never_ends_is_cut_and_too_long() {
        let part = format!("2026-11-29T05:00:00Z stderr P {}", "x".repeat(200_000));
        let mut lines = vec![part.as_str(); 100];
        let end = "2026-11-29T05:00:00Z stderr F x";
        lines.extend([end, end]);
        let all = joined(&lines);
        assert_eq!(all[0], "0: too long");
        assert!(all[1].ends_with(": x"), "{}", all[1]);
    }

    #[test]
    fn what_looks_like_a_part_in_a_plain_file_waits_for_nothing() {
        let forged = "2026-11-29T05:00:00Z stderr P {";
        let lines = [forged, "plain", "2026-11-29T05:00:00Z stderr F }"];
        assert_eq!(joined(&lines), ["32: plain", "38: }"]);
    }
}
