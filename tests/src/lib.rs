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
    fs,
    io::Write as _,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use functional_scaffold_testkit::{exporter, repository};

/// How long a test waits for something, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// Repeats an attempt, up to five times, that returns `None` if a busy machine kept it from
/// showing anything.
///
/// # Errors
/// The attempt's own, or every attempt returned `None`.
pub fn retry_if_too_busy<T>(attempt: impl Fn() -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
    for _ in 0..5 {
        if let Some(done) = attempt()? {
            return Ok(done);
        }
    }
    anyhow::bail!("the machine was too busy, five times")
}

/// The program `xtask`, as `cargo xtask` last built it.
///
/// # Errors
/// It is not built.
pub fn xtask() -> anyhow::Result<PathBuf> {
    let xtask = repository().join("target/debug/xtask");
    ensure!(
        xtask.is_file(),
        "xtask is not built; run `cargo xtask build`"
    );
    Ok(xtask.canonicalize()?)
}

/// Copies the sources of this repository into a folder, which shares its builds.
///
/// # Errors
/// They cannot be copied, or nothing is built.
pub fn copy_repository(folder: &Path) -> anyhow::Result<()> {
    // With the times: cargo builds what is newer than the last build. The first tar ends
    // with 1 if a file appeared meanwhile, such as another test's copy of a manifest.
    let script = "tar --create --exclude-vcs --exclude=./target --exclude=./dist \
                  --exclude=.functional-scaffold --exclude=.venv --exclude=node_modules . \
                  | tar --extract --directory \"$0\"; \
                  ended=(\"${PIPESTATUS[@]}\"); ((ended[0] < 2 && ended[1] == 0))";
    let mut copy = Command::new("bash");
    copy.args(["-c", script]).arg(folder);
    copy.current_dir(repository());
    run_with_input(&mut copy, "", "tar is in every distribution")?;
    share_builds(folder)
}

/// Lets a folder use what is built in this repository, and build to the same place.
///
/// # Errors
/// Nothing is built.
pub fn share_builds(folder: &Path) -> anyhow::Result<()> {
    let exporter = exporter::program()?;
    let programs = exporter.parent().context("a program is in a folder")?;
    let components = repository().canonicalize()?.join("target/wasm32-wasip2");
    let target = folder.join("target");
    fs::create_dir(&target)?;
    symlink(programs, target.join("release"))?;
    symlink(components, target.join("wasm32-wasip2"))?;
    Ok(())
}

/// A command in a shell in which cargo builds components. Neither cargo nor npm uses
/// the network.
///
/// # Errors
/// xtask is not built.
pub fn shell(folder: &Path, script: &str) -> anyhow::Result<Command> {
    let script = format!("eval \"$({} env)\"\n{script}", xtask()?.display());
    let mut bash = Command::new("bash");
    bash.args(["-ec", &script])
        .env("CARGO_NET_OFFLINE", "true")
        .env("npm_config_offline", "true")
        .current_dir(folder);
    Ok(bash)
}

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
