//! Installs packages from Debian. It says so, and no package starts its service.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use functional_scaffold_testkit::program::Program;

use crate::command;
use crate::process;

/// Maintainer scripts run it before they start a service: 101 forbids that.
const POLICY_FILE: &str = "/usr/sbin/policy-rc.d";

const UPDATE_TIMEOUT: Duration = Duration::from_secs(180);
const INSTALL_TIMEOUT: Duration = Duration::from_secs(900);
const SYSTEMCTL_TIMEOUT: Duration = Duration::from_secs(10);

/// Limits on changes to the machine.
#[derive(Args, Clone, Copy)]
pub(crate) struct InstallOptions {
    /// Install nothing: no Rust target, no Debian package.
    #[arg(long)]
    pub(crate) no_install: bool,
}

/// Finds a program on PATH; else installs Debian's package, if that is allowed.
pub(crate) fn find_or_install(program: &Program, options: InstallOptions) -> Result<PathBuf> {
    if let Some(path) = program.on_path() {
        return Ok(path);
    }
    let Program {
        name,
        executables,
        package,
    } = program;
    debian_packages(&[package], options)
        .with_context(|| format!("no {name}: none of {executables:?} is on PATH"))?;
    // It would start a server at the next boot, on our port. Where there is no
    // systemd, nothing starts it.
    let mut disable = command::program("systemctl");
    disable.args(["disable", "--quiet", package]);
    let _no_systemd = process::run("systemctl", &mut disable, Some(SYSTEMCTL_TIMEOUT));
    let path = program.on_path();
    path.with_context(|| format!("Debian's package {package} has no program"))
}

/// Installs `packages` where this is Debian, we are root and it is allowed. The
/// error says why not, with the command for the user to run.
pub(crate) fn debian_packages(packages: &[&str], options: InstallOptions) -> Result<()> {
    let by_hand = format!("apt-get install {}", packages.join(" "));
    ensure!(
        which::which("apt-get").is_ok(),
        "this is not Debian: no apt-get on PATH"
    );
    ensure!(
        !options.no_install,
        "--no-install forbids `{by_hand}`; run it yourself"
    );
    ensure!(
        rustix::process::geteuid().is_root(),
        "only root installs packages; run `sudo {by_hand}`"
    );
    eprintln!("installing Debian packages: {}", packages.join(" "));
    let _no_services = ServicesForbidden::begin()?;
    let mut update = apt_get("update");
    process::run("apt-get update", &mut update, Some(UPDATE_TIMEOUT))?;
    let mut install = apt_get("install");
    install.args(["--yes", "--no-install-recommends"]);
    install.args(packages);
    process::run("apt-get install", &mut install, Some(INSTALL_TIMEOUT))
}

fn apt_get(subcommand: &str) -> Command {
    let mut command = command::program("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command.args(["-o", "Dpkg::Use-Pty=0", "-o", "Acquire::Retries=2"]);
    command.arg(subcommand);
    command
}

/// While it lives, no package starts its service.
struct ServicesForbidden {
    /// True if the policy file is ours.
    is_own: bool,
}

impl ServicesForbidden {
    fn begin() -> Result<Self> {
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o755)
            .open(POLICY_FILE);
        match file {
            Ok(mut file) => {
                file.write_all(b"#!/bin/sh\nexit 101\n")
                    .with_context(|| format!("cannot write {POLICY_FILE}"))?;
                Ok(Self { is_own: true })
            }
            // The administrator's policy stands.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(Self { is_own: false }),
            Err(error) => bail!("cannot create {POLICY_FILE}: {error}"),
        }
    }
}

impl Drop for ServicesForbidden {
    fn drop(&mut self) {
        if self.is_own {
            let _removed = fs::remove_file(POLICY_FILE);
        }
    }
}
