//! The sieve of Eratosthenes over the odd numbers.

/// Counts the primes up to `limit`, inclusive.
pub(crate) fn count_primes(limit: u32) -> usize {
    if limit < 2 {
        return 0;
    }
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    // Place `i` stands for 2i + 1; place 0, which is 1, for 2 instead.
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
    use super::count_primes;

    #[test]
    fn counts_as_tables_do() {
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
