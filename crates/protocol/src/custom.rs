//! Families that the author of a component declares, and not this crate: their keys, the
//! limit of their series, and gauges.
//!
//! Label values of these families may come from clients. So each family has a limit of
//! series, which `lua/apply.lua` enforces. The families of the [catalog](crate::catalog)
//! need none, because their labels are bounded.

use serde::{Deserialize, Serialize};

use crate::{
    family::{Family, FamilyError, LAYOUT_SEPARATOR},
    labels::write_labels,
};

/// Series that a family may have unless another number is configured.
pub const DEFAULT_MAX_SERIES: u64 = 10_000;

/// Stored units in one unit of a gauge. It keeps six decimals of values up to 9·10^12.
pub const GAUGE_SCALE: u64 = 1_000_000;

const FOLDER: &str = "custom:";

/// Key of the hash of a family. Its series are limited because the key begins so.
#[must_use]
pub fn custom_key(prefix: &str, family: &str) -> String {
    format!("{prefix}{FOLDER}{family}")
}

/// The family whose hash has this key; `None` if its series are not limited.
#[must_use]
pub fn family_of_key<'a>(prefix: &str, key: &'a str) -> Option<&'a str> {
    let family = key.strip_prefix(prefix)?.strip_prefix(FOLDER)?;
    let layout = family.split_once(LAYOUT_SEPARATOR);
    Some(layout.map_or(family, |(name, _)| name))
}

/// Key of the hash that counts what would have made a series beyond the limit:
/// `functional_scaffold_series_limited_total`.
#[must_use]
pub fn limited_key(prefix: &str) -> String {
    format!("{prefix}limited_counter")
}

/// The field of a family in that hash.
#[must_use]
pub fn limited_field(family: &str) -> String {
    let mut field = String::new();
    write_labels(&mut field, &[("family", family)]);
    field
}

/// The parts of a batch about these families that increments cannot express.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CustomWrites {
    /// Writes of gauges.
    #[serde(default, skip_serializing_if = "Gauges::is_empty")]
    pub gauges: Gauges,
    /// Families that its reader may not find in Redis: those in a group of a Pushgateway,
    /// and those that the writer of a batch had not registered. A line for each, with its
    /// name, a space, and its registration. It is a text, because a registration may be
    /// longer than a log line, and a text can be cut.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub families: String,
    /// Series that each family may have.
    #[serde(default = "default_max_series")]
    pub max_series: u64,
}

fn default_max_series() -> u64 {
    DEFAULT_MAX_SERIES
}

impl Default for CustomWrites {
    fn default() -> Self {
        Self {
            gauges: Gauges::default(),
            families: String::new(),
            max_series: DEFAULT_MAX_SERIES,
        }
    }
}

impl CustomWrites {
    /// Returns whether it can be left out of a log line.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.gauges.is_empty() && self.families.is_empty() && self.max_series == DEFAULT_MAX_SERIES
    }

    pub(crate) fn without_content(&self) -> Self {
        Self {
            max_series: self.max_series,
            ..Self::default()
        }
    }

    /// Adds a family to the text of [`Self::families`].
    pub fn push_family(&mut self, family: &Family) {
        let (name, registration) = (&family.name, family.encode());
        self.families.push_str(&format!("{name} {registration}\n"));
    }

    /// Decodes the families.
    ///
    /// # Errors
    /// One of them is not valid.
    pub fn families(&self) -> Result<Vec<Family>, FamilyError> {
        let families = self.families.lines();
        families
            .map(|family| {
                let (name, registration) = family.split_once(' ').unwrap_or_default();
                Family::decode(name, registration.as_bytes())
            })
            .collect()
    }
}

/// Writes of gauges, in order of Redis key and field.
// A list, because the code of another map is several kilobytes of a component.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Gauges {
    writes: Vec<(String, String, GaugeWrite)>,
}

/// The pending changes of a gauge, in stored units.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GaugeWrite {
    /// The value that it was set to last; `None` if it was not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<i64>,
    /// Lease time in milliseconds when it was set; `None` if that is not known, so that
    /// every other value is taken for newer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_ms: Option<i64>,
    /// The sum of what was added since, or at all.
    #[serde(default)]
    pub sum: i64,
}

impl GaugeWrite {
    /// `{"set":…,"set_ms":…,"sum":…}` with three numbers of 20 digits.
    pub(crate) const MAX_JSON_BYTES: usize = 90;

    /// Adds what happened later.
    pub fn then(&mut self, later: Self) {
        match later.set {
            Some(_) => *self = later,
            None => self.sum = self.sum.saturating_add(later.sum),
        }
    }

    /// The gauge's value if nobody else writes it.
    #[must_use]
    pub fn value(&self) -> i64 {
        self.set.unwrap_or_default().saturating_add(self.sum)
    }
}

impl Gauges {
    /// Adds what happened to a gauge, after everything that is known of it.
    pub fn write(&mut self, key: &str, field: &str, write: GaugeWrite) {
        let order = |(known_key, known_field, _): &(String, String, GaugeWrite)| {
            (known_key.as_str(), known_field.as_str()).cmp(&(key, field))
        };
        match self.writes.binary_search_by(order) {
            Ok(known) => self.writes[known].2.then(write),
            Err(place) => {
                let write = (key.to_owned(), field.to_owned(), write);
                self.writes.insert(place, write);
            }
        }
    }

    /// Moves the writes of one key to another.
    pub fn rename_key(&mut self, from: &str, to: &str) {
        for (key, field, write) in std::mem::take(&mut self.writes) {
            let key = if key == from { to } else { &key };
            self.write(key, &field, write);
        }
    }

    /// Adds what happened later.
    pub fn merge(&mut self, later: &Self) {
        for (key, field, write) in later.cells() {
            self.write(key, field, write);
        }
    }

    /// Returns whether there are no writes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// Each field of a hash with its write.
    pub fn of_key(&self, key: &str) -> impl Iterator<Item = (&str, GaugeWrite)> + Clone {
        let first = self
            .writes
            .partition_point(|(known, _, _)| known.as_str() < key);
        let writes = self.writes[first..].iter();
        writes
            .take_while(move |(known, _, _)| known == key)
            .map(|(_, field, write)| (field.as_str(), *write))
    }

    /// Each write with its key and field, in their order.
    pub fn cells(&self) -> impl Iterator<Item = (&str, &str, GaugeWrite)> {
        let writes = self.writes.iter();
        writes.map(|(key, field, write)| (key.as_str(), field.as_str(), *write))
    }
}
