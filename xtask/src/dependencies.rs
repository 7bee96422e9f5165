//! Checks dependencies against `deny.toml` (licences, sources, duplicates, advisories),
//! and vendored files against their digests.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::cargo_tool::CargoTool;
use crate::command;
use crate::install::InstallOptions;
use crate::process;

const CARGO_DENY: CargoTool = CargoTool {
    name: "cargo-deny",
    version: "0.20.2",
    // It runs for seconds, so its build matters more than its speed.
    options: &["--debug"],
};

/// Folders of files that others wrote, with `SHA256SUMS`.
const VENDORED: [&str; 2] = ["crates/exporter/assets/vendor/uplot", "examples/http-rust"];

const FETCH_TIMEOUT: Duration = Duration::from_secs(60);

pub(crate) fn check(options: InstallOptions) -> Result<()> {
    for folder in VENDORED {
        let mut sha256sum = command::program("sha256sum");
        sha256sum.args(["--check", "--quiet", "--strict", "SHA256SUMS"]);
        process::run("sha256sum", sha256sum.current_dir(folder), None)?;
    }
    let path = CARGO_DENY.install(options)?;
    let deny = |arguments: &[&str]| -> Command {
        let mut deny = command::program(&path);
        deny.args(["--locked", "--workspace", "--log-level", "error"])
            .args(arguments);
        deny
    };
    process::run(
        "cargo deny",
        &mut deny(&["check", "licenses", "bans", "sources"]),
        None,
    )?;
    // A machine behind a firewall still runs all other checks.
    match process::capture("cargo deny", &mut deny(&["fetch", "db"]), FETCH_TIMEOUT) {
        Ok(_) => process::run("cargo deny", &mut deny(&["check", "advisories"]), None),
        Err(error) => {
            eprintln!("advisories NOT CHECKED, their database cannot be fetched: {error:#}");
            Ok(())
        }
    }
}
