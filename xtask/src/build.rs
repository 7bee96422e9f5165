//! `cargo xtask build`: the wasm components and the native programs. One
//! optimised profile serves users, tests and benchmarks.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;

use crate::InstallOptions;
use crate::child;
use crate::steps::Steps;
use crate::tools;
use crate::wasm_toolchain::WasmToolchain;

/// The api component.
const API_PACKAGE: &str = "functional-scaffold";

/// Every folder in one of these that has a Cargo.toml is an algorithm.
pub(crate) const ALGORITHMS: [&str; 1] = ["algorithms"];

/// The same, with the algorithms that only the tests run.
pub(crate) const ALGORITHMS_AND_TESTED: [&str; 2] = ["algorithms", "tests"];

/// The same, with what only the benchmarks run.
pub(crate) const ALGORITHMS_AND_BENCHED: [&str; 2] = ["algorithms", "benches/components"];

/// Every component there is.
pub(crate) const ALL: [&str; 3] = ["algorithms", "benches/components", "tests"];

/// The native programs' packages.
pub(crate) const NATIVE_PACKAGES: [&str; 2] = [
    "functional-scaffold-devhost",
    "functional-scaffold-exporter",
];

const QUESTION_TIMEOUT: Duration = Duration::from_secs(60);

/// Build the wasm components and the native programs, into target/.
#[derive(Args)]
pub(crate) struct Build {
    #[command(flatten)]
    install: InstallOptions,
}

impl Build {
    /// Runs the command.
    ///
    /// # Errors
    ///
    /// What failed.
    pub(crate) fn run(self) -> Result<()> {
        build(&mut Steps::default(), self.install)
    }
}

/// Builds everything.
///
/// # Errors
///
/// What failed.
pub(crate) fn build(steps: &mut Steps, install: InstallOptions) -> Result<()> {
    let toolchain = WasmToolchain::find(install)?;
    build_components(steps, &toolchain, &ALGORITHMS)?;
    build_programs(steps)
}

/// Builds the wasm components.
///
/// # Errors
///
/// What failed.
pub(crate) fn build_components(
    steps: &mut Steps,
    toolchain: &WasmToolchain,
    algorithms: &[&str],
) -> Result<()> {
    let headline = format!("build the wasm components ({})", toolchain.name());
    steps.run(&headline, || {
        for package in component_packages(algorithms)? {
            let mut build = toolchain.cargo("build");
            if package == API_PACKAGE {
                // The host's work on a request outweighs the component's by far:
                // for size it is as fast, and a third smaller. Its dependencies,
                // too, which other programs want for speed.
                build.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "s");
            }
            child::run("cargo build", build.args(["--package", &package]), None)?;
        }
        Ok(())
    })
}

/// Builds the native programs.
///
/// # Errors
///
/// What failed.
pub(crate) fn build_programs(steps: &mut Steps) -> Result<()> {
    steps.run("build the native programs", || {
        let mut build = tools::cargo("build");
        build.arg("--release");
        for package in NATIVE_PACKAGES {
            build.args(["--package", package]);
        }
        child::run("cargo build", &mut build, None)
    })
}

/// The packages that become components. Cargo gets them one at a time: built
/// together, each would get the dependencies' features that another wants, and
/// an algorithm must not change with its neighbours.
///
/// # Errors
///
/// When an algorithm's manifest is wrong.
pub(crate) fn component_packages(algorithms: &[&str]) -> Result<Vec<String>> {
    let mut manifests = Vec::new();
    for parent in algorithms {
        let folders = fs::read_dir(parent).with_context(|| format!("cannot read {parent}/"))?;
        for folder in folders {
            manifests.push(folder?.path().join("Cargo.toml"));
        }
    }
    manifests.retain(|manifest| manifest.exists());
    manifests.sort();
    let mut packages = vec![API_PACKAGE.to_owned()];
    for manifest in manifests {
        packages.push(package_id(&manifest)?);
    }
    Ok(packages)
}

fn package_id(manifest: &Path) -> Result<String> {
    let mut pkgid = tools::cargo("pkgid");
    pkgid.arg("--manifest-path").arg(manifest);
    child::capture("cargo pkgid", &mut pkgid, QUESTION_TIMEOUT).with_context(|| {
        let manifest = manifest.display();
        format!("{manifest} is not a member of the workspace; see `members` in Cargo.toml")
    })
}
