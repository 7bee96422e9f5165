//! What is in `monitoring/` works: promtool accepts it, every alert has unit tests,
//! Grafana can show the dashboard, and a real Prometheus that scrapes the real
//! application under load gives every expression a plausible value, by each scheme.

mod expressions;
mod firing;
mod live;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};
use functional_scaffold_testkit::repository;
use serde_json::Value;

use crate::Result;

/// The columns of Grafana's grid.
const GRID_COLUMNS: u64 = 24;

fn monitoring() -> PathBuf {
    repository().join("monitoring")
}

fn promtool(arguments: &[&str], files: &[PathBuf]) -> Result {
    let mut promtool = Command::new("promtool");
    let output = promtool.args(arguments).args(files).output();
    let output = output.context("cannot start promtool; `apt-get install prometheus`")?;
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{promtool:?}:\n{text}");
    Ok(())
}

/// The unit tests of alerts and of recording rules.
fn unit_tests() -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(monitoring().join("alerts/tests"))?;
    let files: std::io::Result<Vec<_>> = entries.map(|entry| Ok(entry?.path())).collect();
    let mut files = files?;
    ensure!(!files.is_empty(), "no alert is tested");
    files.push(monitoring().join("recording_test.yaml"));
    Ok(files)
}

#[test]
fn promtool_accepts_configuration_and_rules() -> Result {
    promtool(&["check", "config"], &[monitoring().join("prometheus.yml")])?;
    let rules = ["recording.yaml", "alerts/rules.yaml"].map(|file| monitoring().join(file));
    promtool(&["check", "rules", "--lint=all", "--lint-fatal"], &rules)
}

#[test]
fn rules_pass_their_unit_tests() -> Result {
    promtool(&["test", "rules"], &unit_tests()?)
}

#[test]
fn every_alert_is_tested_to_fire_and_not_to_fire() -> Result {
    let rules = fs::read_to_string(monitoring().join("alerts/rules.yaml"))?;
    let mut tests = String::new();
    for file in unit_tests()? {
        tests += &fs::read_to_string(file)?;
    }
    // A test is `alertname:`, `eval_time:` and `exp_alerts:`, a line each.
    let lines: Vec<_> = tests.lines().map(str::trim).collect();
    let alerts = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "));
    let alerts: BTreeSet<_> = alerts.map(|name| name.trim_matches('"')).collect();
    ensure!(alerts.len() == 24, "{alerts:?}");
    for alert in alerts {
        let name = format!("- alertname: {alert}");
        let tests = lines.windows(3).filter(|test| test[0] == name);
        let expected: Vec<_> = tests.map(|test| test[2] == "exp_alerts: []").collect();
        ensure!(
            expected.contains(&true),
            "no test in which {alert} does not fire"
        );
        ensure!(expected.contains(&false), "no test in which {alert} fires");
    }
    Ok(())
}

/// The dashboard as it is committed.
fn dashboard() -> Result<Value> {
    let file = monitoring().join("grafana/dashboards/functional-scaffold.json");
    Ok(serde_json::from_str(&fs::read_to_string(file)?)?)
}

fn panels(dashboard: &Value) -> Result<&Vec<Value>> {
    dashboard["panels"].as_array().context("no panels")
}

#[test]
fn panels_are_numbered_and_none_covers_another() -> Result {
    let dashboard = dashboard()?;
    let mut cells = BTreeSet::new();
    for (index, panel) in panels(&dashboard)?.iter().enumerate() {
        let title = &panel["title"];
        ensure!(
            panel["id"] == index + 1,
            "{title} is number {}",
            panel["id"]
        );
        let side = |side: &str| {
            let length = panel["gridPos"][side].as_u64();
            length.with_context(|| format!("{title}: {side}"))
        };
        let (x, y, width, height) = (side("x")?, side("y")?, side("w")?, side("h")?);
        ensure!(x + width <= GRID_COLUMNS, "{title} is too far to the right");
        for cell in (x..x + width).flat_map(|x| (y..y + height).map(move |y| (x, y))) {
            ensure!(
                cells.insert(cell),
                "{title} covers another panel at {cell:?}"
            );
        }
    }
    Ok(())
}

#[test]
fn every_panel_is_described_and_queries_the_chosen_prometheus() -> Result {
    let dashboard = dashboard()?;
    let panels = panels(&dashboard)?.iter();
    for panel in panels.filter(|panel| panel["type"] != "row") {
        let title = &panel["title"];
        let description = panel["description"].as_str();
        let is_described = description.is_some_and(|text| text.ends_with('.'));
        ensure!(is_described, "{title} has no description");
        let datasource = &panel["datasource"];
        ensure!(
            datasource["uid"] == "${datasource}",
            "{title}: {datasource}"
        );
        let targets = panel["targets"].as_array();
        let targets = targets.with_context(|| format!("{title}: no targets"))?;
        let references = targets.iter().map(|target| target["refId"].as_str());
        let references: BTreeSet<_> = references.collect();
        let are_unique = references.len() == targets.len() && !references.contains(&None);
        ensure!(are_unique, "{title}: {references:?}");
    }
    Ok(())
}

#[test]
fn links_lead_to_runbooks_of_alerts() -> Result {
    let rules = fs::read_to_string(monitoring().join("alerts/rules.yaml"))?;
    let dashboard = dashboard()?;
    let links = panels(&dashboard)?
        .iter()
        .flat_map(|panel| panel["links"].as_array().into_iter().flatten())
        .map(|link| &link["url"]);
    let links: Vec<_> = links.collect();
    ensure!(links.len() > 10, "{links:?}");
    for link in links {
        let runbook = format!("runbook_url: {link}\n");
        ensure!(rules.contains(&runbook), "no alert has {link}");
    }
    Ok(())
}

#[test]
fn panels_use_recorded_series_of_the_chosen_job_and_scheme() -> Result {
    const CHOSEN: &str =
        r#"{cluster=~"$cluster", namespace=~"$namespace", job="$job", scheme="$scheme""#;
    for expression in expressions::of_dashboard(&dashboard()?)? {
        let (place, text) = (&expression.place, &expression.text);
        for metric in expressions::metrics(text) {
            let is_recorded = metric.starts_with("job_scheme:") || metric == "ALERTS";
            ensure!(is_recorded, "{place}: {metric}");
        }
        if place.starts_with("panel") && !text.contains("ALERTS") {
            let chosen = text.matches(CHOSEN).count();
            ensure!(chosen == text.matches('{').count(), "{place}: {text}");
        }
    }
    Ok(())
}

#[test]
fn dashboard_variables_that_are_used_are_defined() -> Result {
    let dashboard = dashboard()?;
    let defined = dashboard["templating"]["list"].as_array();
    let defined = defined.context("no variables")?.iter();
    let mut known: BTreeSet<_> = defined
        .filter_map(|variable| variable["name"].as_str())
        .collect();
    // Grafana's own; `$__all` is its value for all of them.
    known.extend(["__range", "__rate_interval", "__interval", "__all"]);
    let text = dashboard.to_string().replace("${", "$");
    for rest in text.split('$').skip(1) {
        let end = rest.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        let name = &rest[..end.unwrap_or(rest.len())];
        ensure!(known.contains(name), "${name} is not defined");
    }
    Ok(())
}

/// The documents in a folder, by path.
fn documents(folder: &Path) -> Result<Vec<(String, String)>> {
    let mut documents = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "md") {
            documents.push((path.display().to_string(), fs::read_to_string(&path)?));
        }
    }
    Ok(documents)
}
