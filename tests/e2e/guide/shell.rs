//! A reader's folder and terminals. The folder is as a clone after `cargo xtask
//! build`; where the guide has the usual ports, free ones are put, so that it can
//! be followed beside whatever else runs here.

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
    process::{Process, Signal, free_port, poll_until},
    program::Program,
    prometheus::{copy_tree, set_interval},
    repository,
    runtime::Runtime,
};
use tempfile::TempDir;

use crate::{Result, schemes::INTERVAL};

/// The ports that the guide names: app, exporter, Prometheus, Pushgateway, Redis.
const PORTS: [&str; 5] = ["8000", "8001", "9090", "9091", "6379"];

/// The longest that a command may take, a server until it serves, and a count on its
/// way to Prometheus.
const BOUND: Duration = Duration::from_secs(120);
/// The longest that a server may take to end after Ctrl-C.
const END_BOUND: Duration = Duration::from_secs(30);

const REDIS_CLI: Program = Program {
    name: "redis-cli",
    executables: &["redis-cli"],
    package: "redis-tools",
};

/// The reader's folder, and what runs there. Stopped on drop.
pub(super) struct Shell {
    ports: BTreeMap<&'static str, String>,
    terminals: BTreeMap<String, Process>,
    folder: TempDir,
}

impl Shell {
    pub(super) fn new() -> Result<Self> {
        let mut ports = BTreeMap::new();
        for usual in PORTS {
            ports.insert(usual, free_port()?.to_string());
        }
        let shell = Self {
            ports,
            terminals: BTreeMap::new(),
            folder: TempDir::new()?,
        };
        shell.fill_folder()?;
        Ok(shell)
    }

    fn fill_folder(&self) -> Result {
        let (root, folder) = (repository().canonicalize()?, self.folder.path());
        let monitoring = folder.join("monitoring");
        fs::create_dir(&monitoring)?;
        copy_tree(&root.join("monitoring"), &monitoring)?;
        set_interval(&monitoring.join("prometheus.yml"), INTERVAL)?;
        fs::copy(root.join("spin.toml"), folder.join("spin.toml"))?;
        fs::copy(root.join(".env.example"), folder.join(".env.example"))?;
        let mut with_ports = vec![folder.join("spin.toml")];
        for target in fs::read_dir(monitoring.join("targets"))? {
            with_ports.push(target?.path());
        }
        for file in with_ports {
            fs::write(&file, self.with_its_ports(&fs::read_to_string(&file)?))?;
        }

        let target = folder.join("target");
        fs::create_dir(&target)?;
        let exporter = functional_scaffold_testkit::exporter::program()?;
        let programs = exporter.parent().context("a program is in a folder")?;
        symlink(programs, target.join("release"))?;
        symlink(
            root.join("target/wasm32-wasip2"),
            target.join("wasm32-wasip2"),
        )?;
        self.put_commands(&root)
    }

    /// Commands that a reader has, and that are other ones here, or have no
    /// option for the port in the guide.
    fn put_commands(&self, root: &Path) -> Result {
        let xtask = root.join("target/debug/xtask");
        ensure!(
            xtask.is_file(),
            "xtask is not built; run `cargo xtask build`"
        );
        let runtime = Runtime::from_environment()?;
        let spin = runtime.program().display();
        let redis_cli = REDIS_CLI.find()?;
        let commands = self.commands();
        fs::create_dir(&commands)?;
        // xtask works in the folder above its manifest's.
        fs::create_dir(self.folder.path().join("xtask"))?;
        let port = |usual: &str| &self.ports[usual];
        for (name, script) in [
            (
                "cargo",
                format!(
                    "[ \"$1 $2\" = \"xtask up\" ] || exit 1\nshift 2\n\
                     CARGO_MANIFEST_DIR=$PWD/xtask exec {} up --no-build \
                     --listen 127.0.0.1:{} --exporter-listen 127.0.0.1:{} \
                     --pushgateway-listen 127.0.0.1:{} --prometheus-listen 127.0.0.1:{} \"$@\"",
                    xtask.display(),
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
            let command = commands.join(name);
            fs::write(&command, format!("#!/bin/sh\n{script}\n"))?;
            fs::set_permissions(&command, fs::Permissions::from_mode(0o755))?;
        }
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
        let mut path = self.commands().into_os_string();
        path.push(":");
        path.push(env::var_os("PATH").unwrap_or_default());
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
