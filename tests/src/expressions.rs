//! Every PromQL expression that the repository holds: of dashboards and of
//! documents (rules are asked of [`crate::prometheus`], which has loaded them),
//! and which metrics an expression names.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context as _, bail};
use serde_json::Value;

/// An expression, and where it is.
#[derive(Debug, Clone)]
pub struct Expression {
    /// Where it is, to be found by.
    pub place: String,
    /// What its values are: Grafana's name of the panel's unit.
    pub unit: String,
    /// The expression, variables in it.
    pub text: String,
}

/// The expressions of a dashboard: those of its panels, and for a variable's
/// `label_values(<selector>, <label>)` the label's values.
///
/// # Errors
/// It is not a dashboard.
pub fn of_dashboard(dashboard: &Value) -> anyhow::Result<Vec<Expression>> {
    let mut expressions = Vec::new();
    for panel in dashboard["panels"].as_array().context("no panels")? {
        let place = format!("panel {} ({})", panel["id"], panel["title"]);
        let unit = &panel["fieldConfig"]["defaults"]["unit"];
        for target in panel["targets"].as_array().into_iter().flatten() {
            expressions.push(Expression {
                place: place.clone(),
                unit: unit
                    .as_str()
                    .with_context(|| format!("{place}: no unit"))?
                    .to_owned(),
                text: target["expr"]
                    .as_str()
                    .with_context(|| format!("{place}: no expr"))?
                    .to_owned(),
            });
        }
    }
    for variable in dashboard["templating"]["list"]
        .as_array()
        .into_iter()
        .flatten()
    {
        if variable["type"] != "query" {
            continue;
        }
        let query = variable["query"]["query"]
            .as_str()
            .context("a variable's query")?;
        let arguments = query
            .strip_prefix("label_values(")
            .and_then(|rest| rest.strip_suffix(')'));
        let Some((selector, label)) = arguments.and_then(|arguments| arguments.rsplit_once(','))
        else {
            bail!("{query:?} is not label_values(<selector>, <label>)");
        };
        expressions.push(Expression {
            place: format!("variable {}", variable["name"]),
            unit: "short".to_owned(),
            text: format!("count by ({}) ({selector})", label.trim()),
        });
    }
    Ok(expressions)
}

/// The expressions of a document: its code blocks marked `promql`, in which an
/// empty line separates one from the next.
#[must_use]
pub fn of_document(place: &str, text: &str) -> Vec<Expression> {
    let mut expressions = Vec::new();
    for block in text.split("```promql\n").skip(1) {
        let block = block.split("```").next().unwrap_or_default();
        for text in block.split("\n\n").filter(|text| !text.trim().is_empty()) {
            expressions.push(Expression {
                place: place.to_owned(),
                unit: "short".to_owned(),
                text: text.trim().to_owned(),
            });
        }
    }
    expressions
}

/// The documents below a folder, by path.
///
/// # Errors
/// They cannot be read.
pub fn documents(folder: &Path) -> anyhow::Result<Vec<(String, String)>> {
    let mut documents = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "md") {
            documents.push((path.display().to_string(), fs::read_to_string(&path)?));
        }
    }
    Ok(documents)
}

/// Puts values for Grafana's variables.
#[must_use]
pub fn substitute(expression: &str, variables: &[(&str, &str)]) -> String {
    // The longest name first: `$__range` begins another one.
    let mut variables = variables.to_vec();
    variables.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
    let mut expression = expression.to_owned();
    for (name, value) in variables {
        expression = expression.replace(&format!("${name}"), value);
    }
    expression
}

/// The metrics that an expression names: words that are not a function's, a
/// label's, an operator's or a duration's.
#[must_use]
pub fn metrics(expression: &str) -> BTreeSet<String> {
    const OPERATORS: [&str; 8] = [
        "and", "or", "unless", "offset", "bool", "on", "ignoring", "atan2",
    ];
    const GROUPINGS: [&str; 6] = [
        "by",
        "without",
        "on",
        "ignoring",
        "group_left",
        "group_right",
    ];
    let is_word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == ':';
    let mut names = BTreeSet::new();
    let mut rest = expression;
    let mut grouping = false;
    while let Some(letter) = rest.chars().next() {
        if is_word(letter) {
            let end = rest.find(|letter| !is_word(letter)).unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            let is_function = after.trim_start().starts_with('(');
            grouping = GROUPINGS.contains(&word);
            let is_number = letter.is_ascii_digit();
            if !is_function
                && !is_number
                && !grouping
                && !OPERATORS.contains(&word)
                && !is_aggregation(word)
            {
                names.insert(word.to_owned());
            }
            rest = after;
            continue;
        }
        let closing = match letter {
            '{' => Some('}'),
            '[' => Some(']'),
            '"' => Some('"'),
            '(' if grouping => Some(')'),
            _ => None,
        };
        let skipped = closing
            .and_then(|closing| rest[1..].find(closing))
            .map_or(0, |found| found + 1);
        grouping = grouping && letter.is_whitespace();
        rest = &rest[skipped + letter.len_utf8()..];
    }
    names
}

/// Aggregations, after which `by (…)` may stand instead of the parenthesis.
fn is_aggregation(word: &str) -> bool {
    [
        "sum", "min", "max", "avg", "count", "topk", "bottomk", "quantile", "stddev", "group",
    ]
    .contains(&word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_metrics_and_nothing_else() {
        for (expression, expected) in [
            ("up", vec!["up"]),
            (
                "sum by (job, scheme) (rate(a_total{job=\"b\",c=~\"d|e\"}[5m])) / 300",
                vec!["a_total"],
            ),
            (
                "max without (instance) (a:b) or sum without (x) (c) * 0",
                vec!["a:b", "c"],
            ),
            (
                "(a > 0 unless a offset 10m) and on (job) b offset 1h == 1",
                vec!["a", "b"],
            ),
            (
                "histogram_quantile(0.99, a_bucket:rate5m{le=\"}\"}) > 1e3",
                vec!["a_bucket:rate5m"],
            ),
            ("a / on () group_left (version) b", vec!["a", "b"]),
            ("time() - a or vector(0)", vec!["a"]),
        ] {
            let expected: BTreeSet<String> = expected.into_iter().map(str::to_owned).collect();
            assert_eq!(metrics(expression), expected, "{expression}");
        }
    }

    #[test]
    fn finds_the_expressions_of_a_document() {
        let text =
            "a\n```promql\nup\n```\nb\n```sh\ndate\n```\n```promql\nsum(\n  a\n)\n\nb\n```\n";
        let found: Vec<_> = of_document("x", text)
            .into_iter()
            .map(|found| found.text)
            .collect();
        assert_eq!(found, ["up", "sum(\n  a\n)", "b"]);
    }

    #[test]
    fn puts_in_the_longer_variable_first() {
        let variables = [("__range", "5m"), ("__range_s", "300"), ("job", "j")];
        let substituted = substitute("$job $__range_s $__range", &variables);
        assert_eq!(substituted, "j 300 5m");
    }
}
