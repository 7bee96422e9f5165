//! Load on the real application while its parts are killed, suspended and cut off.
//! The invariant: by each label set, Redis has counted the responses that the client
//! got, give or take the requests in doubt.
//!
//! # Layout
//! - [`plan`]: the options of a run, and the faults by seed
//! - [`load`]: the requests, and the response to each
//! - [`proxy`]: the path from the application to Redis, and the leases on it
//! - [`servers`]: the servers, and the faults done to them
//! - [`log`]: the log's batches, replayed during the run and at its end
//! - [`watcher`]: series that step back on the exporter
//! - [`doubt`]: the requests of which the count is in doubt
//! - [`verdict`]: every difference beyond what the mode promises
//! - [`run`]: a run, from its first server to its findings

pub mod doubt;
pub mod load;
pub mod log;
pub mod plan;
pub mod proxy;
pub mod run;
pub mod servers;
pub mod verdict;
pub mod watcher;
