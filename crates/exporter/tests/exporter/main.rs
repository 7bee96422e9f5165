//! The exporter as a process, against a real Redis.
//!
//! - [`support`]: starts both, asks them, stops them
//! - [`client`]: a client that says exactly what it is told to
//! - [`parsers`]: other people's parsers
//! - [`serving`]: what is served when all is well
//! - [`exposition`]: what is served in each format, whatever Redis holds
//! - [`faults`]: what is served when Redis, or what it holds, is not well
//! - [`leases`]: executions in flight, and those that are never heard of again
//! - [`losses`]: what is served when Redis lost writes, or was wiped
//! - [`replay`]: batches stored from a log
//! - [`properties`]: the same for made-up stores of any bytes
//! - [`removals`]: series removed of which something is remembered, and wiped
//! - [`series`]: series listed and removed, and stores wiped
//! - [`documented`]: families written as docs/protocol.md says
//! - [`exposure`]: who may ask, and those who take too long
//! - [`recent`]: what the page shows, and its files
//! - [`quantiles`]: the page's quantiles beside those of Prometheus
//! - [`relay`]: what is relayed to a Pushgateway
//! - [`prometheus`]: a real Prometheus and a real Pushgateway
//! - [`process`]: options, start and stop

mod client;
mod documented;
mod exposition;
mod exposure;
mod faults;
mod leases;
mod losses;
mod parsers;
mod process;
mod prometheus;
mod properties;
mod quantiles;
mod recent;
mod relay;
mod removals;
mod replay;
mod series;
mod serving;
mod support;
