//! The result's JSON: `{"number": 12, "is_prime": false, "factors":
//! [{"prime": 2, "exponent": 2}, {"prime": 3, "exponent": 1}]}`.
//!
//! An integer up to 2^53 - 1 is a JSON number; a larger one is a string of its
//! digits, since a client that keeps numbers as floats would round it. That
//! holds for `number` and for every `prime` alike.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

/// The largest integer that every JSON client keeps exact, with all integers
/// below it (RFC 8259, section 6): JavaScript's `Number.MAX_SAFE_INTEGER`.
const MAX_EXACT_INTEGER: u64 = (1 << 53) - 1;

/// What a run answers.
#[derive(Serialize)]
pub(crate) struct Output {
    number: JsonInteger,
    is_prime: bool,
    factors: Vec<Factor>,
}

#[derive(Serialize)]
struct Factor {
    prime: JsonInteger,
    exponent: u32,
}

/// An integer that reads back exactly in every client.
struct JsonInteger(u64);

impl Output {
    /// Describes `number`, whose prime factors (with exponents) are `factors`.
    pub(crate) fn new(number: u64, factors: &BTreeMap<u64, u32>) -> Self {
        Self {
            number: JsonInteger(number),
            is_prime: factors.contains_key(&number),
            factors: factors
                .iter()
                .map(|(&prime, &exponent)| Factor {
                    prime: JsonInteger(prime),
                    exponent,
                })
                .collect(),
        }
    }
}

impl Serialize for JsonInteger {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0 <= MAX_EXACT_INTEGER {
            serializer.serialize_u64(self.0)
        } else {
            serializer.collect_str(&self.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Output;
    use std::collections::BTreeMap;

    fn json(number: u64, factors: &[(u64, u32)]) -> String {
        let factors = BTreeMap::from_iter(factors.iter().copied());
        serde_json::to_string(&Output::new(number, &factors)).expect("plain data")
    }

    #[test]
    fn integers_above_2_to_53_are_strings() {
        // The number may be above the limit and its primes below, and the
        // largest exact integer is itself a number.
        assert_eq!(
            json(1 << 53, &[(2, 53)]),
            r#"{"number":"9007199254740992","is_prime":false,"factors":[{"prime":2,"exponent":53}]}"#,
        );
        assert!(json((1 << 53) - 1, &[]).starts_with(r#"{"number":9007199254740991,"#));
        assert_eq!(
            json(
                18_014_398_509_481_994,
                &[(2, 1), (9_007_199_254_740_997, 1)]
            ),
            concat!(
                r#"{"number":"18014398509481994","is_prime":false,"factors":["#,
                r#"{"prime":2,"exponent":1},{"prime":"9007199254740997","exponent":1}]}"#,
            ),
        );
    }
}
