//! Version 1 of the protocol with Redis: keys, scripts, and the form of each call and
//! its reply.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use thiserror::Error;

use crate::{
    batch::{Batch, BatchId, SentBatch},
    catalog::Catalog,
    custom::{CustomWrites, GaugeWrite, family_of_key, limited_field, limited_key},
    family::Family,
    lease::EncodedLease,
};

/// Seconds of lease time for which Redis remembers, at least, the id of a batch after it
/// was applied, and the id of a lease after it was closed and has expired.
///
/// A batch is applied only within half of this time before or after it was frozen. So
/// all copies that are applied arrive within this time of each other, and the second one
/// is recognised, however wrong the writer's estimate of lease time was.
pub const REMEMBERED_SECONDS: u64 = 7200;

/// Bits of a writer's nonce that name the pair of hashes in which Redis remembers its
/// batches. The other bits name its entry there.
///
/// The hashes of a pair take turns every [`REMEMBERED_SECONDS`]. Redis keeps a hash of
/// up to 512 entries in its compact encoding, in a quarter of the memory. 512 writers in
/// each of these hashes are 70,000 requests/s at 128 requests per writer.
const PAIR_BITS: u32 = 13;

/// Pairs of hashes in which Redis remembers batches.
pub const APPLIED_PAIRS: u64 = 1 << PAIR_BITS;

/// Seconds for which a registration counts as complete without being checked. After
/// this time at most, registrations and series at 0 that were deleted by hand are
/// written again.
pub const REGISTRATION_SECONDS: u64 = 60;

/// Prefix of every key unless another one is configured.
pub const DEFAULT_PREFIX: &str = "metrics:";

/// Key of the hash of families.
#[must_use]
pub fn families_key(prefix: &str) -> String {
    format!("{prefix}families")
}

/// Keys of the two hashes that may remember a batch's id, with those of other writers.
#[must_use]
pub fn applied_keys(prefix: &str, id: &BatchId) -> [String; 2] {
    let pair = id.nonce >> (u64::BITS - PAIR_BITS);
    [0, 1].map(|turn| format!("{prefix}applied:{pair:04x}:{turn}"))
}

/// Field of a batch's writer in these hashes.
#[must_use]
pub fn applied_field(id: &BatchId) -> String {
    format!("{:013x}", id.nonce << PAIR_BITS >> PAIR_BITS)
}

/// Key of the hash of a metric hash's lost counts: counts that readers served before
/// Redis lost them, by the same fields. Readers serve the sum of both hashes.
#[must_use]
pub fn lost_counts_key(prefix: &str, key: &str) -> String {
    format!("{prefix}lost:{key}")
}

/// Key of the state, a hash of `last_ms` and `shift_ms` (Redis's clock), `flushed_ms`
/// (when a batch was last applied), `forgotten_ms` (when ids of closed leases were last
/// deleted), `epoch` and `epoch_ms` (when it began), `lost_version` (of the lost
/// counts), `closed` ([`close_command`]), `wiped` ([`WIPED`]), and `series:<key>` (how many series a [limited](crate::custom) hash has).
#[must_use]
pub fn state_key(prefix: &str) -> String {
    format!("{prefix}state")
}

/// Keys of one hash, sorted set and string on which [`Script::CHECK`] tries commands.
#[must_use]
pub fn check_keys(prefix: &str) -> [String; 3] {
    ["hash", "set", "text"].map(|kind| format!("{prefix}check:{kind}"))
}

/// Key of the note that the registration with this digest is complete. It expires.
#[must_use]
pub fn registration_key(prefix: &str, digest: &str) -> String {
    format!("{prefix}registered:{digest}")
}

/// Key of the sorted set of open leases, by the lease time at which they expire.
#[must_use]
pub fn leases_key(prefix: &str) -> String {
    format!("{prefix}leases")
}

/// Key of the sorted set of closed leases' ids, by the lease time until which they
/// are remembered.
#[must_use]
pub fn closed_leases_key(prefix: &str) -> String {
    format!("{prefix}closed_leases")
}

/// Key of the sorted set of removals, by number: the time in microseconds, or one
/// more than the last number.
#[must_use]
pub fn removed_key(prefix: &str) -> String {
    format!("{prefix}removed")
}

