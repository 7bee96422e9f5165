//! A container runtime's lines around those of the app: Docker's json-file, and the CRI
//! format of Kubernetes.

use std::{borrow::Cow, mem};

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
    /// Adds a line of the file, which begins at `start`. Returns the app's lines that are
    /// complete now, each with where it begins; `None` as its text if it is too long.
    /// `is_signed` tells whether a line of the file has a signed batch in it.
    pub(super) fn push(
        &mut self,
        start: u64,
        line: Vec<u8>,
        is_signed: impl Fn(&[u8]) -> bool,
    ) -> Vec<(u64, Option<Vec<u8>>)> {
        let Text {
            text,
            stream,
            is_part,
        } = unwrap(&line);
        let begun = match stream {
            // A file has one format. Whatever looked like the beginning of a line was an
            // algorithm's text, and may have a batch in it.
            None => mem::take(&mut self.begun).to_vec(),
            // It may look like a part because of an algorithm's text before the batch.
            Some(stream) if is_signed(&line) => vec![self.begun[stream].take()],
            Some(stream) => {
                let (start, mut whole) = self.begun[stream].take().unwrap_or((start, Vec::new()));
                // One byte more than the limit shows that the line is too long.
                let room = (MAX_LINE_BYTES + 1).saturating_sub(whole.len());
                whole.extend_from_slice(&text[..text.len().min(room)]);
                if is_part {
                    self.begun[stream] = Some((start, whole));
                    return Vec::new();
                }
                return vec![(start, fitting(whole))];
            }
        };
        let begun = begun.into_iter().flatten();
        let mut lines: Vec<_> = begun.map(|(start, text)| (start, fitting(text))).collect();
        lines.sort_unstable();
        lines.push((start, Some(line)));
        lines
    }

    /// Where the first incomplete line begins.
    pub(super) fn start(&self) -> Option<u64> {
        let begun = self.begun.iter().flatten();
        begun.map(|(start, _)| *start).min()
    }
}

fn fitting(text: Vec<u8>) -> Option<Vec<u8>> {
    (text.len() <= MAX_LINE_BYTES).then_some(text)
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
            let is_signed = |line: &[u8]| line.ends_with(b"signed");
            let pushed = joined.push(start, line.as_bytes().to_vec(), is_signed);
            whole.extend(pushed.into_iter().map(|(start, text)| {
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
        let other = "2026-11-29T05:00:00Z stdout P x";
        let lines = [forged, other, "plain", "2026-11-29T05:00:00Z stderr F }"];
        assert_eq!(joined(&lines), ["0: {", "32: x", "64: plain", "70: }"]);
    }

    #[test]
    fn a_signed_line_is_no_part() {
        let forged = "2026-11-29T05:00:00Z stderr P {";
        let signed = format!("{forged}signed");
        let lines = [forged, &signed, "2026-11-29T05:00:00Z stderr F }"];
        assert_eq!(
            joined(&lines),
            [
                "0: {".to_owned(),
                format!("32: {signed}"),
                "70: }".to_owned()
            ]
        );
    }
}
