use functional_scaffold_protocol::series::{Histogram, Series};

use super::*;

fn family(kind: Kind, bounds: &[f64]) -> Family {
    Family {
        name: "f".into(),
        kind,
        help: String::new(),
        unit: String::new(),
        key: "k".into(),
        bounds: bounds.to_vec(),
        scale: 1,
    }
}

fn counter(values: &[(&str, i64)]) -> FamilySeries {
    let values = values.iter().map(|&(labels, value)| (labels.into(), value));
    FamilySeries {
        family: family(Kind::Counter, &[]),
        series: Series::Values(values.collect()),
    }
}

fn histogram(bounds: &[f64], buckets: &[u64], sum: i128) -> FamilySeries {
    let histogram = Histogram {
        buckets: buckets.into(),
        sum,
    };
    FamilySeries {
        family: family(Kind::Histogram, bounds),
        series: Series::Histograms(vec![("".into(), histogram)]),
    }
}

/// Clamps what was read without a corrupt cell.
fn clamp(marks: &mut HighWaterMarks, read: &mut FamilySeries) -> u64 {
    marks.clamp(read, &LabelSets::new(), false).regressions
}

/// Serves one read after the other, in one epoch.
fn served(reads: &[FamilySeries]) -> (Vec<Series>, u64) {
    let mut marks = HighWaterMarks::default();
    marks.enter(Some("e"), None);
    let mut back = 0;
    let served = reads.iter().map(|read| {
        let mut read = read.clone();
        back += clamp(&mut marks, &mut read);
        read.series
    });
    (served.collect(), back)
}

fn check(reads: &[FamilySeries], expected: &[FamilySeries], regressions: u64) {
    let (got, back) = served(reads);
    let expected: Vec<_> = expected.iter().map(|one| one.series.clone()).collect();
    assert_eq!(got, expected);
    assert_eq!(back, regressions);
}

#[test]
fn a_counter_that_stepped_back_continues_from_its_highest_value() {
    check(
        &[
            counter(&[("a", 10), ("b", 1)]),
            counter(&[("a", 4), ("b", 2)]),
            counter(&[("a", 5), ("b", 3)]),
            counter(&[("a", 1), ("b", 3)]),
            counter(&[("a", 12), ("b", 3)]),
        ],
        &[
            counter(&[("a", 10), ("b", 1)]),
            counter(&[("a", 10), ("b", 2)]),
            counter(&[("a", 11), ("b", 3)]),
            counter(&[("a", 11), ("b", 3)]),
            counter(&[("a", 22), ("b", 3)]),
        ],
        2,
    );
}

#[test]
fn a_corrupt_series_is_held_and_has_lost_nothing() {
    let bounds = [1.0, 2.0];
    let corrupt = |labels: &str| LabelSets::from([labels.into()]);
    let in_epoch = || {
        let mut marks = HighWaterMarks::default();
        marks.enter(Some("e"), None);
        marks
    };
    let mut marks = in_epoch();
    clamp(&mut marks, &mut counter(&[("a", 100), ("b", 5)]));
    // Corrupt cells are missing.
    let mut read = counter(&[("b", 6)]);
    assert_eq!(marks.clamp(&mut read, &corrupt("a"), false).regressions, 0);
    assert_eq!(read, counter(&[("a", 100), ("b", 6)]));
    assert_eq!(marks.lost_counts(), None);
    // Repaired.
    let mut read = counter(&[("a", 101), ("b", 6)]);
    assert_eq!(clamp(&mut marks, &mut read), 0);
    assert_eq!(read, counter(&[("a", 101), ("b", 6)]));
    // A series that is only missing is lost, whatever else is corrupt.
    let mut read = counter(&[("a", 101)]);
    assert_eq!(marks.clamp(&mut read, &corrupt("a"), false).regressions, 1);
    assert_eq!(read, counter(&[("a", 101), ("b", 6)]));

    let mut marks = in_epoch();
    clamp(&mut marks, &mut histogram(&bounds, &[5, 5, 5], 100));
    let mut read = histogram(&bounds, &[5, 0, 7], 110);
    let corrupt = LabelSets::from(["".into()]);
    assert_eq!(marks.clamp(&mut read, &corrupt, false).regressions, 0);
    assert_eq!(read, histogram(&bounds, &[5, 5, 7], 110));
    assert_eq!(marks.lost_counts(), None);
}

