//! Finished requests and executions counted by kind: without a text or an
//! allocation each, as they are counted on the way of every request. What cells
//! that makes is [`crate::catalog`]'s.

use crate::{
    batch::Batch,
    catalog::{Catalog, LATENCY_BOUNDS_NANOS},
    event::{ExecutionStatus, Request},
};

/// Counts of one algorithm's requests and executions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally<'a> {
    // Searched from the front: a service has a few kinds of requests.
    requests: Vec<RequestCount<'a>>,
    request_durations: Vec<RouteDurations<'a>>,
    executions: [u64; ExecutionStatus::ALL.len()],
    execution_durations: Durations,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct RequestCount<'a> {
    method: &'a str,
    endpoint: &'a str,
    code: u16,
    count: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct RouteDurations<'a> {
    method: &'a str,
    endpoint: &'a str,
    durations: Durations,
}

/// Observations of a latency histogram.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Durations {
    /// By bucket, not cumulative, the last one `+Inf`.
    pub(crate) buckets: [u64; LATENCY_BOUNDS_NANOS.len() + 1],
    pub(crate) sum_nanos: u64,
}

impl Durations {
    fn observe(&mut self, nanos: u64) {
        let bucket = LATENCY_BOUNDS_NANOS.partition_point(|&bound| bound < nanos);
        self.buckets[bucket] += 1;
        self.sum_nanos = self.sum_nanos.saturating_add(nanos);
    }
}

impl<'a> Tally<'a> {
    /// Counts a finished request.
    pub fn record_request(&mut self, request: &Request<'a>) {
        let Request {
            method,
            endpoint,
            code,
            duration_nanos,
        } = *request;
        let known = self.requests.iter_mut().find(|known| {
            known.code == code && known.endpoint == endpoint && known.method == method
        });
        match known {
            Some(known) => known.count += 1,
            None => self.requests.push(RequestCount {
                method,
                endpoint,
                code,
                count: 1,
            }),
        }
        let mut routes = self.request_durations.iter_mut();
        let known = routes.find(|known| known.endpoint == endpoint && known.method == method);
        match known {
            Some(known) => known.durations.observe(duration_nanos),
            None => {
                let mut durations = Durations::default();
                durations.observe(duration_nanos);
                self.request_durations.push(RouteDurations {
                    method,
                    endpoint,
                    durations,
                });
            }
        }
    }

    /// Counts a finished execution that took `nanos` nanoseconds. A crashed one
    /// has no duration: it enters no histogram.
    pub fn record_execution(&mut self, status: ExecutionStatus, nanos: u64) {
        self.executions[status as usize] += 1;
        if status != ExecutionStatus::Crashed {
            self.execution_durations.observe(nanos);
        }
    }

    /// Whether nothing was counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty() && self.executions == [0; ExecutionStatus::ALL.len()]
    }

    /// Adds what was counted to `batch`, as `catalog` stores it.
    pub fn add_to(&self, batch: &mut Batch, catalog: &Catalog, algorithm: &str) {
        for known in &self.requests {
            catalog.count_requests(batch, known.method, known.endpoint, known.code, known.count);
        }
        for known in &self.request_durations {
            catalog.add_request_durations(batch, known.method, known.endpoint, &known.durations);
        }
        for status in ExecutionStatus::ALL {
            let count = self.executions[status as usize];
            if count > 0 {
                catalog.count_executions(batch, algorithm, status, count);
            }
        }
        catalog.add_execution_durations(batch, algorithm, &self.execution_durations);
    }
}
