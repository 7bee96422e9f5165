//! What passed between Redis and its clients: leases, batches, and Redis's replies. Each
//! lease that Redis took must be counted, as crashed if no stored batch contains its
//! result, and each batch must be applied once.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    mem,
    ops::RangeInclusive,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use functional_scaffold_protocol::{calls::Script, lease::Lease};
use redis_protocol::resp2::{decode::decode, types::OwnedFrame};

use crate::contents::{Again, Cells, Contents, counts_of, without_shard};

/// Everything that passed on all connections.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    leases: Mutex<Leases>,
    batches: Mutex<Batches>,
    /// Calls that Redis may still execute.
    unanswered: AtomicUsize,
    /// A server whose data is lost from now on.
    cut_off: Mutex<Option<usize>>,
}

impl Ledger {
    pub(crate) fn leases(&self) -> Leases {
        lock(&self.leases).clone()
    }

    /// Takes the batches out of it.
    pub(crate) fn take_batches(&self) -> Batches {
        mem::take(&mut lock(&self.batches))
    }

    pub(crate) fn unanswered(&self) -> usize {
        self.unanswered.load(Ordering::SeqCst)
    }

    /// Notes that a fault replaced the contents of Redis, so that it may apply batches
    /// again.
    pub(crate) fn forget(&self, before: &Contents, after: &Contents) {
        lock(&self.batches).forget(before, after);
    }

    /// Notes that what this server executes from now on is lost, or is no longer: it is a
    /// master that has been replaced, and does not know it yet.
    pub(crate) fn cut_off(&self, server: Option<usize>) {
        *lock(&self.cut_off) = server;
    }

    /// Notes that a fault removed these closed leases.
    pub(crate) fn reopen<'a>(&self, leases: impl Iterator<Item = &'a String>) {
        lock(&self.batches).reopened.extend(leases.cloned());
    }
}

/// The batches that Redis applied.
#[derive(Debug, Default)]
pub(crate) struct Batches {
    /// By writer and sequence number.
    applied: HashSet<(String, u64)>,
    /// By writer, the sequence numbers that a fault removed from Redis after they had
    /// been applied.
    forgotten: HashMap<String, RangeInclusive<u64>>,
    /// Batches that only a server that was cut off has applied.
    astray: HashSet<(String, u64)>,
    /// The closed leases that a fault removed.
    reopened: BTreeSet<String>,
    /// Counts that Redis applied a second time because of that.
    pub(crate) again: Again,
    /// The number of batches with such counts.
    pub(crate) applied_again: i64,
    /// The number of results that Redis took although it had counted their executions as
    /// crashed, because a fault had removed that.
    pub(crate) revived: i64,
    /// Batches that Redis applied twice without such a reason.
    pub(crate) twice: Vec<String>,
}

impl Batches {
    fn forget(&mut self, before: &Contents, after: &Contents) {
        for (writer, &last) in &before.applied {
            let kept = after.applied.get(writer).copied().unwrap_or(0);
            if kept < last {
                self.forgotten.insert(writer.clone(), kept + 1..=last);
            }
        }
        let gone = before.closed.difference(&after.closed).cloned();
        self.reopened.extend(gone);
    }

    fn open(&mut self, lease: Lease) {
        if self.reopened.contains(&lease.id) {
            self.again
                .arrived
                .insert(lease.id.clone(), counts_of(lease));
        }
    }

    fn apply(&mut self, call: &BatchCall, is_cut_off: bool) {
        let (writer, sequence) = &call.id;
        if is_cut_off {
            match self.applied.insert(call.id.clone()) {
                true => drop(self.astray.insert(call.id.clone())),
                // A server that lives has applied it, too.
                false => self.add_again(call),
            }
            return;
        }
        if self.astray.remove(&call.id) {
            self.add_again(call);
            return;
        }
        let forgotten = self.forgotten.get_mut(writer);
        if let Some(range) = forgotten.filter(|range| range.contains(sequence)) {
            *range = sequence + 1..=*range.end();
            self.add_again(call);
            return;
        }
        let revived = call.leases.iter().filter(|id| self.reopened.contains(*id));
        self.revived += revived.count() as i64;
        if !self.applied.insert(call.id.clone()) {
            self.twice.push(format!("{writer}-{sequence}"));
        }
    }

