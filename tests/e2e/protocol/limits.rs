//! A family has no more series than its limit allows, and no increment is lost.

use std::collections::{BTreeMap, BTreeSet};

use functional_scaffold_protocol::{
    batch::{Batch, BatchId, MAX_INCREMENT, SentBatch},
    calls::{ApplyReply, state_key},
    custom::{CustomWrites, GaugeWrite, custom_key, limited_field, limited_key},
};
use functional_scaffold_testkit::redis::RedisServer;
use proptest::{
    prelude::*,
    test_runner::{Config, TestError, TestRunner},
};

use super::store::Store;
use crate::Result;

const COUNTER: &str = "c_total";
const HISTOGRAM: &str = "h_bytes";
const GAUGE: &str = "g";
const LIMIT: u64 = 4;
/// More than the limit.
const SERIES: usize = 8;

/// A write to a gauge: its series, a new value with its age, and an addition.
type Write = (usize, Option<(i64, u16)>, i64);

/// Something that happens to the three families.
#[derive(Debug, Clone)]
enum Step {
    /// A batch arrives, twice.
    Apply {
        counts: Vec<(usize, u64)>,
        observations: Vec<(usize, usize, u64)>,
        gauges: Vec<Write>,
    },
    Remove {
        family: usize,
        series: usize,
    },
    Wipe,
}

/// The families as they should be, without Redis.
#[derive(Debug, Default)]
struct Model {
    /// Key and field of each cell, a sum and its carry as one number.
    cells: BTreeMap<(String, String), i128>,
    series: BTreeMap<String, BTreeSet<String>>,
    /// By field.
    limited: BTreeMap<String, i128>,
}

impl Model {
    /// Adds the cells of one series, given by their suffixes.
    fn add(&mut self, family: &str, labels: &str, cells: &[(&str, u64)]) {
        let key = custom_key("m:", family);
        let target = self.target(family, labels).unwrap_or_else(other);
        let series = self.series.entry(key.clone()).or_default();
        series.insert(target.clone());
        for (suffix, by) in cells {
            let cell = (key.clone(), format!("{target}{suffix}"));
            *self.cells.entry(cell).or_default() += i128::from(*by);
        }
    }

    fn write(&mut self, labels: &str, write: GaugeWrite) {
        let Some(target) = self.target(GAUGE, labels) else {
            return;
        };
        let key = custom_key("m:", GAUGE);
        self.series
            .entry(key.clone())
            .or_default()
            .insert(target.clone());
        let time = (key.clone(), format!("{target}|set_ms"));
        let last = self.cells.get(&time).copied().unwrap_or(0);
        let value = self.cells.entry((key, target)).or_default();
        match (write.set, i128::from(write.set_ms.unwrap_or(0))) {
            (Some(set), at) if at >= last => {
                *value = i128::from(set) + i128::from(write.sum);
                self.cells.insert(time, at);
            }
            _ => *value += i128::from(write.sum),
        }
    }

    /// The series that is written instead of this one, which is counted then.
    fn target(&mut self, family: &str, labels: &str) -> Option<String> {
        let series = self.series.entry(custom_key("m:", family)).or_default();
        if series.contains(labels) || (series.len() as u64) < LIMIT {
            return Some(labels.to_owned());
        }
        *self.limited.entry(limited_field(family)).or_default() += 1;
        None
    }

    fn remove(&mut self, family: &str, labels: &str) {
        let key = custom_key("m:", family);
        self.series.entry(key.clone()).or_default().remove(labels);
        let is_removed = |field: &str| {
            field == labels
                || field
                    .rsplit_once('|')
                    .is_some_and(|(series, _)| series == labels)
        };
        self.cells
            .retain(|(of, field), _| *of != key || !is_removed(field));
    }
}

