//! Execution leases: stored in Redis before an execution begins, so that an
//! execution that never reports its end is still counted, as crashed.

use serde::{Deserialize, Serialize};

/// A lease on one execution.
///
/// While it is open, the execution is in flight. The batch with the result releases
/// it; a reader settles it once it has expired.
///
/// # Examples
/// ```
/// use functional_scaffold_protocol::lease::Lease;
///
/// let lease = Lease {
///     id: "9f86d081884c7d65/3".into(),
///     millis: 35_000,
///     count: vec![("m:crashes".into(), r#"algorithm="a""#.into())],
/// };
/// let member = lease.encode();
/// assert_eq!(
///     member,
///     r#"{"id":"9f86d081884c7d65/3","millis":35000,"count":[["m:crashes","algorithm=\"a\""]]}"#
/// );
/// assert_eq!(Lease::decode(&member).ok(), Some(lease));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Unique among all leases; never reused.
    pub id: String,
    /// Milliseconds of lease time until it expires.
    pub millis: u64,
    /// Cells, as key and field, that grow by 1 if it expires.
    pub count: Vec<(String, String)>,
}

impl Lease {
    /// Encodes the lease as a member of the sorted set of open leases.
    #[must_use]
    pub fn encode(&self) -> String {
        // A struct of strings and an integer always serialises.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Encodes the lease with its expiry, if it begins at this lease time.
    #[must_use]
    pub fn begin(&self, lease_time_millis: i64) -> EncodedLease {
        EncodedLease {
            id: self.id.clone(),
            millis: self.millis,
            due_ms: lease_time_millis.saturating_add_unsigned(self.millis),
            member: self.encode(),
        }
    }

    /// Decodes a member of the sorted set.
    ///
    /// # Errors
    /// The member is not a lease.
    pub fn decode(member: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(member)
    }
}

/// An encoded lease, with the parts that calls need beside the encoding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedLease {
    /// The lease's id.
    pub id: String,
    /// Milliseconds of lease time until it expires.
    pub millis: u64,
    /// Lease time in milliseconds at which it expires.
    pub due_ms: i64,
    /// The member of the sorted set of open leases.
    pub member: String,
}

/// Everything but the id of leases on executions of one kind.
///
/// It is encoded once, because the encoding costs more than the rest of a lease.
#[derive(Debug, Clone)]
pub struct LeaseTemplate {
    millis: u64,
    /// The member after the id.
    rest: String,
}

/// The beginning of every member, before the id.
const BEFORE_ID: &str = "{\"id\":\"";

impl LeaseTemplate {
    /// Creates a template of leases that expire after `millis` and then count
    /// `count`.
    #[must_use]
    pub fn new(millis: u64, count: Vec<(String, String)>) -> Self {
        let id = String::new();
        let rest = Lease { id, millis, count }
            .encode()
            .split_off(BEFORE_ID.len());
        Self { millis, rest }
    }

    /// Encodes a lease that begins at `lease_time_millis`. Its id must need no escape
    /// in JSON: letters, digits and slashes.
    ///
    /// The lease time of the beginning is the one that replies to
    /// [`register_call`](crate::calls::register_call) and
    /// [`apply_call`](crate::calls::apply_call) tell.
    #[must_use]
    pub fn begin(&self, id: String, lease_time_millis: i64) -> EncodedLease {
        let mut member = String::with_capacity(BEFORE_ID.len() + id.len() + self.rest.len());
        member.push_str(BEFORE_ID);
        member.push_str(&id);
        member.push_str(&self.rest);
        EncodedLease {
            id,
            millis: self.millis,
            due_ms: lease_time_millis.saturating_add_unsigned(self.millis),
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
        fn a_template_encodes_as_the_lease_itself_does(
            id in "[0-9a-f]{0,16}/[0-9]{0,9}",
            millis in any::<u64>(),
            count in prop::collection::vec((any::<String>(), any::<String>()), 0..4),
        ) {
            let encoded = LeaseTemplate::new(millis, count.clone()).begin(id.clone(), 7);
            prop_assert_eq!(encoded, Lease { id, millis, count }.begin(7));
        }

        #[test]
        fn arbitrary_text_never_panics(text: String) {
            let _ = Lease::decode(&text);
        }
    }
}
