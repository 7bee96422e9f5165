//! Expositions as other parsers read them.

use std::{collections::BTreeMap, process::Command};

use anyhow::ensure;

use crate::run_with_input;

/// Samples by name and sorted labels, in exposition syntax.
pub type Samples = BTreeMap<String, f64>;

/// Parses an exposition with Python's `prometheus_client`, the reference.
///
/// # Errors
/// The parser is missing or refuses the text.
pub fn parse_with_prometheus_client(text: &str) -> anyhow::Result<Samples> {
    const SCRIPT: &str = r#"
import json, sys
from prometheus_client.parser import text_string_to_metric_families
def escape(value):
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
samples = {}
for family in text_string_to_metric_families(sys.stdin.read()):
    for sample in family.samples:
        labels = ",".join(f'{name}="{escape(value)}"' for name, value in sorted(sample.labels.items()))
        key = sample.name + ("{" + labels + "}" if labels else "")
        assert key not in samples, f"{key} comes twice"
        samples[key] = sample.value
json.dump(samples, sys.stdout)
"#;
    // Debian's package serves Debian's python3, which may not be the first on PATH.
    let mut python = Command::new("/usr/bin/python3");
    python.args(["-c", SCRIPT]);
    let install = "install it with `apt-get install python3-prometheus-client`";
    Ok(serde_json::from_str(&run_with_input(
        &mut python,
        text,
        install,
    )?)?)
}

/// Checks an exposition with `promtool check metrics`, warnings included.
///
/// # Errors
/// promtool is missing or complains.
pub fn check_with_promtool(text: &str) -> anyhow::Result<()> {
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]);
    let install = "install it with `apt-get install prometheus`";
    let complaints = run_with_input(&mut promtool, text, install)?;
    ensure!(complaints.trim().is_empty(), "promtool: {complaints}");
    Ok(())
}

/// The sum of all samples of a name whose labels contain a text.
#[must_use]
pub fn sum(samples: &Samples, name: &str, label: &str) -> f64 {
    let is_one = |key: &str| {
        let labels = key.strip_prefix(name);
        labels.is_some_and(|labels| labels.starts_with('{') && labels.contains(label))
    };
    let matching = samples.iter().filter(|(key, _)| is_one(key));
    matching.map(|(_, value)| value).sum()
}
