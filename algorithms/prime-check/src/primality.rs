//! Whether a number is prime: the Miller–Rabin test, which is not a matter of
//! chance below 2^64.
//!
//! The smallest composite that passes for each of the first twelve primes as a
//! base is 318665857834031151167461, some 2^78 (J. Sorenson, J. Webster,
//! *Strong pseudoprimes to twelve prime bases*, 2015,
//! <https://arxiv.org/abs/1509.00864>, theorem 1.1). Sets of seven bases are
//! known to be enough for 64 bits; these twelve cost a few microseconds more,
//! have a published proof, and serve trial division too.

use crate::montgomery::Modulus;

/// The first twelve primes: Miller–Rabin's bases, and the divisors tried first.
pub(crate) const SMALL_PRIMES: [u64; 12] = [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37];

/// Whether `n` is prime. Exact for every `u64`; 0 and 1 are not prime.
pub(crate) fn is_prime(n: u64) -> bool {
    if let Some(&divisor) = SMALL_PRIMES.iter().find(|&&prime| n.is_multiple_of(prime)) {
        return n == divisor;
    }
    n > 1 && passes_miller_rabin(n)
}

/// Miller–Rabin for an odd `n` above 1 that no base divides.
fn passes_miller_rabin(n: u64) -> bool {
    let modulus = Modulus::new(n);
    // n - 1 = odd_part * 2^twos
    let twos = (n - 1).trailing_zeros();
    let odd_part = (n - 1) >> twos;
    SMALL_PRIMES.iter().all(|&base| {
        let mut power = modulus.pow(modulus.residue(base), odd_part);
        if power == modulus.one() || power == modulus.minus_one() {
            return true;
        }
        (1..twos).any(|_| {
            power = modulus.square(power);
            power == modulus.minus_one()
        })
    })
}

#[cfg(test)]
mod tests {
    use super::is_prime;

    #[test]
    fn agrees_with_a_sieve_below_a_million() {
        const LIMIT: usize = 1_000_000;
        let mut prime = vec![true; LIMIT];
        prime[..2].fill(false);
        for n in 2..1000 {
            if prime[n] {
                (n * n..LIMIT)
                    .step_by(n)
                    .for_each(|multiple| prime[multiple] = false);
            }
        }
        for (n, &expected) in (0..).zip(&prime) {
            assert_eq!(is_prime(n), expected, "{n}");
        }
    }

    #[test]
    fn knows_large_primes() {
        for n in [
            (1 << 31) - 1,
            4_294_967_291,         // the largest below 2^32
            4_294_967_311,         // the smallest above 2^32
            9_007_199_254_740_881, // the largest below 2^53
            9_007_199_254_740_997, // the smallest above 2^53
            (1 << 61) - 1,
            9_223_372_036_854_775_783,  // the largest below 2^63
            18_446_744_073_709_551_557, // the largest below 2^64
        ] {
            assert!(is_prime(n), "{n}");
        }
    }

    /// The least numbers that pass for the first 1 to 11 primes as bases
    /// (<https://oeis.org/A014233>; some are equal).
    #[test]
    fn is_not_fooled_by_strong_pseudoprimes() {
        for n in [
            2047,
            1_373_653,
            25_326_001,
            3_215_031_751,
            2_152_302_898_747,
            3_474_749_660_383,
            341_550_071_728_321,
            3_825_123_056_546_413_051,
        ] {
            assert!(!is_prime(n), "{n}");
        }
    }

    /// Carmichael numbers (<https://oeis.org/A002997>); the last three are
    /// (6k + 1)(12k + 1)(18k + 1) for k = 1515, 45 and 195.
    #[test]
    fn is_not_fooled_by_carmichael_numbers() {
        for n in [
            561,
            1105,
            1729,
            41_041,
            825_265,
            321_197_185,
            chernick(1515),
            chernick(45),
            chernick(195),
        ] {
            assert!(!is_prime(n), "{n}");
        }
    }

    fn chernick(k: u64) -> u64 {
        (6 * k + 1) * (12 * k + 1) * (18 * k + 1)
    }

    #[test]
    fn finds_no_prime_among_products_and_neighbours() {
        for n in [
            4_294_967_291 * 4_294_967_291,
            4_294_967_291 * 4_294_967_279,
            4_294_967_279 * 4_294_967_279,
            (1 << 32) - 1,
            (1 << 32) + 1,
            (1 << 53) - 1,
            1 << 53,
            (1 << 53) + 1,
            1 << 63,
            u64::MAX - 1,
            u64::MAX,
        ] {
            assert!(!is_prime(n), "{n}");
        }
    }
}
