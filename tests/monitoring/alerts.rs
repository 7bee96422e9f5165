//! What promtool says of configuration and rules.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};
use functional_scaffold_tests::repository;

use super::Result;

fn promtool(arguments: &[&str], files: &[PathBuf]) -> Result {
    let mut promtool = Command::new("promtool");
    let output = promtool.args(arguments).args(files).output();
    let output = output.context("cannot start promtool; `apt-get install prometheus`")?;
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{promtool:?}:\n{said}");
    Ok(())
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder)?.map(|entry| Ok(entry?.path()));
    let files: Vec<_> = entries.collect::<Result<_>>()?;
    ensure!(!files.is_empty(), "nothing in {}", folder.display());
    Ok(files)
}

#[test]
fn promtool_accepts_configuration_and_rules() -> Result {
    let monitoring = repository().join("monitoring");
    promtool(&["check", "config"], &[monitoring.join("prometheus.yml")])?;
    let rules = [
        monitoring.join("recording.yaml"),
        monitoring.join("alerts/rules.yaml"),
    ];
    promtool(&["check", "rules", "--lint=all", "--lint-fatal"], &rules)
}

#[test]
fn rules_pass_their_unit_tests() -> Result {
    let monitoring = repository().join("monitoring");
    let mut tests = files(&monitoring.join("alerts/tests"))?;
    tests.push(monitoring.join("recording_test.yaml"));
    promtool(&["test", "rules"], &tests)
}

#[test]
fn every_alert_is_tested_to_fire_and_not_to() -> Result {
    let monitoring = repository().join("monitoring");
    let rules = fs::read_to_string(monitoring.join("alerts/rules.yaml"))?;
    let mut tests = String::new();
    for file in files(&monitoring.join("alerts/tests"))? {
        tests += &fs::read_to_string(file)?;
    }
    // A test is `alertname:`, `eval_time:` and `exp_alerts:`, a line each.
    let lines: Vec<_> = tests.lines().map(str::trim).collect();
    let alerts: Vec<_> = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .collect();
    ensure!(alerts.len() == 8, "{alerts:?}");
    for alert in alerts {
        let name = format!("- alertname: {alert}");
        let expected: Vec<_> = lines
            .windows(3)
            .filter(|test| test[0] == name)
            .map(|test| test[2])
            .collect();
        let silent = expected
            .iter()
            .filter(|alerts| **alerts == "exp_alerts: []");
        let silent = silent.count();
        ensure!(silent > 0, "no test in which {alert} does not fire");
        ensure!(silent < expected.len(), "no test in which {alert} fires");
    }
    Ok(())
}
