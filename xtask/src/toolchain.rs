//! Toolchains for `wasm32-wasip2`: the active Rust toolchain with the target that
//! rustup adds, or, where rustup cannot fetch it, Debian's compiler, which builds
//! the standard library, too.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Error, Result, bail, ensure};
use clap::Args;

use crate::command;
use crate::install::{self, InstallOptions};
use crate::process::{self, Interrupted};

const TARGET: &str = "wasm32-wasip2";
const CHOICE_VARIABLE: &str = "SCAFFOLD_WASM_TOOLCHAIN";

/// The folder of the `cargo` for a shell.
const SHELL_CARGO: &str = "target/tools/debian";

/// Limit for `rustup target add` when the server is unreachable.
const ADD_TARGET_TIMEOUT: Duration = Duration::from_secs(60);
const QUESTION_TIMEOUT: Duration = Duration::from_secs(30);

const DEBIAN_PACKAGES: [&str; 4] = ["rustc-web", "cargo-web", "rust-web-src", "wasi-libc"];
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const DEBIAN_STD_SOURCE: &str = "/usr/lib/rustlib/src/rust/library/std/Cargo.toml";
const DEBIAN_WASI_LIBC: &str = "/usr/lib/wasm32-wasi";
const DEBIAN_CLIPPY: &str = "/usr/bin/cargo-clippy";

/// The linkers of a component. Debian's packages contain only the first.
const LINKERS: [&str; 2] = ["wasm-component-ld", "wasm-ld"];

/// A toolchain that builds for `wasm32-wasip2`.
#[derive(Debug)]
pub(crate) enum WasmToolchain {
    /// The toolchain that runs xtask, with the target installed.
    Rustup,
    /// Debian's compiler, with a PATH on which it finds the linkers.
    Debian { path: OsString },
}

/// Print the environment in which `cargo build --target wasm32-wasip2` and `spin
/// build` work, for a shell: eval "$(cargo xtask env)".
#[derive(Args)]
pub(crate) struct Env {
    #[command(flatten)]
    install: InstallOptions,
}

impl Env {
    pub(crate) fn run(self) -> Result<()> {
        let toolchain = WasmToolchain::find(self.install)?;
        match toolchain {
            WasmToolchain::Rustup => {
                let mut cargo = Command::new("cargo");
                toolchain.set_environment(&mut cargo);
                print!("{}", shell_environment(&cargo)?);
            }
            WasmToolchain::Debian { .. } => {
                let folder = env::current_dir()?.join(SHELL_CARGO);
                write_cargo(&toolchain, &folder)?;
                println!("export PATH={}:\"$PATH\"", quoted(folder.as_os_str())?);
            }
        }
        Ok(())
    }
}

/// Writes a `cargo` that builds components with Debian's compiler, and programs of this
/// machine, such as tests and the guard, as the user's own does.
fn write_cargo(debian: &WasmToolchain, folder: &Path) -> Result<()> {
    let path = folder.join("cargo");
    let users = env::var_os("CARGO").map(PathBuf::from);
    let users = users.or_else(|| which::which_all("cargo").ok()?.find(|cargo| *cargo != path));
    let users = users.context("there is no cargo on PATH")?;
    let mut cargo = Command::new(DEBIAN_CARGO);
    debian.set_environment(&mut cargo);
    let script = format!(
        "#!/bin/sh\n\
         case \" $* \" in *\" --target {TARGET} \"* | *\" --target={TARGET} \"*)\n\
         {}exec {DEBIAN_CARGO} \"$@\" ;;\n\
         esac\n\
         exec {} \"$@\"\n",
        shell_environment(&cargo)?,
        quoted(users.as_os_str())?
    );
    if fs::read_to_string(&path).is_ok_and(|written| written == script) {
        return Ok(());
    }
    // Renamed when it is complete: another shell may run it now.
    fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(script.as_bytes())?;
    fs::set_permissions(file.path(), Permissions::from_mode(0o755))?;
    let written = file.persist(&path);
    written.with_context(|| format!("cannot write {}", path.display()))?;
    Ok(())
}

/// Lines of a shell with which other commands get the environment of this one.
fn shell_environment(command: &Command) -> Result<String> {
    let mut lines = String::new();
    for (name, value) in command.get_envs() {
        let name = name.display();
        lines.push_str(&match value {
            Some(value) => format!("export {name}={}\n", quoted(value)?),
            None => format!("unset {name}\n"),
        });
    }
    Ok(lines)
}

/// A value in a shell's quotes.
fn quoted(value: &OsStr) -> Result<String> {
    let text = value.to_str().context("PATH is not UTF-8")?;
    Ok(format!("'{}'", text.replace('\'', r"'\''")))
}

/// The value of `SCAFFOLD_WASM_TOOLCHAIN`.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Choice {
    Rustup,
    Debian,
    Any,
}

impl WasmToolchain {
    /// Finds a toolchain, and installs missing parts if that is allowed.
    pub(crate) fn find(options: InstallOptions) -> Result<Self> {
        let choice = choice(env::var_os(CHOICE_VARIABLE))?;
        match choice {
            Choice::Rustup => rustup(options),
            Choice::Debian => debian(options),
            Choice::Any => match rustup(options) {
                Err(error) if !error.is::<Interrupted>() => debian_instead(&error, options),
                found => found,
            },
        }
    }

