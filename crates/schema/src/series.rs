//! Cells read from Redis put together into series. Owns what happens when a
//! field comes twice or a cell is missing; reads nothing itself. Several hashes
//! of one family are [`crate::layouts`]'s.

use std::collections::HashMap;

use crate::{
    cell::{CARRY, Cell, CellError, decode_field, decode_value},
    family::{Family, Kind},
};

/// A family and all its series, in order of their label sets.
#[derive(Debug, Clone, PartialEq)]
pub struct FamilySeries {
    /// What the values mean.
    pub family: Family,
    /// The values.
    pub series: Series,
}

/// The series of a family by label set (exposition syntax), ordered by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Series {
    /// Counters and gauges, in the family's integer unit.
    Values(Vec<(Box<str>, i64)>),
    /// Histograms.
    Histograms(Vec<(Box<str>, Histogram)>),
}

impl Series {
    /// How many label sets there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Values(values) => values.len(),
            Self::Histograms(histograms) => histograms.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One histogram series as stored: counts by bucket, not cumulative.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Histogram {
    /// Observations in each bucket, one more than the family has bounds.
    pub buckets: Box<[u64]>,
    /// The sum of the observations in the family's integer unit.
    pub sum: i128,
}

/// Collects the cells of one family's hash in whatever order they come.
///
/// A cell that comes twice (a hash that is rehashed during HSCAN repeats
/// fields) is taken once, the later value.
#[derive(Debug)]
pub struct SeriesReader {
    family: Family,
    values: Vec<(Box<str>, i64)>,
    histograms: HashMap<Box<str>, HistogramCells>,
}

#[derive(Debug)]
struct HistogramCells {
    buckets: Box<[u64]>,
    sum: i64,
    carry: i64,
}

impl SeriesReader {
    /// Begins with no series.
    #[must_use]
    pub fn new(family: Family) -> Self {
        Self {
            family,
            values: Vec::new(),
            histograms: HashMap::new(),
        }
    }

    /// Takes one field and its value.
    ///
    /// # Errors
    /// The cell is corrupt; it is left out and the rest stands.
    pub fn push(&mut self, field: &[u8], value: &[u8]) -> Result<(), CellError> {
        let cell = decode_field(&self.family, field)?;
        let value = decode_value(value)?;
        let unsigned = u64::try_from(value).map_err(|_source| CellError::Negative(value));
        match cell {
            Cell::Value { labels } => {
                if self.family.kind == Kind::Counter {
                    unsigned?;
                }
                self.values.push((labels.into(), value));
            }
            Cell::Bucket { labels, position } => {
                let count = unsigned?;
                self.change(labels, |cells| cells.buckets[position] = count);
            }
            // A sum may be negative: observations may be.
            Cell::Sum { labels } => self.change(labels, |cells| cells.sum = value),
            Cell::SumCarry { labels } => {
                unsigned?;
                self.change(labels, |cells| cells.carry = value);
            }
        }
        Ok(())
    }

    /// The series that came, ordered by label set.
    #[must_use]
    pub fn finish(self) -> FamilySeries {
        let series = if self.family.kind == Kind::Histogram {
            let mut histograms: Vec<_> = self
                .histograms
                .into_iter()
                .map(|(labels, cells)| (labels, cells.into_histogram()))
                .collect();
            histograms.sort_unstable_by(|(left, _), (right, _)| left.cmp(right));
            Series::Histograms(histograms)
        } else {
            let mut values = self.values;
            // Stable, so that of two values for one label set the later is last.
            values.sort_by(|(left, _), (right, _)| left.cmp(right));
            values.dedup_by(|later, earlier| {
                let same = later.0 == earlier.0;
                if same {
                    earlier.1 = later.1;
                }
                same
            });
            Series::Values(values)
        };
        FamilySeries {
            family: self.family,
            series,
        }
    }

    /// Changes the cells of a histogram. A closure, so that a cell of a series
    /// that is known costs one look-up: with many series that is what takes time.
    fn change(&mut self, labels: &str, change: impl FnOnce(&mut HistogramCells)) {
        if let Some(cells) = self.histograms.get_mut(labels) {
            return change(cells);
        }
        let mut cells = HistogramCells {
            buckets: vec![0; self.family.bounds.len() + 1].into(),
            sum: 0,
            carry: 0,
        };
        change(&mut cells);
        self.histograms.insert(labels.into(), cells);
    }
}

impl HistogramCells {
    fn into_histogram(self) -> Histogram {
        Histogram {
            buckets: self.buckets,
            sum: i128::from(self.carry) * i128::from(CARRY) + i128::from(self.sum),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fixtures::{family, read};

    #[test]
    fn a_field_seen_twice_is_served_once_with_its_later_value() {
        let counter = read(
            family(Kind::Counter, &[]),
            &[("b=\"1\"", "2"), ("a=\"1\"", "1"), ("b=\"1\"", "3")],
        );
        assert_eq!(
            counter.series,
            Series::Values(vec![("a=\"1\"".into(), 1), ("b=\"1\"".into(), 3)])
        );
        let histogram = read(family(Kind::Histogram, &[1.0]), &[("|1", "2"), ("|1", "3")]);
        let Series::Histograms(histograms) = histogram.series else {
            panic!("a histogram");
        };
        assert_eq!(*histograms[0].1.buckets, [3, 0]);
    }

    #[test]
    fn a_sum_takes_its_carry() {
        let histogram = read(
            family(Kind::Histogram, &[1.0]),
            &[("|sum", "5"), ("|sum_carry", "3")],
        );
        let Series::Histograms(histograms) = histogram.series else {
            panic!("a histogram");
        };
        assert_eq!(histograms[0].1.sum, 3 * (1_i128 << 62) + 5);
    }

    #[test]
    fn a_negative_count_is_corrupt_and_a_negative_gauge_is_not() {
        let mut counter = SeriesReader::new(family(Kind::Counter, &[]));
        assert_eq!(counter.push(b"", b"-1"), Err(CellError::Negative(-1)));
        let mut histogram = SeriesReader::new(family(Kind::Histogram, &[1.0]));
        assert_eq!(histogram.push(b"|1", b"-1"), Err(CellError::Negative(-1)));
        assert!(histogram.finish().series.is_empty());
        let mut gauge = SeriesReader::new(family(Kind::Gauge, &[]));
        assert_eq!(gauge.push(b"", b"-1"), Ok(()));
    }

    proptest! {
        #[test]
        fn arbitrary_cells_never_panic(cells in prop::collection::vec((any::<Vec<u8>>(), any::<Vec<u8>>()), 0..8)) {
            for kind in [Kind::Counter, Kind::Gauge, Kind::Histogram] {
                let bounds: &[f64] = if kind == Kind::Histogram { &[1.0] } else { &[] };
                let mut reader = SeriesReader::new(family(kind, bounds));
                for (field, value) in &cells {
                    let _ = reader.push(field, value);
                }
                let _ = reader.finish();
            }
        }
    }
}
