//! Measuring in turns, and the figures that come of it. Machines differ, and so do
//! moments: only measurements of one round are compared.

use std::{fmt, num::ParseFloatError, path::PathBuf, time::Duration};

use functional_scaffold_testkit::runtime::Runtime;
use serde::{Deserialize, Serialize};

/// The extent of a measurement, and its programs.
pub(crate) struct Bench {
    pub(crate) rounds: usize,
    /// Only run the checks, under next to no load.
    pub(crate) smoke: bool,
    pub(crate) runtime: Runtime,
    /// The load generator.
    pub(crate) oha: PathBuf,
    /// A Python with the packages of `peers/fastapi/requirements.txt`.
    pub(crate) python: Option<PathBuf>,
}

impl Bench {
    /// The duration of a load: `full`, or a moment in a smoke run.
    pub(crate) fn lasting(&self, full: Duration) -> Duration {
        match self.smoke {
            true => full.min(Duration::from_millis(200)),
            false => full,
        }
    }
}

/// Measures each contestant once a round, in opposite order every other round
/// (A B C, C B A, …), so that drift and what one leaves behind for the next favour
/// none. Returns the rounds of each contestant.
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

/// A measured quantity: its value in each round. Kept as one text, because JSON would
/// have a line for each value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(crate) struct Figure(Vec<f64>);

impl From<Figure> for String {
    fn from(figure: Figure) -> Self {
        let values: Vec<_> = figure.0.iter().map(f64::to_string).collect();
        values.join(" ")
    }
}

impl TryFrom<String> for Figure {
    type Error = ParseFloatError;

    fn try_from(text: String) -> Result<Self, ParseFloatError> {
        let values = text.split_whitespace().map(str::parse);
        values.collect::<Result<_, _>>().map(Self)
    }
}

impl Figure {
    /// One quantity of each measurement.
    pub(crate) fn of<M>(measurements: &[M], quantity: impl Fn(&M) -> f64) -> Self {
        Self(measurements.iter().map(quantity).collect())
    }

    /// A value that was measured once.
    pub(crate) fn once(value: f64) -> Self {
        Self(vec![value])
    }

    /// The ratio to `base` in each round.
    pub(crate) fn ratio_to(&self, base: &Self) -> Self {
        let pairs = self.0.iter().zip(&base.0);
        Self(pairs.map(|(own, base)| own / base).collect())
    }

    /// The difference to `base` in each round.
    pub(crate) fn above(&self, base: &Self) -> Self {
        let pairs = self.0.iter().zip(&base.0);
        Self(pairs.map(|(own, base)| own - base).collect())
    }

    /// The middle value, or the mean of the two middle ones; of no round, not a
    /// number.
    pub(crate) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        match (sorted.len() / 2, sorted.len() % 2) {
            (0, 0) => f64::NAN,
            (middle, 1) => sorted[middle],
            (middle, _) => f64::midpoint(sorted[middle - 1], sorted[middle]),
        }
    }

    pub(crate) fn min(&self) -> f64 {
        self.0.iter().copied().fold(f64::INFINITY, f64::min)
    }

    pub(crate) fn max(&self) -> f64 {
        self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }
}

/// The median, with minimum and maximum where they differ.
impl fmt::Display for Figure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [median, min, max] = [self.median(), self.min(), self.max()].map(number);
        match self.min() == self.max() {
            true => write!(formatter, "{median}"),
            false => write!(formatter, "{median} ({min} – {max})"),
        }
    }
}

/// Formats a number with three significant digits, or all before the point.
pub(crate) fn number(value: f64) -> String {
    let places = match value.abs() {
        100.0.. => 0,
        10.0.. => 1,
        _ => 2,
    };
    let text = format!("{value:.places$}");
    let (whole, rest) = text.split_once('.').unwrap_or((&text, ""));
    let (sign, digits) = whole.split_at(usize::from(whole.starts_with('-')));
    let mut grouped = String::from(sign);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if !rest.is_empty() {
        grouped.push('.');
        grouped.push_str(rest);
    }
    grouped
}

/// A count for arithmetic, exact below 2^53.
#[allow(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
pub(crate) fn as_float(count: u64) -> f64 {
    count as f64
}

pub(crate) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(rounds: &[f64]) -> Figure {
        Figure(rounds.to_vec())
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

    #[test]
    fn numbers_have_three_significant_digits() {
        let shown = [0.9136, 12.34, 123.4, 1_234_567.0, -1234.5, 0.0].map(number);
        let expected = ["0.91", "12.3", "123", "1,234,567", "-1,234", "0.00"];
        assert_eq!(shown, expected);
    }
}
