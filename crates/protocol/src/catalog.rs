//! The metric families that a component writes, and the requests and executions
//! that it records in them.
//!
//! Each family is declared once, below, with its name, key, help and labels. To add a
//! label to a request, add a field to [`RequestLabels`], and name it in `REQUESTS`.
//! Both histograms have the buckets of [`LATENCY_BOUNDS_NANOS`].

use crate::{
    batch::Batch,
    cell,
    family::{Family, Kind},
    labels::write_labels,
};

const REQUESTS: Declaration<fn(&RequestLabels<'_>, &mut String)> = Declaration {
    name: "http_requests_total",
    key: "request_counter",
    kind: Kind::Counter,
    help: "HTTP requests, by method, route pattern, status class and code.",
    write_labels: |request, out| {
        let labels = [
            ("code", &*request.code.to_string()),
            ("endpoint", request.endpoint),
            ("method", request.method),
            ("status", RequestStatus::of_code(request.code).label()),
        ];
        write_labels(out, &labels);
    },
};

const REQUEST_DURATIONS: Declaration<fn(&RouteLabels<'_>, &mut String)> = Declaration {
    name: "http_request_duration_seconds",
    key: "request_latency",
    kind: Kind::Histogram,
    help: "Time from the request's arrival in the component to its response.",
    write_labels: |route, out| {
        let labels = [("endpoint", route.endpoint), ("method", route.method)];
        write_labels(out, &labels);
    },
};

const EXECUTIONS: Declaration<fn(&ExecutionLabels<'_>, &mut String)> = Declaration {
    name: "algorithm_executions_total",
    key: "algorithm_counter",
    kind: Kind::Counter,
    help: "Algorithm executions, by how they ended.",
    write_labels: |execution, out| {
        let labels = [
            ("algorithm", execution.algorithm),
            ("status", execution.status.label()),
        ];
        write_labels(out, &labels);
    },
};

const EXECUTION_DURATIONS: AlgorithmDeclaration = Declaration {
    name: "algorithm_execution_duration_seconds",
    key: "algorithm_latency",
    kind: Kind::Histogram,
    help: "Time spent in the algorithm itself.",
    write_labels: write_algorithm_label,
};

const UNLEASED_EXECUTIONS: AlgorithmDeclaration = Declaration {
    name: "functional_scaffold_unleased_executions_total",
    key: "unleased_counter",
    kind: Kind::Counter,
    help: "Executions that began although Redis had not acknowledged their lease.",
    write_labels: write_algorithm_label,
};

const LATE_RESULTS: AlgorithmDeclaration = Declaration {
    name: "functional_scaffold_late_results_total",
    key: "late_counter",
    kind: Kind::Counter,
    help: "Results that came after their execution was counted as crashed.",
    write_labels: write_algorithm_label,
};

const LEASES_SETTLED: AlgorithmDeclaration = Declaration {
    name: "functional_scaffold_leases_settled_total",
    key: "settled_counter",
    kind: Kind::Counter,
    help: "Leases that expired, so that their execution was counted as crashed.",
    write_labels: write_algorithm_label,
};

const FLUSH_FAILURES: Declaration<fn(&FlushOutcome, &mut String)> = Declaration {
    name: "functional_scaffold_flush_failures_total",
    key: "flush_counter",
    kind: Kind::Counter,
    help: "Attempts to store a batch that failed, were duplicates, or ended in the log.",
    write_labels: |outcome, out| write_labels(out, &[("outcome", outcome.label())]),
};

const SERIES_LIMITED: Declaration<fn(&str, &mut String)> = Declaration {
    name: "functional_scaffold_series_limited_total",
    key: "limited_counter",
    kind: Kind::Counter,
    help: "Series beyond their family's limit that a batch wrote to.",
    write_labels: |family, out| write_labels(out, &[("family", family)]),
};

/// The gauge that the exporter makes of the open leases. It belongs to
/// `algorithm_executions_total`, and is named like it.
pub const IN_FLIGHT: &str = "algorithm_executions_in_flight";

