//! Redis keys, scripts, and their arguments and replies: version 1 of the
//! protocol in `docs/redis-protocol.md`. Owns the form of each call; makes none.

use thiserror::Error;

use crate::{
    batch::{Batch, BatchId, SentBatch},
    family::Family,
    lease::{Lease, LeaseEntry},
};

/// The prefix of every key unless another is configured.
pub const DEFAULT_PREFIX: &str = "metrics:";

/// How long an applied id is remembered at least, in seconds. A batch that
/// arrives again within this time changes nothing.
pub const REMEMBERED_SECONDS: u64 = 3600;

/// The width of a bucket of applied ids in seconds: ids of writers that began
/// in the same bucket are kept in one hash and forgotten together.
const BUCKET_SECONDS: u64 = 600;

/// A Lua script and the digest that
/// [`EVALSHA`](https://redis.io/docs/latest/commands/evalsha/) names it by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// The source.
    pub source: String,
    /// SHA-1 of the source, 40 hexadecimal digits.
    pub sha: String,
}

impl Script {
    fn new(parts: &[&str]) -> Self {
        let source = parts.concat();
        let sha = sha1_smol::Sha1::from(&source).digest().to_string();
        Self { source, sha }
    }

    /// Applies a batch once; see [`apply_call`].
    #[must_use]
    pub fn apply() -> Self {
        Self::new(&[CLOCK, EXPIRE, include_str!("scripts/apply.lua")])
    }

    /// Takes a lease; see [`lease_call`].
    #[must_use]
    pub fn lease() -> Self {
        Self::new(&[CLOCK, include_str!("scripts/lease.lua")])
    }

    /// Settles leases that have run out; see [`settle_call`].
    #[must_use]
    pub fn settle() -> Self {
        Self::new(&[CLOCK, EXPIRE, include_str!("scripts/settle.lua")])
    }

    /// Registers families; see [`register_call`].
    #[must_use]
    pub fn register() -> Self {
        Self::new(&[include_str!("scripts/register.lua")])
    }
}

const CLOCK: &str = include_str!("scripts/clock.lua");
const EXPIRE: &str = include_str!("scripts/expire.lua");

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

/// The key of the hash of families.
#[must_use]
pub fn families_key(prefix: &str) -> String {
    format!("{prefix}families")
}

/// The key of the hash that remembers a batch's id.
#[must_use]
pub fn applied_key(prefix: &str, id: &BatchId) -> String {
    format!("{prefix}applied:{}", id.started_at / BUCKET_SECONDS)
}

/// The key of the hash that keeps the clock: `last_ms`, `shift_ms`, and
/// `flushed_ms`, when a batch was last applied.
#[must_use]
pub fn state_key(prefix: &str) -> String {
    format!("{prefix}state")
}

/// The key of the sorted set of open leases, by the time they run out.
#[must_use]
pub fn leases_key(prefix: &str) -> String {
    format!("{prefix}leases")
}

/// The key of the sorted set of closed leases' ids, by the time until which
/// they are remembered.
#[must_use]
pub fn closed_leases_key(prefix: &str) -> String {
    format!("{prefix}closed_leases")
}

/// The call that takes leases before their executions begin.
#[must_use]
pub fn lease_call(prefix: &str, leases: &[Lease]) -> Call {
    let entries: Vec<_> = leases.iter().map(LeaseEntry::from).collect();
    lease_entry_call(prefix, &entries)
}

/// The same of leases that are encoded already.
#[must_use]
pub fn lease_entry_call(prefix: &str, leases: &[LeaseEntry]) -> Call {
    let keys = lease_keys(prefix).to_vec();
    let arguments = leases
        .iter()
        .flat_map(|lease| {
            [
                lease.id.clone(),
                lease.millis.to_string(),
                lease.member.clone(),
            ]
        })
        .collect();
    Call { keys, arguments }
}

/// The call that settles leases that have run out, of those that count in
/// `countable` keys only. `epoch` is random, for a store that has none.
#[must_use]
pub fn settle_call<'a>(
    prefix: &str,
    epoch: u64,
    countable: impl IntoIterator<Item = &'a str>,
) -> Call {
    let mut keys = lease_keys(prefix).to_vec();
    keys.extend(countable.into_iter().map(str::to_owned));
    Call {
        keys,
        arguments: vec![(REMEMBERED_SECONDS * 1000).to_string(), epoch_text(epoch)],
    }
}

fn lease_keys(prefix: &str) -> [String; 3] {
    [
        state_key(prefix),
        leases_key(prefix),
        closed_leases_key(prefix),
    ]
}

