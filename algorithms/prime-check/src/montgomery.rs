//! Multiplication modulo an odd 64-bit number, without dividing.
//!
//! Montgomery's representation: the [`Residue`] of `x` is `x * R mod n` with
//! `R = 2^64`, and a product is reduced by two multiplications
//! (P. L. Montgomery, *Modular multiplication without trial division*, 1985,
//! <https://doi.org/10.1090/S0025-5718-1985-0777282-X>). The obvious way, a
//! `u128` remainder, is a library call in WebAssembly (`__umodti3`), and with it
//! everything takes four to five times as long (measured under wasmtime).
//!
//! It knows nothing of primes, and it is not constant-time.

/// An odd modulus above 1 with what multiplying by it needs.
pub(crate) struct Modulus {
    n: u64,
    /// The inverse of `n` modulo 2^64.
    n_inverse: u64,
    /// `R mod n`: the residue of 1.
    one: u64,
    /// `R^2 mod n`: turns a number into its residue.
    r_squared: u64,
}

/// A number modulo `n` in Montgomery's representation, always below `n`.
///
/// It means something only together with the [`Modulus`] that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Residue(u64);

impl Modulus {
    /// Prepares for arithmetic modulo `n`, which must be odd and above 1; with
    /// any other `n` the results are meaningless.
    pub(crate) fn new(n: u64) -> Self {
        debug_assert!(n % 2 == 1 && n > 1, "{n} is not an odd modulus above 1");
        let one = n.wrapping_neg() % n;
        let mut modulus = Self {
            n,
            n_inverse: inverse_mod_2_64(n),
            one,
            r_squared: 0,
        };
        // The residue of 2, squared six times, is the residue of 2^64 = R,
        // and that is R^2 mod n.
        let two = modulus.add(Residue(one), Residue(one));
        modulus.r_squared = (0..6).fold(two, |x, _| modulus.square(x)).0;
        modulus
    }

    /// The modulus itself.
    pub(crate) fn n(&self) -> u64 {
        self.n
    }

    /// The residue of 1.
    pub(crate) fn one(&self) -> Residue {
        Residue(self.one)
    }

    /// The residue of -1.
    pub(crate) fn minus_one(&self) -> Residue {
        Residue(self.n - self.one)
    }

    /// The residue of `x`, which may be any number.
    pub(crate) fn residue(&self, x: u64) -> Residue {
        self.mul(Residue(x % self.n), Residue(self.r_squared))
    }

    /// The sum of two residues.
    pub(crate) fn add(&self, a: Residue, b: Residue) -> Residue {
        self.sub(a, Residue(self.n - b.0))
    }

    /// The difference of two residues. (`b` may be `n`, which `add` uses.)
    pub(crate) fn sub(&self, a: Residue, b: Residue) -> Residue {
        let (difference, borrowed) = a.0.overflowing_sub(b.0);
        Residue(if borrowed {
            difference.wrapping_add(self.n)
        } else {
            difference
        })
    }

    /// The product of two residues.
    pub(crate) fn mul(&self, a: Residue, b: Residue) -> Residue {
        let (low, high) = a.0.carrying_mul(b.0, 0);
        self.sub(Residue(high), self.reduction(low))
    }

    /// The square of a residue.
    pub(crate) fn square(&self, a: Residue) -> Residue {
        self.mul(a, a)
    }

    /// `a * a + c`, a little faster than its two parts: the addition does not
    /// wait for the reduction.
    pub(crate) fn square_add(&self, a: Residue, c: Residue) -> Residue {
        let (low, high) = a.0.carrying_mul(a.0, 0);
        self.sub(self.add(Residue(high), c), self.reduction(low))
    }

    /// `base` to the power of `exponent`.
    pub(crate) fn pow(&self, base: Residue, exponent: u64) -> Residue {
        let mut result = self.one();
        let mut square = base;
        let mut rest = exponent;
        while rest > 0 {
            if rest % 2 == 1 {
                result = self.mul(result, square);
            }
            square = self.square(square);
            rest /= 2;
        }
        result
    }

    /// The greatest common divisor of the residue's number and `n`. A residue
    /// is its number times a unit, so no conversion is needed.
    pub(crate) fn gcd_with_n(&self, a: Residue) -> u64 {
        gcd_odd(a.0, self.n)
    }

