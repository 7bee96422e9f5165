//! Software bills of materials in [CycloneDX](https://cyclonedx.org/), one for each
//! program and component: the crates in it, with versions, licences and digests.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::cargo_tool::CargoTool;
use crate::command;
use crate::install::InstallOptions;
use crate::process;

const CARGO_CYCLONEDX: CargoTool = CargoTool {
    name: "cargo-cyclonedx",
    version: "0.5.9",
    // It runs for seconds, so its build matters more than its speed.
    options: &["--debug"],
};

/// By target: folders of packages, and the files that describe what is built from them.
const BILLS: [(&str, &[(&str, &str)]); 2] = [
    (
        "wasm32-wasip2",
        &[
            (".", "functional_scaffold.cdx.json"),
            (
                "crates/middleware",
                "functional_scaffold_middleware.cdx.json",
            ),
        ],
    ),
    (
        "x86_64-unknown-linux-gnu",
        &[
            ("crates/exporter", "functional-scaffold-exporter.cdx.json"),
            ("crates/guard", "functional-scaffold-guard.cdx.json"),
        ],
    ),
];

/// The name that cargo-cyclonedx makes of `--override-filename sbom.cdx`.
const WRITTEN: &str = "sbom.cdx.json";

const TIMEOUT: Duration = Duration::from_secs(60);

/// Writes all bills into a folder. The same lock file gives the same bytes.
///
/// cargo-cyclonedx writes a file beside every manifest of the workspace, which are
/// removed; so only one process may do this at a time.
pub(crate) fn write(folder: &Path, options: InstallOptions) -> Result<()> {
    let program = CARGO_CYCLONEDX.install(options)?;
    let workspace = env::current_dir()?;
    for (target, packages) in BILLS {
        let mut cyclonedx = command::program(&program);
        cyclonedx
            .args(["cyclonedx", "--quiet", "--format", "json"])
            .args(["--spec-version", "1.5", "--no-build-deps"])
            .args(["--target", target, "--override-filename", "sbom.cdx"])
            // Neither the time nor a random serial number.
            .env("SOURCE_DATE_EPOCH", "0");
        let outcome = process::capture("cargo cyclonedx", &mut cyclonedx, TIMEOUT);
        let written = packages.iter().try_for_each(|(package, file)| {
            let path = Path::new(package).join(WRITTEN);
            let bill = fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            let path = folder.join(file);
            fs::write(&path, without_place(&bill, &workspace))
                .with_context(|| format!("cannot write {}", path.display()))
        });
        for folder in member_folders()? {
            let _not_there = fs::remove_file(folder.join(WRITTEN));
        }
        outcome?;
        written?;
    }
    Ok(())
}

/// Without the folder of this clone, which names our own packages.
fn without_place(bill: &str, workspace: &Path) -> String {
    bill.replace(
        &format!("path+file://{}", workspace.display()),
        "path+file://",
    )
}

/// The folders of the workspace's packages.
fn member_folders() -> Result<Vec<PathBuf>> {
    let mut cargo = command::cargo("tree");
    // Lines such as `xtask v0.1.0 (/path)`.
    cargo.args([
        "--workspace",
        "--depth",
        "0",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ]);
    let packages = process::capture("cargo tree", &mut cargo, TIMEOUT)?;
    let folders = packages.lines().filter_map(|line| {
        let (_, folder) = line.rsplit_once(" (")?;
        Some(PathBuf::from(folder.strip_suffix(')')?))
    });
    Ok(folders.collect())
}
