//! The form of each call and command. Makes none.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use crate::{
    batch::{Batch, BatchId, SentBatch},
    catalog::Catalog,
    family::Family,
    lease::LeaseEntry,
    protocol::{
        KNOWN_SECONDS, REMEMBERED_SECONDS, applied_key, closed_leases_key, families_key, known_key,
        leases_key, offset_key, state_key,
    },
};

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
pub fn lease_command(prefix: &str, lease: &LeaseEntry, lease_time_millis: i64) -> Command {
    let due = lease_time_millis.saturating_add_unsigned(lease.millis);
    Command {
        name: "ZADD",
        arguments: vec![leases_key(prefix), due.to_string(), lease.member.clone()],
    }
}

/// The call that settles leases that have run out, of those that count in
/// `countable` keys only. It looks at a hundred, after passing over `skip`.
/// `epoch` is random, for a store that has none.
#[must_use]
pub fn settle_call<'a>(
    prefix: &str,
    epoch: u64,
    skip: u64,
    countable: impl IntoIterator<Item = &'a str>,
) -> Call {
    let mut keys = lease_keys(prefix).to_vec();
    keys.extend(countable.into_iter().map(str::to_owned));
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

/// The call that applies a batch; its reply tells lease time. It settles leases
/// that have run out, too, of those that count in the batch's keys and `countable`
/// ones.
#[must_use]
pub fn apply_call(prefix: &str, batch: &SentBatch, countable: &[&str]) -> Call {
    let leases = batch.leased.iter().map(|leased| &leased.lease);
    let leases: Vec<_> = leases.map(LeaseEntry::from).collect();
    apply_total_call(prefix, &batch.id, leases.iter(), &batch.total(), countable)
}

/// The same of a batch that settles `leases` and adds `total` in all.
#[must_use]
pub fn apply_total_call<'a>(
    prefix: &str,
    id: &BatchId,
    leases: impl ExactSizeIterator<Item = &'a LeaseEntry> + Clone,
    total: &Batch,
    countable: &[&str],
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
    for key in countable {
        if !keys.iter().any(|named| named == key) {
            keys.push((*key).to_owned());
            arguments.push("0".to_owned());
        }
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
pub fn offset_call(
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
        keys.push(offset_key(prefix, key));
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
pub fn known_call(prefix: &str, registration: &Registration) -> Call {
    Call {
        keys: vec![state_key(prefix), known_key(prefix, &registration.digest())],
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
        known_key(prefix, &registration.digest()),
    ];
    keys.extend_from_slice(&registration.keys);
    let mut arguments = vec![random_text(epoch), KNOWN_SECONDS.to_string()];
    arguments.extend_from_slice(&registration.arguments);
    Call { keys, arguments }
}

pub(crate) fn random_text(random: u64) -> String {
    format!("{random:016x}")
}