#[test]
fn marks_of_hashes_that_are_not_read_any_more_are_forgotten_beyond_the_bound() {
    let hash = |key: &str, series: usize| {
        let values = (0..series).map(|number| (format!("n=\"{number:03}\"").into(), 5));
        FamilySeries {
            family: Family {
                key: key.into(),
                ..family(Kind::Counter, &[])
            },
            series: Series::Values(values.collect()),
        }
    };
    let mut marks = HighWaterMarks::default();
    let mut read = |hashes: &mut [FamilySeries]| {
        marks.enter(Some("e"), None);
        for hash in hashes {
            clamp(&mut marks, hash);
        }
        (marks.forget_beyond(100), marks.size())
    };
    // Each hash counts as one more.
    assert_eq!(read(&mut [hash("a", 40), hash("b", 40)]), (vec![], 82));
    // They are kept while there is room.
    assert_eq!(read(&mut [hash("c", 9)]), (vec![], 92));
    let mut kept = [hash("a", 0)];
    assert_eq!(read(&mut kept), (vec![], 92));
    assert_eq!(kept, [hash("a", 40)], "it stepped back");
    assert_eq!(read(&mut [hash("c", 9), hash("d", 30)]), (vec![], 41));
    let mut new = [hash("a", 0)];
    read(&mut new);
    assert_eq!(new, [hash("a", 0)], "it is unknown");
    // Series that are gone from Redis are of a hash that is read.
    assert_eq!(
        read(&mut [hash("d", 0), hash("e", 80)]),
        (vec!["f".into()], 31)
    );
}

#[test]
fn series_appear_disappear_and_return_in_order() {
    check(
        &[
            counter(&[("b", 3), ("d", 0)]),
            counter(&[("a", 1), ("c", 1)]),
            counter(&[]),
            counter(&[("b", 2), ("e", 7)]),
        ],
        &[
            counter(&[("b", 3), ("d", 0)]),
            counter(&[("a", 1), ("b", 3), ("c", 1), ("d", 0)]),
            counter(&[("a", 1), ("b", 3), ("c", 1), ("d", 0)]),
            counter(&[("a", 1), ("b", 5), ("c", 1), ("d", 0), ("e", 7)]),
        ],
        3,
    );
}

#[test]
fn buckets_and_sum_of_a_histogram_do_not_step_back() {
    let bounds = [1.0, 2.0];
    check(
        &[
            histogram(&bounds, &[5, 5, 5], 100),
            histogram(&bounds, &[4, 6, 5], 90),
            histogram(&bounds, &[5, 6, 6], 95),
        ],
        &[
            histogram(&bounds, &[5, 5, 5], 100),
            histogram(&bounds, &[5, 6, 5], 100),
            histogram(&bounds, &[6, 6, 6], 105),
        ],
        1,
    );
}

#[test]
fn a_sum_of_negative_observations_may_fall() {
    let bounds = [-1.0, 2.0];
    check(
        &[
            histogram(&bounds, &[5, 5, 5], 100),
            histogram(&bounds, &[6, 5, 5], 80),
        ],
        &[
            histogram(&bounds, &[5, 5, 5], 100),
            histogram(&bounds, &[6, 5, 5], 80),
        ],
        0,
    );
}

#[test]
fn a_torn_sum_is_not_accepted_at_once() {
    let carry = 1_i128 << 62;
    let sums = |sums: &[i128]| -> Vec<FamilySeries> {
        sums.iter()
            .map(|&sum| histogram(&[1.0], &[1, 1], sum))
            .collect()
    };
    for torn in [carry - 10 + carry, -10] {
        check(
            &sums(&[carry - 10, torn, carry + 5]),
            &sums(&[carry - 10, carry - 10, carry + 5]),
            0,
        );
    }
    check(
        &sums(&[carry, 0, 0, 7]),
        &sums(&[carry, carry, carry, carry + 7]),
        1,
    );
}