    fn add_again(&mut self, call: &BatchCall) {
        self.applied_again += 1;
        for (cell, by) in &call.increments {
            *self.again.cells.entry(cell.clone()).or_default() += by;
        }
        for id in &call.leases {
            *self.again.leases.entry(id.clone()).or_default() += 1;
        }
    }
}

/// The leases that have passed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Leases {
    /// The number that Redis acknowledged.
    pub(crate) acknowledged: i64,
    /// By id, except those that were both acknowledged and contained in a stored batch.
    pub(crate) passed: BTreeMap<String, Passed>,
}

/// The calls and replies about a lease.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Passed {
    /// Redis acknowledged it.
    pub(crate) is_acknowledged: bool,
    /// It was sent on a connection that ended before the reply: Redis may have it.
    pub(crate) is_sent: bool,
    /// A batch that Redis stored contains its result.
    pub(crate) is_stored: bool,
    /// A batch contains its result, but the connection ended before the reply.
    pub(crate) may_be_stored: bool,
}

impl Leases {
    fn pass(&mut self, id: &str, change: impl FnOnce(&mut Passed)) {
        let passed = self.passed.entry(id.to_owned()).or_default();
        change(passed);
        if passed.is_acknowledged && passed.is_stored {
            self.passed.remove(id);
        }
    }

    /// The number that Redis may have taken without an acknowledgement.
    pub(crate) fn in_doubt(&self) -> i64 {
        let passed = self.passed.values();
        let in_doubt =
            passed.filter(|passed| passed.is_sent && !passed.is_acknowledged && !passed.is_stored);
        in_doubt.count() as i64
    }

    fn acknowledge(&mut self, id: &str) {
        self.acknowledged += 1;
        self.pass(id, |passed| passed.is_acknowledged = true);
    }
}

/// The subject of a call.
#[derive(Debug)]
enum CallOf {
    Lease(Lease),
    Batch(BatchCall),
    Settle,
    Other,
}

/// A call that applies a batch.
#[derive(Debug)]
struct BatchCall {
    /// Writer and sequence number.
    id: (String, u64),
    /// The ids of its leases.
    leases: Vec<String>,
    increments: Cells,
}

/// One connection, on which replies come in the order of their calls.
#[derive(Debug)]
pub(crate) struct Conversation {
    ledger: Arc<Ledger>,
    /// The number of the server.
    server: usize,
    calls: Vec<u8>,
    replies: Vec<u8>,
    unanswered: VecDeque<CallOf>,
}

impl Conversation {
    pub(crate) fn new(ledger: Arc<Ledger>, server: usize) -> Self {
        Self {
            ledger,
            server,
            calls: Vec::new(),
            replies: Vec::new(),
            unanswered: VecDeque::new(),
        }
    }

    /// Reads calls that Redis will receive. Returns whether one of them settles leases.
    pub(crate) fn read_calls(&mut self, bytes: &[u8]) -> bool {
        self.calls.extend(bytes);
        let calls: Vec<_> = frames(&mut self.calls)
            .into_iter()
            .map(parse_call)
            .collect();
        let settles = calls.iter().any(|call| matches!(call, CallOf::Settle));
        self.ledger
            .unanswered
            .fetch_add(calls.len(), Ordering::SeqCst);
        self.unanswered.extend(calls);
        settles
    }

