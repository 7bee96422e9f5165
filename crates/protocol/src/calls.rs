//! Version 1 of the protocol in `docs/protocol.md`: what is said to Redis,
//! in which keys, and what it answers. Says nothing itself.
//!
//! # Layout
//! - `keys`: where what is kept
//! - `scripts`: the scripts
//! - `calls`: the form of each call and command
//! - `reply`: what the scripts reply, read or refused

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use thiserror::Error;

use crate::{
    batch::{Batch, BatchId, SentBatch},
    catalog::Catalog,
    family::Family,
    lease::EncodedLease,
};

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
pub const REGISTRATION_SECONDS: u64 = 60;

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
pub fn lost_counts_key(prefix: &str, key: &str) -> String {
    format!("{prefix}lost:{key}")
}

/// The key of the hash that keeps the clock: `last_ms`, `shift_ms`, and
/// `flushed_ms`, when a batch was last applied; `epoch`; and `lost_version`, the
/// version of the offsets.
#[must_use]
pub fn state_key(prefix: &str) -> String {
    format!("{prefix}state")
}

/// The key of the note that a registration of this digest stands; it says of what
/// contents of the store, and expires.
#[must_use]
pub fn registration_key(prefix: &str, digest: &str) -> String {
    format!("{prefix}registered:{digest}")
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

/// The key of the sorted set of what was removed, by the removal's number: its
/// time in microseconds, or one more than the last one.
#[must_use]
pub fn removed_key(prefix: &str) -> String {
    format!("{prefix}removed")
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
    let many = ["applied:", "lost:", "registered:"];
    own.iter().any(|own| own == key)
        || key
            .strip_prefix(prefix)
            .is_some_and(|rest| many.iter().any(|many| rest.starts_with(many)))
}

/// Keys and arguments of a script call, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Every key the script touches.
    pub keys: Vec<String>,
    /// Its other arguments.
    pub arguments: Vec<String>,
}

impl Call {
    /// What follows the script or its digest in `EVAL` and `EVALSHA`: the
    /// number of keys, the keys, the arguments.
    pub fn parts(&self) -> impl Iterator<Item = Vec<u8>> {
        [self.keys.len().to_string().into_bytes()]
            .into_iter()
            .chain(
                self.keys
                    .iter()
                    .chain(&self.arguments)
                    .map(|part| part.clone().into_bytes()),
            )
    }
}

/// A command that is no script, with its arguments in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// Its name.
    pub name: &'static str,
    /// Its arguments, the keys among them.
    pub arguments: Vec<String>,
}

impl Command {
    /// Name and arguments.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        [self.name]
            .into_iter()
            .chain(self.arguments.iter().map(String::as_str))
    }
}

/// The command that takes a lease before its execution begins, a
/// [`ZADD`](https://redis.io/docs/latest/commands/zadd/): no script, since it is
/// on the way of every request. What a script would have to look at first, is
/// looked at when the lease runs out.
///
/// It begins at `lease_time_millis`, which the replies to [`register_call`] and
/// [`apply_call`] tell. It has to run out before its id could be forgotten
/// ([`REMEMBERED_SECONDS`]).
#[must_use]
pub fn lease_command(prefix: &str, lease: &EncodedLease, lease_time_millis: i64) -> Command {
    let due = lease_time_millis.saturating_add_unsigned(lease.millis);
    Command {
        name: "ZADD",
        arguments: vec![leases_key(prefix), due.to_string(), lease.member.clone()],
    }
}

/// The call by which a reader settles expired leases. It looks at a hundred of
/// them after the first `skip`, and settles those that count in `metric_keys`
/// only. `epoch` is random, for a store that has none.
#[must_use]
pub fn settle_call<'a>(
    prefix: &str,
    epoch: u64,
    skip: u64,
    metric_keys: impl IntoIterator<Item = &'a str>,
) -> Call {
    let mut keys = lease_keys(prefix).to_vec();
    keys.extend(metric_keys.into_iter().map(str::to_owned));
    let arguments = vec![
        (REMEMBERED_SECONDS * 1000).to_string(),
        random_text(epoch),
        skip.to_string(),
    ];
    Call { keys, arguments }
}

fn lease_keys(prefix: &str) -> [String; 3] {
    [
        state_key(prefix),
        leases_key(prefix),
        closed_leases_key(prefix),
    ]
}

/// The call that applies a batch and releases the leases of its executions. Its
/// reply has lease time.
#[must_use]
pub fn apply_call(prefix: &str, batch: &SentBatch) -> Call {
    let leases = batch.leased.iter().map(|leased| &leased.lease);
    let leases: Vec<_> = leases.map(EncodedLease::from).collect();
    apply_merged_call(prefix, &batch.id, leases.iter(), &batch.total())
}

