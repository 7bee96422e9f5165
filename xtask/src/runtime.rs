//! Chooses the runtime of the app: the dev host, or the Spin CLI.

use std::env;

use anyhow::Result;
use clap::ValueEnum;
use functional_scaffold_testkit::runtime::Runtime;

use crate::build::DEV_HOST;
use crate::command;

/// The value of `--runtime`.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub(crate) enum RuntimeName {
    /// The Spin CLI where it is 4.1.0 or newer, else the dev host.
    Auto,
    /// This repository's own host.
    Devhost,
    /// The Spin CLI: SPIN_BIN, else spin on PATH.
    Spin,
}

impl RuntimeName {
    /// Finds the runtime. The dev host may have to be built.
    pub(crate) fn find(self) -> Result<Runtime> {
        let dev_host = Runtime::Devhost(command::built(DEV_HOST.file));
        let is_named = env::var_os("SPIN_BIN").is_some_and(|name| !name.is_empty());
        match self {
            Self::Devhost => Ok(dev_host),
            Self::Spin => Runtime::spin(),
            Self::Auto => choose(Runtime::spin(), is_named, dev_host),
        }
    }
}

/// Chooses Spin where it can be used; else the dev host, unless the user named a
/// Spin.
fn choose(spin: Result<Runtime>, is_named: bool, dev_host: Runtime) -> Result<Runtime> {
    match spin {
        Ok(spin) => {
            eprintln!("the app runs on Spin ({})", spin.program().display());
            Ok(spin)
        }
        Err(error) if is_named => Err(error),
        Err(error) => {
            eprintln!("{error:#}.\nThe app runs on the dev host instead.");
            Ok(dev_host)
        }
    }
}

/// The value of `SCAFFOLD_RUNTIME` that chooses this runtime in the tests.
pub(crate) fn name(runtime: &Runtime) -> &'static str {
    match runtime {
        Runtime::Devhost(_) => "devhost",
        Runtime::Spin(_) => "spin",
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use anyhow::anyhow;

    use super::*;

    #[test]
    fn spin_is_chosen_where_it_can_be_used_and_the_dev_host_elsewhere() {
        let spin = || Runtime::Spin(PathBuf::from("/bin/spin"));
        let dev_host = || Runtime::Devhost(PathBuf::from("devhost"));
        let too_old = || Err(anyhow!("/bin/spin is Spin 3.6.3"));
        for is_named in [true, false] {
            let chosen = choose(Ok(spin()), is_named, dev_host());
            assert_eq!(chosen.expect("Spin"), spin());
        }
        let chosen = choose(too_old(), false, dev_host());
        assert_eq!(chosen.expect("the dev host"), dev_host());
        let error = choose(too_old(), true, dev_host()).expect_err("Spin was named");
        assert!(error.to_string().contains("is Spin 3.6.3"), "{error}");
    }
}
