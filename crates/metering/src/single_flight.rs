//! Work that one task does on behalf of every task of the instance.
//!
//! A Rust waker does not wake another task of the component (ADR 3, "Waking
//! another task"), so a waiting task reads from a stream that ends with the
//! work.

use std::cell::{Cell, RefCell};

use spin_sdk::{wasip3::wit_stream, wit_bindgen::StreamWriter};

/// Work that runs at most once at a time.
#[derive(Default)]
pub(crate) struct SingleFlight {
    running: Cell<bool>,
    waiting: RefCell<Vec<StreamWriter<u8>>>,
}

/// The work runs until this is dropped, also if its task is cancelled.
pub(crate) struct Flight<'a>(&'a SingleFlight);

impl SingleFlight {
    /// Starts the work, unless it is running.
    pub(crate) fn begin(&self) -> Option<Flight<'_>> {
        let idle = !self.running.replace(true);
        idle.then(|| Flight(self))
    }

    /// Waits until the running work ends, whether it succeeds or fails. Another
    /// task may have started it again by then.
    pub(crate) async fn ended(&self) {
        if !self.running.get() {
            return;
        }
        let (writer, mut reader) = wit_stream::new();
        self.waiting.borrow_mut().push(writer);
        // Nothing is ever written: the read ends when the writer is dropped.
        let _ = reader.read(Vec::new()).await;
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.0.running.set(false);
        self.0.waiting.take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_starts_again_only_after_it_ended() {
        let work = SingleFlight::default();
        let flight = work.begin();
        assert!(flight.is_some());
        assert!(work.begin().is_none());
        drop(flight);
        assert!(work.begin().is_some());
    }
}
