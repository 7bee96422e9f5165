//! The lines of logs, and the batches in them.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead, BufReader, Read as _},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use anyhow::Context as _;
use functional_scaffold_protocol::{batch::LoggedPart, replay_key::ReplayKey};
use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::value::RawValue;
use thiserror::Error;
use tokio::sync::mpsc;

use crate::commands::spool::{Limits, Spool};

/// The event of lines with a batch.
const EVENT: &str = "batch_not_stored";
/// The beginning of every line of the service.
const START: &str = "{\"time\":\"";
/// The text after the time in a line with a batch.
const AFTER_TIME: &str = ",\"level\":\"error\",\"event\":\"batch_not_stored\",";
/// Longer lines are skipped. A batch is far shorter, but a shipper or an app's own output
/// may precede it.
pub(crate) const MAX_LINE_BYTES: usize = 256 << 10;
/// The number of places in a line that are tried as the start of the object.
const MAX_STARTS: usize = 16;
/// The longest object with a batch: the service's lines have at most 4,000 bytes.
const MAX_BATCH_BYTES: usize = 4096;
/// The longest object of a log shipper. Quoted as a JSON string, a batch takes at most six
/// bytes for each of its own (`\u003c`), and the rest is for the shipper's other members.
const MAX_WRAPPED_BYTES: usize = 64 << 10;
/// The members in which log shippers have the line: Docker, journald, and most others.
const SHIPPED: [&str; 3] = ["log", "MESSAGE", "message"];
/// Batches that wait for Redis. The instances of a busy application log some hundred
/// kilobytes per second in an outage, so the file is enough for the hour within which
/// batches can be replayed.
const LIMITS: Limits = Limits {
    memory: 4 << 20,
    file: 1 << 30,
};
/// Rejected lines whose cause waits to be reported. More are only counted, so that they
/// take up no memory.
const MAX_WAITING_CAUSES: usize = 1000;

/// The proof that a batch is the service's.
pub(crate) enum Trust {
    /// The code that this key makes, wherever the batch is in its line.
    Key(ReplayKey),
    /// That the line, or the text in a log shipper's object, begins like the service's.
    /// A host's own lines, which may contain a client's text, do not.
    Unauthenticated,
}

/// A batch, or a part of one, from a log line.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LoggedLine {
    /// The time of the line in RFC 3339, if it has one.
    pub(crate) time: Option<String>,
    #[serde(flatten)]
    pub(crate) part: LoggedPart,
}

/// Why a line about a batch is left out.
#[derive(Debug, Error)]
pub(crate) enum Rejection {
    /// It is no valid batch.
    #[error("unreadable: {0:#}")]
    Unreadable(anyhow::Error),
    /// It may not be the service's.
    #[error("refused: {0}")]
    Refused(String),
    /// It could not be read, or there is no room for it.
    #[error("not stored: {0}")]
    Failed(String),
}

impl Rejection {
    pub(crate) fn too_long() -> Self {
        Self::Unreadable(anyhow::anyhow!("the line is too long"))
    }
}

/// A batch, or a line that is left out, with file and number: `app.log:17`.
#[derive(Debug)]
pub(crate) enum Event {
    Batch(String, LoggedLine),
    Rejected(String, Rejection),
}

/// The number of lines that are left out, by their [`Rejection`].
#[derive(Debug, Default)]
pub(crate) struct Rejected {
    pub(crate) unreadable: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) failed: AtomicU64,
}

/// The batches in a log, which a thread reads.
pub(crate) struct Batches {
    spool: Arc<Spool<(String, LoggedLine)>>,
    rejections: mpsc::Receiver<(String, Rejection)>,
    rejected: Arc<Rejected>,
}

impl Batches {
    /// Opens the files (`-`, or none, is standard input), and reads them one after the
    /// other.
    ///
    /// A stream is read as it comes, because its writer must never wait for Redis. If
    /// everything is in files, what does not fit into memory stays there instead.
    pub(crate) fn read(files: &[PathBuf], trust: Trust) -> anyhow::Result<Self> {
        let stdin = [PathBuf::from("-")];
        let files = if files.is_empty() { &stdin } else { files };
        let mut sources = Vec::with_capacity(files.len());
        let mut can_wait = true;
        for path in files {
            let file = open(path).with_context(|| format!("cannot open {}", path.display()))?;
            can_wait &= file.metadata().is_ok_and(|metadata| metadata.is_file());
            sources.push((path.display().to_string(), BufReader::new(file)));
        }
        let spool = Arc::new(Spool::new(LIMITS));
        let rejected = Arc::new(Rejected::default());
        let (causes, rejections) = mpsc::channel(MAX_WAITING_CAUSES);
        let reader = Reader {
            trust,
            can_wait,
            spool: Arc::clone(&spool),
            causes,
            rejected: Arc::clone(&rejected),
        };
        // A thread, because reading a file or a terminal blocks. A read of standard input
        // ends with the process at the latest.
        thread::spawn(move || {
            for (name, source) in sources {
                reader.read(&name, source);
            }
            reader.spool.end();
        });
        Ok(Self {
            spool,
            rejections,
            rejected,
        })
    }