/// Inclusive upper bounds of the latency buckets, in nanoseconds. `+Inf` is implied.
///
/// A sandboxed algorithm responds in tens of microseconds. The usual bounds begin
/// at 5 ms and would put nearly all of its requests into one bucket.
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

/// The families under one key prefix, to record into a [`Batch`].
///
/// # Examples
/// ```
/// use functional_scaffold_protocol::{
///     batch::Batch,
///     catalog::{Catalog, FinishedRequest, RequestLabels},
/// };
///
/// let catalog = Catalog::new("metrics:");
/// let mut batch = Batch::default();
/// let request = FinishedRequest {
///     labels: RequestLabels::new("POST", "/invoke", 200),
///     duration_nanos: 70_000,
/// };
/// catalog.record_request(&mut batch, &request);
///
/// let cells: Vec<_> = batch.cells().collect();
/// let labels = r#"code="200",endpoint="/invoke",method="POST",status="success""#;
/// assert_eq!(cells[0], ("metrics:request_counter", labels, 1));
/// let bucket = r#"endpoint="/invoke",method="POST"|0.0001"#;
/// assert_eq!(cells[1], ("metrics:request_latency", bucket, 1));
/// ```
#[derive(Debug, Clone)]
pub struct Catalog {
    prefix: String,
    requests: Metric<fn(&RequestLabels<'_>, &mut String)>,
    request_durations: Metric<fn(&RouteLabels<'_>, &mut String)>,
    executions: Metric<fn(&ExecutionLabels<'_>, &mut String)>,
    execution_durations: AlgorithmMetric,
    unleased_executions: AlgorithmMetric,
    late_results: AlgorithmMetric,
    leases_settled: AlgorithmMetric,
    flush_failures: Metric<fn(&FlushOutcome, &mut String)>,
    series_limited: Metric<fn(&str, &mut String)>,
    scope: Scope,
    /// Families that the author of the component declares.
    custom: Vec<Family>,
    /// The text of each latency bound, the last one `+Inf`.
    latency_les: Vec<String>,
}

/// The kinds of metrics that a catalog counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// Requests, and the executions of an algorithm.
    Algorithm,
    /// Requests.
    Requests,
    /// Families that the component's author declares.
    Custom,
}

impl Catalog {
    /// Creates the families of a component that runs an algorithm, with their hashes
    /// under `prefix` (`metrics:`).
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        Self::with(prefix, Scope::Algorithm)
    }

    /// Creates the families of a component that runs no algorithm. Its executions are
    /// its requests: they have leases, and no families of their own. Every `algorithm`
    /// is the empty text.
    #[must_use]
    pub fn of_requests(prefix: &str) -> Self {
        Self::with(prefix, Scope::Requests)
    }

    /// Creates a catalog of the families that the author of a component declares, without
    /// any so far. Beside them it has those that say how they are stored.
    #[must_use]
    pub fn of_custom(prefix: &str) -> Self {
        Self::with(prefix, Scope::Custom)
    }

    fn with(prefix: &str, scope: Scope) -> Self {
        let bounds = latency_bounds();
        let les = bounds.iter().map(|&bound| cell::le_of_bound(bound));
        Self {
            prefix: prefix.to_owned(),
            requests: REQUESTS.with_prefix(prefix),
            request_durations: REQUEST_DURATIONS.with_prefix(prefix),
            executions: EXECUTIONS.with_prefix(prefix),
            execution_durations: EXECUTION_DURATIONS.with_prefix(prefix),
            unleased_executions: UNLEASED_EXECUTIONS.with_prefix(prefix),
            late_results: LATE_RESULTS.with_prefix(prefix),
            leases_settled: LEASES_SETTLED.with_prefix(prefix),
            flush_failures: FLUSH_FAILURES.with_prefix(prefix),
            series_limited: SERIES_LIMITED.with_prefix(prefix),
            scope,
            custom: Vec::new(),
            latency_les: les.chain(["+Inf".to_owned()]).collect(),
        }
    }

    /// The prefix of every key.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Adds a family that the author of the component declares.
    pub fn add_custom(&mut self, family: Family) {
        self.custom.push(family);
    }

    /// The families that the author of the component declares.
    #[must_use]
    pub fn custom(&self) -> &[Family] {
        &self.custom
    }

    /// All families, in the order in which they are registered.
    #[must_use]
    pub fn families(&self) -> Vec<&Family> {
        if self.scope == Scope::Custom {
            let mut families = vec![&self.flush_failures.family, &self.series_limited.family];
            families.extend(&self.custom);
            return families;
        }
        let mut families = vec![&self.requests.family, &self.request_durations.family];
        if self.scope == Scope::Algorithm {
            families.extend([&self.executions.family, &self.execution_durations.family]);
        }
        families.extend([
            &self.unleased_executions.family,
            &self.late_results.family,
            &self.leases_settled.family,
            &self.flush_failures.family,
        ]);
        families
    }

    /// All families in the same order, to change the key of a family that Redis has
    /// under another key or with another layout (see [`Family::with_own_key`]).
    pub fn families_mut(&mut self) -> Vec<&mut Family> {
        if self.scope == Scope::Custom {
            let mut families = vec![
                &mut self.flush_failures.family,
                &mut self.series_limited.family,
            ];
            families.extend(&mut self.custom);
            return families;
        }
        let mut families = vec![
            &mut self.requests.family,
            &mut self.request_durations.family,
        ];
        if self.scope == Scope::Algorithm {
            families.extend([
                &mut self.executions.family,
                &mut self.execution_durations.family,
            ]);
        }
        families.extend([
            &mut self.unleased_executions.family,
            &mut self.late_results.family,
            &mut self.leases_settled.family,
            &mut self.flush_failures.family,
        ]);
        families
    }

    /// The family of this name.
    #[must_use]
    pub fn family(&self, name: &str) -> Option<&Family> {
        self.families()
            .into_iter()
            .find(|family| family.name == name)
    }

    /// Cells, as key and field, that registration initialises to 0: the errors and
    /// crashes of an algorithm served at `endpoints`. They may not happen for a
    /// long time, and Prometheus sees no increase in a series that begins at 1.
    #[must_use]
    pub fn zero_cells(&self, algorithm: &str, endpoints: &[&str]) -> Vec<(&str, String)> {
        let mut cells = Vec::new();
        if self.scope == Scope::Algorithm {
            for status in ExecutionStatus::ALL {
                cells.push(self.executions.cell(&ExecutionLabels { algorithm, status }));
            }
        }
        for endpoint in endpoints {
            cells.push(self.crashed_requests_cell(RouteLabels::new("POST", endpoint)));
        }
        if self.scope != Scope::Custom {
            for metric in [
                &self.unleased_executions,
                &self.late_results,
                &self.leases_settled,
            ] {
                cells.push(metric.cell(algorithm));
            }
        }
        for outcome in FlushOutcome::ALL {
            cells.push(self.flush_failures.cell(&outcome));
        }
        cells
    }

    /// Cells, as key and field, that grow by 1 when the lease of an execution
    /// expires: the execution crashed, and the host responded 500 to its request.
    #[must_use]
    pub fn crash_cells(&self, algorithm: &str, route: RouteLabels<'_>) -> Vec<(String, String)> {
        let mut cells = vec![self.crashed_requests_cell(route)];
        if self.scope == Scope::Algorithm {
            let status = ExecutionStatus::Crashed;
            cells.push(self.executions.cell(&ExecutionLabels { algorithm, status }));
        }
        cells.push(self.leases_settled.cell(algorithm));
        let cells = cells.into_iter();
        cells.map(|(key, field)| (key.to_owned(), field)).collect()
    }

    /// The cell, as key and field, that counts the requests of this route whose
    /// execution crashed.
    #[must_use]
    pub fn crashed_requests_cell(&self, route: RouteLabels<'_>) -> (&str, String) {
        let RouteLabels { method, endpoint } = route;
        self.requests
            .cell(&RequestLabels::new(method, endpoint, 500))
    }

    /// Records a finished request into `batch`.
    pub fn record_request(&self, batch: &mut Batch, request: &FinishedRequest<'_>) {
        let mut tally = Tally::default();
        tally.record_request(request);
        tally.add_to(batch, self, "");
    }

    /// Records a finished execution into `batch`. A crashed one enters no histogram,
    /// because one that is counted by its lease has no duration.
    pub fn record_execution(&self, batch: &mut Batch, execution: &FinishedExecution<'_>) {
        let mut tally = Tally::default();
        tally.record_execution(execution.status, execution.duration_nanos);
        tally.add_to(batch, self, execution.algorithm);
    }

    /// Records an execution that began without an acknowledged lease.
    pub fn record_unleased(&self, batch: &mut Batch, algorithm: &str) {
        self.unleased_executions.add(batch, algorithm, 1);
    }

    /// Records results that came after their executions were counted as crashed.
    pub fn record_late(&self, batch: &mut Batch, algorithm: &str, results: u64) {
        self.late_results.add(batch, algorithm, results);
    }

    /// Records attempts to store a batch that did not simply succeed.
    pub fn record_flushes(&self, batch: &mut Batch, outcome: FlushOutcome, attempts: u64) {
        self.flush_failures.add(batch, &outcome, attempts);
    }
}

/// Labels of `http_requests_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RequestLabels<'a> {
    /// HTTP status code of the response.
    pub code: u16,
    /// HTTP method in upper case, or `OTHER`.
    pub method: &'a str,
    /// Pattern of the route, never the raw path, or `unmatched`.
    pub endpoint: &'a str,
}