/// The same call for a batch that releases `leases` and adds `total` in all.
#[must_use]
pub fn apply_merged_call<'a>(
    prefix: &str,
    id: &BatchId,
    leases: impl ExactSizeIterator<Item = &'a EncodedLease> + Clone,
    total: &Batch,
) -> Call {
    let mut keys = vec![applied_key(prefix, id)];
    keys.extend(lease_keys(prefix));
    let mut arguments = Vec::with_capacity(8 + 2 * (leases.len() + total.len()));
    arguments.extend([
        id.writer(),
        id.sequence.to_string(),
        REMEMBERED_SECONDS.to_string(),
        leases.len().to_string(),
    ]);
    arguments.extend(leases.clone().map(|lease| lease.member.clone()));
    arguments.extend(leases.map(|lease| lease.id.clone()));
    for (key, fields) in total.hashes() {
        keys.push(key.to_owned());
        push_increments(&mut arguments, fields);
    }
    Call { keys, arguments }
}

fn push_increments(arguments: &mut Vec<String>, fields: &BTreeMap<String, u64>) {
    arguments.push(fields.len().to_string());
    for (field, by) in fields {
        arguments.extend([field.clone(), by.to_string()]);
    }
}

/// The call that adds to the offsets of metric hashes, if they are still those
/// of this epoch and version. `next` is random, their version from then on.
#[must_use]
pub fn add_lost_counts_call(
    prefix: &str,
    epoch: &str,
    version: Option<&str>,
    next: &str,
    lost: &Batch,
) -> Call {
    let mut keys = vec![state_key(prefix)];
    let mut arguments = [epoch, version.unwrap_or_default(), next]
        .map(str::to_owned)
        .to_vec();
    for (key, fields) in lost.hashes() {
        keys.push(lost_counts_key(prefix, key));
        push_increments(&mut arguments, fields);
    }
    Call { keys, arguments }
}

/// What a component registers: its families under their fields, and the cells
/// (key and field) of series to be borne at 0.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Registration {
    /// Each family's hash.
    keys: Vec<String>,
    /// For each family: its field, its JSON, how many series, each one's field.
    arguments: Vec<String>,
}

impl Registration {
    /// That of a component that serves `algorithm` at `endpoints`.
    #[must_use]
    pub fn of_catalog(catalog: &Catalog, algorithm: &str, endpoints: &[&str]) -> Self {
        let families = catalog.families().into_iter();
        Self::new(
            families.map(|family| (family.name.as_str(), family)),
            &catalog.zero_cells(algorithm, endpoints),
        )
    }

    /// Puts families, each with its field, and cells as the scripts take them.
    #[must_use]
    pub fn new<'a>(
        families: impl IntoIterator<Item = (&'a str, &'a Family)>,
        zero_cells: &[(&str, String)],
    ) -> Self {
        let (mut keys, mut arguments) = (Vec::new(), Vec::new());
        for (field, family) in families {
            let zeros = zero_cells.iter().filter(|(key, _)| *key == family.key);
            keys.push(family.key.clone());
            let count = zeros.clone().count().to_string();
            arguments.extend([field.to_owned(), family.encode(), count]);
            arguments.extend(zeros.map(|(_, field)| field.clone()));
        }
        Self { keys, arguments }
    }

    /// How many families there are.
    pub(crate) fn families(&self) -> usize {
        self.keys.len()
    }

    /// 16 hexadecimal digits for all it says. Other builds may have others for the
    /// same, and register it once more for that.
    fn digest(&self) -> String {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        format!("{:016x}", hasher.finish())
    }
}

/// The call that asks whether a registration stands already. If it does, the
/// reply tells lease time.
#[must_use]
pub fn is_registered_call(prefix: &str, registration: &Registration) -> Call {
    Call {
        keys: vec![
            state_key(prefix),
            registration_key(prefix, &registration.digest()),
        ],
        arguments: Vec::new(),
    }
}

/// The call that registers families, and bears series at 0 in the hashes of
/// those whose registration stands. `epoch` is random, for a store that has none.
/// The reply tells lease time.
#[must_use]
pub fn register_call(prefix: &str, epoch: u64, registration: &Registration) -> Call {
    let mut keys = vec![
        families_key(prefix),
        state_key(prefix),
        registration_key(prefix, &registration.digest()),
    ];
    keys.extend_from_slice(&registration.keys);
    let mut arguments = vec![random_text(epoch), REGISTRATION_SECONDS.to_string()];
    arguments.extend_from_slice(&registration.arguments);
    Call { keys, arguments }
}

pub(crate) fn random_text(random: u64) -> String {
    format!("{random:016x}")
}

/// What became of a batch that Redis has answered for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// It is stored.
    Stored {
        /// Lease time, in milliseconds.
        lease_time_millis: i64,
        /// Increments that could not be applied: key, field, amount and Redis's error.
        refused: Vec<String>,
    },
    /// It had been stored before; nothing changed now.
    Duplicate,
    /// Nothing was stored: the leases with these ids have run out, and their
    /// executions are counted as crashed. To be sent again without them.
    Late(Vec<String>),
}

