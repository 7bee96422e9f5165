//! The Rust example of docs/coming-from-python.md, which shows all below this line.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use functional_scaffold_algorithm::algorithm;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Deserialize, JsonSchema)]
struct Input {
    text: String,
    #[serde(default = "ten")]
    top: usize,
}

fn ten() -> usize {
    10
}

#[derive(Debug, PartialEq, Serialize)]
struct Output {
    words: usize,
    most_common: Vec<(String, usize)>,
}

/// Counts the words of a text, and how often the most common ones occur.
#[algorithm]
fn word_count(input: Input) -> Output {
    let mut counts = BTreeMap::new();
    for word in input.text.to_lowercase().split_whitespace() {
        *counts.entry(word.to_owned()).or_insert(0) += 1;
    }
    let words = counts.values().sum();
    let mut most_common: Vec<_> = counts.into_iter().collect();
    most_common.sort_by_key(|(_, count)| Reverse(*count));
    most_common.truncate(input.top);
    Output { words, most_common }
}

#[test]
fn counts_words() {
    let text = "to be or not to be".to_owned();
    let most_common = vec![("be".to_owned(), 2), ("to".to_owned(), 2)];
    let expected = Output {
        words: 6,
        most_common,
    };
    assert_eq!(word_count(Input { text, top: 2 }), expected);
}
