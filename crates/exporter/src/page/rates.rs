//! From a reading to the rates of the last minute: the families of the page's panels,
//! added up over all series as `monitoring/recording.yaml` does, and compared over
//! time. A sample has the same size however many series there are.

use std::{collections::VecDeque, time::Duration};

use functional_scaffold_protocol::{
    catalog::{ExecutionStatus, RequestStatus},
    series::{FamilySeries, Series},
};

use crate::scrape::{labels::label, leases::EXECUTIONS, reading::Reading};

const REQUESTS: &str = "http_requests_total";
const REQUEST_DURATIONS: &str = "http_request_duration_seconds";
const EXECUTION_DURATIONS: &str = "algorithm_execution_duration_seconds";

/// Endpoints that are not for users. Like the recording rules, latency and error
/// ratio leave them out.
const PROBES: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// The statuses of requests, in the order of [`Counts::requests`].
pub(crate) const REQUEST_STATUSES: [RequestStatus; 3] = [
    RequestStatus::Success,
    RequestStatus::Rejected,
    RequestStatus::Error,
];

/// The time that rates and quantiles cover.
pub(crate) const WINDOW: Duration = Duration::from_secs(60);

/// The quantiles of durations.
pub(crate) const QUANTILES: [f64; 3] = [0.5, 0.95, 0.99];

/// One reading, added up.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Sample {
    pub(crate) epoch: Option<String>,
    pub(crate) counts: Counts,
    /// Executions in flight, if the open leases can be read.
    pub(crate) in_flight: Option<f64>,
    pub(crate) oldest_lease_age_seconds: Option<f64>,
}

/// Counters. They are floats, exact below 2^53, because rates are computed from them.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Counts {
    /// By status. A request with another status is part of the total only.
    pub(crate) requests: [f64; REQUEST_STATUSES.len()],
    pub(crate) requests_total: f64,
    /// Requests to endpoints other than [`PROBES`].
    pub(crate) user_requests: f64,
    pub(crate) user_errors: f64,
    pub(crate) request_durations: Buckets,
    /// By status, in the order of [`ExecutionStatus::ALL`].
    pub(crate) executions: [f64; ExecutionStatus::ALL.len()],
    pub(crate) executions_total: f64,
    pub(crate) execution_durations: Buckets,
}

/// The counts of a histogram, not cumulative. Without bounds there are no
/// observations.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Buckets {
    /// Upper bounds, without `+Inf`.
    pub(crate) bounds: Vec<f64>,
    /// One per bucket, the last of `+Inf`.
    pub(crate) counts: Vec<f64>,
}

impl Sample {
    pub(crate) fn new(reading: &Reading) -> Self {
        let mut counts = Counts::default();
        for family in &reading.families {
            match family.family.name.as_str() {
                REQUESTS => counts.add_requests(family),
                EXECUTIONS => counts.add_executions(family),
                REQUEST_DURATIONS => counts.request_durations = Buckets::new(family, is_users),
                EXECUTION_DURATIONS => counts.execution_durations = Buckets::new(family, |_| true),
                _ => {}
            }
        }
        let in_flight = |family| values(family).map(|(_, value)| value).sum();
        Self {
            epoch: reading.epoch.clone(),
            counts,
            in_flight: reading.in_flight.as_ref().map(in_flight),
            oldest_lease_age_seconds: reading.oldest_lease_age_seconds,
        }
    }
}

impl Counts {
    fn add_requests(&mut self, family: &FamilySeries) {
        for (labels, value) in values(family) {
            self.requests_total += value;
            let is = |status: RequestStatus| has(labels, "status", status.label());
            if let Some(index) = REQUEST_STATUSES.into_iter().position(is) {
                self.requests[index] += value;
            }
            if is_users(labels) {
                self.user_requests += value;
                if is(RequestStatus::Error) {
                    self.user_errors += value;
                }
            }
        }
    }

    fn add_executions(&mut self, family: &FamilySeries) {
        for (labels, value) in values(family) {
            self.executions_total += value;
            let is = |status: ExecutionStatus| has(labels, "status", status.label());
            if let Some(index) = ExecutionStatus::ALL.into_iter().position(is) {
                self.executions[index] += value;
            }
        }
    }

