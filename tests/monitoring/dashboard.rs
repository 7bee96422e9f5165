//! That Grafana can show the dashboard, as far as that is seen without one.

use std::{collections::BTreeSet, fs};

use anyhow::{Context as _, ensure};
use functional_scaffold_tests::{expressions, repository};
use serde_json::Value;

use super::Result;

const GRID_COLUMNS: u64 = 24;

/// The dashboard as it is committed.
pub(crate) fn read() -> Result<Value> {
    let file = repository().join("monitoring/grafana/dashboards/functional-scaffold.json");
    Ok(serde_json::from_str(&fs::read_to_string(file)?)?)
}

fn panels(dashboard: &Value) -> Result<&Vec<Value>> {
    dashboard["panels"].as_array().context("no panels")
}

#[test]
fn panels_are_numbered_and_none_covers_another() -> Result {
    let dashboard = read()?;
    let mut cells = BTreeSet::new();
    for (index, panel) in panels(&dashboard)?.iter().enumerate() {
        let title = &panel["title"];
        ensure!(
            panel["id"] == index + 1,
            "{title} is number {}",
            panel["id"]
        );
        let side = |side: &str| {
            panel["gridPos"][side]
                .as_u64()
                .with_context(|| format!("{title}: {side}"))
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
fn every_panel_says_what_it_shows_and_asks_the_chosen_prometheus() -> Result {
    let dashboard = read()?;
    for panel in panels(&dashboard)?
        .iter()
        .filter(|panel| panel["type"] != "row")
    {
        let title = &panel["title"];
        let described = panel["description"]
            .as_str()
            .is_some_and(|text| text.ends_with('.'));
        ensure!(described, "{title} has no description");
        ensure!(
            panel["datasource"]["uid"] == "${datasource}",
            "{title}: {}",
            panel["datasource"]
        );
        let targets = panel["targets"]
            .as_array()
            .with_context(|| format!("{title}: no targets"))?;
        let references: BTreeSet<_> = targets
            .iter()
            .map(|target| target["refId"].as_str())
            .collect();
        ensure!(
            references.len() == targets.len() && !references.contains(&None),
            "{title}: {references:?}"
        );
    }
    Ok(())
}

#[test]
fn expressions_are_on_recorded_series_of_the_chosen_job_and_scheme() -> Result {
    for expression in expressions::of_dashboard(&read()?)? {
        let text = &expression.text;
        for metric in expressions::metrics(text) {
            let recorded = metric.starts_with("job_scheme:") || metric == "ALERTS";
            ensure!(recorded, "{}: {metric}", expression.place);
        }
        if expression.place.starts_with("panel") && !text.contains("ALERTS") {
            let chosen = text.matches(r#"{job="$job", scheme="$scheme""#).count();
            ensure!(
                chosen == text.matches('{').count(),
                "{}: {text}",
                expression.place
            );
        }
    }
    Ok(())
}

#[test]
fn variables_that_are_used_are_defined() -> Result {
    let dashboard = read()?;
    let defined = dashboard["templating"]["list"]
        .as_array()
        .context("no variables")?;
    let mut known: BTreeSet<_> = defined
        .iter()
        .filter_map(|variable| variable["name"].as_str())
        .collect();
    known.extend(["__range", "__rate_interval"]);
    let text = dashboard.to_string().replace("${", "$");
    let used = text.split('$').skip(1).map(|rest| {
        let end = rest.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        &rest[..end.unwrap_or(rest.len())]
    });
    // `$__all` is Grafana's value for all of them, not a variable.
    for name in used.filter(|name| *name != "__all") {
        ensure!(known.contains(name), "${name} is not defined");
    }
    Ok(())
}
