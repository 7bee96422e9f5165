//! Work that one request's task does for all requests of the instance, and the
//! others' wait for its end.
//!
//! A task sleeps until the host has something for it, so another task's Rust
//! waker does not wake it (wit-bindgen's `inter-task-wakeup` would see to
//! that, at two host calls each time any task sleeps). So whoever waits reads
//! from a stream of its own, which ends with the work.

use std::cell::{Cell, RefCell};

use spin_sdk::{wasip3::wit_stream, wit_bindgen::StreamWriter};

/// Work that is under way once at the most.
#[derive(Default)]
pub struct SingleFlight {
    under_way: Cell<bool>,
    waiting: RefCell<Vec<StreamWriter<u8>>>,
}

/// The work is under way until this is dropped: also where it is given up.
pub struct Flight<'a>(&'a SingleFlight);

impl SingleFlight {
    /// Begins the work, unless it is under way.
    pub fn begin(&self) -> Option<Flight<'_>> {
        let idle = !self.under_way.replace(true);
        idle.then(|| Flight(self))
    }

    /// Waits until the work that is under way ends, well or badly. It may have
    /// begun again by then.
    pub async fn ended(&self) {
        if !self.under_way.get() {
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
        self.0.under_way.set(false);
        self.0.waiting.take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_begins_again_only_when_it_has_ended() {
        let work = SingleFlight::default();
        let flight = work.begin();
        assert!(flight.is_some());
        assert!(work.begin().is_none());
        drop(flight);
        assert!(work.begin().is_some());
    }
}