/// Whether the protocol itself uses this key. No family may have such a key.
#[must_use]
pub fn is_own_key(prefix: &str, key: &str) -> bool {
    let single = [
        families_key(prefix),
        state_key(prefix),
        leases_key(prefix),
        closed_leases_key(prefix),
        removed_key(prefix),
    ];
    let groups = ["applied:", "check:", "lost:", "registered:"];
    single.iter().any(|own| own == key)
        || key
            .strip_prefix(prefix)
            .is_some_and(|rest| groups.iter().any(|group| rest.starts_with(group)))
}

/// A Lua script of `src/lua/`, which documents its keys, arguments and reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Script {
    /// The source, without comments.
    pub source: &'static str,
    /// SHA-1 of the source in hexadecimal, which
    /// [`EVALSHA`](https://redis.io/docs/latest/commands/evalsha/) takes.
    pub sha: &'static str,
}

impl Script {
    /// Applies a batch once; see [`apply_call`].
    pub const APPLY: Self = built::APPLY;
    /// Applies a batch that adds to no hash with a limit of series.
    pub const APPLY_UNLIMITED: Self = built::APPLY_UNLIMITED;
    /// Settles leases that have expired; see [`settle_call`].
    pub const SETTLE: Self = built::SETTLE;
    /// Tries every command that a component needs; see [`check_call`].
    pub const CHECK: Self = built::CHECK;
    /// Registers families; see [`register_call`].
    pub const REGISTER: Self = built::REGISTER;
    /// Tells whether families are registered; see [`is_registered_call`].
    pub const IS_REGISTERED: Self = built::IS_REGISTERED;
    /// Adds to lost counts; see [`add_lost_counts_call`].
    pub const ADD_LOST_COUNTS: Self = built::ADD_LOST_COUNTS;
    /// Removes series or a family; see [`crate::removal`].
    pub const REMOVE: Self = built::REMOVE;
    /// Removes all counts; see [`crate::removal::wipe_call`].
    pub const WIPE: Self = built::WIPE;
    /// Every script.
    pub const ALL: [Self; 9] = built::ALL;
}

mod built {
    use super::Script;

    include!(concat!(env!("OUT_DIR"), "/scripts.rs"));
}

/// Keys and arguments of a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Every key that the script touches.
    pub keys: Vec<String>,
    /// The other arguments.
    pub arguments: Vec<String>,
}

impl Call {
    /// What follows the script or its digest in `EVAL` and `EVALSHA`: the number of
    /// keys, the keys, the arguments.
    pub fn parts(&self) -> impl Iterator<Item = Vec<u8>> {
        let texts = self.keys.iter().chain(&self.arguments);
        [self.keys.len().to_string().into_bytes()]
            .into_iter()
            .chain(texts.map(|text| text.clone().into_bytes()))
    }
}

/// A Redis command other than a script call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// The command's name.
    pub name: &'static str,
    /// Its arguments, keys included.
    pub arguments: Vec<String>,
}

impl Command {
    /// The name and the arguments.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        [self.name]
            .into_iter()
            .chain(self.arguments.iter().map(String::as_str))
    }
}

/// The reply has a form that the script does not return.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("unexpected script reply {0:?}")]
pub struct ReplyError(Vec<String>);

/// The command that takes a lease before its execution begins:
/// [`ZADD`](https://redis.io/docs/latest/commands/zadd/).
///
/// It is not a script, because every request waits for it; everything that a script
/// would check is checked when the lease expires.
#[must_use]
pub fn lease_command(prefix: &str, lease: &EncodedLease) -> Command {
    Command {
        name: "ZADD",
        arguments: vec![
            leases_key(prefix),
            lease.due_ms.to_string(),
            lease.member.clone(),
        ],
    }
}

/// Field of the [state](state_key) of a shard that readers must not read.
pub const CLOSED: &str = "closed";

/// Field of the [state](state_key) with the epoch that the last wipe began. Another epoch
/// began because the data was lost.
pub const WIPED: &str = "wiped";

/// The command that closes a shard to readers:
/// [`HSET`](https://redis.io/docs/latest/commands/hset/).
///
/// A command that changes all shards closes each before it changes the first, and opens
/// them after the last. So no reader adds up shards from before and after the change.
/// `id` names the command in errors. Writers take no notice.
#[must_use]
pub fn close_command(prefix: &str, id: &str) -> Command {
    Command {
        name: "HSET",
        arguments: vec![state_key(prefix), CLOSED.to_owned(), id.to_owned()],
    }
}

