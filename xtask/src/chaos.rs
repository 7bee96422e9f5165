//! `cargo xtask chaos`: builds the app and runs the `chaos` program of tests/.

use std::panic::resume_unwind;
use std::thread;

use anyhow::Result;
use clap::Args;
use functional_scaffold_testkit::runtime::Runtime;

use crate::build::{self, DEV_HOST, EXPORTER, GUARD};
use crate::command;
use crate::install::InstallOptions;
use crate::process;
use crate::runtime::{self, RuntimeName};
use crate::steps::Steps;
use crate::toolchain::WasmToolchain;

/// The options of the short runs in `cargo xtask test`: each basic fault at least once,
/// always in the same order, and cheap ones at the same time.
const SHORT: [&str; 6] = [
    "--seed",
    "4483",
    "--seconds",
    "24",
    "--schedule",
    "overlapping",
];

/// Kill, stop and cut off parts of a running application, and compare the
/// responses with the counts.
///
/// Runs its own redis-server, app, exporter and replay of the log. `cargo xtask chaos
/// -- --help` lists the faults and explains the result.
#[derive(Args)]
pub(crate) struct Chaos {
    /// The service with an algorithm, or an app behind the middleware; service unless
    /// given.
    #[arg(long, value_parser = ["service", "metered"])]
    app: Option<String>,

    /// Chooses faults and requests; from the clock unless given.
    #[arg(long)]
    seed: Option<u64>,

    /// Duration of the load; 60 unless given.
    #[arg(long)]
    seconds: Option<u64>,

    /// `metrics_durability`; exact unless given.
    #[arg(long, value_parser = ["batched", "exact", "strict"])]
    durability: Option<String>,

    /// Redis's `appendfsync`; always unless given.
    #[arg(long, value_parser = ["always", "everysec"])]
    fsync: Option<String>,

    /// Maximum of requests per second; 1000 unless given.
    #[arg(long)]
    rate: Option<u64>,

    /// Which faults there are, and how many at a time; basic unless given.
    #[arg(long, value_parser = ["basic", "overlapping", "wide", "cluster"])]
    schedule: Option<String>,

    /// Shards among which the instances are divided. Six with cluster unless given,
    /// otherwise none.
    #[arg(long)]
    shards: Option<u64>,

    /// The runtime of the app.
    #[arg(long, value_enum, env = "SCAFFOLD_RUNTIME", default_value = "devhost")]
    runtime: RuntimeName,

    #[command(flatten)]
    install: InstallOptions,

    /// Further arguments of the program.
    #[arg(last = true)]
    further: Vec<String>,
}

impl Chaos {
    pub(crate) fn run(self) -> Result<()> {
        let mut steps = Steps::default();
        let toolchain = WasmToolchain::find(self.install)?;
        let runtime = self.runtime.find()?;
        build::build_programs(&mut steps, &[DEV_HOST, EXPORTER, GUARD])?;
        build::build_components(&mut steps, &toolchain, &build::ALGORITHMS_OF_CHAOS)?;
        steps.run("build chaos", || {
            let mut build = command::cargo("build");
            build.args(["--release", "--package", "functional-scaffold-tests"]);
            process::run("cargo build", build.args(["--bin", "chaos"]), None)
        })?;
        run_program(&runtime, &self.arguments())
    }

    fn arguments(&self) -> Vec<String> {
        let number = |number: Option<u64>| number.map(|number| number.to_string());
        let options = [
            ("--app", self.app.clone()),
            ("--seed", number(self.seed)),
            ("--seconds", number(self.seconds)),
            ("--durability", self.durability.clone()),
            ("--fsync", self.fsync.clone()),
            ("--rate", number(self.rate)),
            ("--schedule", self.schedule.clone()),
            ("--shards", number(self.shards)),
        ];
        options
            .into_iter()
            .filter_map(|(name, value)| Some([name.to_owned(), value?]))
            .flatten()
            .chain(self.further.clone())
            .collect()
    }
}

/// Runs the short runs of both apps without building anything. At the same time, because
/// they wait most of the time.
pub(crate) fn run_short(runtime: &Runtime) -> Result<()> {
    let run = |options: &[&str]| {
        let options = SHORT.iter().chain(options).map(|&option| option.to_owned());
        run_program(runtime, &options.collect::<Vec<_>>())
    };
    thread::scope(|scope| {
        let metered = scope.spawn(|| run(&["--app", "metered", "--rate", "200"]));
        run(&[])?;
        metered.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

fn run_program(runtime: &Runtime, arguments: &[String]) -> Result<()> {
    let mut chaos = command::program(command::built("chaos"));
    chaos.env("SCAFFOLD_RUNTIME", runtime::name(runtime));
    process::run("chaos", chaos.args(arguments), None)
}
