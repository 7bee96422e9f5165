//! What a command is to be about: a family, `jobs_total`, or those of its series
//! that have some labels, `jobs_total{kind="nightly"}`. Owns how that is written
//! and what it matches; any order and spaces between labels will do.

use std::{fmt, str::FromStr};

use functional_scaffold_protocol::labels::{LabelsError, check_labels};
use thiserror::Error;

use crate::labels::{label, split};

/// A family, or some of its series.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    /// The family's name.
    pub family: String,
    /// The labels that its series must have, as they are written in a label
    /// set. None is the family as a whole, and no labels are all its series.
    pub labels: Option<Vec<String>>,
}

/// Why a text selects nothing.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SelectorError {
    /// There is a `{` and no `}` at the end, or no name before it.
    #[error("{0:?} is not of the form NAME or NAME{{label=\"value\",…}}")]
    Form(String),
    /// What is in the braces is no label set.
    #[error("{text:?}: {error}")]
    Labels {
        /// The whole selector.
        text: String,
        /// What is wrong with the labels.
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
    /// Whether a series of the family with this label set is selected.
    #[must_use]
    pub fn matches(&self, labels: &str) -> bool {
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
    fn a_name_is_the_family_and_labels_are_some_of_its_series() {
        assert_eq!(parse("jobs_total").labels, None);
        assert_eq!(parse("no metric name").family, "no metric name");
        assert_eq!(parse("jobs_total{}").labels, Some(vec![]));
        assert_eq!(parse("jobs_total {b=\"x\"}").family, "jobs_total");
    }

    #[test]
    fn series_match_that_have_all_the_labels() {
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
    fn what_selects_nothing_is_refused() {
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
