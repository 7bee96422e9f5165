//! What one read of Redis says to the page: the families of its panels, added up
//! over all series as `monitoring/recording.yaml` does it. However many series
//! there are, a sample is of one size.

use functional_scaffold_protocol::{
    catalog::{ExecutionStatus, RequestStatus},
    series::{FamilySeries, Series},
};

use super::counts::{Buckets, Counts, REQUEST_STATUSES};
use crate::{labels::label, leases::EXECUTIONS, reader::Reading};

const REQUESTS: &str = "http_requests_total";
const REQUEST_DURATIONS: &str = "http_request_duration_seconds";
const EXECUTION_DURATIONS: &str = "algorithm_execution_duration_seconds";

/// Endpoints that no user asks. Like the recorded series, the latency of
/// requests and the error ratio are without them.
const PROBES: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// What one read says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sample {
    /// Which store this is of.
    pub epoch: Option<String>,
    /// What only grows.
    pub counts: Counts,
    /// The executions in flight, where the open leases can be read.
    pub in_flight: Option<f64>,
    /// The age of the oldest open lease, 0 without any.
    pub oldest_lease_age_seconds: Option<f64>,
}

impl Sample {
    /// What a reading says.
    #[must_use]
    pub fn of(reading: &Reading) -> Self {
        let mut counts = Counts::default();
        for family in &reading.families {
            match family.family.name.as_str() {
                REQUESTS => counts.add_requests(family),
                EXECUTIONS => counts.add_executions(family),
                REQUEST_DURATIONS => counts.request_durations = Buckets::of(family, is_users),
                EXECUTION_DURATIONS => counts.execution_durations = Buckets::of(family, |_| true),
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
            if let Some(class) = REQUEST_STATUSES.into_iter().position(is) {
                self.requests[class] += value;
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
            if let Some(class) = ExecutionStatus::ALL.into_iter().position(is) {
                self.executions[class] += value;
            }
        }
    }
}

impl Buckets {
    fn of(family: &FamilySeries, is_wanted: impl Fn(&str) -> bool) -> Self {
        let Series::Histograms(histograms) = &family.series else {
            return Self::default();
        };
        let bounds = family.family.bounds.clone();
        let mut counts = vec![0.0; bounds.len() + 1];
        for (_, histogram) in histograms.iter().filter(|(labels, _)| is_wanted(labels)) {
            for (sum, count) in counts.iter_mut().zip(&histogram.buckets) {
                *sum += *count as f64;
            }
        }
        Self { bounds, counts }
    }
}

/// In the family's base unit. None are of a histogram.
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

/// Whether the label has this value, which is one that needs no escape.
fn has(labels: &str, name: &str, value: &str) -> bool {
    let quoted = label(labels, name).and_then(|label| label.split_once("=\""));
    quoted.is_some_and(|(_, quoted)| quoted.strip_suffix('"') == Some(value))
}

#[cfg(test)]
mod tests {
    use functional_scaffold_protocol::{catalog::Catalog, family::Kind, series::Histogram};

    use super::*;

    fn family(name: &str) -> functional_scaffold_protocol::family::Family {
        let catalog = Catalog::new("m:");
        let family = catalog.families().into_iter().find(|one| one.name == name);
        family.expect("it is in the catalog").clone()
    }

    fn values(name: &str, values: &[(&str, i64)]) -> FamilySeries {
        let family = family(name);
        assert_eq!(family.kind, Kind::Counter);
        let values = values.iter().map(|&(labels, value)| (labels.into(), value));
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
    fn series_are_added_up_as_the_recording_rules_do() {
        let requests = [
            (
                r#"code="200",endpoint="/healthz",method="GET",status="success""#,
                1000,
            ),
            (
                r#"code="500",endpoint="/readyz",method="GET",status="error""#,
                100,
            ),
            (
                r#"code="200",endpoint="/invoke",method="POST",status="success""#,
                5,
            ),
            (
                r#"code="422",endpoint="/invoke",method="POST",status="rejected""#,
                3,
            ),
            (
                r#"code="500",endpoint="/invoke",method="POST",status="error""#,
                2,
            ),
            (r#"status="teapot""#, 7),
        ];
        let executions = [
            (r#"algorithm="a",status="success""#, 1),
            (r#"algorithm="b",status="success""#, 2),
            (r#"algorithm="a",status="crashed""#, 4),
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
                    &[(r#"algorithm="a""#, 9)],
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
        assert_eq!(Sample::of(&reading).counts, expected);
    }

    #[test]
    fn probes_are_those_that_the_recording_rules_leave_out() {
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
}