/// The command that opens a shard to readers again:
/// [`HDEL`](https://redis.io/docs/latest/commands/hdel/).
#[must_use]
pub fn open_command(prefix: &str) -> Command {
    Command {
        name: "HDEL",
        arguments: vec![state_key(prefix), CLOSED.to_owned()],
    }
}

/// The call that applies a batch and releases the leases of its executions.
///
/// # Examples
/// ```
/// use functional_scaffold_protocol::{
///     batch::{Batch, BatchId, SentBatch},
///     calls::apply_call,
///     custom::CustomWrites,
/// };
///
/// let mut increments = Batch::default();
/// increments.inc("metrics:jobs", r#"kind="nightly""#, 2);
/// let id = BatchId { nonce: 0x9f86_d081_884c_7d65, sequence: 7 };
/// let (leased, custom) = (Vec::new(), CustomWrites::default());
/// let batch = SentBatch { id, frozen_ms: Some(1_200), increments, leased, custom };
/// let call = apply_call("metrics:", &batch);
/// assert_eq!(call.keys[..2], ["metrics:applied:13f0:0", "metrics:applied:13f0:1"]);
/// assert_eq!(call.keys[5], "metrics:jobs");
/// assert_eq!(call.arguments[..3], ["6d081884c7d65", "7", "1200"]);
/// assert_eq!(call.arguments[7..], ["1", r#"kind="nightly""#, "2"]);
/// ```
///
/// To Redis, a batch without a time is too old.
#[must_use]
pub fn apply_call(prefix: &str, batch: &SentBatch) -> Call {
    let leases: Vec<_> = batch.leased.iter().map(EncodedLease::from).collect();
    let SentBatch { id, frozen_ms, .. } = batch;
    let (total, custom) = (&batch.total(), &batch.custom);
    let frozen_ms = frozen_ms.unwrap_or_default();
    let mut call = apply_call_from_parts(prefix, id, frozen_ms, leases.iter(), total);
    add_limited(&mut call, prefix, total, custom);
    call
}

/// The same call, from the parts of a batch: its id, when it was frozen, the leases that
/// it releases, and everything that it adds. It leaves out hashes with a limit of series,
/// for which [`Script::APPLY_UNLIMITED`] is enough; [`add_limited`] adds them.
#[must_use]
pub fn apply_call_from_parts<'a>(
    prefix: &str,
    id: &BatchId,
    frozen_ms: i64,
    leases: impl ExactSizeIterator<Item = &'a EncodedLease> + Clone,
    total: &Batch,
) -> Call {
    let unlimited = |key: &&str| family_of_key(prefix, key).is_none();
    let hashes = total.hashes().map(|(key, _)| key).filter(unlimited).count();
    let mut keys: Vec<_> = applied_keys(prefix, id).into();
    keys.extend(lease_keys(prefix));
    let mut arguments = Vec::with_capacity(14 + 3 * leases.len() + 2 * total.len());
    arguments.extend([
        applied_field(id),
        id.sequence.to_string(),
        frozen_ms.to_string(),
        (REMEMBERED_SECONDS * 1000).to_string(),
        leases.len().to_string(),
        hashes.to_string(),
        String::new(),
    ]);
    arguments.extend(leases.clone().map(|lease| lease.member.clone()));
    arguments.extend(leases.clone().map(|lease| lease.id.clone()));
    arguments.extend(leases.map(|lease| lease.due_ms.to_string()));
    for (key, fields) in total.hashes() {
        if family_of_key(prefix, key).is_none() {
            keys.push(key.to_owned());
            push_increments(&mut arguments, fields);
        }
    }
    Call { keys, arguments }
}

