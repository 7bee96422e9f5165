//! `prime-check`: tells whether a number is prime, and gives its prime factors.

mod bindings;

use bindings::exports::functional_scaffold::algorithm::algorithm::{Description, Error, Guest};
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
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

struct Algorithm;

impl Guest for Algorithm {
    fn describe() -> Description {
        Description {
            name: env!("CARGO_PKG_NAME").to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            summary: "tells whether a number is prime, and gives its prime factors".to_owned(),
            input_schema: include_str!("input.schema.json").to_owned(),
        }
    }

    fn run(input: String) -> Result<String, Error> {
        let input = serde_json::from_str(&input)
            // Cut, because it may repeat a long field name.
            .map_err(|error| Error::InvalidInput(format!("{:.200}", error.to_string())))?;
        serde_json::to_string(&prime_check(input)).map_err(|error| Error::Failed(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(number: &str) -> String {
        let output = Algorithm::run(format!(r#"{{"number":{number}}}"#));
        output.unwrap_or_else(|error| error.to_string())
    }

    fn factors(number: u64) -> Vec<(u64, u32)> {
        let number = Integer(number);
        let factors = prime_check(Input { number }).factors.into_iter();
        factors.map(|f| (f.prime.0, f.exponent.into())).collect()
    }

    #[test]
    fn integers_above_2_to_the_53_are_strings() {
        let output = r#"{"number":17,"is_prime":true,"factors":[{"prime":17,"exponent":1}]}"#;
        assert_eq!([run("17"), run("17.0"), run(r#""17""#)], [output; 3]);
        let large = r#""18446744073709551557""#;
        assert_eq!(run(large), output.replace("17", large));
        assert_eq!(run(large), run(large.trim_matches('"')));
    }

    #[test]
    fn refused_values_are_named() {
        for number in r#"-1 1.5 18446744073709551616 null "abc" "+17" "017" "1.0""#.split(' ') {
            let error = run(number);
            assert!(error.starts_with("Error::InvalidInput"), "{error}");
            assert!(error.contains(number.trim_matches('"')), "{error}");
        }
        assert!(run(&"9".repeat(1 << 20)).len() < 300);
        assert!(run(r#"17,"base":10"#).contains("base"));
    }

    #[test]
    fn known_numbers_are_factored() {
        assert_eq!(run("0"), r#"{"number":0,"is_prime":false,"factors":[]}"#);
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
