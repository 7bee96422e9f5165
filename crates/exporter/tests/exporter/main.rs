//! The exporter as a process, against a real Redis.
//!
//! - [`support`]: starts both, asks them, stops them
//! - [`serving`]: what is served when all is well
//! - [`faults`]: what is served when Redis, or what it holds, is not well
//! - [`leases`]: executions in flight, and those that are never heard of again
//! - [`losses`]: what is served when Redis lost writes, or was wiped
//! - [`replay`]: batches stored from a log
//! - [`process`]: options, start and stop

mod faults;
mod leases;
mod losses;
mod process;
mod replay;
mod serving;
mod support;
