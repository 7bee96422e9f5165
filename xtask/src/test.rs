//! `cargo xtask test`: all that must hold before a change is good, what fails
//! fastest first.

use std::process::Command;

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::InstallOptions;
use crate::bench;
use crate::build;
use crate::chaos;
use crate::child;
use crate::requirements;
use crate::runtime::{Runtime, RuntimeName};
use crate::steps::Steps;
use crate::tools;
use crate::wasm_toolchain::WasmToolchain;

/// The package of the end-to-end tests, and of `chaos`.
pub(crate) const END_TO_END_PACKAGE: &str = "functional-scaffold-tests";

/// Check and test everything: format, lints, documentation, unit tests, and
/// end-to-end tests against a running application, at last a short `chaos` and a
/// smoke run of the benchmarks.
#[derive(Args)]
pub(crate) struct Test {
    /// What the end-to-end tests run the app on.
    #[arg(long, value_enum, env = "SCAFFOLD_RUNTIME", default_value = "devhost")]
    runtime: RuntimeName,

    #[command(flatten)]
    install: InstallOptions,
}

/// A set of packages that cargo always gets together. Cargo joins the features
/// that the packages of one command want, so another set would mean other
/// dependencies, and wasmtime compiled once more.
#[derive(Clone, Copy)]
enum Selection {
    /// The native programs, in the profile in which they are built.
    Programs,
    /// All else, in the dev profile: it finds overflows, and optimising would
    /// take longer than the tests.
    Rest,
}

impl Test {
    /// Runs the command.
    ///
    /// # Errors
    ///
    /// The first step that failed, by name.
    pub(crate) fn run(self) -> Result<()> {
        let mut steps = Steps::default();
        let outcome = self.run_steps(&mut steps);
        eprintln!("\n{}", steps.summary());
        outcome
    }

    fn run_steps(&self, steps: &mut Steps) -> Result<()> {
        let toolchain = steps.run("look for what the tests need", || {
            let toolchain = WasmToolchain::find(self.install)?;
            requirements::check(&toolchain)?;
            Runtime::find(self.runtime)?;
            Ok(toolchain)
        })?;
        steps.run("format", || {
            run(tools::cargo("fmt").args(["--all", "--check"]))
        })?;
        steps.run("clippy, native", || {
            for selection in [Selection::Rest, Selection::Programs] {
                let mut clippy = selection.cargo("clippy");
                run(clippy.args(["--all-targets", "--", "-D", "warnings"]))?;
            }
            Ok(())
        })?;
        steps.run("clippy, wasm", || {
            for package in build::component_packages(&build::ALL)? {
                let mut clippy = toolchain.cargo("clippy");
                clippy.args(["--package", &package]);
                run(clippy.args(["--", "-D", "warnings"]))?;
            }
            Ok(())
        })?;
        steps.run("documentation", || {
            for selection in [Selection::Rest, Selection::Programs] {
                let mut doc = selection.cargo("doc");
                doc.env("RUSTDOCFLAGS", "-D warnings");
                run(doc.args(["--no-deps", "--document-private-items"]))?;
            }
            Ok(())
        })?;
        steps.run("unit and property tests", || {
            let mut rest = Selection::Rest.cargo("test");
            run(rest.args(["--exclude", END_TO_END_PACKAGE]))?;
            run(&mut Selection::Programs.cargo("test"))
        })?;
        build::build_components(steps, &toolchain, &build::ALL)?;
        build::build_programs(steps)?;
        steps.run("end-to-end tests", || {
            let mut test = tools::cargo("test");
            test.args(["--release", "--package", END_TO_END_PACKAGE]);
            let runtime = self.runtime.to_possible_value();
            run(test.envs(runtime.map(|name| ("SCAFFOLD_RUNTIME", name.get_name().to_owned()))))
        })?;
        steps.run("chaos, for less than a minute", chaos::run_short)?;
        steps.run("the benchmarks' checks, in a smoke run", || {
            bench::run_smoke(self.runtime, self.install)
        })
    }
}

impl Selection {
    fn cargo(self, subcommand: &str) -> Command {
        let mut cargo = tools::cargo(subcommand);
        match self {
            Self::Programs => {
                cargo.arg("--release");
                for package in build::NATIVE_PACKAGES {
                    cargo.args(["--package", package]);
                }
            }
            Self::Rest => {
                cargo.arg("--workspace");
                for package in build::NATIVE_PACKAGES {
                    cargo.args(["--exclude", package]);
                }
            }
        }
        cargo
    }
}

fn run(cargo: &mut Command) -> Result<()> {
    let subcommand = cargo.get_args().next().unwrap_or_default();
    let name = format!("cargo {}", subcommand.display());
    child::run(&name, cargo, None)
}
