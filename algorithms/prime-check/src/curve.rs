//! Lenstra's elliptic-curve method, for divisors of more than some 16 bits.
//!
//! On a curve modulo `n`, a point is multiplied by a number that the order of
//! the curve modulo some prime divisor `p` is likely to divide. Then the
//! point is the neutral one modulo `p`: its `z` is a multiple of `p`. Each
//! curve has another order, so each is another chance. Curves are in
//! Montgomery's form, whose arithmetic needs no inverse and no `y`
//! (P. L. Montgomery, *Speeding the Pollard and elliptic curve methods of
//! factorization*, 1987,
//! <https://doi.org/10.1090/S0025-5718-1987-0866113-7>).

use crate::montgomery::{Modulus, Residue};

// The bounds below were chosen by measurement, for the hardest numbers: of the
// products of two 32-bit primes, one takes nine curves on average.

/// Stage 1 finds a divisor when the prime powers of the curve's order divide
/// these: powers of the primes below 140, with some more of 2 and 3, which
/// occur in an order most often (12 always divides it).
const STAGE_1_POWERS: [u64; 34] = [
    256, 243, 125, 49, 121, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83,
    89, 97, 101, 103, 107, 109, 113, 127, 131, 137, 139,
];

/// Stage 2 allows one larger prime, written as `60 * giant ± baby`.
const GIANT_STEP: u64 = 60;

/// The odd numbers below `GIANT_STEP / 2` that share no divisor with it.
const BABY_STEPS: [usize; 8] = [1, 7, 11, 13, 17, 19, 23, 29];

/// How many giant steps, from the second on: the larger prime is below 4300.
const GIANT_STEPS: u32 = 70;

/// The first number that makes a curve; with smaller ones it is degenerate.
pub(crate) const FIRST_NUMBER: u64 = 6;

/// A point in projective coordinates without `y`: `x / z`.
#[derive(Clone, Copy)]
struct Point {
    x: Residue,
    z: Residue,
}

/// The curve `b y^2 = x^3 + a x^2 + x`, with whatever `b` puts a given point
/// on it.
struct Curve<'m> {
    modulus: &'m Modulus,
    /// `(a + 2) / 4` as a fraction, so that no inverse is needed.
    numerator: Residue,
    denominator: Residue,
}

/// A divisor, neither 1 nor `n`, that the curve with this number happens to
/// give. Numbers start at [`FIRST_NUMBER`].
pub(crate) fn try_curve(modulus: &Modulus, number: u64) -> Option<u64> {
    let (curve, start) = Curve::suyama(modulus, modulus.residue(number));
    let point = STAGE_1_POWERS
        .iter()
        .fold(start, |point, &power| curve.multiply(point, power));
    let proper = |divisor: u64| (divisor != 1 && divisor != modulus.n()).then_some(divisor);
    proper(modulus.gcd_with_n(point.z)).or_else(|| proper(modulus.gcd_with_n(curve.stage_2(point))))
}

impl<'m> Curve<'m> {
    /// Suyama's curve number `sigma` and a point on it. Its order is always a
    /// multiple of 12, which makes smooth orders likelier (P. Zimmermann,
    /// B. Dodson, *20 years of ECM*, 2006,
    /// <https://inria.hal.science/inria-00070192>).
    fn suyama(m: &'m Modulus, sigma: Residue) -> (Self, Point) {
        let cube = |x| m.mul(x, m.square(x));
        let u = m.sub(m.square(sigma), m.residue(5));
        let v = m.mul(sigma, m.residue(4));
        let start = Point {
            x: cube(u),
            z: cube(v),
        };
        let curve = Self {
            modulus: m,
            numerator: m.mul(cube(m.sub(v, u)), m.add(m.mul(m.residue(3), u), v)),
            denominator: m.mul(m.residue(16), m.mul(start.x, v)),
        };
        (curve, start)
    }

    fn double(&self, p: Point) -> Point {
        let m = self.modulus;
        let sum = m.square(m.add(p.x, p.z));
        let difference = m.square(m.sub(p.x, p.z));
        let scaled = m.mul(self.denominator, difference);
        let t = m.sub(sum, difference);
        Point {
            x: m.mul(sum, scaled),
            z: m.mul(t, m.add(scaled, m.mul(self.numerator, t))),
        }
    }

    /// `p + q`, where `difference` is `p - q`.
    fn add(&self, p: Point, q: Point, difference: Point) -> Point {
        let m = self.modulus;
        let u = m.mul(m.sub(p.x, p.z), m.add(q.x, q.z));
        let v = m.mul(m.add(p.x, p.z), m.sub(q.x, q.z));
        Point {
            x: m.mul(difference.z, m.square(m.add(u, v))),
            z: m.mul(difference.x, m.square(m.sub(u, v))),
        }
    }

