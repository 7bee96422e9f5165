//! From a finished request to Redis: record → batch → flush.
//!
//! # Layout
//! - [`writer`]: the increments that wait, and which write of them is under way
//! - [`register`]: making the families known, once an instance
//! - [`lease`]: what is said to Redis before an execution begins
//! - [`flush`]: when they are written, retried, and given to the log
//! - [`redis`]: the one connection, and calls on it that end in time
//! - [`single_flight`]: work that one request does for all of the instance
//! - [`trouble`]: what is the matter with Redis, in words

use std::rc::Rc;

use functional_scaffold_schema::{catalog::Request, lease::LeaseEntry};
use spin_sdk::wit_bindgen;

use crate::{
    config::{Backend, Durability},
    instance::{Instance, Ready},
    invoke::Executed,
};

pub mod flush;
pub mod lease;
pub mod redis;
pub mod register;
pub mod single_flight;
pub mod trouble;
pub mod writer;

/// Counts a finished request, and its execution and the lease of that one if it
/// had them. The response does not wait for the flush that follows it, unless
/// strict durability is asked for: then for one answer of Redis at the most.
pub async fn record(
    instance: &Rc<Instance>,
    ready: &Rc<Ready>,
    request: &Request<'static>,
    executed: Option<(Executed, Option<LeaseEntry>)>,
) {
    if ready.config.backend == Backend::Off {
        return;
    }
    let strict = ready.config.durability == Durability::Strict && executed.is_some();
    let (ticket, waits) = {
        let mut writer = ready.writer.borrow_mut();
        let ticket = writer.record(request, executed);
        (ticket, writer.waits_for_batches())
    };
    if strict && waits {
        flush::answered(instance, ready, ticket).await;
    }
    let mut writer = ready.writer.borrow_mut();
    if !writer.is_answered(ticket) && writer.begin_flushing() {
        wit_bindgen::spawn(flush::run(Rc::clone(instance), Rc::clone(ready)));
    }
}
