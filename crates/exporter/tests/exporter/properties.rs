//! Random stores: whatever bytes Redis holds, nothing panics, and other parsers read the
//! exposition as it is meant. The replies of Redis are generated.

use std::collections::{BTreeMap, BTreeSet};

use functional_scaffold_exporter::{DecodeErrors, served_families};
use functional_scaffold_protocol::{
    cell::le_of_bound,
    exposition::{Exposition, Format},
    labels::write_labels,
    series::{FamilySeries, SeriesReader, merge_layouts},
};
use proptest::{
    prelude::*,
    strategy::ValueTree as _,
    test_runner::{Config, TestRunner},
};

use crate::parsers::{Parser, Sample, check_with_promtool, read_all};

/// Stores to generate.
const STORES: usize = 500;

/// Fields and values of a hash.
type Cells = Vec<(Vec<u8>, Vec<u8>)>;

/// Mostly names of few letters, so that families conflict with the suffixes of others.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => "[ab]{1,2}(_total|_created|_sum|_count|_bucket|_info|_seconds){0,2}",
        1 => "[ab](_total)?@[12]",
        1 => text(),
    ]
}

/// Any text, often with characters to escape.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[\"\\\\\n\r}{,=# an|]{0,8}",
        prop::collection::vec(any::<char>(), 0..8).prop_map(|all| all.into_iter().collect()),
    ]
}

const BOUNDS: [f64; 7] = [-1.0, 0.0, 0.000_05, 0.5, 1.0, 2.5, 1e9];

fn registration() -> impl Strategy<Value = Vec<u8>> {
    let bounds = prop::sample::subsequence(&BOUNDS[..], 1..=3);
    let sound = (0..3_usize, text(), "(seconds|total|)", bounds, 1..=1000_u64);
    let sound = sound.prop_map(|(kind, help, unit, bounds, scale)| {
        let kind = ["counter", "gauge", "histogram"][kind];
        let mut json = serde_json::json!({
            "type": kind, "key": "k", "help": help, "unit": unit, "scale": scale,
        });
        if kind == "histogram" {
            json["bounds"] = serde_json::json!(bounds);
        }
        json.to_string().into_bytes()
    });
    prop_oneof![9 => sound, 1 => any::<Vec<u8>>()]
}

fn labels() -> impl Strategy<Value = String> {
    prop::collection::btree_map("[a-c]", text(), 0..3).prop_map(|labels| {
        let mut out = String::new();
        write_labels(&mut out, &borrowed(&labels));
        out
    })
}

fn borrowed(labels: &BTreeMap<String, String>) -> Vec<(&str, &str)> {
    let labels = labels.iter();
    labels
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect()
}

fn field() -> impl Strategy<Value = Vec<u8>> {
    let suffix = prop_oneof![
        2 => Just(String::new()),
        4 => prop::sample::select(&BOUNDS[..]).prop_map(|le| format!("|{}", le_of_bound(le))),
        1 => Just("|+Inf".to_owned()),
        2 => Just("|sum".to_owned()),
        1 => Just("|sum_carry".to_owned()),
    ];
    let sound = (labels(), suffix).prop_map(|(labels, suffix)| labels + &suffix);
    let broken = (
        labels(),
        any::<usize>(),
        prop::sample::select(&b"\n\"\\,=|"[..]),
    );
    let broken = broken.prop_map(|(labels, at, byte)| {
        let mut field = labels.into_bytes();
        field.insert(at % (field.len() + 1), byte);
        field
    });
    prop_oneof![
        8 => sound.prop_map(String::into_bytes),
        2 => broken,
        1 => "[abl_e=\"\\\\,n\n|1]{0,24}".prop_map(String::into_bytes),
        1 => any::<Vec<u8>>(),
    ]
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    let any_integer = any::<i64>().prop_map(|value| value.to_string().into_bytes());
    let count = any::<u16>().prop_map(|value| value.to_string().into_bytes());
    prop_oneof![3 => any_integer, 6 => count, 1 => any::<Vec<u8>>()]
}

