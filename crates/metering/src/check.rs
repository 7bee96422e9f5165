//! Checks of what the metric path depends on, for a readiness endpoint.

use std::cell::RefCell;

use crate::{single_flight::SingleFlight, time::Instant};

/// A dependency of the metric path: its name, and its state or what is wrong.
pub type Check = (&'static str, Result<String, String>);

/// The time for which the result of a check is used.
const MAX_AGE_NANOS: u64 = 1_000_000_000;

/// A check that the tasks of an instance share. It may be a write to a store, so a
/// client must not be able to cause one by each request.
#[derive(Default)]
pub(crate) struct SharedCheck {
    running: SingleFlight,
    /// When the last one ended, and its result.
    last: RefCell<Option<(Instant, Result<String, String>)>>,
}

impl SharedCheck {
    /// Returns the result of the last second, or makes a check. Tasks that ask during
    /// a check wait for its result.
    pub(crate) async fn get(
        &self,
        check: impl AsyncFnOnce() -> Result<String, String>,
    ) -> Result<String, String> {
        loop {
            if let Some((ended, result)) = &*self.last.borrow()
                && Instant::now().nanos_since(*ended) < MAX_AGE_NANOS
            {
                return result.clone();
            }
            let Some(_flight) = self.running.begin() else {
                self.running.ended().await;
                continue;
            };
            let result = check().await;
            self.last.replace(Some((Instant::now(), result.clone())));
            return result;
        }
    }
}
