//! `cargo xtask build`: the wasm components and the native programs, in the
//! release profile, which users, tests and benchmarks share.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::command;
use crate::install::InstallOptions;
use crate::languages;
use crate::names;
use crate::process;
use crate::steps::Steps;
use crate::toolchain::{self, WasmToolchain};

/// The components that every user gets.
const PRODUCTS: [&str; 2] = ["functional-scaffold", "functional-scaffold-middleware"];
/// Components in folders of algorithms that are apps or middleware, and not guarded.
const UNGUARDED: [&str; 10] = [
    "counting",
    "echo",
    "hello",
    "http-rust",
    "metered",
    "metered-app",
    "naive",
    "pass-through",
    "plain",
    "tracer",
];

/// Folders of algorithms: each folder in them with a Cargo.toml, a pyproject.toml or
/// a package.json is one.
pub(crate) const ALGORITHMS: [&str; 1] = ["algorithms"];
pub(crate) const ALGORITHMS_OF_CHAOS: [&str; 2] = ["algorithms", "tests"];
pub(crate) const ALGORITHMS_OF_BENCHES: [&str; 2] = ["algorithms", "benches/components"];
pub(crate) const ALL_ALGORITHMS: [&str; 4] =
    ["algorithms", "benches/components", "examples", "tests"];
const ALGORITHMS_AND_EXAMPLES: [&str; 2] = ["algorithms", "examples"];

/// The folder into which cargo writes components.
pub(crate) const COMPONENTS: &str = "target/wasm32-wasip2/release";

const PKGID_TIMEOUT: Duration = Duration::from_secs(60);
const GUARD_TIMEOUT: Duration = Duration::from_secs(60);

/// A native program.
pub(crate) struct Program {
    /// The name in messages.
    name: &'static str,
    package: &'static str,
    /// Its file in the build directory.
    pub(crate) file: &'static str,
    /// Processor time of its first build with all dependencies.
    core_seconds: u64,
}

pub(crate) const DEV_HOST: Program = Program {
    name: "the dev host",
    package: "functional-scaffold-devhost",
    file: "devhost",
    core_seconds: 780,
};

pub(crate) const EXPORTER: Program = Program {
    name: "the exporter",
    package: "functional-scaffold-exporter",
    file: "functional-scaffold-exporter",
    core_seconds: 150,
};

/// Makes crashes and endless loops of an algorithm errors of one call.
pub(crate) const GUARD: Program = Program {
    name: "the guard",
    package: "functional-scaffold-guard",
    file: "functional-scaffold-guard",
    core_seconds: 30,
};

/// Build the wasm components and the native programs, into target/.
#[derive(Args)]
pub(crate) struct Build {
    #[command(flatten)]
    install: InstallOptions,
}

impl Build {
    pub(crate) fn run(self) -> Result<()> {
        let mut steps = Steps::default();
        let toolchain = WasmToolchain::find(self.install)?;
        build_programs(&mut steps, &[DEV_HOST, EXPORTER, GUARD])?;
        build_components(&mut steps, &toolchain, &ALGORITHMS_AND_EXAMPLES)
    }
}

/// Builds the [`PRODUCTS`] and the components in the given folders, and guards the
/// algorithms in Rust: [`GUARD`] must be built. Algorithms whose language is not installed are left
/// out.
pub(crate) fn build_components(
    steps: &mut Steps,
    toolchain: &WasmToolchain,
    algorithms: &[&str],
) -> Result<()> {
    let headline = format!("build the wasm components ({})", toolchain.name());
    steps.run(&headline, || {
        // One at a time: built together, each would get the features that
        // another one needs of a dependency.
        for package in component_packages(algorithms)? {
            let mut build = toolchain.cargo("rustc");
            if PRODUCTS.contains(&&*package) {
                // As fast as for speed, since the host's work on a request
                // outweighs the component's by far, and a third smaller. Set for
                // its dependencies, too, which native programs need for speed.
                build.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "s");
            }
            // Else the linker pads each index and address to five bytes: 7 % of the
            // service.
            let linker = ["--", "-C", "link-arg=--compress-relocations"];
            build.args(["--package", &package]).args(linker);
            process::run("cargo rustc", &mut build, None)?;
            let name = package_name(&package);
            if PRODUCTS.contains(&name) {
                names::remove(&component(name))?;
            }
            if !PRODUCTS.contains(&name) && !UNGUARDED.contains(&name) {
                guard(name)?;
            }
        }
        Ok(())
    })?;
    languages::build(steps, algorithms)
}

/// The component of a package.
fn component(package: &str) -> PathBuf {
    Path::new(COMPONENTS).join(package.replace('-', "_") + ".wasm")
}

/// Writes the guarded component of an algorithm beside the one that cargo built,
/// unless it is up to date.
fn guard(algorithm: &str) -> Result<()> {
    let component = component(algorithm);
    let guarded = component.with_extension("guarded.wasm");
    let program = command::built(GUARD.file);
    let modified = |path: &Path| {
        let modified = fs::metadata(path).and_then(|metadata| metadata.modified());
        modified.with_context(|| format!("cannot read {}", path.display()))
    };
    let newest = modified(&component)?.max(modified(&program)?);
    if modified(&guarded).is_ok_and(|guarded| guarded > newest) {
        return Ok(());
    }
    let mut guard = command::program(program);
    guard.arg(component).arg("-o").arg(guarded);
    process::run("the guard", &mut guard, Some(GUARD_TIMEOUT))
}

