//! Version 1 of the protocol in `docs/redis-protocol.md`: what is said to Redis,
//! in which keys, and what it answers. Says nothing itself.
//!
//! # Layout
//! - `keys`: where what is kept
//! - `scripts`: the scripts
//! - `calls`: the form of each call and command
//! - `reply`: what the scripts reply, read or refused

mod calls;
mod keys;
mod reply;
mod scripts;
#[cfg(test)]
mod tests;

pub use calls::*;
pub use keys::*;
pub use reply::*;
pub use scripts::*;

/// How long ids are remembered at least, in seconds: of a batch from when it was
/// applied, of a lease from when it was closed. A batch that arrives within this
/// time changes nothing; nor does a lease that arrives and runs out within it.
///
/// That is twice as long as a batch in a log may be replayed after it was given
/// up. The lease of an execution in it may have run out before that: by as much
/// as the execution was slower than its limit. The other hour is for this.
pub const REMEMBERED_SECONDS: u64 = 7200;

/// For how many seconds a registration is known to stand without being looked at:
/// so long at the most a registration or a series at 0 that was deleted by hand
/// is not written again.
pub const KNOWN_SECONDS: u64 = 60;
