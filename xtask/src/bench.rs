//! `cargo xtask bench`: builds and installs what is needed, and runs `bench` of
//! benches/, which owns what is measured and how it is reported.

use std::process::Command;

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::InstallOptions;
use crate::bench_tools;
use crate::build;
use crate::child;
use crate::runtime::{Runtime, RuntimeName};
use crate::steps::Steps;
use crate::tools;
use crate::wasm_toolchain::WasmToolchain;

const PACKAGE: &str = "functional-scaffold-benches";

/// Measure what a user would compare, and write docs/benchmarks.md.
///
/// Servers, load and Redis run on this machine, in turns: leave it alone
/// meanwhile, some 25 minutes. Installs the load generator oha, and the Python
/// packages of the services that are compared, into target/tools/.
#[derive(Args)]
pub(crate) struct Bench {
    /// Measure only this section (may be given more than once), and put it into
    /// the report that is there.
    #[arg(long, value_name = "SECTION")]
    only: Vec<String>,

    /// How often each contestant is measured; 5 unless given.
    #[arg(long)]
    rounds: Option<u8>,

    /// Measure next to nothing, to see that the checks hold; write no file.
    #[arg(long)]
    smoke: bool,

    /// Write the report again from target/benchmarks.json, and measure nothing.
    #[arg(long, conflicts_with_all = ["only", "smoke"])]
    render: bool,

    /// What runs the app.
    #[arg(long, value_enum, env = "SCAFFOLD_RUNTIME", default_value = "devhost")]
    runtime: RuntimeName,

    #[command(flatten)]
    install: InstallOptions,
}

impl Bench {
    /// Runs the command.
    ///
    /// # Errors
    ///
    /// What could not be built, or that what was timed did not happen.
    pub(crate) fn run(self) -> Result<()> {
        if self.render {
            return run_program(&["--render".to_owned()], self.runtime);
        }
        Runtime::find(self.runtime)?;
        let mut steps = Steps::default();
        let toolchain = WasmToolchain::find(self.install)?;
        build::build_components(&mut steps, &toolchain, &build::ALGORITHMS_AND_BENCHED)?;
        build::build_programs(&mut steps)?;
        let mut arguments = steps.run("install what the benchmarks need", || {
            bench_tools::install(self.install)
        })?;
        for name in &self.only {
            arguments.extend(["--only".to_owned(), name.clone()]);
        }
        if let Some(rounds) = self.rounds {
            arguments.extend(["--rounds".to_owned(), rounds.to_string()]);
        }
        if self.smoke {
            arguments.push("--smoke".to_owned());
        }
        run_program(&arguments, self.runtime)
    }
}

/// Runs the smoke run, of what is built.
///
/// # Errors
///
/// What was timed did not happen.
pub(crate) fn run_smoke(runtime: RuntimeName, install: InstallOptions) -> Result<()> {
    let mut arguments = bench_tools::install(install)?;
    arguments.push("--smoke".to_owned());
    run_program(&arguments, runtime)
}

fn run_program(arguments: &[String], runtime: RuntimeName) -> Result<()> {
    let mut cargo: Command = tools::cargo("run");
    cargo
        .args(["--release", "--package", PACKAGE, "--"])
        .args(arguments);
    let runtime = runtime.to_possible_value();
    cargo.envs(runtime.map(|name| ("SCAFFOLD_RUNTIME", name.get_name().to_owned())));
    child::run("bench", &mut cargo, None)
}
