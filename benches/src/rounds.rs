//! Measuring in turns, and what is said of the results: a median with its
//! spread, and ratios within a round.
//!
//! Machines differ, and so do moments: only what was measured shortly one after
//! the other is compared.

use serde::{Deserialize, Serialize};

/// Measures each contestant once a round, in opposite order every other round
/// (A B C, C B A, …): what drifts meanwhile, or what a contestant leaves behind
/// for the next, does not favour one. Gives each contestant's rounds, in order.
///
/// # Errors
/// The first measurement that fails.
pub(crate) fn alternate<C, M>(
    rounds: usize,
    contestants: &[C],
    mut measure: impl FnMut(&C) -> anyhow::Result<M>,
) -> anyhow::Result<Vec<Vec<M>>> {
    let mut measured: Vec<Vec<M>> = contestants.iter().map(|_| Vec::new()).collect();
    for round in 0..rounds {
        for turn in 0..contestants.len() {
            let place = match round % 2 {
                0 => turn,
                _ => contestants.len() - 1 - turn,
            };
            measured[place].push(measure(&contestants[place])?);
        }
    }
    Ok(measured)
}

/// One measured quantity: its value in each round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figure {
    rounds: Vec<f64>,
}

impl Figure {
    /// One quantity of each measurement.
    pub(crate) fn of<M>(measurements: &[M], quantity: impl Fn(&M) -> f64) -> Self {
        Self {
            rounds: measurements.iter().map(quantity).collect(),
        }
    }

    /// Round by round how many times `base` it is.
    pub(crate) fn ratio_to(&self, base: &Self) -> Self {
        self.with(base, |own, base| own / base)
    }

    /// Round by round how much more than `base` it is.
    pub(crate) fn above(&self, base: &Self) -> Self {
        self.with(base, |own, base| own - base)
    }

    fn with(&self, base: &Self, combine: impl Fn(f64, f64) -> f64) -> Self {
        let pairs = self.rounds.iter().zip(&base.rounds);
        Self {
            rounds: pairs.map(|(own, base)| combine(*own, *base)).collect(),
        }
    }

    /// The middle value; the mean of both middle ones where their number is
    /// even. Of no round, not a number.
    pub(crate) fn median(&self) -> f64 {
        let mut sorted = self.rounds.clone();
        sorted.sort_by(f64::total_cmp);
        match (sorted.len() / 2, sorted.len() % 2) {
            (0, 0) => f64::NAN,
            (middle, 1) => sorted[middle],
            (middle, _) => f64::midpoint(sorted[middle - 1], sorted[middle]),
        }
    }

    /// The smallest value.
    pub(crate) fn min(&self) -> f64 {
        self.rounds.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// The largest value.
    pub(crate) fn max(&self) -> f64 {
        let values = self.rounds.iter().copied();
        values.fold(f64::NEG_INFINITY, f64::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(rounds: &[f64]) -> Figure {
        Figure::of(rounds, |value| *value)
    }

    #[test]
    fn every_other_round_runs_backwards() {
        let mut order = String::new();
        let measured = alternate(3, &['a', 'b', 'c'], |name| {
            order.push(*name);
            Ok(order.len())
        });
        assert_eq!(order, "abccbaabc");
        let measured = measured.expect("nothing fails");
        assert_eq!(measured, [[1, 6, 7], [2, 5, 8], [3, 4, 9]]);
    }

    #[test]
    fn the_median_is_the_middle_value_or_the_mean_of_two() {
        assert_eq!(figure(&[9.0, 1.0, 2.0]).median(), 2.0);
        assert_eq!(figure(&[4.0, 1.0, 2.0, 9.0]).median(), 3.0);
    }

    #[test]
    fn a_ratio_is_the_median_of_the_rounds_ratios() {
        // The machine was half as fast in the second round.
        let (own, base) = (figure(&[90.0, 45.0, 95.0]), figure(&[100.0, 50.0, 100.0]));
        let ratio = own.ratio_to(&base);
        assert_eq!(ratio.median(), 0.9);
        assert_eq!((ratio.min(), ratio.max()), (0.9, 0.95));
    }
}
