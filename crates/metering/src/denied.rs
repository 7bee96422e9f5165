//! Ends the counting of a component whose manifest does not allow its store.

use std::cell::RefCell;

use crate::{
    batcher::Batcher,
    log::{self, Level},
    sinks::error::StoreError,
};

/// Makes a component that runs no algorithm count nothing, if the host denies its store:
/// whoever adds a middleware to an app and forgets a permission gets one line an
/// instance, and not several a request. Returns whether nothing is counted.
///
/// With an algorithm the store is part of the service, and everything that it does not
/// get goes to the log.
pub(crate) fn turn_off(batcher: &RefCell<Batcher>, error: &StoreError) -> bool {
    let StoreError::Denied(address) = error else {
        return false;
    };
    let mut batcher = batcher.borrow_mut();
    if !batcher.algorithm().is_empty() {
        return false;
    }
    if batcher.turn_off() {
        let problem = format!(
            "{error}, so nothing is counted. The component needs allowed_outbound_hosts = \
             [\"{address}\"]; middleware also needs inherit_configuration = \
             [\"allowed_outbound_hosts\", \"variables\"]"
        );
        log::write_list(Level::Error, "misconfigured", "problems", &[problem]);
    }
    true
}
