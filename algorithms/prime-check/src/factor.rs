//! Prime factorisation of a `u64`: trial division by the smallest primes, then
//! Pollard's rho method in Brent's variant (R. P. Brent, *An improved Monte
//! Carlo factorization algorithm*, 1980, <https://doi.org/10.1007/BF01933190>)
//! in turn with elliptic curves.
//!
//! Rho finds divisors of up to some 16 bits in microseconds. For the product of
//! two 32-bit primes it takes 130,000 steps on average and often several times
//! as many; there the curves are over three times as fast. Under wasmtime, on
//! a thousand such products: rho alone 1.3 ms on average and up to 11 ms, with
//! curves 0.4 ms and up to 2.4 ms.
//!
//! The "random" walks and curves are the same ones every time, so equal numbers
//! take equal work. The work is bounded, since a host may not be able to stop
//! an endless loop: a search that leads nowhere ends in [`NoDivisorFound`]. No
//! number is known for which it does.

use std::collections::BTreeMap;

use crate::curve;
use crate::montgomery::{Modulus, Residue};
use crate::primality::{SMALL_PRIMES, is_prime};

/// Steps whose differences are multiplied together before one (much slower)
/// greatest common divisor is taken.
const BATCH_STEPS: u32 = 128;

/// The last stride of a walk, which has then taken four times as many steps.
const MAX_STRIDE_STEPS: u32 = 1 << 9;

/// How many curves are tried after each walk.
const CURVES_PER_ROUND: u64 = 16;

/// How often a walk and its curves are tried. A curve finds one of two 32-bit
/// divisors about one time in nine, so that the chance of 512 failures is
/// below 10^-26.
const MAX_ROUNDS: u64 = 32;

/// A composite number resisted every walk and every curve.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("no divisor of {0} was found in {MAX_ROUNDS} rounds")]
pub(crate) struct NoDivisorFound(u64);

/// The prime factors of `n` with their exponents, in ascending order. 0 and 1
/// have none.
///
/// # Errors
///
/// [`NoDivisorFound`] when the bounded search fails on a composite part.
pub(crate) fn factorize(n: u64) -> Result<BTreeMap<u64, u32>, NoDivisorFound> {
    let mut factors = BTreeMap::new();
    if n == 0 {
        return Ok(factors);
    }
    let mut rest = n;
    for prime in SMALL_PRIMES {
        while rest.is_multiple_of(prime) {
            rest /= prime;
            *factors.entry(prime).or_default() += 1;
        }
    }
    let mut parts = vec![rest];
    while let Some(part) = parts.pop() {
        if part == 1 {
            continue;
        }
        if is_prime(part) {
            *factors.entry(part).or_default() += 1;
        } else {
            let divisor = find_divisor(part).ok_or(NoDivisorFound(part))?;
            parts.extend([divisor, part / divisor]);
        }
    }
    Ok(factors)
}

/// A divisor, neither 1 nor `n`, of an odd composite `n`.
///
/// Walks and curves alternate because each fails where the other does not: a
/// walk is too short for large divisors, and a curve finds several small ones
/// at once, so that their product is `n` again.
fn find_divisor(n: u64) -> Option<u64> {
    // A prime's square has but one divisor to find: the hardest case of all,
    // were its root not so easy.
    let root = n.isqrt();
    if root * root == n {
        return Some(root);
    }
    let modulus = Modulus::new(n);
    (1..=MAX_ROUNDS).find_map(|round| {
        let first_curve = curve::FIRST_NUMBER + (round - 1) * CURVES_PER_ROUND;
        walk(&modulus, modulus.residue(round)).or_else(|| {
            (first_curve..first_curve + CURVES_PER_ROUND)
                .find_map(|number| curve::try_curve(&modulus, number))
        })
    })
}

/// One walk of Brent's: `x -> x^2 + constant` until two points differ by a
/// multiple of a divisor, or until the walk is too long or useless.
fn walk(modulus: &Modulus, constant: Residue) -> Option<u64> {
    let next = |x| modulus.square_add(x, constant);
    let mut hare = modulus.residue(2);
    let mut stride = 1;
    while stride <= MAX_STRIDE_STEPS {
        let tortoise = hare;
        for _ in 0..stride {
            hare = next(hare);
        }
        let mut tested = 0;
        while tested < stride {
            let batch_start = hare;
            let batch = BATCH_STEPS.min(stride - tested);
            let mut product = modulus.one();
            for _ in 0..batch {
                hare = next(hare);
                product = modulus.mul(product, modulus.sub(tortoise, hare));
            }
            let divisor = modulus.gcd_with_n(product);
            if divisor == modulus.n() {
                return first_meeting(modulus, constant, tortoise, batch_start);
            }
            if divisor != 1 {
                return Some(divisor);
            }
            tested += batch;
        }
        stride *= 2;
    }
    None
}

