//! `cargo xtask test`: every check of a change, the fastest first.
//!
//! Native code is compiled once for checks and once for tests: all cargo commands
//! select the whole workspace in the release profile (docs/adr/0023).

use std::process::Command;

use anyhow::Result;
use clap::Args;

use crate::bench;
use crate::build::{self, DEV_HOST, EXPORTER, GUARD};
use crate::chaos;
use crate::command;
use crate::dependencies;
use crate::fuzz;
use crate::install::InstallOptions;
use crate::languages;
use crate::process;
use crate::requirements;
use crate::runtime::{self, RuntimeName};
use crate::steps::Steps;
use crate::toolchain::WasmToolchain;

/// Checks at run time for the workspace's own code. Dependencies keep the plain
/// release profile, so that they are shared with the builds of users.
const CHECKED: [&str; 4] = [
    "profile.release.overflow-checks=true",
    "profile.release.debug-assertions=true",
    "profile.release.package.\"*\".overflow-checks=false",
    "profile.release.package.\"*\".debug-assertions=false",
];

const FUZZ_SECONDS: u64 = 20;

/// Check and test everything: format, lints, documentation, unit tests,
/// end-to-end tests against a running application, some `fuzz`, a short `chaos`, and a
/// smoke run of the benchmarks.
#[derive(Args)]
pub(crate) struct Test {
    /// The runtime of the app in the end-to-end tests.
    #[arg(long, value_enum, env = "SCAFFOLD_RUNTIME", default_value = "devhost")]
    runtime: RuntimeName,

    #[command(flatten)]
    install: InstallOptions,
}

impl Test {
    pub(crate) fn run(self) -> Result<()> {
        let mut steps = Steps::default();
        let outcome = self.run_steps(&mut steps);
        eprintln!("\n{}", steps.summary());
        outcome
    }

    fn run_steps(&self, steps: &mut Steps) -> Result<()> {
        let (toolchain, runtime) = steps.run("look for required programs", || {
            let toolchain = WasmToolchain::find(self.install)?;
            requirements::check(&toolchain)?;
            Ok((toolchain, self.runtime.find()?))
        })?;
        steps.run("format", || {
            run(command::cargo("fmt").args(["--all", "--check"]))
        })?;
        steps.run("dependencies", || dependencies::check(self.install))?;
        steps.run("import cycles", || {
            // As xtask itself was compiled: this takes seconds.
            let mut test = command::cargo("test");
            run(test.args(["--package", "xtask", "--test", "structure"]))
        })?;
        steps.run("clippy, native", || {
            let mut clippy = workspace("clippy");
            run(clippy.args(["--all-targets", "--", "-D", "warnings"]))
        })?;
        steps.run("check with the features of a user's build", || {
            let mut check = command::cargo("check");
            check.arg("--release");
            run(check.args(build::package_arguments(&[DEV_HOST, EXPORTER, GUARD])))
        })?;
        steps.run("clippy, wasm", || {
            let mut clippy = toolchain.cargo("clippy");
            for package in build::component_packages(&build::ALL_ALGORITHMS)? {
                clippy.args(["--package", &package]);
            }
            run(clippy.args(["--", "-D", "warnings"]))
        })?;
        steps.run("documentation", || {
            let mut doc = workspace("doc");
            doc.env("RUSTDOCFLAGS", "-D warnings");
            run(doc.args(["--no-deps", "--document-private-items"]))
        })?;
        steps.run("build programs and tests", || {
            // There are no examples: the option makes cargo unite the features
            // of dev-dependencies, too, as it does for tests.
            run(workspace("build").args(["--bins", "--examples"]))?;
            run(workspace("test").arg("--no-run"))
        })?;
        build::build_components(steps, &toolchain, &build::ALL_ALGORITHMS)?;
        steps.run("tests of algorithms in other languages", || {
            languages::test(&build::ALL_ALGORITHMS)
        })?;
        steps.run("unit, property and end-to-end tests", || {
            // End-to-end tests wait for servers most of the time.
            let mut test = workspace("test");
            test.env("RUST_TEST_THREADS", "4");
            run(test.env("SCAFFOLD_RUNTIME", runtime::name(&runtime)))
        })?;
        fuzz::run_all(steps, FUZZ_SECONDS)?;
        steps.run("chaos, for less than a minute", || {
            chaos::run_short(&runtime)
        })?;
        steps.run("smoke run of the benchmarks", || {
            bench::run_smoke(&runtime, self.install)
        })
    }
}

/// `cargo <subcommand>` for all packages, in the release profile, [`CHECKED`].
fn workspace(subcommand: &str) -> Command {
    let mut cargo = command::cargo(subcommand);
    cargo.args(["--workspace", "--release"]);
    for option in CHECKED {
        cargo.args(["--config", option]);
    }
    cargo
}

fn run(cargo: &mut Command) -> Result<()> {
    let subcommand = cargo.get_args().next().unwrap_or_default();
    let name = format!("cargo {}", subcommand.display());
    process::run(&name, cargo, None)
}
