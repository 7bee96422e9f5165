//! What Redis counted, read without the exporter.

use std::collections::BTreeMap;

use crate::redis_server::RedisServer;

/// Cells by label set, those that are not 0.
pub type Cells = BTreeMap<String, i64>;

/// All that Redis holds of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stored {
    /// `algorithm_executions_total`.
    pub executions: Cells,
    /// `http_requests_total`.
    pub requests: Cells,
    /// Observations in `algorithm_execution_duration_seconds`.
    pub timed_executions: i64,
    /// Observations in `http_request_duration_seconds`.
    pub timed_requests: i64,
    /// `functional_scaffold_unleased_executions_total`.
    pub unleased: i64,
    /// `functional_scaffold_late_results_total`.
    pub late: i64,
    /// `functional_scaffold_leases_settled_total`.
    pub settled: i64,
    /// `functional_scaffold_flush_failures_total`.
    pub flush_troubles: Cells,
    /// Open leases.
    pub open_leases: i64,
}

impl Stored {
    /// Reads it all.
    ///
    /// # Errors
    /// Redis's own.
    pub fn read(redis: &RedisServer) -> anyhow::Result<Self> {
        let sum = |key: &str| -> anyhow::Result<i64> { Ok(redis.cells(key)?.values().sum()) };
        Ok(Self {
            executions: redis.cells("metrics:algorithm_counter")?,
            requests: redis.cells("metrics:request_counter")?,
            timed_executions: observations(redis, "metrics:algorithm_latency")?,
            timed_requests: observations(redis, "metrics:request_latency")?,
            unleased: sum("metrics:unleased_counter")?,
            late: sum("metrics:late_counter")?,
            settled: sum("metrics:settled_counter")?,
            flush_troubles: redis.cells("metrics:flush_counter")?,
            open_leases: redis.call(&["ZCARD", "metrics:leases"])?,
        })
    }
}

/// Whether a lease ran out, or was closed before it came.
///
/// # Errors
/// Redis's own.
pub fn is_closed(redis: &RedisServer, lease: &str) -> anyhow::Result<bool> {
    let score: Option<String> = redis.call(&["ZSCORE", "metrics:closed_leases", lease])?;
    Ok(score.is_some())
}

/// The buckets' sum: `<labels>|<le>`, beside `<labels>|sum` and its carry.
fn observations(redis: &RedisServer, key: &str) -> anyhow::Result<i64> {
    let mut cells = redis.cells(key)?;
    cells.retain(|field, _| !field.ends_with("|sum") && !field.ends_with("|sum_carry"));
    Ok(cells.values().sum())
}
