//! From a finished request to where it is counted: record → batch → flush.
//!
//! # Layout
//! - [`writer`]: the increments that wait, and which write of them is under way
//! - [`flush`]: when they are written, retried, and given to the log
//! - [`sinks`]: where they are written to, by scheme
//! - [`single_flight`]: work that one request does for all of the instance

use std::rc::Rc;

use functional_scaffold_protocol::{catalog::FinishedRequest, lease::EncodedLease};
use spin_sdk::wit_bindgen;

use crate::{config::Durability, instance::Ready, invoke::Executed};

pub mod flush;
pub mod single_flight;
pub mod sinks;
pub mod writer;

/// Counts a finished request, and its execution and the lease of that one if it
/// had them. The response does not wait for the flush that follows it, unless
/// strict durability is asked for: then for one answer of Redis at the most.
pub async fn record(
    ready: &Rc<Ready>,
    request: &FinishedRequest<'static>,
    executed: Option<(Executed, Option<EncodedLease>)>,
) {
    if !ready.sink.counts() {
        return;
    }
    let strict = ready.config.durability == Durability::Strict && executed.is_some();
    let (ticket, waits) = {
        let mut writer = ready.writer.borrow_mut();
        let ticket = writer.record(request, executed);
        (ticket, writer.waits_for_batches())
    };
    if strict && waits {
        flush::answered(ready, ticket).await;
    }
    if !ready.sink.is_flushed() {
        return;
    }
    let mut writer = ready.writer.borrow_mut();
    if !writer.is_answered(ticket) && writer.begin_flushing() {
        wit_bindgen::spawn(flush::run(Rc::clone(ready)));
    }
}
