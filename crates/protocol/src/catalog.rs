//! The families that every algorithm service writes, their label sets and
//! buckets. Owns names and meanings; how a cell is stored is [`crate::cell`]'s.

use crate::{
    batch::Batch,
    cell,
    family::{Family, Kind},
    labels::write_labels,
};

/// Inclusive upper bounds of the latency buckets in nanoseconds, 50 µs to 10 s.
///
/// A sandboxed algorithm answers in tens of microseconds, so the customary
/// bounds, which begin at 5 ms, would put nearly all into one bucket.
pub const LATENCY_BOUNDS_NANOS: [u64; 17] = [
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// The families under one key prefix, ready to be recorded into.
#[derive(Debug, Clone)]
pub struct Catalog {
    requests: Family,
    request_durations: Family,
    executions: Family,
    execution_durations: Family,
    unleased: Family,
    late: Family,
    settled: Family,
    flushes: Family,
    /// `le` of each latency bucket as it is written, the last `+Inf`.
    latency_le: Vec<String>,
}

impl Catalog {
    /// The families with their hashes under `prefix` (`metrics:`).
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        let counter = |name: &str, key: &str, help: &str| Family {
            name: name.into(),
            kind: Kind::Counter,
            help: help.into(),
            unit: String::new(),
            key: format!("{prefix}{key}"),
            bounds: Vec::new(),
            scale: 1,
        };
        let latency = |name: &str, key: &str, help: &str| Family {
            name: name.into(),
            kind: Kind::Histogram,
            help: help.into(),
            unit: "seconds".into(),
            key: format!("{prefix}{key}"),
            bounds: latency_bounds(),
            scale: NANOS_PER_SECOND,
        };
        Self {
            requests: counter(
                "http_requests_total",
                "request_counter",
                "HTTP requests answered, by method, route pattern, class and code.",
            ),
            request_durations: latency(
                "http_request_duration_seconds",
                "request_latency",
                "Time from the request's arrival in the component to its response.",
            ),
            executions: counter(
                "algorithm_executions_total",
                "algorithm_counter",
                "Algorithm executions, by how they ended.",
            ),
            execution_durations: latency(
                "algorithm_execution_duration_seconds",
                "algorithm_latency",
                "Time spent in the algorithm itself.",
            ),
            unleased: counter(
                "functional_scaffold_unleased_executions_total",
                "unleased_counter",
                "Executions that began although Redis had not acknowledged their lease.",
            ),
            late: counter(
                "functional_scaffold_late_results_total",
                "late_counter",
                "Results that came after their execution was counted as crashed.",
            ),
            settled: counter(
                "functional_scaffold_leases_settled_total",
                "settled_counter",
                "Leases that ran out, so that their execution was counted as crashed.",
            ),
            flushes: counter(
                "functional_scaffold_flush_failures_total",
                "flush_counter",
                "Attempts to store a batch that failed, were duplicates, or ended in the log.",
            ),
            latency_le: latency_bounds()
                .iter()
                .map(|&bound| cell::le_of_bound(bound))
                .chain(["+Inf".to_owned()])
                .collect(),
        }
    }

    /// The families, to be registered.
    #[must_use]
    pub fn families(&self) -> [&Family; 8] {
        [
            &self.requests,
            &self.request_durations,
            &self.executions,
            &self.execution_durations,
            &self.unleased,
            &self.late,
            &self.settled,
            &self.flushes,
        ]
    }

    /// The same, to be pointed at other hashes (see [`Family::with_own_layout`]).
    pub fn families_mut(&mut self) -> [&mut Family; 8] {
        [
            &mut self.requests,
            &mut self.request_durations,
            &mut self.executions,
            &mut self.execution_durations,
            &mut self.unleased,
            &mut self.late,
            &mut self.settled,
            &mut self.flushes,
        ]
    }

    /// Series that an algorithm served at these endpoints may not bear for
    /// long, the errors and crashes, each as key and field. They are written
    /// at 0 when a component registers: Prometheus sees no increase in a
    /// series that is born at 1.
    #[must_use]
    pub fn zero_cells(&self, algorithm: &str, endpoints: &[&str]) -> Vec<(&str, String)> {
        let executions = ExecutionStatus::ALL.iter().map(|&status| {
            let field = execution_labels(algorithm, status);
            (self.executions.key.as_str(), field)
        });
        let requests = endpoints.iter().map(|endpoint| {
            let mut field = String::new();
            write_request_labels(&mut field, "POST", endpoint, 500);
            (self.requests.key.as_str(), field)
        });
        let troubles = [&self.unleased, &self.late, &self.settled]
            .into_iter()
            .map(|family| (family.key.as_str(), algorithm_label(algorithm)));
        let flushes = [
            FlushOutcome::Failed,
            FlushOutcome::Duplicate,
            FlushOutcome::Logged,
        ];
        let flushes = flushes
            .into_iter()
            .map(|outcome| (self.flushes.key.as_str(), outcome_label(outcome)));
        executions
            .chain(requests)
            .chain(troubles)
            .chain(flushes)
            .collect()
    }

    /// What is counted of an execution whose lease runs out, each as key and
    /// field: it crashed, and its `POST` was answered 500 by the host.
    #[must_use]
    pub fn crash_cells(&self, algorithm: &str, endpoint: &str) -> Vec<(String, String)> {
        let mut request = String::new();
        write_request_labels(&mut request, "POST", endpoint, 500);
        let execution = execution_labels(algorithm, ExecutionStatus::Crashed);
        vec![
            (self.requests.key.clone(), request),
            (self.executions.key.clone(), execution),
            (self.settled.key.clone(), algorithm_label(algorithm)),
        ]
    }

    /// Counts a finished request into `batch`.
    pub fn record_request(&self, batch: &mut Batch, request: &FinishedRequest<'_>) {
        let mut tally = Tally::default();
        tally.record_request(request);
        tally.add_to(batch, self, "");
    }

    /// Counts a finished execution into `batch`. A crashed one has no
    /// duration: it enters no histogram.
    pub fn record_execution(&self, batch: &mut Batch, execution: &FinishedExecution<'_>) {
        let mut tally = Tally::default();
        tally.record_execution(execution.status, execution.duration_nanos);
        tally.add_to(batch, self, execution.algorithm);
    }

    pub(crate) fn count_requests(
        &self,
        batch: &mut Batch,
        method: &str,
        endpoint: &str,
        code: u16,
        count: u64,
    ) {
        let mut labels = String::with_capacity(96);
        write_request_labels(&mut labels, method, endpoint, code);
        batch.inc(&self.requests.key, &labels, count);
    }

    pub(crate) fn add_request_durations(
        &self,
        batch: &mut Batch,
        method: &str,
        endpoint: &str,
        durations: &Durations,
    ) {
        let mut labels = String::with_capacity(64);
        write_labels(&mut labels, &[("endpoint", endpoint), ("method", method)]);
        self.add_durations(batch, &self.request_durations, labels, durations);
    }

    pub(crate) fn count_executions(
        &self,
        batch: &mut Batch,
        algorithm: &str,
        status: ExecutionStatus,
        count: u64,
    ) {
        let labels = execution_labels(algorithm, status);
        batch.inc(&self.executions.key, &labels, count);
    }

    pub(crate) fn add_execution_durations(
        &self,
        batch: &mut Batch,
        algorithm: &str,
        durations: &Durations,
    ) {
        let labels = algorithm_label(algorithm);
        self.add_durations(batch, &self.execution_durations, labels, durations);
    }

    /// Counts an execution that began without an acknowledged lease.
    pub fn record_unleased(&self, batch: &mut Batch, algorithm: &str) {
        batch.inc(&self.unleased.key, &algorithm_label(algorithm), 1);
    }

    /// Counts results that came too late to be counted as what they are.
    pub fn record_late(&self, batch: &mut Batch, algorithm: &str, results: u64) {
        batch.inc(&self.late.key, &algorithm_label(algorithm), results);
    }

    /// Counts what became of attempts to store a batch.
    pub fn record_flushes(&self, batch: &mut Batch, outcome: FlushOutcome, attempts: u64) {
        batch.inc(&self.flushes.key, &outcome_label(outcome), attempts);
    }

    fn add_durations(
        &self,
        batch: &mut Batch,
        family: &Family,
        mut field: String,
        durations: &Durations,
    ) {
        let labels_length = field.len();
        let buckets = durations.buckets.iter().zip(&self.latency_le);
        let mut observed = false;
        for (&count, le) in buckets.filter(|(count, _)| **count > 0) {
            observed = true;
            cell::push_bucket(&mut field, le);
            batch.inc(&family.key, &field, count);
            field.truncate(labels_length);
        }
        if observed {
            cell::push_sum(&mut field);
            batch.inc(&family.key, &field, durations.sum_nanos);
        }
    }
}