    /// The increase since `earlier` counts of the same store. A count that fell belongs
    /// to a removed series, and has increased by 0.
    fn since(&self, earlier: &Self) -> Self {
        self.zip(earlier, increase, Buckets::since)
    }

    /// The sum. Histograms have the bounds of `self`.
    fn plus(&self, other: &Self) -> Self {
        self.zip(other, |left, right| left + right, Buckets::plus)
    }

    fn zip(
        &self,
        other: &Self,
        value: fn(f64, f64) -> f64,
        buckets: fn(&Buckets, &Buckets) -> Buckets,
    ) -> Self {
        Self {
            requests: std::array::from_fn(|n| value(self.requests[n], other.requests[n])),
            requests_total: value(self.requests_total, other.requests_total),
            user_requests: value(self.user_requests, other.user_requests),
            user_errors: value(self.user_errors, other.user_errors),
            request_durations: buckets(&self.request_durations, &other.request_durations),
            executions: std::array::from_fn(|n| value(self.executions[n], other.executions[n])),
            executions_total: value(self.executions_total, other.executions_total),
            execution_durations: buckets(&self.execution_durations, &other.execution_durations),
        }
    }
}

impl Buckets {
    fn new(family: &FamilySeries, is_included: impl Fn(&str) -> bool) -> Self {
        let Series::Histograms(histograms) = &family.series else {
            return Self::default();
        };
        let bounds = family.family.bounds.clone();
        let mut counts = vec![0.0; bounds.len() + 1];
        for (_, histogram) in histograms.iter().filter(|(labels, _)| is_included(labels)) {
            for (sum, count) in counts.iter_mut().zip(&histogram.buckets) {
                *sum += *count as f64;
            }
        }
        Self { bounds, counts }
    }

    /// If the bounds differ (instances of another version came or went), the increase
    /// is unknown, and counts as 0.
    fn since(&self, earlier: &Self) -> Self {
        let counts = if earlier.bounds.is_empty() {
            self.counts.clone()
        } else if earlier.bounds == self.bounds {
            zip(&self.counts, &earlier.counts, increase)
        } else {
            vec![0.0; self.counts.len()]
        };
        Self {
            bounds: self.bounds.clone(),
            counts,
        }
    }

    /// If the bounds differ, `other` is left out.
    fn plus(&self, other: &Self) -> Self {
        if self.bounds.is_empty() {
            return other.clone();
        }
        let mut sum = self.clone();
        if self.bounds == other.bounds {
            sum.counts = zip(&self.counts, &other.counts, |left, right| left + right);
        }
        sum
    }
}

fn zip(left: &[f64], right: &[f64], value: fn(f64, f64) -> f64) -> Vec<f64> {
    let pairs = left.iter().zip(right);
    pairs.map(|(&left, &right)| value(left, right)).collect()
}

fn increase(later: f64, earlier: f64) -> f64 {
    (later - earlier).max(0.0)
}

/// Label sets and values, in the family's base unit. Empty for a histogram.
fn values(family: &FamilySeries) -> impl Iterator<Item = (&str, f64)> {
    let values = match &family.series {
        Series::Values(values) => values.as_slice(),
        Series::Histograms(_) => &[],
    };
    let scale = family.family.scale as f64;
    values
        .iter()
        .map(move |(labels, value)| (&**labels, *value as f64 / scale))
}

fn is_users(labels: &str) -> bool {
    !PROBES
        .iter()
        .any(|endpoint| has(labels, "endpoint", endpoint))
}

/// Returns whether a label has this value, which must not need escaping.
fn has(labels: &str, name: &str, value: &str) -> bool {
    let quoted = label(labels, name).and_then(|label| label.split_once("=\""));
    quoted.is_some_and(|(_, quoted)| quoted.strip_suffix('"') == Some(value))
}

