//! A reader's folder and terminals. The folder is as a clone after `cargo xtask
//! build`; where the guide has the usual ports, free ones are put, so that it can
//! be followed beside whatever else runs here.

use std::{
    collections::BTreeMap,
    env, fs,
    os::unix::{
        fs::{PermissionsExt as _, symlink},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use functional_scaffold_tests::{
    process::{POLL, free_port},
    prometheus::{copy_tree, shorten_intervals},
    repository, workspace_binary,
};
use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use super::Result;

/// The ports that the guide names: app, exporter, Prometheus, Pushgateway, Redis.
const PORTS: [&str; 5] = ["8000", "8001", "9090", "9091", "6379"];

/// The longest that a command may take, a server until it serves, and a number
/// on its way to Prometheus.
const BOUND: Duration = Duration::from_secs(60);

/// The reader's folder, and what runs there. All ended on drop.
pub(crate) struct Shell {
    ports: BTreeMap<&'static str, String>,
    terminals: BTreeMap<String, Running>,
    folder: TempDir,
}

impl Shell {
    pub(crate) fn new() -> Result<Self> {
        let mut ports = BTreeMap::new();
        while ports.len() < PORTS.len() {
            let port = free_port()?.to_string();
            if !ports.values().any(|taken| *taken == port) {
                ports.insert(PORTS[ports.len()], port);
            }
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
        copy_tree(&root.join("monitoring"), &monitoring)?;
        shorten_intervals(&monitoring.join("prometheus.yml"))?;
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
        let devhost = workspace_binary("devhost")?;
        let programs = devhost.parent().context("a program is in a folder")?;
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
        let spin = match env::var("SCAFFOLD_RUNTIME").as_deref() {
            Ok("spin") => env::var("SPIN_BIN").context("SCAFFOLD_RUNTIME=spin needs SPIN_BIN")?,
            _ => workspace_binary("devhost")?.display().to_string(),
        };
        let redis_cli = which("redis-cli")?;
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
    pub(crate) fn with_its_ports(&self, text: &str) -> String {
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

    /// Runs a script to its end; gives what it printed.
    ///
    /// # Errors
    /// It failed, or takes too long.
    pub(crate) fn run(&self, script: &str) -> Result<String> {
        let mut running = self.spawn(script)?;
        let deadline = Instant::now() + BOUND;
        loop {
            if let Some(status) = running.child.try_wait()? {
                let printed = running.printed()?;
                ensure!(status.success(), "{status}:\n{printed}");
                return Ok(printed);
            }
            ensure!(Instant::now() < deadline, "does not end within {BOUND:?}");
            std::thread::sleep(POLL);
        }
    }

    /// Runs a script again and again until it prints this.
    ///
    /// # Errors
    /// It takes too long.
    pub(crate) fn run_until(&self, script: &str, shown: &str) -> Result {
        let shown = self.with_its_ports(shown);
        let deadline = Instant::now() + BOUND;
        loop {
            let printed = self.run(script);
            if printed.as_ref().is_ok_and(|printed| shows(printed, &shown)) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("after {BOUND:?} it printed\n{printed:?}\nnot\n{shown}");
            }
            std::thread::sleep(10 * POLL);
        }
    }

    /// Presses Ctrl-C in a terminal, and starts a server there.
    ///
    /// # Errors
    /// It ended, or does not print what shows that it runs.
    pub(crate) fn start(&mut self, terminal: &str, script: &str, shown: &str) -> Result {
        drop(self.terminals.remove(terminal));
        let shown = self.with_its_ports(shown);
        let mut running = self.spawn(script)?;
        let deadline = Instant::now() + BOUND;
        loop {
            let printed = running.printed()?;
            if shows(&printed, &shown) {
                break;
            }
            if let Some(status) = running.child.try_wait()? {
                bail!("ended with {status}:\n{printed}");
            }
            if Instant::now() > deadline {
                bail!("after {BOUND:?} it has printed\n{printed}\nnot\n{shown}");
            }
            std::thread::sleep(POLL);
        }
        self.terminals.insert(terminal.to_owned(), running);
        Ok(())
    }

    fn spawn(&self, script: &str) -> Result<Running> {
        let mut path = self.commands().into_os_string();
        path.push(":");
        path.push(env::var_os("PATH").unwrap_or_default());
        let output = tempfile::NamedTempFile::new()?;
        let file = output.reopen()?;
        let mut command = Command::new("bash");
        // A reader has none of these, whoever runs the tests may.
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
            )
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0);
        Ok(Running {
            child: command.spawn().context("cannot start bash")?,
            output,
        })
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // The app before the Redis that it writes its last counts to.
        for name in ["app", "exporter"] {
            drop(self.terminals.remove(name));
        }
    }
}

/// A script that runs, and whatever it started.
struct Running {
    child: Child,
    output: tempfile::NamedTempFile,
}

impl Running {
    fn printed(&self) -> Result<String> {
        let bytes = fs::read(self.output.path())?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn signal(&self, signal: Signal) {
        // Nobody is left in the group where it fails.
        let _ = kill_process_group(Pid::from_child(&self.child), signal);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Ctrl-C goes to all that the terminal runs.
        self.signal(Signal::INT);
        let deadline = Instant::now() + Duration::from_secs(15);
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(POLL);
        }
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }
}

/// Whether a text is what is shown, in which `…` stands for any text.
pub(crate) fn shows(printed: &str, shown: &str) -> bool {
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

fn which(program: &str) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).map(|folder| folder.join(program));
    let mut found = found.filter(|program| program.is_file());
    let missing = || format!("no {program}; install it with `apt-get install redis-server`");
    found.next().with_context(missing)
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
