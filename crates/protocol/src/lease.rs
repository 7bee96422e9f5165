//! Leases: said to Redis before an execution begins, so that an execution that
//! is never heard of again is still counted, as crashed. Pure; they are taken and
//! settled by the calls of [`crate::calls`].

use serde::{Deserialize, Serialize};

/// A lease on one execution.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Names the lease once and for all.
    pub id: String,
    /// How long it runs at the most, in milliseconds of lease time.
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

/// A lease as Redis is given it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedLease {
    /// Its id.
    pub id: String,
    /// How long it runs at the most, in milliseconds.
    pub millis: u64,
    /// The member of the sorted set: the lease, encoded.
    pub member: String,
}

impl From<&Lease> for EncodedLease {
    fn from(lease: &Lease) -> Self {
        Self {
            id: lease.id.clone(),
            millis: lease.millis,
            member: lease.encode(),
        }
    }
}

/// What the leases on executions of one kind have in common: all but their
/// ids. Encoded once, since that costs more than all else about a lease.
#[derive(Debug, Clone)]
pub struct LeaseTemplate {
    millis: u64,
    /// What follows the id in a member.
    rest: String,
}

/// How a member begins that [`Lease::encode`] gives.
const BEFORE_ID: &str = "{\"id\":\"";

impl LeaseTemplate {
    /// The form of leases that run for `millis` and count `count`.
    #[must_use]
    pub fn new(millis: u64, count: Vec<(String, String)>) -> Self {
        let id = String::new();
        let rest = Lease { id, millis, count }
            .encode()
            .split_off(BEFORE_ID.len());
        Self { millis, rest }
    }

    /// The lease of this form with an id of letters, digits and slashes.
    #[must_use]
    pub fn entry(&self, id: String) -> EncodedLease {
        let mut member = String::with_capacity(BEFORE_ID.len() + id.len() + self.rest.len());
        member.push_str(BEFORE_ID);
        member.push_str(&id);
        member.push_str(&self.rest);
        EncodedLease {
            id,
            millis: self.millis,
            member,
        }
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
        fn a_form_gives_what_the_lease_itself_does(
            id in "[0-9a-f]{0,16}/[0-9]{0,9}",
            millis in any::<u64>(),
            count in prop::collection::vec((any::<String>(), any::<String>()), 0..4),
        ) {
            let entry = LeaseTemplate::new(millis, count.clone()).entry(id.clone());
            prop_assert_eq!(entry, EncodedLease::from(&Lease { id, millis, count }));
        }

        #[test]
        fn arbitrary_text_never_panics(text: String) {
            let _ = Lease::decode(&text);
        }
    }
}
