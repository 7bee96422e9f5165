//! Cells read from Redis put together into series. Owns what happens when a
//! field comes twice or a cell is missing; reads nothing itself. Several hashes
//! of one family are [`crate::series`]'s.

use std::collections::HashMap;

use thiserror::Error;

use crate::{
    batch::Batch,
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

/// Adds up the layouts of one family, which components of different versions
/// wrote to different hashes. Histograms are served on the bounds that all
/// layouts share, so that no bucket claims a bound it did not count; `+Inf` is
/// always shared, and with it count and sum.
///
/// Gives back the layouts that cannot be added to the first (another type or
/// scale): they are to be reported, not served.
#[must_use]
pub fn merge_layouts(mut layouts: Vec<FamilySeries>) -> (Option<FamilySeries>, Vec<Family>) {
    if layouts.len() < 2 {
        return (layouts.pop(), Vec::new());
    }
    let mut layouts = layouts.into_iter();
    let Some(mut merged) = layouts.next() else {
        return (None, Vec::new());
    };
    let mut refused = Vec::new();
    for other in layouts {
        let comparable =
            other.family.kind == merged.family.kind && other.family.scale == merged.family.scale;
        if comparable {
            add(&mut merged, other);
        } else {
            refused.push(other.family);
        }
    }
    (Some(merged), refused)
}

fn shared_bounds(left: &[f64], right: &[f64]) -> Vec<f64> {
    left.iter()
        .copied()
        .filter(|bound| right.contains(bound))
        .collect()
}

fn add(merged: &mut FamilySeries, other: FamilySeries) {
    match (&mut merged.series, other.series) {
        (Series::Values(left), Series::Values(right)) => {
            left.extend(right);
            left.sort_by(|(left, _), (right, _)| left.cmp(right));
            left.dedup_by(|later, earlier| {
                let same = later.0 == earlier.0;
                if same {
                    earlier.1 = earlier.1.saturating_add(later.1);
                }
                same
            });
        }
        (Series::Histograms(left), Series::Histograms(right)) => {
            let shared = shared_bounds(&merged.family.bounds, &other.family.bounds);
            let mut all: Vec<_> = left
                .drain(..)
                .map(|(labels, histogram)| {
                    (labels, rebase(&histogram, &merged.family.bounds, &shared))
                })
                .chain(right.into_iter().map(|(labels, histogram)| {
                    (labels, rebase(&histogram, &other.family.bounds, &shared))
                }))
                .collect();
            all.sort_by(|(left, _), (right, _)| left.cmp(right));
            all.dedup_by(|later, earlier| {
                let same = later.0 == earlier.0;
                if same {
                    let counts = earlier.1.buckets.iter_mut().zip(&later.1.buckets);
                    counts.for_each(|(left, right)| *left = left.saturating_add(*right));
                    earlier.1.sum = earlier.1.sum.saturating_add(later.1.sum);
                }
                same
            });
            *left = all;
            merged.family.bounds = shared;
        }
        // One kind has one form of series, and the kinds were compared.
        (Series::Values(_), Series::Histograms(_)) | (Series::Histograms(_), Series::Values(_)) => {
        }
    }
}

/// The same observations on fewer bounds: each bucket's count goes to the
/// least of the kept bounds that is not below its own.
fn rebase(histogram: &Histogram, from: &[f64], to: &[f64]) -> Histogram {
    let mut buckets = vec![0_u64; to.len() + 1];
    for (position, count) in histogram.buckets.iter().enumerate() {
        let target = from
            .get(position)
            .map_or(to.len(), |bound| to.partition_point(|kept| kept < bound));
        buckets[target] = buckets[target].saturating_add(*count);
    }
    Histogram {
        buckets: buckets.into(),
        sum: histogram.sum,
    }
}

/// Why totals are not those of the families.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum TotalsError {
    /// A key belongs to none of the families.
    #[error("no family has the key {0:?}")]
    UnknownKey(String),
    /// A cell is none of its family's.
    #[error(transparent)]
    Cell(#[from] CellError),
}

/// The families that `totals` has cells of, in the order of `families`.
///
/// # Errors
/// See [`TotalsError`].
pub fn families_of_totals(
    families: &[&Family],
    totals: &Batch,
) -> Result<Vec<FamilySeries>, TotalsError> {
    if let Some((key, _)) = totals
        .hashes()
        .find(|(key, _)| families.iter().all(|family| family.key != *key))
    {
        return Err(TotalsError::UnknownKey(key.to_owned()));
    }
    let mut found = Vec::with_capacity(families.len());
    for &family in families {
        let Some((_, cells)) = totals.hashes().find(|(key, _)| *key == family.key) else {
            continue;
        };
        let mut series = SeriesReader::new(family.clone());
        for (field, value) in cells {
            series.push(field.as_bytes(), value.to_string().as_bytes())?;
        }
        found.push(series.finish());
    }
    Ok(found)
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

#[cfg(test)]
mod layouts_tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        family::Kind,
        fixtures::{family, read},
    };

    #[test]
    fn layouts_are_served_on_the_bounds_they_share() {
        let first = read(
            family(Kind::Histogram, &[1.0, 2.0, 4.0]),
            &[
                ("|1", "1"),
                ("|2", "10"),
                ("|4", "100"),
                ("|+Inf", "1000"),
                ("|sum", "7"),
            ],
        );
        let second = read(
            family(Kind::Histogram, &[0.5, 1.0, 4.0, 8.0]),
            &[
                ("|0.5", "1"),
                ("|1", "1"),
                ("|4", "5"),
                ("|8", "7"),
                ("|sum", "3"),
            ],
        );
        let (merged, refused) = merge_layouts(vec![first, second]);
        let merged = merged.expect("they can be added");
        assert!(refused.is_empty());
        assert_eq!(merged.family.bounds, [1.0, 4.0]);
        let Series::Histograms(histograms) = merged.series else {
            panic!("a histogram");
        };
        assert_eq!(*histograms[0].1.buckets, [3, 115, 1007]);
        assert_eq!(histograms[0].1.sum, 10);
    }

    #[test]
    fn layouts_that_cannot_be_added_are_given_back() {
        let first = read(family(Kind::Histogram, &[1.0]), &[("|1", "1")]);
        let mut second = first.clone();
        second.family.scale = 1000;
        let third = read(family(Kind::Counter, &[]), &[("", "1")]);
        let (merged, refused) = merge_layouts(vec![first.clone(), second, third]);
        assert_eq!(merged, Some(first));
        assert_eq!(refused.len(), 2);
    }

    #[test]
    fn layouts_without_a_bound_in_common_share_count_and_sum() {
        let layout = |bounds: &[f64], cells| read(family(Kind::Histogram, bounds), cells);
        let (merged, refused) = merge_layouts(vec![
            layout(
                &[1.0, 2.0],
                &[
                    ("a=\"x\"|1", "1"),
                    ("a=\"x\"|+Inf", "2"),
                    ("a=\"x\"|sum", "9"),
                ],
            ),
            layout(
                &[3.0],
                &[("a=\"x\"|3", "4"), ("a=\"x\"|sum", "8"), ("b=\"y\"|3", "5")],
            ),
            // What is lost with the first two is not found again.
            layout(&[1.0, 3.0], &[("a=\"x\"|1", "8"), ("a=\"x\"|sum", "1")]),
        ]);
        let merged = merged.expect("they can be added");
        assert!(refused.is_empty() && merged.family.bounds.is_empty());
        let histogram = |count, sum| Histogram {
            buckets: [count].into(),
            sum,
        };
        assert_eq!(
            merged.series,
            Series::Histograms(vec![
                ("a=\"x\"".into(), histogram(15, 18)),
                ("b=\"y\"".into(), histogram(5, 0))
            ])
        );
    }

    proptest! {
        #[test]
        fn merging_layouts_loses_no_observation(
            left in prop::collection::vec(0_u64..1000, 4),
            right in prop::collection::vec(0_u64..1000, 3),
        ) {
            let histogram = |buckets: &[u64]| Histogram { buckets: buckets.into(), sum: 0 };
            let layouts = vec![
                FamilySeries {
                    family: family(Kind::Histogram, &[1.0, 2.0, 3.0]),
                    series: Series::Histograms(vec![("".into(), histogram(&left))]),
                },
                FamilySeries {
                    family: family(Kind::Histogram, &[2.0, 5.0]),
                    series: Series::Histograms(vec![("".into(), histogram(&right))]),
                },
            ];
            let (merged, _) = merge_layouts(layouts);
            let Some(Series::Histograms(merged)) = merged.map(|merged| merged.series) else {
                return Err(TestCaseError::fail("no histogram"));
            };
            // Cumulative counts at the shared bound and in all are the sums of both.
            prop_assert_eq!(merged[0].1.buckets[0], left[0] + left[1] + right[0]);
            prop_assert_eq!(merged[0].1.buckets.iter().sum::<u64>(), left.iter().chain(&right).sum::<u64>());
        }
    }
}

