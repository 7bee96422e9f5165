//! The host's clocks, and waits with a limit.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
    time::Duration,
};

use spin_sdk::wasip3::clocks::monotonic_clock;

/// A point on the host's monotonic clock, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(u64);

impl Instant {
    /// Reads the clock. One host call.
    #[must_use]
    pub fn now() -> Self {
        Self(monotonic_clock::now())
    }

    /// An instant `nanos` nanoseconds after the clock's start.
    #[cfg(test)]
    pub(crate) fn at(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Milliseconds since the clock's start.
    pub(crate) fn millis(self) -> i64 {
        i64::try_from(self.0 / 1_000_000).unwrap_or(i64::MAX)
    }

    /// Nanoseconds from `earlier` to this instant; 0 if `earlier` is later.
    #[must_use]
    pub fn nanos_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// The end of one wait or of several waits in a row.
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

    /// The limit that the deadline was made with.
    #[must_use]
    pub fn limit(self) -> Duration {
        self.limit
    }

    /// Time left until the deadline; zero once it has passed. One host call.
    #[must_use]
    pub fn remaining(self) -> Duration {
        Duration::from_nanos(self.at.saturating_sub(monotonic_clock::now()))
    }

    /// Time since the deadline; zero before it. One host call.
    #[must_use]
    pub fn overrun(self) -> Duration {
        Duration::from_nanos(monotonic_clock::now().saturating_sub(self.at))
    }

    /// Awaits `future` until the deadline. Does not poll it after the deadline.
    pub async fn timeout<T>(self, future: impl Future<Output = T>) -> Option<T> {
        let remaining = self.remaining();
        if remaining.is_zero() {
            return None;
        }
        timeout(remaining, future).await
    }
}

/// Waits without blocking the instance.
pub async fn sleep(duration: Duration) {
    monotonic_clock::wait_for(nanos(duration)).await;
}

/// Awaits `future` for `limit`. Spin sets no time-out on outbound calls. A call
/// that times out here may still take effect.
pub async fn timeout<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut expiry = pin!(sleep(limit));
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
