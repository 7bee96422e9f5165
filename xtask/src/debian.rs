//! Packages from Debian: which are there, and installing the others. What is
//! installed is said, and no service of it is started.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::InstallOptions;
use crate::child;
use crate::tools;

/// Asked by maintainer scripts before they start a service: 101 forbids it.
const POLICY_FILE: &str = "/usr/sbin/policy-rc.d";

const UPDATE_TIMEOUT: Duration = Duration::from_secs(180);
const INSTALL_TIMEOUT: Duration = Duration::from_secs(900);
const QUESTION_TIMEOUT: Duration = Duration::from_secs(10);

/// A server, as a package brings it.
pub(crate) struct Program {
    /// What the user knows it by.
    pub(crate) what: &'static str,
    /// What the program is called, here or there.
    pub(crate) names: &'static [&'static str],
    /// Debian's package and its service.
    pub(crate) package: &'static str,
}

/// Finds the program, and installs Debian's package if that is allowed.
///
/// # Errors
///
/// When it is not there and cannot be installed.
pub(crate) fn program(wanted: &Program, options: InstallOptions) -> Result<PathBuf> {
    if let Some(program) = wanted.on_path() {
        return Ok(program);
    }
    let Program { what, package, .. } = wanted;
    install(&[package], options)
        .with_context(|| format!("no {what}: none of {:?} is on PATH", wanted.names))?;
    keep_service_off(package);
    wanted
        .on_path()
        .with_context(|| format!("Debian's package {package} has no program"))
}

impl Program {
    /// Where it is, if it is installed.
    pub(crate) fn on_path(&self) -> Option<PathBuf> {
        self.names.iter().find_map(|name| which::which(name).ok())
    }
}

/// Debian's package would start a server at the next boot, on our port.
fn keep_service_off(service: &str) {
    let mut disable = tools::command("systemctl");
    disable.args(["disable", "--quiet", service]);
    // Where there is no systemd, nothing starts it.
    let _no_systemd = child::run("systemctl", &mut disable, Some(QUESTION_TIMEOUT));
}

/// Installs `packages`, when this is Debian, we are root and it is allowed.
///
/// # Errors
///
/// Why it may or can not be, with the command that the user may run.
pub(crate) fn install(packages: &[&str], options: InstallOptions) -> Result<()> {
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
    child::run(
        "apt-get update",
        apt_get().arg("update"),
        Some(UPDATE_TIMEOUT),
    )?;
    let mut install = apt_get();
    install.args(["install", "--yes", "--no-install-recommends"]);
    child::run(
        "apt-get install",
        install.args(packages),
        Some(INSTALL_TIMEOUT),
    )?;
    Ok(())
}

fn apt_get() -> Command {
    let mut command = tools::command("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").args([
        "-o",
        "Dpkg::Use-Pty=0",
        "-o",
        "Acquire::Retries=2",
    ]);
    command
}

/// While it lives, no package starts its service.
struct ServicesForbidden {
    /// Whether the policy is ours, and not the machine's own.
    ours: bool,
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
                Ok(Self { ours: true })
            }
            // A policy that is there is the administrator's, and stands.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(Self { ours: false }),
            Err(error) => bail!("cannot create {POLICY_FILE}: {error}"),
        }
    }
}

impl Drop for ServicesForbidden {
    fn drop(&mut self) {
        if self.ours {
            let _removed = fs::remove_file(POLICY_FILE);
        }
    }
}
