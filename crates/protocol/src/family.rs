//! A metric family and its registration: a JSON object in the Redis hash of
//! families.

use std::hash::Hasher as _;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::labels::is_metric_name;

/// Largest number of bounds of a histogram, not counting `+Inf`. It limits what a
/// corrupt registration can make a reader allocate.
const MAX_BOUNDS: usize = 256;

/// A [Prometheus metric type](https://prometheus.io/docs/concepts/metric_types/).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A value that only grows.
    Counter,
    /// A value that goes up and down.
    Gauge,
    /// Observations counted in buckets, with their sum.
    Histogram,
}

impl Kind {
    /// The type's name in expositions and registrations.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A metric family: one name, one type, one hash in Redis.
///
/// # Examples
/// ```
/// use functional_scaffold_protocol::family::{Family, Kind};
///
/// let json = r#"{"type":"counter","help":"Jobs done.","key":"metrics:jobs"}"#;
/// let family = Family::decode("jobs_total", json.as_bytes())?;
/// assert_eq!((family.kind, family.scale), (Kind::Counter, 1));
/// assert_eq!(family.encode(), json);
/// # Ok::<(), functional_scaffold_protocol::family::FamilyError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Family {
    /// The metric's full name, with its unit and `_total`.
    #[serde(skip)]
    pub name: String,
    /// The metric's type.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// One line that says what is measured.
    #[serde(default)]
    pub help: String,
    /// The base unit (`seconds`, `bytes`), or empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub unit: String,
    /// The Redis key of the hash that holds the family's cells.
    pub key: String,
    /// Inclusive upper bounds of a histogram in base units: finite and strictly
    /// increasing, with `+Inf` implied. Empty for the other types.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bounds: Vec<f64>,
    /// Stored integer units per base unit, at least 1: 1,000,000,000 if
    /// nanoseconds are stored of a family in seconds. It applies to sums, counters
    /// and gauges, not to the buckets of a histogram.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub scale: u64,
}

/// Why a registration cannot be served.
#[derive(Debug, Error)]
pub enum FamilyError {
    /// The value is not the JSON object it should be.
    #[error("not a registration: {0}")]
    Json(#[from] serde_json::Error),
    /// The name is not a metric name.
    #[error("invalid metric name {0:?}")]
    Name(String),
    /// The Redis key is empty.
    #[error("empty key")]
    Key,
    /// Bounds are missing, unordered, not finite, or too many, or the family is not
    /// a histogram.
    #[error("invalid bounds for a {}: {bounds:?}", kind.name())]
    Bounds {
        /// The family's type.
        kind: Kind,
        /// The registered bounds.
        bounds: Vec<f64>,
    },
    /// The scale is 0.
    #[error("scale is 0, and must be at least 1")]
    Scale,
}

/// Separates a family's name from its layout (type, scale and bounds) in the hash of
/// families. Only a layout that differs from the first registered one is named there.
pub const LAYOUT_SEPARATOR: char = '@';

impl Family {
    /// Decodes a registration. `field` is the family's name, followed by
    /// `@<layout>` if the layout differs from the one registered first.
    ///
    /// # Errors
    /// The registration is invalid; nothing is repaired.
    pub fn decode(field: &str, json: &[u8]) -> Result<Self, FamilyError> {
        let mut family: Self = serde_json::from_slice(json)?;
        let name = field
            .split_once(LAYOUT_SEPARATOR)
            .map_or(field, |(name, _)| name);
        family.name = name.to_owned();
        family.check()?;
        Ok(family)
    }

