//! Algorithms in Python and JavaScript: folders with a pyproject.toml or a
//! package.json. They are built and tested by the commands that a user runs there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::command;
use crate::process::{self, succeeds};
use crate::steps::Steps;

const INSTALL_TIMEOUT: Duration = Duration::from_secs(900);
const BUILD_TIMEOUT: Duration = Duration::from_secs(900);
const TEST_TIMEOUT: Duration = Duration::from_secs(120);

/// A language that cargo does not build.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Language {
    Python,
    JavaScript,
}

impl Language {
    /// The file that makes a folder an algorithm in this language.
    fn manifest(self) -> &'static str {
        match self {
            Self::Python => "pyproject.toml",
            Self::JavaScript => "package.json",
        }
    }

    /// The needed programs, and Debian's packages that contain them.
    fn needs(self) -> &'static str {
        match self {
            Self::Python => "Python 3.11 or newer with venv (python3-venv)",
            Self::JavaScript => "Node.js 18 or newer with npm (nodejs, npm)",
        }
    }

    pub(crate) fn is_installed(self) -> bool {
        match self {
            Self::Python => python().is_some(),
            Self::JavaScript => has_node(),
        }
    }
}

/// An algorithm's folder.
struct Algorithm {
    language: Language,
    folder: PathBuf,
}

/// Builds the algorithms in the given folders. One whose language is not installed
/// is named and left out.
pub(crate) fn build(steps: &mut Steps, parents: &[&str]) -> Result<()> {
    for algorithm in find(parents)? {
        let folder = algorithm.folder.display();
        if algorithm.language.is_installed() {
            steps.run(&format!("build {folder}"), || algorithm.build())?;
        } else {
            let needs = algorithm.language.needs();
            eprintln!("\n{folder} is left out: it needs {needs}");
        }
    }
    Ok(())
}

/// Runs the tests of the algorithms in the given folders.
pub(crate) fn test(parents: &[&str]) -> Result<()> {
    for algorithm in find(parents)? {
        let folder = algorithm.folder.display();
        let mut test = match algorithm.language {
            Language::Python => algorithm.python(["-m", "unittest"])?,
            Language::JavaScript => algorithm.command("node", ["--test"]),
        };
        process::run(
            &format!("the tests of {folder}"),
            &mut test,
            Some(TEST_TIMEOUT),
        )?;
    }
    Ok(())
}

fn find(parents: &[&str]) -> Result<Vec<Algorithm>> {
    let mut algorithms = Vec::new();
    for parent in parents {
        let folders = fs::read_dir(parent).with_context(|| format!("cannot read {parent}/"))?;
        for folder in folders {
            let folder = folder?.path();
            let languages = [Language::Python, Language::JavaScript].into_iter();
            let found = languages.filter(|language| folder.join(language.manifest()).is_file());
            algorithms.extend(found.map(|language| Algorithm {
                language,
                folder: folder.clone(),
            }));
        }
    }
    algorithms.sort_by(|left, right| left.folder.cmp(&right.folder));
    Ok(algorithms)
}

impl Algorithm {
    fn build(&self) -> Result<()> {
        let mut build = match self.language {
            Language::Python => self.python(["-m", "functional_scaffold.build"])?,
            Language::JavaScript => {
                self.install_packages()?;
                self.command("npm", ["run", "--silent", "build"])
            }
        };
        process::run("the build", &mut build, Some(BUILD_TIMEOUT))
    }

    /// Unlike `npm install`, a check of two times costs nothing.
    fn install_packages(&self) -> Result<()> {
        let modified = |file: &str| fs::metadata(self.folder.join(file))?.modified();
        // npm writes it last.
        let installed = modified("node_modules/.package-lock.json");
        let lock = modified("package-lock.json");
        // A new algorithm has no lock file yet.
        let wanted = lock.or_else(|_none| modified("package.json"))?;
        if installed.is_ok_and(|installed| installed >= wanted) {
            return Ok(());
        }
        let mut install = self.command("npm", ["install", "--no-audit", "--no-fund"]);
        process::run("npm install", &mut install, Some(INSTALL_TIMEOUT))
    }

    fn python<const N: usize>(&self, arguments: [&str; N]) -> Result<Command> {
        let python = python().with_context(|| format!("no {}", Language::Python.needs()))?;
        Ok(self.command(python, arguments))
    }

    fn command<const N: usize>(&self, program: impl AsRef<Path>, arguments: [&str; N]) -> Command {
        let mut command = command::program(program.as_ref());
        command.args(arguments).current_dir(&self.folder);
        command
    }
}

/// The first on PATH may be too old, or without Debian's package python3-venv.
fn python() -> Option<PathBuf> {
    let candidates = which::which("python3").ok().into_iter();
    let mut candidates = candidates.chain([PathBuf::from("/usr/bin/python3")]);
    candidates.find(|python| {
        let probe = "import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))";
        succeeds(command::program(python).args(["-c", probe]))
    })
}

fn has_node() -> bool {
    let probe = "process.exit(parseInt(process.versions.node) < 18 ? 1 : 0)";
    which::which("npm").is_ok() && succeeds(command::program("node").args(["-e", probe]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_in_a_folder_tells_the_language() {
        let parent = tempfile::tempdir().expect("a temporary folder");
        for (name, file) in [
            ("words-py", "pyproject.toml"),
            ("words-js", "package.json"),
            ("words-rust", "Cargo.toml"),
        ] {
            let folder = parent.path().join(name);
            fs::create_dir(&folder).expect("it can be made");
            fs::write(folder.join(file), "").expect("it can be written");
        }
        let found = find(&[parent.path().to_str().expect("UTF-8")]).expect("it is readable");
        let found: Vec<_> = found
            .iter()
            .map(|it| (it.folder.file_name().expect("a name"), it.language))
            .collect();
        let expected = [
            ("words-js".as_ref(), Language::JavaScript),
            ("words-py".as_ref(), Language::Python),
        ];
        assert_eq!(found, expected);
    }
}