    /// Waits for the next batch or rejected line; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        let rejected = |(place, why)| Event::Rejected(place, why);
        tokio::select! {
            biased;
            Some(rejection) = self.rejections.recv() => Some(rejected(rejection)),
            line = self.spool.pop() => match line {
                Ok(Some((place, line))) => Some(Event::Batch(place, line)),
                // One may have come since this was asked for.
                Ok(None) => self.rejections.try_recv().ok().map(rejected),
                Err(error) => {
                    let failed = &self.rejected.failed;
                    failed.fetch_add(error.items, Ordering::Relaxed);
                    let why = Rejection::Failed(error.to_string());
                    Some(Event::Rejected("-".to_owned(), why))
                }
            },
        }
    }

    /// The number of batches, or parts, that were read and not returned.
    pub(crate) fn waiting(&self) -> u64 {
        self.spool.waiting()
    }

    /// The number of lines that were left out, whether or not they were returned.
    pub(crate) fn rejected(&self) -> &Rejected {
        &self.rejected
    }
}

fn open(path: &Path) -> io::Result<File> {
    match path == Path::new("-") {
        true => Ok(File::from(io::stdin().as_fd().try_clone_to_owned()?)),
        false => File::open(path),
    }
}

/// Reads logs, and waits for nobody who reads a stream's batches or messages.
struct Reader {
    trust: Trust,
    can_wait: bool,
    spool: Arc<Spool<(String, LoggedLine)>>,
    causes: mpsc::Sender<(String, Rejection)>,
    rejected: Arc<Rejected>,
}

impl Reader {
    fn read(&self, name: &str, mut source: impl BufRead) {
        for number in 1_u64.. {
            let place = || format!("{name}:{number}");
            let found = match next_line(&mut source) {
                Ok(None) => return,
                Ok(Some(Some(line))) => find_batch(&line, &self.trust),
                Ok(Some(None)) => Err(Rejection::too_long()),
                Err(error) => {
                    self.reject(place(), Rejection::Failed(format!("cannot read: {error}")));
                    return;
                }
            };
            let pushed = match found {
                Ok(None) => continue,
                Ok(Some(line)) => self.push((place(), line)),
                Err(rejection) => Err(rejection),
            };
            if let Err(rejection) = pushed {
                self.reject(place(), rejection);
            }
        }
    }

    fn push(&self, line: (String, LoggedLine)) -> Result<(), Rejection> {
        let pushed = match self.can_wait {
            true => self.spool.push_when_there_is_room(&line),
            false => self.spool.push(&line),
        };
        pushed.map_err(|error| Rejection::Failed(error.to_string()))
    }

    fn reject(&self, place: String, rejection: Rejection) {
        let count = match &rejection {
            Rejection::Unreadable(_) => &self.rejected.unreadable,
            Rejection::Refused(_) => &self.rejected.refused,
            Rejection::Failed(_) => &self.rejected.failed,
        };
        count.fetch_add(1, Ordering::Relaxed);
        // Beyond the bound it is only counted.
        let _ = self.causes.try_send((place, rejection));
    }
}

/// A line as it is in a file.
pub(crate) struct RawLine {
    /// The text without line break; `None` if it is too long.
    pub(crate) text: Option<Vec<u8>>,
    /// The length with line break.
    pub(crate) bytes: u64,
    /// True if the line ends with a line break.
    pub(crate) is_ended: bool,
}

/// Reads a line; `Some(None)` is one that is too long, and is skipped.
fn next_line(source: &mut impl BufRead) -> io::Result<Option<Option<Vec<u8>>>> {
    Ok(read_line(source)?.map(|line| line.text))
}

