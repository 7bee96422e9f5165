//! What the writer (the api component) and the reader (the exporter) of the
//! metrics agree on. Pure: no I/O, no clock, no task; so nothing here can fail
//! for a reason outside its arguments.
//!
//! # Layout
//! - [`family`]: a metric family as registered in Redis
//! - [`event`]: what happens and is counted: a request, an execution, a flush
//! - [`catalog`]: the families that every algorithm service writes
//! - [`tally`]: finished requests and executions, counted by kind
//! - [`labels`]: label sets in exposition syntax, written and checked
//! - [`batch`]: increments not yet stored, and the identity of one write of them
//! - [`logged`]: batches in the log, in parts that are put together again
//! - [`lease`]: what is counted of an execution that is never heard of again
//! - [`protocol`]: what is said to Redis, in which keys, and what it answers
//! - [`removal`]: what is taken out of the store by hand
//! - [`cell`]: one field of a metric hash, encoded and decoded
//! - [`series`]: fields read from Redis put together into series
//! - [`layouts`]: a family of several hashes, added up
//! - `number`: numbers as Prometheus writes them
//! - [`pushgateway`]: where a group of metrics lives in a Pushgateway
//! - [`totals`]: what one writer counted itself, put together as families
//! - [`exposition`]: the text format and OpenMetrics
//!
//! Data flows `tally → catalog → batch → protocol` on the way into Redis and
//! `cell → series → exposition` on the way out. The contract between the two
//! is documented for other writers in `docs/protocol.md`.

#![forbid(unsafe_code)]

pub mod batch;
pub mod calls;
pub mod catalog;
pub mod cell;
pub mod exposition;
pub mod family;
#[cfg(test)]
mod fixtures;
pub mod labels;
pub mod lease;
pub mod pushgateway;
pub mod removal;
pub mod series;
