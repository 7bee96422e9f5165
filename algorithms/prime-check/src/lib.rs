//! `prime-check`: whether a number is prime, and its prime factors.
//!
//! A component for the contract in `wit/algorithm.wit`. It needs nothing from
//! its host, equal inputs give equal results, and no input makes it panic (a
//! panic would be a trap) or run on without end.
//!
//! # Layout
//! - `lib`: the contract: describes the algorithm and runs it.
//! - `input`, `input.schema.json`: what is accepted, and how refusals read.
//! - `output`: the result's JSON.
//! - `factor`, `curve`, `primality`, `montgomery`: the algorithm, on plain integers.
//! - `decimal`: exact integers from JSON's numbers.
//!
//! To make another algorithm, copy the folder, keep `lib` and the shape of
//! `input` and `output`, and replace the rest.

mod bindings;
mod curve;
mod decimal;
mod factor;
mod input;
mod montgomery;
mod output;
mod primality;

use bindings::exports::functional_scaffold::algorithm::algorithm::{Description, Error, Guest};

/// The algorithm, as the contract sees it.
pub struct Algorithm;

impl Guest for Algorithm {
    fn describe() -> Description {
        Description {
            name: env!("CARGO_PKG_NAME").to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            summary: "tells whether a number below 2^64 is prime, and its prime factors; \
                      numbers above 2^53 - 1 are answered as strings"
                .to_owned(),
            input_schema: include_str!("input.schema.json").to_owned(),
        }
    }

    fn run(input: String) -> Result<String, Error> {
        let number =
            input::parse(&input).map_err(|error| Error::InvalidInput(error.to_string()))?;
        let factors =
            factor::factorize(number).map_err(|error| Error::Failed(error.to_string()))?;
        let output = output::Output::new(number, &factors);
        serde_json::to_string(&output).map_err(|error| Error::Failed(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::{Algorithm, Description, Error, Guest};

    #[test]
    fn describes_itself_within_the_contract() {
        let Description {
            name,
            version,
            summary,
            input_schema,
        } = Algorithm::describe();
        assert_eq!(name, "prime-check");
        assert!(!version.is_empty());
        assert_eq!(summary.lines().count(), 1);
        let schema: serde_json::Value = serde_json::from_str(&input_schema).expect("JSON");
        assert_eq!(schema["required"][0], "number");
    }

    #[test]
    fn answers_in_the_documented_shape() {
        for (input, output) in [
            (
                r#"{"number": 17}"#,
                r#"{"number":17,"is_prime":true,"factors":[{"prime":17,"exponent":1}]}"#,
            ),
            (
                r#"{"number": "12"}"#,
                r#"{"number":12,"is_prime":false,"factors":[{"prime":2,"exponent":2},{"prime":3,"exponent":1}]}"#,
            ),
            (
                r#"{"number": 0}"#,
                r#"{"number":0,"is_prime":false,"factors":[]}"#,
            ),
            (
                r#"{"number": 1}"#,
                r#"{"number":1,"is_prime":false,"factors":[]}"#,
            ),
            (
                r#"{"number": 2}"#,
                r#"{"number":2,"is_prime":true,"factors":[{"prime":2,"exponent":1}]}"#,
            ),
        ] {
            assert_eq!(Algorithm::run(input.to_owned()).expect("an answer"), output);
        }
    }

    #[test]
    fn refuses_a_wrong_input_as_the_callers_fault() {
        let error = Algorithm::run(r#"{"number": -1}"#.to_owned()).expect_err("a refusal");
        assert!(
            matches!(&error, Error::InvalidInput(message) if message == "number must not be negative: -1"),
            "{error:?}"
        );
    }
}
