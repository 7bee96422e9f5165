//! Series of a family: assembled from cells, merged from several layouts, or made of
//! one writer's totals.

use std::collections::HashMap;

use thiserror::Error;

use crate::{
    batch::Batch,
    cell::{CARRY, Cell, CellError, decode_field, decode_value},
    custom::Gauges,
    family::{Family, Kind},
};

/// A family with its series.
#[derive(Debug, Clone, PartialEq)]
pub struct FamilySeries {
    /// The family.
    pub family: Family,
    /// Its series.
    pub series: Series,
}

/// The series of a family, each with its label set in exposition syntax, in order of
/// label sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Series {
    /// Counters and gauges, in the family's stored unit.
    Values(Vec<(Box<str>, i64)>),
    /// Histograms.
    Histograms(Vec<(Box<str>, Histogram)>),
}

impl Series {
    /// The number of series.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Values(values) => values.len(),
            Self::Histograms(histograms) => histograms.len(),
        }
    }

    /// Returns whether there are no series.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One series of a histogram, as it is stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Histogram {
    /// Observations in each bucket, not cumulative; the last one is `+Inf`.
    pub buckets: Box<[u64]>,
    /// Sum of the observations, in the family's stored unit.
    pub sum: i128,
}

/// Assembles series from the cells of one family's hash, in any order.
///
/// If a field is pushed twice, the later value counts: `HSCAN` may return a field twice
/// while Redis rehashes the hash. A missing bucket is 0.
///
/// # Examples
/// ```
/// use functional_scaffold_protocol::{
///     family::Family,
///     series::{Series, SeriesReader},
/// };
///
/// let json = br#"{"type":"counter","key":"metrics:jobs"}"#;
/// let family = Family::decode("jobs_total", json).expect("the registration is valid");
/// let mut reader = SeriesReader::new(family);
/// reader.push(br#"kind="nightly""#, b"3")?;
/// let series = reader.finish().series;
/// assert_eq!(series, Series::Values(vec![(r#"kind="nightly""#.into(), 3)]));
/// # Ok::<(), functional_scaffold_protocol::cell::CellError>(())
/// ```
#[derive(Debug)]
pub struct SeriesReader {
    family: Family,
    size: usize,
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
    /// Creates a reader without series.
    #[must_use]
    pub fn new(family: Family) -> Self {
        Self {
            family,
            size: 0,
            values: Vec::new(),
            histograms: HashMap::new(),
        }
    }

    /// The number of samples that the series have in an exposition. A sample counts once
    /// for each 256 bytes of its name and labels that are begun, so that the number
    /// bounds the memory that they take.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Adds this number of samples with the same labels to the size.
    fn grow(&mut self, labels: &str, samples: usize) {
        const BYTES: usize = 256;
        let weight = 1 + (self.family.name.len() + labels.len()) / BYTES;
        self.size = self.size.saturating_add(samples.saturating_mul(weight));
    }

    /// Adds a field and its value.
    ///
    /// # Errors
    /// The cell is corrupt. It is left out, and the others are kept.
    pub fn push(&mut self, field: &[u8], value: &[u8]) -> Result<(), CellError> {
        let cell = decode_field(&self.family, field)?;
        let value = decode_value(value)?;
        let unsigned = u64::try_from(value).map_err(|_source| CellError::Negative(value));
        match cell {
            Cell::Value { labels } => {
                if self.family.kind == Kind::Counter {
                    unsigned?;
                }
                self.grow(labels, 1);
                self.values.push((labels.into(), value));
            }
            Cell::SetTime { .. } => {}
            Cell::Bucket { labels, position } => {
                let count = unsigned?;
                self.change(labels, |cells| cells.buckets[position] = count);
            }
            // A sum may be negative, because observations may be.
            Cell::Sum { labels } => self.change(labels, |cells| cells.sum = value),
            Cell::SumCarry { labels } => {
                unsigned?;
                self.change(labels, |cells| cells.carry = value);
            }
        }
        Ok(())
    }

    /// Returns the series, ordered by label set.
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
            // Stable: of two values for one label set, the later one stays last.
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

    /// Changes the cells of a histogram. With many series the look-up takes the time,
    /// so a known series is looked up once and its label set is not copied.
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
        // With sum and count.
        self.grow(labels, cells.buckets.len() + 2);
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

/// Adds up the layouts of one family, which different components wrote to different
/// hashes.
///
/// A merged histogram has the bounds that all layouts share, so that no bucket counts
/// observations beyond its bound. `+Inf` is always shared, and with it count and sum.
///
/// Returns, beside the merged family, the layouts that cannot be added to the first
/// because their type or scale differs.
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
                    (labels, rebucket(&histogram, &merged.family.bounds, &shared))
                })
                .chain(right.into_iter().map(|(labels, histogram)| {
                    (labels, rebucket(&histogram, &other.family.bounds, &shared))
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
        // The kinds are the same, and a kind has one form of series.
        (Series::Values(_), Series::Histograms(_)) | (Series::Histograms(_), Series::Values(_)) => {
        }
    }
}

/// Moves observations to fewer bounds: the count of each bucket goes to the first new
/// bound that is at least its own.
fn rebucket(histogram: &Histogram, from: &[f64], to: &[f64]) -> Histogram {
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

/// Why totals cannot be served.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum TotalsError {
    /// No family has this key.
    #[error("no family has the key {0:?}")]
    UnknownKey(String),
    /// A cell does not fit its family.
    #[error(transparent)]
    Cell(#[from] CellError),
}

/// Returns the series of one writer's totals, by family in the order of `families`.
/// Families without a cell are left out.
///
/// # Errors
/// A cell belongs to no family, or does not fit its family.
pub fn families_of_totals(
    families: &[&Family],
    totals: &Batch,
) -> Result<Vec<FamilySeries>, TotalsError> {
    families_with_gauges(families, totals, &Gauges::default())
}

/// Like [`families_of_totals`], with the writer's gauges.
///
/// # Errors
/// A cell belongs to no family, or does not fit its family.
pub fn families_with_gauges(
    families: &[&Family],
    totals: &Batch,
    gauges: &Gauges,
) -> Result<Vec<FamilySeries>, TotalsError> {
    let of_gauges = gauges.cells().map(|(key, _, _)| key);
    let mut keys = totals.hashes().map(|(key, _)| key).chain(of_gauges);
    if let Some(key) = keys.find(|key| families.iter().all(|family| family.key != *key)) {
        return Err(TotalsError::UnknownKey(key.to_owned()));
    }
    let mut found = Vec::with_capacity(families.len());
    for &family in families {
        let counts = totals.of_key(&family.key);
        let gauges = gauges.of_key(&family.key);
        if counts.is_none() && gauges.clone().next().is_none() {
            continue;
        }
        let mut series = SeriesReader::new(family.clone());
        for (field, value) in counts.into_iter().flatten() {
            series.push(field.as_bytes(), value.to_string().as_bytes())?;
        }
        for (field, gauge) in gauges {
            series.push(field.as_bytes(), gauge.value().to_string().as_bytes())?;
        }
        found.push(series.finish());
    }
    Ok(found)
}

#[cfg(test)]
#[path = "series_tests.rs"]
mod tests;
