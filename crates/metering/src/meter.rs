//! Counts what one instance does.

use std::{cell::RefCell, rc::Rc};

use functional_scaffold_protocol::{
    catalog::{FinishedRequest, RouteLabels},
    lease::EncodedLease,
    series::TotalsError,
};
use spin_sdk::wit_bindgen;
use thiserror::Error;

use crate::{
    batcher::{Batcher, Execution, Leasing, Workload},
    check::{Check, SharedCheck},
    config::{Config, Durability, Shard},
    custom::source::Custom,
    flusher::Flusher,
    sinks::{Sink, error::Unacknowledged},
};

/// Counts the requests and executions of one instance. Clones share their state.
#[derive(Clone)]
pub struct Meter(Rc<State>);

struct State {
    durability: Durability,
    metrics_endpoint: bool,
    batcher: RefCell<Batcher>,
    sink: Sink,
    flusher: Flusher,
    store_check: SharedCheck,
}

/// Why an instance does not serve its own metrics.
#[derive(Debug, Error)]
pub enum ExpositionError {
    /// In the other schemes every instance would serve the same totals, and
    /// Prometheus would add them up.
    #[error("metrics_backend is not pull")]
    NotPull,
    /// The endpoint is switched off.
    #[error("metrics_endpoint is false")]
    Disabled,
    /// The totals cannot be encoded as families.
    #[error(transparent)]
    Totals(#[from] TotalsError),
}

/// A flush that has begun. When this is dropped, the next request can begin another: the
/// task may be dropped before the flush ends, because an outer middleware cancels the
/// request that it belongs to.
struct Flush(Rc<State>);

impl Drop for Flush {
    fn drop(&mut self) {
        if let Ok(mut batcher) = self.0.batcher.try_borrow_mut() {
            batcher.stop_flushing();
        }
    }
}

impl Meter {
    /// Makes a meter without connecting to its store. `nonce` is random: it
    /// distinguishes this instance from all others, in Redis and in the log.
    #[must_use]
    pub fn new(config: &Config, workload: Workload, nonce: u64) -> Self {
        let shard = config.shard(nonce);
        Self::with(config, &shard, Batcher::new(&shard.prefix, workload, nonce))
    }

    /// Makes a meter of what the author of the component measures. It takes no leases.
    pub(crate) fn of_custom(config: &Config, custom: Custom, nonce: u64) -> Self {
        let (config, shard) = (&config.batched(), config.shard(nonce));
        let batcher = Batcher::of_custom(&shard.prefix, custom, nonce);
        Self::with(config, &shard, batcher)
    }

    fn with(config: &Config, shard: &Shard, batcher: Batcher) -> Self {
        Self(Rc::new(State {
            durability: config.durability,
            metrics_endpoint: config.metrics_endpoint,
            batcher: RefCell::new(batcher),
            sink: Sink::new(config, shard),
            flusher: Flusher::new(config.flush_interval, config.replay_key.clone()),
            store_check: SharedCheck::default(),
        }))
    }

    /// Takes a lease before an execution, for a request to `route`, so that the
    /// execution is counted even if it never returns. Waits for Redis for
    /// `lease_timeout_ms` at most, in `strict` durability for `redis_timeout_ms`.
    ///
    /// Returns `None` if the scheme has no leases, or if Redis is known not to
    /// reply. A lease that was not acknowledged in time is returned too: it may still
    /// arrive, so the batch with the result has to close it. Each execution without an
    /// acknowledged lease is logged under its `request_id`.
    ///
    /// # Errors
    /// The durability is `strict` and the lease is not acknowledged: the execution
    /// must not begin.
    pub async fn lease(
        &self,
        route: RouteLabels<'static>,
        request_id: impl FnOnce() -> String,
    ) -> Result<Option<EncodedLease>, Unacknowledged> {
        let State { batcher, sink, .. } = &*self.0;
        sink.lease(batcher, route, request_id).await
    }

    /// Counts a finished request, its execution if it ran the algorithm, and its lease
    /// if it has one. A lease that was not acknowledged may still arrive, so it has to be
    /// passed, too.
    ///
    /// The increments are stored in the background, after the response. Only in
    /// `strict` durability this waits for Redis, for `redis_timeout_ms` at most.
    ///
    /// # Errors
    /// The durability is `strict`, and Redis has not acknowledged a request that had
    /// a lease. It is counted nevertheless, now or later.
    pub async fn record(
        &self,
        request: &FinishedRequest<'static>,
        execution: Option<Execution>,
        lease: Option<EncodedLease>,
    ) -> Result<(), Unacknowledged> {
        let State {
            durability,
            batcher,
            sink,
            flusher,
            ..
        } = &*self.0;
        if !sink.counts() || batcher.borrow().is_off() {
            return Ok(());
        }
        let is_strict = *durability == Durability::Strict && lease.is_some();
        let ticket = batcher.borrow_mut().record(request, execution, lease);
        let is_acknowledged = !is_strict || flusher.wait_for(ticket, batcher, sink).await;
        if !batcher.borrow().is_resolved(ticket) {
            self.flush();
        }
        match is_acknowledged {
            true => Ok(()),
            false => Err(Unacknowledged),
        }
    }