    /// Encodes the registration, the value in the hash of families.
    #[must_use]
    pub fn encode(&self) -> String {
        // A struct of strings, integers and finite floats always serialises.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Returns whether cells of `other` may be stored in this family's hash: type, scale
    /// and bounds are the same. Help may differ.
    #[must_use]
    pub fn same_layout(&self, other: &Self) -> bool {
        self.kind == other.kind && self.scale == other.scale && self.bounds == other.bounds
    }

    /// Returns this family with a key of its own, `<key>@<layout>`, and the field under
    /// which to register it. For a component that finds the name registered with
    /// another layout.
    #[must_use]
    pub fn with_own_key(&self) -> (String, Self) {
        let layout = self.layout();
        let field = format!("{}{LAYOUT_SEPARATOR}{layout}", self.name);
        let mut family = self.clone();
        family.key = format!("{}{LAYOUT_SEPARATOR}{layout}", self.key);
        (field, family)
    }

    /// A digest of type, scale and bounds in eight hexadecimal digits. It only has to
    /// tell the layouts of one family apart.
    fn layout(&self) -> String {
        let mut hash = Fnv1a::default();
        hash.write(self.kind.name().as_bytes());
        hash.write(&self.scale.to_le_bytes());
        for bound in &self.bounds {
            hash.write(&bound.to_bits().to_le_bytes());
        }
        format!("{:08x}", hash.finish())
    }

    fn check(&self) -> Result<(), FamilyError> {
        // OpenMetrics names a counter without its `_total`, which leaves nothing here.
        if !is_metric_name(&self.name) || self.name == "_total" {
            return Err(FamilyError::Name(self.name.clone()));
        }
        if self.key.is_empty() {
            return Err(FamilyError::Key);
        }
        if self.scale == 0 {
            return Err(FamilyError::Scale);
        }
        let increasing = self.bounds.windows(2).all(|pair| pair[0] < pair[1]);
        let finite = self.bounds.iter().all(|bound| bound.is_finite());
        let present = self.bounds.is_empty() != (self.kind == Kind::Histogram);
        if !(increasing && finite && present && self.bounds.len() <= MAX_BOUNDS) {
            return Err(FamilyError::Bounds {
                kind: self.kind,
                bounds: self.bounds.clone(),
            });
        }
        Ok(())
    }
}

/// The hash function [FNV-1a](http://www.isthe.com/chongo/tech/comp/fnv/) in 32 bits.
/// Unlike the standard library's, it is the same in every build.
struct Fnv1a(u32);

impl Default for Fnv1a {
    fn default() -> Self {
        Self(0x811c_9dc5)
    }
}

impl std::hash::Hasher for Fnv1a {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u32::from(byte)).wrapping_mul(0x0100_0193);
        }
    }

    fn finish(&self) -> u64 {
        u64::from(self.0)
    }
}

fn one() -> u64 {
    1
}

fn is_one(scale: &u64) -> bool {
    *scale == 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn refuses_registrations_that_cannot_be_served() {
        for (field, json) in [
            ("a", "{"),
            ("a", r#"{"type":"summary","key":"k"}"#),
            ("a", r#"{"type":"counter"}"#),
            ("a", r#"{"type":"counter","key":""}"#),
            ("a", r#"{"type":"counter","key":"k","scale":0}"#),
            ("a", r#"{"type":"counter","key":"k","scale":-1}"#),
            ("a", r#"{"type":"counter","key":"k","bounds":[1]}"#),
            ("a", r#"{"type":"histogram","key":"k"}"#),
            ("a", r#"{"type":"histogram","key":"k","bounds":[2,1]}"#),
            ("a", r#"{"type":"histogram","key":"k","bounds":[1,1]}"#),
            ("a", r#"{"type":"histogram","key":"k","bounds":[1e999]}"#),
            ("a", r#"{"type":"counter","key":"k","colour":"red"}"#),
            ("0a", r#"{"type":"counter","key":"k"}"#),
            ("", r#"{"type":"counter","key":"k"}"#),
            ("_total", r#"{"type":"counter","key":"k"}"#),
        ] {
            assert!(
                Family::decode(field, json.as_bytes()).is_err(),
                "{field} {json}"
            );
        }
    }

    #[test]
    fn decodes_the_smallest_registration() {
        let family = Family::decode("jobs_total", br#"{"type":"counter","key":"m:jobs"}"#)
            .expect("a counter needs type and key only");
        assert_eq!((family.name.as_str(), family.scale), ("jobs_total", 1));
    }

    #[test]
    fn another_layout_gets_a_key_and_a_field_of_its_own() {
        let first = histogram(vec![0.1, 1.0]);
        let second = histogram(vec![0.1, 2.0]);
        assert!(!first.same_layout(&second));
        let (field, own) = second.with_own_key();
        let (other_field, _) = first.with_own_key();
        assert_ne!(field, other_field);
        assert!(own.key.starts_with("m:latency@"));
        let read = Family::decode(&field, own.encode().as_bytes()).expect("it is valid");
        assert_eq!(read.name, "latency_seconds");
        assert_eq!(read, own);
    }

    fn histogram(bounds: Vec<f64>) -> Family {
        Family {
            name: "latency_seconds".into(),
            kind: Kind::Histogram,
            help: "h".into(),
            unit: "seconds".into(),
            key: "m:latency".into(),
            bounds,
            scale: 1_000_000_000,
        }
    }

    proptest! {
        #[test]
        fn decodes_what_it_encodes(
            help in any::<String>(),
            key in ".{1,20}",
            scale in 1..=u64::MAX,
            mut bounds in prop::collection::vec(-1e12..1e12, 1..20),
        ) {
            bounds.sort_by(f64::total_cmp);
            bounds.dedup();
            let family = Family { help, key, scale, ..histogram(bounds) };
            let read = Family::decode(&family.name, family.encode().as_bytes());
            prop_assert_eq!(read.ok(), Some(family));
        }

        #[test]
        fn arbitrary_bytes_never_panic(field in any::<String>(), json in any::<Vec<u8>>()) {
            let _ = Family::decode(&field, &json);
        }
    }
}
