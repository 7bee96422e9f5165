//! `cargo xtask bench`: builds the app, installs a load generator and the Python
//! packages of the compared services into target/tools/, and runs the `bench`
//! program of benches/.

use std::env;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use clap::Args;
use functional_scaffold_testkit::runtime::Runtime;

use crate::build::{self, DEV_HOST, EXPORTER, GUARD, Program};
use crate::cargo_tool::{CargoTool, TOOLS};
use crate::command;
use crate::install::InstallOptions;
use crate::process;
use crate::runtime::{self, RuntimeName};
use crate::steps::Steps;
use crate::toolchain::WasmToolchain;

const PYTHON_REQUIREMENTS: &str = "benches/peers/fastapi/requirements.txt";
const OHA: CargoTool = CargoTool {
    name: "oha",
    version: "1.16.0",
    // It does not compile without a TLS library.
    options: &[],
};
const INSTALL_TIMEOUT: Duration = Duration::from_secs(1800);

/// Measure what a user would compare, and write docs/benchmarks.md.
///
/// Servers, load and Redis take turns on this machine for some 35 minutes; leave
/// it alone meanwhile. The load generator oha and the Python packages of the
/// compared services are installed into target/tools/.
#[derive(Args)]
pub(crate) struct Bench {
    /// Measure only this section (may be given more than once), and put it into
    /// the existing report.
    #[arg(long, value_name = "SECTION")]
    only: Vec<String>,

    /// Measurements of each contestant; 5 unless given.
    #[arg(long)]
    rounds: Option<u8>,

    /// Run every section's checks with next to no load; write no file.
    #[arg(long)]
    smoke: bool,

    /// Write the report again from benches/benchmarks.json, and measure nothing.
    #[arg(long, conflicts_with_all = ["only", "smoke"])]
    render: bool,

    /// The runtime of the app.
    #[arg(long, value_enum, env = "SCAFFOLD_RUNTIME", default_value = "devhost")]
    runtime: RuntimeName,

    #[command(flatten)]
    install: InstallOptions,
}

impl Bench {
    pub(crate) fn run(self) -> Result<()> {
        let runtime = self.runtime.find()?;
        let mut steps = Steps::default();
        let mut arguments = Vec::new();
        if self.render {
            arguments.push("--render".to_owned());
        } else {
            let toolchain = WasmToolchain::find(self.install)?;
            let programs: &[Program] = match runtime.is_spin() {
                true => &[EXPORTER, GUARD],
                false => &[DEV_HOST, EXPORTER, GUARD],
            };
            build::build_programs(&mut steps, programs)?;
            build::build_components(&mut steps, &toolchain, &build::ALGORITHMS_OF_BENCHES)?;
            arguments = steps.run("install load generator and Python packages", || {
                install_tools(self.install)
            })?;
        }
        steps.run("build bench", || {
            let mut build = command::cargo("build");
            build.args(["--release", "--package", "functional-scaffold-benches"]);
            process::run("cargo build", &mut build, None)
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
        run_program(&arguments, &runtime)
    }
}

/// Runs the smoke run without building anything.
pub(crate) fn run_smoke(runtime: &Runtime, install: InstallOptions) -> Result<()> {
    let mut arguments = install_tools(install)?;
    arguments.push("--smoke".to_owned());
    run_program(&arguments, runtime)
}

fn run_program(arguments: &[String], runtime: &Runtime) -> Result<()> {
    let mut bench = command::program(command::built("bench"));
    bench
        .args(arguments)
        // With these set, Spin captures backtraces of errors that it handles.
        .env_remove("RUST_BACKTRACE")
        .env_remove("RUST_LIB_BACKTRACE")
        .env("SCAFFOLD_RUNTIME", runtime::name(runtime));
    process::run("bench", &mut bench, None)
}

/// Installs missing tools, and returns the arguments that name them.
fn install_tools(options: InstallOptions) -> Result<Vec<String>> {
    let oha = OHA.install(options)?;
    let mut arguments = vec!["--oha".to_owned(), oha];
    match install_python_packages(options) {
        Ok(python) => arguments.extend(["--python".to_owned(), python]),
        Err(error) => eprintln!("there will be no comparison with Python: {error:#}"),
    }
    Ok(arguments)
}

/// Returns the absolute path of the Python that has the packages.
fn install_python_packages(options: InstallOptions) -> Result<String> {
    let folder = env::current_dir()?.join(TOOLS).join("python");
    let python = folder.join("bin/python");
    // A copy of the requirements, written after they are installed.
    let installed = folder.join("requirements.txt");
    let requirements = fs::read(PYTHON_REQUIREMENTS)
        .with_context(|| format!("cannot read {PYTHON_REQUIREMENTS}"))?;
    if fs::read(&installed).ok().as_ref() != Some(&requirements) {
        ensure!(
            !options.no_install,
            "{PYTHON_REQUIREMENTS} is not installed in {TOOLS}, and --no-install forbids it"
        );
        let mut venv = command::program("python3");
        venv.args(["-m", "venv", "--clear"]).arg(&folder);
        process::run("python3 -m venv", &mut venv, Some(INSTALL_TIMEOUT))?;
        let mut pip = command::program(&python);
        pip.args(["-m", "pip", "install", "--disable-pip-version-check"])
            .args(["--quiet", "--requirement", PYTHON_REQUIREMENTS]);
        process::run("pip install", &mut pip, Some(INSTALL_TIMEOUT))?;
        fs::write(&installed, requirements)?;
    }
    let python = python.into_os_string().into_string();
    python.map_err(|path| anyhow!("{} is not UTF-8", path.display()))
}