#[test]
fn another_epoch_resets_and_no_epoch_has_no_marks() {
    let mut marks = HighWaterMarks::default();
    for (epoch, value, expected) in [
        (Some("e"), 10, 10),
        (Some("e"), 4, 10),
        (Some("f"), 3, 3),
        (None, 2, 2),
        (None, 1, 1),
        (Some("e"), 1, 1),
    ] {
        marks.enter(epoch, None);
        let mut read = counter(&[("a", value)]);
        clamp(&mut marks, &mut read);
        assert_eq!(read, counter(&[("a", expected)]), "{epoch:?} {value}");
    }
}

#[test]
fn gauges_fall_and_another_layout_is_another_hash() {
    let mut marks = HighWaterMarks::default();
    marks.enter(Some("e"), None);
    for value in [5, 3] {
        let mut gauge = counter(&[("a", value)]);
        gauge.family.kind = Kind::Gauge;
        let read = gauge.clone();
        assert_eq!(clamp(&mut marks, &mut gauge), 0);
        assert_eq!(gauge, read);
    }
    clamp(&mut marks, &mut histogram(&[1.0], &[5, 5], 9));
    let mut other = histogram(&[2.0], &[1, 1], 2);
    let read = other.clone();
    assert_eq!(clamp(&mut marks, &mut other), 0);
    assert_eq!(other, read);
}

#[test]
fn lost_counts_are_handed_over_by_field() {
    let carry = 1_i128 << 62;
    let mut marks = HighWaterMarks::default();
    marks.enter(Some("e"), None);
    assert_eq!(marks.lost_counts(), None);
    clamp(&mut marks, &mut histogram(&[0.5], &[5, 5], carry * 2 + 9));
    // Twice: the first time, the step is taken for a torn read.
    for _read in 0..2 {
        clamp(&mut marks, &mut histogram(&[0.5], &[3, 5], 2));
    }
    let handed = marks.lost_counts().expect("something is lost");
    let cells: Vec<_> = handed.cells().collect();
    let expected = [("|0.5", 2), ("|sum", 7), ("|sum_carry", 2)];
    assert_eq!(cells, expected.map(|(field, by)| ("k", field, by)));
    // Refused: the mark keeps it, and hands it over again.
    marks.enter(Some("e"), None);
    clamp(&mut marks, &mut histogram(&[0.5], &[3, 5], 2));
    assert_eq!(marks.lost_counts(), Some(handed));
    // Accepted, or another reader has added the same: it is part of the next read.
    marks.enter(Some("e"), Some("v"));
    let mut read = histogram(&[0.5], &[5, 5], carry * 2 + 9);
    let served = read.clone();
    assert_eq!(clamp(&mut marks, &mut read), 0);
    assert_eq!(read, served);
    assert_eq!(marks.lost_counts(), None);
}

#[test]
fn marks_are_restored_from_the_served_values() {
    let carry = 1_i128 << 62;
    let mut marks = HighWaterMarks::default();
    assert_eq!(marks.served(), None);
    marks.enter(Some("e"), None);
    let mut histograms = histogram(&[0.5], &[5, 0], carry + 9);
    histograms.family.name = "g".into();
    histograms.family.key = "h".into();
    let mut counters = counter(&[("a=\"1\"", 7), ("b=\"2\"", 0)]);
    clamp(&mut marks, &mut histograms);
    clamp(&mut marks, &mut counters);
    // With lost counts.
    clamp(&mut marks, &mut counter(&[("a=\"1\"", 3)]));
    let served = marks.served().expect("there is an epoch");
    let text = serde_json::to_string(&served).expect("it serialises");
    let read = serde_json::from_str(&text).expect("it reads back");
    let mut marks = HighWaterMarks::restore(&read).expect("it is whole");
    marks.enter(Some("e"), None);
    let (mut none, mut no_counter) = (histogram(&[0.5], &[], 0), counter(&[]));
    none.family = histograms.family.clone();
    none.series = Series::Histograms(Vec::new());
    assert_eq!(clamp(&mut marks, &mut no_counter), 1);
    assert_eq!(no_counter, counters);
    // The missing sum is a step that is taken for a torn read.
    assert_eq!(clamp(&mut marks, &mut none), 1);
    assert_eq!(none, histograms);
    assert_eq!(marks.served(), Some(served));
}

fn removed(key: &str, labels: Option<&str>, number: i64) -> (Removal, i64) {
    let (key, labels) = (key.to_owned(), labels.map(str::to_owned));
    (Removal { key, labels }, number)
}

