//! What the benchmarks need beyond what is built here: a load generator, and
//! Python with the packages of the services that are compared. Both go to
//! target/tools/.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::InstallOptions;
use crate::child;
use crate::tools;

const FOLDER: &str = "target/tools";

const OHA_VERSION: &str = "1.16.0";
const INSTALL_TIMEOUT: Duration = Duration::from_secs(1800);
const QUESTION_TIMEOUT: Duration = Duration::from_secs(30);

/// Installs what is missing; gives the arguments that name it.
///
/// # Errors
///
/// It may not, or cannot, be installed.
pub(crate) fn install(options: InstallOptions) -> Result<Vec<String>> {
    let oha = format!("{FOLDER}/bin/oha");
    install_oha(&oha, options)?;
    Ok(vec!["--oha".to_owned(), oha])
}

fn install_oha(program: &str, options: InstallOptions) -> Result<()> {
    let wanted = format!("oha {OHA_VERSION}");
    let asked = Path::new(program).exists().then(|| {
        let mut oha = tools::command(program);
        child::capture("oha", oha.arg("--version"), QUESTION_TIMEOUT)
    });
    if asked.transpose()?.is_some_and(|version| version == wanted) {
        return Ok(());
    }
    ensure!(
        !options.no_install,
        "{wanted} is not in {program}, and --no-install forbids `cargo install`"
    );
    eprintln!("installing {wanted}, which takes some minutes the first time");
    let mut install = tools::cargo("install");
    install
        .args(["oha", "--version", OHA_VERSION, "--locked", "--quiet"])
        .args(["--root", FOLDER]);
    child::run("cargo install", &mut install, Some(INSTALL_TIMEOUT))
}
