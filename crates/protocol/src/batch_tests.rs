//! Tests of batches: increments, ids, and the log form.

use proptest::prelude::*;

use super::*;
use crate::{
    family::{Family, Kind},
    fixtures,
};

fn id() -> BatchId {
    BatchId {
        nonce: 0xab,
        sequence: 7,
    }
}

fn logged(cells: &[(String, String, u64)], leases: &[(String, usize)]) -> LoggedBatch {
    let mut increments = Batch::default();
    for (key, field, by) in cells {
        increments.inc(key, field, *by);
    }
    let leased = leases.iter().map(|(id, cells)| {
        let mut increments = Batch::default();
        for cell in 0..*cells {
            increments.inc(id, &cell.to_string(), 1);
        }
        let lease = Lease {
            id: id.clone(),
            millis: 1,
            count: vec![(id.clone(), id.clone())],
        };
        LeasedExecution {
            lease,
            due_ms: 1_784_973_600_000,
            increments,
        }
    });
    let batch = SentBatch {
        id: id(),
        frozen_ms: Some(1_784_973_600_000),
        increments,
        leased: leased.collect(),
        custom: CustomWrites::default(),
    };
    LoggedBatch {
        batch,
        group: None,
        shard: None,
    }
}

/// A batch with a few hundred cells and some dozen executions.
fn large() -> LoggedBatch {
    let cells: Vec<_> = (0..300)
        .map(|number| {
            let key = format!("metrics:{}", number % 7);
            (key, format!("a=\"{number}\""), number)
        })
        .collect();
    let leases: Vec<_> = (0..40).map(|number| (format!("l/{number}"), 5)).collect();
    logged(&cells, &leases)
}

fn join(parts: impl IntoIterator<Item = LoggedPart>) -> (Vec<LoggedBatch>, Joiner) {
    let mut joiner = Joiner::default();
    let mut joined = Vec::new();
    for part in parts {
        joined.extend(joiner.push(part).expect("the part can be joined"));
    }
    (joined, joiner)
}

#[test]
fn merging_adds() {
    let mut left = Batch::default();
    left.inc("k", "a", 1);
    let mut right = Batch::default();
    right.inc("k", "a", 2);
    right.inc("l", "b", 3);
    left.merge(&right);
    let cells: Vec<_> = left.cells().collect();
    assert_eq!(cells, [("k", "a", 3), ("l", "b", 3)]);
    assert_eq!(left.len(), 2);
}

#[test]
fn renaming_a_key_keeps_what_was_counted() {
    let mut batch = Batch::default();
    batch.inc("k", "a", 1);
    batch.inc("k@2", "a", 4);
    batch.rename_key("k", "k@2");
    assert_eq!(batch.cells().collect::<Vec<_>>(), [("k@2", "a", 5)]);
}

#[test]
fn a_cell_never_passes_what_redis_can_take() {
    let mut batch = Batch::default();
    batch.inc("k", "sum", u64::MAX);
    batch.inc("k", "sum", u64::MAX);
    assert_eq!(
        batch.cells().collect::<Vec<_>>(),
        [("k", "sum", MAX_INCREMENT)]
    );
}

#[test]
fn refuses_texts_that_are_not_ids() {
    for text in [
        "",
        "1",
        "1-2",
        "1-2-3",
        "000000000000000g-3",
        "0000000000000002-3-4",
        "1-0000000000000002-3",
    ] {
        assert!(BatchId::try_from(text.to_owned()).is_err(), "{text:?}");
    }
}

#[test]
fn late_executions_are_removed_with_their_increments() {
    let leased = |id: &str| {
        let mut increments = Batch::default();
        increments.inc("k", "a", 1);
        let lease = Lease {
            id: id.into(),
            millis: 1,
            count: Vec::new(),
        };
        LeasedExecution {
            lease,
            due_ms: 1,
            increments,
        }
    };
    let id = BatchId {
        nonce: 2,
        sequence: 3,
    };
    let mut sent = SentBatch {
        id,
        frozen_ms: None,
        increments: Batch::default(),
        leased: vec![leased("1"), leased("2"), leased("3")],
        custom: CustomWrites::default(),
    };
    let sum = |sent: &SentBatch| sent.total().cells().map(|(_, _, by)| by).sum::<u64>();
    assert_eq!(sum(&sent), 3);
    assert_eq!(sent.remove_late(&["2".into(), "9".into()]), 1);
    assert_eq!(sum(&sent), 2);
}

