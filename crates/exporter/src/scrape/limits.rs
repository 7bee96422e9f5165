//! Limits on what one read takes from Redis, so that a hostile or corrupt store cannot
//! use up the exporter's memory. What exceeds them is left out and counted as a decode
//! error (`too_many`, `too_long`), and the rest is served.

use std::sync::{Mutex, PoisonError};

/// Registrations that are read of families that this repository declares, and as many of
/// others. Further ones, in the order in which Redis returns them, are left out: each
/// costs a scrape some round trips, however few series it has.
pub(crate) const MAX_REGISTRATIONS: usize = 2_000;

/// Registrations that are looked at, to know which families were read with all of their
/// layouts. That costs a scrape a round trip for hundreds of them.
pub(crate) const MAX_REGISTRATIONS_SEEN: usize = 100_000;

/// The longest registration, field and JSON: 256 bounds take 6 KB of it.
pub(crate) const MAX_REGISTRATION_BYTES: usize = 16 * 1024;

/// The longest name of a family, and the bytes of its help that are served. Both are written
/// even if the family has no samples, so `--max-samples` does not limit them. An app's own
/// metrics have 128 and 1,000 bytes at most.
pub(crate) const MAX_NAME_BYTES: usize = 1_000;
pub(crate) const MAX_HELP_BYTES: usize = 1_000;

/// Open leases that are read. Real instances never have that many.
pub(crate) const MAX_LEASES: usize = 100_000;

/// The longest lease.
pub(crate) const MAX_LEASE_BYTES: usize = 16 * 1024;

/// The cells that a lease counts in, as in `settle.lua`. The service's leases have three.
pub(crate) const MAX_LEASE_CELLS: usize = 16;

/// The longest name of an algorithm in a lease. The service's have 64 characters at most.
pub(crate) const MAX_ALGORITHM_BYTES: usize = 256;

/// Removals that are read at a time, and of which a store has at most.
pub(crate) const REMOVALS_PAGE: usize = 1_000;
pub(crate) const MAX_REMOVALS: usize = 100_000;

/// The bytes of the removals that are read at a time, and of those that are remembered.
pub(crate) const MAX_REMOVAL_BYTES: usize = 64 * 1024 * 1024;

/// The limit on the samples of all families. If there are more, the largest family is
/// left out, so that it does not displace the others. A family is served whole or not
/// at all: a part of it would be wrong numbers.
pub(crate) struct SampleLimit {
    most: usize,
    taken: Mutex<Taken>,
}

struct Taken {
    total: usize,
    /// The samples of each family; None if it is left out.
    families: Vec<Option<usize>>,
}

impl SampleLimit {
    pub(crate) fn new(most: usize, families: usize) -> Self {
        Self {
            most,
            taken: Mutex::new(Taken {
                total: 0,
                families: vec![Some(0); families],
            }),
        }
    }

    /// Raises the number of samples of a family, by its index. Returns whether the
    /// family is still served.
    pub(crate) fn raise(&self, family: usize, samples: usize) -> bool {
        let mut guard = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let Taken { total, families } = &mut *guard;
        let Some(taken) = &mut families[family] else {
            return false;
        };
        *total = total.saturating_add(samples.saturating_sub(*taken));
        *taken = samples.max(*taken);
        while *total > self.most {
            let served = families.iter_mut().filter(|taken| taken.is_some());
            let Some(largest) = served.max_by_key(|taken| **taken) else {
                break;
            };
            *total = total.saturating_sub(largest.take().unwrap_or_default());
        }
        families[family].is_some()
    }

    /// Whether a family is still served.
    pub(crate) fn serves(&self, family: usize) -> bool {
        self.raise(family, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_families_beyond_the_limit_are_left_out() {
        let limit = SampleLimit::new(10, 4);
        assert!(limit.raise(0, 3));
        assert!(limit.raise(1, 5));
        // What is less than before changes nothing.
        assert!(limit.raise(1, 4));
        assert!(limit.raise(2, 2));
        // The second is the largest.
        assert!(limit.raise(3, 1));
        assert_eq!(
            [0, 1, 2, 3].map(|family| limit.serves(family)),
            [true, false, true, true]
        );
        assert!(!limit.raise(1, 1));
        // One that is too large by itself displaces no other.
        assert!(!limit.raise(3, 11));
        assert!(limit.raise(0, 8));
        assert_eq!(
            [0, 1, 2, 3].map(|family| limit.serves(family)),
            [true, false, true, false]
        );
    }
}