/// Adds the hashes with a limit of series to a call of [`apply_call_from_parts`], which
/// needs [`Script::APPLY`] then.
pub fn add_limited(call: &mut Call, prefix: &str, total: &Batch, custom: &CustomWrites) {
    const MAX_SERIES: usize = 6;
    let Call { keys, arguments } = call;
    arguments[MAX_SERIES] = custom.max_series.to_string();
    let unlimited = keys.len();
    keys.push(limited_key(prefix));
    for (key, fields) in total.hashes() {
        if let Some(family) = family_of_key(prefix, key) {
            keys.push(key.to_owned());
            arguments.extend([limited_field(family), "0".to_owned()]);
            push_increments(arguments, fields);
        }
    }
    // A family has one kind, so these are other hashes.
    let mut gauges = custom.gauges.cells().peekable();
    while let Some((key, _, _)) = gauges.peek() {
        let key = *key;
        keys.push(key.to_owned());
        arguments.push(limited_field(family_of_key(prefix, key).unwrap_or(key)));
        let count = arguments.len();
        arguments.push(String::new());
        let mut writes = 0;
        while let Some((_, field, gauge)) = gauges.next_if(|(of, _, _)| *of == key) {
            push_gauge(arguments, field, gauge);
            writes += 1;
        }
        arguments[count] = writes.to_string();
        arguments.push("0".to_owned());
    }
    if keys.len() == unlimited + 1 {
        keys.pop();
    }
}

/// Reply to [`apply_call`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApplyReply {
    /// The batch is stored.
    Stored {
        /// Lease time in milliseconds.
        lease_time_millis: i64,
        /// Increments that Redis refused: key, field, amount and error.
        refused: Vec<String>,
    },
    /// The batch had been stored before, and nothing changed now.
    Duplicate,
    /// Nothing was stored: the leases with these ids have expired, and their
    /// executions are counted as crashed. Send the batch again without them.
    Late(Vec<String>),
    /// Nothing was stored: the batch was frozen too long ago, or its time is too far
    /// ahead. It may have been stored before, because Redis may have forgotten its id.
    TooOld {
        /// Lease time in milliseconds.
        lease_time_millis: i64,
    },
}

impl ApplyReply {
    /// Decodes a reply.
    ///
    /// # Errors
    /// The script returns no such reply.
    pub fn decode(mut reply: Vec<String>) -> Result<Self, ReplyError> {
        let time = reply.get(1).and_then(|time| time.parse().ok());
        match (reply.first().map(String::as_str), time) {
            (Some("applied"), Some(lease_time_millis)) => Ok(Self::Stored {
                lease_time_millis,
                refused: reply.split_off(2),
            }),
            (Some("duplicate"), _) if reply.len() == 1 => Ok(Self::Duplicate),
            (Some("late"), _) if reply.len() > 1 => Ok(Self::Late(reply.split_off(1))),
            (Some("too old"), Some(lease_time_millis)) if reply.len() == 2 => {
                Ok(Self::TooOld { lease_time_millis })
            }
            _ => Err(ReplyError(reply)),
        }
    }
}

/// The call by which a reader settles leases that have expired.
///
/// It looks at a hundred leases after the first `skip`, and settles those that count in
/// no other keys than `metric_keys` and `foreign_keys`. Counts in the latter are refused.
/// `epoch` is random, for a store that has none.
#[must_use]
pub fn settle_call<'a>(
    prefix: &str,
    epoch: u64,
    skip: u64,
    metric_keys: impl IntoIterator<Item = &'a str>,
    foreign_keys: impl IntoIterator<Item = &'a str>,
) -> Call {
    let mut keys = lease_keys(prefix).to_vec();
    keys.extend(metric_keys.into_iter().map(str::to_owned));
    let mut arguments = vec![
        (REMEMBERED_SECONDS * 1000).to_string(),
        random_text(epoch),
        skip.to_string(),
    ];
    arguments.extend(foreign_keys.into_iter().map(str::to_owned));
    Call { keys, arguments }
}

/// Reply to [`settle_call`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettleReply {
    /// Identifies the contents of the store. A new epoch means that all counts were
    /// wiped or lost.
    pub epoch: String,
    /// Number of leases settled.
    pub leases: u64,
    /// Lease time in milliseconds. A lease has expired if its score is not above it.
    pub lease_time_millis: i64,
    /// `skip` of the call that continues this one; `None` if all expired leases have
    /// been looked at.
    pub next_skip: Option<u64>,
    /// Keys that the call did not name. The leases that count in them are still open.
    pub unknown_keys: Vec<String>,
    /// Members that were removed without being counted, each with the reason.
    pub dropped: Vec<String>,
    /// The number of counts that were refused.
    pub refused_counts: u64,
    /// What they were, without repetition, and not all if they are many: key, field, amount
    /// and error.
    pub refused: Vec<String>,
}

