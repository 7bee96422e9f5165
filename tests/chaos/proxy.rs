//! The path from the application to Redis. It can be cut, closed, muted and delayed. It
//! also notes the leases and batches that pass: each lease that Redis took must be
//! counted, as crashed if no stored batch contains its result.

use std::{
    collections::{BTreeMap, VecDeque},
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use functional_scaffold_protocol::{calls::Script, lease::Lease};
use redis_protocol::resp2::{decode::decode, types::OwnedFrame};

const BUFFER_BYTES: usize = 64 * 1024;

#[derive(Debug)]
pub(crate) struct Proxy {
    port: u16,
    path: Arc<Path>,
}

/// The state that the threads of all connections share.
#[derive(Debug, Default)]
struct Path {
    redis_port: u16,
    switch: Mutex<Switch>,
    switched: Condvar,
    leases: Mutex<Leases>,
    dropped_bytes: AtomicU64,
    is_closed: AtomicBool,
}

#[derive(Debug, Default)]
struct Switch {
    /// No connection is accepted.
    is_shut: bool,
    /// Redis's replies are dropped.
    is_mute: bool,
    /// The generation of the connections that are accepted now.
    generation: u64,
    /// Calls on connections of generations before this one wait.
    held_before: u64,
    /// Connections of generations before this one are cut.
    cut_before: u64,
    /// The application's ends of the open connections, by number.
    open: BTreeMap<u64, TcpStream>,
    connections: u64,
}

impl Proxy {
    /// Starts one in front of the Redis on a port.
    pub(crate) fn start(redis_port: u16) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let path = Arc::new(Path {
            redis_port,
            ..Path::default()
        });
        let accepting = Arc::clone(&path);
        thread::spawn(move || {
            for application in listener.incoming().flatten() {
                if accepting.is_closed.load(Ordering::Relaxed) {
                    return;
                }
                accepting.accept(application);
            }
        });
        Ok(Self { port, path })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn dropped_bytes(&self) -> u64 {
        self.path.dropped_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn leases(&self) -> Leases {
        lock(&self.path.leases).clone()
    }

    /// Cuts every connection, and accepts new ones.
    pub(crate) fn cut(&self) {
        self.switch(|switch| {
            (switch.is_shut, switch.is_mute) = (false, false);
            switch.generation += 1;
            switch.cut_before = switch.generation;
            for stream in switch.open.values() {
                // It may have ended.
                let _ = stream.shutdown(Shutdown::Both);
            }
        });
    }

    /// Accepts no new connection until [`Self::cut`].
    pub(crate) fn refuse(&self) {
        self.switch(|switch| switch.is_shut = true);
    }

    /// Drops Redis's replies, on all connections, until [`Self::cut`].
    pub(crate) fn mute(&self) {
        self.switch(|switch| switch.is_mute = true);
    }

    /// Holds the calls on the existing connections until [`Self::release`], even after
    /// the application has closed them.
    pub(crate) fn hold(&self) {
        self.switch(|switch| {
            switch.generation += 1;
            switch.held_before = switch.generation;
        });
    }

    pub(crate) fn release(&self) {
        self.switch(|switch| switch.held_before = 0);
    }

    fn switch(&self, change: impl FnOnce(&mut Switch)) {
        change(&mut lock(&self.path.switch));
        self.path.switched.notify_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.path.is_closed.store(true, Ordering::Relaxed);
        self.release();
        self.cut();
        // Wakes the thread that accepts.
        let _gone = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

impl Path {
    /// Passes the bytes of a connection in two threads.
    fn accept(self: &Arc<Self>, application: TcpStream) {
        let mut switch = lock(&self.switch);
        if switch.is_shut {
            return;
        }
        let Ok(redis) = TcpStream::connect((Ipv4Addr::LOCALHOST, self.redis_port)) else {
            return;
        };
        // Without this option everything still works, more slowly.
        let _ = (application.set_nodelay(true), redis.set_nodelay(true));
        let clones = (
            application.try_clone(),
            application.try_clone(),
            redis.try_clone(),
        );
        let (Ok(registered), Ok(to_application), Ok(from_redis)) = clones else {
            return;
        };
        switch.connections += 1;
        let (number, generation) = (switch.connections, switch.generation);
        switch.open.insert(number, registered);
        drop(switch);
        let conversation = Arc::new(Mutex::new(Conversation::new(Arc::clone(self))));
        let replies = (Arc::clone(self), Arc::clone(&conversation));
        let calls = Arc::clone(self);
        thread::spawn(move || calls.pass_calls(generation, application, redis, &conversation));
        thread::spawn(move || {
            replies
                .0
                .pass_replies(from_redis, to_application, &replies.1);
            lock(&replies.0.switch).open.remove(&number);
        });
    }

    fn pass_calls(
        &self,
        generation: u64,
        mut application: TcpStream,
        mut redis: TcpStream,
        conversation: &Mutex<Conversation>,
    ) {
        let mut bytes = vec![0; BUFFER_BYTES];
        while let Ok(read @ 1..) = application.read(&mut bytes) {
            if !self.wait_while_held(generation) {
                break;
            }
            lock(conversation).read_calls(&bytes[..read]);
            if redis.write_all(&bytes[..read]).is_err() {
                break;
            }
        }
        // Redis executes the calls that it received, and its replies are read to the
        // end.
        let _ = redis.shutdown(Shutdown::Write);
    }

    fn pass_replies(
        &self,
        mut redis: TcpStream,
        mut application: TcpStream,
        conversation: &Mutex<Conversation>,
    ) {
        let mut bytes = vec![0; BUFFER_BYTES];
        while let Ok(read @ 1..) = redis.read(&mut bytes) {
            lock(conversation).read_replies(&bytes[..read]);
            if lock(&self.switch).is_mute {
                self.dropped_bytes.fetch_add(read as u64, Ordering::Relaxed);
            } else {
                // The application may be gone; the calls were executed.
                let _ = application.write_all(&bytes[..read]);
            }
        }
        let _ = application.shutdown(Shutdown::Both);
    }

    /// Waits while the calls of a generation are held. Returns false if it was cut.
    fn wait_while_held(&self, generation: u64) -> bool {
        let switch = lock(&self.switch);
        let is_held = |switch: &mut Switch| {
            generation < switch.held_before && generation >= switch.cut_before
        };
        let waited = self.switched.wait_while(switch, is_held);
        generation >= waited.unwrap_or_else(PoisonError::into_inner).cut_before
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The leases that have passed on all connections.
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

/// The leases that a call is about.
#[derive(Debug)]
enum CallOf {
    Lease(String),
    Batch(Vec<String>),
    Other,
}

/// One connection, on which replies come in the order of their calls.
#[derive(Debug)]
struct Conversation {
    path: Arc<Path>,
    calls: Vec<u8>,
    replies: Vec<u8>,
    unanswered: VecDeque<CallOf>,
}

impl Conversation {
    fn new(path: Arc<Path>) -> Self {
        Self {
            path,
            calls: Vec::new(),
            replies: Vec::new(),
            unanswered: VecDeque::new(),
        }
    }

    fn read_calls(&mut self, bytes: &[u8]) {
        self.calls.extend(bytes);
        let frames = frames(&mut self.calls);
        self.unanswered.extend(frames.into_iter().map(parse_call));
    }

    fn read_replies(&mut self, bytes: &[u8]) {
        self.replies.extend(bytes);
        for reply in frames(&mut self.replies) {
            let mut leases = lock(&self.path.leases);
            // An error has changed nothing.
            match self.unanswered.pop_front() {
                Some(CallOf::Lease(id)) if matches!(reply, OwnedFrame::Integer(_)) => {
                    leases.acknowledge(&id);
                }
                Some(CallOf::Batch(ids)) => {
                    let first = texts(reply).into_iter().next();
                    if matches!(first.as_deref(), Some("applied" | "duplicate")) {
                        for id in ids {
                            leases.pass(&id, |passed| passed.is_stored = true);
                        }
                    }
                }
                _ => {}
            }
        }
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        let mut leases = lock(&self.path.leases);
        for call in self.unanswered.drain(..) {
            match call {
                CallOf::Lease(id) => leases.pass(&id, |passed| passed.is_sent = true),
                CallOf::Batch(ids) => {
                    for id in ids {
                        leases.pass(&id, |passed| passed.may_be_stored = true);
                    }
                }
                CallOf::Other => {}
            }
        }
    }
}

fn parse_call(call: OwnedFrame) -> CallOf {
    let words = texts(call);
    let [command, second, third, rest @ ..] = words.as_slice() else {
        return CallOf::Other;
    };
    let is_apply = match command.as_str() {
        // Key, score, member.
        "ZADD" => {
            let lease = rest.first().map(|member| Lease::decode(member));
            return match lease {
                Some(Ok(lease)) => CallOf::Lease(lease.id),
                _ => CallOf::Other,
            };
        }
        "EVALSHA" => *second == Script::APPLY.sha,
        "EVAL" => *second == Script::APPLY.source,
        _ => false,
    };
    // The keys, then writer, sequence number, seconds, the number of leases, their
    // members and their ids.
    let keys: usize = third.parse().unwrap_or_default();
    match rest.get(keys..) {
        Some([_, _, _, count, leases @ ..]) if is_apply => {
            let count = count.parse().unwrap_or(0);
            CallOf::Batch(leases.iter().skip(count).take(count).cloned().collect())
        }
        _ => CallOf::Other,
    }
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

#[cfg(test)]
mod tests {
    use functional_scaffold_protocol::{
        batch::{Batch, BatchId, LeasedExecution, SentBatch},
        calls::{apply_call, lease_command},
        lease::EncodedLease,
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
        let command = lease_command("metrics:", &EncodedLease::from(&lease(id)), 1);
        array(&command.words().collect::<Vec<_>>())
    }

    fn batch(ids: &[&str]) -> Vec<u8> {
        let leased = ids.iter().map(|id| LeasedExecution {
            lease: lease(id),
            increments: Batch::default(),
        });
        let batch = SentBatch {
            id: BatchId {
                started_at: 1,
                nonce: 2,
                sequence: 3,
            },
            increments: Batch::default(),
            leased: leased.collect(),
        };
        let call = apply_call("metrics:", &batch);
        let parts = ["EVAL", Script::APPLY.source].map(|word| word.as_bytes().to_vec());
        array(&parts.into_iter().chain(call.parts()).collect::<Vec<_>>())
    }

    /// The ids of the leases for which this is true.
    fn ids(path: &Path, is: impl Fn(&Passed) -> bool) -> Vec<String> {
        let leases = lock(&path.leases);
        let ids = leases.passed.iter().filter(|(_, passed)| is(passed));
        ids.map(|(id, _)| id.clone()).collect()
    }

    fn open(path: &Path) -> Vec<String> {
        ids(path, |passed| passed.is_acknowledged && !passed.is_stored)
    }

    #[test]
    fn leases_are_open_from_their_acknowledgement_until_a_stored_batch() {
        let path = Arc::new(Path::default());
        let mut talk = Conversation::new(Arc::clone(&path));
        talk.read_calls(&array(&["PING"]));
        talk.read_calls(&[take("a/1"), take("a/2"), take("a/3")].concat());
        talk.read_calls(&array(&["ZADD", "metrics:closed_leases", "1", "a/4"]));
        assert!(lock(&path.leases).passed.is_empty(), "nothing is replied");
        talk.read_replies(b"+PONG\r\n");
        talk.read_replies(TAKEN);
        talk.read_replies(b"-READONLY You can't write against a read only replica.\r\n");
        talk.read_replies(TAKEN);
        talk.read_replies(TAKEN);
        assert_eq!(lock(&path.leases).acknowledged, 2);
        assert_eq!(open(&path), ["a/1", "a/3"]);
        for reply in [
            b"-NOSCRIPT No matching script.\r\n".to_vec(),
            array(&["late", "a/1"]),
        ] {
            talk.read_calls(&batch(&["a/1"]));
            talk.read_replies(&reply);
            assert_eq!(open(&path), ["a/1", "a/3"], "nothing is stored");
        }
        for reply in ["applied", "duplicate"] {
            talk.read_calls(&batch(&["a/1"]));
            talk.read_replies(&array(&[reply, "1"]));
            assert_eq!(open(&path), ["a/3"]);
        }
    }

    #[test]
    fn bytes_may_come_in_any_pieces() {
        let path = Arc::new(Path::default());
        let mut talk = Conversation::new(Arc::clone(&path));
        for byte in [take("a/1"), take("a/2"), batch(&["a/2"])].concat() {
            talk.read_calls(&[byte]);
        }
        for byte in [TAKEN, TAKEN, &array(&["applied", "1"])].concat() {
            talk.read_replies(&[byte]);
        }
        assert_eq!(open(&path), ["a/1"]);
    }

    #[test]
    fn calls_without_a_reply_are_in_doubt_until_they_are_repeated() {
        let path = Arc::new(Path::default());
        let mut talk = Conversation::new(Arc::clone(&path));
        talk.read_calls(&[take("a/1"), take("a/2")].concat());
        talk.read_replies(TAKEN);
        talk.read_calls(&batch(&["a/1"]));
        drop(talk);
        assert_eq!(lock(&path.leases).acknowledged, 1);
        assert_eq!(open(&path), ["a/1"]);
        assert_eq!(ids(&path, |passed| passed.is_sent), ["a/2"]);
        assert_eq!(ids(&path, |passed| passed.may_be_stored), ["a/1"]);
        // The batch is sent again on another connection.
        let mut talk = Conversation::new(Arc::clone(&path));
        talk.read_calls(&batch(&["a/1", "a/2"]));
        talk.read_replies(&array(&["applied", "1"]));
        assert!(ids(&path, |passed| !passed.is_stored).is_empty());
    }

    #[test]
    fn two_connections_may_be_read_in_another_order_than_redis_replied() {
        let path = Arc::new(Path::default());
        let talk = || Conversation::new(Arc::clone(&path));
        let (mut first, mut second) = (talk(), talk());
        first.read_calls(&take("a/1"));
        second.read_calls(&batch(&["a/1"]));
        second.read_replies(&array(&["applied", "1"]));
        first.read_replies(TAKEN);
        assert_eq!(lock(&path.leases).acknowledged, 1);
        assert!(open(&path).is_empty());
    }
}