/// Rates and quantiles over [`WINDOW`]. The recording rules have the same over five
/// minutes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rates {
    /// Per second, by status.
    pub(crate) requests: [f64; REQUEST_STATUSES.len()],
    /// Per second.
    pub(crate) requests_total: f64,
    /// Per second, by status.
    pub(crate) executions: [f64; ExecutionStatus::ALL.len()],
    /// Errors among the users' requests; None without requests.
    pub(crate) error_ratio: Option<f64>,
    /// [`QUANTILES`], in seconds.
    pub(crate) request_durations: [Option<f64>; QUANTILES.len()],
    /// [`QUANTILES`], in seconds.
    pub(crate) execution_durations: [Option<f64>; QUANTILES.len()],
}

impl Rates {
    fn new(increase: &Counts, time: Duration) -> Self {
        let seconds = time.as_secs_f64();
        let quantiles =
            |buckets: &Buckets| QUANTILES.map(|q| quantile(q, &buckets.bounds, &buckets.counts));
        Self {
            requests: increase.requests.map(|count| count / seconds),
            requests_total: increase.requests_total / seconds,
            executions: increase.executions.map(|count| count / seconds),
            error_ratio: (increase.user_requests > 0.0)
                .then(|| increase.user_errors / increase.user_requests),
            request_durations: quantiles(&increase.request_durations),
            execution_durations: quantiles(&increase.execution_durations),
        }
    }
}

/// The samples of the last minute.
#[derive(Debug, Default)]
pub(crate) struct Window {
    last: Option<Sample>,
    /// Times, and the increase until each of them. It is counted from a moment before
    /// the window, so that the difference of two is the increase between them.
    increases: VecDeque<(Duration, Counts)>,
}

impl Window {
    /// Adds a later sample. Returns the rates since the newest sample that is at least
    /// as old as the window, or else since the oldest one. Nothing is extrapolated. None
    /// for the first sample.
    pub(crate) fn push(&mut self, at: Duration, sample: Sample) -> Option<Rates> {
        let increase = match &self.last {
            None => Counts::default(),
            // A wiped store counts from 0.
            Some(last) if is_other_store(last, &sample) => sample.counts.clone(),
            Some(last) => sample.counts.since(&last.counts),
        };
        let increase = match self.increases.back() {
            None => increase,
            Some((_, before)) => increase.plus(before),
        };
        self.last = Some(sample);
        let start = at.saturating_sub(WINDOW);
        while (self.increases.get(1)).is_some_and(|(time, _)| *time <= start) {
            self.increases.pop_front();
        }
        let rates = self
            .increases
            .front()
            .map(|(time, before)| Rates::new(&increase.since(before), at.saturating_sub(*time)));
        self.increases.push_back((at, increase));
        rates
    }

    /// Starts over after a failed read: the increase of the gap cannot be assigned to a
    /// moment in it. Prometheus's rates have the same gap.
    pub(crate) fn interrupt(&mut self) {
        *self = Self::default();
    }
}

/// Stores without an epoch cannot be told apart.
fn is_other_store(one: &Sample, other: &Sample) -> bool {
    matches!((&one.epoch, &other.epoch), (Some(one), Some(other)) if one != other)
}

/// The value that a share `q` (above 0, to 1) of the observations does not exceed,
/// like Prometheus's [`histogram_quantile`]: observations are taken to be spread
/// evenly within their bucket.
///
/// `bounds` are inclusive and increasing. `counts` are not cumulative, and have one
/// more element, for `+Inf`, for which the highest bound is returned. None without
/// observations or bounds.
///
/// [`histogram_quantile`]: https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile
#[must_use]
pub fn quantile(q: f64, bounds: &[f64], counts: &[f64]) -> Option<f64> {
    let total: f64 = counts.iter().sum();
    let highest = *bounds.last()?;
    if total <= 0.0 {
        return None;
    }
    let rank = q * total;
    let mut below = 0.0;
    let mut start = None;
    for (&bound, &count) in bounds.iter().zip(counts) {
        if below + count >= rank {
            // The first bucket starts at 0, if that is below its bound.
            return match start {
                None if bound <= 0.0 => Some(bound),
                _ => {
                    let start = start.unwrap_or(0.0);
                    Some(start + (bound - start) * ((rank - below) / count))
                }
            };
        }
        below += count;
        start = Some(bound);
    }
    Some(highest)
}