/// Repeats a batch that met every divisor, one step at a time, for the step
/// that meets the first. `None` if they are all met in that step.
fn first_meeting(
    modulus: &Modulus,
    constant: Residue,
    tortoise: Residue,
    batch_start: Residue,
) -> Option<u64> {
    let mut hare = batch_start;
    for _ in 0..BATCH_STEPS {
        hare = modulus.square_add(hare, constant);
        let divisor = modulus.gcd_with_n(modulus.sub(tortoise, hare));
        if divisor != 1 {
            return (divisor != modulus.n()).then_some(divisor);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{factorize, find_divisor, walk};
    use crate::curve;
    use crate::montgomery::Modulus;
    use crate::primality::is_prime;
    use proptest::prelude::*;

    fn factors(n: u64) -> Vec<(u64, u32)> {
        factorize(n)
            .expect("a divisor is found")
            .into_iter()
            .collect()
    }

    #[test]
    fn knows_these_factorisations() {
        for (n, expected) in [
            (0, vec![]),
            (1, vec![]),
            (2, vec![(2, 1)]),
            (12, vec![(2, 2), (3, 1)]),
            (1 << 63, vec![(2, 63)]),
            (12_157_665_459_056_928_801, vec![(3, 40)]),
            (41 * 43, vec![(41, 1), (43, 1)]),
            (13_422_659_310_152_401, vec![(41, 10)]),
            (
                614_889_782_588_491_410,
                [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47]
                    .map(|p| (p, 1))
                    .to_vec(),
            ),
            (561, vec![(3, 1), (11, 1), (17, 1)]),
            (
                3_825_123_056_546_413_051,
                vec![(149_491, 1), (747_451, 1), (34_233_211, 1)],
            ),
            ((1 << 32) + 1, vec![(641, 1), (6_700_417, 1)]),
            ((1 << 53) - 1, vec![(6361, 1), (69_431, 1), (20_394_401, 1)]),
            (9_007_199_254_740_881, vec![(9_007_199_254_740_881, 1)]),
            (2_097_143 * 2_097_143 * 2_097_143, vec![(2_097_143, 3)]),
            (65_521 * 65_521 * 65_521 * 65_521, vec![(65_521, 4)]),
            (4_294_967_291 * 4_294_967_291, vec![(4_294_967_291, 2)]),
            (
                4_294_967_291 * 4_294_967_279,
                vec![(4_294_967_279, 1), (4_294_967_291, 1)],
            ),
            (u64::MAX - 58, vec![(18_446_744_073_709_551_557, 1)]),
            (
                u64::MAX,
                vec![
                    (3, 1),
                    (5, 1),
                    (17, 1),
                    (257, 1),
                    (641, 1),
                    (65_537, 1),
                    (6_700_417, 1),
                ],
            ),
        ] {
            assert_eq!(factors(n), expected, "{n}");
        }
    }

    /// The product is `n` and each factor is prime, by trial division.
    #[test]
    fn factors_every_number_below_a_hundred_thousand() {
        for n in 1..100_000_u64 {
            let factors = factors(n);
            let product: u64 = factors.iter().map(|&(p, e)| p.pow(e)).product();
            assert_eq!(product, n);
            for (p, _) in factors {
                assert!(p > 1 && (2..=p.isqrt()).all(|d| p % d != 0), "{p} in {n}");
            }
        }
    }

    #[test]
    fn walks_and_curves_are_each_able_to_find_a_divisor() {
        let n = 104_729 * 1_299_709;
        let modulus = Modulus::new(n);
        let proper = |divisor: Option<u64>| divisor.is_some_and(|d| d > 1 && d < n && n % d == 0);
        assert!((1..9).any(|c| proper(walk(&modulus, modulus.residue(c)))));
        let first = curve::FIRST_NUMBER;
        assert!((first..first + 99).any(|c| proper(curve::try_curve(&modulus, c))));
    }

    #[test]
    fn search_for_a_divisor_of_a_prime_ends() {
        assert_eq!(find_divisor(18_446_744_073_709_551_557), None);
    }

    fn primes(range: std::ops::Range<u64>) -> impl Strategy<Value = u64> {
        range.prop_map(|start| {
            (start..)
                .find(|&n| is_prime(n))
                .expect("primes are endless")
        })
    }

    proptest! {
        #[test]
        fn product_of_the_factors_is_the_number(n in 1_u64..) {
            let factors = factors(n);
            let product: u64 = factors.iter().map(|&(p, e)| p.pow(e)).product();
            prop_assert_eq!(product, n);
            prop_assert!(factors.iter().all(|&(p, _)| is_prime(p)));
        }

        #[test]
        fn finds_both_primes_of_a_product(p in primes(3..1 << 20), q in primes(1 << 20..1 << 43)) {
            prop_assert_eq!(factors(p * q), vec![(p, 1), (q, 1)]);
        }

        #[test]
        fn finds_the_primes_of_the_hardest_products(
            p in primes(1 << 31..3_000_000_000),
            q in primes(3_100_000_000..4_294_967_000),
        ) {
            prop_assert_eq!(factors(p * q), vec![(p, 1), (q, 1)]);
        }
    }
}
