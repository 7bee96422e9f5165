//! The Prometheus of `up --monitoring`: a copy of the configuration in
//! `monitoring/`, with the targets that run.

use std::env;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::command;
use crate::install::{InstallOptions, Program};
use crate::process::Child;

/// Below the workspace's root, and ignored by git.
const DATA_FOLDER: &str = ".functional-scaffold/prometheus";

/// The files that are copied from `monitoring/`.
const CONFIGURATION: [&str; 3] = ["prometheus.yml", "recording.yaml", "alerts/rules.yaml"];

/// The schemes, each with a file of targets.
const SCHEMES: [&str; 3] = ["redis", "pushgateway", "pull"];

const PROGRAM: Program = Program {
    name: "Prometheus",
    commands: &["prometheus"],
    package: "prometheus",
};

/// A scheme's name, and the address that Prometheus scrapes.
pub(crate) type Target = (&'static str, String);

/// An installed Prometheus.
pub(crate) struct Prometheus(PathBuf);

impl Prometheus {
    pub(crate) fn find(install: InstallOptions) -> Result<Self> {
        PROGRAM.find_or_install(install).map(Self)
    }

    pub(crate) fn start(&self, listen: SocketAddr, target: Option<&Target>) -> Result<Child> {
        // A folder for each port: two servers must not write one database.
        let port = listen.port().to_string();
        let folder = env::current_dir()?.join(DATA_FOLDER).join(port);
        let monitoring = folder.join("monitoring");
        configure(&monitoring, target)
            .with_context(|| format!("cannot write {}", monitoring.display()))?;
        let configuration = monitoring.join("prometheus.yml");
        let data = folder.join("data");
        let mut command = command::program(&self.0);
        command
            .arg(format!("--config.file={}", configuration.display()))
            .arg(format!("--storage.tsdb.path={}", data.display()))
            .arg(format!("--web.listen-address={listen}"))
            .arg("--log.level=warn");
        eprintln!("Prometheus keeps its data in {}", data.display());
        Child::spawn("Prometheus", &mut command)
    }
}

fn configure(folder: &Path, target: Option<&Target>) -> Result<()> {
    for name in CONFIGURATION {
        let copy = folder.join(name);
        if let Some(parent) = copy.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::copy(Path::new("monitoring").join(name), copy)?;
    }
    let targets = folder.join("targets");
    fs::create_dir_all(&targets)?;
    for scheme in SCHEMES {
        let file = targets.join(format!("{scheme}.yml"));
        fs::write(file, targets_of(scheme, target))?;
    }
    Ok(())
}

/// The scheme's file: the target where it runs, else none.
fn targets_of(scheme: &str, target: Option<&Target>) -> String {
    match target {
        Some((running, address)) if *running == scheme => {
            format!("- targets: [{address:?}]\n")
        }
        _ => "[]\n".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_scheme_that_runs_has_a_target() {
        let target = ("pull", "127.0.0.1:8000".to_owned());
        let target = Some(&target);
        let expected = "- targets: [\"127.0.0.1:8000\"]\n";
        assert_eq!(targets_of("pull", target), expected);
        assert_eq!(targets_of("redis", target), "[]\n");
        assert_eq!(targets_of("redis", None), "[]\n");
    }

    #[test]
    fn the_configuration_is_that_of_the_repository() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../monitoring");
        for name in CONFIGURATION {
            assert!(root.join(name).is_file(), "{name}");
        }
        let text = fs::read_to_string(root.join("prometheus.yml")).expect("it is there");
        for scheme in SCHEMES {
            let file = format!("targets/{scheme}.yml");
            assert!(text.contains(&file), "{file}");
        }
    }
}
