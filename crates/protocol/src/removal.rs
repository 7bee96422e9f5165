//! Series, families and all counts taken out of the store by hand, and how
//! readers that remember values hear of it. Pure; what is removed is chosen by
//! the exporter's commands, and done by scripts.

use serde::{Deserialize, Serialize};

use crate::calls::{Call, families_key, lost_counts_key, random_text, removed_key, state_key};

/// How many removals are remembered. A reader that slept through more of them
/// goes on serving what was removed.
const REMEMBERED: usize = 100_000;

/// For how many seconds they are remembered after the last one.
const REMEMBERED_SECONDS: u64 = 7 * 24 * 3600;

/// Something that was removed, as it stands in the sorted set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Removed {
    /// The key of the metric hash.
    pub key: String,
    /// The series' label set; without one, all series of the hash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<String>,
}

impl Removed {
    /// Reads a member of the sorted set.
    ///
    /// # Errors
    /// It says nothing of a removal.
    pub fn decode(member: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(member)
    }

    fn encode(&self) -> String {
        // A struct of strings always serialises.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// The call that removes series from the hash `key`: those with these label
/// sets, which are all of these fields. `random` is the offsets' version from
/// then on.
#[must_use]
pub fn remove_series_call(
    prefix: &str,
    random: u64,
    key: &str,
    label_sets: &[String],
    fields: &[String],
) -> Call {
    let removed = label_sets.iter().map(|labels| Removed {
        key: key.to_owned(),
        labels: Some(labels.clone()),
    });
    let mut call = remove_call(prefix, random, key, removed.collect());
    call.arguments.extend_from_slice(fields);
    call
}

/// The call that removes the hash `key`, and the registration under `field`.
#[must_use]
pub fn remove_family_call(prefix: &str, random: u64, key: &str, field: &str) -> Call {
    let removed = Removed {
        key: key.to_owned(),
        labels: None,
    };
    let mut call = remove_call(prefix, random, key, vec![removed]);
    call.keys.push(families_key(prefix));
    call.arguments.push(field.to_owned());
    call
}

fn remove_call(prefix: &str, random: u64, key: &str, removed: Vec<Removed>) -> Call {
    let mut arguments = vec![
        random_text(random),
        REMEMBERED.to_string(),
        REMEMBERED_SECONDS.to_string(),
        removed.len().to_string(),
    ];
    arguments.extend(removed.iter().map(Removed::encode));
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

/// The call that begins an epoch, with the metric hashes `keys` and their offsets
/// empty.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_name_every_key_and_say_what_is_removed() {
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
    fn removals_read_back_and_other_text_is_refused() {
        for labels in [None, Some(String::new()), Some("a=\"\\\\\"".to_owned())] {
            let removed = Removed {
                key: "k".into(),
                labels,
            };
            let read = Removed::decode(removed.encode().as_bytes());
            assert_eq!(read.ok(), Some(removed));
        }
        for member in ["", "k", "{}", r#"{"key":1}"#, r#"{"key":"k","x":1}"#] {
            assert!(Removed::decode(member.as_bytes()).is_err(), "{member}");
        }
    }
}
