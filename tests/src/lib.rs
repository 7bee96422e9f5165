//! What the end-to-end tests share: real servers, started on free ports and
//! ended on drop, and a client that keeps its own ledger.
//!
//! # Layout
//! - [`process`]: a child process with its output, signals, and bounded waits
//! - [`redis_server`]: a redis-server of one's own
//! - [`app`]: the application on the runtime that `SCAFFOLD_RUNTIME` names
//! - [`exporter`]: the exporter, and its output as others parse it
//! - [`client`]: requests, and the ledger of what was answered
//!
//! `SCAFFOLD_RUNTIME` is `devhost` (the default) or `spin`, with `SPIN_BIN`
//! naming the binary.

#![forbid(unsafe_code)]

pub mod app;
pub mod client;
pub mod exporter;
pub mod process;
pub mod redis_server;

use std::path::PathBuf;

/// The root of the repository.
#[must_use]
pub fn repository() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// A binary of the workspace, as built beside these tests.
///
/// # Errors
/// It is not built.
pub fn workspace_binary(name: &str) -> anyhow::Result<PathBuf> {
    let tests = std::env::current_exe()?;
    let binary = tests
        .ancestors()
        .nth(2)
        .map(|folder| folder.join(name))
        .filter(|binary| binary.is_file());
    binary.ok_or_else(|| anyhow::anyhow!("{name} is not built; run `cargo xtask build`"))
}
