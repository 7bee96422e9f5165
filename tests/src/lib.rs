//! Helpers of the end-to-end tests and `chaos`, besides `functional-scaffold-testkit`.
//!
//! # Layout
//! - [`service`]: the application with its own Redis
//! - [`batch_log`]: the batches in the application's log, and replaying them
//! - [`expositions`]: expositions as other parsers read them

#![forbid(unsafe_code)]

pub mod batch_log;
pub mod expositions;
pub mod service;

use std::{
    io::Write as _,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, ensure};

/// How long a test waits for something, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Runs a command with `input` on standard input, and returns its stdout and stderr.
/// `install` says how to install it.
///
/// # Errors
/// It cannot be started, or ends without success.
pub fn run_with_input(command: &mut Command, input: &str, install: &str) -> anyhow::Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {program}; {install}"))?;
    let mut stdin = child.stdin.take().context("stdin is piped")?;
    let output = thread::scope(|scope| {
        // Beside the reading: a large input would fill both pipes.
        scope.spawn(move || stdin.write_all(input.as_bytes()));
        child.wait_with_output()
    })?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{program} ended with {}; {install}?\n{stderr}",
        output.status
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned() + &stderr)
}
