//! Leases: said to Redis before an execution begins, so that an execution that
//! is never heard of again is still counted, as crashed. Pure; taking and
//! settling them is done by the scripts of [`crate::protocol`].

use serde::{Deserialize, Serialize};

/// A lease on one execution.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Names the lease once and for all.
    pub id: String,
    /// How long it runs at the most, in milliseconds by Redis's clock.
    pub millis: u64,
    /// What is counted if it runs out: 1 in each of these cells, key and field.
    pub count: Vec<(String, String)>,
}

impl Lease {
    /// The lease as it stands in the sorted set of open leases.
    #[must_use]
    pub fn encode(&self) -> String {
        // A struct of strings and an integer always serialises.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads a member of the sorted set.
    ///
    /// # Errors
    /// It is no lease.
    pub fn decode(member: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(member)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn decodes_what_it_encodes(
            id in any::<String>(),
            millis in any::<u64>(),
            count in prop::collection::vec((any::<String>(), any::<String>()), 0..4),
        ) {
            let lease = Lease { id, millis, count };
            prop_assert_eq!(Lease::decode(&lease.encode()).ok(), Some(lease));
        }

        #[test]
        fn arbitrary_text_never_panics(text: String) {
            let _ = Lease::decode(&text);
        }
    }
}