#[test]
fn a_batch_that_fits_has_no_part_number() {
    let logged = logged(&[("k".into(), "a".into(), 1)], &[]);
    let parts = logged.clone().into_parts(1000);
    assert_eq!(parts.len(), 1);
    let text = serde_json::to_string(&parts[0]).expect("it serialises");
    assert_eq!(
        text,
        r#"{"id":"00000000000000ab-7","frozen_ms":1784973600000,"increments":{"k":{"a":1}}}"#
    );
    let (joined, joiner) = join(parts);
    assert_eq!(joined, [logged]);
    assert_eq!(joiner.incomplete().count(), 0);
}

#[test]
fn a_part_says_what_it_is_a_part_of() {
    let parts = large().into_parts(4000);
    assert!((2..12).contains(&parts.len()), "{}", parts.len());
    let text = serde_json::to_value(&parts[1]).expect("it serialises");
    assert_eq!(text["id"], "00000000000000ab-7");
    assert_eq!(text["frozen_ms"], 1_784_973_600_000_i64);
    assert_eq!(text["part"]["number"], 2);
    assert_eq!(text["part"]["of"], parts.len());
}

#[test]
fn a_group_is_joined_as_a_group() {
    let group = LoggedBatch {
        group: Some("/metrics/job/j".into()),
        ..large()
    };
    let (joined, _) = join(group.clone().into_parts(1000));
    assert_eq!(joined, [group]);
}

#[test]
fn a_batch_is_joined_in_its_shard_alone() {
    let [third, fourth] = [3, 4].map(|shard| LoggedBatch {
        shard: Some(shard),
        ..large()
    });
    let mut parts = third.clone().into_parts(1000);
    assert_eq!(join(parts.clone()).0, [third]);
    // The same id in another shard is another batch.
    parts[0] = fourth.into_parts(1000).remove(0);
    assert_eq!(join(parts).0, []);
}

#[test]
fn without_one_part_nothing_is_joined_and_the_batch_is_reported() {
    let parts = large().into_parts(1000);
    let of = u32::try_from(parts.len()).expect("few");
    for left_out in 0..parts.len() {
        let mut some = parts.clone();
        some.remove(left_out);
        // A part that comes twice does not replace another one.
        let (joined, joiner) = join(some.iter().chain(&some).cloned());
        assert_eq!(joined, []);
        let expected = Incomplete {
            shard: None,
            id: id(),
            missing: 1,
            of,
        };
        assert_eq!(joiner.incomplete().collect::<Vec<_>>(), [expected]);
    }
}

#[test]
fn parts_that_come_again_make_nothing_incomplete() {
    let parts = large().into_parts(1000);
    let again = parts.iter().chain(&parts[1..]).cloned();
    let (joined, joiner) = join(again);
    assert_eq!(joined, [large()]);
    assert_eq!(joiner.incomplete().count(), 0);
}

#[test]
fn parts_of_different_batches_are_told_apart() {
    let other = |change: fn(&mut LoggedBatch)| {
        let mut other = large();
        change(&mut other);
        other.into_parts(1000)
    };
    let parts = large().into_parts(1000);
    let changes: [fn(&mut LoggedBatch); 4] = [
        |other| other.batch.id.nonce += 1,
        |other| other.batch.id.sequence += 1,
        |other| other.group = Some("/metrics/job/j".into()),
        |other| _ = other.batch.leased.drain(1..),
    ];
    for change in changes {
        let mixed = other(change).into_iter().skip(1).chain([parts[0].clone()]);
        let (joined, joiner) = join(mixed);
        assert_eq!(joined, []);
        assert_eq!(joiner.incomplete().count(), 2);
    }
}

