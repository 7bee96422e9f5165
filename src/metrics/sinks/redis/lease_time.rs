//! Lease time: Redis's clock, less the times in which Redis stood still. By it
//! leases run out.

use crate::clock::Mark;

/// Lease time as Redis told it, reckoned on by the host's clock from when it was
/// asked: an answer is read late where an execution computes meanwhile. The
/// host's clock runs where lease time stands, too; so by either a lease runs out
/// too late, but not too early.
#[derive(Debug, Clone, Copy)]
pub struct LeaseTime {
    millis: i64,
    asked: Mark,
}

impl LeaseTime {
    /// Lease time was `millis` when Redis answered what it was asked then.
    #[must_use]
    pub fn told(millis: i64, asked: Mark) -> Self {
        Self { millis, asked }
    }

    /// Lease time at a later mark, in milliseconds, or somewhat above it.
    #[must_use]
    pub fn at(self, mark: Mark) -> i64 {
        let passed = mark.nanos_since(self.asked) / 1_000_000;
        self.millis.saturating_add_unsigned(passed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lease_time_goes_on_from_when_it_was_asked() {
        let asked = Mark::at(7_000_000_000);
        let time = LeaseTime::told(-500, asked);
        assert_eq!(time.at(asked), -500);
        assert_eq!(time.at(Mark::at(7_002_999_999)), -498);
        assert_eq!(time.at(Mark::at(9_600_000_000)), 2_100);
        // The clock does not run backwards, and if it did nothing would happen.
        assert_eq!(time.at(Mark::at(0)), -500);
    }
}
