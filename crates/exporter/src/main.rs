//! The command `functional-scaffold-exporter`.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    functional_scaffold_exporter::main()
}
