//! `cargo xtask dist`: what a user needs who does not clone this repository, in one
//! folder.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::iter;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::build::{self, COMPONENTS, EXPORTER, GUARD, Program};
use crate::command;
use crate::install::InstallOptions;
use crate::process::{self, Interrupted};
use crate::sbom;
use crate::steps::Steps;
use crate::toolchain::{self, WasmToolchain};

/// The file of the service component.
pub(crate) const SERVICE: &str = "functional_scaffold.wasm";
/// The file of the middleware.
const MIDDLEWARE: &str = "functional_scaffold_middleware.wasm";

const CHECKSUMS: &str = "SHA256SUMS";

const PROGRAMS: [Program; 2] = [EXPORTER, GUARD];

/// Linux machines for which the exporter is linked statically: it runs in any
/// distribution, and in an empty image.
const STATIC_TARGETS: [&str; 2] = ["x86_64-unknown-linux-musl", "aarch64-unknown-linux-musl"];
/// The subcommand of cargo that builds for another machine, with zig as compiler of C and
/// linker. Of the exporter, ring has C.
const CROSS_BUILD: &str = "zigbuild";

/// The packages of the SDK for Rust. A project compiles the guard, too: its source runs
/// on every machine.
const RUST_SDK: [&str; 3] = [
    "functional-scaffold-algorithm",
    "functional-scaffold-algorithm-macros",
    "functional-scaffold-guard",
];
/// Folders of a package that another project does not build, and its own files about
/// this repository: its commit, and what cargo rewrote.
const NOT_PACKAGED: [&str; 4] = [
    "tests",
    "examples",
    ".cargo_vcs_info.json",
    "Cargo.toml.orig",
];
/// Tables of a package's manifest for these. The lock file of another project would name
/// all of wasmtime, which tests the guard.
const NOT_DECLARED: [&str; 3] = ["[dev-dependencies.", "[[test]]", "[[example]]"];

/// Files of this repository, and their names in the output.
const DOCUMENTS: [(&str, &str); 3] = [
    ("docs/release.md", "README.md"),
    ("LICENSE-APACHE", "LICENSE-APACHE"),
    ("LICENSE-MIT", "LICENSE-MIT"),
];

/// The folders in `sdk/`, which have the names of templates.
const OTHER_LANGUAGES: [&str; 2] = ["javascript", "python"];

/// Folders that tools leave beside sources.
const LEFTOVERS: [&str; 2] = ["__pycache__", "node_modules"];

const TIMEOUT: Duration = Duration::from_secs(60);

/// Lay out what a user needs without this repository: the service component, the
/// middleware, the exporter, the guard, the SDKs, templates for `spin new` and `spin add`, the Helm
/// chart, software bills of materials, and a README.md that says how to use them.
#[derive(Args)]
pub(crate) struct Dist {
    /// The folder, which is replaced.
    #[arg(long, value_name = "FOLDER", default_value = "dist")]
    output: PathBuf,

    /// Take what the last `cargo xtask build` has built, and the static exporters of the
    /// last `cargo xtask dist`.
    #[arg(long)]
    no_build: bool,

    #[command(flatten)]
    install: InstallOptions,
}

impl Dist {
    pub(crate) fn run(self) -> Result<()> {
        let mut steps = Steps::default();
        let host = match self.no_build {
            true => None,
            false => Some(self.build(&mut steps)?),
        };
        let headline = format!("lay out {}", self.output.display());
        steps.run(&headline, || {
            lay_out(&self.output, host.as_deref(), self.install)
        })
    }

    /// Builds the components, the programs and the static exporters. Returns the target
    /// of the programs, which is this machine's: without a named one, their messages
    /// would contain the path of the crates' sources.
    fn build(&self, steps: &mut Steps) -> Result<String> {
        let toolchain = WasmToolchain::find(self.install)?;
        build::build_components(steps, &toolchain, &[])?;
        let host = toolchain::host()?;
        build::build_programs_for(steps, &host, &PROGRAMS, "build")?;
        for target in STATIC_TARGETS {
            self.build_static_exporter(steps, target)?;
        }
        Ok(host)
    }

