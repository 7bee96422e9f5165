//! `count-primes`: counts the primes up to a limit, for the benchmarks. Its
//! time grows with the input: about 1 ms for the limit that they send.

mod bindings;

use bindings::exports::functional_scaffold::algorithm::algorithm::{Description, Error, Guest};
use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
struct Input {
    limit: u32,
}

#[derive(Serialize)]
struct Output {
    limit: u32,
    primes: usize,
}

/// Bounds memory to 5 MB: one byte for two numbers.
const MAX_LIMIT: u32 = 10_000_000;

/// Counts the primes up to `limit`, inclusive, with a sieve of Eratosthenes
/// over the odd numbers.
fn count_primes(limit: u32) -> usize {
    if limit < 2 {
        return 0;
    }
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    // Index `i` is the number 2i + 1. Index 0 is counted for 2, since 1 is not prime.
    let mut is_composite = vec![false; limit.div_ceil(2)];
    let mut factor = 3;
    while factor * factor <= limit {
        if !is_composite[factor / 2] {
            for multiple in is_composite
                .iter_mut()
                .skip(factor * factor / 2)
                .step_by(factor)
            {
                *multiple = true;
            }
        }
        factor += 2;
    }
    is_composite.iter().filter(|composite| !**composite).count()
}

struct Algorithm;

impl Guest for Algorithm {
    fn describe() -> Description {
        Description {
            name: env!("CARGO_PKG_NAME").to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            summary: "counts the primes up to a limit".to_owned(),
            input_schema: format!(
                r#"{{"type":"object","required":["limit"],"properties":{{"limit":{{"type":"integer","minimum":0,"maximum":{MAX_LIMIT}}}}}}}"#
            ),
        }
    }

    fn run(input: String) -> Result<String, Error> {
        let Input { limit } =
            serde_json::from_str(&input).map_err(|error| Error::InvalidInput(error.to_string()))?;
        if limit > MAX_LIMIT {
            let reason = format!("limit must not be above {MAX_LIMIT}: {limit}");
            return Err(Error::InvalidInput(reason));
        }
        let primes = count_primes(limit);
        serde_json::to_string(&Output { limit, primes })
            .map_err(|error| Error::Failed(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::count_primes;

    #[test]
    fn counts_match_published_tables() {
        // https://oeis.org/A006880, and the numbers around small primes.
        let known = [
            (0, 0),
            (1, 0),
            (2, 1),
            (3, 2),
            (4, 2),
            (8, 4),
            (9, 4),
            (10, 4),
            (25, 9),
            (100, 25),
            (1_000, 168),
            (1_000_000, 78_498),
        ];
        for (limit, primes) in known {
            assert_eq!(count_primes(limit), primes, "{limit}");
        }
    }
}
