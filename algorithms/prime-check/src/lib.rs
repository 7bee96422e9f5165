//! `prime-check`: tells whether a number is prime, and gives its prime factors.

use std::borrow::Cow;

use functional_scaffold_algorithm::algorithm;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Input {
    /// The number to check and factorise, from 0 to 18446744073709551615. Send it as
    /// a string of digits when it is above 9007199254740991 (2^53 - 1) and your
    /// client keeps numbers as floats; the result gives numbers above 2^53 - 1 as
    /// strings, too. 0 and 1 are not prime and have no factors.
    #[schemars(example = 17, example = "18446744073709551557")]
    number: Integer,
}

#[derive(Serialize)]
struct Output {
    number: Integer,
    is_prime: bool,
    factors: Vec<Factor>,
}

#[derive(Serialize)]
struct Factor {
    prime: Integer,
    exponent: u8,
}

/// Tells whether a number is prime, and gives its prime factors.
#[algorithm]
fn prime_check(Input { number }: Input) -> Output {
    let found = machine_factor::factorize(number.0);
    let mut factors = Vec::new();
    for (prime, exponent) in found.factors.map(Integer).into_iter().zip(found.powers) {
        // The crate fills unused places with 0, and lists 1 as a factor of 1.
        if prime > Integer(1) {
            factors.push(Factor { prime, exponent });
        }
    }
    factors.sort_unstable_by_key(|factor| factor.prime);
    Output {
        number,
        is_prime: factors.first().is_some_and(|first| first.prime == number),
        factors,
    }
}

/// A JSON number, or a string of its digits. Output above 2^53 - 1 is a string,
/// because many clients would round the number.
#[derive(Clone, Copy, Deserialize, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(try_from = "&RawValue", into = "Value")]
struct Integer(u64);

impl TryFrom<&RawValue> for Integer {
    type Error = String;

    fn try_from(json: &RawValue) -> Result<Self, String> {
        let json = json.get();
        let digits = json.strip_suffix(".0").unwrap_or(json).trim_matches('"');
        match digits.parse::<u64>() {
            Ok(value) if value.to_string() == digits => Ok(Self(value)),
            _ => Err(format!("not an integer from 0 to {}: {json:.40}", u64::MAX)),
        }
    }
}

impl From<Integer> for Value {
    fn from(Integer(value): Integer) -> Self {
        match value {
            ..0x20_0000_0000_0000 => value.into(),
            _ => value.to_string().into(),
        }
    }
}

impl JsonSchema for Integer {
    fn schema_name() -> Cow<'static, str> {
        "Integer".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                { "type": "integer", "minimum": 0, "maximum": u64::MAX },
                { "type": "string", "pattern": "^(0|[1-9][0-9]{0,19})$" },
            ],
        })
    }
}

#[cfg(test)]
mod tests {
    use functional_scaffold_algorithm::{Error, invoke};

    use super::*;

    fn run(number: &str) -> Result<String, Error> {
        invoke!(prime_check, &format!(r#"{{"number":{number}}}"#))
    }

    fn error(number: &str) -> String {
        match run(number) {
            Err(Error::InvalidInput(message)) => message,
            other => panic!("{number}: {other:?}"),
        }
    }

    fn factors(number: u64) -> Vec<(u64, u32)> {
        let number = Integer(number);
        let factors = prime_check(Input { number }).factors.into_iter();
        factors.map(|f| (f.prime.0, f.exponent.into())).collect()
    }

    #[test]
    fn integers_above_2_to_the_53_are_strings() {
        let output = r#"{"number":17,"is_prime":true,"factors":[{"prime":17,"exponent":1}]}"#;
        for number in ["17", "17.0", r#""17""#] {
            assert_eq!(run(number), Ok(output.to_owned()));
        }
        let large = r#""18446744073709551557""#;
        assert_eq!(run(large), Ok(output.replace("17", large)));
        assert_eq!(run(large), run(large.trim_matches('"')));
    }

    #[test]
    fn refused_values_are_named() {
        for number in r#"-1 1.5 18446744073709551616 null "abc" "+17" "017" "1.0""#.split(' ') {
            let error = error(number);
            let expected = "number: not an integer from 0 to 18446744073709551615: ";
            assert_eq!(error, format!("{expected}{number}"));
        }
        assert!(error(&"9".repeat(1 << 20)).len() < 300);
        assert!(error(r#"17,"base":10"#).contains("base"));
    }

    #[test]
    fn known_numbers_are_factored() {
        let output = r#"{"number":0,"is_prime":false,"factors":[]}"#;
        assert_eq!(run("0"), Ok(output.to_owned()));
        assert_eq!(factors(1), []);
        let (p, q) = (4_294_967_279, 4_294_967_291);
        assert_eq!(factors(p * q), [(p, 1), (q, 1)]);
        assert_eq!(factors(q * q), [(q, 2)]);
        assert_eq!(factors(65_521_u64.pow(4)), [(65_521, 4)]);
        assert_eq!(factors(1 << 63), [(2, 63)]);
    }

    proptest::proptest! {
        #[test]
        fn a_number_is_the_product_of_primes(small in 1_u64..1 << 20, large in 1_u64..) {
            for number in [small, large] {
                let factors = factors(number);
                assert_eq!(factors.iter().map(|(p, e)| p.pow(*e)).product::<u64>(), number);
                assert!(factors.iter().all(|(p, _)| (2..=p.isqrt().min(1024)).all(|d| p % d != 0)));
            }
        }
    }
}
