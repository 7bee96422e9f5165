//! From a finished request to Redis: record → batch → flush.
//!
//! # Layout
//! - [`writer`]: the increments that wait, and which write of them is under way
//! - [`flush`]: when they are written, retried, and given to the log
//! - [`redis`]: the one connection, and calls on it that end in time

use std::rc::Rc;

use functional_scaffold_schema::catalog::{Execution, Request};
use spin_sdk::wit_bindgen;

use crate::{
    config::Backend,
    instance::{Instance, Ready},
};

pub mod flush;
pub mod redis;
pub mod writer;

/// Counts a finished request and its execution, if it had one. The response
/// does not wait for the flush that follows it.
pub fn record(
    instance: &Rc<Instance>,
    ready: &Rc<Ready>,
    request: &Request<'_>,
    execution: Option<&Execution<'_>>,
) {
    if ready.config.backend == Backend::Off {
        return;
    }
    let mut writer = ready.writer.borrow_mut();
    writer.record(request, execution);
    if writer.begin_flushing() {
        wit_bindgen::spawn(flush::run(Rc::clone(instance), Rc::clone(ready)));
    }
}