fn algorithm_label(algorithm: &str) -> String {
    let mut labels = String::with_capacity(64);
    write_labels(&mut labels, &[("algorithm", algorithm)]);
    labels
}

fn outcome_label(outcome: FlushOutcome) -> String {
    let mut labels = String::new();
    write_labels(&mut labels, &[("outcome", outcome.label())]);
    labels
}

fn write_request_labels(out: &mut String, method: &str, endpoint: &str, code: u16) {
    let status = RequestStatus::of_code(code).label();
    write_labels(
        out,
        &[
            ("code", &code.to_string()),
            ("endpoint", endpoint),
            ("method", method),
            ("status", status),
        ],
    );
}

fn execution_labels(algorithm: &str, status: ExecutionStatus) -> String {
    let mut labels = String::with_capacity(64);
    write_labels(
        &mut labels,
        &[("algorithm", algorithm), ("status", status.label())],
    );
    labels
}

/// The latency bounds in seconds: the floats nearest to the decimal values,
/// because a quotient of two exactly held integers is rounded correctly.
fn latency_bounds() -> Vec<f64> {
    #[allow(
        clippy::cast_precision_loss,
        reason = "both integers are below 2^53 and so exact as floats"
    )]
    LATENCY_BOUNDS_NANOS
        .iter()
        .map(|&nanos| nanos as f64 / NANOS_PER_SECOND as f64)
        .collect()
}