    /// The value of `SCAFFOLD_WASM_TOOLCHAIN` that chooses it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Rustup => "rustup",
            Self::Debian { .. } => "debian",
        }
    }

    /// `cargo <subcommand>` for the target, in the release profile.
    pub(crate) fn cargo(&self, subcommand: &str) -> Command {
        let mut cargo = match self {
            Self::Rustup => command::cargo(subcommand),
            Self::Debian { .. } => command::cargo_at(Path::new(DEBIAN_CARGO), subcommand),
        };
        cargo.args(["--release", "--target", TARGET]);
        // Saves a seventh of the component's size. Not in the profile: native code
        // gains nothing, and wasmtime takes minutes with it.
        cargo.env("CARGO_PROFILE_RELEASE_LTO", "fat");
        self.set_environment(&mut cargo);
        cargo
    }

    /// Lets a command and the cargo that it runs use this toolchain.
    fn set_environment(&self, command: &mut Command) {
        let mut flags = Vec::new();
        if let Self::Debian { path } = self {
            flags.push(format!("-Lnative={DEBIAN_WASI_LIBC}"));
            command
                .env("CARGO_UNSTABLE_BUILD_STD", "std,panic_abort")
                .env("PATH", path)
                .env("RUSTC", DEBIAN_RUSTC)
                .env("RUSTC_BOOTSTRAP", "1")
                // The other toolchain's libraries and wrappers.
                .env_remove("LD_LIBRARY_PATH")
                .env_remove("RUSTUP_TOOLCHAIN")
                .env_remove("RUSTDOC");
        }
        set_flags(command, TARGET, flags);
    }

    /// The command that installs clippy for this toolchain, if it is missing.
    pub(crate) fn missing_clippy(&self) -> Option<&'static str> {
        let missing = matches!(self, Self::Debian { .. }) && !Path::new(DEBIAN_CLIPPY).exists();
        missing.then_some("apt-get install rust-web-clippy")
    }
}

/// Lets a cargo build the same bytes for a target in every folder and for every user.
/// Only for this target: RUSTFLAGS would also apply to the user's programs.
pub(crate) fn set_flags(command: &mut Command, target: &str, flags: Vec<String>) {
    // The user's flags (a CPU, a linker) are for programs of this machine.
    command
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    let flags: Vec<_> = without_home().into_iter().chain(flags).collect();
    let target = target.to_uppercase().replace('-', "_");
    let variable = format!("CARGO_TARGET_{target}_RUSTFLAGS");
    command.env(variable, flags.join(" "));
}

/// The target of programs for this machine, such as `x86_64-unknown-linux-gnu`.
pub(crate) fn host() -> Result<String> {
    output_of(rustc().args(["--print", "host-tuple"]))
}

/// The flag that keeps the folder of the crates' sources out of the messages of panics.
fn without_home() -> Option<String> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(env::home_dir()?.join(".cargo")));
    let sources = home.map(|home| home.join("registry/src"));
    let sources = sources.and_then(|sources| sources.into_os_string().into_string().ok());
    // The variable separates flags by spaces.
    let sources = sources.filter(|sources| !sources.contains(char::is_whitespace));
    sources.map(|sources| format!("--remap-path-prefix={sources}=crates"))
}

fn choice(variable: Option<OsString>) -> Result<Choice> {
    let Some(value) = variable else {
        return Ok(Choice::Any);
    };
    match value.to_str() {
        Some("") => Ok(Choice::Any),
        Some("rustup") => Ok(Choice::Rustup),
        Some("debian") => Ok(Choice::Debian),
        _ => bail!("{CHOICE_VARIABLE} is {value:?}; it can be rustup or debian"),
    }
}

fn rustup(options: InstallOptions) -> Result<WasmToolchain> {
    add_target(TARGET, options)?;
    Ok(WasmToolchain::Rustup)
}

/// Adds a target to the toolchain that runs xtask, unless it is there.
pub(crate) fn add_target(target: &str, options: InstallOptions) -> Result<()> {
    if target_is_installed(target)? {
        return Ok(());
    }
    let by_hand = format!("rustup target add {target}");
    ensure!(
        !options.no_install,
        "the target {target} is not installed, and --no-install forbids `{by_hand}`"
    );
    let rustup = which::which("rustup").with_context(|| {
        format!("the target {target} is not installed, and there is no rustup on PATH to add it")
    })?;
    eprintln!(
        "adding the target {target} (rustup; at most {} s)",
        ADD_TARGET_TIMEOUT.as_secs()
    );
    let mut add = command::program(rustup);
    add.args(["target", "add", target]);
    process::run(&format!("`{by_hand}`"), &mut add, Some(ADD_TARGET_TIMEOUT))?;
    ensure!(
        target_is_installed(target)?,
        "`{by_hand}` succeeded, but {} does not have the target: it is not rustup's",
        rustc().get_program().display()
    );
    Ok(())
}

