//! `count-primes`: counts the primes up to a limit, for the benchmarks. Its
//! time grows with the input: about 1 ms for the limit that they send.

use functional_scaffold_algorithm::{Error, algorithm};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Deserialize, JsonSchema)]
struct Input {
    #[schemars(range(max = MAX_LIMIT))]
    limit: u32,
}

#[derive(Serialize)]
struct Output {
    limit: u32,
    primes: usize,
}

/// Bounds memory to 5 MB: one byte for two numbers.
const MAX_LIMIT: u32 = 10_000_000;

/// Counts the primes up to a limit, inclusive.
#[algorithm]
fn count_primes(Input { limit }: Input) -> Result<Output, Error> {
    if limit > MAX_LIMIT {
        let reason = format!("limit must not be above {MAX_LIMIT}: {limit}");
        return Err(Error::InvalidInput(reason));
    }
    let primes = count(limit);
    Ok(Output { limit, primes })
}

/// A sieve of Eratosthenes over the odd numbers.
fn count(limit: u32) -> usize {
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

#[cfg(test)]
mod tests {
    use super::count;

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
            assert_eq!(count(limit), primes, "{limit}");
        }
    }
}
