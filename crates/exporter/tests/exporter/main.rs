//! The exporter as a process, against a real Redis.
//!
//! - [`support`]: starts both, asks them, stops them
//! - [`serving`]: what is served when all is well
//! - [`faults`]: what is served when Redis, or what it holds, is not well
//! - [`process`]: options, start and stop

mod faults;
mod process;
mod serving;
mod support;
