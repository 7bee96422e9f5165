//! A reader's folder and terminals. The folder is as a clone after `cargo xtask
//! build`, the parts of one that commands of the guide read, or what `cargo xtask dist`
//! laid out; where a page has the usual ports, free ones are put, so that it can be
//! followed beside whatever else runs here.

use std::{
    collections::BTreeMap,
    env, fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use functional_scaffold_testkit::{
    manifest::Manifest,
    process::{Process, Signal, free_port, poll_until},
    program::{Program, built},
    prometheus::{copy_tree, set_interval},
    repository,
    runtime::Runtime,
};
use functional_scaffold_tests::{copy_repository, share_builds, xtask};
use tempfile::TempDir;

use crate::{Result, schemes::INTERVAL};

/// The ports that the guide names: app, exporter, Prometheus, Pushgateway, Redis.
const PORTS: [&str; 5] = ["8000", "8001", "9090", "9091", "6379"];

/// The longest that a command may take, a server until it serves, and a count on its
/// way to Prometheus.
const BOUND: Duration = Duration::from_secs(300);
/// The longest that a server may take to end after Ctrl-C.
const END_BOUND: Duration = Duration::from_secs(30);

const REDIS_CLI: Program = Program {
    name: "redis-cli",
    executables: &["redis-cli"],
    package: "redis-tools",
};

/// What `cargo xtask up` does first: of the algorithms, only a new one is not built.
/// `cargo` is the reader's own.
const BUILD_NEW: &str = r#"
for folder in algorithms/*/; do
    [ -f "$folder/Cargo.toml" ] && [ ! -e "$REPOSITORY/$folder" ] || continue
    (
        PATH=$READERS_PATH
        eval "$($XTASK env)"
        export CARGO_PROFILE_RELEASE_LTO=fat CARGO_NET_OFFLINE=true
        cargo build --quiet --release --target wasm32-wasip2 --manifest-path "$folder/Cargo.toml"
        component=target/wasm32-wasip2/release/$(basename "$folder" | tr - _)
        target/release/functional-scaffold-guard "$component.wasm" -o "$component.guarded.wasm"
    )
done
"#;

/// The Spin CLI of a reader who has no clone. A new project has what is built and
/// downloaded here, as if its reader had built it before.
const SPIN_WITHOUT_CLONE: &str = r#"
PATH=$READERS_PATH
eval "$($XTASK env)"
export CARGO_NET_OFFLINE=true SPIN_DATA_DIR=$PWD/spin-data
[ "$1" = new ] || exec "$SPIN" "$@"
"$SPIN" "$@"
for project; do :; done
mkdir "$project/target"
ln -s "$REPOSITORY/target/release" "$REPOSITORY/target/wasm32-wasip2" "$project/target"
cp "$REPOSITORY/Cargo.lock" "$project"
"#;

/// The reader's folder, and what runs there. Stopped on drop.
pub(super) struct Shell {
    ports: BTreeMap<&'static str, String>,
    terminals: BTreeMap<String, Process>,
    folder: TempDir,
}

impl Shell {
    /// A folder with what the guide's commands read.
    pub(super) fn new() -> Result<Self> {
        let shell = Self::with(fill_folder)?;
        shell.set_ports()?;
        Ok(shell)
    }

    /// A folder with the whole repository.
    pub(super) fn in_a_copy() -> Result<Self> {
        let shell = Self::with(copy_repository)?;
        shell.set_ports()?;
        Ok(shell)
    }

    /// A folder with nothing but what `cargo xtask dist` laid out, and the Spin CLI.
    pub(super) fn without_a_clone(dist: &Path) -> Result<Self> {
        let shell = Self::with(|folder| copy_tree(dist, folder))?;
        let spin = Runtime::spin()?;
        let variables = format!(
            "SPIN={} SPIN_VARIABLE_REDIS_PORT={}",
            spin.program().display(),
            shell.ports["6379"]
        );
        let script = format!("export {variables}\n{SPIN_WITHOUT_CLONE}");
        shell.put_command("spin", &script)?;
        Ok(shell)
    }

    fn with(fill: impl FnOnce(&Path) -> Result) -> Result<Self> {
        let mut ports = BTreeMap::new();
        for usual in PORTS {
            ports.insert(usual, free_port()?.to_string());
        }
        let shell = Self {
            ports,
            terminals: BTreeMap::new(),
            folder: TempDir::new()?,
        };
        fill(shell.folder.path())?;
        shell.put_commands()?;
        Ok(shell)
    }

    fn set_ports(&self) -> Result {
        let folder = self.folder.path();
        set_interval(&folder.join("monitoring/prometheus.yml"), INTERVAL)?;
        let mut with_ports = vec![folder.join("spin.toml")];
        with_ports.extend(EXAMPLES.map(|name| folder.join(name).join("spin.toml")));
        for target in fs::read_dir(folder.join("monitoring/targets"))? {
            with_ports.push(target?.path());
        }
        for file in with_ports {
            fs::write(&file, self.with_its_ports(&fs::read_to_string(&file)?))?;
        }
        Ok(())
    }

    /// Commands that a reader has, and that are other ones here, or have no
    /// option for the port in the guide.
    fn put_commands(&self) -> Result {
        let xtask_new = built("xtask-new")?;
        let xtask_new = xtask_new.display();
        let runtime = Runtime::from_environment()?;
        let spin = runtime.program().display();
        let redis_cli = REDIS_CLI.find()?;
        fs::create_dir(self.commands())?;
        let port = |usual: &str| &self.ports[usual];
        for (name, script) in [
            (
                "cargo",
                format!(
                    "command=$1-$2; shift 2\n\
                     [ $command != xtask-new ] || exec {xtask_new} \"$@\"\n\
                     [ $command = xtask-up ] || exit 1\n\
                     {BUILD_NEW}\
                     CARGO_MANIFEST_DIR=$PWD/xtask exec $XTASK up --no-build \
                     --listen 127.0.0.1:{} --exporter-listen 127.0.0.1:{} \
                     --pushgateway-listen 127.0.0.1:{} --prometheus-listen 127.0.0.1:{} \"$@\"",
                    port("8000"),
                    port("8001"),
                    port("9091"),
                    port("9090"),
                ),
            ),
            ("spin", format!("exec {spin} \"$@\"")),
            (
                "redis-cli",
                format!("exec {} -p {} \"$@\"", redis_cli.display(), port("6379")),
            ),
        ] {
            self.put_command(name, &script)?;
        }
        Ok(())
    }

    fn put_command(&self, name: &str, script: &str) -> Result {
        let command = self.commands().join(name);
        fs::write(&command, format!("#!/bin/sh\n{script}\n"))?;
        fs::set_permissions(&command, fs::Permissions::from_mode(0o755))?;
        Ok(())
    }

    fn commands(&self) -> PathBuf {
        self.folder.path().join("commands")
    }

    /// A text of the guide with the ports that are used here.
    pub(super) fn with_its_ports(&self, text: &str) -> String {
        let is_digit = |letter: char| letter.is_ascii_digit();
        let mut replaced = String::new();
        let mut rest = text;
        while let Some(begin) = rest.find(is_digit) {
            let (before, digits) = rest.split_at(begin);
            let end = digits.find(|letter| !is_digit(letter));
            let (number, after) = digits.split_at(end.unwrap_or(digits.len()));
            replaced.push_str(before);
            replaced.push_str(self.ports.get(number).map_or(number, String::as_str));
            rest = after;
        }
        replaced + rest
    }

    /// Writes a file that a page shows.
    pub(super) fn write(&self, path: &str, text: &str) -> Result {
        let path = self.folder.path().join(path);
        // Only a file that is there: the page says what to edit.
        ensure!(path.is_file(), "there is no {}", path.display());
        Ok(fs::write(path, text)?)
    }

    /// Runs a script to its end; returns what it printed.
    pub(super) fn run(&self, script: &str) -> Result<String> {
        let mut running = self.spawn(script)?;
        let status = running.wait(BOUND);
        let printed = running.output()?;
        let status = status.with_context(|| format!("it printed\n{printed}"))?;
        ensure!(status.success(), "{status}:\n{printed}");
        Ok(printed)
    }

    /// Runs a script again and again until it prints this.
    pub(super) fn run_until(&self, script: &str, shown: &str) -> Result {
        let shown = self.with_its_ports(shown);
        poll_until(BOUND, || {
            let printed = self.run(script)?;
            ensure!(
                shows(&printed, &shown),
                "it printed\n{printed}\nnot\n{shown}"
            );
            Ok(())
        })
    }

    /// Presses Ctrl-C in a terminal, and starts a server there.
    pub(super) fn start(&mut self, terminal: &str, script: &str, shown: &str) -> Result {
        self.interrupt(terminal);
        let shown = self.with_its_ports(shown);
        let mut running = self.spawn(script)?;
        running.wait_until(BOUND, |running| {
            ensure!(
                shows(&running.output()?, &shown),
                "it does not print\n{shown}"
            );
            Ok(())
        })?;
        self.terminals.insert(terminal.to_owned(), running);
        Ok(())
    }

    fn interrupt(&mut self, terminal: &str) {
        if let Some(mut running) = self.terminals.remove(terminal) {
            // Ctrl-C goes to all that the terminal runs.
            let _gone = running.signal(Signal::INT);
            let _late = running.wait(END_BOUND);
        }
    }

    fn spawn(&self, script: &str) -> Result<Process> {
        let readers_path = env::var_os("PATH").unwrap_or_default();
        let mut path = self.commands().into_os_string();
        path.push(":");
        path.push(&readers_path);
        let mut command = Command::new("bash");
        // A reader has none of these.
        for (name, _) in env::vars_os() {
            let text = name.to_string_lossy();
            let prefixes = ["SPIN_VARIABLE_", "REDIS_", "EXPORTER_", "PUSHGATEWAY_"];
            if prefixes.iter().any(|prefix| text.starts_with(prefix)) {
                command.env_remove(name);
            }
        }
        command
            .args(["-ec", &self.with_its_ports(script)])
            .current_dir(&self.folder)
            .env("PATH", path)
            .env("READERS_PATH", readers_path)
            .env("REPOSITORY", repository().canonicalize()?)
            .env("XTASK", xtask()?)
            .env("REDIS_PORT", &self.ports["6379"])
            .env(
                "EXPORTER_LISTEN",
                format!("127.0.0.1:{}", self.ports["8001"]),
            );
        Process::start_group(&mut command)
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // The app before the Redis that it writes its last counts to.
        let others: Vec<_> = self.terminals.keys().cloned().collect();
        for terminal in ["app", "exporter"].map(str::to_owned).iter().chain(&others) {
            self.interrupt(terminal);
        }
    }
}

/// The apps that the guide serves.
const EXAMPLES: [&str; 2] = ["examples/http-rust", "examples/metered-app"];

/// Puts what the guide's commands read into a folder.
fn fill_folder(folder: &Path) -> Result {
    let root = repository().canonicalize()?;
    let monitoring = folder.join("monitoring");
    fs::create_dir(&monitoring)?;
    copy_tree(&root.join("monitoring"), &monitoring)?;
    let manifest = Manifest::declaring(&root.join("spin.toml"), &[])?;
    fs::copy(manifest.path(), folder.join("spin.toml"))?;
    symlink(root.join("algorithms"), folder.join("algorithms"))?;
    fs::copy(root.join(".env.example"), folder.join(".env.example"))?;
    for example in EXAMPLES {
        fs::create_dir_all(folder.join(example))?;
        let manifest = Path::new(example).join("spin.toml");
        fs::copy(root.join(&manifest), folder.join(&manifest))?;
    }
    // xtask works in the folder above its manifest's.
    fs::create_dir(folder.join("xtask"))?;
    share_builds(folder)
}

/// Tells whether a text is what is shown, in which `…` stands for any text.
pub(super) fn shows(printed: &str, shown: &str) -> bool {
    let (mut rest, shown) = (printed.trim(), shown.trim());
    let mut pieces: Vec<&str> = shown.split('…').collect();
    let last = pieces.pop().unwrap_or_default();
    for (index, piece) in pieces.iter().enumerate() {
        let found = match index {
            0 => rest.starts_with(piece).then_some(0),
            _ => rest.find(piece),
        };
        let Some(found) = found else { return false };
        rest = &rest[found + piece.len()..];
    }
    match pieces.is_empty() {
        true => rest == last,
        false => rest.ends_with(last),
    }
}

#[test]
fn an_ellipsis_stands_for_any_text() {
    for (printed, shown) in [
        ("a\n", "a"),
        ("a 1 b 2 c", "a … b … c"),
        ("x\nready\ny", "…ready…"),
        ("", "…"),
    ] {
        assert!(shows(printed, shown), "{printed:?} {shown:?}");
    }
    for (printed, shown) in [("ab", "a"), ("b a", "a…"), ("a b", "…a"), ("a", "a…a")] {
        assert!(!shows(printed, shown), "{printed:?} {shown:?}");
    }
}