#[cfg(test)]
mod totals_tests {
    use super::*;
    use crate::{
        catalog::Catalog,
        catalog::{ExecutionStatus, FinishedExecution},
        exposition::{Format, expose},
    };

    #[test]
    fn totals_are_exposed_as_their_families() {
        let catalog = Catalog::new("m:");
        let mut totals = Batch::default();
        for (key, field) in catalog.zero_cells("a", &[]) {
            totals.inc(key, &field, 0);
        }
        for duration_nanos in [40_000, 60_000] {
            let execution = FinishedExecution {
                algorithm: "a",
                status: ExecutionStatus::Success,
                duration_nanos,
            };
            catalog.record_execution(&mut totals, &execution);
        }
        let families = families_of_totals(&catalog.families(), &totals);
        let text = expose(Format::Text, &families.expect("they are the catalog's"));
        for line in [
            "algorithm_executions_total{algorithm=\"a\",status=\"success\"} 2\n",
            "algorithm_executions_total{algorithm=\"a\",status=\"crashed\"} 0\n",
            "algorithm_execution_duration_seconds_bucket{algorithm=\"a\",le=\"5e-05\"} 1\n",
            "algorithm_execution_duration_seconds_bucket{algorithm=\"a\",le=\"+Inf\"} 2\n",
            "algorithm_execution_duration_seconds_sum{algorithm=\"a\"} 0.0001\n",
            "algorithm_execution_duration_seconds_count{algorithm=\"a\"} 2\n",
        ] {
            assert!(text.contains(line), "{line}is not in\n{text}");
        }
        assert!(!text.contains("http_request_duration"), "it has no cell");
    }

    #[test]
    fn cells_of_nobody_are_refused() {
        let catalog = Catalog::new("m:");
        let refused = |key: &str, field: &str| {
            let mut totals = Batch::default();
            totals.inc(key, field, 1);
            families_of_totals(&catalog.families(), &totals).expect_err("it is none of ours")
        };
        assert_eq!(
            refused("n:request_counter", ""),
            TotalsError::UnknownKey("n:request_counter".into())
        );
        assert!(matches!(
            refused("m:request_latency", "|7"),
            TotalsError::Cell(CellError::UnknownBucket(_))
        ));
    }
}
