//! `bench`: measures what a user would compare, and writes docs/benchmarks.md.
//!
//! # Layout
//! - [`section`]: what a section is, and the list of all
//! - [`rounds`]: measuring in turns; medians, spreads, ratios
//! - [`load`]: requests, by oha
//! - [`store`], [`contestant`]: Redis, a server under load, and the proof that
//!   what was timed happened
//! - [`services`]: the servers that are compared
//! - [`comparison`]: loads on several of them, and the tables of what came out
//! - [`cpu`]: processor time of servers and generator
//! - [`report`], [`chart`]: how answers read
//! - [`results`], [`machine`]: what is kept, and what it was measured on
//!
//! - [`instance`]: instances as Redis sees them
//! - [`filled`], [`server`], [`probe`]: a Redis full of series, exporters that
//!   show them, and how long other clients of Redis wait
//! - [`invoke_cost`], [`peers`], [`storage`] (with [`pushes`]), [`scrape`],
//!   [`growth`] (with [`million`]), [`cold_start`]: the sections
//!
//! # To add a section
//! A section is a file of its own, named for what it asks. Write a function
//! `fn(&Bench) -> anyhow::Result<Answer>` and put it into [`section::SECTIONS`].
//! It starts what it measures ([`store`], [`services`], the end-to-end tests'
//! library), measures by [`rounds::alternate`], and after each run compares what
//! was timed with what it left behind, failing where they differ. In a smoke run
//! ([`section::Bench::smoke`], [`section::Bench::lasting`]) it does no more than
//! it takes to see that. Tables, charts and targets get all rounds
//! ([`rounds::Figure`]); the report takes medians and spreads from them.

#![forbid(unsafe_code)]

mod chart;
mod cold_start;
mod comparison;
mod contestant;
mod cpu;
mod filled;
mod growth;
mod instance;
mod invoke_cost;
mod load;
mod machine;
mod million;
mod peers;
mod probe;
mod pushes;
mod report;
mod results;
mod rounds;
mod scrape;
mod section;
mod server;
mod services;
mod storage;
mod store;

use std::{path::PathBuf, process::ExitCode, time::SystemTime};

use anyhow::{Context as _, ensure};
use clap::{Parser, builder::PossibleValuesParser};

use crate::{
    results::{Measured, Results},
    section::{Bench, SECTIONS, Section},
};

/// Measures what a user would compare, in turns, on this machine, and writes
/// docs/benchmarks.md, its charts, and the figures themselves.
///
/// Starts servers of its own, on loopback, on free ports, ended at the end.
/// `SCAFFOLD_RUNTIME=spin` with `SPIN_BIN` measures on Spin itself.
#[derive(Parser)]
#[command(name = "bench")]
struct Cli {
    /// Measures this section alone (may be given more than once), and puts it
    /// into the report that is there.
    #[arg(long, value_name = "SECTION", value_parser = section_names())]
    only: Vec<String>,

    /// How often each contestant is measured.
    #[arg(long, default_value = "5", value_parser = clap::value_parser!(u8).range(1..=50))]
    rounds: u8,

    /// Measures next to nothing, to see that the checks hold; writes no file.
    #[arg(long)]
    smoke: bool,

    /// Writes the report again from the figures there are, and measures nothing.
    #[arg(long, conflicts_with_all = ["only", "smoke"])]
    render: bool,

    /// The load generator.
    #[arg(long, value_name = "FILE", default_value = "oha")]
    oha: PathBuf,

    /// A Python with what benches/peers/fastapi/requirements.txt lists. Without
    /// it, what needs it is left out.
    #[arg(long, value_name = "FILE")]
    python: Option<PathBuf>,
}

fn section_names() -> PossibleValuesParser {
    SECTIONS.iter().map(|section| section.name).into()
}

fn main() -> ExitCode {
    match obey(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn obey(cli: &Cli) -> anyhow::Result<()> {
    if cli.render {
        let results = Results::read()?;
        return results.context("nothing was measured yet")?.write();
    }
    let bench = Bench {
        rounds: if cli.smoke { 1 } else { cli.rounds.into() },
        smoke: cli.smoke,
        oha: cli.oha.clone(),
        python: cli.python.clone(),
    };
    let mut results = Results {
        machine: machine::describe(&bench)?,
        sections: Vec::new(),
    };
    let wanted =
        |section: &&Section| cli.only.is_empty() || cli.only.iter().any(|it| it == section.name);
    let mut failed = Vec::new();
    for section in SECTIONS.iter().filter(wanted) {
        eprintln!("==> {}", section.name);
        if section.wants_python && bench.python.is_none() {
            eprintln!("skipped: there is no Python with its packages; see --python");
            continue;
        }
        // What others measured, for minutes, is not lost by one that fails.
        match measure(section, &bench, cli) {
            Ok(measured) => results.sections.push(measured),
            Err(error) => {
                eprintln!("failed: {error:#}");
                failed.push(section.name);
            }
        }
    }
    if !cli.smoke && !results.sections.is_empty() {
        if let Some(earlier) = Results::read()?
            && !cli.only.is_empty()
        {
            results = earlier.replaced_by(results)?;
        }
        results.write()?;
    }
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

fn measure(section: &Section, bench: &Bench, cli: &Cli) -> anyhow::Result<Measured> {
    let now = humantime::format_rfc3339_seconds(SystemTime::now());
    let load_average = machine::load_average()?;
    let answer = (section.run)(bench)?;
    let mut text = String::new();
    report::write_answer(&mut text, &answer);
    println!("{text}");
    let mut command = String::from("cargo xtask bench");
    for name in &cli.only {
        command.push_str(&format!(" --only {name}"));
    }
    Ok(Measured {
        name: section.name.to_owned(),
        began: now.to_string(),
        commit: machine::commit()?,
        command: format!("{command} --rounds {}", cli.rounds),
        load_average,
        answer,
    })
}
