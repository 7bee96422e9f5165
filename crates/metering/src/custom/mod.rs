//! Counts what the author of a Spin app measures with the [`metrics`] crate: counters,
//! gauges and histograms go to the same store as the requests, in batches that count once.
//!
//! `docs/custom-metrics.md` says what is promised, and how the families look in Redis.
//!
//! # Layout
//! - this file: the recorder of an instance, and when it is flushed
//! - `registry`: families, and what was recorded since the last batch; no I/O
//! - `source`: what a batcher knows of them
//!
//! # Examples
//! ```no_run
//! use functional_scaffold_metering::custom;
//! use metrics::{counter, histogram};
//! use spin_sdk::{http::{IntoResponse, Request}, http_service};
//!
//! const BUCKETS: [custom::Buckets<'_>; 1] = [("order_value_euros", &[10.0, 100.0, 1000.0])];
//!
//! # #[cfg(target_family = "wasm")]
//! #[http_service]
//! async fn order(_request: Request) -> impl IntoResponse {
//!     let _flush = custom::install(&BUCKETS);
//!     counter!("orders_total", "kind" => "new").increment(1);
//!     histogram!("order_value_euros").record(79.9);
//!     "ordered"
//! }
//! ```

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, SharedString, Unit};
use serde_json::json;
use spin_sdk::{wasip3::random::random::get_random_u64, wit_bindgen};

use crate::{
    config::Config,
    custom::source::{Custom, CustomSource as _},
    log::{self, Level},
    meter::{ExpositionError, Meter},
    time::Instant,
    variables,
};

mod registry;
pub(crate) mod source;

use registry::Registry;

/// The name of a histogram, and the inclusive upper bounds of its buckets: finite, in
/// increasing order, at most 256. `+Inf` is added.
pub type Buckets<'a> = (&'a str, &'a [f64]);

/// The largest `metrics_max_series`: the exporter holds every series in memory.
const MAX_SERIES: u64 = 1_000_000;

thread_local! {
    /// An instance of a component has one thread.
    static INSTANCE: Instance = Instance::new();
}

struct Instance {
    registry: Rc<RefCell<Registry>>,
    is_installed: Cell<bool>,
    state: RefCell<State>,
}

enum State {
    /// The variables are not read yet.
    New,
    /// A task reads the variables.
    Loading,
    Ready(Meter),
    /// A variable is wrong, or `metrics_backend` is `off`.
    Off,
}

/// Lets another task read the variables when it is dropped, if they are not read by then:
/// an outer middleware may cancel the request that the task belongs to.
struct Loading;

impl Drop for Loading {
    fn drop(&mut self) {
        let _ = INSTANCE.try_with(|instance| {
            let is_loading = matches!(*instance.state.borrow(), State::Loading);
            if is_loading {
                instance.set_state(State::New);
            }
        });
    }
}