/// Reads a line, or what there is of one at the end.
pub(crate) fn read_line(source: &mut impl BufRead) -> io::Result<Option<RawLine>> {
    let mut text = Vec::new();
    let (mut bytes, mut too_long) = (0, false);
    loop {
        let read = source
            .by_ref()
            .take(MAX_LINE_BYTES as u64)
            .read_until(b'\n', &mut text)?;
        bytes += read as u64;
        let is_ended = text.last() == Some(&b'\n');
        if bytes == 0 {
            return Ok(None);
        }
        if is_ended || read < MAX_LINE_BYTES {
            if is_ended {
                text.pop();
            }
            let text = (!too_long).then_some(text);
            return Ok(Some(RawLine {
                text,
                bytes,
                is_ended,
            }));
        }
        too_long = true;
        text.clear();
    }
}

/// Finds the batch, or the part of one, in a line. None if the line is about something
/// else.
///
/// The object may come as a string in a log shipper's own object (Docker's `log`,
/// journald's `MESSAGE`). With a key, it may also follow a shipper's prefix, or be in any
/// member.
pub(crate) fn find_batch(line: &[u8], trust: &Trust) -> Result<Option<LoggedLine>, Rejection> {
    look(line, trust, false)
}

fn look(text: &[u8], trust: &Trust, is_wrapped: bool) -> Result<Option<LoggedLine>, Rejection> {
    let unreadable = Rejection::Unreadable;
    if places(text, EVENT).next().is_none() {
        return Ok(None);
    }
    if let Trust::Key(key) = trust {
        // From the end, because the text before a line may be anybody's.
        for start in places(text, START).rev().take(MAX_STARTS) {
            let object = first_object(&text[start..]).unwrap_or_default();
            if key.verify(object).is_ok() {
                return decode(object).map(Some);
            }
        }
    }
    let mut first_error = None;
    for start in places(text, "{").take(MAX_STARTS) {
        let text = &text[start..];
        let object: Object<'_> = match parse(text, MAX_WRAPPED_BYTES) {
            Ok(object) => object,
            Err(error) => {
                first_error = first_error.or(Some(error));
                continue;
            }
        };
        let event = object.get("event").filter(|event| event.get() != "null");
        return match event {
            Some(event) if string(event).as_deref() != Some(EVENT) => Ok(None),
            Some(_ours) => match trust {
                Trust::Key(key) => {
                    let object = first_object(text).unwrap_or_default();
                    let verified = key.verify(object);
                    verified.map_err(|error| Rejection::Refused(error.to_string()))?;
                    decode(object).map(Some)
                }
                Trust::Unauthenticated if start == 0 && begins_like_the_services(text) => {
                    decode(text).map(Some)
                }
                Trust::Unauthenticated => Err(Rejection::Refused(
                    "it does not begin like a line of the service, so it may be a client's text"
                        .to_owned(),
                )),
            },
            None if is_wrapped => Err(unreadable(anyhow::anyhow!(
                "the JSON object is wrapped more than once"
            ))),
            // The object is a log shipper's, and one of its strings is the line.
            None => match wrapped_line(&object, trust) {
                Some(line) => look(line.as_bytes(), trust, true),
                None => Err(unreadable(anyhow::anyhow!(
                    "the JSON object is not a log line of the service"
                ))),
            },
        };
    }
    Err(unreadable(match first_error {
        Some(error) => error.into(),
        None => anyhow::anyhow!("there is no JSON object"),
    }))
}

/// The members of an object. Their values are not parsed, because anybody may have written
/// them.
type Object<'a> = BTreeMap<String, &'a RawValue>;

/// The string that may be a line with a batch. Without a key, it is in none of the other
/// members: clients may choose those, as in an access log.
fn wrapped_line(object: &Object<'_>, trust: &Trust) -> Option<String> {
    let is_any = matches!(trust, Trust::Key(_));
    object
        .iter()
        .filter(|(name, _)| is_any || SHIPPED.contains(&name.as_str()))
        .filter(|(_, value)| value.get().contains(EVENT))
        .find_map(|(_, value)| string(value))
}

fn string(value: &RawValue) -> Option<String> {
    serde_json::from_str(value.get()).ok()
}

/// The places at which a text occurs.
fn places<'a>(
    text: &'a [u8],
    part: &'static str,
) -> impl DoubleEndedIterator<Item = usize> + use<'a> {
    let windows = text.windows(part.len()).enumerate();
    windows.filter_map(move |(at, window)| (window == part.as_bytes()).then_some(at))
}