    /// `factor * p` for a factor of at least 1, by Montgomery's ladder: of the
    /// two points, the second is always `p` ahead of the first.
    fn multiply(&self, p: Point, factor: u64) -> Point {
        let mut low = p;
        let mut high = self.double(p);
        for bit in (0..factor.ilog2()).rev() {
            let sum = self.add(high, low, p);
            (low, high) = if factor >> bit & 1 == 0 {
                (self.double(low), sum)
            } else {
                (sum, self.double(high))
            };
        }
        low
    }

    /// A residue that shares with `n` each divisor modulo which `q * p` is the
    /// neutral point, for a `q` among the numbers `60 * giant ± baby`.
    fn stage_2(&self, p: Point) -> Residue {
        let m = self.modulus;
        let babies = self.odd_multiples(p);
        let babies = BABY_STEPS.map(|step| babies[step / 2]);
        let baby_products = babies.map(|baby| m.mul(baby.x, baby.z));

        let step = self.multiply(p, GIANT_STEP);
        let mut previous = step;
        let mut giant = self.double(step);
        let mut product = m.one();
        for _ in 0..GIANT_STEPS {
            let giant_product = m.mul(giant.x, giant.z);
            for (baby, &baby_product) in babies.iter().zip(&baby_products) {
                // giant.x * baby.z - baby.x * giant.z, at the price of one
                // multiplication: 0 when giant = ±baby.
                let cross = m.mul(m.sub(giant.x, baby.x), m.add(giant.z, baby.z));
                let cross = m.add(m.sub(cross, giant_product), baby_product);
                product = m.mul(product, cross);
            }
            (previous, giant) = (giant, self.add(giant, step, previous));
        }
        product
    }

    /// `p`, `3p`, `5p` and so on up to `29p`.
    fn odd_multiples(&self, p: Point) -> [Point; 15] {
        let double = self.double(p);
        let mut multiples = [p; 15];
        // -p + 2p = p, and a point and its negative have the same `x / z`.
        let mut previous = p;
        let mut current = p;
        for multiple in &mut multiples {
            *multiple = current;
            (previous, current) = (current, self.add(current, double, previous));
        }
        multiples
    }
}

#[cfg(test)]
mod tests {
    use super::{Curve, FIRST_NUMBER, Point, try_curve};
    use crate::montgomery::Modulus;

    /// A product of two 32-bit primes, among the hardest numbers.
    const HARD: u64 = 4_294_967_291 * 4_294_967_279;

    fn same(m: &Modulus, p: Point, q: Point) -> bool {
        m.mul(p.x, q.z) == m.mul(q.x, p.z)
    }

    #[test]
    fn multiples_of_a_point_agree() {
        let m = Modulus::new(HARD);
        let (curve, p) = Curve::suyama(&m, m.residue(FIRST_NUMBER));
        let odd = curve.odd_multiples(p);
        for (factor, &multiple) in (1..).step_by(2).zip(&odd) {
            assert!(same(&m, multiple, curve.multiply(p, factor)), "{factor}");
        }
        for (a, b) in [(2, 3), (5, 7), (13, 60), (121, 243), (256, 139)] {
            let at_once = curve.multiply(p, a * b);
            let in_turn = curve.multiply(curve.multiply(p, a), b);
            assert!(same(&m, at_once, in_turn), "{a} * {b}");
        }
        assert!(!same(&m, p, curve.double(p)));
    }

    /// The order modulo 2003 is 12 times at most 174, and nearly all such
    /// numbers are within the bounds of the two stages.
    #[test]
    fn most_curves_find_a_small_divisor() {
        let modulus = Modulus::new(2003 * 1_099_511_627_791);
        let found = (FIRST_NUMBER..FIRST_NUMBER + 20)
            .filter(|&number| try_curve(&modulus, number) == Some(2003))
            .count();
        assert!(found >= 18, "{found} of 20");
    }

    /// A loss of speed is a fault too: both stages and the choice of curves
    /// show in how many curves are needed.
    #[test]
    fn hard_numbers_take_few_curves() {
        let primes = [
            2_147_483_659_u64,
            2_400_000_011,
            2_700_000_007,
            3_000_000_019,
            3_300_000_001,
            3_600_000_011,
            3_900_000_007,
            4_200_000_037,
            4_294_967_279,
            4_294_967_291,
        ];
        let mut curves = 0;
        for (i, p) in primes.iter().enumerate() {
            for q in &primes[i + 1..] {
                let modulus = Modulus::new(p * q);
                let first = (FIRST_NUMBER..FIRST_NUMBER + 512)
                    .position(|number| try_curve(&modulus, number).is_some());
                curves += first.expect("a curve finds a divisor") + 1;
            }
        }
        let products = primes.len() * (primes.len() - 1) / 2;
        assert!(curves <= 14 * products, "{curves} for {products} products");
    }
}
