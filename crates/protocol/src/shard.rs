//! Shards: the stores among which the instances of an app are divided.
//!
//! A shard is a store of its own, under its own prefix: its own families, epoch, lease
//! time, leases and ids of batches. An instance writes to one shard for life, so nothing
//! that it writes has to be atomic across shards. Readers add the shards up.
//!
//! The number of a shard is a
//! [hash tag](https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#hash-tags):
//! in Redis Cluster, all keys of a shard are in one slot, as scripts require.

/// Shards that an app may have. A shard takes what one core of Redis can do.
pub const MAX_SHARDS: u32 = 256;

/// The shard of the writer with this nonce, which is random. `shards` is 1 to
/// [`MAX_SHARDS`].
///
/// # Examples
/// ```
/// use functional_scaffold_protocol::shard::shard_of;
///
/// assert_eq!(shard_of(0x9f86_d081_884c_7d65, 4), 1);
/// assert_eq!(shard_of(0x9f86_d081_884c_7d65, 1), 0);
/// ```
#[must_use]
pub fn shard_of(nonce: u64, shards: u32) -> u32 {
    // A remainder is below the divisor, so it fits.
    u32::try_from(nonce % u64::from(shards.max(1))).unwrap_or_default()
}

/// The prefix of every key of a shard. `prefix` has no braces: they would begin another
/// hash tag.
///
/// # Examples
/// ```
/// use functional_scaffold_protocol::{calls::state_key, shard::shard_prefix};
///
/// let prefix = shard_prefix("metrics:", 3);
/// assert_eq!(state_key(&prefix), "metrics:{3}:state");
/// ```
#[must_use]
pub fn shard_prefix(prefix: &str, shard: u32) -> String {
    format!("{prefix}{{{shard}}}:")
}