#[test]
fn a_removed_series_starts_at_0() {
    let mut marks = HighWaterMarks::default();
    marks.enter(Some("e"), None);
    clamp(&mut marks, &mut counter(&[("a", 5), ("b", 5), ("c", 5)]));
    // Lost counts are forgotten, too.
    clamp(&mut marks, &mut counter(&[("a", 3), ("b", 5), ("c", 5)]));
    let removals = [
        removed("k", Some("b"), 8),
        removed("k", Some("a"), 7),
        removed("other", None, 3),
        removed("other", Some("c"), 3),
    ];
    marks.forget(&removals);
    assert_eq!(marks.last_removal(Some("e")), 8);
    let mut read = counter(&[("a", 1)]);
    assert_eq!(clamp(&mut marks, &mut read), 1);
    assert_eq!(read, counter(&[("a", 1), ("c", 5)]));
    marks.forget(&[removed("k", None, 9)]);
    let mut read = counter(&[("c=\"1\"", 1)]);
    assert_eq!(clamp(&mut marks, &mut read), 0);
    assert_eq!(read, counter(&[("c=\"1\"", 1)]));
    // Another epoch has other removals.
    assert_eq!(marks.last_removal(Some("f")), 0);
    let served = marks.served().expect("there is an epoch");
    let marks = HighWaterMarks::restore(&served).expect("it is whole");
    assert_eq!(marks.last_removal(Some("e")), 9);
}

#[test]
fn a_shard_that_lost_its_data_counts_from_0_and_an_old_epoch_may_return() {
    let mut marks = HighWaterMarks::default();
    marks.enter(Some("e"), None);
    let read = |marks: &mut HighWaterMarks, value, has_lost| {
        let mut read = counter(&[("x=\"1\"", value)]);
        let clamped = marks.clamp(&mut read, &LabelSets::new(), has_lost);
        let Series::Values(values) = read.series else {
            panic!("a counter has values")
        };
        (values[0].1, clamped.regressions)
    };
    assert_eq!(read(&mut marks, 50, false), (50, 0));
    // Its state alone is lost.
    marks.continue_in(Some("f"), None);
    assert_eq!(read(&mut marks, 50, false), (50, 0));
    // The old epoch is back, as from a backup.
    marks.continue_in(Some("e"), None);
    assert_eq!(read(&mut marks, 40, false), (50, 1));
    // Everything is lost.
    marks.continue_in(Some("g"), Some("v"));
    assert_eq!(read(&mut marks, 3, false), (53, 1));
    // After a restart as well, in an epoch in which the hash was not read.
    let mut served = marks.served().expect("there is an epoch");
    served.epoch = "h".into();
    let mut restored = HighWaterMarks::restore(&served).expect("valid");
    restored.continue_in(Some("h"), Some("w"));
    assert_eq!(read(&mut restored, 7, false), (60, 1));
    // Another reader has added what was lost.
    marks.continue_in(Some("i"), Some("x"));
    assert_eq!(read(&mut marks, 53 + 4, true), (57, 0));
}

#[test]
fn what_another_reader_has_added_is_not_added_twice() {
    let mut marks = HighWaterMarks::default();
    marks.enter(Some("e"), None);
    clamp(&mut marks, &mut counter(&[("a", 100)]));
    marks.enter(Some("e"), None);
    let mut read = counter(&[("a", 60)]);
    assert_eq!(clamp(&mut marks, &mut read), 1);
    assert_eq!(read, counter(&[("a", 100)]));
    // Redis refused it, and then another reader added it.
    marks.enter(Some("e"), Some("v"));
    let mut read = counter(&[("a", 100)]);
    assert_eq!(clamp(&mut marks, &mut read), 0);
    assert_eq!(read, counter(&[("a", 100)]));
    assert_eq!(marks.lost_counts(), None);
}

#[test]
fn a_corrupt_cell_without_an_earlier_value_is_a_partial_family() {
    let mut marks = HighWaterMarks::default();
    marks.enter(Some("e"), None);
    let corrupt: LabelSets = ["b".into()].into();
    let mut read = counter(&[("a", 1)]);
    assert!(marks.clamp(&mut read, &corrupt, false).is_partial);
    clamp(&mut marks, &mut counter(&[("a", 1), ("b", 1)]));
    assert!(!marks.clamp(&mut read, &corrupt, false).is_partial);
}