/// The call that applies a batch. It settles leases that have run out, too, of
/// those that count in the batch's keys and `countable` ones.
#[must_use]
pub fn apply_call(prefix: &str, batch: &SentBatch, countable: &[&str]) -> Call {
    let leases = batch.leased.iter().map(|leased| &leased.lease);
    let leases: Vec<_> = leases.map(LeaseEntry::from).collect();
    apply_total_call(prefix, &batch.id, &leases, &batch.total(), countable)
}

/// The same of a batch that settles `leases` and adds `total` in all.
#[must_use]
pub fn apply_total_call<'a>(
    prefix: &str,
    id: &BatchId,
    leases: impl IntoIterator<Item = &'a LeaseEntry, IntoIter: ExactSizeIterator>,
    total: &Batch,
    countable: &[&str],
) -> Call {
    let leases = leases.into_iter();
    let mut keys = vec![applied_key(prefix, id)];
    keys.extend(lease_keys(prefix));
    let mut arguments = Vec::with_capacity(8 + 2 * (leases.len() + total.len()));
    arguments.extend([
        id.writer(),
        id.sequence.to_string(),
        REMEMBERED_SECONDS.to_string(),
        leases.len().to_string(),
    ]);
    for lease in leases {
        arguments.extend([lease.id.clone(), lease.member.clone()]);
    }
    for (key, fields) in total.hashes() {
        keys.push(key.to_owned());
        arguments.push(fields.len().to_string());
        for (field, by) in fields {
            arguments.extend([field.clone(), by.to_string()]);
        }
    }
    for key in countable {
        if !keys.iter().any(|named| named == key) {
            keys.push((*key).to_owned());
            arguments.push("0".to_owned());
        }
    }
    Call { keys, arguments }
}

/// What became of a batch that Redis has answered for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// It is stored.
    Stored {
        /// Increments that could not be applied: key, field and Redis's error.
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
    /// The time that the scores of open leases are compared with, in
    /// milliseconds: a lease runs out when its score is not above it.
    pub lease_time_millis: i64,
    /// Counts that could not be applied: key, field and Redis's error.
    pub refused: Vec<String>,
}

/// Reads the reply to [`settle_call`].
///
/// # Errors
/// The reply is not one of the script's.
pub fn settled_from_reply(mut reply: Vec<String>) -> Result<Settled, ReplyError> {
    let read = |reply: &[String]| match reply {
        [epoch, leases, time, ..] => {
            Some((epoch.clone(), leases.parse().ok()?, time.parse().ok()?))
        }
        _ => None,
    };
    match read(&reply) {
        Some((epoch, leases, lease_time_millis)) => Ok(Settled {
            epoch,
            leases,
            lease_time_millis,
            refused: reply.split_off(3),
        }),
        None => Err(ReplyError(reply)),
    }
}

/// A reply that the script does not give.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("unexpected script reply {0:?}")]
pub struct ReplyError(Vec<String>);

/// Reads the reply to [`apply_call`].
///
/// # Errors
/// The reply is not one of the script's.
pub fn applied_from_reply(mut reply: Vec<String>) -> Result<Applied, ReplyError> {
    match reply.first().map(String::as_str) {
        Some("applied") => Ok(Applied::Stored {
            refused: reply.split_off(1),
        }),
        Some("duplicate") if reply.len() == 1 => Ok(Applied::Duplicate),
        Some("late") if reply.len() > 1 => Ok(Applied::Late(reply.split_off(1))),
        _ => Err(ReplyError(reply)),
    }
}

/// The call that registers families under their fields, and bears series at 0
/// in the given cells (key and field) of those whose registration stands.
/// `epoch` is random, for a store that has none.
#[must_use]
pub fn register_call(
    prefix: &str,
    epoch: u64,
    families: &[(String, Family)],
    zero_cells: &[(String, String)],
) -> Call {
    let mut keys = vec![families_key(prefix), state_key(prefix)];
    let mut arguments = vec![epoch_text(epoch)];
    for (field, family) in families {
        let zeros: Vec<_> = zero_cells
            .iter()
            .filter(|(key, _)| *key == family.key)
            .map(|(_, field)| field.clone())
            .collect();
        keys.push(family.key.clone());
        arguments.extend([field.clone(), family.encode(), zeros.len().to_string()]);
        arguments.extend(zeros);
    }
    Call { keys, arguments }
}

