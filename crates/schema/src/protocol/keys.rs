//! The keys of the protocol, all under one prefix.

use crate::{batch::BatchId, removal::removed_key};

/// The prefix of every key unless another is configured.
pub const DEFAULT_PREFIX: &str = "metrics:";

/// The key of the hash of families.
#[must_use]
pub fn families_key(prefix: &str) -> String {
    format!("{prefix}families")
}

/// The key of the hash that remembers a batch's id, with those of the writers
/// that began in the same second. So few stay in Redis's compact encoding, a
/// quarter of the memory, up to 65,000 requests/s with 128 requests a writer.
#[must_use]
pub fn applied_key(prefix: &str, id: &BatchId) -> String {
    format!("{prefix}applied:{}", id.started_at)
}

/// The key of the hash of the offsets of a metric hash: what Redis lost of it
/// and was served before, by the same fields. It is added when it is served.
#[must_use]
pub fn offset_key(prefix: &str, key: &str) -> String {
    format!("{prefix}offset:{key}")
}

/// The key of the hash that keeps the clock: `last_ms`, `shift_ms`, and
/// `flushed_ms`, when a batch was last applied; `epoch`; and `offsets`, the
/// version of the offsets.
#[must_use]
pub fn state_key(prefix: &str) -> String {
    format!("{prefix}state")
}

/// The key of the note that a registration of this digest stands; it says of what
/// contents of the store, and expires.
#[must_use]
pub fn known_key(prefix: &str, digest: &str) -> String {
    format!("{prefix}known:{digest}")
}

/// The key of the sorted set of open leases, by the lease time at which they run
/// out.
#[must_use]
pub fn leases_key(prefix: &str) -> String {
    format!("{prefix}leases")
}

/// The key of the sorted set of closed leases' ids, by the lease time until
/// which they are remembered.
#[must_use]
pub fn closed_leases_key(prefix: &str) -> String {
    format!("{prefix}closed_leases")
}

/// Whether a key is one that the protocol keeps for itself, and so no family's.
#[must_use]
pub fn is_own_key(prefix: &str, key: &str) -> bool {
    let own = [
        families_key(prefix),
        state_key(prefix),
        leases_key(prefix),
        closed_leases_key(prefix),
        removed_key(prefix),
    ];
    let many = ["applied:", "offset:", "known:"];
    own.iter().any(|own| own == key)
        || key
            .strip_prefix(prefix)
            .is_some_and(|rest| many.iter().any(|many| rest.starts_with(many)))
}