fn labels(series: usize) -> String {
    // Escapes, and what the script looks for.
    let value = ["a", "b|sum", r#"c\"d"#, r"e\\", "f", "g=\\\"", "h", "i"][series];
    format!(r#"k="{value}",z="1""#)
}

fn other() -> String {
    r#"k="other",z="other""#.to_owned()
}

fn fields_of(labels: &str) -> Vec<String> {
    ["", "|1", "|+Inf", "|sum", "|sum_carry", "|set_ms"]
        .map(|suffix| format!("{labels}{suffix}"))
        .into()
}

/// A store with the model beside it.
struct World {
    store: Store,
    model: Model,
    sequence: u64,
    started_ms: i64,
}

impl World {
    fn step(&mut self, step: Step) -> Result {
        match step {
            Step::Apply {
                counts,
                observations,
                gauges,
            } => self.apply(&counts, &observations, &gauges)?,
            Step::Remove { family, series } => {
                let family = [COUNTER, HISTOGRAM, GAUGE][family];
                let labels = [labels(series), other()][usize::from(series == 0)].clone();
                let key = custom_key("m:", family);
                self.store.remove_fields(
                    7,
                    &key,
                    std::slice::from_ref(&labels),
                    &fields_of(&labels),
                )?;
                self.model.remove(family, &labels);
            }
            Step::Wipe => {
                let keys = [COUNTER, HISTOGRAM, GAUGE].map(|family| custom_key("m:", family));
                self.store.wipe(8, &keys.each_ref().map(String::as_str))?;
                self.model.cells.clear();
                self.model.series.clear();
            }
        }
        self.check()
    }

    fn apply(
        &mut self,
        counts: &[(usize, u64)],
        observations: &[(usize, usize, u64)],
        gauges: &[Write],
    ) -> Result {
        let mut increments = Batch::default();
        let key = custom_key("m:", COUNTER);
        let mut by_series = BTreeMap::new();
        for &(series, by) in counts {
            increments.inc(&key, &labels(series), by);
            *by_series.entry(labels(series)).or_insert(0) += by;
        }
        for (labels, by) in &by_series {
            self.model.add(COUNTER, labels, &[("", *by)]);
        }
        let key = custom_key("m:", HISTOGRAM);
        let mut by_series: BTreeMap<_, BTreeMap<_, u64>> = BTreeMap::new();
        for &(series, bucket, value) in observations {
            for (suffix, by) in [(["|+Inf", "|1"][bucket], 1), ("|sum", value)] {
                increments.inc(&key, &format!("{}{suffix}", labels(series)), by);
                let cell = by_series.entry(labels(series)).or_default();
                let cell = cell.entry(suffix).or_default();
                *cell = cell.saturating_add(by).min(MAX_INCREMENT);
            }
        }
        for (labels, cells) in &by_series {
            let cells: Vec<_> = cells.iter().map(|(suffix, by)| (*suffix, *by)).collect();
            self.model.add(HISTOGRAM, labels, &cells);
        }
        let mut custom = CustomWrites {
            max_series: LIMIT,
            ..CustomWrites::default()
        };
        let key = custom_key("m:", GAUGE);
        for &(series, set, sum) in gauges {
            let write = GaugeWrite {
                set: set.map(|(value, _)| value),
                set_ms: set.map(|(_, at)| self.started_ms - i64::from(at)),
                sum,
            };
            custom.gauges.write(&key, &labels(series), write);
        }
        for (_, labels, write) in custom.gauges.cells() {
            self.model.write(labels, write);
        }
        self.sequence += 1;
        let batch = SentBatch {
            id: BatchId {
                nonce: 5,
                sequence: self.sequence,
            },
            frozen_ms: None,
            increments,
            leased: Vec::new(),
            custom,
        };
        let ApplyReply::Stored { refused, .. } = self.store.apply(&batch)? else {
            anyhow::bail!("the batch is not stored");
        };
        anyhow::ensure!(refused.is_empty(), "refused: {refused:?}");
        anyhow::ensure!(self.store.apply(&batch)? == ApplyReply::Duplicate);
        Ok(())
    }

    fn check(&mut self) -> Result {
        let keys = [COUNTER, HISTOGRAM, GAUGE].map(|family| custom_key("m:", family));
        let cells = self.store.counters(&keys)?;
        anyhow::ensure!(
            cells == self.model.cells,
            "cells: {cells:#?}, not {:#?}",
            self.model.cells
        );
        for key in keys {
            let field = format!("series:{key}");
            let kept: Option<usize> = self.store.call(&["HGET", &state_key("m:"), &field])?;
            let series = self.model.series.get(&key).map_or(0, BTreeSet::len);
            anyhow::ensure!(kept.unwrap_or(0) == series, "{key}: {kept:?}, not {series}");
            anyhow::ensure!(series as u64 <= LIMIT + 1, "{key}: {series} series");
        }
        let limited: BTreeMap<String, i128> = self.store.call(&["HGETALL", &limited_key("m:")])?;
        anyhow::ensure!(limited == self.model.limited, "limited: {limited:?}");
        Ok(())
    }
}

#[test]
fn no_family_exceeds_its_limit_and_no_increment_is_lost() -> Result {
    let server = RedisServer::start()?;
    server.call::<()>(&["CONFIG", "SET", "appendonly", "no"])?;
    let run = |steps: Vec<Step>| -> Result {
        let mut store = Store::open(&server, "m:")?;
        store.call::<()>(&["FLUSHALL"])?;
        let started_ms = store.begin(1)?;
        let mut world = World {
            store,
            model: Model::default(),
            sequence: 0,
            started_ms,
        };
        steps.into_iter().try_for_each(|step| world.step(step))
    };
    let mut runner = TestRunner::new(Config {
        failure_persistence: None,
        ..Config::default()
    });
    let outcome = runner.run(&prop::collection::vec(step(), 5..20), |steps| {
        run(steps).map_err(|error| TestCaseError::fail(format!("{error:#}")))
    });
    match outcome {
        Ok(()) => Ok(()),
        Err(TestError::Fail(reason, steps)) => anyhow::bail!("{reason}\nafter {steps:#?}"),
        Err(TestError::Abort(reason)) => anyhow::bail!("{reason}"),
    }
}

fn step() -> impl Strategy<Value = Step> {
    let counts = prop::collection::vec((0..SERIES, 1..100_u64), 0..6);
    let value = prop_oneof![Just(0), 1..100_u64, Just(MAX_INCREMENT)];
    let observations = prop::collection::vec((0..SERIES, 0..2_usize, value), 0..6);
    let set = proptest::option::of((-100..100_i64, 0..5_u16));
    let gauges = prop::collection::vec((0..SERIES, set, -100..100_i64), 0..6);
    prop_oneof![
        8 => (counts, observations, gauges).prop_map(|(counts, observations, gauges)| {
            Step::Apply { counts, observations, gauges }
        }),
        2 => (0..3_usize, 0..SERIES).prop_map(|(family, series)| Step::Remove { family, series }),
        1 => Just(Step::Wipe),
    ]
}

/// Label names of clients cannot make series without end either.
#[test]
fn series_beyond_the_limit_are_few_whatever_their_label_names() -> Result {
    let server = RedisServer::start()?;
    let mut store = Store::open(&server, "m:")?;
    let key = custom_key("m:", COUNTER);
    let mut increments = Batch::default();
    for number in 0..500 {
        increments.inc(&key, &format!("k{number}=\"1\""), 2);
    }
    let batch = SentBatch {
        id: BatchId {
            nonce: 5,
            sequence: 1,
        },
        frozen_ms: None,
        increments,
        leased: Vec::new(),
        custom: CustomWrites {
            max_series: LIMIT,
            ..CustomWrites::default()
        },
    };
    store.apply(&batch)?;
    let cells: BTreeMap<String, u64> = store.call(&["HGETALL", &key])?;
    assert_eq!(cells.len() as u64, LIMIT + 100 + 1);
    assert_eq!(cells.values().sum::<u64>(), 1000);
    assert!(cells[""] > 700, "the rest is without labels");
    Ok(())
}

/// The cost of a batch is the number of commands of its script.
#[test]
fn the_limit_costs_no_command_below_it_and_few_above() -> Result {
    let server = RedisServer::start()?;
    let mut store = Store::open(&server, "m:")?;
    let mut commands = |family: &str, values: &[String], sequence: u64| -> Result<u64> {
        let key = match family {
            "unlimited" => "m:jobs".to_owned(),
            family => custom_key("m:", family),
        };
        let mut increments = Batch::default();
        for value in values {
            increments.inc(&key, &format!("k=\"{value}\""), 1);
        }
        let frozen_ms = Some(store.begin(1)?);
        store.call::<()>(&["CONFIG", "RESETSTAT"])?;
        store.apply(&SentBatch {
            id: BatchId { nonce: 5, sequence },
            frozen_ms,
            increments,
            leased: Vec::new(),
            custom: CustomWrites {
                max_series: 1,
                ..CustomWrites::default()
            },
        })?;
        let stats: String = store.call(&["INFO", "commandstats"])?;
        let calls = stats.lines().filter_map(|line| {
            let (command, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            // The clock is written now and then.
            let is_counted = ["hincrby", "hget", "hmget"].contains(&command);
            is_counted.then(|| rest.split(',').next()?.parse::<u64>().ok())?
        });
        Ok(calls.sum())
    };
    let one = |value: &str| [value.to_owned()];
    let plain = commands("unlimited", &one("a"), 1)?;
    assert_eq!(commands(COUNTER, &one("a"), 2)?, plain + 1, "a new series");
    assert_eq!(commands(COUNTER, &one("a"), 3)?, plain + 1, "a look-up");
    // It and the series `other` are looked up, and that is created and counted.
    assert_eq!(
        commands(COUNTER, &one("b"), 4)?,
        plain + 4,
        "beyond the limit"
    );
    let many: Vec<_> = (0..900).map(|number| format!("v{number}")).collect();
    assert_eq!(commands(COUNTER, &many, 5)?, plain + 3, "however many");
    Ok(())
}

/// The count of a family's series is in another key than they are, which may be deleted
/// or evicted alone.
#[test]
fn a_family_whose_hash_is_gone_has_room_again() -> Result {
    let server = RedisServer::start()?;
    let mut store = Store::open(&server, "m:")?;
    let started_ms = store.begin(1)?;
    let mut sequence = 0;
    let mut write = |store: &mut Store, values: &[&str]| -> Result<()> {
        let mut increments = Batch::default();
        let mut custom = CustomWrites {
            max_series: LIMIT,
            ..CustomWrites::default()
        };
        for value in values {
            let labels = format!("k=\"{value}\"");
            increments.inc(&custom_key("m:", COUNTER), &labels, 1);
            for suffix in ["|1", "|sum"] {
                increments.inc(
                    &custom_key("m:", HISTOGRAM),
                    &format!("{labels}{suffix}"),
                    1,
                );
            }
            let set = GaugeWrite {
                set: Some(1),
                set_ms: Some(started_ms),
                sum: 0,
            };
            custom.gauges.write(&custom_key("m:", GAUGE), &labels, set);
        }
        sequence += 1;
        store.apply(&SentBatch {
            id: BatchId { nonce: 5, sequence },
            frozen_ms: None,
            increments,
            leased: Vec::new(),
            custom,
        })?;
        Ok(())
    };
    let families = [COUNTER, HISTOGRAM, GAUGE];
    // In one batch and in two.
    for second in [&["e", "f", "g", "h"][..], &["e", "f"]] {
        store.call::<()>(&["FLUSHALL"])?;
        store.begin(1)?;
        write(&mut store, &["a", "b", "c", "d"])?;
        for family in families {
            store.call::<()>(&["DEL", &custom_key("m:", family)])?;
        }
        write(&mut store, second)?;
        write(&mut store, &["e", "f", "g", "h"])?;
        for family in families {
            let key = custom_key("m:", family);
            for value in ["e", "f", "g", "h"] {
                let fields = ["", "|sum"].map(|suffix| format!("k=\"{value}\"{suffix}"));
                let found: u64 = fields
                    .iter()
                    .map(|field| store.call::<u64>(&["HEXISTS", &key, field]))
                    .sum::<Result<u64>>()?;
                anyhow::ensure!(found == 1, "{family}: {value} is not stored");
            }
            let kept: u64 = store.call(&["HGET", &state_key("m:"), &format!("series:{key}")])?;
            assert_eq!(kept, LIMIT, "{family}");
        }
        let limited: BTreeMap<String, u64> = store.call(&["HGETALL", &limited_key("m:")])?;
        assert_eq!(limited, BTreeMap::new());
        // The limit holds.
        write(&mut store, &["i"])?;
        let limited: BTreeMap<String, u64> = store.call(&["HGETALL", &limited_key("m:")])?;
        assert_eq!(limited.len(), families.len());
    }
    Ok(())
}

/// Lua's numbers are not exact beyond 2^53.
#[test]
fn sums_beyond_the_limit_are_exact() -> Result {
    let server = RedisServer::start()?;
    let mut store = Store::open(&server, "m:")?;
    store.begin(1)?;
    let values = [
        (1 << 53) - 1,
        (1 << 53) + 1,
        1,
        (1 << 52) + 3,
        (1 << 52) + 1,
        (1 << 60) + 1,
        3,
    ];
    let mut increments = Batch::default();
    for (value, name) in values.iter().zip('a'..) {
        increments.inc(&custom_key("m:", COUNTER), &format!("k=\"{name}\""), *value);
        let field = |suffix| format!("k=\"{name}\"|{suffix}");
        increments.inc(&custom_key("m:", HISTOGRAM), &field("1"), 1);
        increments.inc(&custom_key("m:", HISTOGRAM), &field("sum"), *value);
    }
    let custom = CustomWrites {
        max_series: 0,
        ..CustomWrites::default()
    };
    store.apply(&SentBatch {
        id: BatchId {
            nonce: 5,
            sequence: 1,
        },
        frozen_ms: None,
        increments,
        leased: Vec::new(),
        custom,
    })?;
    let sum = values.iter().sum::<u64>().to_string();
    for (family, field) in [(COUNTER, "k=\"other\""), (HISTOGRAM, "k=\"other\"|sum")] {
        let stored: String = store.call(&["HGET", &custom_key("m:", family), field])?;
        assert_eq!(stored, sum, "{family}");
    }
    Ok(())
}
