//! `cargo xtask chaos`: builds what is needed and runs the tests' `chaos`, which
//! owns what is done and what it means.

use std::process::Command;

use anyhow::Result;
use clap::Args;

use crate::InstallOptions;
use crate::build;
use crate::child;
use crate::steps::Steps;
use crate::test::END_TO_END_PACKAGE;
use crate::tools;
use crate::wasm_toolchain::WasmToolchain;

/// The options of the short run that is part of `cargo xtask test`: each fault at
/// least once, always in the same order.
const SHORT: [&str; 4] = ["--seed", "4483", "--seconds", "20"];

/// Kill, stop and cut off the parts of a running application, and compare what
/// its client was answered with what was counted.
///
/// Runs on the dev host, with a redis-server, an exporter and a replay of the log
/// of its own; all are ended at the end. `cargo xtask chaos -- --help` says what
/// is done and how the result is read.
#[derive(Args)]
pub(crate) struct Chaos {
    /// Chooses faults and requests; from the clock if there is none.
    #[arg(long)]
    seed: Option<u64>,

    /// How long the load lasts; 60 unless given.
    #[arg(long)]
    seconds: Option<u64>,

    /// `metrics_durability`; exact unless given.
    #[arg(long, value_parser = ["relaxed", "exact", "strict"])]
    durability: Option<String>,

    /// Redis's `appendfsync`; always unless given.
    #[arg(long, value_parser = ["always", "everysec"])]
    fsync: Option<String>,

    /// Requests a second at the most; 1000 unless given.
    #[arg(long)]
    rate: Option<u64>,

    #[command(flatten)]
    install: InstallOptions,

    /// Further arguments of the program.
    #[arg(last = true)]
    further: Vec<String>,
}

impl Chaos {
    /// Runs the command.
    ///
    /// # Errors
    ///
    /// What could not be built, or that a count was wrong.
    pub(crate) fn run(self) -> Result<()> {
        let mut steps = Steps::default();
        let toolchain = WasmToolchain::find(self.install)?;
        build::build_components(&mut steps, &toolchain, &build::ALGORITHMS_AND_TESTED)?;
        build::build_programs(&mut steps)?;
        run_program(&self.arguments())
    }

    fn arguments(&self) -> Vec<String> {
        let number = |number: Option<u64>| number.map(|number| number.to_string());
        let options = [
            ("--seed", number(self.seed)),
            ("--seconds", number(self.seconds)),
            ("--durability", self.durability.clone()),
            ("--fsync", self.fsync.clone()),
            ("--rate", number(self.rate)),
        ];
        options
            .into_iter()
            .filter_map(|(name, value)| Some([name.to_owned(), value?]))
            .flatten()
            .chain(self.further.clone())
            .collect()
    }
}

/// Runs the short one, of what is built.
///
/// # Errors
///
/// A count was wrong.
pub(crate) fn run_short() -> Result<()> {
    run_program(&SHORT.map(str::to_owned))
}

fn run_program(arguments: &[String]) -> Result<()> {
    let mut cargo: Command = tools::cargo("run");
    cargo
        .args(["--release", "--package", END_TO_END_PACKAGE])
        .args(["--bin", "chaos", "--"])
        .args(arguments);
    child::run("chaos", &mut cargo, None)
}
