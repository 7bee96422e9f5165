//! The pull scheme: the instance keeps its totals, and `GET /metrics` serves
//! them. Nothing is written anywhere, so nothing outlives the instance.

use std::cell::RefCell;

use functional_scaffold_protocol::{batch::Batch, exposition::Format};

use crate::{
    answer::{Answer, Problem},
    instance::Ready,
    metrics::sinks::{
        Sink, Stored,
        totals::{text, with_batch},
    },
};

/// The totals that wait to be scraped.
#[derive(Debug, Default)]
pub struct Pull {
    totals: RefCell<Batch>,
}

impl Pull {
    /// Adds the batch that waits to the totals.
    pub fn store(&self, ready: &Ready) -> Option<Stored> {
        let mut writer = ready.writer.borrow_mut();
        let batch = writer.freeze()?.total.clone();
        let mut totals = self.totals.borrow_mut();
        *totals = with_batch(&totals, &batch, &writer);
        Some(Stored::default())
    }
}

/// Whether `/metrics` answers.
#[must_use]
pub fn is_scraped(ready: &Ready) -> bool {
    matches!(ready.sink, Sink::Pull(_)) && ready.config.metrics_endpoint
}

/// Answers `GET /metrics` with everything that this instance has counted before
/// this request.
///
/// # Errors
/// 404 in every other scheme, where the same totals on each instance would be
/// taken for as many, and where it is switched off.
pub fn answer(ready: &Ready, request_id: &str) -> Result<Answer, Problem> {
    let Sink::Pull(pull) = &ready.sink else {
        return Err(Problem::not_found("/metrics: metrics_backend is not pull"));
    };
    if !ready.config.metrics_endpoint {
        return Err(Problem::not_found("/metrics: metrics_endpoint is false"));
    }
    if pull.store(ready).is_some() {
        ready.writer.borrow_mut().acknowledge(false);
    }
    let writer = ready.writer.borrow();
    let totals = with_batch(&pull.totals.borrow(), &Batch::default(), &writer);
    match text(&totals, &writer) {
        Ok(text) => Ok(Answer::ok(
            request_id,
            Format::Text.content_type(),
            text.into_bytes(),
        )),
        Err(error) => Err(Problem::internal(error.to_string())),
    }
}
