//! That every answer is counted once, under the labels it belongs to, from the
//! client's ledger through Redis to the exporter.

use std::{collections::BTreeMap, time::Duration};

use functional_scaffold_tests::{
    app::{App, AppOptions},
    client::{Kind, Until, load},
    exporter::{Exporter, Samples, check_with_promtool, parse_with_prometheus_client},
    process::poll_until,
    redis_server::RedisServer,
};
use reqwest::Method;

type Result<T = ()> = anyhow::Result<T>;

const REQUESTS: usize = 10_000;
const CONCURRENCY: usize = 32;
/// How long after the last response everything must be counted.
const SETTLED: Duration = Duration::from_secs(3);

fn mix() -> Vec<Kind> {
    vec![
        Kind::invoke(r#"{"number": 17}"#),
        Kind::invoke(r#"{"number": 18446744073709551557}"#),
        Kind::invoke(r#"{"number": -1}"#),
        Kind::invoke("{"),
        Kind::invoke(r#"{"number": 1000000016000000063}"#),
        Kind {
            content_type: Some("text/xml"),
            ..Kind::invoke("<number/>")
        },
        Kind {
            path: "/invoke/prime-check",
            endpoint: "/invoke/{algorithm}",
            ..Kind::invoke(r#"{"number": 2}"#)
        },
        Kind {
            method: Method::PUT,
            ..Kind::invoke(r#"{"number": 2}"#)
        },
        Kind::get("/healthz", "/healthz"),
        Kind::get("/invoke", "/invoke"),
        Kind::get("/nowhere", "unmatched"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_is_counted_once_in_redis_and_on_the_exporter() -> Result {
    let redis = RedisServer::start()?;
    let app = App::start(&AppOptions::with_redis(redis.port()))?;
    let exporter = Exporter::start(redis.port()).await?;

    let ledger = load(&app.url(""), &mix(), CONCURRENCY, Until::Requests(REQUESTS)).await?;
    assert_eq!(ledger.unanswered, 0);
    assert_eq!(ledger.total(), i64::try_from(REQUESTS)?);

    poll_until(SETTLED, || {
        let counted = redis.cells("metrics:request_counter")?;
        anyhow::ensure!(
            counted == ledger.answers,
            "{counted:#?} is not {:#?}",
            ledger.answers
        );
        Ok(())
    })?;

    let text = exporter.scrape().await?;
    check_with_promtool(&text)?;
    let samples = parse_with_prometheus_client(&text)?;
    let mut exported = values(&samples, "http_requests_total");
    exported.retain(|_, count| *count != 0);
    assert_eq!(exported, ledger.answers);
    assert_histogram_counts_match(&samples, &exported);
    assert_cumulative(&samples, "http_request_duration_seconds_bucket");
    assert_cumulative(&samples, "algorithm_execution_duration_seconds_bucket");

    let executions = values(&samples, "algorithm_executions_total");
    let invoked = ledger.with_code(200) - get_answers(&ledger.answers) + ledger.with_code(422);
    assert_eq!(executions.values().sum::<i64>(), invoked);
    let durations = values(&samples, "algorithm_execution_duration_seconds_count");
    assert_eq!(durations.values().sum::<i64>(), invoked);
    assert!(app.log("increments_refused")?.is_empty());
    assert!(app.log("batch_not_stored")?.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_batch_counts_many_requests() -> Result {
    for (durability, leases_a_request) in [("relaxed", 0.0), ("exact", 1.0)] {
        let (scripts, leases) = calls_per_request(durability).await?;
        // At 32 connections a batch holds some 20 requests; the bound leaves
        // room for a slow machine, but not for a batch a request.
        assert!(
            (0.0..=0.3).contains(&scripts),
            "{durability}: {scripts} script calls a request"
        );
        assert!(
            (leases - leases_a_request).abs() < 1e-9,
            "{durability}: {leases} leases a request"
        );
    }
    Ok(())
}

/// Script calls, and leases taken.
async fn calls_per_request(durability: &str) -> Result<(f64, f64)> {
    let redis = RedisServer::start()?;
    let options = AppOptions::with_redis(redis.port())
        .variable("metrics_durability", durability)
        // Longer than any pause of a busy machine: executions that do not get
        // their lease in time make no calls for a while.
        .variable("lease_timeout_ms", "1000");
    let app = App::start(&options)?;
    let kinds = [Kind::invoke(r#"{"number": 17}"#)];
    let ledger = load(&app.url(""), &kinds, CONCURRENCY, Until::Requests(5_000)).await?;
    poll_until(SETTLED, || {
        let counted = redis.cells("metrics:request_counter")?;
        anyhow::ensure!(counted == ledger.answers);
        Ok(())
    })?;
    let statistics: String = redis.call(&["INFO", "commandstats"])?;
    let calls = |command: &str| -> Result<f64> {
        let prefix = format!("cmdstat_{command}:calls=");
        let line = statistics
            .lines()
            .find_map(|line| line.strip_prefix(&prefix));
        let calls = line.and_then(|line| line.split(',').next());
        Ok(calls.unwrap_or("0").parse()?)
    };
    let scripts = calls("evalsha")? + calls("eval")?;
    assert!(scripts > 0.0);
    Ok((scripts / 5_000.0, calls("zadd")? / 5_000.0))
}

fn get_answers(answers: &BTreeMap<String, i64>) -> i64 {
    let get = answers
        .iter()
        .filter(|(labels, _)| labels.contains("method=\"GET\"") && labels.contains("\"200\""));
    get.map(|(_, count)| count).sum()
}

/// The samples of one name by their labels.
fn values(samples: &Samples, name: &str) -> BTreeMap<String, i64> {
    let labels = |key: &String| {
        let rest = key.strip_prefix(name)?;
        Some(rest.strip_prefix('{')?.strip_suffix('}')?.to_owned())
    };
    #[allow(
        clippy::cast_possible_truncation,
        reason = "counts far below 2^53 that a float was parsed from"
    )]
    samples
        .iter()
        .filter_map(|(key, &value)| Some((labels(key)?, value as i64)))
        .collect()
}

/// Each histogram's count is the sum of the counters of the same route.
fn assert_histogram_counts_match(samples: &Samples, counters: &BTreeMap<String, i64>) {
    let mut by_route: BTreeMap<String, i64> = BTreeMap::new();
    for (labels, count) in counters {
        let route: Vec<_> = labels
            .split(',')
            .filter(|label| label.starts_with("endpoint=") || label.starts_with("method="))
            .collect();
        *by_route.entry(route.join(",")).or_default() += count;
    }
    let counts = values(samples, "http_request_duration_seconds_count");
    assert_eq!(counts, by_route);
}

/// Within a series, buckets never fall as their bounds rise, and the last one
/// is the count.
fn assert_cumulative(samples: &Samples, name: &str) {
    let mut series: BTreeMap<String, Vec<(f64, i64)>> = BTreeMap::new();
    for (labels, count) in values(samples, name) {
        let (le, rest): (Vec<_>, Vec<_>) = labels
            .split(',')
            .partition(|label| label.starts_with("le="));
        let le = le[0].trim_start_matches("le=\"").trim_end_matches('"');
        let le = le.parse().expect("a bound is a float");
        series.entry(rest.join(",")).or_default().push((le, count));
    }
    assert!(!series.is_empty());
    for (labels, mut buckets) in series {
        buckets.sort_by(|(left, _), (right, _)| left.total_cmp(right));
        assert!(
            buckets.windows(2).all(|pair| pair[0].1 <= pair[1].1),
            "{name} {labels}: {buckets:?}"
        );
        assert!(buckets.last().is_some_and(|(le, _)| le.is_infinite()));
    }
}
