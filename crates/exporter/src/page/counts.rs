//! What only grows: the counts of which the page makes rates. Owns how two of
//! them are compared, and put together.

use functional_scaffold_protocol::catalog::{ExecutionStatus, RequestStatus};

/// The classes of requests, in the order that [`Counts::requests`] has them in.
pub const REQUEST_STATUSES: [RequestStatus; 3] = [
    RequestStatus::Success,
    RequestStatus::Rejected,
    RequestStatus::Error,
];

/// What only grows within an epoch. Floats, because what is made of it is: they
/// are exact below 2^53.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Counts {
    /// By class. One of another component's making is in the total alone.
    pub requests: [f64; REQUEST_STATUSES.len()],
    /// All requests.
    pub requests_total: f64,
    /// Those of users.
    pub user_requests: f64,
    /// Those of users that were answered by an error.
    pub user_errors: f64,
    /// How long those of users took.
    pub request_durations: Buckets,
    /// By how they ended, as [`ExecutionStatus::ALL`] has it.
    pub executions: [f64; ExecutionStatus::ALL.len()],
    /// All executions.
    pub executions_total: f64,
    /// How long they took.
    pub execution_durations: Buckets,
}

/// A histogram's counts, not cumulative. Without bounds, nothing was observed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Buckets {
    /// As the family has them, `+Inf` not among them.
    pub bounds: Vec<f64>,
    /// Of each bucket, that of `+Inf` at the end.
    pub counts: Vec<f64>,
}

impl Counts {
    /// How much more this is than `earlier` counts of the same store. Nothing
    /// counts below 0: less is a series that was removed by hand.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        self.with(earlier, rise, Buckets::since)
    }

    /// Both together, histograms on the bounds of this one.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        self.with(other, |left, right| left + right, Buckets::plus)
    }

    fn with(
        &self,
        other: &Self,
        value: impl Fn(f64, f64) -> f64,
        buckets: impl Fn(&Buckets, &Buckets) -> Buckets,
    ) -> Self {
        let Self {
            requests,
            requests_total,
            user_requests,
            user_errors,
            request_durations,
            executions,
            executions_total,
            execution_durations,
        } = other;
        Self {
            requests: each(self.requests, *requests, &value),
            requests_total: value(self.requests_total, *requests_total),
            user_requests: value(self.user_requests, *user_requests),
            user_errors: value(self.user_errors, *user_errors),
            request_durations: buckets(&self.request_durations, request_durations),
            executions: each(self.executions, *executions, &value),
            executions_total: value(self.executions_total, *executions_total),
            execution_durations: buckets(&self.execution_durations, execution_durations),
        }
    }
}

impl Buckets {
    /// Of other bounds (a component of another version came or went) nothing is
    /// known, so that is no rise.
    fn since(&self, earlier: &Self) -> Self {
        let counts = if earlier.bounds.is_empty() {
            self.counts.clone()
        } else if earlier.bounds == self.bounds {
            self.pairs(earlier)
                .map(|(later, earlier)| rise(later, earlier))
                .collect()
        } else {
            vec![0.0; self.counts.len()]
        };
        Self {
            bounds: self.bounds.clone(),
            counts,
        }
    }

    /// Of two with other bounds, this one alone.
    fn plus(&self, other: &Self) -> Self {
        if self.bounds.is_empty() {
            return other.clone();
        }
        let mut sum = self.clone();
        if self.bounds == other.bounds {
            sum.counts = self
                .pairs(other)
                .map(|(left, right)| left + right)
                .collect();
        }
        sum
    }

    fn pairs<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = (f64, f64)> + 'a {
        self.counts
            .iter()
            .copied()
            .zip(other.counts.iter().copied())
    }
}

fn rise(later: f64, earlier: f64) -> f64 {
    (later - earlier).max(0.0)
}

fn each<const N: usize>(
    left: [f64; N],
    right: [f64; N],
    of: &impl Fn(f64, f64) -> f64,
) -> [f64; N] {
    std::array::from_fn(|class| of(left[class], right[class]))
}