impl SettleReply {
    /// Decodes a reply.
    ///
    /// # Errors
    /// The script returns no such reply.
    pub fn decode(mut reply: Vec<String>) -> Result<Self, ReplyError> {
        let read = |reply: &[String]| {
            let [
                epoch,
                leases,
                time,
                skip,
                unknown,
                dropped,
                refused,
                rest @ ..,
            ] = reply
            else {
                return None;
            };
            let settled = Self {
                epoch: epoch.clone(),
                leases: leases.parse().ok()?,
                lease_time_millis: time.parse().ok()?,
                next_skip: match skip.as_str() {
                    "" => None,
                    skip => Some(skip.parse().ok()?),
                },
                unknown_keys: Vec::new(),
                dropped: Vec::new(),
                refused_counts: refused.parse().ok()?,
                refused: Vec::new(),
            };
            let unknown: usize = unknown.parse().ok()?;
            let dropped: usize = dropped.parse().ok()?;
            let is_whole = unknown.checked_add(dropped)? <= rest.len();
            is_whole.then_some((settled, unknown, dropped))
        };
        let Some((settled, unknown, dropped)) = read(&reply) else {
            return Err(ReplyError(reply));
        };
        let mut unknown_keys = reply.split_off(7);
        let mut dropped_leases = unknown_keys.split_off(unknown);
        Ok(Self {
            refused: dropped_leases.split_off(dropped),
            dropped: dropped_leases,
            unknown_keys,
            ..settled
        })
    }
}

/// The families that a component registers, and the series that it initialises to 0.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Registration {
    /// Each family's hash.
    keys: Vec<String>,
    /// For each family: its field, its registration, the number of series, and each
    /// one's field.
    arguments: Vec<String>,
}

impl Registration {
    /// The registration of a component that serves `algorithm` at `endpoints`.
    #[must_use]
    pub fn of_catalog(catalog: &Catalog, algorithm: &str, endpoints: &[&str]) -> Self {
        let families = catalog.families().into_iter();
        Self::new(
            families.map(|family| (family.name.as_str(), family)),
            &catalog.zero_cells(algorithm, endpoints),
        )
    }

    /// Creates a registration of families, each with its field, and of cells to
    /// initialise, each as key and field.
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

    /// A digest of the registration in 16 hexadecimal digits. It may differ between
    /// builds, which costs one more registration.
    fn digest(&self) -> String {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        format!("{:016x}", hasher.finish())
    }
}

/// The call that asks whether a registration is complete already.
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

/// Decodes the reply to [`is_registered_call`]: lease time in milliseconds, or `None` if
/// the families have to be registered.
///
/// # Errors
/// The script returns no such reply.
pub fn decode_is_registered(reply: Vec<String>) -> Result<Option<i64>, ReplyError> {
    let time = match reply.as_slice() {
        [] => return Ok(None),
        [time] => time.parse().ok(),
        _ => None,
    };
    time.map(Some).ok_or(ReplyError(reply))
}

/// The call that registers families, and initialises series in the hashes of those
/// whose registration is in force. `epoch` is random, for a store that has none.
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

/// Reply to [`register_call`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisterReply {
    /// Lease time in milliseconds.
    pub lease_time_millis: i64,
    /// Whether Redis deletes keys when its memory is full.
    pub eviction: Eviction,
    /// The registration in force for each family, in the call's order.
    pub in_force: Vec<String>,
}

impl RegisterReply {
    /// Decodes the reply to a call with this registration.
    ///
    /// # Errors
    /// The script returns no such reply.
    pub fn decode(registration: &Registration, mut reply: Vec<String>) -> Result<Self, ReplyError> {
        match reply.first().and_then(|time| time.parse().ok()) {
            Some(lease_time_millis) if reply.len() == 2 + registration.keys.len() => Ok(Self {
                lease_time_millis,
                eviction: Eviction::of_policy(&reply[1]),
                in_force: reply.split_off(2),
            }),
            _ => Err(ReplyError(reply)),
        }
    }
}

