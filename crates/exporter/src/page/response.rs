//! The response of `GET /api/recent`: the history as JSON. docs/exporter.md documents its
//! fields.

use std::{
    collections::BTreeMap,
    time::{Duration, UNIX_EPOCH},
};

use functional_scaffold_protocol::catalog::ExecutionStatus;
use serde::Serialize;

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

/// The values at each point, by status or quantile.
type Columns = BTreeMap<&'static str, Vec<Option<f64>>>;

#[derive(Serialize)]
struct Recent<'a> {
    version: &'static str,
    recording: bool,
    links: &'a Links,
    /// None unless something is recorded.
    #[serde(flatten)]
    recorded: Option<Recorded>,
}

#[derive(Serialize)]
struct Recorded {
    now: f64,
    interval_seconds: f64,
    window_seconds: u64,
    redis: Option<RedisStatus>,
    latest: Option<Latest>,
    times: Vec<f64>,
    requests_per_second: Columns,
    request_duration_seconds: Columns,
    executions_per_second: Columns,
    execution_duration_seconds: Columns,
    error_ratio: Vec<Option<f64>>,
}

#[derive(Serialize)]
struct RedisStatus {
    up: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<f64>,
}

/// The newest sample.
#[derive(Serialize)]
struct Latest {
    time: f64,
    requests_total: f64,
    requests: BTreeMap<&'static str, f64>,
    requests_per_second: Option<f64>,
    error_ratio: Option<f64>,
    executions_total: f64,
    executions: BTreeMap<&'static str, f64>,
    in_flight: Option<f64>,
    oldest_lease_age_seconds: Option<f64>,
}

/// Encodes the recorder's history, or without a recorder that nothing is recorded.
pub(crate) fn recent(recorder: Option<&Recorder>, links: &Links) -> Vec<u8> {
    let recent = Recent {
        version: env!("CARGO_PKG_VERSION"),
        recording: recorder.is_some(),
        links,
        recorded: recorder.map(|recorder| recorder.view(Recorded::new)),
    };
    // A struct of strings and finite floats always serialises.
    serde_json::to_vec(&recent).unwrap_or_default()
}

impl Recorded {
    fn new(history: &History, clock: Clock) -> Self {
        let points = &history.points;
        let column = |value: &dyn Fn(&Rates) -> Option<f64>| -> Vec<Option<f64>> {
            let values = points.iter().map(|point| value(point.rates.as_ref()?));
            values.map(|value| value.map(rounded)).collect()
        };
        let latest = history.latest.as_ref();
        let times = points.iter().map(|point| clock.unix_seconds(point.at));
        Self {
            now: clock.unix_seconds(clock.elapsed),
            interval_seconds: clock.pause.as_secs_f64(),
            window_seconds: WINDOW.as_secs(),
            // Before the first read, the status is unknown.
            redis: (!points.is_empty()).then(|| RedisStatus {
                up: history.down.is_none(),
                reason: history.down.map(|down| down.reason.label()),
                since: history.down.map(|down| clock.unix_seconds(down.since)),
            }),
            latest: latest
                .map(|(at, sample)| Latest::new(clock.unix_seconds(*at), sample, points.back())),
            times: times.collect(),
            requests_per_second: named(request_statuses(), |n| {
                column(&|rates| Some(rates.requests[n]))
            }),
            request_duration_seconds: named(QUANTILE_NAMES, |n| {
                column(&|rates| rates.request_durations[n])
            }),
            executions_per_second: named(execution_statuses(), |n| {
                column(&|rates| Some(rates.executions[n]))
            }),
            execution_duration_seconds: named(QUANTILE_NAMES, |n| {
                column(&|rates| rates.execution_durations[n])
            }),
            error_ratio: column(&|rates| rates.error_ratio),
        }
    }
}

impl Latest {
    fn new(time: f64, sample: &Sample, last: Option<&Point>) -> Self {
        let rates = last.and_then(|point| point.rates.as_ref());
        let counts = &sample.counts;
        Self {
            time,
            requests_total: counts.requests_total,
            requests: named(request_statuses(), |n| counts.requests[n]),
            requests_per_second: rates.map(|rates| rounded(rates.requests_total)),
            error_ratio: rates.and_then(|rates| rates.error_ratio).map(rounded),
            executions_total: counts.executions_total,
            executions: named(execution_statuses(), |n| counts.executions[n]),
            in_flight: sample.in_flight,
            oldest_lease_age_seconds: sample.oldest_lease_age_seconds,
        }
    }
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
