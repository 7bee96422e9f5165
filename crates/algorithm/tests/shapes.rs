//! Shapes of functions that can be algorithms. None causes a warning, whatever
//! lints its crate has.

#![deny(warnings, missing_docs, unreachable_pub, unsafe_code, clippy::pedantic)]

use std::borrow::Cow;
use std::collections::HashMap;

use functional_scaffold_algorithm::{Error, algorithm, invoke};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Deserialize, JsonSchema)]
struct Point {
    x: f64,
    y: f64,
}

/// Takes its argument apart.
#[algorithm]
fn length(Point { x, y }: Point) -> f64 {
    x.hypot(y)
}

#[algorithm(name = "undocumented", version = "2", summary = "has no doc comment")]
fn undocumented(number: u64) -> u64 {
    number
}

/// Has the name of what the macro calls its own argument.
#[algorithm]
fn input(words: Vec<Cow<'static, str>>) -> impl Serialize {
    words.concat()
}

/// Returns nothing.
#[algorithm]
fn nothing(_: Option<bool>) {}

/// Is public, constant and annotated.
#[algorithm]
#[must_use]
pub const fn constant(number: u8) -> u8 {
    number
}

type Outcome<T> = std::result::Result<T, Error>;

/// Has an alias of `Result`.
#[algorithm]
fn aliased(counts: HashMap<String, u64>) -> Outcome<u64> {
    let sum = counts
        .values()
        .try_fold(0_u64, |sum, n| sum.checked_add(*n));
    sum.ok_or_else(|| Error::failed("the sum is above 2^64 - 1"))
}

#[test]
fn functions_of_any_shape_are_invoked() {
    let json = |text: &str| Ok(text.to_owned());
    assert_eq!(invoke!(length, r#"{"x": 3, "y": 4}"#), json("5.0"));
    assert_eq!(invoke!(undocumented, "7"), json("7"));
    assert_eq!(invoke!(input, r#"["a", "b"]"#), json(r#""ab""#));
    assert_eq!(invoke!(nothing, "null"), json("null"));
    assert_eq!(invoke!(constant, "1"), json("1"));
    assert_eq!(invoke!(aliased, r#"{"a": 1, "b": 2}"#), json("3"));
    let failed = Err(Error::Failed("the sum is above 2^64 - 1".to_owned()));
    let largest = format!(r#"{{"a": {}, "b": 1}}"#, u64::MAX);
    assert_eq!(invoke!(aliased, &largest), failed);
}
