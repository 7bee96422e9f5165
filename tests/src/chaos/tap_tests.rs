use functional_scaffold_protocol::{
    batch::{Batch, BatchId, LeasedExecution, SentBatch},
    calls::{apply_call, lease_command},
    lease::{EncodedLease, Lease},
};

use super::*;

fn lease(id: &str) -> Lease {
    Lease {
        id: id.into(),
        millis: 6_000,
        count: Vec::new(),
    }
}

fn array(parts: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", parts.len()).into_bytes();
    for part in parts {
        bytes.extend(format!("${}\r\n", part.len()).into_bytes());
        bytes.extend(part);
        bytes.extend(b"\r\n");
    }
    bytes
}

fn reply(texts: &[&str]) -> Vec<u8> {
    let parts: Vec<_> = texts.iter().map(|text| text.as_bytes().to_vec()).collect();
    array(&parts)
}

/// That a command has taken a lease.
const TAKEN: &[u8] = b":1\r\n";

fn take(id: &str) -> Vec<u8> {
    let command = lease_command("metrics:", &EncodedLease::from(&lease(id)), 1);
    reply(&command.words().collect::<Vec<_>>())
}

fn settle(ids: &[&str]) -> Vec<u8> {
    let batch = SentBatch {
        id: BatchId {
            started_at: 1,
            nonce: 2,
            sequence: 3,
        },
        increments: Batch::default(),
        leased: ids
            .iter()
            .map(|id| LeasedExecution {
                lease: lease(id),
                increments: Batch::default(),
            })
            .collect(),
    };
    let call = apply_call("metrics:", &batch);
    let parts = ["EVAL", Script::APPLY.source].map(|word| word.as_bytes().to_vec());
    let parts: Vec<_> = parts.into_iter().chain(call.parts()).collect();
    array(&parts)
}

fn set(ids: &[&str]) -> BTreeSet<String> {
    ids.iter().map(|&id| id.to_owned()).collect()
}

#[test]
fn leases_are_open_from_their_acknowledgement_until_a_batch_that_was_stored() {
    let tap = Tap::default();
    let mut talk = tap.listen();
    talk.hear_calls(&reply(&["PING"]));
    talk.hear_calls(&[take("a/1"), take("a/2"), take("a/3")].concat());
    talk.hear_calls(&reply(&["ZADD", "metrics:closed_leases", "1", "a/4"]));
    assert_eq!(tap.leases(), Leases::default(), "nothing is answered");
    talk.hear_replies(b"+PONG\r\n");
    talk.hear_replies(TAKEN);
    talk.hear_replies(b"-READONLY You can't write against a read only replica.\r\n");
    talk.hear_replies(TAKEN);
    talk.hear_replies(TAKEN);
    assert_eq!(tap.leases().taken, 2);
    assert_eq!(tap.leases().open, set(&["a/1", "a/3"]));
    talk.hear_calls(&settle(&["a/1"]));
    talk.hear_replies(b"-NOSCRIPT No matching script.\r\n");
    talk.hear_calls(&settle(&["a/1"]));
    talk.hear_replies(&reply(&["late", "a/1"]));
    assert_eq!(tap.leases().open, set(&["a/1", "a/3"]), "nothing is stored");
    for answer in ["applied", "duplicate"] {
        talk.hear_calls(&settle(&["a/1"]));
        talk.hear_replies(&reply(&[answer, "1"]));
        assert_eq!(tap.leases().open, set(&["a/3"]));
    }
}

#[test]
fn bytes_may_come_in_any_pieces() {
    let tap = Tap::default();
    let mut talk = tap.listen();
    let calls = [take("a/1"), take("a/2"), settle(&["a/2"])].concat();
    for byte in &calls {
        talk.hear_calls(&[*byte]);
    }
    let replies = [TAKEN, TAKEN, &reply(&["applied", "1"])].concat();
    for byte in &replies {
        talk.hear_replies(&[*byte]);
    }
    assert_eq!(tap.leases().open, set(&["a/1"]));
}

#[test]
fn what_a_connection_leaves_unanswered_is_told_apart() {
    let tap = Tap::default();
    let mut talk = tap.listen();
    talk.hear_calls(&[take("a/1"), take("a/2")].concat());
    talk.hear_replies(TAKEN);
    talk.hear_calls(&settle(&["a/1"]));
    drop(talk);
    let leases = tap.leases();
    assert_eq!((leases.taken, &leases.open), (1, &set(&["a/1"])));
    assert_eq!(leases.maybe_taken, set(&["a/2"]));
    assert_eq!(leases.maybe_settled, set(&["a/1"]));
    // The batch is sent again on another connection.
    let mut talk = tap.listen();
    talk.hear_calls(&settle(&["a/1", "a/2"]));
    talk.hear_replies(&reply(&["applied", "1"]));
    let leases = tap.leases();
    assert!(leases.open.is_empty() && leases.maybe_taken.is_empty());
    assert!(leases.maybe_settled.is_empty());
}

#[test]
fn two_connections_may_be_heard_in_another_order_than_redis_answered() {
    let tap = Tap::default();
    let (mut first, mut second) = (tap.listen(), tap.listen());
    first.hear_calls(&take("a/1"));
    second.hear_calls(&settle(&["a/1"]));
    second.hear_replies(&reply(&["applied", "1"]));
    first.hear_replies(TAKEN);
    let leases = tap.leases();
    assert_eq!((leases.taken, leases.open.len()), (1, 0));
}
