//! Several layouts of one family, added up. Owns which can be, and on which
//! buckets; each is a [`FamilySeries`] already.

use crate::{
    family::Family,
    series::{FamilySeries, Histogram, Series},
};

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

#[cfg(test)]
mod tests {
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
