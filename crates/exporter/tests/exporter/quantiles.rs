//! The page's quantiles, compared with those of a real Prometheus.

use std::fmt::Write as _;

use functional_scaffold_exporter::quantile;
use functional_scaffold_protocol::catalog::latency_bounds;
use proptest::{
    collection::vec,
    prelude::*,
    strategy::ValueTree as _,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

use crate::support::program;

const HISTOGRAMS: usize = 60;
const QUANTILES: [f64; 6] = [0.01, 0.5, 0.9, 0.95, 0.99, 1.0];

/// Bounds, and one more count.
type Histogram = (Vec<f64>, Vec<u32>);

/// The same histograms in each run: with the catalog's bounds, with positive and negative
/// bounds, and edge cases.
fn histograms() -> Vec<Histogram> {
    let bounds = prop_oneof![
        Just(latency_bounds()),
        vec(-1000..1000_i32, 1..6).prop_map(|mut bounds| {
            bounds.sort_unstable();
            bounds.dedup();
            bounds
                .into_iter()
                .map(|bound| f64::from(bound) / 8.0)
                .collect()
        }),
    ];
    let count = prop_oneof![Just(0), 0..9_u32, 0..100_000_u32];
    let histogram = bounds.prop_flat_map(move |bounds: Vec<f64>| {
        let counts = vec(count.clone(), bounds.len() + 1);
        (Just(bounds), counts)
    });
    let random = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(Config::default(), random);
    let drawn = std::iter::repeat_with(|| {
        let tree = histogram.new_tree(&mut runner);
        tree.expect("no strategy rejects").current()
    });
    let edges = [
        (vec![1.0, 2.0], vec![0, 0, 0]),
        (vec![1.0, 2.0], vec![0, 0, 5]),
        (vec![-2.0, -1.0], vec![4, 0, 0]),
        (vec![0.0, 1.0], vec![4, 4, 0]),
    ];
    edges.into_iter().chain(drawn).take(HISTOGRAMS).collect()
}

/// A unit test of rules for promtool, with the expected quantiles of each histogram.
fn rule_test(histograms: &[Histogram]) -> String {
    let mut series = String::new();
    let mut queries = String::new();
    for (n, (bounds, counts)) in histograms.iter().enumerate() {
        let le = bounds.iter().map(f64::to_string).chain(["+Inf".into()]);
        let mut below = 0;
        for (le, count) in le.zip(counts) {
            below += count;
            writeln!(
                series,
                "      - series: 'h_bucket{{n=\"{n}\",le=\"{le}\"}}'"
            )
            .expect("text");
            writeln!(series, "        values: '{below}'").expect("text");
        }
        let floats: Vec<f64> = counts.iter().copied().map(f64::from).collect();
        for q in QUANTILES {
            let query = format!("histogram_quantile({q}, h_bucket{{n=\"{n}\"}})");
            let ours = quantile(q, bounds, &floats);
            // Prometheus returns NaN for None, which does not equal itself.
            let (query, expected) = match ours {
                Some(value) => (query, value),
                None => (format!("absent({query} >= -Inf)"), 1.0),
            };
            writeln!(queries, "      - expr: '{query}'\n        eval_time: 0").expect("text");
            let labels = format!("{{n=\"{n}\"}}");
            let labels = if ours.is_some() { &labels } else { "{}" };
            writeln!(
                queries,
                "        exp_samples: [{{labels: '{labels}', value: {expected:?}}}]"
            )
            .expect("text");
        }
    }
    format!("rule_files: []\ntests:\n  - input_series:\n{series}    promql_expr_test:\n{queries}")
}

#[test]
fn quantiles_are_those_of_prometheus() {
    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join("quantiles.yaml");
    std::fs::write(&file, rule_test(&histograms())).expect("written");
    let mut command = program(&["promtool"], "prometheus");
    let status = command.args(["test", "rules"]).arg(&file).status();
    assert!(status.expect("it ends").success());
}
