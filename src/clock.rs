//! Time as the host tells it, and waits that are bounded by it.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use spin_sdk::wasip3::clocks::monotonic_clock;

/// A point on the monotonic clock, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(u64);

impl Mark {
    /// This moment. One host call.
    #[must_use]
    pub fn now() -> Self {
        Self(monotonic_clock::now())
    }

    /// The moment so many nanoseconds after the clock's beginning.
    #[cfg(test)]
    #[must_use]
    pub fn at(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds from `earlier` to this mark, 0 if it is the later one.
    #[must_use]
    pub fn nanos_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// The end of what may be waited for, in one wait or in several in a row.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    limit: Duration,
    at: u64,
}

impl Deadline {
    /// The deadline `limit` from now. One host call.
    #[must_use]
    pub fn after(limit: Duration) -> Self {
        Self {
            limit,
            at: monotonic_clock::now().saturating_add(nanos(limit)),
        }
    }

    /// The wait as it was granted.
    #[must_use]
    pub fn limit(self) -> Duration {
        self.limit
    }

    /// What is left of it; zero if it has passed. One host call.
    #[must_use]
    pub fn remaining(self) -> Duration {
        Duration::from_nanos(self.at.saturating_sub(monotonic_clock::now()))
    }

    /// How far away it is, ahead or behind. One host call.
    #[must_use]
    pub fn distance(self) -> Duration {
        Duration::from_nanos(self.at.abs_diff(monotonic_clock::now()))
    }

    /// Awaits `future` until the deadline; starts nothing after it.
    pub async fn bounds<T>(self, future: impl Future<Output = T>) -> Option<T> {
        let remaining = self.remaining();
        if remaining.is_zero() {
            return None;
        }
        within(remaining, future).await
    }
}

/// Seconds since 1970 by the host's clock, 0 if that stands before.
#[must_use]
pub fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Waits without occupying the instance.
pub async fn wait(duration: Duration) {
    monotonic_clock::wait_for(nanos(duration)).await;
}

/// Awaits `future` for at most `limit`. Spin sets no time-out of its own on
/// outbound calls; a call given up here may still take effect.
pub async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut expiry = pin!(wait(limit));
    poll_fn(|context| {
        if let Poll::Ready(output) = future.as_mut().poll(context) {
            return Poll::Ready(Some(output));
        }
        expiry.as_mut().poll(context).map(|()| None)
    })
    .await
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
