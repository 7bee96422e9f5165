//! That every expression of dashboard, rules and documents has a sane answer.

use std::{collections::BTreeSet, fs, time::Duration};

use anyhow::{Context as _, ensure};
use functional_scaffold_tests::{
    client::{Kind, Ledger, Until, load},
    expressions::{Expression, documents, metrics, of_dashboard, of_document, substitute},
    prometheus::{INTERVAL, Prometheus, Rule, Sample},
    repository,
};

use super::{
    Result, dashboard,
    world::{EXPORTERS, PULL, PUSHGATEWAY, RELAY, Scheme, World},
};

/// The window of the recorded rates, in seconds.
const WINDOW: f64 = 300.0;

#[tokio::test(flavor = "multi_thread")]
async fn every_expression_has_a_sane_answer_by_exporters() -> Result {
    every_expression_has_a_sane_answer(EXPORTERS).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_expression_has_a_sane_answer_by_a_relay() -> Result {
    every_expression_has_a_sane_answer(RELAY).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_expression_has_a_sane_answer_by_a_pushgateway() -> Result {
    every_expression_has_a_sane_answer(PUSHGATEWAY).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_expression_has_a_sane_answer_by_pull() -> Result {
    every_expression_has_a_sane_answer(PULL).await
}

/// Under real load.
async fn every_expression_has_a_sane_answer(scheme: Scheme) -> Result {
    let scheme = &scheme;
    let world = World::start(scheme).await?;
    let ledger = world.load().await?;
    let rules = world.prometheus.rules().await?;
    let (alerts, recorded): (Vec<_>, Vec<_>) = rules.into_iter().partition(|rule| rule.is_alert);

    let mut in_flight = None;
    if !scheme.lacks("job_scheme:algorithm_executions_in_flight:max") {
        // Something has to be in flight while that is asked for.
        let url = world.app.url("");
        in_flight = Some(tokio::spawn(async move {
            let work = [Kind::invoke(r#""work 4000""#)];
            load(&url, &work, 1, Until::Elapsed(Duration::from_secs(3))).await
        }));
        let open = "sum(job_scheme:algorithm_executions_in_flight:max) > 0";
        answer_within(&world.prometheus, open, 4 * INTERVAL).await?;
    }

    every_metric_exists(&world.prometheus, scheme, &alerts, &recorded).await?;
    for rule in recorded
        .iter()
        .filter(|rule| !names_absent(scheme, &rule.name))
    {
        answered(&world.prometheus, &rule.name, &rule.expression).await?;
        answered(&world.prometheus, &rule.name, &rule.name).await?;
    }
    for expression in expressions()?
        .iter()
        .filter(|expression| !names_absent(scheme, &expression.text))
    {
        let text = in_grafana(&expression.text, scheme);
        let samples = answered(&world.prometheus, &expression.place, &text).await?;
        sane(expression, &samples)?;
    }
    counted_once(&world.prometheus, scheme, &ledger).await?;
    // The load makes some alerts fire; of the others no expression may have an
    // answer under load.
    for alert in &alerts {
        annotated(alert)?;
        let fires = !world.prometheus.query(&alert.expression).await?.is_empty();
        let roused = match alert.name.as_str() {
            "AlgorithmCrashing" => scheme.way.crashes() > 0,
            "HighErrorRate" => true,
            "HighLatency" => scheme.way.slow() > 0,
            _ => false,
        };
        ensure!(fires == roused, "{} under load: {fires}", alert.name);
    }
    if let Some(in_flight) = in_flight {
        in_flight.await??;
    }
    outages(world, &alerts).await
}

/// Whether an expression names what a scheme has not.
fn names_absent(scheme: &Scheme, expression: &str) -> bool {
    let named = metrics(expression);
    named.iter().any(|metric| scheme.lacks(metric))
}

/// Those of dashboard and documents.
fn expressions() -> Result<Vec<Expression>> {
    let mut all = of_dashboard(&dashboard::read()?)?;
    for folder in [repository(), repository().join("docs")] {
        for (place, text) in documents(&folder)? {
            all.extend(of_document(&place, &text));
        }
    }
    Ok(all)
}

/// An expression as Grafana would send it for a quarter of an hour.
fn in_grafana(expression: &str, scheme: &Scheme) -> String {
    let variables = [
        ("job", "functional_scaffold"),
        ("scheme", scheme.label),
        ("algorithm", ".*"),
        ("__range", "15m"),
        ("__rate_interval", "1m"),
    ];
    substitute(expression, &variables)
}

async fn answered(prometheus: &Prometheus, place: &str, expression: &str) -> Result<Vec<Sample>> {
    let samples = prometheus.query(expression).await;
    let samples = samples.with_context(|| place.to_owned())?;
    ensure!(!samples.is_empty(), "{place}: no answer to {expression}");
    let numbers = samples.iter().all(|sample| sample.value.is_finite());
    ensure!(numbers, "{place}: {expression} is {samples:?}");
    Ok(samples)
}

/// Values are of the size that their unit makes one expect.
fn sane(expression: &Expression, samples: &[Sample]) -> Result {
    let expected = match expression.unit.as_str() {
        "percentunit" => 0.0..=1.0,
        "reqps" | "ops" => 0.0..=1_000.0,
        "s" => 0.0..=60.0,
        "none" => 1.0..=1.0,
        "short" => 0.0..=10_000.0,
        other => anyhow::bail!("{}: what is the unit {other}?", expression.place),
    };
    for sample in samples {
        let value = sample.value;
        ensure!(expected.contains(&value), "{}: {value}", expression.place);
        let quantile = expression.text.contains("histogram_quantile");
        ensure!(
            !quantile || value > 0.0,
            "{}: nothing takes no time",
            expression.place
        );
    }
    Ok(())
}

/// What is in the dashboard is what was sent: nothing is missing, and nothing
/// of the several exporters is counted twice.
async fn counted_once(prometheus: &Prometheus, scheme: &Scheme, ledger: &Ledger) -> Result {
    let requests = ledger.total() as f64;
    let errors = ledger.with_code(500) as f64;
    // A rate is too high where a sum stepped back, or has few samples.
    let resets = prometheus
        .query("sum(resets(job_scheme:http_requests_total:sum[5m]))")
        .await?;
    let samples = prometheus
        .query("min(count_over_time(job_scheme:http_requests_total:sum[5m]))")
        .await?;
    let history = format!("resets {resets:?}, samples {samples:?}");
    let near = |what: &str, expected: f64, found: f64| {
        // Rates are extrapolated to the edges of their window.
        ensure!(
            (0.85..=1.25).contains(&(found / expected)),
            "{what}: {found} of {expected}; {history}"
        );
        Ok(())
    };
    let one = async |expression: &str| -> Result<f64> {
        let samples = prometheus.query(&in_grafana(expression, scheme)).await?;
        ensure!(samples.len() == 1, "{expression} is {samples:?}");
        Ok(samples[0].value)
    };
    let rate = r#"sum(job_scheme:http_requests:rate5m{endpoint!="/metrics"})"#;
    near(rate, requests, one(rate).await? * WINDOW)?;
    let rate = "sum(job_scheme:http_requests:rate5m{status=\"error\"})";
    near(rate, errors, one(rate).await? * WINDOW)?;
    let users = "job_scheme:user_requests:rate5m";
    near(users, requests * 6.0 / 8.0, one(users).await? * WINDOW)?;
    let ratio = "job_scheme:user_errors_per_user_requests:ratio_rate5m";
    near(ratio, errors / (requests * 6.0 / 8.0), one(ratio).await?)?;
    // A histogram holds all but the crashed.
    let crashed = one("sum(job_scheme:algorithm_executions_total:sum{status=\"crashed\"})").await?;
    for (counter, histogram) in [
        (
            "http_requests_total",
            "http_request_duration_seconds_bucket",
        ),
        (
            "algorithm_executions_total",
            "algorithm_execution_duration_seconds_bucket",
        ),
    ] {
        let missing = format!(
            "sum(job_scheme:{counter}:sum) - sum(job_scheme:{histogram}:sum{{le=\"+Inf\"}})"
        );
        let missing = one(&missing).await?;
        ensure!(missing == crashed, "{missing} are not in {histogram}");
    }
    if !names_absent(
        scheme,
        "job_scheme:functional_scaffold_leases_settled_total:max",
    ) {
        ensure!(crashed == scheme.way.crashes() as f64, "{crashed} crashes");
    }
    Ok(())
}

/// An alert says what is, what that means, and where it is told what to do.
fn annotated(alert: &Rule) -> Result {
    let name = &alert.name;
    for annotation in ["summary", "description"] {
        let text = alert.annotations.get(annotation);
        ensure!(
            text.is_some_and(|text| text.len() > 20),
            "{name}: {annotation}"
        );
    }
    let runbook = format!("docs/guide.md#runbook-{}", name.to_lowercase());
    ensure!(
        alert.annotations.get("runbook_url") == Some(&runbook),
        "{name}: not {runbook}"
    );
    Ok(())
}

/// Every metric that a rule, a panel or a unit test names is one that
/// Prometheus has of the real thing, or records.
async fn every_metric_exists(
    prometheus: &Prometheus,
    scheme: &Scheme,
    alerts: &[Rule],
    recorded: &[Rule],
) -> Result {
    let known: BTreeSet<_> = prometheus.metric_names().await?.into_iter().collect();
    let rules = recorded.iter().chain(alerts);
    let mut named: Vec<_> = rules
        .map(|rule| (rule.name.clone(), metrics(&rule.expression)))
        .chain(
            expressions()?
                .into_iter()
                .map(|found| (found.place, metrics(&found.text))),
        )
        .collect();
    let folder = repository().join("monitoring");
    for file in fs::read_dir(folder.join("alerts/tests"))? {
        named.push(of_unit_test(&fs::read_to_string(file?.path())?));
    }
    named.push(of_unit_test(&fs::read_to_string(
        folder.join("recording_test.yaml"),
    )?));
    for (place, metrics) in named {
        for metric in metrics {
            let exists = known.contains(&metric) || scheme.lacks(&metric);
            ensure!(exists, "{place} names {metric}, which there is not");
        }
    }
    Ok(())
}

/// The metrics of a unit test's input.
fn of_unit_test(text: &str) -> (String, BTreeSet<String>) {
    let series = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- series: '"));
    let metrics = series.flat_map(metrics).collect();
    ("a unit test".to_owned(), metrics)
}

/// Redis and then the exporters end, and their alerts see it.
async fn outages(world: World, alerts: &[Rule]) -> Result {
    let World {
        prometheus,
        app,
        exporters,
        redis,
        ..
    } = world;
    if exporters.is_empty() {
        return Ok(());
    }
    let expression = |name: &str| -> Result<&str> {
        let alert = alerts.iter().find(|alert| alert.name == name);
        Ok(&alert
            .with_context(|| format!("no alert {name}"))?
            .expression)
    };
    drop((app, redis));
    answer_within(&prometheus, expression("RedisDown")?, 8 * INTERVAL).await?;
    drop(exporters);
    answer_within(&prometheus, expression("ExporterDown")?, 8 * INTERVAL).await
}

async fn answer_within(prometheus: &Prometheus, expression: &str, bound: Duration) -> Result {
    let deadline = tokio::time::Instant::now() + bound;
    while prometheus.query(expression).await?.is_empty() {
        let expired = tokio::time::Instant::now() > deadline;
        ensure!(!expired, "no answer to {expression} within {bound:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}
