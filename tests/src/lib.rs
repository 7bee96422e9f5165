//! What the end-to-end tests share: real servers, started on free ports and
//! ended on drop, and a client that keeps its own ledger.
//!
//! # Layout
//! - [`process`]: a child process with its output, signals, and bounded waits
//! - [`redis_server`]: a redis-server of one's own
//! - [`app`]: the application on the runtime that `SCAFFOLD_RUNTIME` names
//! - [`batch_log`]: the batches that the application's log holds
//! - [`exporter`]: the exporter, and its output as others parse it
//! - [`prometheus`]: a Prometheus with the configuration of `monitoring/`
//! - [`pushgateway`]: a Pushgateway of one's own
//! - [`browser`]: a headless Chromium
//! - [`expressions`]: every PromQL expression of dashboards and documents
//! - [`client`]: requests, and the ledger of what was answered
//! - [`chaos`]: load and faults together, and whether every count is right
//!
//! `SCAFFOLD_RUNTIME` is `devhost` (the default) or `spin`, with `SPIN_BIN`
//! naming the binary. `SCAFFOLD_BIN_DIR` names the folder of the programs under
//! test where they were not built beside the tests.

#![forbid(unsafe_code)]

pub mod app;
pub mod batch_log;
pub mod browser;
pub mod chaos;
pub mod client;
pub mod exporter;
pub mod expressions;
pub mod process;
pub mod prometheus;
pub mod pushgateway;
pub mod redis_server;

use std::path::PathBuf;

/// The root of the repository.
#[must_use]
pub fn repository() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// A binary of the workspace: in the folder that `SCAFFOLD_BIN_DIR` names, else
/// as built beside these tests.
///
/// # Errors
/// It is not built.
pub fn workspace_binary(name: &str) -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe()?;
    let named = std::env::var_os("SCAFFOLD_BIN_DIR").map(PathBuf::from);
    // A test is in a folder `deps` beside the binaries, a binary is one of them.
    let folders = program.ancestors().skip(1).take(2).map(PathBuf::from);
    let binary = match named {
        Some(folder) => Some(folder.join(name)),
        None => folders
            .map(|folder| folder.join(name))
            .find(|binary| binary.is_file()),
    };
    let binary = binary.filter(|binary| binary.is_file());
    binary.ok_or_else(|| anyhow::anyhow!("{name} is not built; run `cargo xtask build`"))
}
