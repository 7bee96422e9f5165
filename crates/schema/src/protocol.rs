//! Redis keys, scripts, and their arguments and replies: version 1 of the
//! protocol in `docs/redis-protocol.md`. Owns the form of each call; makes none.

use std::collections::BTreeMap;

use thiserror::Error;

use crate::{
    batch::{Batch, BatchId},
    family::Family,
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
    pub source: &'static str,
    /// SHA-1 of the source, 40 hexadecimal digits.
    pub sha: String,
}

impl Script {
    fn new(source: &'static str) -> Self {
        let sha = sha1_smol::Sha1::from(source).digest().to_string();
        Self { source, sha }
    }

    /// Applies a batch once; see [`apply_call`].
    #[must_use]
    pub fn apply() -> Self {
        Self::new(include_str!("scripts/apply.lua"))
    }

    /// Registers families; see [`register_call`].
    #[must_use]
    pub fn register() -> Self {
        Self::new(include_str!("scripts/register.lua"))
    }
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

/// The call that applies a batch.
#[must_use]
pub fn apply_call(prefix: &str, id: &BatchId, batch: &Batch) -> Call {
    let mut keys = vec![applied_key(prefix, id)];
    let mut arguments = Vec::with_capacity(4 + 2 * batch.len());
    arguments.extend([
        id.writer(),
        id.sequence.to_string(),
        REMEMBERED_SECONDS.to_string(),
    ]);
    for (key, fields) in batch.hashes() {
        keys.push(key.to_owned());
        arguments.push(fields.len().to_string());
        for (field, by) in fields {
            arguments.extend([field.clone(), by.to_string()]);
        }
    }
    Call { keys, arguments }
}

/// What became of a batch that Redis has answered for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Whether it had been applied before, so that nothing changed now.
    pub duplicate: bool,
    /// Increments that could not be applied: key, field and Redis's error.
    pub refused: Vec<String>,
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
    let duplicate = match reply.first().map(String::as_str) {
        Some("applied") => false,
        Some("duplicate") if reply.len() == 1 => true,
        _ => return Err(ReplyError(reply)),
    };
    reply.remove(0);
    Ok(Applied {
        duplicate,
        refused: reply,
    })
}

/// The call that registers families under their fields, and bears series at 0
/// in the given cells (key and field).
#[must_use]
pub fn register_call(
    prefix: &str,
    families: &[(String, Family)],
    zero_cells: &[(String, String)],
) -> Call {
    let mut arguments = vec![families.len().to_string()];
    for (field, family) in families {
        arguments.extend([field.clone(), family.encode()]);
    }
    let mut by_key: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (key, field) in zero_cells {
        by_key.entry(key).or_default().push(field);
    }
    let mut keys = vec![families_key(prefix)];
    for (key, fields) in by_key {
        keys.push(key.to_owned());
        arguments.push(fields.len().to_string());
        arguments.extend(fields.into_iter().map(str::to_owned));
    }
    Call { keys, arguments }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Catalog;

    fn id() -> BatchId {
        BatchId {
            started_at: 1_200,
            nonce: 0xab,
            sequence: 7,
        }
    }

    #[test]
    fn an_apply_call_names_every_key_and_counts_every_field() {
        let mut batch = Batch::default();
        batch.inc("m:a", "x=\"1\"", 2);
        batch.inc("m:b", "y=\"1\"|sum", 3);
        batch.inc("m:b", "y=\"1\"|1", 1);
        let call = apply_call("m:", &id(), &batch);
        assert_eq!(call.keys, ["m:applied:2", "m:a", "m:b"]);
        assert_eq!(
            call.arguments,
            [
                "00000000000000ab",
                "7",
                "3600",
                "1",
                "x=\"1\"",
                "2",
                "2",
                "y=\"1\"|1",
                "1",
                "y=\"1\"|sum",
                "3"
            ]
        );
        let parts: Vec<_> = call.parts().collect();
        assert_eq!(parts.len(), 1 + 3 + 11);
        assert_eq!(parts[0], b"3");
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
        let call = register_call("m:", &families, &zeros);
        assert_eq!(
            call.keys,
            ["m:families", "m:algorithm_counter", "m:request_counter"]
        );
        assert_eq!(call.arguments.len(), 1 + 2 * 4 + 2 + zeros.len());
        assert_eq!(call.arguments[9], "4");
    }

    #[test]
    fn replies_are_read_or_refused() {
        let read = |reply: &[&str]| {
            applied_from_reply(reply.iter().map(|&text| text.to_owned()).collect())
        };
        assert_eq!(
            read(&["applied", "k f: WRONGTYPE"]),
            Ok(Applied {
                duplicate: false,
                refused: vec!["k f: WRONGTYPE".into()]
            })
        );
        assert_eq!(
            read(&["duplicate"]).map(|applied| applied.duplicate),
            Ok(true)
        );
        for reply in [&[][..], &["OK"], &["duplicate", "x"]] {
            assert!(read(reply).is_err(), "{reply:?}");
        }
    }
}
