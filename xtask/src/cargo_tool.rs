//! Installs programs written in Rust into `target/tools/`, each in an exact version.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::command;
use crate::install::InstallOptions;
use crate::process;

/// The folder of installed programs, below the workspace.
pub(crate) const TOOLS: &str = "target/tools";

const INSTALL_TIMEOUT: Duration = Duration::from_secs(1800);

/// A package whose program has its name.
pub(crate) struct CargoTool {
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
    /// For `cargo install`.
    pub(crate) options: &'static [&'static str],
}

impl CargoTool {
    /// Installs the program unless it is there in this version, and returns its path.
    pub(crate) fn install(&self, options: InstallOptions) -> Result<String> {
        let Self { name, version, .. } = self;
        let root = format!("{TOOLS}/{name}-{version}");
        let path = format!("{root}/bin/{name}");
        if Path::new(&path).exists() {
            return Ok(path);
        }
        ensure!(
            !options.no_install,
            "{path} is missing, and --no-install forbids `cargo install`"
        );
        eprintln!("installing {name} {version}, which takes some minutes the first time");
        let mut install = command::cargo("install");
        install
            .args([name, "--version", version, "--locked", "--quiet"])
            .args(["--root", &root])
            .args(self.options)
            // The profiles of the packages double the build time for a few percent.
            .env("CARGO_PROFILE_RELEASE_LTO", "off")
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
        process::run("cargo install", &mut install, Some(INSTALL_TIMEOUT))?;
        Ok(path)
    }
}