    /// Builds the exporter for another machine. Where the tools for that are missing,
    /// it says which and removes what an older run has built.
    fn build_static_exporter(&self, steps: &mut Steps, target: &str) -> Result<()> {
        let tools = which::which(format!("cargo-{CROSS_BUILD}"))
            .context("no cargo-zigbuild on PATH (pip install cargo-zigbuild ziglang)")
            .and_then(|_| toolchain::add_target(target, self.install));
        match tools {
            Ok(()) => build::build_programs_for(steps, target, &[EXPORTER], CROSS_BUILD),
            Err(error) if error.is::<Interrupted>() => Err(error),
            Err(error) => {
                eprintln!("\ncannot build the exporter for {target}: {error:#}");
                match fs::remove_file(command::built_for(Some(target), EXPORTER.file)) {
                    Err(error) if error.kind() != ErrorKind::NotFound => {
                        Err(error).context("cannot remove the last build")
                    }
                    _ => Ok(()),
                }
            }
        }
    }
}

/// Fills the folder with what users need. The programs are those that were built for
/// `target`.
fn lay_out(output: &Path, target: Option<&str>, install: InstallOptions) -> Result<()> {
    // Some tools write into the workspace.
    let lock = Path::new(command::TARGET_DIR).join("dist.lock");
    let lock = File::create(&lock).with_context(|| format!("cannot open {}", lock.display()))?;
    lock.lock().context("cannot lock target/")?;
    remove(output)?;
    let service = Path::new(COMPONENTS).join(SERVICE);
    copy(&service, &output.join(SERVICE))?;
    let middleware = Path::new(COMPONENTS).join(MIDDLEWARE);
    copy(&middleware, &output.join(MIDDLEWARE))?;
    for program in PROGRAMS {
        let built = command::built_for(target, program.file);
        copy(&built, &output.join(program.file))?;
    }
    for target in STATIC_TARGETS {
        let exporter = command::built_for(Some(target), EXPORTER.file);
        let name = format!("{}-{target}", EXPORTER.file);
        match exporter.is_file() {
            true => copy(&exporter, &output.join(name))?,
            false => eprintln!("LEFT OUT: {name}, which is not built"),
        }
    }
    for (document, name) in DOCUMENTS {
        copy(Path::new(document), &output.join(name))?;
    }
    copy_folder(Path::new("deployment/chart"), &output.join("chart"), &copy)?;
    let sdk = output.join("sdk");
    package_rust_sdk(&sdk.join("rust"))?;
    for language in OTHER_LANGUAGES {
        copy_folder(&Path::new("sdk").join(language), &sdk.join(language), &copy)?;
    }
    let templates = Path::new("templates");
    for language in iter::once("rust").chain(OTHER_LANGUAGES) {
        let template = output.join("templates").join(language);
        copy_folder(&templates.join("common"), &template, &copy)?;
        copy_folder(&templates.join(language), &template, &copy)?;
        let content = template.join("content");
        copy(&service, &content.join(SERVICE))?;
        // Python imports packages of the folder in which it runs.
        let place = if language == "python" { "" } else { "sdk" };
        copy_folder(&sdk.join(language), &content.join(place), &copy_raw)?;
    }
    let meter = output.join("templates/meter");
    copy_folder(&templates.join("meter"), &meter, &copy)?;
    copy(&middleware, &meter.join("content").join(MIDDLEWARE))?;
    sbom::write(output, install)?;
    write_checksums(output)
}

