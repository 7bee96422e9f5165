//! The runtime of the app: the dev host, or the Spin CLI. Both have the same
//! command line.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use crate::build::DEV_HOST;
use crate::command;
use crate::process::{self, Interrupted};

/// The first Spin with the released WASI 0.3.
const OLDEST_SPIN: Version = Version([4, 1, 0]);

const VERSION_TIMEOUT: Duration = Duration::from_secs(30);

/// The value of `--runtime`.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub(crate) enum RuntimeName {
    /// The Spin CLI where it is 4.1.0 or newer, else the dev host.
    Auto,
    /// This repository's own host.
    Devhost,
    /// The Spin CLI: SPIN_BIN, else spin on PATH.
    Spin,
}

/// A runtime that can be used.
#[derive(Debug, PartialEq)]
pub(crate) enum Runtime {
    DevHost,
    Spin(PathBuf),
}

impl Runtime {
    /// Finds the runtime. The dev host may have to be built.
    pub(crate) fn find(name: RuntimeName) -> Result<Self> {
        if name == RuntimeName::Devhost {
            return Ok(Self::DevHost);
        }
        let named = env::var_os("SPIN_BIN").filter(|name| !name.is_empty());
        let is_required = name == RuntimeName::Spin || named.is_some();
        choose(is_required, find_spin(named))
    }

    /// The value of `SCAFFOLD_RUNTIME` that chooses it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::DevHost => "devhost",
            Self::Spin(_) => "spin",
        }
    }

    /// The command that serves the app on `listen`.
    pub(crate) fn up(&self, listen: SocketAddr) -> Command {
        let mut command = match self {
            Self::DevHost => command::program(command::built(DEV_HOST.file)),
            Self::Spin(program) => command::program(program),
        };
        command.args(["up", "--from", "spin.toml", "--listen"]);
        command.arg(listen.to_string());
        command
    }
}

/// Uses the Spin that was found; else the dev host, unless the user requires Spin.
fn choose(is_required: bool, spin: Result<PathBuf>) -> Result<Runtime> {
    match spin {
        Ok(program) => {
            eprintln!("running the app on Spin ({})", program.display());
            Ok(Runtime::Spin(program))
        }
        Err(error) if is_required || error.is::<Interrupted>() => Err(error),
        Err(error) => {
            eprintln!("running the app on the dev host: {error:#}");
            Ok(Runtime::DevHost)
        }
    }
}

fn find_spin(named: Option<OsString>) -> Result<PathBuf> {
    let name = named.unwrap_or_else(|| OsString::from("spin"));
    let program = which::which(&name).ok().with_context(|| {
        let name = name.display();
        format!(
            "no Spin CLI: {name} is not a program here (install Spin {OLDEST_SPIN} or newer, or \
             name it with SPIN_BIN)"
        )
    })?;
    let mut version = command::program(&program);
    let output = process::capture("spin --version", version.arg("--version"), VERSION_TIMEOUT)?;
    check_version(&program, &output)?;
    Ok(program)
}

fn check_version(program: &Path, output: &str) -> Result<()> {
    let program = program.display();
    let version = Version::parse(output);
    let version =
        version.with_context(|| format!("{program} is no Spin: its version is {output:?}"))?;
    ensure!(
        version >= OLDEST_SPIN,
        "{program} is Spin {version}, which cannot load WASI 0.3 components; Spin {OLDEST_SPIN} \
         or newer is needed"
    );
    Ok(())
}

/// A pre-release counts as its release: a Spin built from source is always
/// `4.1.0-pre0`, whatever it supports.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
struct Version([u32; 3]);

impl Version {
    /// Reads `spin 4.1.0 (4af5d2c 2026-07-01)`, with or without `-rc.1`.
    fn parse(output: &str) -> Result<Self> {
        let version = output.split(' ').nth(1).context("no version")?;
        let numbers = version.split('-').next().unwrap_or(version);
        let numbers: Result<Vec<u32>, _> = numbers.split('.').map(str::parse).collect();
        let Ok(numbers) = numbers?.try_into() else {
            bail!("not three numbers");
        };
        Ok(Self(numbers))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self([major, minor, patch]) = self;
        write!(formatter, "{major}.{minor}.{patch}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(output: &str) -> Result<()> {
        check_version(Path::new("/bin/spin"), output)
    }

    #[test]
    fn spin_4_1_0_is_the_oldest() {
        for new_enough in [
            "spin 4.1.0 (4af5d2c 2026-07-01)",
            "spin 4.10.2",
            "spin 5.0.0-pre0 (a 2027-01-01)",
            "spin 4.1.0-pre0 (94a8fc8a 2026-08-21)",
        ] {
            check(new_enough).expect(new_enough);
        }
        for too_old in ["spin 4.0.1 (a 2026-03-01)", "spin 3.6.3"] {
            check(too_old).expect_err(too_old);
        }
    }

    #[test]
    fn an_output_without_a_version_is_refused() {
        for output in ["spin", "spin four", "spin 4.1", "Spin Version 6.5.2"] {
            let error = check(output).expect_err(output).to_string();
            assert!(error.contains(output), "{error}");
        }
    }

    #[test]
    fn spin_is_used_where_it_is_new_enough_and_the_dev_host_elsewhere() {
        let spin = || Ok(PathBuf::from("/bin/spin"));
        let too_old = || check("spin 3.6.3").map(|()| PathBuf::from("/bin/spin"));
        let found = choose(false, spin()).expect("Spin");
        assert_eq!(found, Runtime::Spin(PathBuf::from("/bin/spin")));
        assert_eq!(choose(true, spin()).expect("Spin"), found);
        let fallback = choose(false, too_old()).expect("the dev host");
        assert_eq!(fallback, Runtime::DevHost);
        let error = choose(true, too_old()).expect_err("Spin is required");
        assert!(error.to_string().contains("is Spin 3.6.3"), "{error}");
        choose(false, Err(Interrupted.into())).expect_err("interrupted");
    }
}