impl<'a> RequestLabels<'a> {
    /// Creates the labels that every request has. Any other label is empty, and so
    /// left out of the label set, until its field is set on the result.
    #[must_use]
    pub const fn new(method: &'a str, endpoint: &'a str, code: u16) -> Self {
        Self {
            code,
            method,
            endpoint,
        }
    }

    /// The label set as text.
    #[must_use]
    pub fn to_text(&self) -> String {
        REQUESTS.label_set(self)
    }

    /// The labels that a request has before its response.
    #[must_use]
    pub const fn route(&self) -> RouteLabels<'a> {
        RouteLabels::new(self.method, self.endpoint)
    }
}

/// Labels of `http_request_duration_seconds`. They are fewer than the counter's,
/// because a series of a histogram takes a field in Redis for each bucket and for
/// the sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteLabels<'a> {
    method: &'a str,
    endpoint: &'a str,
}

impl<'a> RouteLabels<'a> {
    /// Creates the labels: the method as in [`RequestLabels::method`], and the pattern
    /// of the route.
    #[must_use]
    pub const fn new(method: &'a str, endpoint: &'a str) -> Self {
        Self { method, endpoint }
    }

    /// The pattern of the route.
    #[must_use]
    pub const fn endpoint(&self) -> &'a str {
        self.endpoint
    }
}

