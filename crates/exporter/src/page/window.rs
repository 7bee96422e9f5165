//! Rates and quantiles over the last minute: what the increases between samples
//! come to. Owns resets and gaps; the recorded series of Prometheus are the same
//! over five minutes.

use std::{collections::VecDeque, time::Duration};

use functional_scaffold_schema::catalog::ExecutionStatus;

use super::{
    quantile::quantile,
    sample::{Buckets, Counts, REQUEST_STATUSES, Sample},
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
