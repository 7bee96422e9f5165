//! What runs the app: the dev host, or the Spin CLI. Both take the same
//! command line.

use std::env;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use crate::child;
use crate::tools;

/// The first Spin whose WASI 0.3 is the released one.
const OLDEST_SPIN: Version = Version([4, 1, 0]);

const QUESTION_TIMEOUT: Duration = Duration::from_secs(30);

/// What the user may ask for.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum RuntimeName {
    /// This repository's own host.
    Devhost,
    /// The Spin CLI: SPIN_BIN, else spin on PATH.
    Spin,
}

/// A runtime that is there.
pub(crate) struct Runtime {
    program: PathBuf,
}

/// A pre-release counts as its release: a Spin built from source calls itself
/// `4.1.0-pre0` whatever it can do, and what it cannot load it names itself.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
struct Version([u32; 3]);

impl Runtime {
    /// Finds the runtime.
    ///
    /// # Errors
    ///
    /// When there is no Spin CLI, or it is too old.
    pub(crate) fn find(name: RuntimeName) -> Result<Self> {
        let program = match name {
            RuntimeName::Devhost => tools::built("devhost"),
            RuntimeName::Spin => find_spin()?,
        };
        Ok(Self { program })
    }

    /// The command that serves the app on `listen`.
    pub(crate) fn up(&self, listen: SocketAddr) -> Command {
        let mut command = tools::command(&self.program);
        command.args(["up", "--from", "spin.toml", "--listen"]);
        command.arg(listen.to_string());
        command
    }
}

fn find_spin() -> Result<PathBuf> {
    let named = env::var_os("SPIN_BIN").filter(|name| !name.is_empty());
    let name = named.unwrap_or_else(|| OsString::from("spin"));
    let program = which::which(&name).with_context(|| {
        let name = name.display();
        format!(
            "no Spin CLI: {name} is not a program here. Install Spin {OLDEST_SPIN} or newer, \
             or say where it is with SPIN_BIN; --runtime devhost needs none"
        )
    })?;
    let answer = child::capture(
        "spin --version",
        tools::command(&program).arg("--version"),
        QUESTION_TIMEOUT,
    )?;
    let version = Version::parse(&answer);
    let version = version.with_context(|| format!("cannot read Spin's version in {answer:?}"))?;
    ensure!(
        version >= OLDEST_SPIN,
        "{} is Spin {version}, which cannot load WASI 0.3 components; \
         Spin {OLDEST_SPIN} or newer is needed",
        program.display()
    );
    Ok(program)
}

impl Version {
    /// Reads `spin 4.1.0 (4af5d2c 2026-07-01)`, with or without `-rc.1`.
    fn parse(answer: &str) -> Result<Self> {
        let version = answer.split(' ').nth(1).context("no version")?;
        let numbers = version.split('-').next().unwrap_or(version);
        let numbers: Result<Vec<u32>, _> = numbers.split('.').map(str::parse).collect();
        let Ok(numbers) = numbers?.try_into() else {
            bail!("not three numbers");
        };
        Ok(Self(numbers))
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self([major, minor, patch]) = self;
        write!(formatter, "{major}.{minor}.{patch}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_new_enough(answer: &str) -> bool {
        Version::parse(answer).expect("a version") >= OLDEST_SPIN
    }

    #[test]
    fn spin_4_1_0_is_the_oldest() {
        assert!(is_new_enough("spin 4.1.0 (4af5d2c 2026-07-01)"));
        assert!(is_new_enough("spin 4.10.2"));
        assert!(is_new_enough("spin 5.0.0-pre0 (a 2027-01-01)"));
        assert!(is_new_enough("spin 4.1.0-pre0 (94a8fc8a 2026-08-21)"));
        assert!(!is_new_enough("spin 4.0.1 (a 2026-03-01)"));
        assert!(!is_new_enough("spin 3.6.3"));
    }

    #[test]
    fn what_is_no_version_is_refused() {
        assert!(Version::parse("spin").is_err());
        assert!(Version::parse("spin four").is_err());
        assert!(Version::parse("spin 4.1").is_err());
    }
}