/// Labels of `algorithm_executions_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExecutionLabels<'a> {
    /// Name from the algorithm's description.
    pub algorithm: &'a str,
    /// How the execution ended.
    pub status: ExecutionStatus,
}

impl ExecutionLabels<'_> {
    /// The label set as text.
    #[must_use]
    pub fn to_text(&self) -> String {
        EXECUTIONS.label_set(self)
    }
}

/// Class of a response, the label `status` of `http_requests_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestStatus {
    /// A code below 400.
    Success,
    /// 4xx: the client's fault.
    Rejected,
    /// 5xx: the service's fault.
    Error,
}

impl RequestStatus {
    /// Classifies an HTTP status code.
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

/// How an execution ended, the label `status` of `algorithm_executions_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecutionStatus {
    /// It returned a result.
    Success,
    /// It rejected its input: the client's fault.
    InvalidInput,
    /// It returned an error.
    Failed,
    /// It ended without a result: a trap, an endless loop, a host that died. The
    /// guard reports it at once, otherwise its lease expires.
    Crashed,
}

impl ExecutionStatus {
    /// Every status, by its discriminant.
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

/// Result of an attempt to store a batch that did not simply succeed, the label
/// `outcome` of `functional_scaffold_flush_failures_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlushOutcome {
    /// It failed, and is retried or given up.
    Failed,
    /// An earlier attempt had stored the batch, and its reply was lost.
    Duplicate,
    /// The batch was given up and written to the log.
    Logged,
}