/// Removes the last output, but no other folder.
fn remove(output: &Path) -> Result<()> {
    if !output.exists() {
        return Ok(());
    }
    let place = output.display();
    let is_ours = output.join(CHECKSUMS).is_file();
    ensure!(
        is_ours,
        "{place} exists, and has no {CHECKSUMS}: nothing is deleted"
    );
    fs::remove_dir_all(output).with_context(|| format!("cannot remove {place}"))
}

/// The packages as `cargo publish` would upload them, each in a folder of its name.
fn package_rust_sdk(parent: &Path) -> Result<()> {
    let mut cargo = command::cargo("package");
    cargo.args([
        "--quiet",
        "--no-verify",
        "--allow-dirty",
        "--exclude-lockfile",
    ]);
    for package in RUST_SDK {
        cargo.args(["--package", package]);
    }
    process::run("cargo package", &mut cargo, Some(TIMEOUT))?;
    for package in RUST_SDK {
        let file = format!("package/{package}-{}.crate", env!("CARGO_PKG_VERSION"));
        let folder = parent.join(package);
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        let mut tar = command::program("tar");
        tar.args(["--extract", "--gzip", "--strip-components=1", "--file"])
            .arg(Path::new(command::TARGET_DIR).join(file))
            .arg("--directory")
            .arg(&folder)
            .args(NOT_PACKAGED.map(|name| format!("--exclude={name}")));
        process::run("tar", &mut tar, Some(TIMEOUT))?;
        let manifest = folder.join("Cargo.toml");
        let declared = fs::read_to_string(&manifest)
            .with_context(|| format!("cannot read {}", manifest.display()))?;
        fs::write(&manifest, without_tests(&declared))
            .with_context(|| format!("cannot write {}", manifest.display()))?;
    }
    Ok(())
}

/// A manifest that cargo has normalised, in which each table is a paragraph, without
/// those that are [`NOT_DECLARED`].
fn without_tests(manifest: &str) -> String {
    let tables = manifest.split("\n\n");
    let kept = tables.filter(|table| NOT_DECLARED.iter().all(|name| !table.starts_with(name)));
    kept.collect::<Vec<_>>().join("\n\n")
}

type Copy = dyn Fn(&Path, &Path) -> Result<()>;

/// Copies the files below a folder, apart from what tools leave there.
fn copy_folder(from: &Path, to: &Path, copy: &Copy) -> Result<()> {
    for path in files(from)? {
        copy(&from.join(&path), &to.join(path))?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let copied = fs::create_dir_all(to.with_file_name("")).and_then(|()| fs::copy(from, to));
    copied.with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    Ok(())
}

/// Copies a file so that Spin, which renders every text of a template, writes it as
/// it is.
fn copy_raw(from: &Path, to: &Path) -> Result<()> {
    copy(from, to)?;
    match fs::read_to_string(from) {
        Ok(text) if text.contains("{{") || text.contains("{%") => {
            fs::write(to, format!("{{% raw %}}{text}{{% endraw %}}"))
                .with_context(|| format!("cannot write {}", to.display()))
        }
        _ => Ok(()),
    }
}

/// The paths of the files below a folder, in order, apart from what tools leave
/// there.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(below) = folders.pop() {
        let place = folder.join(&below);
        let entries =
            fs::read_dir(&place).with_context(|| format!("cannot read {}", place.display()))?;
        for entry in entries {
            let entry = entry?;
            let path = below.join(entry.file_name());
            match entry.file_type()?.is_dir() {
                true if LEFTOVERS.iter().any(|name| entry.file_name() == *name) => {}
                true => folders.push(path),
                false => files.push(path),
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Writes what `sha256sum --check` reads.
fn write_checksums(output: &Path) -> Result<()> {
    let mut sha256sum = command::program("sha256sum");
    sha256sum.args(files(output)?).current_dir(output);
    let sums = process::capture("sha256sum", &mut sha256sum, TIMEOUT)?;
    let path = output.join(CHECKSUMS);
    fs::write(&path, sums + "\n").with_context(|| format!("cannot write {}", path.display()))
}
