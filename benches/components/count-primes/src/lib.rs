//! `count-primes`: how many primes there are up to a limit, by the sieve of
//! Eratosthenes. For the benchmarks, which want an algorithm that takes as long
//! as its input says: some 1 ms for the limit that they send.

mod bindings;
mod sieve;

use bindings::exports::functional_scaffold::algorithm::algorithm::{Description, Error, Guest};
use serde::{Deserialize, Serialize};

/// The algorithm, as the contract sees it.
pub struct Algorithm;

/// Bounds memory: a byte for every two numbers.
const GREATEST_LIMIT: u32 = 10_000_000;

#[derive(Deserialize)]
struct Input {
    limit: u32,
}

#[derive(Serialize)]
struct Output {
    limit: u32,
    primes: usize,
}

impl Guest for Algorithm {
    fn describe() -> Description {
        Description {
            name: env!("CARGO_PKG_NAME").to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            summary: "counts the primes up to a limit".to_owned(),
            input_schema: format!(
                r#"{{"type":"object","required":["limit"],"properties":{{"limit":{{"type":"integer","minimum":0,"maximum":{GREATEST_LIMIT}}}}}}}"#
            ),
        }
    }

    fn run(input: String) -> Result<String, Error> {
        let Input { limit } =
            serde_json::from_str(&input).map_err(|error| Error::InvalidInput(error.to_string()))?;
        if limit > GREATEST_LIMIT {
            let reason = format!("limit must not be above {GREATEST_LIMIT}: {limit}");
            return Err(Error::InvalidInput(reason));
        }
        let primes = sieve::count_primes(limit);
        serde_json::to_string(&Output { limit, primes })
            .map_err(|error| Error::Failed(error.to_string()))
    }
}
