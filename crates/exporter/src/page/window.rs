//! Rates and quantiles over the last minute: what the increases between samples
//! come to. Owns resets and gaps; the recorded series of Prometheus are the same
//! over five minutes.

use std::{collections::VecDeque, time::Duration};

use functional_scaffold_protocol::catalog::ExecutionStatus;

use super::{
    counts::{Buckets, Counts, REQUEST_STATUSES},
    quantile::quantile,
    sample::Sample,
};

/// What rates and quantiles are taken over.
pub const WINDOW: Duration = Duration::from_secs(60);

/// The quantiles of latencies.
pub const QUANTILES: [f64; 3] = [0.5, 0.95, 0.99];

/// Samples of the last minute. There are as many as the recorder takes in it,
/// and one more.
#[derive(Debug, Default)]
pub struct Window {
    last: Option<Sample>,
    /// When, and all increases until then since some time before the window.
    grown: VecDeque<(Duration, Counts)>,
}

/// What the last minute came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Rates {
    /// Per second, by class.
    pub requests: [f64; REQUEST_STATUSES.len()],
    /// Per second.
    pub requests_total: f64,
    /// Per second, by how they ended.
    pub executions: [f64; ExecutionStatus::ALL.len()],
    /// Errors as a part of what users were answered; None without any answer.
    pub error_ratio: Option<f64>,
    /// In seconds.
    pub request_durations: [Option<f64>; QUANTILES.len()],
    /// In seconds.
    pub execution_durations: [Option<f64>; QUANTILES.len()],
}

impl Window {
    /// Takes the sample of a time, later than those before. None where there is
    /// none to compare it with.
    ///
    /// The rates are since the newest sample that is as old as the window, else
    /// since the oldest there is: nothing is extrapolated.
    pub fn push(&mut self, at: Duration, sample: Sample) -> Option<Rates> {
        let increase = match &self.last {
            None => Counts::default(),
            // A wiped store counts from 0. One without an epoch cannot be told
            // from another.
            Some(last) if is_other_store(last, &sample) => sample.counts.clone(),
            Some(last) => sample.counts.since(&last.counts),
        };
        let grown = match self.grown.back() {
            None => increase,
            Some((_, grown)) => increase.plus(grown),
        };
        self.last = Some(sample);
        let begin = at.saturating_sub(WINDOW);
        while self.grown.get(1).is_some_and(|(time, _)| *time <= begin) {
            self.grown.pop_front();
        }
        let rates = self
            .grown
            .front()
            .map(|(from, before)| Rates::of(&grown.since(before), at.saturating_sub(*from)));
        self.grown.push_back((at, grown));
        rates
    }

    /// Redis could not be read. What is counted meanwhile is not the rate of any
    /// one moment: rates begin anew after it, as those of Prometheus do.
    pub fn interrupt(&mut self) {
        *self = Self::default();
    }
}

impl Rates {
    fn of(increase: &Counts, over: Duration) -> Self {
        let seconds = over.as_secs_f64();
        let answered = increase.user_requests > 0.0;
        Self {
            requests: increase.requests.map(|count| count / seconds),
            requests_total: increase.requests_total / seconds,
            executions: increase.executions.map(|count| count / seconds),
            error_ratio: answered.then(|| increase.user_errors / increase.user_requests),
            request_durations: quantiles(&increase.request_durations),
            execution_durations: quantiles(&increase.execution_durations),
        }
    }
}

fn quantiles(buckets: &Buckets) -> [Option<f64>; QUANTILES.len()] {
    QUANTILES.map(|q| quantile(q, &buckets.bounds, &buckets.counts))
}

fn is_other_store(one: &Sample, other: &Sample) -> bool {
    matches!((&one.epoch, &other.epoch), (Some(one), Some(other)) if one != other)
}

#[cfg(test)]
mod tests {
    use super::*;

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

    /// The rate after samples of (second, epoch, requests), None among them for
    /// a read that failed.
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
    fn a_rate_is_that_of_the_last_minute_whatever_began_anew() {
        for (samples, expected, why) in [
            (&[Some((0, "a", 7.0))][..], None, "nothing to compare with"),
            (
                &[Some((0, "a", 7.0)), Some((5, "a", 17.0))],
                Some(2.0),
                "a short past",
            ),
            (
                &[
                    Some((0, "a", 0.0)),
                    Some((30, "a", 600.0)),
                    Some((60, "a", 600.0)),
                    Some((90, "a", 630.0)),
                ],
                Some(0.5),
                "what is older does not count",
            ),
            (
                &[Some((0, "a", 0.0)), Some((200, "a", 100.0))],
                Some(0.5),
                "reads that are further apart than a minute",
            ),
            (
                &[
                    Some((0, "a", 100.0)),
                    Some((5, "a", 110.0)),
                    Some((10, "b", 10.0)),
                ],
                Some(2.0),
                "a wiped store begins at 0",
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
                "nothing is said of a time in which Redis was down",
            ),
            (
                &[
                    Some((0, "a", 0.0)),
                    None,
                    Some((10, "a", 500.0)),
                    Some((20, "a", 510.0)),
                ],
                Some(1.0),
                "and it goes on after it",
            ),
        ] {
            assert_eq!(rate(samples), expected, "{why}");
        }
    }

    #[test]
    fn ratio_and_quantiles_are_those_of_the_increase() {
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

        // On other bounds there is nothing to compare with for as long as the
        // window has the old ones in it.
        let mut other = sample("a", 1100.0);
        other.counts.request_durations.bounds = vec![1.0, 3.0];
        let rates = window.push(at(15), other.clone()).expect("rates");
        assert_eq!(rates.request_durations, [None; 3]);
        other.counts.request_durations.counts[1] += 10.0;
        let rates = window.push(at(75), other).expect("rates");
        assert_eq!(rates.request_durations[0], Some(2.0));
    }

    #[test]
    fn no_more_is_kept_than_a_minute() {
        let mut window = Window::default();
        for second in 0..1000 {
            window.push(Duration::from_secs(second), sample("a", second as f64));
        }
        assert_eq!(window.grown.len(), 61);
    }
}