fn begins_like_the_services(text: &[u8]) -> bool {
    let time = text.strip_prefix(START.as_bytes()).unwrap_or_default();
    let mut after_time = time.splitn(2, |&byte| byte == b'"').skip(1);
    after_time.any(|rest| rest.starts_with(AFTER_TIME.as_bytes()))
}

/// The JSON value at the start of a text, without what follows it, if it may be a batch.
fn first_object(text: &[u8]) -> Option<&[u8]> {
    let text = &text[..text.len().min(MAX_BATCH_BYTES)];
    let mut values = serde_json::Deserializer::from_slice(text).into_iter::<IgnoredAny>();
    values.next()?.ok()?;
    Some(&text[..values.byte_offset()])
}

/// Parses the value at the start of a text, of this many bytes at most, and ignores what
/// follows it.
fn parse<'a, T: Deserialize<'a>>(text: &'a [u8], most: usize) -> Result<T, serde_json::Error> {
    let text = &text[..text.len().min(most)];
    T::deserialize(&mut serde_json::Deserializer::from_slice(text))
}

fn decode(object: &[u8]) -> Result<LoggedLine, Rejection> {
    let line = parse(object, MAX_BATCH_BYTES).context("the batch is invalid");
    line.map_err(Rejection::Unreadable)
}

#[cfg(test)]
mod tests {
    use functional_scaffold_protocol::batch::{LoggedBatch, Part, SentBatch};

    use super::*;

    const BATCH: &str = r#"{"time":"2026-07-25T10:00:00.000Z","level":"error","event":"batch_not_stored","reason":"r","id":"00000000000000ab-7","increments":{"m:a":{"x=\"{\"":2}}}"#;

    fn key(start: &str) -> ReplayKey {
        ReplayKey::new(&format!("{start:x<32}")).expect("it is long enough")
    }

    fn signed(object: &str) -> String {
        let mut object = object.to_owned();
        key("a").sign(&mut object);
        object
    }

    fn found_part(line: &str) -> Option<LoggedPart> {
        let found = find_batch(line.as_bytes(), &Trust::Key(key("a"))).expect("it can be read")?;
        assert_eq!(found.time.as_deref(), Some("2026-07-25T10:00:00.000Z"));
        Some(found.part)
    }

    fn found(line: &str) -> Option<SentBatch> {
        Some(found_part(line)?.logged.batch)
    }

    /// Why a line is left out.
    fn rejection(line: &str, trust: &Trust) -> String {
        match find_batch(line.as_bytes(), trust) {
            Ok(found) => format!("found {found:?}"),
            Err(rejection) => rejection.to_string(),
        }
    }

    #[test]
    fn a_batch_is_found_after_a_prefix_and_inside_a_shippers_object() {
        let batch = signed(BATCH);
        let plain = found(&batch).expect("a batch");
        assert_eq!(plain.id.sequence, 7);
        let quoted = serde_json::to_string(&batch).expect("a text");
        for line in [
            format!("app-1 | 2026 stderr F {batch}"),
            format!("{{pod=\"x\"}} {batch}"),
            format!("{batch} trailing"),
            // An algorithm wrote this and no line break.
            format!("{{\"event\":\"x\"}}{batch}"),
            format!("{START}\",{BATCH}{batch}"),
            format!("{{\"log\":{quoted},\"stream\":\"stderr\",\"time\":\"t\"}}"),
            format!("x {{\"MESSAGE\":{quoted}}}"),
        ] {
            assert_eq!(found(&line).as_ref(), Some(&plain), "{line}");
        }
    }