fn debian_instead(no_rustup: &Error, options: InstallOptions) -> Result<WasmToolchain> {
    eprintln!("{no_rustup:#}");
    eprintln!("using Debian's compiler ({CHOICE_VARIABLE}=debian skips the attempt with rustup)");
    debian(options).with_context(|| {
        let packages = DEBIAN_PACKAGES.join(" ");
        format!(
            "nothing here builds for {TARGET}: run `rustup target add {TARGET}`, \
             or on Debian `apt-get install {packages}`"
        )
    })
}

fn debian(options: InstallOptions) -> Result<WasmToolchain> {
    let files = [
        DEBIAN_RUSTC,
        DEBIAN_CARGO,
        DEBIAN_STD_SOURCE,
        DEBIAN_WASI_LIBC,
    ];
    if !files.iter().all(|file| Path::new(file).exists()) {
        install::debian_packages(&DEBIAN_PACKAGES, options)
            .context("Debian's compiler is not installed")?;
    }
    let version = output_of(command::program(DEBIAN_RUSTC).arg("--version"))?;
    let needed = env!("CARGO_PKG_RUST_VERSION");
    ensure!(
        is_at_least(&version, needed),
        "Debian's compiler is {version:?}; {needed} or newer is needed"
    );
    let path = debian_path(&toolchain_programs()?)?;
    for linker in LINKERS {
        which::which_in_global(linker, Some(&path))
            .ok()
            .and_then(|mut found| found.next())
            .with_context(|| format!("no {linker}: a Rust toolchain from rustup contains it"))?;
    }
    Ok(WasmToolchain::Debian { path })
}

/// PATH for Debian's cargo: its own programs first, because a rustup proxy of the
/// same name would run the other compiler, then the linkers.
fn debian_path(toolchain_programs: &Path) -> Result<OsString> {
    let own = [
        PathBuf::from("/usr/bin"),
        toolchain_programs.to_owned(),
        toolchain_programs.join("gcc-ld"),
    ];
    let users = env::var_os("PATH").unwrap_or_default();
    env::join_paths(own.into_iter().chain(env::split_paths(&users)))
        .context("cannot make a PATH for Debian's compiler")
}

/// The active toolchain's folder of internal programs.
fn toolchain_programs() -> Result<PathBuf> {
    let sysroot = output_of(rustc().args(["--print", "sysroot"]))?;
    let libraries = Path::new(&sysroot).join("lib/rustlib");
    Ok(libraries.join(host()?).join("bin"))
}

fn target_is_installed(target: &str) -> Result<bool> {
    let libraries = output_of(rustc().args(["--print", "target-libdir", "--target", target]))?;
    Ok(Path::new(&libraries).is_dir())
}

/// The compiler that the cargo running xtask uses.
fn rustc() -> Command {
    command::program(env::var_os("RUSTC").unwrap_or_else(|| OsString::from("rustc")))
}

fn output_of(command: &mut Command) -> Result<String> {
    let name = command.get_program().display().to_string();
    process::capture(&name, command, QUESTION_TIMEOUT)
}

/// Compares `rustc 1.96.0 (…)` with `1.95`.
fn is_at_least(version: &str, needed: &str) -> bool {
    let numbers = |text: &str| -> Vec<u32> {
        let mut parts = text.split('.').map_while(|part| part.parse().ok());
        parts.by_ref().take(2).collect()
    };
    let version = version.split(' ').nth(1).unwrap_or_default();
    numbers(version) >= numbers(needed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_chooses() {
        let choice = |value: &str| choice(Some(value.into()));
        assert_eq!(choice("rustup").expect("known"), Choice::Rustup);
        assert_eq!(choice("debian").expect("known"), Choice::Debian);
        assert_eq!(choice("").expect("as unset"), Choice::Any);
    }

    #[test]
    fn an_unknown_choice_is_refused_by_name() {
        let error = choice(Some("nix".into())).expect_err("unknown");
        let expected = r#"SCAFFOLD_WASM_TOOLCHAIN is "nix"; it can be rustup or debian"#;
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn a_quoted_value_is_one_word_of_a_shell() {
        let value = OsStr::new("/a b:/it's/$HOME");
        let mut shell = Command::new("sh");
        let script = format!("printf %s {}", quoted(value).expect("UTF-8"));
        let output = output_of(shell.args(["-c", &script])).expect("it prints");
        assert_eq!(OsStr::new(&output), value);
    }

    #[test]
    fn versions_compare_by_number() {
        assert!(is_at_least("rustc 1.96.0 (ac68faa20 2026-05-25)", "1.95"));
        assert!(is_at_least("rustc 1.100.0-nightly (a 2027)", "1.95"));
        assert!(!is_at_least("rustc 1.63.0", "1.95"));
        assert!(!is_at_least("what", "1.95"));
    }

    #[test]
    fn debians_programs_come_before_the_users() {
        let path = debian_path(Path::new("/t/bin")).expect("no colon in it");
        let folders: Vec<_> = env::split_paths(&path).take(3).collect();
        let expected = ["/usr/bin", "/t/bin", "/t/bin/gcc-ld"];
        assert_eq!(folders, expected.map(PathBuf::from));
    }
}
