//! The memory that remembered ids take in Redis.

use functional_scaffold_protocol::{
    batch::{Batch, BatchId, SentBatch},
    calls::{APPLIED_PAIRS, REMEMBERED_SECONDS, Script, apply_call},
    custom::CustomWrites,
};

use super::{
    fixture::Fixture,
    store::{Passing, Store},
};
use crate::Result;

/// The bound in `docs/protocol.md`, at 10,000 requests/s and 128 requests an instance.
const REQUESTS_A_SECOND: u64 = 10_000;
const REQUESTS_A_WRITER: u64 = 128;
const APPLIED_BOUND_BYTES: u64 = 32 * 1024 * 1024;
/// The bound of each closed lease.
const CLOSED_BOUND_BYTES: u64 = 160;

/// The part of the hashes that the test fills.
const PART: u64 = 32;

fn used(store: &mut Store) -> Result<u64> {
    let info: String = store.call(&["INFO", "memory"])?;
    let used = info
        .lines()
        .find_map(|line| line.strip_prefix("used_memory:"));
    Ok(used.expect("Redis says it").trim().parse()?)
}

#[test]
fn memory_of_applied_ids_stays_bounded() -> Result {
    let mut fixture = Fixture::start()?;
    let store = &mut fixture.store;
    store.call::<()>(&["CONFIG", "SET", "appendonly", "no"])?;
    let script = Script::APPLY;
    store.call::<()>(&["SCRIPT", "LOAD", script.source])?;
    // With the scripts of an instance that starts.
    store.begin(1)?;
    let before = used(store)?;
    // Two turns are remembered at most.
    let writers = REMEMBERED_SECONDS * REQUESTS_A_SECOND / REQUESTS_A_WRITER / PART;
    for turn in 0..2 {
        let frozen_ms = Some(store.begin(1)?);
        for some in (0..writers).collect::<Vec<_>>().chunks(500) {
            let mut pipe = redis::pipe();
            for &writer in some {
                let mut increments = Batch::default();
                increments.inc("m:a", "x=\"1\"", 1);
                // Spread over 64 bits, like random ones.
                let nonce = (turn * writers + writer).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                let pair = writer % (APPLIED_PAIRS / PART);
                let batch = SentBatch {
                    id: BatchId {
                        nonce: nonce % (u64::MAX / APPLIED_PAIRS)
                            + pair * (u64::MAX / APPLIED_PAIRS + 1),
                        sequence: REQUESTS_A_WRITER,
                    },
                    frozen_ms,
                    increments,
                    leased: Vec::new(),
                    custom: CustomWrites::default(),
                };
                let command = pipe.cmd("EVALSHA").arg(script.sha);
                for part in apply_call("m:", &batch).parts() {
                    command.arg(part);
                }
                command.ignore();
            }
            store.pipe(&pipe)?;
        }
        let remembered = i64::try_from(REMEMBERED_SECONDS)? * 1000;
        store.pass(remembered, Passing::Busy)?;
    }
    let bytes = used(store)? - before;
    let keys: Vec<String> = store.call(&["KEYS", "m:applied:*"])?;
    assert_eq!(
        keys.len() as u64,
        2 * APPLIED_PAIRS / PART,
        "two keys a pair"
    );
    let each = bytes / (2 * writers);
    let kept = bytes * PART;
    assert!(kept < APPLIED_BOUND_BYTES, "{kept} bytes, {each} a writer");
    Ok(())
}

#[test]
fn memory_of_a_closed_lease_is_as_documented() -> Result {
    const LEASES: u64 = 50_000;
    let mut fixture = Fixture::start()?;
    let mut lease = fixture.lease(1, 0);
    let store = &mut fixture.store;
    store.call::<()>(&["CONFIG", "SET", "appendonly", "no"])?;
    let before = used(store)?;
    let mut pipe = redis::pipe();
    for number in 0..LEASES {
        let nonce = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        lease.id = format!("{nonce:016x}/{}", number % REQUESTS_A_WRITER);
        let score = 1_700_000_000_000 + number;
        let add = pipe.cmd("ZADD").arg("m:closed_leases").arg(score);
        add.arg(&lease.id).ignore();
    }
    store.pipe(&pipe)?;
    drop(pipe);
    let each = (used(store)? - before) / LEASES;
    assert!((20..CLOSED_BOUND_BYTES).contains(&each), "{each} bytes");
    Ok(())
}