    /// Starts a flush, unless one is running or the scheme has none.
    pub(crate) fn flush(&self) {
        let State { batcher, sink, .. } = &*self.0;
        if !sink.needs_flush() || batcher.borrow().is_off() {
            return;
        }
        if batcher.borrow_mut().begin_flushing() {
            let flush = Flush(Rc::clone(&self.0));
            wit_bindgen::spawn(async move {
                let state = &*flush.0;
                state.flusher.run(&state.batcher, &state.sink).await;
            });
        }
    }

    /// Checks everything that the metric path depends on. The state of the store is
    /// at most one second old.
    pub async fn check(&self) -> Vec<Check> {
        let State {
            batcher,
            sink,
            metrics_endpoint,
            store_check,
            ..
        } = &*self.0;
        match sink {
            Sink::Redis(redis) => vec![
                (
                    "redis",
                    store_check.get(async || redis.check(batcher).await).await,
                ),
                ("leases", self.check_leases()),
                ("batches", self.check_batches()),
            ],
            Sink::Pushgateway(pushgateway) => vec![
                (
                    "pushgateway",
                    store_check.get(async || pushgateway.check().await).await,
                ),
                (
                    "leases",
                    Ok("none: only the redis scheme has leases".to_owned()),
                ),
                ("batches", self.check_batches()),
            ],
            Sink::Pull(_) if *metrics_endpoint => {
                vec![("metrics", Ok("this instance's own, on /metrics".to_owned()))]
            }
            Sink::Pull(_) => {
                let reason =
                    "metrics_backend is pull, but metrics_endpoint is false: they are not served";
                vec![("metrics", Err(reason.to_owned()))]
            }
            Sink::Off => vec![("metrics", Ok("off".to_owned()))],
        }
    }

    fn check_leases(&self) -> Result<String, String> {
        let batcher = self.0.batcher.borrow();
        match (self.0.durability, batcher.lease_error()) {
            (Durability::Batched, _) => Ok("none are taken".to_owned()),
            (_, Some(reason)) if batcher.leasing() != Leasing::Awaited => Err(format!(
                "suspended in this instance until Redis stores a batch: {reason}"
            )),
            _ => Ok("taken".to_owned()),
        }
    }

    fn check_batches(&self) -> Result<String, String> {
        let batcher = self.0.batcher.borrow();
        let logged = match batcher.logged_batches() {
            0 => String::new(),
            batches => {
                format!("; {batches} of this instance were logged, to be replayed")
            }
        };
        let waiting = match batcher.has_unstored() {
            true => "this instance has some to store",
            false => "this instance has none to store",
        };
        // In the other modes a refusal delays nothing.
        let refusal = batcher.refusal();
        let refusal = refusal.filter(|_| self.0.durability == Durability::Strict);
        match batcher.store_error().or(refusal) {
            None => Ok(format!("{waiting}{logged}")),
            Some(reason) => Err(format!(
                "this instance's last batch was not stored: {reason}{logged}"
            )),
        }
    }

    /// Returns whether this instance serves its own metrics.
    #[must_use]
    pub fn has_exposition(&self) -> bool {
        matches!(self.0.sink, Sink::Pull(_)) && self.0.metrics_endpoint
    }

    /// Returns everything that this instance has counted, in the text format
    /// [`Format::Text`](crate::Format::Text).
    ///
    /// # Errors
    /// The instance does not serve its own metrics; see [`ExpositionError`].
    pub fn exposition(&self) -> Result<String, ExpositionError> {
        let Sink::Pull(pull) = &self.0.sink else {
            return Err(ExpositionError::NotPull);
        };
        if !self.0.metrics_endpoint {
            return Err(ExpositionError::Disabled);
        }
        Ok(pull.exposition(&mut self.0.batcher.borrow_mut())?)
    }
}

#[cfg(test)]
mod tests {
    use functional_scaffold_protocol::catalog::RequestLabels;

    use super::*;
    use crate::variables::Reader;

    #[test]
    fn a_flush_whose_task_is_dropped_lets_another_begin() {
        let config = Config::read(&mut Reader::new([].into()));
        let meter = Meter::new(&config, Workload::default(), 7);
        let request = FinishedRequest {
            labels: RequestLabels::new("POST", "/orders", 200),
            duration_nanos: 1,
        };
        let batcher = &meter.0.batcher;
        let _ticket = batcher.borrow_mut().record(&request, None, None);
        assert!(batcher.borrow_mut().begin_flushing());
        let flush = Flush(Rc::clone(&meter.0));
        assert!(!batcher.borrow_mut().end_flushing(), "a request waits");
        assert!(!batcher.borrow_mut().begin_flushing(), "it runs");
        drop(flush);
        assert!(batcher.borrow_mut().begin_flushing());
    }
}