impl FlushOutcome {
    /// Every outcome.
    pub const ALL: [Self; 3] = [Self::Failed, Self::Duplicate, Self::Logged];

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

/// A request that has its response.
#[derive(Debug, Clone, Copy)]
pub struct FinishedRequest<'a> {
    /// How it is counted.
    pub labels: RequestLabels<'a>,
    /// Nanoseconds from the request's arrival in the component to its response.
    pub duration_nanos: u64,
}

/// An execution that has ended.
#[derive(Debug, Clone, Copy)]
pub struct FinishedExecution<'a> {
    /// Name from the algorithm's description.
    pub algorithm: &'a str,
    /// How it ended.
    pub status: ExecutionStatus,
    /// Nanoseconds in the algorithm alone.
    pub duration_nanos: u64,
}

/// Finished requests and executions of one algorithm, counted by their labels.
///
/// Recording writes no text and allocates only for labels that are new, because it
/// is on the path of every request. The text is written by [`Tally::add_to`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally<'a> {
    // Searched from the front: a component sees a few combinations.
    requests: Vec<(RequestLabels<'a>, u64)>,
    request_durations: Vec<(RouteLabels<'a>, Durations)>,
    /// By the discriminant of the status.
    executions: [u64; ExecutionStatus::ALL.len()],
    execution_durations: Durations,
}

impl<'a> Tally<'a> {
    /// Records a finished request.
    pub fn record_request(&mut self, request: &FinishedRequest<'a>) {
        *entry(&mut self.requests, request.labels) += 1;
        entry(&mut self.request_durations, request.labels.route()).observe(request.duration_nanos);
    }

    /// Records a finished execution that took `nanos` nanoseconds. A crashed one
    /// enters no histogram (see [`Catalog::record_execution`]).
    pub fn record_execution(&mut self, status: ExecutionStatus, nanos: u64) {
        self.executions[status as usize] += 1;
        if status != ExecutionStatus::Crashed {
            self.execution_durations.observe(nanos);
        }
    }

    /// Returns whether nothing has been recorded.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty() && self.executions == [0; ExecutionStatus::ALL.len()]
    }

    /// Adds everything recorded to `batch`, in the cells of `catalog`'s families.
    pub fn add_to(&self, batch: &mut Batch, catalog: &Catalog, algorithm: &str) {
        let les = &catalog.latency_les;
        for (labels, count) in &self.requests {
            catalog.requests.add(batch, labels, *count);
        }
        for (route, durations) in &self.request_durations {
            let field = catalog.request_durations.label_set(route);
            durations.add_to(batch, &catalog.request_durations.family, field, les);
        }
        for status in ExecutionStatus::ALL {
            let count = self.executions[status as usize];
            if count > 0 {
                let labels = ExecutionLabels { algorithm, status };
                catalog.executions.add(batch, &labels, count);
            }
        }
        let field = catalog.execution_durations.label_set(algorithm);
        let family = &catalog.execution_durations.family;
        self.execution_durations.add_to(batch, family, field, les);
    }
}

/// Finds the value of a key, or appends a default one.
fn entry<K: PartialEq, V: Default>(entries: &mut Vec<(K, V)>, key: K) -> &mut V {
    let position = entries.iter().position(|(known, _)| *known == key);
    let position = position.unwrap_or_else(|| {
        entries.push((key, V::default()));
        entries.len() - 1
    });
    &mut entries[position].1
}

/// Observations of a latency histogram.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Durations {
    /// Observations by bucket, not cumulative, the last one `+Inf`.
    buckets: [u64; LATENCY_BOUNDS_NANOS.len() + 1],
    sum_nanos: u64,
}

