//! `cargo xtask`: builds, runs and tests the whole application. Commands are in
//! the files of their names.
//!
//! - `up`, `build`, `test`, `chaos`, `bench`, `fuzz`, `new`, `dist`, `monitoring`: the
//!   commands
//! - `runtime`, `redis`, `pushgateway`: the servers of `up`
//! - `settings`, `manifest`: the app's settings and `spin.toml`
//! - `toolchain`, `install`, `cargo_tool`, `requirements`: the compiler for wasm (and
//!   `env`), packages from Debian and of Rust, and the programs that the tests need
//! - `names`: what is left out of a component
//! - `dependencies`, `sbom`: the rules of `deny.toml`, and what `dist` says about them
//! - `command`, `process`, `net`, `steps`: commands, processes,
//!   connections, progress

#![forbid(unsafe_code)]

mod app_log;
mod bench;
mod build;
mod cargo_tool;
mod chaos;
mod command;
mod dependencies;
mod dist;
mod fuzz;
mod install;
mod languages;
mod manifest;
mod monitoring;
mod names;
mod net;
mod new;
mod process;
mod pushgateway;
mod redis;
mod requirements;
mod runtime;
mod sbom;
mod settings;
mod steps;
mod test;
mod toolchain;
mod up;

use std::process::ExitCode;

use clap::Parser;

use crate::process::Interrupted;

/// Builds, runs and tests the application.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Command {
    Up(up::Up),
    Build(build::Build),
    Test(test::Test),
    Chaos(chaos::Chaos),
    Bench(bench::Bench),
    Fuzz(fuzz::Fuzz),
    New(new::New),
    Dist(dist::Dist),
    Env(toolchain::Env),
    Monitoring(monitoring::Monitoring),
}

fn main() -> ExitCode {
    let command = Command::parse();
    let outcome = command::enter_workspace()
        .and_then(|()| process::handle_signals())
        .and_then(|()| match command {
            Command::Up(up) => up.run(),
            Command::Build(build) => build.run(),
            Command::Test(test) => test.run(),
            Command::Chaos(chaos) => chaos.run(),
            Command::Bench(bench) => bench.run(),
            Command::Fuzz(fuzz) => fuzz.run(),
            Command::New(new) => new.run(),
            Command::Dist(dist) => dist.run(),
            Command::Env(env) => env.run(),
            Command::Monitoring(monitoring) => monitoring.run(),
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
