//! Selectors: a family, `jobs_total`, or its series with certain labels,
//! `jobs_total{kind="nightly"}`, in any order and with any spaces between labels.

use std::{fmt, str::FromStr};

use functional_scaffold_protocol::labels::{LabelsError, check_labels};
use thiserror::Error;

use crate::scrape::labels::{label, split};

/// Selects a family or some of its series.
#[derive(Debug, Clone)]
pub(crate) struct Selector {
    pub(crate) family: String,
    /// The labels that a series must have, as in a label set. None selects the family,
    /// and an empty list all its series.
    pub(crate) labels: Option<Vec<String>>,
}

#[derive(Debug, Error)]
pub(crate) enum SelectorError {
    #[error("{0:?} is not of the form NAME or NAME{{label=\"value\",…}}")]
    Form(String),
    #[error("{text:?}: {error}")]
    Labels {
        text: String,
        #[source]
        error: LabelsError,
    },
}

impl fmt::Display for Selector {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.labels {
            None => out.write_str(&self.family),
            Some(labels) => write!(out, "{}{{{}}}", self.family, labels.join(",")),
        }
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        let form = || SelectorError::Form(text.to_owned());
        let (family, labels) = match text.split_once('{') {
            None => (text, None),
            Some((family, rest)) => {
                let inner = rest.trim_end().strip_suffix('}').ok_or_else(form)?;
                let mut labels: Vec<String> = split(inner)
                    .map(|label| label.trim().to_owned())
                    .filter(|label| !label.is_empty())
                    .collect();
                labels.sort_unstable();
                check_labels(&labels.join(",")).map_err(|error| SelectorError::Labels {
                    text: text.to_owned(),
                    error,
                })?;
                (family.trim(), Some(labels))
            }
        };
        if family.is_empty() {
            return Err(form());
        }
        Ok(Self {
            family: family.to_owned(),
            labels,
        })
    }
}

impl Selector {
    /// Whether the series of the family with this label set is selected.
    pub(crate) fn matches(&self, labels: &str) -> bool {
        self.labels.iter().flatten().all(|wanted| {
            let name = wanted.split_once('=').map_or("", |(name, _)| name);
            label(labels, name) == Some(wanted)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Selector {
        text.parse().expect("a selector")
    }

    #[test]
    fn a_name_selects_the_family_and_labels_select_series() {
        assert_eq!(parse("jobs_total").labels, None);
        assert_eq!(parse("no metric name").family, "no metric name");
        assert_eq!(parse("jobs_total{}").labels, Some(vec![]));
        assert_eq!(parse("jobs_total {b=\"x\"}").family, "jobs_total");
    }

    #[test]
    fn a_series_with_all_the_labels_matches() {
        let both = r#"a="x, \"y\"}",b="{""#;
        for (selector, matches) in [
            ("f{}", true),
            (r#"f{b="{"}"#, true),
            (r#"f{ b="{" , a="x, \"y\"}" }"#, true),
            (r#"f{b="{",}"#, true),
            (r#"f{b="other"}"#, false),
            (r#"f{c="{"}"#, false),
        ] {
            assert_eq!(parse(selector).matches(both), matches, "{selector}");
        }
        assert!(parse("f{}").matches(""));
        assert!(!parse(r#"f{a="1"}"#).matches(""));
    }

    #[test]
    fn invalid_selectors_are_refused() {
        for text in [
            "",
            "{}",
            "f{",
            "f}x{",
            "f{a}",
            "f{a=1}",
            "f{a=\"\"}",
            "f{a=\"1}",
            "f{a=\"1\",a=\"2\"}",
            "f{le=\"1\"}",
        ] {
            assert!(text.parse::<Selector>().is_err(), "{text}");
        }
    }
}
