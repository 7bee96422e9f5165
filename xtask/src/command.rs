//! Commands with the environment of the user's shell, and the folders of builds
//! and data. `cargo run` passes its own variables on to xtask; passed on further,
//! they cause rebuilds and load the wrong libraries.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// The build directory, whatever CARGO_TARGET_DIR says: spin.toml names paths
/// below it, and the tests start programs from it.
pub(crate) const TARGET_DIR: &str = "target";

/// The data of the servers that `up` starts, ignored by git.
const DATA_DIR: &str = ".functional-scaffold";

/// Variables that `cargo run` sets for its program, apart from `CARGO_PKG_*`.
const SET_BY_CARGO_RUN: [&str; 3] = ["CARGO", "CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH"];

/// Variables that redirect a build's output or change its target.
const REDIRECTIONS: [&str; 2] = ["CARGO_BUILD_TARGET", "CARGO_BUILD_TARGET_DIR"];

/// Makes the workspace's root the working directory.
pub(crate) fn enter_workspace() -> Result<()> {
    // The variable belongs to this run; the path compiled in may have moved.
    let manifest_dir = env::var_os("CARGO_MANIFEST_DIR")
        .unwrap_or_else(|| OsString::from(env!("CARGO_MANIFEST_DIR")));
    let root = Path::new(&manifest_dir).join("..").canonicalize();
    root.and_then(env::set_current_dir)
        .with_context(|| format!("cannot enter the folder above {}", manifest_dir.display()))
}

/// A command without what `cargo run` added to the environment.
pub(crate) fn program(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in env::vars_os() {
        let is_package = name.as_encoded_bytes().starts_with(b"CARGO_PKG_");
        if is_package || SET_BY_CARGO_RUN.iter().any(|set| name == *set) {
            command.env_remove(name);
        }
    }
    match env::var_os("LD_LIBRARY_PATH").and_then(|path| library_path(&path)) {
        Some(path) => command.env("LD_LIBRARY_PATH", path),
        None => command.env_remove("LD_LIBRARY_PATH"),
    };
    command
}

/// The cargo that runs xtask, building for this machine into [`TARGET_DIR`].
pub(crate) fn cargo(subcommand: &str) -> Command {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    cargo_at(cargo.as_ref(), subcommand)
}

/// The cargo at `path`, building into [`TARGET_DIR`].
pub(crate) fn cargo_at(path: &Path, subcommand: &str) -> Command {
    let mut cargo = program(path);
    for name in REDIRECTIONS {
        cargo.env_remove(name);
    }
    // A variable, because not every subcommand has --target-dir. An absolute
    // path, because tests run in their package's folder.
    let target_dir = env::current_dir().unwrap_or_default().join(TARGET_DIR);
    cargo.arg(subcommand).env("CARGO_TARGET_DIR", target_dir);
    cargo
}

/// The path of a program of the release build.
pub(crate) fn built(program: &str) -> PathBuf {
    built_for(None, program)
}

/// The path of a program of the release build, for a named target or without one.
pub(crate) fn built_for(target: Option<&str>, program: &str) -> PathBuf {
    let mut path = PathBuf::from(TARGET_DIR);
    path.extend(target);
    path.extend(["release", program]);
    path
}

/// Creates the folder in which a server of `up` keeps its data. One for each port:
/// two servers must not write the same files.
pub(crate) fn data_folder(server: &str, port: u16) -> Result<PathBuf> {
    let folder = env::current_dir()?.join(DATA_DIR).join(server);
    let folder = folder.join(port.to_string());
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(folder)
}

/// The key with which the app signs batches in its log, made when it is first needed.
/// Later runs use it too, because their logs may still have to be replayed.
pub(crate) fn replay_key() -> Result<String> {
    let path = Path::new(DATA_DIR).join("replay_key");
    let make = || -> std::io::Result<String> {
        if path.exists() {
            return Ok(fs::read_to_string(&path)?.trim_end().to_owned());
        }
        let mut bytes = [0; 32];
        File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        let key: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        fs::create_dir_all(DATA_DIR)?;
        let mut file = File::options();
        let mut file = file.write(true).create_new(true).mode(0o600).open(&path)?;
        writeln!(file, "{key}")?;
        Ok(key)
    };
    make().with_context(|| format!("cannot read or make {}", path.display()))
}

/// The library path without cargo's additions: the folders of xtask's own build
/// and of the Rust toolchain.
fn library_path(path: &OsStr) -> Option<OsString> {
    let own = env::current_exe().ok();
    let own = own.as_deref().and_then(Path::parent);
    let kept: Vec<_> = env::split_paths(path)
        .filter(|folder| !own.is_some_and(|own| folder.starts_with(own)))
        .filter(|folder| !is_in_toolchain(folder))
        .collect();
    let path = (!kept.is_empty()).then(|| env::join_paths(kept).ok());
    path.flatten()
}

fn is_in_toolchain(folder: &Path) -> bool {
    let mut parts = folder.components();
    parts.any(|part| part.as_os_str() == "rustlib") || folder.join("rustlib").is_dir()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_users_library_path() {
        let path = OsStr::new("/a/lib/rustlib/x86_64-unknown-linux-gnu/lib:/opt/oracle/lib");
        assert_eq!(library_path(path), Some("/opt/oracle/lib".into()));
    }

    #[test]
    fn a_library_path_of_cargo_alone_is_none() {
        assert_eq!(library_path(OsStr::new("/a/lib/rustlib/lib")), None);
    }
}
