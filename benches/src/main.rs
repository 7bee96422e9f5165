//! `bench`: measures what a user would compare, and writes docs/benchmarks.md.
//!
//! - [`invoke_cost`], [`peers`], [`metered`], [`storage`], [`scrape`], [`growth`],
//!   [`capacity`], [`cold_start`]: the sections
//! - [`services`], [`comparison`]: services under load, and their comparison
//! - [`writers`]: instances as Redis sees them
//! - [`exporters`]: a Redis full of series, and the exporters that show them
//! - [`store`], [`load`], [`machine`]: Redis and its shards, oha, and processor time
//! - [`measure`]: measuring in turns; medians, spreads, ratios
//! - [`report`], [`chart`]: results as JSON, Markdown and SVG
//!
//! # Adding a section
//! Write a function `fn(&Bench) -> anyhow::Result<Findings>` in its own file
//! and add it to [`SECTIONS`]. It starts what it measures, measures with
//! [`measure::alternate`], and compares after each run what was timed with what it
//! left behind, failing where they differ. A smoke run ([`Bench::smoke`],
//! [`Bench::lasting`]) does no more than these checks need.

#![forbid(unsafe_code)]

mod capacity;
mod chart;
mod cold_start;
mod comparison;
mod exporters;
mod growth;
mod invoke_cost;
mod load;
mod machine;
mod measure;
mod metered;
mod peers;
mod report;
mod scrape;
mod services;
mod storage;
mod store;
mod writers;

use std::{path::PathBuf, process::ExitCode, time::SystemTime};

use anyhow::{Context as _, ensure};
use clap::{Parser, builder::PossibleValuesParser};
use functional_scaffold_testkit::runtime::Runtime;

use crate::{
    measure::Bench,
    report::{Files, Findings, Measured, Results},
};

/// Measures one question.
type Section = fn(&Bench) -> anyhow::Result<Findings>;

/// The sections by their names for `--only`, in the order of the report.
const SECTIONS: [(&str, Section); 8] = [
    ("invoke-cost", invoke_cost::run),
    (PEERS, peers::run),
    ("metered", metered::run),
    ("storage", storage::run),
    ("scrape", scrape::run),
    ("growth", growth::run),
    ("capacity", capacity::run),
    ("cold-start", cold_start::run),
];

/// The section that needs Python.
const PEERS: &str = "peers";

/// Measures what a user would compare, in turns, on this machine, and writes
/// docs/benchmarks.md, its charts, and the figures themselves.
///
/// Starts its own servers on free ports of loopback, and stops them at the end.
/// `SCAFFOLD_RUNTIME=spin` with `SPIN_BIN` measures on Spin.
#[derive(Parser)]
#[command(name = "bench")]
struct Cli {
    /// Measure this section alone (may be given more than once), and put it into
    /// the existing report.
    #[arg(long, value_name = "SECTION", value_parser = section_names())]
    only: Vec<String>,

    /// Measurements of each contestant.
    #[arg(long, default_value = "5", value_parser = clap::value_parser!(u8).range(1..=50))]
    rounds: u8,

    /// Run every section's checks with next to no load; write no file.
    #[arg(long)]
    smoke: bool,

    /// Write the report again from the kept figures, and measure nothing.
    #[arg(long, conflicts_with_all = ["only", "smoke"])]
    render: bool,

    /// The load generator.
    #[arg(long, value_name = "FILE", default_value = "oha")]
    oha: PathBuf,

    /// A Python with the packages of benches/peers/fastapi/requirements.txt.
    /// Without it, comparisons with Python are left out.
    #[arg(long, value_name = "FILE")]
    python: Option<PathBuf>,
}

fn section_names() -> PossibleValuesParser {
    SECTIONS.map(|(name, _)| name).into()
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let runtime = Runtime::from_environment()?;
    let files = Files::of(&runtime);
    if cli.render {
        let results = files.read()?;
        return files.write(&results.context("nothing was measured yet")?);
    }
    let bench = Bench {
        rounds: if cli.smoke { 1 } else { cli.rounds.into() },
        smoke: cli.smoke,
        runtime,
        oha: cli.oha,
        python: cli.python,
    };
    let options: String = cli
        .only
        .iter()
        .map(|name| format!(" --only {name}"))
        .collect();
    let command = format!("cargo xtask bench{options} --rounds {}", cli.rounds);
    let machine = machine::describe(&bench)?;
    let mut results = Results::default();
    let mut failed = Vec::new();
    for (name, section) in SECTIONS {
        if !cli.only.is_empty() && !cli.only.iter().any(|only| only == name) {
            continue;
        }
        eprintln!("==> {name}");
        if name == PEERS && bench.python.is_none() {
            eprintln!("skipped: there is no Python with its packages; see --python");
            continue;
        }
        // A failed section does not lose the figures of the others.
        match run_section(name, section, &bench, &machine, &command) {
            Ok(measured) => {
                let mut text = String::new();
                files.write_findings(&mut text, &measured.findings);
                println!("{text}");
                results.sections.push(measured);
            }
            Err(error) => {
                eprintln!("failed: {error:#}");
                failed.push(name);
            }
        }
    }
    if !cli.smoke && !results.sections.is_empty() {
        if let Some(earlier) = files.read()?
            && !cli.only.is_empty()
        {
            results = Files::replace(earlier, results, &SECTIONS.map(|(name, _)| name));
        }
        files.write(&results)?;
    }
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

fn run_section(
    name: &str,
    section: Section,
    bench: &Bench,
    machine: &[(String, String)],
    command: &str,
) -> anyhow::Result<Measured> {
    let began = humantime::format_rfc3339_seconds(SystemTime::now());
    let load_average = machine::load_average()?;
    Ok(Measured {
        name: name.to_owned(),
        machine: machine.to_vec(),
        began: began.to_string(),
        commit: machine::commit()?,
        command: command.to_owned(),
        load_average,
        findings: section(bench)?,
    })
}
