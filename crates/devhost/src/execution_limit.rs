//! The execution limit: a guest that never gives way is ended like a trap.
//!
//! Spin has no such thing: there, an endless loop holds a worker thread for
//! good. Here a thread advances the engine's epoch every [`TICK`], compiled
//! code checks it at each loop and function, and what is counted are the ticks
//! in which a guest ran *since it last gave way*. It owns that count; what
//! ends with a trap is `wasmtime`'s business.
//!
//! The count must not grow by waiting, nor over the many requests of an
//! instance, so it starts again when the guest gives way to the event loop:
//!
//! - when the worker's future is pending although no tick made the guest
//!   yield, so that everything in the instance waits for something outside
//!   ([`Meter::on_pending`]);
//! - when the event loop starts a request or gets round to a request's
//!   [`Meter::watch`], even though other requests of the instance keep it
//!   busy. While a guest computes, wasmtime's event loop is not polled, so
//!   neither can happen inside of an endless loop.
//!
//! From its second tick on, a guest yields at each: other instances are served
//! meanwhile. The first one does not count as such, since it is due after
//! every wait that is longer than a tick, and a short request is not to be
//! interrupted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use wasmtime::{Engine, Store, UpdateDeadline, format_err};

const TICK: Duration = Duration::from_millis(10);

/// Starts to advance the engine's epoch, for as long as the engine exists.
pub(crate) fn start_ticking(engine: &Engine) {
    let engine = engine.weak();
    std::thread::spawn(move || {
        while let Some(engine) = engine.upgrade() {
            engine.increment_epoch();
            drop(engine);
            std::thread::sleep(TICK);
        }
    });
}

/// Counts how long the guests of one instance ran without giving way.
#[derive(Clone)]
pub(crate) struct Meter(Arc<State>);

struct State {
    limit: Duration,
    ticks: AtomicU64,
    /// Whether a tick made the guest yield since the worker was last pending.
    yielded: AtomicBool,
}

impl Meter {
    pub(crate) fn new(limit: Duration) -> Self {
        Self(Arc::new(State {
            limit,
            ticks: AtomicU64::new(0),
            yielded: AtomicBool::new(false),
        }))
    }

    /// Applies the limit to a store.
    pub(crate) fn install<T>(&self, store: &mut Store<T>) {
        store.set_epoch_deadline(1);
        let meter = self.clone();
        store.epoch_deadline_callback(move |_| meter.on_tick());
    }

    /// Notes that the future of the instance's worker is pending.
    pub(crate) fn on_pending(&self) {
        if !self.0.yielded.swap(false, Relaxed) {
            self.give_way();
        }
    }

    /// Starts the count again: the event loop has control.
    pub(crate) fn give_way(&self) {
        self.0.ticks.store(0, Relaxed);
    }

    /// Starts the count again whenever the event loop polls it. It never ends.
    pub(crate) async fn watch(&self) {
        let interval = (self.0.limit / 4).clamp(TICK, Duration::from_secs(1));
        loop {
            tokio::time::sleep(interval).await;
            self.give_way();
        }
    }

    fn on_tick(&self) -> wasmtime::Result<UpdateDeadline> {
        let ticks = self.0.ticks.fetch_add(1, Relaxed);
        if u128::from(ticks) * TICK.as_millis() > self.0.limit.as_millis() {
            return Err(format_err!(
                "execution limit of {:?} reached: the guest computed for so long without \
                 giving way",
                self.0.limit
            ));
        }
        if ticks == 0 {
            return Ok(UpdateDeadline::Continue(1));
        }
        self.0.yielded.store(true, Relaxed);
        Ok(UpdateDeadline::Yield(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks_until_the_end(meter: &Meter, mut between: impl FnMut(u32)) -> Option<u32> {
        (1..1000).find(|tick| {
            between(*tick);
            meter.on_tick().is_err()
        })
    }

    #[test]
    fn guest_that_never_gives_way_ends_at_the_limit() {
        let meter = Meter::new(Duration::from_millis(500));
        // The first tick makes nobody yield. At each further one the worker
        // is pending, and that is no giving way.
        let end = ticks_until_the_end(&meter, |tick| {
            if tick > 2 {
                meter.on_pending();
            }
        });
        assert_eq!(end, Some(52));
    }

    #[test]
    fn guest_that_waits_now_and_then_is_left_alone() {
        let meter = Meter::new(Duration::from_millis(500));
        let end = ticks_until_the_end(&meter, |tick| {
            if tick % 40 == 0 {
                meter.on_pending();
                meter.on_pending();
            }
        });
        assert_eq!(end, None);
    }

    #[test]
    fn short_work_is_not_interrupted() {
        let meter = Meter::new(Duration::from_secs(30));
        for _ in 0..10 {
            let first = meter.on_tick().expect("far from the limit");
            assert!(matches!(first, UpdateDeadline::Continue(1)));
            let second = meter.on_tick().expect("far from the limit");
            assert!(matches!(second, UpdateDeadline::Yield(1)));
            meter.give_way();
        }
    }
}