impl Durations {
    fn observe(&mut self, nanos: u64) {
        let bucket = LATENCY_BOUNDS_NANOS.partition_point(|&bound| bound < nanos);
        self.buckets[bucket] += 1;
        self.sum_nanos = self.sum_nanos.saturating_add(nanos);
    }

    /// Adds the observations to the series whose label set `field` holds.
    fn add_to(&self, batch: &mut Batch, family: &Family, mut field: String, les: &[String]) {
        let labels_length = field.len();
        let mut observed = false;
        for (&count, le) in self.buckets.iter().zip(les) {
            if count == 0 {
                continue;
            }
            observed = true;
            cell::push_bucket(&mut field, le);
            batch.inc(&family.key, &field, count);
            field.truncate(labels_length);
        }
        if observed {
            cell::push_sum(&mut field);
            batch.inc(&family.key, &field, self.sum_nanos);
        }
    }
}

/// A family without its key prefix. `W` is the function that writes the label set of
/// one of its series.
struct Declaration<W> {
    name: &'static str,
    /// Key of the hash, after the prefix.
    key: &'static str,
    kind: Kind,
    help: &'static str,
    write_labels: W,
}

type AlgorithmDeclaration = Declaration<fn(&str, &mut String)>;

impl<W> Declaration<W> {
    fn with_prefix(self, prefix: &str) -> Metric<W> {
        let is_histogram = self.kind == Kind::Histogram;
        let family = Family {
            name: self.name.into(),
            kind: self.kind,
            help: self.help.into(),
            unit: if is_histogram { "seconds" } else { "" }.into(),
            key: format!("{prefix}{}", self.key),
            bounds: if is_histogram {
                latency_bounds()
            } else {
                Vec::new()
            },
            scale: if is_histogram { NANOS_PER_SECOND } else { 1 },
        };
        Metric {
            family,
            write_labels: self.write_labels,
        }
    }

    fn label_set<L: ?Sized>(&self, labels: &L) -> String
    where
        W: Fn(&L, &mut String),
    {
        label_set(&self.write_labels, labels)
    }
}

/// A declared family with its key prefix.
#[derive(Debug, Clone)]
struct Metric<W> {
    family: Family,
    write_labels: W,
}

type AlgorithmMetric = Metric<fn(&str, &mut String)>;

impl<W> Metric<W> {
    fn label_set<L: ?Sized>(&self, labels: &L) -> String
    where
        W: Fn(&L, &mut String),
    {
        label_set(&self.write_labels, labels)
    }

    /// The key and the field of a counter.
    fn cell<L: ?Sized>(&self, labels: &L) -> (&str, String)
    where
        W: Fn(&L, &mut String),
    {
        (&self.family.key, self.label_set(labels))
    }

    fn add<L: ?Sized>(&self, batch: &mut Batch, labels: &L, count: u64)
    where
        W: Fn(&L, &mut String),
    {
        batch.inc(&self.family.key, &self.label_set(labels), count);
    }
}

fn label_set<L: ?Sized>(write: impl Fn(&L, &mut String), labels: &L) -> String {
    let mut out = String::with_capacity(96);
    write(labels, &mut out);
    out
}

fn write_algorithm_label(algorithm: &str, out: &mut String) {
    write_labels(out, &[("algorithm", algorithm)]);
}

/// Returns [`LATENCY_BOUNDS_NANOS`] in seconds, as they are registered. A quotient of
/// two exact integers is rounded correctly, so these are the floats nearest to the
/// decimal values.
#[must_use]
pub fn latency_bounds() -> Vec<f64> {
    #[allow(
        clippy::cast_precision_loss,
        reason = "both integers are below 2^53 and so exact as floats"
    )]
    LATENCY_BOUNDS_NANOS
        .iter()
        .map(|&nanos| nanos as f64 / NANOS_PER_SECOND as f64)
        .collect()
}

#[cfg(test)]
#[path = "catalog_tests.rs"]
mod tests;