/// Returns the key to which a writer that registered `ours` writes, if Redis has the
/// registration `in_force`. `None` if its layout differs, or if it is not valid: the
/// family then needs a key of its own ([`Family::with_own_key`]).
///
/// A family with a limit of series has it by its key, so it stays under that one.
#[must_use]
pub fn key_in_force(prefix: &str, ours: &Family, in_force: &str) -> Option<String> {
    let found = Family::decode(&ours.name, in_force.as_bytes()).ok()?;
    let may_be_there = found.key == ours.key || family_of_key(prefix, &ours.key).is_none();
    (found.same_layout(ours) && may_be_there).then_some(found.key)
}

/// Whether Redis deletes keys when its memory is full: its
/// [`maxmemory-policy`](https://redis.io/docs/latest/develop/reference/eviction/).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Eviction {
    /// It deletes none, and refuses writes.
    Never,
    /// It deletes keys by this policy: counts, or what keeps them right.
    Policy(String),
    /// The user has no right to ask.
    Unknown,
}

impl Eviction {
    fn of_policy(policy: &str) -> Self {
        match policy {
            "" => Self::Unknown,
            "noeviction" => Self::Never,
            policy => Self::Policy(policy.to_owned()),
        }
    }
}

/// The call that tries every command that a component needs.
#[must_use]
pub fn check_call(prefix: &str) -> Call {
    Call {
        keys: check_keys(prefix).into(),
        arguments: Vec::new(),
    }
}

/// Reply to [`check_call`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckReply {
    /// Whether Redis deletes keys when its memory is full.
    pub eviction: Eviction,
    /// Commands that Redis refused, each with its error.
    pub refused: Vec<String>,
}

impl CheckReply {
    /// Decodes a reply.
    ///
    /// # Errors
    /// The script returns no such reply.
    pub fn decode(mut reply: Vec<String>) -> Result<Self, ReplyError> {
        match reply.first() {
            Some(policy) => Ok(Self {
                eviction: Eviction::of_policy(policy),
                refused: reply.split_off(1),
            }),
            None => Err(ReplyError(reply)),
        }
    }
}

/// The call that adds to lost counts, if epoch and version are still those that were
/// read. `next_version` is random.
#[must_use]
pub fn add_lost_counts_call(
    prefix: &str,
    epoch: &str,
    version: Option<&str>,
    next_version: &str,
    lost: &Batch,
) -> Call {
    let mut keys = vec![state_key(prefix)];
    let mut arguments = [epoch, version.unwrap_or_default(), next_version]
        .map(str::to_owned)
        .to_vec();
    for (key, fields) in lost.hashes() {
        keys.push(lost_counts_key(prefix, key));
        push_increments(&mut arguments, fields);
    }
    Call { keys, arguments }
}

/// Reply to [`add_lost_counts_call`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddLostCountsReply {
    /// The counts are added.
    Added {
        /// Counts that Redis refused: key, field, amount and error.
        refused: Vec<String>,
    },
    /// Nothing was added, because another reader changed the lost counts or the store
    /// was wiped. Read again.
    Overtaken,
}

impl AddLostCountsReply {
    /// Decodes a reply.
    ///
    /// # Errors
    /// The script returns no such reply.
    pub fn decode(mut reply: Vec<String>) -> Result<Self, ReplyError> {
        match reply.first().map(String::as_str) {
            Some("added") => Ok(Self::Added {
                refused: reply.split_off(1),
            }),
            Some("overtaken") if reply.len() == 1 => Ok(Self::Overtaken),
            _ => Err(ReplyError(reply)),
        }
    }
}

/// Writes a random number as scripts take it.
pub(crate) fn random_text(random: u64) -> String {
    format!("{random:016x}")
}

fn lease_keys(prefix: &str) -> [String; 3] {
    [
        state_key(prefix),
        leases_key(prefix),
        closed_leases_key(prefix),
    ]
}

fn push_increments(arguments: &mut Vec<String>, fields: &BTreeMap<String, u64>) {
    arguments.push(fields.len().to_string());
    for (field, by) in fields {
        arguments.extend([field.clone(), by.to_string()]);
    }
}

fn push_gauge(arguments: &mut Vec<String>, field: &str, gauge: GaugeWrite) {
    let text = |number: Option<i64>| number.map_or_else(String::new, |it| it.to_string());
    arguments.extend([
        field.to_owned(),
        text(gauge.set.map(|_| gauge.value())),
        text(gauge.set_ms),
        gauge.sum.to_string(),
    ]);
}

#[cfg(test)]
#[path = "calls_tests.rs"]
mod tests;
