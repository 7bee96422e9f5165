//! Lease time: Redis's clock, less the times in which Redis stood still. By it
//! leases run out.

use crate::clock::Mark;

/// Lease time as Redis told it, reckoned on by the host's clock. That clock runs
/// where lease time stands, so a lease may run out too late for it, by what has
/// passed since it was told, but not too early.
#[derive(Debug, Clone, Copy)]
pub struct LeaseTime {
    millis: i64,
    told: Mark,
}

impl LeaseTime {
    /// Lease time is `millis` at this moment. One host call.
    #[must_use]
    pub fn told(millis: i64) -> Self {
        Self {
            millis,
            told: Mark::now(),
        }
    }

    /// Lease time at this moment, in milliseconds. One host call.
    #[must_use]
    pub fn now(self) -> i64 {
        let passed = Mark::now().nanos_since(self.told) / 1_000_000;
        self.millis.saturating_add_unsigned(passed)
    }
}
