//! `cargo xtask fuzz`: coverage-guided fuzzing with libFuzzer.
//!
//! Builds as cargo-fuzz does, but on the stable compiler: without a sanitizer, which Rust
//! without `unsafe` code needs least.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::command;
use crate::process;
use crate::steps::Steps;

const FOLDER: &str = "fuzz";
const BUILD: &str = "target/fuzz";

/// The targets, in `fuzz/fuzz_targets/`.
const TARGETS: [&str; 6] = [
    "headers",
    "log_lines",
    "manifest",
    "outbound_hosts",
    "script_replies",
    "store",
];

/// The instrumentation that libFuzzer reads.
const RUSTFLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

/// Fuzz what outsiders send, and what a hostile store contains.
///
/// Each target starts from its committed corpus, `fuzz/corpus/TARGET`, and keeps what it
/// finds in `target/fuzz/corpus/TARGET`. An input that fails is kept in `fuzz/artifacts`.
#[derive(Args)]
pub(crate) struct Fuzz {
    /// All targets, unless some are given.
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(TARGETS))]
    targets: Vec<String>,

    /// The seconds for each target. Two run at once.
    #[arg(long, default_value = "60")]
    seconds: u64,
}

impl Fuzz {
    pub(crate) fn run(self) -> Result<()> {
        let mut steps = Steps::default();
        let outcome = if self.targets.is_empty() {
            run_all(&mut steps, self.seconds)
        } else {
            let targets: Vec<_> = self.targets.iter().map(String::as_str).collect();
            run_targets(&mut steps, &targets, self.seconds)
        };
        eprintln!("\n{}", steps.summary());
        outcome
    }
}

/// Fuzzes all targets, each for this time.
pub(crate) fn run_all(steps: &mut Steps, seconds: u64) -> Result<()> {
    run_targets(steps, &TARGETS, seconds)
}

fn run_targets(steps: &mut Steps, targets: &[&str], seconds: u64) -> Result<()> {
    steps.run("build the fuzz targets", build)?;
    for pair in targets.chunks(2) {
        steps.run(&format!("fuzz {}", pair.join(", ")), || {
            thread::scope(|scope| {
                let running = pair
                    .iter()
                    .map(|target| scope.spawn(|| fuzz(target, seconds)));
                let running: Vec<_> = running.collect();
                running.into_iter().try_for_each(|thread| {
                    thread.join().unwrap_or_else(|_| bail!("a thread panicked"))
                })
            })
        })?;
    }
    Ok(())
}

fn build() -> Result<()> {
    process::run("cargo build", cargo("build").arg("--bins"), None)
}

fn fuzz(target: &str, seconds: u64) -> Result<()> {
    let kept = Path::new(BUILD).join("corpus").join(target);
    let artifacts = Path::new(FOLDER).join("artifacts").join(target);
    for folder in [&kept, &artifacts] {
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let mut fuzz = cargo("run");
    fuzz.args(["--quiet", "--bin", target, "--"])
        // The first is written to.
        .args([&kept, &Path::new(FOLDER).join("corpus").join(target)])
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .arg(format!("-max_total_time={seconds}"))
        .args(["-rss_limit_mb=512", "-timeout=10", "-max_len=16384"])
        .args(["-print_final_stats=1", "-verbosity=0"]);
    process::run(target, &mut fuzz, None)
}

fn cargo(subcommand: &str) -> Command {
    let mut cargo = command::cargo(subcommand);
    cargo
        .args([
            "--release",
            "--locked",
            "--manifest-path",
            "fuzz/Cargo.toml",
        ])
        // With a target, build scripts and macros are not instrumented.
        .args(["--target", "host-tuple"])
        .env("CARGO_TARGET_DIR", BUILD)
        .env("RUSTFLAGS", RUSTFLAGS);
    cargo
}