/// What the call that settles leases answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// Names the store's contents: another one after they were wiped.
    pub epoch: String,
    /// How many leases were settled.
    pub leases: u64,
    /// Lease time, in milliseconds: a lease runs out when its score is not above
    /// it.
    pub lease_time_millis: i64,
    /// How many leases the next call is to pass over, which count in other keys
    /// than those named. None if every lease that ran out was looked at.
    pub next_skip: Option<u64>,
    /// Counts that could not be applied: key, field, amount and Redis's error.
    pub refused: Vec<String>,
}

/// Reads the reply to [`settle_call`](super::settle_call).
///
/// # Errors
/// The reply is not one of the script's.
pub fn settled_from_reply(mut reply: Vec<String>) -> Result<Settled, ReplyError> {
    let read = |reply: &[String]| {
        let [epoch, leases, time, skip, ..] = reply else {
            return None;
        };
        Some(Settled {
            epoch: epoch.clone(),
            leases: leases.parse().ok()?,
            lease_time_millis: time.parse().ok()?,
            next_skip: match skip.as_str() {
                "" => None,
                skip => Some(skip.parse().ok()?),
            },
            refused: Vec::new(),
        })
    };
    match read(&reply) {
        Some(settled) => Ok(Settled {
            refused: reply.split_off(4),
            ..settled
        }),
        None => Err(ReplyError(reply)),
    }
}

/// What became of increments of offsets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LostCountsAdded {
    /// They are added.
    Added {
        /// Those that could not be: key, field, amount and Redis's error.
        refused: Vec<String>,
    },
    /// Nothing was added: another reader changed the offsets, or the store was
    /// wiped. To be read again.
    Overtaken,
}

/// Reads the reply to [`add_lost_counts_call`](super::add_lost_counts_call).
///
/// # Errors
/// The reply is not one of the script's.
pub fn lost_counts_added_from_reply(mut reply: Vec<String>) -> Result<LostCountsAdded, ReplyError> {
    match reply.first().map(String::as_str) {
        Some("added") => Ok(LostCountsAdded::Added {
            refused: reply.split_off(1),
        }),
        Some("overtaken") if reply.len() == 1 => Ok(LostCountsAdded::Overtaken),
        _ => Err(ReplyError(reply)),
    }
}

/// A reply that the script does not give.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("unexpected script reply {0:?}")]
pub struct ReplyError(Vec<String>);

/// Reads the reply to [`apply_call`](super::apply_call).
///
/// # Errors
/// The reply is not one of the script's.
pub fn applied_from_reply(mut reply: Vec<String>) -> Result<Applied, ReplyError> {
    let time = reply.get(1).and_then(|time| time.parse().ok());
    match (reply.first().map(String::as_str), time) {
        (Some("applied"), Some(lease_time_millis)) => Ok(Applied::Stored {
            lease_time_millis,
            refused: reply.split_off(2),
        }),
        (Some("duplicate"), _) if reply.len() == 1 => Ok(Applied::Duplicate),
        (Some("late"), _) if reply.len() > 1 => Ok(Applied::Late(reply.split_off(1))),
        _ => Err(ReplyError(reply)),
    }
}

/// What the call that registers families answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    /// Lease time, in milliseconds.
    pub lease_time_millis: i64,
    /// The registration that stands for each family, in the call's order.
    pub standing: Vec<String>,
}

/// Reads the reply to [`register_call`](super::register_call) of `registration`.
///
/// # Errors
/// The reply is not one of the script's.
pub fn registered_from_reply(
    registration: &Registration,
    mut reply: Vec<String>,
) -> Result<Registered, ReplyError> {
    match reply.first().and_then(|time| time.parse().ok()) {
        Some(lease_time_millis) if reply.len() == 1 + registration.families() => Ok(Registered {
            lease_time_millis,
            standing: reply.split_off(1),
        }),
        _ => Err(ReplyError(reply)),
    }
}

/// Reads the reply to [`is_registered_call`](super::is_registered_call): lease time, in
/// milliseconds, or None if the families have to be registered.
///
/// # Errors
/// The reply is not one of the script's.
pub fn is_registered_from_reply(reply: Vec<String>) -> Result<Option<i64>, ReplyError> {
    let time = match reply.as_slice() {
        [] => return Ok(None),
        [time] => time.parse().ok(),
        _ => None,
    };
    time.map(Some).ok_or(ReplyError(reply))
}

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
    /// Tells whether families are registered; see [`is_registered_call`](super::is_registered_call).
    pub const IS_REGISTERED: Self = built::IS_REGISTERED;
    /// Adds to offsets; see [`add_lost_counts_call`](super::add_lost_counts_call).
    pub const ADD_LOST_COUNTS: Self = built::ADD_LOST_COUNTS;
    /// Removes series, or a family; see
    /// [`remove_series_call`](crate::removal::remove_series_call).
    pub const REMOVE: Self = built::REMOVE;
    /// Begins a new epoch; see [`wipe_call`](crate::removal::wipe_call).
    pub const WIPE: Self = built::WIPE;
    /// Every script.
    pub const ALL: [Self; 7] = built::ALL;
}

mod built {
    use super::Script;

    include!(concat!(env!("OUT_DIR"), "/scripts.rs"));
}

#[cfg(test)]
#[path = "calls_tests.rs"]
mod tests;
