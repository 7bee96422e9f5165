//! The PromQL expressions of dashboards and documents, and the metrics that an
//! expression names.

use std::collections::BTreeSet;

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::Result;

/// An expression and its place.
#[derive(Debug, Clone)]
pub(super) struct Expression {
    /// The document or panel that has it.
    pub(super) place: String,
    /// Grafana's name of the panel's unit.
    pub(super) unit: String,
    /// The expression, with Grafana's variables.
    pub(super) text: String,
}

/// The expressions of a dashboard: those of its panels and annotations, and for a variable's
/// `label_values(<selector>, <label>)` the label's values.
pub(super) fn of_dashboard(dashboard: &Value) -> Result<Vec<Expression>> {
    let mut expressions = Vec::new();
    for panel in dashboard["panels"].as_array().context("no panels")? {
        let place = format!("panel {} ({})", panel["id"], panel["title"]);
        let text = |value: &Value, missing: &str| {
            let text = value.as_str().map(str::to_owned);
            text.with_context(|| format!("{place}: no {missing}"))
        };
        for target in panel["targets"].as_array().into_iter().flatten() {
            expressions.push(Expression {
                place: place.clone(),
                unit: text(&panel["fieldConfig"]["defaults"]["unit"], "unit")?,
                text: text(&target["expr"], "expr")?,
            });
        }
    }
    for annotation in dashboard["annotations"]["list"]
        .as_array()
        .into_iter()
        .flatten()
    {
        expressions.push(Expression {
            place: format!("annotation {}", annotation["name"]),
            unit: "short".to_owned(),
            text: annotation["expr"].as_str().context("expr")?.to_owned(),
        });
    }
    let variables = dashboard["templating"]["list"].as_array().into_iter();
    for variable in variables
        .flatten()
        .filter(|variable| variable["type"] == "query")
    {
        let query = variable["query"]["query"]
            .as_str()
            .context("a variable's query")?;
        let arguments = query.strip_prefix("label_values(");
        let arguments = arguments.and_then(|rest| rest.strip_suffix(')'));
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
pub(super) fn of_document(place: &str, text: &str) -> Vec<Expression> {
    let blocks = text.split("```promql\n").skip(1);
    let blocks = blocks.filter_map(|block| block.split("```").next());
    let texts = blocks.flat_map(|block| block.split("\n\n"));
    texts
        .filter(|text| !text.trim().is_empty())
        .map(|text| Expression {
            place: place.to_owned(),
            unit: "short".to_owned(),
            text: text.trim().to_owned(),
        })
        .collect()
}

/// Replaces Grafana's variables by values.
pub(super) fn substitute(expression: &str, variables: &[(&str, &str)]) -> String {
    // The longest name first: `$__range` begins another one.
    let mut variables = variables.to_vec();
    variables.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
    let replace =
        |text: String, (name, value): (&str, &str)| text.replace(&format!("${name}"), value);
    variables.into_iter().fold(expression.to_owned(), replace)
}

/// The metrics that an expression names: words that are not a function, a label, an
/// operator or a duration.
pub(super) fn metrics(expression: &str) -> BTreeSet<String> {
    /// Words before a list of labels.
    const GROUPINGS: [&str; 6] = [
        "by",
        "without",
        "on",
        "ignoring",
        "group_left",
        "group_right",
    ];
    /// Operators, and aggregations that may stand before `by (…)`.
    const KEYWORDS: [&str; 16] = [
        "and", "or", "unless", "offset", "bool", "atan2", "sum", "min", "max", "avg", "count",
        "topk", "bottomk", "quantile", "stddev", "group",
    ];
    let is_word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == ':';
    let mut names = BTreeSet::new();
    let mut rest = expression;
    let mut after_grouping = false;
    while let Some(letter) = rest.chars().next() {
        let length = if is_word(letter) {
            let length = rest.find(|letter| !is_word(letter)).unwrap_or(rest.len());
            let (word, after) = rest.split_at(length);
            after_grouping = GROUPINGS.contains(&word);
            let is_other = after_grouping
                || KEYWORDS.contains(&word)
                || letter.is_ascii_digit()
                || after.trim_start().starts_with('(');
            if !is_other {
                names.insert(word.to_owned());
            }
            length
        } else if letter == '$' {
            // One of Grafana's variables.
            let end = rest[1..].find(|letter| !is_word(letter));
            end.map_or(rest.len(), |end| end + 1)
        } else {
            let closing = match letter {
                '{' => Some('}'),
                '[' => Some(']'),
                '"' => Some('"'),
                '(' if after_grouping => Some(')'),
                _ => None,
            };
            after_grouping &= letter.is_whitespace();
            let found = closing.and_then(|closing| rest[1..].find(closing));
            found.map_or(letter.len_utf8(), |found| found + 2)
        };
        rest = &rest[length..];
    }
    names
}

#[test]
fn metrics_are_told_from_other_words() {
    for (expression, expected) in [
        ("up", &["up"][..]),
        (
            "sum by (job, scheme) (rate(a_total{job=\"b\",c=~\"d|e\"}[5m])) / 300",
            &["a_total"],
        ),
        (
            "max without (instance) (a:b) or sum without (x) (c) * 0",
            &["a:b", "c"],
        ),
        (
            "(a > 0 unless a offset 10m) and on (job) b offset 1h == 1",
            &["a", "b"],
        ),
        (
            "histogram_quantile(0.99, a_bucket:rate5m{le=\"}\"}) > 1e3",
            &["a_bucket:rate5m"],
        ),
        ("a / on () group_left (version) b", &["a", "b"]),
        ("time() - a or vector(0)", &["a"]),
        ("a unless a offset $__interval or b", &["a", "b"]),
    ] {
        let found: Vec<_> = metrics(expression).into_iter().collect();
        assert_eq!(found, expected, "{expression}");
    }
}

#[test]
fn a_documents_blocks_are_split_at_empty_lines() {
    let text = "a\n```promql\nup\n```\nb\n```sh\ndate\n```\n```promql\nsum(\n  a\n)\n\nb\n```\n";
    let found = of_document("x", text).into_iter().map(|found| found.text);
    assert_eq!(found.collect::<Vec<_>>(), ["up", "sum(\n  a\n)", "b"]);
}

#[test]
fn the_longer_variable_is_replaced_first() {
    let variables = [("__range", "5m"), ("__range_s", "300"), ("job", "j")];
    let substituted = substitute("$job $__range_s $__range", &variables);
    assert_eq!(substituted, "j 300 5m");
}
