//! `cargo xtask new`: runs `xtask-new`, which takes a minute to compile.

use std::ffi::OsString;

use anyhow::Result;
use clap::Args;

use crate::command;
use crate::process;

/// Make an algorithm that builds, has a test, and is served at /invoke/NAME.
#[derive(Args)]
#[command(disable_help_flag = true)]
pub(crate) struct New {
    /// A name and options; --help lists them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

impl New {
    pub(crate) fn run(self) -> Result<()> {
        let mut new = command::cargo("run");
        new.args(["--quiet", "--release", "--package", "xtask-new", "--"]);
        process::run("cargo xtask new", new.args(self.arguments), None)
    }
}
