//! `cargo xtask prometheus-rule`: the rules of monitoring/ as a resource of
//! prometheus-operator. A test compares the committed file.

use std::fs;

use anyhow::{Context, Result};
use clap::Args;

const RULES: [&str; 2] = ["monitoring/recording.yaml", "monitoring/alerts/rules.yaml"];
const RESOURCE: &str = "deployment/spinkube/prometheus-rule.yaml";

const HEAD: &str = "\
# Generated from monitoring/recording.yaml and monitoring/alerts/rules.yaml by
#
#     cargo xtask prometheus-rule
#
# If the operator has a ruleSelector, add its label here (`release: …` for the
# Helm chart).
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: functional-scaffold
spec:
  groups:
";

/// Write the rules of monitoring/ to deployment/spinkube/prometheus-rule.yaml.
#[derive(Args)]
pub(crate) struct PrometheusRule {}

impl PrometheusRule {
    pub(crate) fn run(self) -> Result<()> {
        let mut rules = Vec::new();
        for file in RULES {
            rules.push(fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?);
        }
        fs::write(RESOURCE, resource(&rules)).with_context(|| format!("cannot write {RESOURCE}"))
    }
}

/// The resource with the groups of all files. Lines are moved, not parsed: this
/// keeps comments, and needs no YAML library.
fn resource(rules: &[String]) -> String {
    let mut resource = HEAD.to_owned();
    for rules in rules {
        let groups = rules.split_once("\ngroups:\n");
        for line in groups.map_or("", |(_, groups)| groups).lines() {
            let indent = if line.is_empty() { "" } else { "  " };
            resource.push_str(&format!("{indent}{line}\n"));
        }
    }
    resource
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_resource_holds_the_rules_of_monitoring() {
        let read = |file: &str| {
            let file = format!("{}/../{file}", env!("CARGO_MANIFEST_DIR"));
            fs::read_to_string(&file).expect(&file)
        };
        let expected = resource(&RULES.map(read));
        assert!(expected.contains("    - name: functional_scaffold_totals\n"));
        assert!(expected.contains("        - alert: HighErrorRate\n"));
        let hint = "run `cargo xtask prometheus-rule`";
        assert!(read(RESOURCE) == expected, "{RESOURCE} is old; {hint}");
    }
}
