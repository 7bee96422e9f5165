//! What the benchmarks need beyond what is built here: a load generator, and
//! Python with the packages of the services that are compared. Both go to
//! target/tools/.

use std::env;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

use crate::InstallOptions;
use crate::child;
use crate::tools;

const FOLDER: &str = "target/tools";

const REQUIREMENTS: &str = "benches/peers/fastapi/requirements.txt";
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
    let mut arguments = vec!["--oha".to_owned(), oha];
    // What compares with Python is left out where there is none, aloud.
    match install_python_packages(options) {
        Ok(python) => arguments.extend(["--python".to_owned(), python]),
        Err(error) => eprintln!("there will be no comparison with Python: {error:#}"),
    }
    Ok(arguments)
}

/// Gives the Python that has them, by an absolute path.
fn install_python_packages(options: InstallOptions) -> Result<String> {
    let folder = env::current_dir()?.join(FOLDER).join("python");
    let python = folder.join("bin/python");
    // What is installed is noted there, so that nobody is asked without need.
    let (installed, wanted) = (folder.join("requirements.txt"), Path::new(REQUIREMENTS));
    let wanted_text = fs::read(wanted).with_context(|| format!("cannot read {REQUIREMENTS}"))?;
    if fs::read(&installed).ok().as_ref() != Some(&wanted_text) {
        ensure!(
            !options.no_install,
            "{REQUIREMENTS} is not installed in {FOLDER}, and --no-install forbids it"
        );
        let mut make = tools::command("python3");
        make.args(["-m", "venv", "--clear"]).arg(&folder);
        child::run("python3 -m venv", &mut make, Some(INSTALL_TIMEOUT))?;
        let mut install = tools::command(&python);
        install
            .args([
                "-m",
                "pip",
                "install",
                "--disable-pip-version-check",
                "--quiet",
            ])
            .args(["--requirement", REQUIREMENTS]);
        child::run("pip install", &mut install, Some(INSTALL_TIMEOUT))?;
        fs::write(&installed, wanted_text)?;
    }
    let python = python.into_os_string().into_string();
    python.map_err(|path| anyhow!("{} is not UTF-8", path.display()))
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
        .args(["--root", FOLDER])
        // Its own profile takes twice as long to build, and saves some 4 % a request.
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
    child::run("cargo install", &mut install, Some(INSTALL_TIMEOUT))
}
