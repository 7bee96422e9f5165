//! What `GET /api/recent` answers: the history as JSON, ready to be drawn. Owns
//! its names; docs/exporter.md says what they mean.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use functional_scaffold_protocol::catalog::ExecutionStatus;
use serde::Serialize;

use super::{
    counts::REQUEST_STATUSES,
    history::{History, Point},
    options::Links,
    sample::Sample,
    window::{Rates, WINDOW},
};

/// The names of [`super::window::QUANTILES`].
const QUANTILE_NAMES: [&str; 3] = ["p50", "p95", "p99"];

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Digits that a rate or a quantile is written with.
const DIGITS: i32 = 5;

/// A value at each point, by status or quantile.
type Columns = BTreeMap<&'static str, Vec<Option<f64>>>;

/// Where nothing is recorded.
#[derive(Debug, Serialize)]
struct Nothing<'a> {
    version: &'static str,
    recording: bool,
    links: &'a Links,
}

#[derive(Debug, Serialize)]
struct Answer<'a> {
    version: &'static str,
    recording: bool,
    now: f64,
    interval_seconds: f64,
    window_seconds: u64,
    links: &'a Links,
    redis: Option<Redis>,
    latest: Option<Latest>,
    times: Vec<f64>,
    requests_per_second: Columns,
    request_duration_seconds: Columns,
    executions_per_second: Columns,
    execution_duration_seconds: Columns,
    error_ratio: Vec<Option<f64>>,
}

#[derive(Debug, Serialize)]
struct Redis {
    up: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<f64>,
}

/// What is true now, of the newest sample.
#[derive(Debug, Serialize)]
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

/// The time since the recorder began, and the pause that it makes.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// Now.
    pub elapsed: Duration,
    /// The same moment, of the system's clock.
    pub now: SystemTime,
    /// How long after a read the next one begins.
    pub interval: Duration,
}

/// The history at a time, as JSON.
#[must_use]
pub fn write(history: &History, clock: Clock, links: &Links) -> Vec<u8> {
    let points: Vec<&Point> = history.points().collect();
    let column = |value: &dyn Fn(&Rates) -> Option<f64>| -> Vec<Option<f64>> {
        let values = points
            .iter()
            .map(|point| point.rates.as_ref().and_then(value));
        values.map(|value| value.map(rounded)).collect()
    };
    let of_requests = |class: usize| column(&|rates| Some(rates.requests[class]));
    let of_executions = |class: usize| column(&|rates| Some(rates.executions[class]));
    let answer = Answer {
        version: VERSION,
        recording: true,
        now: clock.unix_seconds(clock.elapsed),
        interval_seconds: clock.interval.as_secs_f64(),
        window_seconds: WINDOW.as_secs(),
        links,
        redis: redis(history, clock),
        latest: history
            .latest()
            .map(|(at, sample)| latest(clock.unix_seconds(at), sample, points.last().copied())),
        times: points
            .iter()
            .map(|point| clock.unix_seconds(point.at))
            .collect(),
        requests_per_second: named(request_names(), of_requests),
        request_duration_seconds: named(QUANTILE_NAMES, |q| {
            column(&|rates| rates.request_durations[q])
        }),
        executions_per_second: named(execution_names(), of_executions),
        execution_duration_seconds: named(QUANTILE_NAMES, |q| {
            column(&|rates| rates.execution_durations[q])
        }),
        error_ratio: column(&|rates| rates.error_ratio),
    };
    // A struct of strings and finite floats always serialises.
    serde_json::to_vec(&answer).unwrap_or_default()
}

/// That nothing is recorded, and where the page leads to all the same, as JSON.
#[must_use]
pub fn write_nothing(links: &Links) -> Vec<u8> {
    let answer = Nothing {
        version: VERSION,
        recording: false,
        links,
    };
    // As above.
    serde_json::to_vec(&answer).unwrap_or_default()
}

fn redis(history: &History, clock: Clock) -> Option<Redis> {
    // Nothing is known before the first read.
    history.points().next()?;
    let down = history.down();
    Some(Redis {
        up: down.is_none(),
        reason: down.map(|down| down.reason.label()),
        since: down.map(|down| clock.unix_seconds(down.since)),
    })
}

fn latest(time: f64, sample: &Sample, last: Option<&Point>) -> Latest {
    let rates = last.and_then(|point| point.rates.as_ref());
    let counts = &sample.counts;
    Latest {
        time,
        requests_total: counts.requests_total,
        requests: named(request_names(), |class| counts.requests[class]),
        requests_per_second: rates.map(|rates| rounded(rates.requests_total)),
        error_ratio: rates.and_then(|rates| rates.error_ratio).map(rounded),
        executions_total: counts.executions_total,
        executions: named(execution_names(), |class| counts.executions[class]),
        in_flight: sample.in_flight,
        oldest_lease_age_seconds: sample.oldest_lease_age_seconds,
    }
}

impl Clock {
    /// A time since the recorder began, in seconds since 1970 with milliseconds.
    fn unix_seconds(&self, at: Duration) -> f64 {
        let age = self.elapsed.saturating_sub(at);
        let since_1970 = self.now.duration_since(UNIX_EPOCH).unwrap_or_default();
        (since_1970.saturating_sub(age).as_secs_f64() * 1000.0).round() / 1000.0
    }
}

fn request_names() -> [&'static str; REQUEST_STATUSES.len()] {
    REQUEST_STATUSES.map(|status| status.label())
}

fn execution_names() -> [&'static str; ExecutionStatus::ALL.len()] {
    ExecutionStatus::ALL.map(ExecutionStatus::label)
}

fn named<const N: usize, T>(
    names: [&'static str; N],
    value: impl Fn(usize) -> T,
) -> BTreeMap<&'static str, T> {
    let pairs = names.into_iter().enumerate();
    pairs.map(|(at, name)| (name, value(at))).collect()
}

/// More digits than a picture shows would only be bytes.
fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return 0.0;
    }
    let magnitude = value.abs().log10().floor();
    // Of what is finite and not 0, that is within -324 and 308.
    let factor = 10_f64.powf(f64::from(DIGITS) - 1.0 - magnitude);
    let rounded = (value * factor).round() / factor;
    if rounded.is_finite() { rounded } else { value }
}