    #[test]
    fn group_and_part_of_a_batch_are_read() {
        let batch = found(&signed(BATCH)).expect("a batch");
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
                shard: None,
            };
            assert_eq!(
                found_part(&signed(&line)),
                Some(LoggedPart { logged, part })
            );
        }
    }

    #[test]
    fn other_lines_are_ignored_and_broken_batches_are_errors() {
        for trust in [Trust::Key(key("a")), Trust::Unauthenticated] {
            for line in [
                "",
                "GET / 200",
                "{",
                r#"{"event":"flushed"}"#,
                r#"{"event":"note","text":"batch_not_stored"}"#,
            ] {
                let found = find_batch(line.as_bytes(), &trust).expect("no error");
                assert_eq!(found, None, "{line}");
            }
            for line in [
                &BATCH[..BATCH.len() - 2],
                &BATCH[2..],
                "batch_not_stored",
                &signed(&BATCH.replace("ab-7", "xb-7")),
                &signed(&BATCH.replace("\":2", "\":-2")),
                &signed(&BATCH.replace("increments", "incr")),
                &signed(&BATCH.replace("\"reason\":\"r\"", "\"part\":{\"number\":1}")),
                r#"{"log":"batch_not_stored"}"#,
            ] {
                let why = rejection(line, &trust);
                assert!(why.starts_with("unreadable: "), "{line}: {why}");
            }
            let nested = r#"{"n":{"event":"batch_not_stored"}}"#;
            assert!(find_batch(nested.as_bytes(), &trust).is_err());
            assert!(find_batch(b"\xff{\xff batch_not_stored", &trust).is_err());
        }
    }

    #[test]
    fn with_a_key_only_what_it_signed_is_a_batch() {
        let trust = Trust::Key(key("a"));
        let mut foreign = BATCH.to_owned();
        key("b").sign(&mut foreign);
        let wrong = "refused: its message authentication code is wrong";
        let missing = "refused: it has no message authentication code";
        let object = signed(BATCH);
        let longer = format!("{},\"group\":\"/\"}}", &object[..object.len() - 1]);
        for (line, why) in [
            (BATCH, missing),
            (&foreign, wrong),
            (&signed(BATCH).replace("\":2", "\":3"), wrong),
            (&signed(BATCH).replace("-7\"", "-8\""), wrong),
            (&signed(BATCH).replace("T10", "T11"), wrong),
            (&longer, missing),
            (
                &format!("{{\"log\":{}}}", serde_json::json!(BATCH)),
                missing,
            ),
        ] {
            assert_eq!(rejection(line, &trust), why, "{line}");
        }
    }

    #[test]
    fn without_a_key_a_batch_begins_its_line() {
        let trust = Trust::Unauthenticated;
        let batch = find_batch(BATCH.as_bytes(), &trust).expect("it can be read");
        assert!(batch.is_some());
        let wrapped = format!("{{\"log\":{}}}", serde_json::json!(format!("{BATCH}\n")));
        let found = find_batch(wrapped.as_bytes(), &trust).expect("it can be read");
        assert_eq!(found, batch);
        // Lines of a host that shows what a client asked for, among others.
        let request = format!("INFO spin_trigger_http: request to /{BATCH}");
        for line in [
            format!("Component x failed a request on /{BATCH}: header x is not valid"),
            format!("{{\"log\":{}}}", serde_json::json!(request)),
            request,
            format!(" {BATCH}"),
            BATCH.replace("\"time\"", "\"at\""),
            BATCH.replace("\"level\":\"error\",", ""),
            BATCH.replace("{\"time\"", "{ \"time\""),
        ] {
            let why = rejection(&line, &trust);
            assert!(
                why.starts_with("refused: it does not begin"),
                "{line}: {why}"
            );
        }
    }

    /// An access log in the same file has other members, which clients choose.
    #[test]
    fn without_a_key_only_a_shippers_own_members_are_unwrapped() {
        let text = serde_json::json!(BATCH);
        for member in ["log", "message", "MESSAGE"] {
            let line = format!("{{\"user_agent\":\"batch_not_stored\",\"{member}\":{text}}}");
            let found = find_batch(line.as_bytes(), &Trust::Unauthenticated);
            assert!(found.expect("it can be read").is_some(), "{line}");
        }
        for member in ["user_agent", "msg", "Log", "time"] {
            let line = format!("{{\"{member}\":{text},\"n\":1}}");
            let why = rejection(&line, &Trust::Unauthenticated);
            assert!(why.contains("not a log line of the service"), "{why}");
            let object = serde_json::json!(signed(BATCH));
            assert!(found(&format!("{{\"{member}\":{object},\"n\":1}}")).is_some());
        }
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

    #[test]
    fn a_line_that_is_too_long_is_skipped() {
        let [short, long] = [200 << 10, 300 << 10].map(|bytes| "x".repeat(bytes));
        let mut source = io::Cursor::new(format!("{long}\n{short}\n{long}\nb"));
        for expected in [
            Some(None),
            Some(Some(short.len())),
            Some(None),
            Some(Some(1)),
            None,
        ] {
            let line = next_line(&mut source).expect("it reads");
            assert_eq!(line.map(|line| line.map(|line| line.len())), expected);
        }
    }
}
