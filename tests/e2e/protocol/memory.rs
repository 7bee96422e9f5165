//! The memory that remembered ids take in Redis.

use functional_scaffold_protocol::{
    batch::{Batch, BatchId, SentBatch},
    calls::{REMEMBERED_SECONDS, Script, apply_call},
};

use super::{fixture::Fixture, store::Store};
use crate::Result;

/// The bound in `docs/protocol.md`, at 10,000 requests/s and 128 requests an instance.
const REQUESTS_A_SECOND: u64 = 10_000;
const REQUESTS_A_WRITER: u64 = 128;
const APPLIED_BOUND_BYTES: u64 = 32 * 1024 * 1024;
/// The bound of each closed lease.
const CLOSED_BOUND_BYTES: u64 = 160;

/// The part of the remembered time that the test simulates.
const SECONDS: u64 = 600;

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
    let before = used(store)?;
    let writers = SECONDS * REQUESTS_A_SECOND / REQUESTS_A_WRITER;
    for some in (0..writers).collect::<Vec<_>>().chunks(500) {
        let mut pipe = redis::pipe();
        for &writer in some {
            let mut increments = Batch::default();
            increments.inc("m:a", "x=\"1\"", 1);
            let batch = SentBatch {
                id: BatchId {
                    started_at: 1_000_000_000 + writer * SECONDS / writers,
                    // Spread over 64 bits, like random ones.
                    nonce: writer.wrapping_mul(0x9e37_79b9_7f4a_7c15),
                    sequence: REQUESTS_A_WRITER,
                },
                increments,
                leased: Vec::new(),
            };
            let command = pipe.cmd("EVALSHA").arg(script.sha);
            for part in apply_call("m:", &batch).parts() {
                command.arg(part);
            }
            command.ignore();
        }
        store.pipe(&pipe)?;
    }
    let bytes = used(store)? - before;
    let keys: Vec<String> = store.call(&["KEYS", "m:applied:*"])?;
    assert_eq!(keys.len() as u64, SECONDS, "a key a second");
    // A writer lives for a while after it began, and is remembered from its end.
    let kept = bytes * (REMEMBERED_SECONDS + 60) / SECONDS;
    assert!(
        kept < APPLIED_BOUND_BYTES,
        "{kept} bytes, {} a writer",
        bytes / writers
    );
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