fn epoch_text(epoch: u64) -> String {
    format!("{epoch:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{batch::Leased, catalog::Catalog};

    fn id() -> BatchId {
        BatchId {
            started_at: 1_200,
            nonce: 0xab,
            sequence: 7,
        }
    }

    fn lease() -> Lease {
        Lease {
            id: "ab/1".into(),
            millis: 35_000,
            count: vec![("m:c".into(), "f".into())],
        }
    }

    #[test]
    fn an_apply_call_names_every_key_and_counts_every_field() {
        let mut increments = Batch::default();
        increments.inc("m:a", "x=\"1\"", 2);
        increments.inc("m:b", "y=\"1\"|sum", 3);
        let mut of_lease = Batch::default();
        of_lease.inc("m:b", "y=\"1\"|sum", 4);
        of_lease.inc("m:b", "y=\"1\"|1", 1);
        let batch = SentBatch {
            id: id(),
            increments,
            leased: vec![Leased {
                lease: lease(),
                increments: of_lease,
            }],
        };
        let call = apply_call("m:", &batch, &["m:c", "m:a"]);
        assert_eq!(
            call.keys,
            [
                "m:applied:2",
                "m:state",
                "m:leases",
                "m:closed_leases",
                "m:a",
                "m:b",
                "m:c"
            ]
        );
        let member = lease().encode();
        assert_eq!(
            call.arguments,
            [
                "00000000000000ab",
                "7",
                "3600",
                "1",
                "ab/1",
                &member,
                "1",
                "x=\"1\"",
                "2",
                "2",
                "y=\"1\"|1",
                "1",
                "y=\"1\"|sum",
                "7",
                "0"
            ]
        );
        let parts: Vec<_> = call.parts().collect();
        assert_eq!(parts.len(), 1 + 7 + 15);
        assert_eq!(parts[0], b"7");
    }

    #[test]
    fn lease_and_settle_calls_share_their_first_keys() {
        let taken = lease_call("m:", &[lease()]);
        let settled = settle_call("m:", 7, ["m:a", "m:b"]);
        assert_eq!(taken.keys, ["m:state", "m:leases", "m:closed_leases"]);
        assert_eq!(taken.keys, settled.keys[..3]);
        assert_eq!(settled.keys[3..], ["m:a", "m:b"]);
        assert_eq!(taken.arguments, ["ab/1", "35000", &lease().encode()]);
        assert_eq!(settled.arguments, ["3600000", "0000000000000007"]);
    }

    #[test]
    fn a_register_call_names_every_key_and_counts_every_field() {
        let catalog = Catalog::new("m:");
        let families: Vec<_> = catalog
            .families()
            .into_iter()
            .map(|family| (family.name.clone(), family.clone()))
            .collect();
        let zeros: Vec<_> = catalog
            .zero_cells("a", &["/invoke"])
            .into_iter()
            .map(|(key, field)| (key.to_owned(), field))
            .collect();
        let call = register_call("m:", 7, &families, &zeros);
        assert_eq!(
            call.keys[..3],
            ["m:families", "m:state", "m:request_counter"]
        );
        assert_eq!(call.keys.len(), 2 + 8);
        assert_eq!(call.arguments.len(), 1 + 3 * 8 + zeros.len());
        assert_eq!(call.arguments[1], "http_requests_total");
        assert_eq!(call.arguments[3], "1");
        assert_eq!(call.arguments[4], zeros[4].1);
    }

    #[test]
    fn replies_are_read_or_refused() {
        let read = |reply: &[&str]| {
            applied_from_reply(reply.iter().map(|&text| text.to_owned()).collect())
        };
        assert_eq!(
            read(&["applied", "k f: WRONGTYPE"]),
            Ok(Applied::Stored {
                refused: vec!["k f: WRONGTYPE".into()]
            })
        );
        assert_eq!(read(&["duplicate"]), Ok(Applied::Duplicate));
        assert_eq!(
            read(&["late", "ab/1"]),
            Ok(Applied::Late(vec!["ab/1".into()]))
        );
        let settled = ["e", "2", "17", "k f: WRONGTYPE"].map(str::to_owned);
        assert_eq!(
            settled_from_reply(settled.to_vec()),
            Ok(Settled {
                epoch: "e".into(),
                leases: 2,
                lease_time_millis: 17,
                refused: vec!["k f: WRONGTYPE".into()]
            })
        );
        assert!(settled_from_reply(vec!["e".into(), "x".into(), "1".into()]).is_err());
        for reply in [&[][..], &["OK"], &["duplicate", "x"], &["late"]] {
            assert!(read(reply).is_err(), "{reply:?}");
        }
    }
}