#[test]
fn parts_that_cannot_be_joined_are_refused() {
    let parts = large().into_parts(1000);
    let of = u32::try_from(parts.len()).expect("few");
    let mut joiner = Joiner::default();
    for number in [0, of + 1] {
        let mut wrong = parts[0].clone();
        let part = Part { number, of };
        wrong.part = Some(part);
        assert_eq!(joiner.push(wrong), Err(PartError::Number(part)));
    }
    assert_eq!(joiner.push(parts[0].clone()), Ok(None));
    let mut wrong = parts[1].clone();
    wrong.part = parts[0].part;
    let refused = joiner.push(wrong).expect_err("the first one was another");
    assert!(
        refused
            .to_string()
            .contains("part 1 of batch 00000000000000ab-7")
    );
    for text in [
        r#"{"id":"0000000000000002-3","increments":{},"part":2}"#,
        r#"{"id":"0000000000000002-3","increments":{},"part":{"number":1}}"#,
        r#"{"id":"0000000000000002-3","increments":{},"part":{"number":-1,"of":2}}"#,
    ] {
        // Read as a whole batch, a part would be applied in place of all of it.
        assert!(serde_json::from_str::<LoggedPart>(text).is_err(), "{text}");
    }
}

#[test]
fn a_cell_that_is_too_long_is_a_part_of_its_own() {
    let long = "x".repeat(5000);
    let cells = ["a", long.as_str(), "y"].map(|field| ("k".into(), field.into(), 1));
    let whole = logged(&cells, &[("l".into(), 2)]);
    let parts = whole.clone().into_parts(1000);
    let long: Vec<_> = parts
        .iter()
        .filter(|part| json_bytes(part) > 1000)
        .collect();
    assert_eq!(long.len(), 1);
    assert_eq!(long[0].logged.batch.increments.len(), 1);
    assert_eq!(join(parts).0, [whole]);
}

#[test]
fn gauges_and_families_are_split_and_joined() {
    let mut whole = logged(&[("m:custom:a".into(), "x=\"1\"".into(), 1)], &[]);
    let custom = &mut whole.batch.custom;
    custom.max_series = 77;
    for number in 0..100 {
        let key = format!("m:custom:g{}", number % 7);
        let write = GaugeWrite {
            set: Some(-number),
            set_ms: Some(1_784_973_600_000),
            sum: number,
        };
        custom.gauges.write(&key, &format!("x=\"{number}\""), write);
        let name = format!("jobs_{number}");
        let family = fixtures::family(Kind::Histogram, &[0.5, 1.0]);
        custom.push_family(&Family { name, ..family });
    }
    let parts = whole.clone().into_parts(1000);
    assert!(parts.len() > 10);
    for part in &parts {
        assert!(json_bytes(part) <= 1000, "{}", json_bytes(part));
    }
    assert_eq!(join(parts).0, [whole]);
}

#[test]
fn the_oldest_batch_with_missing_parts_is_given_up_beyond_the_bound() {
    let part = |nonce, number| LoggedPart {
        logged: LoggedBatch {
            batch: SentBatch {
                id: BatchId { nonce, sequence: 1 },
                frozen_ms: None,
                increments: Batch::default(),
                leased: Vec::new(),
                custom: CustomWrites::default(),
            },
            group: None,
            shard: None,
        },
        part: Some(Part { number, of: 3 }),
    };
    let mut joiner = Joiner::default();
    // The first is not the one with the smallest id.
    let mut ids: Vec<_> = (1..=MAX_PARTS as u64 + 1).rev().collect();
    ids.swap(0, 7);
    let first = ids[0];
    for nonce in ids {
        assert_eq!(joiner.give_up(), None);
        assert_eq!(joiner.push(part(nonce, 2)), Ok(None));
    }
    let given_up = joiner.give_up().expect("there are too many parts");
    assert_eq!((given_up.id.nonce, given_up.missing), (first, 2));
    assert_eq!(joiner.give_up(), None);
    assert_eq!(joiner.incomplete().count(), MAX_PARTS);
    for number in [1, 2] {
        assert_eq!(joiner.push(part(first, number)), Ok(None));
    }
    assert!(
        joiner
            .push(part(first, 3))
            .is_ok_and(|whole| whole.is_some())
    );
    assert_eq!(joiner.parts, MAX_PARTS);
}

