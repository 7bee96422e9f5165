//! The execution limit: ends a guest that computes for too long, like a trap.
//!
//! Spin has no such limit: there, an endless loop occupies a worker thread for
//! good. Here a thread advances the engine's epoch every [`TICK`], and compiled
//! code checks it at each loop and function. [`ExecutionTimer`] counts the ticks
//! in which a guest ran *since the event loop last had control*.
//!
//! Only one uninterrupted computation counts: not waiting, and not the sum of an
//! instance's requests. So the count is reset when the event loop has control:
//!
//! - when the worker's future is pending and no tick made the guest yield:
//!   everything in the instance waits for something outside
//!   ([`ExecutionTimer::on_pending`]);
//! - when the event loop starts a request, or polls a request's
//!   [`ExecutionTimer::reset_periodically`] while other requests keep the
//!   instance busy. wasmtime does not poll its event loop while a guest
//!   computes, so neither happens inside an endless loop.
//!
//! A guest yields at each tick but the first, so that other instances are served.
//! The first tick is already due after any wait that was longer than a tick, so
//! yielding at it would interrupt short requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use wasmtime::{Engine, Store, UpdateDeadline, format_err};

const TICK: Duration = Duration::from_millis(10);

/// Advances the engine's epoch every [`TICK`], for as long as the engine exists.
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

/// Counts the ticks that the guests of one instance computed without a pause.
#[derive(Clone)]
pub(crate) struct ExecutionTimer(Arc<State>);

struct State {
    limit: Duration,
    ticks: AtomicU64,
    /// A tick made the guest yield since the worker was last pending.
    yielded: AtomicBool,
}

impl ExecutionTimer {
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
        let timer = self.clone();
        store.epoch_deadline_callback(move |_| timer.on_tick());
    }

    /// Must be called when the future of the instance's worker is pending.
    pub(crate) fn on_pending(&self) {
        if !self.0.yielded.swap(false, Relaxed) {
            self.reset();
        }
    }

    /// Must be called when the event loop has control.
    pub(crate) fn reset(&self) {
        self.0.ticks.store(0, Relaxed);
    }

    /// Resets the count whenever the event loop polls this future. It never ends.
    pub(crate) async fn reset_periodically(&self) {
        let interval = (self.0.limit / 4).clamp(TICK, Duration::from_secs(1));
        loop {
            tokio::time::sleep(interval).await;
            self.reset();
        }
    }

    fn on_tick(&self) -> wasmtime::Result<UpdateDeadline> {
        let ticks = self.0.ticks.fetch_add(1, Relaxed);
        if u128::from(ticks) * TICK.as_millis() > self.0.limit.as_millis() {
            return Err(format_err!(
                "execution limit reached: the guest computed for {:?} without a wait",
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

    fn ticks_until_the_end(timer: &ExecutionTimer, mut between: impl FnMut(u32)) -> Option<u32> {
        (1..1000).find(|tick| {
            between(*tick);
            timer.on_tick().is_err()
        })
    }

    #[test]
    fn guest_that_never_waits_ends_at_the_limit() {
        let timer = ExecutionTimer::new(Duration::from_millis(500));
        // The guest yields from the second tick on. The worker is pending then, but
        // does not wait for anything.
        let end = ticks_until_the_end(&timer, |tick| {
            if tick > 2 {
                timer.on_pending();
            }
        });
        assert_eq!(end, Some(52));
    }

    #[test]
    fn guest_that_waits_now_and_then_goes_on() {
        let timer = ExecutionTimer::new(Duration::from_millis(500));
        let end = ticks_until_the_end(&timer, |tick| {
            if tick % 40 == 0 {
                timer.on_pending();
                timer.on_pending();
            }
        });
        assert_eq!(end, None);
    }

    #[test]
    fn short_work_is_not_interrupted() {
        let timer = ExecutionTimer::new(Duration::from_secs(30));
        for _ in 0..10 {
            let first = timer.on_tick().expect("far from the limit");
            assert!(matches!(first, UpdateDeadline::Continue(1)));
            let second = timer.on_tick().expect("far from the limit");
            assert!(matches!(second, UpdateDeadline::Yield(1)));
            timer.reset();
        }
    }
}
