//! Decode errors: what Redis holds but cannot be served, counted by family and reason,
//! and logged once each. Both are bounded, whatever Redis holds.

use std::{
    collections::{BTreeMap, HashSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use functional_scaffold_protocol::labels::is_metric_name;

/// Examples that are kept of one family and reason.
const MAX_EXAMPLES: usize = 20;
/// Families and reasons that are counted separately; further families are counted
/// together.
const MAX_LABEL_SETS: usize = 100;
/// Errors that are logged until there is a read without errors.
const MAX_LOGGED: usize = 1000;
/// Bytes of an example: a field may have megabytes.
const MAX_EXAMPLE_BYTES: usize = 300;

/// The label `family` of errors in the hash of registrations.
pub(crate) const REGISTRY: &str = "(families)";
/// The label `family` of errors in the sorted set of open leases.
pub(crate) const LEASES: &str = "(leases)";
/// The label `family` of errors in the hash with the store's state.
pub(crate) const STATE: &str = "(state)";
/// The label `family` of errors in the sorted set of removals.
pub(crate) const REMOVED: &str = "(removed)";
/// The label `family` of registrations without a valid name.
const INVALID_NAME: &str = "(invalid name)";
/// The label `family` beyond [`MAX_LABEL_SETS`].
const OTHER_FAMILIES: &str = "(other)";

/// The label `reason`, where it is not the [`class`] of a cell's error.
///
/// [`class`]: functional_scaffold_protocol::cell::CellError::class
pub(crate) mod reason {
    pub(crate) const REGISTRATION: &str = "registration";
    /// The name is the exporter's own, or its samples would be another family's.
    pub(crate) const NAME_COLLISION: &str = "name_collision";
    /// A layout cannot be added to the first one of its family.
    pub(crate) const LAYOUT: &str = "layout";
    pub(crate) const LEASE: &str = "lease";
    pub(crate) const REMOVAL: &str = "removal";
    pub(crate) const TOO_MANY: &str = "too_many";
    pub(crate) const TOO_LONG: &str = "too_long";
    /// The key is in a slot of a Redis Cluster that this node does not serve.
    pub(crate) const OTHER_SLOT: &str = "other_slot";
    pub(crate) const WRONG_TYPE: &str = "wrong_type";
    /// The Redis user may not read the key.
    pub(crate) const FORBIDDEN: &str = "forbidden";
}

/// The decode errors of one read.
#[derive(Debug, Default)]
pub struct DecodeErrors {
    /// By family and reason.
    errors: BTreeMap<(String, &'static str), Errors>,
}

#[derive(Debug, Default)]
struct Errors {
    count: u64,
    examples: Vec<String>,
}

impl DecodeErrors {
    /// Counts one error. Calls `example` only if its text is kept.
    pub(crate) fn add(
        &mut self,
        family: &str,
        reason: &'static str,
        example: impl FnOnce() -> String,
    ) {
        let errors = self.errors(family, reason);
        errors.count = errors.count.saturating_add(1);
        if errors.examples.len() < MAX_EXAMPLES {
            errors.examples.push(shortened(example()));
        }
    }

    /// Adds the errors of another part of the read.
    pub(crate) fn merge(&mut self, other: Self) {
        for ((family, reason), other) in other.errors {
            let errors = self.errors(&family, reason);
            errors.count = errors.count.saturating_add(other.count);
            errors.examples.extend(other.examples);
            errors.examples.truncate(MAX_EXAMPLES);
        }
    }

    /// Iterates over family, reason and number of errors, in order.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (&str, &'static str, u64)> {
        let errors = self.errors.iter();
        errors.map(|((family, reason), errors)| (family.as_str(), *reason, errors.count))
    }

    fn errors(&mut self, family: &str, reason: &'static str) -> &mut Errors {
        let own = [
            REGISTRY,
            LEASES,
            STATE,
            REMOVED,
            INVALID_NAME,
            OTHER_FAMILIES,
        ];
        let key = |label: &str| (label.to_owned(), reason);
        let key = if own.contains(&family) {
            key(family)
        } else if !is_metric_name(family) {
            key(INVALID_NAME)
        } else if self.errors.len() < MAX_LABEL_SETS || self.errors.contains_key(&key(family)) {
            key(family)
        } else {
            key(OTHER_FAMILIES)
        };
        self.errors.entry(key).or_default()
    }
}

/// Remembers which decode errors were logged.
#[derive(Default)]
pub(crate) struct DecodeErrorLog {
    // Hashes instead of texts, to save memory.
    logged: HashSet<u64>,
}

impl DecodeErrorLog {
    /// Logs the errors that were not logged yet. A read without errors starts over,
    /// so that an error that recurs is logged again.
    pub(crate) fn log(&mut self, errors: &DecodeErrors) {
        for line in self.new_lines(errors) {
            tracing::warn!("not served: {line}");
        }
    }

    fn new_lines(&mut self, errors: &DecodeErrors) -> Vec<String> {
        if errors.errors.is_empty() {
            self.logged.clear();
        }
        let mut lines = Vec::new();
        for ((family, reason), errors) in &errors.errors {
            for example in &errors.examples {
                if self.logged.len() >= MAX_LOGGED {
                    return lines;
                }
                let mut hasher = DefaultHasher::new();
                (family, reason, example).hash(&mut hasher);
                if self.logged.insert(hasher.finish()) {
                    lines.push(format!("family {family} ({reason}): {example}"));
                    if self.logged.len() == MAX_LOGGED {
                        lines.push("further errors are counted but not logged".into());
                    }
                }
            }
        }
        lines
    }
}

fn shortened(mut text: String) -> String {
    if text.len() > MAX_EXAMPLE_BYTES {
        text.truncate(text.floor_char_boundary(MAX_EXAMPLE_BYTES));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(texts: &[&str]) -> DecodeErrors {
        let mut errors = DecodeErrors::default();
        for text in texts {
            errors.add("f", "value", || (*text).to_owned());
        }
        errors
    }

    #[test]
    fn each_error_is_logged_once_until_a_read_without_errors() {
        let mut log = DecodeErrorLog::default();
        assert_eq!(log.new_lines(&errors(&["a", "b"])).len(), 2);
        assert_eq!(
            log.new_lines(&errors(&["b", "c", "a"])),
            ["family f (value): c"]
        );
        assert!(log.new_lines(&errors(&[])).is_empty());
        assert_eq!(log.new_lines(&errors(&["a"])).len(), 1);
    }

    #[test]
    fn memory_and_log_are_bounded() {
        let mut all = DecodeErrors::default();
        for family in 0..10_000 {
            all.add(&format!("f{family}"), "value", || "x".repeat(10_000));
        }
        for field in 0..10_000 {
            all.add("f0", "value", || field.to_string());
        }
        all.add("9 lives", "registration", || "é".repeat(300));
        let counts: Vec<_> = all.counts().collect();
        assert!(counts.len() <= MAX_LABEL_SETS + 3, "{}", counts.len());
        assert_eq!(
            counts.iter().map(|(_, _, count)| count).sum::<u64>(),
            20_001
        );
        assert!(counts.contains(&("(invalid name)", "registration", 1)));
        assert!(
            counts
                .iter()
                .any(|(family, _, count)| *family == "(other)" && *count > 9_000)
        );

        let mut log = DecodeErrorLog::default();
        for first in (0..100_000).step_by(20) {
            let texts: Vec<_> = (first..first + 20).map(|n| n.to_string()).collect();
            let texts: Vec<_> = texts.iter().map(String::as_str).collect();
            log.new_lines(&errors(&texts));
        }
        assert_eq!(log.logged.len(), MAX_LOGGED);
    }

    #[test]
    fn parts_of_a_read_add_up() {
        let mut all = errors(&["a"]);
        all.merge(errors(&["b", "c"]));
        assert_eq!(all.counts().collect::<Vec<_>>(), [("f", "value", 3)]);
    }
}
