//! Starts every server that the tests, the benchmarks and `cargo xtask up` need.
//!
//! Each server has options and a running form. `start` returns a server on a free
//! port with its data in a temporary folder, waits until it is ready, captures its
//! output and stops it on drop. `command` returns the same command line to a caller
//! that supervises the process itself, as xtask does.
//!
//! # Layout
//! - [`process`]: a child process: its output, signals, bounded waits, free ports
//! - [`program`]: looks for programs and says how to install a missing one
//! - [`http`]: one HTTP request over a new connection
//! - [`redis`], [`sentinel`], [`prometheus`], [`pushgateway`], [`exporter`]: the servers
//! - `redis_cluster` (feature `client`): a Redis Cluster
//! - [`runtime`]: the application on the dev host or on Spin
//! - [`manifest`]: adapts a manifest to a run
//! - `load` (feature): concurrent requests, and a tally of the responses
//! - `browser` (feature): a headless Chromium
//!
//! The feature `client` adds commands to Redis, queries to Prometheus and parsed
//! log lines.

#![forbid(unsafe_code)]

#[cfg(feature = "browser")]
pub mod browser;
pub mod exporter;
pub mod http;
#[cfg(feature = "load")]
pub mod load;
pub mod manifest;
pub mod process;
pub mod program;
pub mod prometheus;
pub mod pushgateway;
pub mod redis;
#[cfg(feature = "client")]
pub mod redis_cluster;
pub mod runtime;
pub mod sentinel;

use std::path::PathBuf;

/// The root of the repository.
#[must_use]
pub fn repository() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}