#[cfg(test)]
mod tests {
    use functional_scaffold_protocol::{
        catalog::{Catalog, ExecutionLabels, RequestLabels},
        family::{Family, Kind},
        series::Histogram,
    };

    use super::*;

    fn family(name: &str) -> Family {
        let catalog = Catalog::new("m:");
        let family = catalog.family(name).expect("it is in the catalog");
        family.clone()
    }

    fn values(name: &str, values: &[(String, i64)]) -> FamilySeries {
        let family = family(name);
        assert_eq!(family.kind, Kind::Counter);
        let values = values.iter();
        let values = values.map(|(labels, value)| (labels.as_str().into(), *value));
        FamilySeries {
            family,
            series: Series::Values(values.collect()),
        }
    }

    fn durations(name: &str, series: &[(&str, [u64; 2])]) -> FamilySeries {
        let mut family = family(name);
        assert_eq!(family.kind, Kind::Histogram);
        family.bounds = vec![1.0];
        let histogram = |&(labels, buckets): &(&str, [u64; 2])| {
            let buckets = buckets.into();
            (labels.into(), Histogram { buckets, sum: 0 })
        };
        FamilySeries {
            family,
            series: Series::Histograms(series.iter().map(histogram).collect()),
        }
    }

    #[test]
    fn series_are_added_up_like_in_the_recording_rules() {
        let request = |method, endpoint, code, count| {
            (RequestLabels::new(method, endpoint, code).to_text(), count)
        };
        let requests = [
            request("GET", "/healthz", 200, 1000),
            request("GET", "/readyz", 500, 100),
            request("POST", "/invoke", 200, 5),
            request("POST", "/invoke", 422, 3),
            request("POST", "/invoke", 500, 2),
            (r#"status="teapot""#.to_owned(), 7),
        ];
        let execution =
            |algorithm, status, count| (ExecutionLabels { algorithm, status }.to_text(), count);
        let executions = [
            execution("a", ExecutionStatus::Success, 1),
            execution("b", ExecutionStatus::Success, 2),
            execution("a", ExecutionStatus::Crashed, 4),
        ];
        let of_requests = [
            (r#"endpoint="/invoke",method="GET""#, [1, 2]),
            (r#"endpoint="/invoke",method="POST""#, [10, 20]),
            (r#"endpoint="/metrics",method="GET""#, [100, 200]),
        ];
        let of_executions = [(r#"algorithm="a""#, [1, 2]), (r#"algorithm="b""#, [3, 4])];
        let reading = Reading {
            families: vec![
                values(REQUESTS, &requests),
                durations(REQUEST_DURATIONS, &of_requests),
                values(EXECUTIONS, &executions),
                durations(EXECUTION_DURATIONS, &of_executions),
                values(
                    "functional_scaffold_late_results_total",
                    &[(r#"algorithm="a""#.to_owned(), 9)],
                ),
            ],
            ..Reading::default()
        };
        let expected = Counts {
            requests: [1005.0, 3.0, 102.0],
            requests_total: 1117.0,
            user_requests: 17.0,
            user_errors: 2.0,
            request_durations: Buckets {
                bounds: vec![1.0],
                counts: vec![11.0, 22.0],
            },
            executions: [3.0, 0.0, 0.0, 4.0],
            executions_total: 7.0,
            execution_durations: Buckets {
                bounds: vec![1.0],
                counts: vec![4.0, 6.0],
            },
        };
        assert_eq!(Sample::new(&reading).counts, expected);
    }

    #[test]
    fn the_recording_rules_leave_out_the_same_probes() {
        let rules = include_str!("../../../../monitoring/recording.yaml");
        let excluded: Vec<&str> = rules
            .split("endpoint!~\"")
            .skip(1)
            .filter_map(|rest| rest.split('"').next())
            .collect();
        assert!(!excluded.is_empty());
        for endpoints in excluded {
            assert_eq!(endpoints, PROBES.join("|"));
        }
    }

    fn sample(epoch: &str, requests: f64) -> Sample {
        Sample {
            epoch: Some(epoch.into()),
            counts: Counts {
                requests_total: requests,
                user_requests: requests,
                user_errors: requests / 4.0,
                request_durations: Buckets {
                    bounds: vec![1.0, 2.0],
                    counts: vec![requests / 2.0, requests / 2.0, 0.0],
                },
                ..Counts::default()
            },
            ..Sample::default()
        }
    }

    /// The rate after samples of (second, epoch, requests); None is a failed read.
    fn rate(samples: &[Option<(u64, &str, f64)>]) -> Option<f64> {
        let mut window = Window::default();
        let mut rate = None;
        for one in samples {
            rate = match *one {
                Some((second, epoch, requests)) => {
                    window.push(Duration::from_secs(second), sample(epoch, requests))
                }
                None => {
                    window.interrupt();
                    None
                }
            };
        }
        rate.map(|rates| rates.requests_total)
    }

    #[test]
    fn rates_cover_the_last_minute_across_resets_and_gaps() {
        for (samples, expected, why) in [
            (&[Some((0, "a", 7.0))][..], None, "nothing to compare with"),
            (
                &[Some((0, "a", 7.0)), Some((5, "a", 17.0))],
                Some(2.0),
                "less than a minute",
            ),
            (
                &[
                    Some((0, "a", 0.0)),
                    Some((30, "a", 600.0)),
                    Some((60, "a", 600.0)),
                    Some((90, "a", 630.0)),
                ],
                Some(0.5),
                "older samples do not count",
            ),
            (
                &[Some((0, "a", 0.0)), Some((200, "a", 100.0))],
                Some(0.5),
                "reads more than a minute apart",
            ),
            (
                &[
                    Some((0, "a", 100.0)),
                    Some((5, "a", 110.0)),
                    Some((10, "b", 10.0)),
                ],
                Some(2.0),
                "a wiped store starts at 0",
            ),
            (
                &[
                    Some((0, "a", 100.0)),
                    Some((5, "a", 40.0)),
                    Some((10, "a", 50.0)),
                ],
                Some(1.0),
                "a series that was removed is no request",
            ),
            (
                &[Some((0, "a", 0.0)), None, Some((10, "a", 500.0))],
                None,
                "no rate while Redis was down",
            ),
            (
                &[
                    Some((0, "a", 0.0)),
                    None,
                    Some((10, "a", 500.0)),
                    Some((20, "a", 510.0)),
                ],
                Some(1.0),
                "and a rate after it",
            ),
        ] {
            assert_eq!(rate(samples), expected, "{why}");
        }
    }

    #[test]
    fn ratio_and_quantiles_are_of_the_increase() {
        let mut window = Window::default();
        let at = Duration::from_secs;
        assert_eq!(window.push(at(0), sample("a", 1000.0)), None);
        let rates = window.push(at(5), sample("a", 1000.0)).expect("rates");
        assert_eq!(
            (rates.error_ratio, rates.request_durations),
            (None, [None; 3])
        );
        let rates = window.push(at(10), sample("a", 1008.0)).expect("rates");
        assert_eq!(rates.error_ratio, Some(0.25));
        assert_eq!(rates.request_durations[0], Some(1.0));

        // With other bounds, there is nothing to compare with until the window has
        // none of the old ones.
        let mut other = sample("a", 1100.0);
        other.counts.request_durations.bounds = vec![1.0, 3.0];
        let rates = window.push(at(15), other.clone()).expect("rates");
        assert_eq!(rates.request_durations, [None; 3]);
        other.counts.request_durations.counts[1] += 10.0;
        let rates = window.push(at(75), other).expect("rates");
        assert_eq!(rates.request_durations[0], Some(2.0));
    }

    #[test]
    fn only_a_minute_is_kept() {
        let mut window = Window::default();
        for second in 0..1000 {
            window.push(Duration::from_secs(second), sample("a", second as f64));
        }
        assert_eq!(window.increases.len(), 61);
    }
}
