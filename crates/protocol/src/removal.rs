//! Removal of series, families and all counts by command, and how readers that
//! remember values learn of it.

use serde::{Deserialize, Serialize};

use crate::calls::{Call, families_key, lost_counts_key, random_text, removed_key, state_key};

/// Number of removals that are remembered. A reader that misses more of them continues
/// to serve removed series.
const REMEMBERED: usize = 100_000;

/// Seconds for which removals are remembered after the last one.
const REMEMBERED_SECONDS: u64 = 7 * 24 * 3600;

/// One series or metric hash that was removed: a member of the sorted set of removals.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Removal {
    /// Key of the metric hash.
    pub key: String,
    /// Label set of the series; `None` for all series of the hash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<String>,
}

impl Removal {
    /// Decodes a member of the sorted set.
    ///
    /// # Errors
    /// The member is not a removal.
    pub fn decode(member: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(member)
    }

    fn encode(&self) -> String {
        // A struct of strings always serialises.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// The call that removes the series with these label sets, which have these fields, from
/// the hash `key`. `random` becomes the version of the lost counts. The reply names keys
/// that hold no hash; then nothing was removed.
#[must_use]
pub fn remove_series_call(
    prefix: &str,
    random: u64,
    key: &str,
    label_sets: &[String],
    fields: &[String],
) -> Call {
    let removals = label_sets.iter().map(|labels| Removal {
        key: key.to_owned(),
        labels: Some(labels.clone()),
    });
    let mut call = remove_call(prefix, random, key, removals.collect());
    call.arguments.extend_from_slice(fields);
    call
}

/// The call that removes the hash `key` and the registration under `field`. The reply
/// names keys that hold no hash, which are left alone.
#[must_use]
pub fn remove_family_call(prefix: &str, random: u64, key: &str, field: &str) -> Call {
    let removal = Removal {
        key: key.to_owned(),
        labels: None,
    };
    let mut call = remove_call(prefix, random, key, vec![removal]);
    call.keys.push(families_key(prefix));
    call.arguments.push(field.to_owned());
    call
}

/// The call that removes the registration under `field` and the lost counts of the hash
/// `key`, and tells readers to forget what they served of that hash. The hash itself stays:
/// it may be in another slot of a Redis Cluster, or forbidden to this user, and then no call
/// may name it.
#[must_use]
pub fn remove_registration_call(prefix: &str, random: u64, key: &str, field: &str) -> Call {
    const METRIC_HASH: usize = 2;
    let mut call = remove_family_call(prefix, random, key, field);
    call.keys[METRIC_HASH] = lost_counts_key(prefix, key);
    call
}

/// The call that deletes the metric hashes `keys` with their lost counts, and begins the
/// epoch `epoch`, unless an earlier call of the same wipe began it. The reply names keys that
/// hold no hash, which are left alone.
#[must_use]
pub fn wipe_call<'a>(prefix: &str, epoch: u64, keys: impl IntoIterator<Item = &'a str>) -> Call {
    let hashes = keys
        .into_iter()
        .flat_map(|key| [key.to_owned(), lost_counts_key(prefix, key)]);
    Call {
        keys: [state_key(prefix), removed_key(prefix)]
            .into_iter()
            .chain(hashes)
            .collect(),
        arguments: vec![random_text(epoch)],
    }
}

fn remove_call(prefix: &str, random: u64, key: &str, removals: Vec<Removal>) -> Call {
    let mut arguments = vec![
        random_text(random),
        REMEMBERED.to_string(),
        REMEMBERED_SECONDS.to_string(),
        removals.len().to_string(),
    ];
    arguments.extend(removals.iter().map(Removal::encode));
    Call {
        keys: vec![
            state_key(prefix),
            removed_key(prefix),
            key.to_owned(),
            lost_counts_key(prefix, key),
        ],
        arguments,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_name_every_key_and_every_removal() {
        let sets = ["a=\"1\"".to_owned(), String::new()];
        let fields = ["a=\"1\"".to_owned(), String::new()];
        let call = remove_series_call("m:", 7, "other", &sets, &fields);
        assert_eq!(call.keys, ["m:state", "m:removed", "other", "m:lost:other"]);
        assert_eq!(
            call.arguments,
            [
                "0000000000000007",
                "100000",
                "604800",
                "2",
                r#"{"key":"other","labels":"a=\"1\""}"#,
                r#"{"key":"other","labels":""}"#,
                "a=\"1\"",
                ""
            ]
        );
        let call = remove_family_call("m:", 7, "m:k", "k_total@2");
        assert_eq!(call.keys[4], "m:families");
        assert_eq!(call.arguments[3..], ["1", r#"{"key":"m:k"}"#, "k_total@2"]);
        let call = remove_registration_call("m:", 7, "other", "k_total");
        assert_eq!(
            call.keys[2..],
            ["m:lost:other", "m:lost:other", "m:families"]
        );
        assert_eq!(call.arguments[4..], [r#"{"key":"other"}"#, "k_total"]);
        let call = wipe_call("m:", 7, ["m:k", "other"]);
        assert_eq!(
            call.keys,
            [
                "m:state",
                "m:removed",
                "m:k",
                "m:lost:m:k",
                "other",
                "m:lost:other"
            ]
        );
    }

    #[test]
    fn removals_decode_and_other_texts_are_refused() {
        for labels in [None, Some(String::new()), Some("a=\"\\\\\"".to_owned())] {
            let removal = Removal {
                key: "k".into(),
                labels,
            };
            let read = Removal::decode(removal.encode().as_bytes());
            assert_eq!(read.ok(), Some(removal));
        }
        for member in ["", "k", "{}", r#"{"key":1}"#, r#"{"key":"k","x":1}"#] {
            assert!(Removal::decode(member.as_bytes()).is_err(), "{member}");
        }
    }
}
