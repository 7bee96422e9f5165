//! What passes on the way to Redis, read as its protocol: which leases Redis
//! took, and which of them a stored batch settled. What is left of them has to
//! be counted as crashed, to the unit, whatever died when. Judges nothing.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use functional_scaffold_protocol::{calls::Script, lease::Lease};
use redis_protocol::resp2::{decode::decode, types::OwnedFrame};

/// What all connections together have told of leases.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leases {
    /// How many Redis acknowledged.
    pub taken: i64,
    /// Those of them that no stored batch has settled.
    pub open: BTreeSet<String>,
    /// Asked for, and the connection ended before the answer: they may be open.
    pub maybe_taken: BTreeSet<String>,
    /// In a batch whose connection ended before the answer: it may be stored.
    pub maybe_settled: BTreeSet<String>,
    /// Settled before they were seen to be taken, if they ever are.
    pub early: BTreeSet<String>,
}

impl Leases {
    fn take(&mut self, lease: String) {
        self.taken += 1;
        if !self.early.remove(&lease) {
            self.open.insert(lease);
        }
    }

    fn settle(&mut self, lease: String) {
        self.maybe_taken.remove(&lease);
        self.maybe_settled.remove(&lease);
        if !self.open.remove(&lease) {
            self.early.insert(lease);
        }
    }

    fn leave_unanswered(&mut self, asked: Asked) {
        match asked {
            Asked::Lease(lease) => {
                if !self.early.contains(&lease) {
                    self.maybe_taken.insert(lease);
                }
            }
            Asked::Settle(leases) => self.maybe_settled.extend(leases),
            Asked::Other => {}
        }
    }
}

/// Listens to connections.
#[derive(Debug, Clone, Default)]
pub struct Tap {
    leases: Arc<Mutex<Leases>>,
}

impl Tap {
    /// What was heard so far.
    #[must_use]
    pub fn leases(&self) -> Leases {
        self.lock().clone()
    }

    /// A new connection.
    #[must_use]
    pub fn listen(&self) -> Conversation {
        Conversation {
            tap: self.clone(),
            calls: Vec::new(),
            replies: Vec::new(),
            asked: VecDeque::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Leases> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_call(&self, call: OwnedFrame) -> Asked {
        let words: Vec<String> = texts(call).collect();
        let [command, second, third, rest @ ..] = words.as_slice() else {
            return Asked::Other;
        };
        match command.as_str() {
            // Key, score, member.
            "ZADD" => match rest.first().map(|member| Lease::decode(member)) {
                Some(Ok(lease)) => Asked::Lease(lease.id),
                _ => Asked::Other,
            },
            "EVALSHA" if *second == Script::APPLY.sha => asked_to_settle(third, rest),
            "EVAL" if *second == Script::APPLY.source => asked_to_settle(third, rest),
            _ => Asked::Other,
        }
    }

    fn read_reply(&self, asked: Asked, reply: OwnedFrame) {
        // An error has done nothing.
        match asked {
            Asked::Lease(lease) if matches!(reply, OwnedFrame::Integer(_)) => {
                self.lock().take(lease);
            }
            Asked::Settle(asked) => {
                let stored = texts(reply).next();
                if stored.is_some_and(|first| ["applied", "duplicate"].contains(&first.as_str())) {
                    let mut leases = self.lock();
                    asked.into_iter().for_each(|id| leases.settle(id));
                }
            }
            Asked::Lease(_) | Asked::Other => {}
        }
    }
}

/// What a call of the script that applies a batch is to settle.
fn asked_to_settle(keys: &str, rest: &[String]) -> Asked {
    let keys: usize = keys.parse().unwrap_or_default();
    // Writer, sequence, seconds, how many; then their members, their ids.
    let [_, _, _, count, leases @ ..] = rest.get(keys..).unwrap_or_default() else {
        return Asked::Other;
    };
    let count = count.parse().unwrap_or(0);
    let ids = leases.iter().skip(count).take(count);
    Asked::Settle(ids.cloned().collect())
}

/// What a call is to do about which leases.
#[derive(Debug)]
enum Asked {
    Lease(String),
    Settle(Vec<String>),
    Other,
}

/// One connection, on which replies come in the order of their calls.
#[derive(Debug)]
pub struct Conversation {
    tap: Tap,
    calls: Vec<u8>,
    replies: Vec<u8>,
    asked: VecDeque<Asked>,
}

impl Conversation {
    /// Hears bytes on their way to Redis.
    pub fn hear_calls(&mut self, bytes: &[u8]) {
        self.calls.extend(bytes);
        for call in frames(&mut self.calls) {
            self.asked.push_back(self.tap.read_call(call));
        }
    }

    /// Hears bytes on their way from Redis.
    pub fn hear_replies(&mut self, bytes: &[u8]) {
        self.replies.extend(bytes);
        for reply in frames(&mut self.replies) {
            if let Some(asked) = self.asked.pop_front() {
                self.tap.read_reply(asked, reply);
            }
        }
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        for asked in self.asked.drain(..) {
            self.tap.lock().leave_unanswered(asked);
        }
    }
}

/// The whole frames at the beginning of what came; the rest stays.
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

/// The texts of an array; none of anything else.
fn texts(frame: OwnedFrame) -> impl Iterator<Item = String> {
    let parts = match frame {
        OwnedFrame::Array(parts) => parts,
        _ => Vec::new(),
    };
    parts.into_iter().map(|part| match part {
        OwnedFrame::BulkString(text) => String::from_utf8_lossy(&text).into_owned(),
        _ => String::new(),
    })
}

#[cfg(test)]
#[path = "tap_tests.rs"]
mod tests;