    pub(crate) fn read_replies(&mut self, bytes: &[u8]) {
        self.replies.extend(bytes);
        for reply in frames(&mut self.replies) {
            let Some(call) = self.unanswered.pop_front() else {
                continue;
            };
            // An error has changed nothing.
            match call {
                CallOf::Lease(lease) if matches!(reply, OwnedFrame::Integer(_)) => {
                    lock(&self.ledger.leases).acknowledge(&lease.id);
                    lock(&self.ledger.batches).open(lease);
                }
                CallOf::Batch(call) => {
                    let first = texts(reply).into_iter().next();
                    if first.as_deref() == Some("applied") {
                        let is_cut_off = *lock(&self.ledger.cut_off) == Some(self.server);
                        lock(&self.ledger.batches).apply(&call, is_cut_off);
                    }
                    if matches!(first.as_deref(), Some("applied" | "duplicate")) {
                        let mut leases = lock(&self.ledger.leases);
                        for id in &call.leases {
                            leases.pass(id, |passed| passed.is_stored = true);
                        }
                    }
                }
                _ => {}
            }
            self.ledger.unanswered.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        let mut leases = lock(&self.ledger.leases);
        for call in self.unanswered.drain(..) {
            match call {
                CallOf::Lease(lease) => leases.pass(&lease.id, |passed| passed.is_sent = true),
                CallOf::Batch(call) => {
                    for id in &call.leases {
                        leases.pass(id, |passed| passed.may_be_stored = true);
                    }
                }
                CallOf::Settle | CallOf::Other => {}
            }
            self.ledger.unanswered.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

fn parse_call(call: OwnedFrame) -> CallOf {
    let words = texts(call);
    let [command, second, third, rest @ ..] = words.as_slice() else {
        return CallOf::Other;
    };
    let is = |script: Script| match command.as_str() {
        "EVALSHA" => *second == script.sha,
        "EVAL" => *second == script.source,
        _ => false,
    };
    // Key, score, member.
    if command == "ZADD" {
        let lease = rest.first().map(|member| Lease::decode(member));
        return match lease {
            Some(Ok(lease)) => CallOf::Lease(lease),
            _ => CallOf::Other,
        };
    }
    if is(Script::SETTLE) {
        return CallOf::Settle;
    }
    let keys: usize = third.parse().unwrap_or_default();
    match (rest.get(..keys), rest.get(keys..)) {
        (Some(keys), Some(arguments)) if is(Script::APPLY) || is(Script::APPLY_UNLIMITED) => {
            parse_batch(keys, arguments)
        }
        _ => CallOf::Other,
    }
}

/// Parses the keys and arguments that `apply.lua` documents.
fn parse_batch(keys: &[String], arguments: &[String]) -> CallOf {
    const FIRST_METRIC_KEY: usize = 5;
    let [
        writer,
        sequence,
        _frozen,
        _remembered,
        count,
        hashes,
        _max_series,
        rest @ ..,
    ] = arguments
    else {
        return CallOf::Other;
    };
    // The leases' members, their ids, when they expire, then the increments of each
    // metric key without a limit of series: the app has no others.
    let count = count.parse().unwrap_or(0);
    let leases = rest.iter().skip(count).take(count).cloned().collect();
    let mut rest = rest.iter().skip(3 * count);
    let mut increments = Cells::new();
    let hashes = hashes.parse().unwrap_or(0);
    for key in keys.iter().skip(FIRST_METRIC_KEY).take(hashes) {
        let fields = rest.next().and_then(|fields| fields.parse().ok());
        for _ in 0..fields.unwrap_or(0) {
            if let (Some(field), Some(by)) = (rest.next(), rest.next()) {
                let by: i64 = by.parse().unwrap_or(0);
                let cell = (without_shard(key), field.clone());
                *increments.entry(cell).or_default() += by;
            }
        }
    }
    CallOf::Batch(BatchCall {
        id: (writer.clone(), sequence.parse().unwrap_or(0)),
        leases,
        increments,
    })
}

/// Takes the whole frames at the beginning.
fn frames(bytes: &mut Vec<u8>) -> Vec<OwnedFrame> {
    let mut frames = Vec::new();
    let mut at = 0;
    while let Ok(Some((frame, length))) = decode(&bytes[at..]) {
        frames.push(frame);
        at += length;
    }
    bytes.drain(..at);
    frames
}

/// The texts of an array; none of any other frame.
fn texts(frame: OwnedFrame) -> Vec<String> {
    let OwnedFrame::Array(parts) = frame else {
        return Vec::new();
    };
    let text = |part| match part {
        OwnedFrame::BulkString(text) => String::from_utf8_lossy(&text).into_owned(),
        _ => String::new(),
    };
    parts.into_iter().map(text).collect()
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use functional_scaffold_protocol::{
        batch::{Batch, BatchId, LeasedExecution, SentBatch},
        calls::{apply_call, lease_command},
        custom::CustomWrites,
    };

    use super::*;

    /// A command that has taken a lease.
    const TAKEN: &[u8] = b":1\r\n";

    fn lease(id: &str) -> Lease {
        Lease {
            id: id.into(),
            millis: 6_000,
            count: Vec::new(),
        }
    }

    fn array<T: AsRef<[u8]>>(parts: &[T]) -> Vec<u8> {
        let mut bytes = format!("*{}\r\n", parts.len()).into_bytes();
        for part in parts {
            let part = part.as_ref();
            bytes.extend(format!("${}\r\n", part.len()).into_bytes());
            bytes.extend(part);
            bytes.extend(b"\r\n");
        }
        bytes
    }

    fn take(id: &str) -> Vec<u8> {
        let command = lease_command("metrics:", &lease(id).begin(1));
        array(&command.words().collect::<Vec<_>>())
    }

    fn batch(ids: &[&str]) -> Vec<u8> {
        batch_of(3, ids)
    }

    fn batch_of(sequence: u64, ids: &[&str]) -> Vec<u8> {
        let mut increments = Batch::default();
        increments.inc("metrics:a", "x", 7);
        let leased = ids.iter().map(|id| LeasedExecution {
            lease: lease(id),
            due_ms: 6_001,
            increments: Batch::default(),
        });
        let batch = SentBatch {
            id: BatchId { nonce: 2, sequence },
            frozen_ms: Some(1),
            increments,
            leased: leased.collect(),
            custom: CustomWrites::default(),
        };
        let call = apply_call("metrics:", &batch);
        let parts = ["EVAL", Script::APPLY.source].map(|word| word.as_bytes().to_vec());
        array(&parts.into_iter().chain(call.parts()).collect::<Vec<_>>())
    }

    /// The ids of the leases for which this is true.
    fn ids(ledger: &Ledger, is: impl Fn(&Passed) -> bool) -> Vec<String> {
        let leases = lock(&ledger.leases);
        let ids = leases.passed.iter().filter(|(_, passed)| is(passed));
        ids.map(|(id, _)| id.clone()).collect()
    }

    fn open(ledger: &Ledger) -> Vec<String> {
        ids(ledger, |passed| passed.is_acknowledged && !passed.is_stored)
    }

    #[test]
    fn leases_are_open_from_their_acknowledgement_until_a_stored_batch() {
        let ledger = Arc::new(Ledger::default());
        let mut talk = Conversation::new(Arc::clone(&ledger), 0);
        talk.read_calls(&array(&["PING"]));
        talk.read_calls(&[take("a/1"), take("a/2"), take("a/3")].concat());
        talk.read_calls(&array(&["ZADD", "metrics:closed_leases", "1", "a/4"]));
        assert!(lock(&ledger.leases).passed.is_empty(), "nothing is replied");
        talk.read_replies(b"+PONG\r\n");
        talk.read_replies(TAKEN);
        talk.read_replies(b"-READONLY You can't write against a read only replica.\r\n");
        talk.read_replies(TAKEN);
        talk.read_replies(TAKEN);
        assert_eq!(lock(&ledger.leases).acknowledged, 2);
        assert_eq!(open(&ledger), ["a/1", "a/3"]);
        for reply in [
            b"-NOSCRIPT No matching script.\r\n".to_vec(),
            array(&["late", "a/1"]),
        ] {
            talk.read_calls(&batch(&["a/1"]));
            talk.read_replies(&reply);
            assert_eq!(open(&ledger), ["a/1", "a/3"], "nothing is stored");
        }
        for reply in ["applied", "duplicate"] {
            talk.read_calls(&batch(&["a/1"]));
            talk.read_replies(&array(&[reply, "1"]));
            assert_eq!(open(&ledger), ["a/3"]);
        }
    }

    #[test]
    fn bytes_may_come_in_any_pieces() {
        let ledger = Arc::new(Ledger::default());
        let mut talk = Conversation::new(Arc::clone(&ledger), 0);
        for byte in [take("a/1"), take("a/2"), batch(&["a/2"])].concat() {
            talk.read_calls(&[byte]);
        }
        for byte in [TAKEN, TAKEN, &array(&["applied", "1"])].concat() {
            talk.read_replies(&[byte]);
        }
        assert_eq!(open(&ledger), ["a/1"]);
    }

    #[test]
    fn calls_without_a_reply_are_in_doubt_until_they_are_repeated() {
        let ledger = Arc::new(Ledger::default());
        let mut talk = Conversation::new(Arc::clone(&ledger), 0);
        talk.read_calls(&[take("a/1"), take("a/2")].concat());
        talk.read_replies(TAKEN);
        talk.read_calls(&batch(&["a/1"]));
        drop(talk);
        assert_eq!(lock(&ledger.leases).acknowledged, 1);
        assert_eq!(open(&ledger), ["a/1"]);
        assert_eq!(ids(&ledger, |passed| passed.is_sent), ["a/2"]);
        assert_eq!(ids(&ledger, |passed| passed.may_be_stored), ["a/1"]);
        // The batch is sent again on another connection.
        let mut talk = Conversation::new(Arc::clone(&ledger), 0);
        talk.read_calls(&batch(&["a/1", "a/2"]));
        talk.read_replies(&array(&["applied", "1"]));
        assert!(ids(&ledger, |passed| !passed.is_stored).is_empty());
    }

    #[test]
    fn two_connections_may_be_read_in_another_order_than_redis_replied() {
        let ledger = Arc::new(Ledger::default());
        let talk = || Conversation::new(Arc::clone(&ledger), 0);
        let (mut first, mut second) = (talk(), talk());
        first.read_calls(&take("a/1"));
        second.read_calls(&batch(&["a/1"]));
        second.read_replies(&array(&["applied", "1"]));
        first.read_replies(TAKEN);
        assert_eq!(lock(&ledger.leases).acknowledged, 1);
        assert!(open(&ledger).is_empty());
    }

    #[test]
    fn what_a_server_that_is_cut_off_applies_is_no_second_time() {
        let ledger = Arc::new(Ledger::default());
        let apply = |server, sequence| {
            let mut talk = Conversation::new(Arc::clone(&ledger), server);
            talk.read_calls(&batch_of(sequence, &[]));
            talk.read_replies(&array(&["applied", "1"]));
        };
        ledger.cut_off(Some(1));
        // Before the server that replaces it, after it, and alone.
        apply(1, 1);
        apply(0, 1);
        apply(0, 2);
        apply(1, 2);
        apply(1, 3);
        ledger.cut_off(None);
        apply(0, 3);
        apply(1, 3);
        let batches = ledger.take_batches();
        assert_eq!(batches.applied_again, 3);
        assert_eq!(batches.again.cells[&("metrics:a".into(), "x".into())], 21);
        assert_eq!(batches.twice, ["0000000000002-3"]);
    }

    #[test]
    fn a_batch_is_applied_twice_only_after_its_id_was_removed() {
        let ledger = Arc::new(Ledger::default());
        let apply = |sequence| {
            let mut talk = Conversation::new(Arc::clone(&ledger), 0);
            talk.read_calls(&batch_of(sequence, &["a/1"]));
            assert_eq!(ledger.unanswered(), 1);
            talk.read_replies(&array(&["applied", "1"]));
            assert_eq!(ledger.unanswered(), 0);
        };
        apply(1);
        apply(2);
        let mut before = Contents::default();
        before.applied.insert(format!("{:013x}", 2), 2);
        before.closed.insert("a/1".into());
        let mut after = Contents::default();
        after.applied.insert(format!("{:013x}", 2), 1);
        ledger.forget(&before, &after);
        apply(2);
        apply(3);
        apply(1);
        apply(2);
        let batches = ledger.take_batches();
        assert_eq!(batches.applied_again, 1);
        assert_eq!(batches.again.cells[&("metrics:a".into(), "x".into())], 7);
        assert_eq!(batches.twice.len(), 2, "{:?}", batches.twice);
        assert_eq!(batches.revived, 3);
    }
}
