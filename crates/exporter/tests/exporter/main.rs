//! The exporter as a process, against a real Redis.
//!
//! - [`support`]: testkit's launchers, with shortcuts
//! - [`parsers`]: the parsers of others
//! - [`serving`]: what is served in the normal case
//! - [`exposition`]: both formats, whatever Redis holds
//! - [`properties`]: both formats, for random stores
//! - [`faults`]: Redis, or its content, is faulty
//! - [`hostile`]: whatever someone else writes to Redis
//! - [`losses`]: Redis lost writes, or was wiped
//! - [`removals`]: series that exporters remember are removed
//! - [`shards`]: several stores, which are added up
//! - [`leases`]: executions in flight, and expired leases
//! - [`clients`]: credentials, TLS, and slow clients
//! - [`page`]: the page, its files and its data
//! - [`quantiles`]: the page's quantiles, compared with Prometheus's
//! - [`command_line`]: options, start and stop
//! - [`replay`], [`series`], [`push`]: these commands
//! - [`follow`]: replaying logs as they grow
//! - [`written_by_hand`]: families that are written as docs/protocol.md says

mod clients;
mod command_line;
mod exposition;
mod faults;
mod follow;
mod hostile;
mod leases;
mod losses;
mod page;
mod parsers;
mod properties;
mod push;
mod quantiles;
mod removals;
mod replay;
mod series;
mod serving;
mod shards;
mod support;
mod written_by_hand;
