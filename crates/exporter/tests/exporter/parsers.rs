//! The parsers of others: Python's `prometheus_client`, for both formats, and promtool.

use std::collections::BTreeMap;

use crate::support::{pipe, program};

/// Debian's python3, for its package; another may come first on PATH.
const PYTHON: &str = "/usr/bin/python3";

/// The exit code of promtool for a valid text with names that it criticises.
const LINT: &str = "3";

#[derive(Debug, Clone, Copy)]
pub(crate) enum Parser {
    Text,
    OpenMetrics,
}

/// Name, labels and value of a sample.
pub(crate) type Sample = (String, BTreeMap<String, String>, f64);

/// Reads many expositions in one process. Panics with the first that it refuses.
pub(crate) fn read_all(parser: Parser, texts: &[String]) -> Vec<Vec<Sample>> {
    const SCRIPT: &str = r#"
import json, sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as text
parse = {"Text": text, "OpenMetrics": open_metrics}[sys.argv[1]]
read = []
for exposition in json.load(sys.stdin.buffer):
    try:
        families = list(parse(exposition))
    except Exception as error:
        sys.exit(f"{exposition}\nis refused: {error!r}")
    samples = [s for family in families for s in family.samples]
    read.append([[s.name, s.labels, float(s.value)] for s in samples])
json.dump(read, sys.stdout)
"#;
    let input = serde_json::to_string(texts).expect("it serialises");
    let name = format!("{parser:?}");
    let package = "python3-prometheus-client";
    let mut command = program(&[PYTHON], package);
    command.args(["-c", SCRIPT, &name]);
    let (success, said) = pipe(&input, command);
    assert!(success, "prometheus_client ({name}): {said}");
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error} in {said}"))
}

/// Reads one exposition.
pub(crate) fn read(parser: Parser, text: &str) -> Vec<Sample> {
    read_all(parser, &[text.to_owned()]).remove(0)
}

/// Panics unless promtool can read a text. Its opinion on names does not matter.
pub(crate) fn check_with_promtool(text: &str) {
    let mut command = program(&["sh"], "dash");
    command.args(["-c", "promtool check metrics; echo code $?"]);
    let (_, said) = pipe(text, command);
    let code = said.lines().find_map(|line| line.strip_prefix("code "));
    let success = matches!(code, Some("0" | LINT));
    assert!(success, "promtool: {said} in\n{text}");
}
