//! Tests of series: read from cells, merged from layouts, and made of totals.

use proptest::prelude::*;

use super::*;
use crate::{
    catalog::{Catalog, ExecutionStatus, FinishedExecution},
    exposition::{Format, expose},
    fixtures::{family, read},
};

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
fn the_size_counts_samples_and_long_ones_several_times() {
    let push = |reader: &mut SeriesReader, field: &str| {
        reader.push(field.as_bytes(), b"1").expect("a cell");
        reader.size()
    };
    let counter = &mut SeriesReader::new(family(Kind::Counter, &[]));
    assert_eq!(push(counter, "a=\"1\""), 1);
    assert_eq!(push(counter, "a=\"2\""), 2);
    assert_eq!(push(counter, &format!("a=\"{}\"", "x".repeat(600))), 5);
    // The first cell of a series makes all its buckets.
    let histogram = &mut SeriesReader::new(family(Kind::Histogram, &[1.0, 2.0]));
    assert_eq!(push(histogram, "a=\"1\"|1"), 5);
    assert_eq!(push(histogram, "a=\"1\"|sum"), 5);
    assert_eq!(push(histogram, "a=\"2\"|sum"), 10);
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
        // Bounds that the first two do not share stay lost.
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
    let text = expose(Format::Text, &families.expect("the catalog has their keys"));
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
fn cells_of_no_family_are_refused() {
    let catalog = Catalog::new("m:");
    let refused = |key: &str, field: &str| {
        let mut totals = Batch::default();
        totals.inc(key, field, 1);
        families_of_totals(&catalog.families(), &totals).expect_err("no family has the cell")
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