/// Builds native programs as users have them.
pub(crate) fn build_programs(steps: &mut Steps, programs: &[Program]) -> Result<()> {
    if programs.is_empty() {
        return Ok(());
    }
    steps.run(&headline(programs, None), || {
        let mut build = command::cargo("build");
        build.arg("--release").args(package_arguments(programs));
        process::run("cargo build", &mut build, None)
    })
}

/// Builds native programs for a named target, with `cargo <subcommand>`. They have the
/// same bytes in every folder and for every user.
pub(crate) fn build_programs_for(
    steps: &mut Steps,
    target: &str,
    programs: &[Program],
    subcommand: &str,
) -> Result<()> {
    steps.run(&headline(programs, Some(target)), || {
        let mut build = command::cargo(subcommand);
        build.args(["--release", "--locked", "--target", target]);
        build.args(package_arguments(programs));
        toolchain::set_flags(&mut build, target, Vec::new());
        process::run(&format!("cargo {subcommand}"), &mut build, None)
    })
}

/// The headline of a build. Says how long the first build of a program takes.
fn headline(programs: &[Program], target: Option<&str>) -> String {
    let names: Vec<_> = programs.iter().map(|program| program.name).collect();
    let mut headline = format!("build {}", names.join(" and "));
    if let Some(target) = target {
        headline.push_str(&format!(" for {target}"));
    }
    let missing = programs.iter().filter(|program| !program.is_built(target));
    let core_seconds: u64 = missing.map(|program| program.core_seconds).sum();
    if core_seconds > 0 {
        let cores = available_parallelism().map_or(1, usize::from);
        headline.push_str(&format!(" ({}, once)", estimate(core_seconds, cores)));
    }
    headline
}

impl Program {
    /// Returns true if it is built: for this target, or without a named one.
    fn is_built(&self, target: Option<&str>) -> bool {
        command::built_for(target, self.file).is_file()
    }

    pub(crate) fn check_built(&self) -> Result<()> {
        ensure!(
            self.is_built(None),
            "{} is not built yet; omit --no-build, or run `cargo xtask build` first",
            self.name
        );
        Ok(())
    }
}

/// `--package` for each of the programs.
pub(crate) fn package_arguments(programs: &[Program]) -> impl Iterator<Item = &'static str> {
    let packages = programs.iter().map(|program| program.package);
    packages.flat_map(|package| ["--package", package])
}

fn estimate(core_seconds: u64, cores: usize) -> String {
    let cores = u64::try_from(cores).unwrap_or(u64::MAX).min(16);
    let time = match core_seconds / cores {
        seconds @ ..90 => format!("{} seconds", seconds.div_ceil(10) * 10),
        seconds => format!("{} minutes", (seconds + 30) / 60),
    };
    match cores {
        1 => format!("about {time} on one core"),
        _ => format!("about {time} on {cores} cores"),
    }
}

/// The packages of the [`PRODUCTS`] and of the components in the given folders.
pub(crate) fn component_packages(algorithms: &[&str]) -> Result<Vec<String>> {
    let mut manifests = Vec::new();
    for parent in algorithms {
        let folders = fs::read_dir(parent).with_context(|| format!("cannot read {parent}/"))?;
        for folder in folders {
            manifests.push(folder?.path().join("Cargo.toml"));
        }
    }
    manifests.retain(|manifest| manifest.exists());
    manifests.sort();
    let mut packages = PRODUCTS.map(str::to_owned).to_vec();
    for manifest in manifests {
        packages.push(package_id(&manifest)?);
    }
    Ok(packages)
}

fn package_id(manifest: &Path) -> Result<String> {
    let mut pkgid = command::cargo("pkgid");
    pkgid.arg("--manifest-path").arg(manifest);
    process::capture("cargo pkgid", &mut pkgid, PKGID_TIMEOUT).with_context(|| {
        let manifest = manifest.display();
        format!("{manifest} is not a member of the workspace; see `members` in Cargo.toml")
    })
}

/// The name in what `cargo pkgid` prints: `path+file:///algorithms/prime-check#0.1.0`, or
/// `path+file:///a#prime-check@0.1.0` if the folder has another name.
fn package_name(id: &str) -> &str {
    let (folder, version) = id.rsplit_once('#').unwrap_or((id, ""));
    match version.split_once('@') {
        Some((name, _)) => name,
        None => folder.rsplit('/').next().unwrap_or(folder),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_package_is_in_its_id() {
        assert_eq!(
            package_name("path+file:///a/prime-check#0.1.0"),
            "prime-check"
        );
        assert_eq!(
            package_name("path+file:///a/primes#prime-check@0.1.0"),
            "prime-check"
        );
        assert_eq!(package_name(PRODUCTS[0]), PRODUCTS[0]);
    }

    #[test]
    fn an_estimate_is_in_seconds_or_minutes() {
        assert_eq!(estimate(150, 2), "about 80 seconds on 2 cores");
        assert_eq!(estimate(930, 2), "about 8 minutes on 2 cores");
        assert_eq!(estimate(930, 1), "about 16 minutes on one core");
    }
}
