//! `functional-scaffold-guard`: guards an algorithm component.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::{env, fs};

use functional_scaffold_guard::{Budget, DEFAULT_BUDGET, Options, guard};
use lexopt::{Arg, Parser, ValueExt};

const USAGE: &str = "\
Makes a crash or an endless loop of an algorithm component an error of that call.

Usage: functional-scaffold-guard <APP.WASM> -o <APP.GUARDED.WASM> [OPTIONS]

Options:
  -o, --output <FILE>       Where to write the guarded component
      --budget <NUMBER>     Instructions that a call may execute, instead of the
                            algorithm's own budget, or of the default, {default}
      --no-budget           Do not count instructions: an endless loop never ends
      --max-memory <BYTES>  How far the algorithm's memory may grow
  -h, --help                Print this help
  -V, --version             Print the version";

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    match run(env::args_os().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprint!("error: {error}");
            let mut source = error.source();
            while let Some(cause) = source {
                eprint!(": {cause}");
                source = cause.source();
            }
            eprintln!();
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: impl Iterator<Item = OsString>) -> Result<()> {
    let mut options = Options::default();
    let mut input = None;
    let mut output = None;
    let mut parser = Parser::from_args(arguments);
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Value(path) if input.is_none() => input = Some(PathBuf::from(path)),
            Arg::Short('o') | Arg::Long("output") => output = Some(PathBuf::from(parser.value()?)),
            Arg::Long("budget") => {
                options.budget = Budget::Instructions(parser.value()?.parse()?);
            }
            Arg::Long("no-budget") => options.budget = Budget::Unlimited,
            Arg::Long("max-memory") => options.max_memory = Some(parser.value()?.parse()?),
            Arg::Short('h') | Arg::Long("help") => {
                println!(
                    "{}",
                    USAGE.replace("{default}", &DEFAULT_BUDGET.to_string())
                );
                return Ok(());
            }
            Arg::Short('V') | Arg::Long("version") => {
                println!("functional-scaffold-guard {}", env!("CARGO_PKG_VERSION"));
                return Ok(());
            }
            _ => return Err(argument.unexpected().into()),
        }
    }
    let input = input.ok_or("the component is missing: try --help")?;
    let output = output.ok_or("-o is missing: try --help")?;
    let name = |path: &PathBuf, error| format!("{}: {error}", path.display());
    let component = fs::read(&input).map_err(|error| name(&input, error))?;
    let guarded = guard(&component, &options)?;
    fs::write(&output, guarded).map_err(|error| name(&output, error))?;
    Ok(())
}
