//! The requests that an instance has at the moment, and when it takes no more of
//! them. Owns that nobody waits for an instance that computes, where another
//! could serve him.
//!
//! While an execution computes nothing else goes on in its instance. The host
//! knows that of an execution that begins at once. After a wait, for a lease or a
//! body, it takes the instance for one that can have more requests, and starts
//! no other as long as there is one; those that come wait for the end of the
//! execution, be it endless (wasmtime's `ProxyHandler`, in its `handler.rs`).

use std::cell::Cell;

use spin_sdk::wit_bindgen;

use crate::turn;

/// An execution of this time, in nanoseconds, is worth keeping others out for.
const LONG_NANOS: u64 = 1_000_000;

/// The requests that an instance has at the moment.
#[derive(Default)]
pub struct InFlight {
    requests: Cell<u32>,
    /// Whether an execution was long.
    long: Cell<bool>,
}

/// A request, for as long as it lives.
#[must_use]
pub struct Request<'a>(&'a InFlight);

impl Drop for Request<'_> {
    fn drop(&mut self) {
        let requests = &self.0.requests;
        requests.set(requests.get().saturating_sub(1));
    }
}

/// That the host gives the instance no request, for as long as this lives.
#[must_use]
pub struct Closed(());

impl Drop for Closed {
    fn drop(&mut self) {
        wit_bindgen::backpressure_dec();
    }
}

impl InFlight {
    /// A request begins.
    pub fn begin(&self) -> Request<'_> {
        self.requests.set(self.requests.get().saturating_add(1));
        Request(self)
    }

    /// Is to be called before an execution computes, and what it gives is to be
    /// kept until the execution ends.
    ///
    /// An instance with several requests, none of whose executions was long yet,
    /// goes on taking more: there are many of them and of instances then, and
    /// closing it for microseconds costs a twentieth of the throughput.
    pub async fn close(&self) -> Option<Closed> {
        if turn::is_first() || !self.is_worth_closing() {
            return None;
        }
        wit_bindgen::backpressure_inc();
        let closed = Closed(());
        // The host looks whether it is closed when a turn begins.
        turn::begin_anew().await;
        Some(closed)
    }

    /// An execution has ended that took so long.
    pub fn executed(&self, nanos: u64) {
        self.long.set(self.long.get() || nanos >= LONG_NANOS);
    }

    fn is_worth_closing(&self) -> bool {
        self.requests.get() <= 1 || self.long.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_closed_for_its_only_request_and_after_a_long_execution() {
        let in_flight = InFlight::default();
        let first = in_flight.begin();
        assert!(in_flight.is_worth_closing());
        let second = in_flight.begin();
        in_flight.executed(LONG_NANOS - 1);
        assert!(!in_flight.is_worth_closing());
        drop(first);
        assert!(in_flight.is_worth_closing());
        let _third = in_flight.begin();
        in_flight.executed(LONG_NANOS);
        in_flight.executed(1);
        assert!(in_flight.is_worth_closing());
        drop(second);
    }
}