/// The class of a finished request, the label `status` of the request counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestStatus {
    /// A code below 400.
    Success,
    /// 4xx: the caller's fault.
    Rejected,
    /// 5xx: ours.
    Error,
}

impl RequestStatus {
    /// The class of an HTTP status code.
    #[must_use]
    pub fn of_code(code: u16) -> Self {
        match code {
            0..=399 => Self::Success,
            400..=499 => Self::Rejected,
            500.. => Self::Error,
        }
    }

    /// The label's value.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Rejected => "rejected",
            Self::Error => "error",
        }
    }
}

/// How an execution ended, the label `status` of the execution counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecutionStatus {
    /// It gave a result.
    Success,
    /// It refused its input: the caller's fault.
    InvalidInput,
    /// It reported that it could not finish.
    Failed,
    /// It never reported: a trap, an endless loop, a host that died.
    Crashed,
}

impl ExecutionStatus {
    /// Every status, in no meaningful order.
    pub const ALL: [Self; 4] = [
        Self::Success,
        Self::InvalidInput,
        Self::Failed,
        Self::Crashed,
    ];

    /// The label's value.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::InvalidInput => "invalid_input",
            Self::Failed => "failed",
            Self::Crashed => "crashed",
        }
    }
}

/// One finished request, as it is counted.
#[derive(Debug, Clone, Copy)]
pub struct FinishedRequest<'a> {
    /// The HTTP method, upper case; anything unknown is `OTHER`.
    pub method: &'a str,
    /// The pattern of the route, never the raw path; `unmatched` for none.
    pub endpoint: &'a str,
    /// The HTTP status code answered.
    pub code: u16,
    /// From the first byte handed to the component to the response, in
    /// nanoseconds.
    pub duration_nanos: u64,
}

/// One finished execution, as it is counted.
#[derive(Debug, Clone, Copy)]
pub struct FinishedExecution<'a> {
    /// The algorithm's own name.
    pub algorithm: &'a str,
    /// How it ended.
    pub status: ExecutionStatus,
    /// The time in the algorithm alone, in nanoseconds.
    pub duration_nanos: u64,
}

/// What became of an attempt to store a batch, where that is not the rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlushOutcome {
    /// It failed, and is tried again or given up.
    Failed,
    /// It was stored before: an answer had been lost.
    Duplicate,
    /// It was given up, to the log.
    Logged,
}

impl FlushOutcome {
    /// The label's value.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Duplicate => "duplicate",
            Self::Logged => "logged",
        }
    }
}

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
    pub fn record_request(&mut self, request: &FinishedRequest<'a>) {
        let FinishedRequest {
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

#[cfg(test)]
#[path = "catalog_tests.rs"]
mod tests;
