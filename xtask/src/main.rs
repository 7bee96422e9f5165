//! `cargo xtask`: builds, runs and tests the whole application. It owns the
//! command line; what a command does is in the file of its name.
//!
//! # Layout
//!
//! - `up`, `build`, `test`, `chaos`, `bench`, `prometheus_rule`: the commands
//! - `bench_tools`: what the benchmarks need beyond what is built here
//! - `wasm_toolchain`: the two ways to build for `wasm32-wasip2`
//! - `manifest`: what `up` has to know of `spin.toml`
//! - `requirements`: what the tests need from the machine
//! - `runtime`: the dev host or the Spin CLI
//! - `metrics_backend`: what runs beside the app
//! - `redis_server`, `redis_container`: which Redis, and starting it
//! - `redis_settings`: how the app and the exporter reach it
//! - `pushgateway`, `prometheus`: the same of these
//! - `children`: what `up` has started
//! - `spin_variables`: the app's variables
//! - `address`, `probe`: addresses to listen on, and whether somebody answers
//! - `debian`: packages from Debian
//! - `tools`, `child`, `interrupt`, `steps`: commands, processes, signals,
//!   progress

#![forbid(unsafe_code)]

mod address;
mod bench;
mod bench_tools;
mod build;
mod chaos;
mod child;
mod children;
mod debian;
mod interrupt;
mod manifest;
mod metrics_backend;
mod probe;
mod prometheus;
mod prometheus_rule;
mod pushgateway;
mod redis_container;
mod redis_server;
mod redis_settings;
mod requirements;
mod runtime;
mod spin_variables;
mod steps;
mod test;
mod tools;
mod up;
mod wasm_toolchain;

use std::process::ExitCode;

use clap::{Args, Parser};

use crate::interrupt::Interrupted;

/// Builds, runs and tests the application.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Command {
    Up(up::Up),
    Build(build::Build),
    Test(test::Test),
    Chaos(chaos::Chaos),
    Bench(bench::Bench),
    PrometheusRule(prometheus_rule::PrometheusRule),
}

/// What may be done to the machine.
#[derive(Args, Clone, Copy)]
struct InstallOptions {
    /// Install nothing: no Rust target, no Debian package.
    #[arg(long)]
    no_install: bool,
}

fn main() -> ExitCode {
    let command = Command::parse();
    let outcome = tools::enter_workspace()
        .and_then(|()| interrupt::watch())
        .and_then(|()| match command {
            Command::Up(up) => up.run(),
            Command::Build(build) => build.run(),
            Command::Test(test) => test.run(),
            Command::Chaos(chaos) => chaos.run(),
            Command::Bench(bench) => bench.run(),
            Command::PrometheusRule(rule) => rule.run(),
        });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        // 128 + SIGINT, as shells report it.
        Err(error) if error.is::<Interrupted>() => {
            eprintln!("\ninterrupted");
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}