proptest! {
    #[test]
    fn ids_read_back(nonce: u64, sequence: u64) {
        let id = BatchId { nonce, sequence };
        prop_assert_eq!(BatchId::try_from(String::from(id.clone())), Ok(id));
    }

    #[test]
    fn logged_batches_read_back(
        cells in prop::collection::vec((any::<String>(), any::<String>(), 0..=MAX_INCREMENT), 0..8),
        frozen_ms in any::<Option<i64>>(),
        due_ms in any::<i64>(),
    ) {
        let mut increments = Batch::default();
        for (key, field, by) in &cells {
            increments.inc(key, field, *by);
        }
        let id = BatchId { nonce: 2, sequence: 3 };
        let lease = Lease { id: "l".into(), millis: 1, count: Vec::new() };
        let leased = vec![LeasedExecution { lease, due_ms, increments: increments.clone() }];
        let mut custom = CustomWrites { max_series: 7, ..CustomWrites::default() };
        for (key, field, by) in &cells {
            let (set, sum) = (frozen_ms, *by as i64 - (1 << 61));
            custom.gauges.write(key, field, GaugeWrite { set, set_ms: set, sum });
        }
        let sent = SentBatch { id, frozen_ms, increments, leased, custom };
        let text = serde_json::to_string(&sent).expect("serialises");
        prop_assert_eq!(serde_json::from_str::<SentBatch>(&text).ok(), Some(sent));
    }

    #[test]
    fn arbitrary_ids_never_panic(text: String) {
        let _ = BatchId::try_from(text);
    }

    #[test]
    fn parts_are_short_and_join_in_any_order(
        cells in prop::collection::vec((".{0,12}", ".{0,60}", 0..=MAX_INCREMENT), 0..60),
        leases in prop::collection::vec((".{0,12}", 0..6_usize), 0..20),
        group in prop::option::of(".{0,20}"),
        shard in prop::option::of(0..256_u32),
        max_bytes in 1000..4000_usize,
        order in any::<u64>(),
        twice in any::<bool>(),
    ) {
        let whole = LoggedBatch { group, shard, ..logged(&cells, &leases) };
        let parts = whole.clone().into_parts(max_bytes);
        let mut lines = Vec::new();
        for part in &parts {
            let line = serde_json::to_string(part).expect("it serialises");
            prop_assert!(line.len() <= max_bytes, "{} of {max_bytes}: {line}", line.len());
            lines.push(line);
        }
        if twice {
            lines.extend(lines.clone());
        }
        // Shuffled by a digest of place and seed.
        let mut placed: Vec<_> = lines.into_iter().enumerate().collect();
        placed.sort_by_key(|(place, _)| (*place as u64 + 1).wrapping_mul(order | 1).rotate_left(17));
        let parts = placed.into_iter().map(|(_, line)| serde_json::from_str(&line).expect("a part"));
        let (joined, joiner) = join(parts);
        prop_assert!(!joined.is_empty() && joined.iter().all(|joined| *joined == whole));
        prop_assert_eq!(joiner.incomplete().count(), 0);
    }
}

/// However long a registration is, and whatever its help has.
#[test]
fn a_registration_that_is_longer_than_a_line_is_cut() {
    let mut whole = logged(&[], &[]);
    let bounds: Vec<_> = (0..256).map(|number| f64::from(number) / 7.0).collect();
    let long = Family {
        help: "é\u{1}\"\\🦀".repeat(300),
        ..fixtures::family(Kind::Histogram, &bounds)
    };
    let short = fixtures::family(Kind::Counter, &[]);
    whole.batch.custom.push_family(&long);
    whole.batch.custom.push_family(&short);
    let parts = whole.clone().into_parts(2_000);
    assert!(parts.len() > 5);
    for part in &parts {
        assert!(json_bytes(part) <= 2_000, "{}", json_bytes(part));
    }
    let mut joined = join(parts).0;
    assert_eq!(joined, [whole]);
    let families = joined.remove(0).batch.custom.families();
    assert_eq!(families.expect("they are valid"), [long, short]);
}