fn store() -> impl Strategy<Value = Vec<(String, Vec<u8>, Cells)>> {
    let cells = prop::collection::vec((field(), value()), 0..12);
    prop::collection::vec((name(), registration(), cells), 1..8)
}

/// The families that would be served, by the exporter's own functions.
fn read(store: Vec<(String, Vec<u8>, Cells)>) -> Vec<FamilySeries> {
    let mut cells_of = BTreeMap::new();
    let mut registrations = BTreeMap::new();
    for (n, (name, mut json, cells)) in store.into_iter().enumerate() {
        // Each family has its own key.
        let key = format!("\"key\":\"{n}\"");
        if let Ok(text) = std::str::from_utf8(&json) {
            json = text.replace("\"key\":\"k\"", &key).into_bytes();
        }
        cells_of.insert(n.to_string(), cells);
        registrations.insert(name.into_bytes(), json);
    }
    let registered = served_families(registrations, &mut DecodeErrors::default());
    let families = registered.into_iter().filter_map(|family| {
        let layouts = family.layouts.into_iter().map(|layout| {
            let cells = cells_of.remove(&layout.key).unwrap_or_default();
            let mut series = SeriesReader::new(layout);
            for (field, value) in cells {
                let _ = series.push(&field, &value);
            }
            series.finish()
        });
        merge_layouts(layouts.collect()).0
    });
    families.collect()
}

/// The series of an exposition, as text.
fn written(text: &str) -> Vec<String> {
    let samples = text
        .split('\n')
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    samples
        .map(|line| line.rsplit_once(' ').expect("a value").0.to_owned())
        .collect()
}

/// The series that another parser read, as text.
fn understood(samples: Vec<Sample>) -> BTreeSet<String> {
    let series = samples.into_iter().map(|(name, mut labels, _)| {
        let le = labels.remove("le");
        let mut set = String::new();
        write_labels(&mut set, &borrowed(&labels));
        if let Some(le) = le {
            let comma = if set.is_empty() { "" } else { "," };
            set.push_str(&format!("{comma}le=\"{le}\""));
        }
        if set.is_empty() {
            name
        } else {
            format!("{name}{{{set}}}")
        }
    });
    series.collect()
}

#[test]
fn other_parsers_read_whatever_redis_holds() {
    let mut runner = TestRunner::new(Config::default());
    let store = store();
    let mut made_up = || {
        let tree = store.new_tree(&mut runner).expect("a store");
        read(tree.current())
    };
    let stores: Vec<Vec<FamilySeries>> = (0..STORES).map(|_| made_up()).collect();
    let texts = |format| -> Vec<String> {
        stores
            .iter()
            .map(|families| {
                let names = families.iter().map(|family| &family.family);
                let mut exposition = Exposition::begin(format, names, 0);
                for family in families {
                    exposition.write_family_since(family, |_labels| Some(1_753_000_000_250));
                }
                exposition.finish()
            })
            .collect()
    };
    let text = texts(Format::Text);
    let open_metrics = texts(Format::OpenMetrics);
    let mut series = 0;
    for (exposition, samples) in open_metrics
        .iter()
        .zip(read_all(Parser::OpenMetrics, &open_metrics))
    {
        let written = written(exposition);
        series += written.len();
        let understood = understood(samples);
        assert_eq!(
            written.len(),
            understood.len(),
            "a series twice in\n{exposition}"
        );
        assert_eq!(
            written.into_iter().collect::<BTreeSet<_>>(),
            understood,
            "{exposition}"
        );
    }
    for (exposition, samples) in text.iter().zip(read_all(Parser::Text, &text)) {
        assert_eq!(written(exposition).len(), samples.len(), "{exposition}");
    }
    for exposition in text.iter().step_by(20) {
        check_with_promtool(exposition);
    }
    assert!(series > 5 * STORES, "only {series} series were made up");
}