/// Makes this instance record what the macros of the [`metrics`] crate say, and flushes it
/// when the result is dropped. Call it first in every request, and keep the result until
/// the response is made; only the first call of an instance installs something.
///
/// `buckets` declares the histograms. One that is not declared is refused.
///
/// The flush runs after the response, and never changes it. The first one reads the
/// variables that the manifest gives the component, which are those of the service; one
/// that is wrong is logged, and nothing is recorded any more.
pub fn install(buckets: &[Buckets<'_>]) -> FlushOnDrop {
    INSTANCE.with(|instance| {
        if !instance.is_installed.replace(true) {
            if metrics::set_global_recorder(InstanceRecorder).is_err() {
                let reason = "another recorder of the metrics crate is installed";
                log::write(Level::Error, "metrics_off", json!({ "reason": reason }));
            }
            let mut registry = instance.registry.borrow_mut();
            for (name, bounds) in buckets {
                registry.declare_buckets(name, bounds);
            }
        }
    });
    FlushOnDrop(())
}

/// Starts a flush when it is dropped. See [`install`].
#[must_use = "it flushes when it is dropped, so it has to be kept until the response is made"]
#[derive(Debug)]
pub struct FlushOnDrop(());

impl Drop for FlushOnDrop {
    fn drop(&mut self) {
        // Not while the thread ends, when the instance is gone.
        let _ = INSTANCE.try_with(Instance::begin_flush);
    }
}

/// Returns what this instance recorded, in the text format
/// [`Format::Text`](crate::Format::Text), for a route of the app in the pull scheme.
///
/// # Errors
/// `metrics_backend` is not `pull`, `metrics_endpoint` is `false`, or a variable is wrong.
pub async fn exposition() -> Result<String, ExpositionError> {
    let meter = INSTANCE.with(Instance::meter);
    let meter = match meter {
        Some(meter) => Some(meter),
        None => load().await,
    };
    meter.ok_or(ExpositionError::NotPull)?.exposition()
}

impl Instance {
    fn new() -> Self {
        Self {
            registry: Rc::new(RefCell::new(Registry::new(Instant::now))),
            is_installed: Cell::new(false),
            state: RefCell::new(State::New),
        }
    }

    fn meter(&self) -> Option<Meter> {
        match &*self.state.borrow() {
            State::Ready(meter) => Some(meter.clone()),
            State::New | State::Loading | State::Off => None,
        }
    }

    fn begin_flush(&self) {
        if !self.registry.borrow().has_news() {
            return;
        }
        if let Some(meter) = self.meter() {
            return meter.flush();
        }
        if let Some(loading) = self.begin_loading() {
            wit_bindgen::spawn(async {
                let meter = load().await;
                drop(loading);
                if let Some(meter) = meter {
                    meter.flush();
                }
            });
        }
    }

    fn begin_loading(&self) -> Option<Loading> {
        let is_new = matches!(*self.state.borrow(), State::New);
        is_new.then(|| {
            self.set_state(State::Loading);
            Loading
        })
    }

    fn set_state(&self, state: State) {
        if matches!(state, State::Off) {
            self.registry.borrow_mut().switch_off();
        }
        *self.state.borrow_mut() = state;
    }
}

/// Reads the variables. Returns the meter unless nothing is to be recorded.
async fn load() -> Option<Meter> {
    // The limit is read here, because the service has no use for it.
    let config = variables::load(|reader| {
        let max_series = reader.integer("metrics_max_series", "10000", 1..=MAX_SERIES);
        (Config::read(reader), max_series)
    });
    let config = config.await;
    INSTANCE.with(|instance| {
        // Another task may have read them meanwhile.
        if let Some(meter) = instance.meter() {
            return Some(meter);
        }
        let state = match config {
            Ok((config, max_series)) if config.counts() => {
                instance.registry.borrow_mut().limit_series(max_series);
                let custom = Custom::new(Rc::clone(&instance.registry) as _);
                State::Ready(Meter::of_custom(&config, custom, get_random_u64()))
            }
            Ok(_) => State::Off,
            Err(errors) => {
                let reasons: Vec<_> = errors.iter().map(ToString::to_string).collect();
                log::write_list(Level::Error, "metrics_off", "reasons", &reasons);
                State::Off
            }
        };
        instance.set_state(state);
        instance.meter()
    })
}

/// The recorder that the macros call. It has no state of its own, because that of an
/// instance cannot be shared between threads.
struct InstanceRecorder;

fn describe(key: &KeyName, unit: Option<Unit>, help: &SharedString) {
    with_registry(|registry| registry.describe(key.as_str(), unit, help));
}

fn with_registry<T>(call: impl FnOnce(&mut Registry) -> T) -> Option<T> {
    let found =
        INSTANCE.try_with(|instance| Some(call(&mut *instance.registry.try_borrow_mut().ok()?)));
    found.ok().flatten()
}

impl metrics::Recorder for InstanceRecorder {
    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        describe(&key, unit, &description);
    }

    fn describe_gauge(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        describe(&key, unit, &description);
    }

    fn describe_histogram(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        describe(&key, unit, &description);
    }

    fn register_counter(&self, key: &Key, _metadata: &Metadata<'_>) -> Counter {
        let counter = with_registry(|registry| registry.counter(key));
        counter.flatten().map_or(Counter::noop(), Counter::from_arc)
    }

    fn register_gauge(&self, key: &Key, _metadata: &Metadata<'_>) -> Gauge {
        let gauge = with_registry(|registry| registry.gauge(key));
        gauge.flatten().map_or(Gauge::noop(), Gauge::from_arc)
    }

    fn register_histogram(&self, key: &Key, _metadata: &Metadata<'_>) -> Histogram {
        let histogram = with_registry(|registry| registry.histogram(key));
        histogram
            .flatten()
            .map_or(Histogram::noop(), Histogram::from_arc)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_task_reads_the_variables_if_the_first_one_is_dropped() {
        let begin = || INSTANCE.with(Instance::begin_loading);
        let loading = begin().expect("nobody has read them");
        assert!(begin().is_none(), "a task reads them");
        drop(loading);
        let loading = begin().expect("nobody reads them any more");
        INSTANCE.with(|instance| instance.set_state(State::Off));
        drop(loading);
        assert!(begin().is_none(), "they are read");
    }
}
