//! The response of `GET /api/recent`: the history as JSON. docs/exporter.md documents its
//! fields.

use std::{
    collections::BTreeMap,
    time::{Duration, UNIX_EPOCH},
};

use functional_scaffold_protocol::catalog::ExecutionStatus;
use serde_json::{Value, json};

use crate::{
    cli::Links,
    page::{
        history::{Clock, History, Point, Recorder},
        rates::{QUANTILES, REQUEST_STATUSES, Rates, Sample, WINDOW},
    },
};

/// The names of [`QUANTILES`].
const QUANTILE_NAMES: [&str; QUANTILES.len()] = ["p50", "p95", "p99"];

/// Significant digits of rates and quantiles.
const DIGITS: i32 = 5;

/// Encodes the recorder's history. Without a recorder, encodes that nothing is recorded.
pub(crate) fn recent(recorder: Option<&Recorder>, links: &Links) -> Vec<u8> {
    let mut recent = recorder.map_or(json!({}), |recorder| recorder.view(recorded));
    recent["version"] = json!(env!("CARGO_PKG_VERSION"));
    recent["recording"] = json!(recorder.is_some());
    recent["links"] = json!(links);
    recent.to_string().into_bytes()
}

fn recorded(history: &History, clock: Clock) -> Value {
    let points = &history.points;
    let column = |value: &dyn Fn(&Rates) -> Option<f64>| -> Value {
        let values = points.iter().map(|point| value(point.rates.as_ref()?));
        values.map(|value| value.map(rounded)).collect()
    };
    let latest = history.latest.as_ref();
    let times = points.iter().map(|point| clock.unix_seconds(point.at));
    json!({
        "now": clock.unix_seconds(clock.elapsed),
        "interval_seconds": clock.pause.as_secs_f64(),
        "window_seconds": WINDOW.as_secs(),
        // Before the first read, the status is unknown.
        "redis": (!points.is_empty()).then(|| match history.down {
            None => json!({ "up": true }),
            Some(down) => json!({
                "up": false,
                "reason": down.reason.label(),
                "since": clock.unix_seconds(down.since),
            }),
        }),
        "latest": latest.map(|(at, sample)| newest(clock.unix_seconds(*at), sample, points.back())),
        "times": times.collect::<Vec<_>>(),
        "requests_per_second": named(request_statuses(), |n| column(&|rates| Some(rates.requests[n]))),
        "request_duration_seconds": named(QUANTILE_NAMES, |n| column(&|rates| rates.request_durations[n])),
        "executions_per_second": named(execution_statuses(), |n| column(&|rates| Some(rates.executions[n]))),
        "execution_duration_seconds": named(QUANTILE_NAMES, |n| column(&|rates| rates.execution_durations[n])),
        "error_ratio": column(&|rates| rates.error_ratio),
    })
}

/// The newest sample.
fn newest(time: f64, sample: &Sample, last: Option<&Point>) -> Value {
    let rates = last.and_then(|point| point.rates.as_ref());
    let counts = &sample.counts;
    json!({
        "time": time,
        "requests_total": counts.requests_total,
        "requests": named(request_statuses(), |n| counts.requests[n]),
        "requests_per_second": rates.map(|rates| rounded(rates.requests_total)),
        "error_ratio": rates.and_then(|rates| rates.error_ratio).map(rounded),
        "executions_total": counts.executions_total,
        "executions": named(execution_statuses(), |n| counts.executions[n]),
        "in_flight": sample.in_flight,
        "oldest_lease_age_seconds": sample.oldest_lease_age_seconds,
    })
}

impl Clock {
    /// A time of the history, in seconds since 1970 with milliseconds.
    fn unix_seconds(&self, at: Duration) -> f64 {
        let age = self.elapsed.saturating_sub(at);
        let since_1970 = self.now.duration_since(UNIX_EPOCH).unwrap_or_default();
        (since_1970.saturating_sub(age).as_secs_f64() * 1000.0).round() / 1000.0
    }
}

fn request_statuses() -> [&'static str; REQUEST_STATUSES.len()] {
    REQUEST_STATUSES.map(|status| status.label())
}

fn execution_statuses() -> [&'static str; ExecutionStatus::ALL.len()] {
    ExecutionStatus::ALL.map(ExecutionStatus::label)
}

/// The value at each index, by name.
fn named<const N: usize, T>(
    names: [&'static str; N],
    value: impl Fn(usize) -> T,
) -> BTreeMap<&'static str, T> {
    let names = names.into_iter().enumerate();
    names.map(|(index, name)| (name, value(index))).collect()
}

/// Rounds to the digits that a chart shows, to save bytes.
fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return 0.0;
    }
    // From -324 to 308.
    let magnitude = value.abs().log10().floor();
    let factor = 10_f64.powf(f64::from(DIGITS) - 1.0 - magnitude);
    let rounded = (value * factor).round() / factor;
    if rounded.is_finite() { rounded } else { value }
}
