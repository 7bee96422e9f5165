//! What Redis holds and cannot be served: counted by family and reason, and
//! logged once each. Owns the bounds on both, whatever Redis holds.

use std::{
    collections::{BTreeMap, HashSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use functional_scaffold_protocol::labels::is_metric_name;

/// Offences of one family and reason that are kept with their text.
const MAX_EXAMPLES: usize = 20;
/// Families that are counted by name; further ones together.
const MAX_FAMILIES: usize = 100;
/// Offences that are logged before a read without any.
const MAX_LOGGED: usize = 1000;
/// Bytes of an offence's text that are kept: a field may be megabytes long.
const MAX_TEXT_BYTES: usize = 300;

/// The label of what concerns the hash of families as a whole.
pub const REGISTRY: &str = "(families)";
/// The label of what concerns the sorted set of open leases.
pub const LEASES: &str = "(leases)";
/// The label of what concerns the hash that keeps clock and epoch.
pub const STATE: &str = "(state)";
/// The label of what concerns the sorted set of what was removed by hand.
pub const REMOVED: &str = "(removed)";
/// The label of registrations whose name is no metric name.
const INVALID_NAME: &str = "(invalid name)";
/// The label of the families beyond [`MAX_FAMILIES`].
const OTHER_FAMILIES: &str = "(other)";

/// Why something is not served, where it is no cell: [`CellError::class`] is
/// the reason of those.
///
/// [`CellError::class`]: functional_scaffold_protocol::cell::CellError::class
pub mod reason {
    /// The registration is not valid.
    pub const REGISTRATION: &str = "registration";
    /// The name is the exporter's own, or its series would be another's.
    pub const NAME_COLLISION: &str = "name_collision";
    /// A layout of a family that cannot be added to the first one.
    pub const LAYOUT: &str = "layout";
    /// A member of the sorted set of open leases is no lease of an execution.
    pub const LEASE: &str = "lease";
    /// A member of the sorted set of what was removed says nothing of that.
    pub const REMOVAL: &str = "removal";
    /// More than are looked at.
    pub const TOO_MANY: &str = "too_many";
    /// The key is of another type than it should be.
    pub const WRONG_TYPE: &str = "wrong_type";
    /// The Redis user may not read the key.
    pub const FORBIDDEN: &str = "forbidden";
}

/// The offences of one read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Offences {
    by_family: BTreeMap<String, BTreeMap<&'static str, Tally>>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Tally {
    count: u64,
    examples: Vec<String>,
}

impl Offences {
    /// Counts one. `text` is called only if it is to be kept.
    pub fn add(&mut self, family: &str, reason: &'static str, text: impl FnOnce() -> String) {
        let tally = self.tally(family, reason);
        tally.count = tally.count.saturating_add(1);
        if tally.examples.len() < MAX_EXAMPLES {
            tally.examples.push(shortened(text()));
        }
    }

    /// Adds those of another part of the read.
    pub fn merge(&mut self, other: Self) {
        for (family, reasons) in other.by_family {
            for (reason, theirs) in reasons {
                let tally = self.tally(&family, reason);
                tally.count = tally.count.saturating_add(theirs.count);
                tally.examples.extend(theirs.examples);
                tally.examples.truncate(MAX_EXAMPLES);
            }
        }
    }

    /// How many there were of each family and reason, in order.
    pub fn counts(&self) -> impl Iterator<Item = (&str, &'static str, u64)> {
        self.by_family.iter().flat_map(|(family, reasons)| {
            reasons
                .iter()
                .map(|(&reason, tally)| (family.as_str(), reason, tally.count))
        })
    }

    fn tally(&mut self, family: &str, reason: &'static str) -> &mut Tally {
        let own = [REGISTRY, LEASES, STATE, REMOVED, OTHER_FAMILIES].contains(&family);
        let label = if !own && !is_metric_name(family) {
            INVALID_NAME
        } else if self.by_family.len() < MAX_FAMILIES || self.by_family.contains_key(family) {
            family
        } else {
            OTHER_FAMILIES
        };
        self.by_family
            .entry(label.to_owned())
            .or_default()
            .entry(reason)
            .or_default()
    }
}

/// Remembers what was logged.
#[derive(Debug, Default)]
pub struct OffenceLog {
    // Hashes and not texts: the log is bounded, its lines are not short.
    logged: HashSet<u64>,
}

impl OffenceLog {
    /// Logs the offences that were not logged before. A read without any
    /// forgets them all, so that what comes back is logged again.
    pub fn log(&mut self, offences: &Offences) {
        for line in self.news(offences) {
            tracing::warn!("not served: {line}");
        }
    }

    fn news(&mut self, offences: &Offences) -> Vec<String> {
        if offences.by_family.is_empty() {
            self.logged.clear();
        }
        let mut news = Vec::new();
        for (family, reasons) in &offences.by_family {
            for (reason, tally) in reasons {
                for text in &tally.examples {
                    if self.logged.len() >= MAX_LOGGED {
                        return news;
                    }
                    let mut hasher = DefaultHasher::new();
                    (family, reason, text).hash(&mut hasher);
                    if self.logged.insert(hasher.finish()) {
                        news.push(format!("family {family} ({reason}): {text}"));
                        if self.logged.len() == MAX_LOGGED {
                            news.push("and more, which are counted but not logged".into());
                        }
                    }
                }
            }
        }
        news
    }
}

fn shortened(mut text: String) -> String {
    if text.len() > MAX_TEXT_BYTES {
        text.truncate(text.floor_char_boundary(MAX_TEXT_BYTES));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offences(texts: &[&str]) -> Offences {
        let mut offences = Offences::default();
        for text in texts {
            offences.add("f", "value", || (*text).to_owned());
        }
        offences
    }

    #[test]
    fn each_is_logged_once_until_a_read_without_any() {
        let mut log = OffenceLog::default();
        assert_eq!(log.news(&offences(&["a", "b"])).len(), 2);
        assert_eq!(
            log.news(&offences(&["b", "c", "a"])),
            ["family f (value): c"]
        );
        assert!(log.news(&offences(&[])).is_empty());
        assert_eq!(log.news(&offences(&["a"])).len(), 1);
    }

    #[test]
    fn memory_and_log_are_bounded() {
        let mut all = Offences::default();
        for family in 0..10_000 {
            all.add(&format!("f{family}"), "value", || "x".repeat(10_000));
        }
        for field in 0..10_000 {
            all.add("f0", "value", || field.to_string());
        }
        all.add("9 lives", "registration", || "é".repeat(300));
        let counts: Vec<_> = all.counts().collect();
        assert!(counts.len() <= MAX_FAMILIES + 3, "{}", counts.len());
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

        let mut log = OffenceLog::default();
        for first in (0..100_000).step_by(20) {
            let texts: Vec<_> = (first..first + 20).map(|n| n.to_string()).collect();
            let texts: Vec<_> = texts.iter().map(String::as_str).collect();
            log.news(&offences(&texts));
        }
        assert_eq!(log.logged.len(), MAX_LOGGED);
    }

    #[test]
    fn parts_of_a_read_add_up() {
        let mut all = offences(&["a"]);
        all.merge(offences(&["b", "c"]));
        assert_eq!(all.counts().collect::<Vec<_>>(), [("f", "value", 3)]);
    }
}
