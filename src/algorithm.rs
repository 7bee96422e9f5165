//! The sandboxed algorithm behind the contract in `wit/`, as composed into
//! this component by the manifest. Owns calling it and checking what it says.

use serde_json::value::RawValue;
use thiserror::Error;

use crate::clock::Mark;

mod bindings {
    #![allow(
        missing_docs,
        unsafe_code,
        unreachable_pub,
        clippy::all,
        clippy::missing_errors_doc,
        reason = "generated from wit/ by wit-bindgen"
    )]
    spin_sdk::wit_bindgen::generate!({
        path: "wit",
        inline: "package functional-scaffold:api@0.1.0;
                 world api { import functional-scaffold:algorithm/algorithm@0.1.0; }",
        runtime_path: "::spin_sdk::wit_bindgen::rt",
        generate_all,
    });
}

use bindings::functional_scaffold::algorithm::algorithm as contract;

/// What the algorithm says of itself, checked.
#[derive(Debug, Clone)]
pub struct Description {
    /// Its name, fit for a route and a label.
    pub name: String,
    /// Its version.
    pub version: String,
    /// One line on what it computes.
    pub summary: String,
    /// The JSON Schema of its input.
    pub input_schema: Box<RawValue>,
}

/// A description that breaks the contract.
#[derive(Debug, Error)]
pub enum DescriptionError {
    /// The name cannot be a route and a label.
    #[error("the algorithm's name {0:?} is not [a-z][a-z0-9-]* of at most 64 characters")]
    Name(String),
    /// The schema is not JSON.
    #[error("the algorithm's input schema is not JSON: {0}")]
    Schema(#[from] serde_json::Error),
}

/// How a run ended. A crash is not among them: it ends the instance.
#[derive(Debug)]
pub enum Outcome {
    /// A result.
    Success(Box<RawValue>),
    /// The input was refused, for this reason.
    InvalidInput(String),
    /// It could not finish, for this reason.
    Failed(String),
}

/// Asks the algorithm what it is.
///
/// # Errors
/// The description breaks the contract; the service cannot serve it then.
pub fn describe() -> Result<Description, DescriptionError> {
    let described = contract::describe();
    if !is_name(&described.name) {
        return Err(DescriptionError::Name(described.name));
    }
    Ok(Description {
        name: described.name,
        version: described.version,
        summary: described.summary,
        input_schema: RawValue::from_string(described.input_schema)?,
    })
}

/// Runs the algorithm, and says how many nanoseconds that took.
#[must_use]
pub fn run(input: &str) -> (Outcome, u64) {
    let began = Mark::now();
    let result = contract::run(input);
    let nanos = Mark::now().nanos_since(began);
    let outcome = match result {
        Ok(output) => match RawValue::from_string(output) {
            Ok(result) => Outcome::Success(result),
            Err(error) => Outcome::Failed(format!("the algorithm's result is not JSON: {error}")),
        },
        Err(contract::Error::InvalidInput(reason)) => Outcome::InvalidInput(reason),
        Err(contract::Error::Failed(reason)) => Outcome::Failed(reason),
    };
    (outcome, nanos)
}

fn is_name(name: &str) -> bool {
    name.len() <= 64
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::is_name;

    #[test]
    fn names_are_fit_for_routes_and_labels() {
        assert!(is_name("prime-check"));
        assert!(is_name(&"a".repeat(64)));
        for name in [
            "",
            "Prime",
            "1st",
            "a/b",
            "a\"b",
            "a b",
            "é",
            "-a",
            &"a".repeat(65),
        ] {
            assert!(!is_name(name), "{name:?}");
        }
    }
}
