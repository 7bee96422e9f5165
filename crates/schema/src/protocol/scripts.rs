//! The Lua scripts, as `build.rs` puts them together from `src/scripts/`.

/// A Lua script and the digest that
/// [`EVALSHA`](https://redis.io/docs/latest/commands/evalsha/) names it by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Script {
    /// The source, without its comments.
    pub source: &'static str,
    /// SHA-1 of the source, 40 hexadecimal digits.
    pub sha: &'static str,
}

impl Script {
    /// Applies a batch once; see [`apply_call`](super::apply_call).
    pub const APPLY: Self = built::APPLY;
    /// Settles leases that have run out; see [`settle_call`](super::settle_call).
    pub const SETTLE: Self = built::SETTLE;
    /// Registers families; see [`register_call`](super::register_call).
    pub const REGISTER: Self = built::REGISTER;
    /// Tells whether families are registered; see [`known_call`](super::known_call).
    pub const KNOWN: Self = built::KNOWN;
    /// Adds to offsets; see [`offset_call`](super::offset_call).
    pub const OFFSET: Self = built::OFFSET;
    /// Removes series, or a family; see
    /// [`remove_series_call`](crate::removal::remove_series_call).
    pub const REMOVE: Self = built::REMOVE;
    /// Begins a new epoch; see [`wipe_call`](crate::removal::wipe_call).
    pub const WIPE: Self = built::WIPE;
    /// Every one.
    pub const ALL: [Self; 7] = [
        Self::APPLY,
        Self::SETTLE,
        Self::REGISTER,
        Self::KNOWN,
        Self::OFFSET,
        Self::REMOVE,
        Self::WIPE,
    ];
}

mod built {
    use super::Script;

    include!(concat!(env!("OUT_DIR"), "/scripts.rs"));
}
