//! Applies backpressure during an execution, so that the host routes new
//! requests to other instances.
//!
//! During an execution, nothing else in the instance makes progress. If the request
//! had to wait before its execution, the host considers the instance available and
//! would queue further requests behind the execution: ADR 3, "New requests go to
//! other instances".

use std::cell::Cell;

use spin_sdk::wit_bindgen;

use super::single_write;

/// Executions of at least this many nanoseconds are worth backpressure.
const LONG_NANOS: u64 = 1_000_000;

/// The requests in flight in this instance.
#[derive(Default)]
pub struct InFlight {
    requests: Cell<u32>,
    /// Whether any execution took [`LONG_NANOS`].
    had_long_execution: Cell<bool>,
}

/// Counts a request as in flight until it is dropped.
#[must_use]
pub struct InFlightGuard<'a>(&'a InFlight);

impl Drop for InFlightGuard<'_> {
    fn drop(&mut self) {
        let requests = &self.0.requests;
        requests.set(requests.get().saturating_sub(1));
    }
}

/// The host gives this instance no new requests until this is dropped.
#[must_use]
pub struct BackpressureGuard(());

impl Drop for BackpressureGuard {
    fn drop(&mut self) {
        wit_bindgen::backpressure_dec();
    }
}

impl InFlight {
    /// Counts a request as in flight.
    pub fn begin(&self) -> InFlightGuard<'_> {
        self.requests.set(self.requests.get().saturating_add(1));
        InFlightGuard(self)
    }

    /// Applies backpressure before an execution, if it is worth its cost. The
    /// caller holds the guard until the execution ends.
    ///
    /// With several requests in flight, there are other instances too, and
    /// backpressure for executions of microseconds would cost a twentieth of the
    /// throughput. So it is then applied only after a long execution.
    pub async fn apply_backpressure(&self) -> Option<BackpressureGuard> {
        if single_write::is_first_poll() || !self.is_worth_backpressure() {
            return None;
        }
        wit_bindgen::backpressure_inc();
        let guard = BackpressureGuard(());
        // The host checks for backpressure at the beginning of a poll.
        single_write::yield_to_host().await;
        Some(guard)
    }

    /// Notes the duration of an execution.
    pub fn note_execution(&self, nanos: u64) {
        let had_long_execution = self.had_long_execution.get() || nanos >= LONG_NANOS;
        self.had_long_execution.set(had_long_execution);
    }

    fn is_worth_backpressure(&self) -> bool {
        self.requests.get() <= 1 || self.had_long_execution.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backpressure_is_for_a_sole_request_and_after_a_long_execution() {
        let in_flight = InFlight::default();
        let first = in_flight.begin();
        assert!(in_flight.is_worth_backpressure());
        let second = in_flight.begin();
        in_flight.note_execution(LONG_NANOS - 1);
        assert!(!in_flight.is_worth_backpressure());
        drop(first);
        assert!(in_flight.is_worth_backpressure());
        let _third = in_flight.begin();
        in_flight.note_execution(LONG_NANOS);
        in_flight.note_execution(1);
        assert!(in_flight.is_worth_backpressure());
        drop(second);
    }
}
