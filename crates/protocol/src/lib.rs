//! The protocol between components that write metrics to Redis and readers that
//! serve them: families, batches, scripts, and the text formats.
//!
//! The crate does no I/O and reads no clock, so a result depends on the arguments
//! alone. `docs/protocol.md` describes the protocol for writers in other languages.
//!
//! # Modules
//! Writing, in the order in which a request is counted:
//! - [`catalog`]: the metric families of a component, and what is recorded in them
//! - [`batch`]: increments that are stored once, or written to the log
//! - [`custom`]: families that the author of a component declares, and their limit
//! - [`replay_key`]: authenticates the batches in the log
//! - [`lease`]: what is counted if an execution never reports its end
//! - [`calls`]: keys, scripts, calls and replies
//!
//! Reading, in the order in which a scrape is served:
//! - [`family`]: a metric family and its registration
//! - [`cell`]: one field of a metric hash
//! - [`series`]: cells assembled into series, and the layouts of a family merged
//! - [`exposition`]: the text format and OpenMetrics
//!
//! Both:
//! - [`labels`]: label sets, written and checked
//! - [`escape`]: texts of others, in logs and on terminals
//! - [`removal`]: series and counts removed by command
//! - [`shard`]: the stores among which instances are divided
//! - [`pushgateway`]: the path of a group in a Pushgateway

#![forbid(unsafe_code)]

pub mod batch;
pub mod calls;
pub mod catalog;
pub mod cell;
pub mod custom;
pub mod escape;
pub mod exposition;
pub mod family;
#[cfg(test)]
mod fixtures;
pub mod labels;
pub mod lease;
pub mod pushgateway;
pub mod removal;
pub mod replay_key;
pub mod series;
pub mod shard;
