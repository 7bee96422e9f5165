//! Every response is counted once, under its labels: the client's tally, Redis and the
//! exporter agree.

use std::collections::BTreeMap;

use anyhow::ensure;
use functional_scaffold_testkit::{
    exporter::Exporter,
    load::{RequestKind, Until},
};
use functional_scaffold_tests::{
    expositions::{Samples, check_with_promtool, parse_with_prometheus_client},
    service::{NEGATIVE, PRIME, Service},
};

use crate::Result;

const REQUESTS: usize = 10_000;
const CONNECTIONS: usize = 32;

fn mix() -> Vec<RequestKind> {
    vec![
        RequestKind::invoke(PRIME),
        RequestKind::invoke(r#"{"number": 18446744073709551557}"#),
        RequestKind::invoke(NEGATIVE),
        RequestKind::invoke("{"),
        RequestKind::invoke(r#"{"number": 1000000016000000063}"#),
        RequestKind {
            content_type: Some("text/xml"),
            ..RequestKind::invoke("<number/>")
        },
        RequestKind {
            path: "/invoke/prime-check",
            endpoint: "/invoke/{algorithm}",
            ..RequestKind::invoke(r#"{"number": 2}"#)
        },
        RequestKind {
            method: "PUT",
            ..RequestKind::invoke(r#"{"number": 2}"#)
        },
        RequestKind::get("/healthz", "/healthz"),
        RequestKind::get("/invoke", "/invoke"),
        RequestKind::get("/nowhere", "unmatched"),
    ]
}

#[test]
fn every_response_is_counted_once_in_redis_and_on_the_exporter() -> Result {
    let service = Service::start()?;
    let exporter = Exporter::start(service.redis.port())?;

    let tally = service.load(&mix(), CONNECTIONS, Until::Requests(REQUESTS))?;
    assert_eq!(tally.total(), i64::try_from(REQUESTS)?);
    service.wait_for_counts(&tally)?;

    let text = exporter.scrape()?;
    check_with_promtool(&text)?;
    let samples = parse_with_prometheus_client(&text)?;
    let mut exported = values(&samples, "http_requests_total");
    exported.retain(|_, count| *count != 0);
    assert_eq!(exported, tally.responses);
    assert_histogram_counts_match(&samples, &exported);
    assert_cumulative(&samples, "http_request_duration_seconds_bucket");
    assert_cumulative(&samples, "algorithm_execution_duration_seconds_bucket");

    let executions = values(&samples, "algorithm_executions_total");
    let described: i64 = tally
        .responses
        .iter()
        .filter(|(labels, _)| labels.contains("method=\"GET\"") && labels.contains("\"200\""))
        .map(|(_, count)| count)
        .sum();
    let invoked = tally.with_code(200) - described + tally.with_code(422);
    assert_eq!(executions.values().sum::<i64>(), invoked);
    let durations = values(&samples, "algorithm_execution_duration_seconds_count");
    assert_eq!(durations.values().sum::<i64>(), invoked);
    assert!(service.app.log("increments_refused")?.is_empty());
    // On a busy machine Redis may be too late for an instance, and nothing else.
    for line in service.app.log("batch_not_stored")? {
        let reason = line["reason"].as_str().unwrap_or_default();
        ensure!(reason.contains("within"), "{line}");
    }
    Ok(())
}

#[test]
fn one_batch_counts_many_requests() -> Result {
    for (durability, has_leases) in [("batched", false), ("exact", true)] {
        const REQUESTS: usize = 5_000;
        let service = Service::start_with(|options| {
            let options = options
                .variable("metrics_durability", durability)
                // So long that a batch holds many requests on a slow machine, too.
                .variable("flush_interval_ms", "200");
            // Longer than any pause of a busy machine: executions that do not get
            // their lease in time make no calls for a while.
            options.variable("lease_timeout_ms", "1000")
        })?;
        let kinds = [RequestKind::invoke(PRIME)];
        let tally = service.load(&kinds, CONNECTIONS, Until::Requests(REQUESTS))?;
        service.wait_for_counts(&tally)?;
        let scripts = service.redis.calls("evalsha")? + service.redis.calls("eval")?;
        // By some twenty connections to an instance; not a batch a request.
        let most = REQUESTS as u64 * 3 / 10;
        assert!(
            (1..=most).contains(&scripts),
            "{durability}: {scripts} script calls"
        );
        let leases = service.redis.calls("zadd")?;
        let unleased = service.sum("metrics:unleased_counter")?.unsigned_abs();
        match has_leases {
            true => {
                assert!(leases <= REQUESTS as u64, "{leases} leases");
                assert!(
                    leases + unleased >= REQUESTS as u64,
                    "{leases} leases, {unleased} without"
                );
                assert!(
                    unleased < REQUESTS as u64 / 10,
                    "{unleased} without a lease"
                );
            }
            false => assert_eq!((leases, unleased), (0, 0)),
        }
    }
    Ok(())
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

/// Within a series, buckets never fall as their bounds rise, and the last one is
/// the count.
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