    /// The high half of the multiple of `n` whose low half is `low`. What is
    /// left after taking that multiple off a product is divisible by `R`.
    fn reduction(&self, low: u64) -> Residue {
        Residue(low.wrapping_mul(self.n_inverse).carrying_mul(self.n, 0).1)
    }
}

/// The inverse of an odd `n` modulo 2^64, by Newton's iteration: `n` is its own
/// inverse modulo 2^3, and each step doubles the bits that are right.
fn inverse_mod_2_64(n: u64) -> u64 {
    (0..5).fold(n, |x, _| {
        x.wrapping_mul(2_u64.wrapping_sub(n.wrapping_mul(x)))
    })
}

/// The greatest common divisor of any `a` and an odd `b`, without dividing.
fn gcd_odd(mut a: u64, mut b: u64) -> u64 {
    while a != 0 {
        a >>= a.trailing_zeros();
        if a < b {
            (a, b) = (b, a);
        }
        a -= b;
    }
    b
}

#[cfg(test)]
mod tests {
    use super::{Modulus, Residue, gcd_odd};
    use proptest::prelude::*;

    const EDGE_MODULI: [u64; 6] = [3, 5, (1 << 32) - 1, (1 << 32) + 1, (1 << 63) + 1, u64::MAX];

    fn value(modulus: &Modulus, residue: Residue) -> u64 {
        assert!(residue.0 < modulus.n(), "{residue:?} is not reduced");
        modulus.mul(residue, Residue(1)).0
    }

    fn check_arithmetic(n: u64, a: u64, b: u64) {
        let modulus = Modulus::new(n);
        let reduce = |x: u128| u64::try_from(x % u128::from(n)).expect("a remainder of a u64");
        let (x, y) = (modulus.residue(a), modulus.residue(b));
        let (a, b) = (u128::from(a % n), u128::from(b % n));
        let wide_n = u128::from(n);
        assert_eq!(value(&modulus, x), reduce(a));
        assert_eq!(value(&modulus, modulus.add(x, y)), reduce(a + b));
        assert_eq!(value(&modulus, modulus.sub(x, y)), reduce(a + wide_n - b));
        assert_eq!(value(&modulus, modulus.mul(x, y)), reduce(a * b));
        assert_eq!(value(&modulus, modulus.square(x)), reduce(a * a));
        let square_add = modulus.square_add(x, y);
        assert_eq!(
            value(&modulus, square_add),
            reduce(reduce(a * a) as u128 + b)
        );
    }

    #[test]
    fn agrees_with_128_bit_arithmetic_at_the_edges() {
        for n in EDGE_MODULI {
            for a in [0, 1, 2, n - 2, n - 1, n, u64::MAX] {
                for b in [0, 1, 2, n - 2, n - 1, n, u64::MAX] {
                    check_arithmetic(n, a, b);
                }
            }
        }
    }

    #[test]
    fn one_and_minus_one_are_what_they_say() {
        for n in EDGE_MODULI {
            let modulus = Modulus::new(n);
            assert_eq!(value(&modulus, modulus.one()), 1);
            assert_eq!(value(&modulus, modulus.minus_one()), n - 1);
        }
    }

    proptest! {
        #[test]
        fn agrees_with_128_bit_arithmetic(n in 1..u64::MAX / 2, a: u64, b: u64) {
            check_arithmetic(2 * n + 1, a, b);
        }

        #[test]
        fn pow_is_repeated_multiplication(n in 1..u64::MAX / 2, base: u64, exponent in 0_u64..200) {
            let modulus = Modulus::new(2 * n + 1);
            let base = modulus.residue(base);
            let expected = (0..exponent).fold(modulus.one(), |x, _| modulus.mul(x, base));
            prop_assert_eq!(modulus.pow(base, exponent), expected);
        }

        #[test]
        fn gcd_agrees_with_euclid(a: u64, b in 0..u64::MAX / 2, shared in 0_u64..1 << 20) {
            let (a, b) = (a.wrapping_mul(2 * shared + 1), (2 * b + 1).wrapping_mul(2 * shared + 1));
            let (mut x, mut y) = (a, b);
            while y != 0 {
                (x, y) = (y, x % y);
            }
            prop_assert_eq!(gcd_odd(a, b), x);
        }
    }
}
