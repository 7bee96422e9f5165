//! Commands with the environment that the user's shell had. `cargo run` leaves
//! its own variables to xtask, and rebuilds or wrong libraries would follow if
//! they went on to what xtask starts.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// Where every build goes, whatever CARGO_TARGET_DIR says: spin.toml names
/// paths below it, and the tests start programs from it.
pub(crate) const TARGET_DIR: &str = "target";

/// Variables that `cargo run` sets for its program, apart from `CARGO_PKG_*`.
const OF_CARGO_RUN: [&str; 3] = ["CARGO", "CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH"];

/// Variables that would send a build's output, or its compiler, elsewhere.
const REDIRECTIONS: [&str; 2] = ["CARGO_BUILD_TARGET", "CARGO_BUILD_TARGET_DIR"];

/// Makes the workspace's root the working directory.
///
/// # Errors
///
/// When it is gone.
pub(crate) fn enter_workspace() -> Result<()> {
    // The variable is of this run; the folder compiled in may have moved.
    let manifest_dir = env::var_os("CARGO_MANIFEST_DIR")
        .unwrap_or_else(|| OsString::from(env!("CARGO_MANIFEST_DIR")));
    let root = Path::new(&manifest_dir).join("..");
    let root = root.canonicalize().and_then(|root| {
        env::set_current_dir(&root)?;
        Ok(root)
    });
    root.map(drop)
        .with_context(|| format!("cannot enter the folder above {}", manifest_dir.display()))
}

/// A command without what `cargo run` added to the environment.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in env::vars_os() {
        let of_package = name.as_encoded_bytes().starts_with(b"CARGO_PKG_");
        if of_package || OF_CARGO_RUN.iter().any(|of_cargo| name == *of_cargo) {
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
    let program = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    cargo_at(program.as_ref(), subcommand)
}

/// The given cargo, building into [`TARGET_DIR`].
pub(crate) fn cargo_at(program: &Path, subcommand: &str) -> Command {
    let mut cargo = command(program);
    for name in REDIRECTIONS {
        cargo.env_remove(name);
    }
    // A variable instead of --target-dir, which not every subcommand has. An
    // absolute path, since tests run in their package's folder.
    let target_dir = env::current_dir().unwrap_or_default().join(TARGET_DIR);
    cargo.arg(subcommand).env("CARGO_TARGET_DIR", target_dir);
    cargo
}

/// A program that a release build made.
pub(crate) fn built(program: &str) -> PathBuf {
    Path::new(TARGET_DIR).join("release").join(program)
}

/// The library path without cargo's additions: the folders of xtask's own
/// build and of the Rust toolchain.
fn library_path(path: &OsStr) -> Option<OsString> {
    let own = env::current_exe().ok();
    let own = own.as_deref().and_then(Path::parent);
    let kept: Vec<_> = env::split_paths(path)
        .filter(|entry| !own.is_some_and(|own| entry.starts_with(own)))
        .filter(|entry| !is_of_toolchain(entry))
        .collect();
    let path = (!kept.is_empty()).then(|| env::join_paths(kept).ok());
    path.flatten()
}

fn is_of_toolchain(folder: &Path) -> bool {
    folder
        .components()
        .any(|part| part.as_os_str() == "rustlib")
        || folder.join("rustlib").is_dir()
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
