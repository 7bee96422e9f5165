//! The ways by which numbers come to Prometheus, each through the real servers
//! and a real Prometheus that scrapes them: whether what was answered is what is
//! counted in the end.

use std::{process::Command, time::Duration};

use anyhow::ensure;
use functional_scaffold_tests::{
    app::{App, AppOptions},
    client::{Kind, Until, load},
    exporter::{
        Exporter, check_with_promtool, parse_with_prometheus_client, replay_to_pushgateway,
    },
    process::{POLL, Process},
    prometheus::{INTERVAL, Prometheus},
    pushgateway::Pushgateway,
    redis_server::RedisServer,
    workspace_binary,
};

type Result<T = ()> = anyhow::Result<T>;

const REQUESTS: usize = 1000;
const CONCURRENCY: usize = 32;
/// All that users sent: a scrape of `/metrics` is a request as well.
const INVOKED: &str = r#"sum(http_requests_total{endpoint="/invoke"})"#;
const RATE: &str = r#"sum(job_scheme:http_requests:rate5m{endpoint="/invoke"})"#;

fn app(variables: &[(&'static str, &str)]) -> AppOptions {
    // Nothing may listen where Redis is not wanted.
    let options = AppOptions::with_redis(1);
    variables.iter().fold(options, |options, (name, value)| {
        options.variable(name, value)
    })
}

fn kinds() -> [Kind; 3] {
    [
        Kind::invoke(r#"{"number": 17}"#),
        Kind::invoke(r#"{"number": -1}"#),
        Kind::invoke("{"),
    ]
}

async fn send(app: &App, requests: usize, concurrency: usize) -> Result {
    let ledger = load(
        &app.url(""),
        &kinds(),
        concurrency,
        Until::Requests(requests),
    )
    .await?;
    ensure!(ledger.unanswered == 0, "{ledger:?}");
    Ok(())
}

async fn value(prometheus: &Prometheus, expression: &str) -> Result<f64> {
    let samples = prometheus.query(expression).await?;
    Ok(samples.first().map_or(0.0, |sample| sample.value))
}

/// Waits until Prometheus gives this value.
async fn becomes(prometheus: &Prometheus, expression: &str, expected: f64) -> Result {
    let deadline = tokio::time::Instant::now() + 8 * INTERVAL;
    loop {
        let found = value(prometheus, expression).await?;
        if found == expected {
            return Ok(());
        }
        ensure!(
            tokio::time::Instant::now() < deadline,
            "{expression} is {found}, not {expected}"
        );
        tokio::time::sleep(POLL).await;
    }
}

/// Sends the requests in two halves, each of them scraped: an increase takes two
/// scrapes. Every one is counted, and the recorded rate is an increase.
async fn counts_all(app: &App, prometheus: &Prometheus, concurrency: usize) -> Result {
    for sent in [REQUESTS / 2, REQUESTS] {
        send(app, REQUESTS / 2, concurrency).await?;
        becomes(prometheus, INVOKED, sent as f64).await?;
    }
    let deadline = tokio::time::Instant::now() + 8 * INTERVAL;
    while value(prometheus, RATE).await? <= 0.0 {
        ensure!(
            tokio::time::Instant::now() < deadline,
            "the recorded rate stays zero"
        );
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_counts_every_request() -> Result {
    let redis = RedisServer::start()?;
    let app = App::start(&AppOptions::with_redis(redis.port()))?;
    let exporter = Exporter::start(redis.port()).await?;
    let prometheus = Prometheus::start(&[("redis", vec![exporter.address()])]).await?;
    counts_all(&app, &prometheus, CONCURRENCY).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pushgateway_counts_every_request() -> Result {
    let pushgateway = Pushgateway::start().await?;
    let app = App::start(&app(&[
        ("metrics_backend", "pushgateway"),
        ("pushgateway_url", &pushgateway.url()),
        ("instance_id", "a/b"),
    ]))?;
    let prometheus = Prometheus::start(&[("pushgateway", vec![pushgateway.address()])]).await?;
    counts_all(&app, &prometheus, CONCURRENCY).await?;

    let text = pushgateway.scrape().await?;
    for label in [
        "instance=\"a/b-",
        "job=\"functional_scaffold\"",
        "status=\"crashed\"} 0",
    ] {
        ensure!(text.contains(label), "no {label} in\n{text}");
    }
    ensure!(app.log("batch_not_stored")?.is_empty());
    let groups = pushgateway.groups().await?;
    eprintln!("{groups} groups after {REQUESTS} requests");
    ensure!(groups >= REQUESTS / 128, "an instance takes 128 requests");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_counts_every_request() -> Result {
    let redis = RedisServer::start()?;
    let pushgateway = Pushgateway::start().await?;
    let app = App::start(&AppOptions::with_redis(redis.port()))?;
    let mut command = Command::new(workspace_binary("functional-scaffold-exporter")?);
    command
        .args(["push", "--to", &pushgateway.url(), "--interval", "1s"])
        .env("REDIS_PORT", redis.port().to_string());
    let _relay = Process::start(&mut command, "run `cargo xtask build`")?;
    let prometheus = Prometheus::start(&[("pushgateway", vec![pushgateway.address()])]).await?;
    counts_all(&app, &prometheus, CONCURRENCY).await?;
    assert_eq!(pushgateway.groups().await?, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pull_counts_every_request_of_one_long_lived_instance() -> Result {
    let app = App::start(&app(&[("metrics_backend", "pull")]).lasting())?;
    let target = format!("127.0.0.1:{}", app.port());
    let prometheus = Prometheus::start(&[("pull", vec![target])]).await?;
    counts_all(&app, &prometheus, 1).await?;
    let described = reqwest::get(app.url("/openapi.json")).await?.text().await?;
    ensure!(described.contains("\"/metrics\""), "{described}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pull_loses_what_short_lived_instances_counted() -> Result {
    let app = App::start(&app(&[("metrics_backend", "pull")]))?;
    let target = format!("127.0.0.1:{}", app.port());
    let prometheus = Prometheus::start(&[("pull", vec![target])]).await?;
    send(&app, REQUESTS, CONCURRENCY).await?;
    let at_once = invoked(&reqwest::get(app.url("/metrics")).await?.text().await?)?;
    becomes(&prometheus, r#"min(up{scheme="pull"})"#, 1.0).await?;
    let scraped = value(&prometheus, &format!("max_over_time({INVOKED}[1m:1s])")).await?;
    eprintln!("of {REQUESTS} requests: {at_once} at once, at most {scraped} in Prometheus");
    ensure!(
        at_once < REQUESTS as f64 && scraped < REQUESTS as f64,
        "an instance takes 128 requests"
    );
    Ok(())
}

/// The requests to `/invoke` in an exposition.
fn invoked(text: &str) -> Result<f64> {
    check_with_promtool(text)?;
    let samples = parse_with_prometheus_client(text)?;
    let requests = samples.iter().filter(|(name, _)| {
        name.starts_with("http_requests_total{") && name.contains("endpoint=\"/invoke\"")
    });
    Ok(requests.map(|(_, value)| value).sum())
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_served_where_they_are_pulled_and_nowhere_else() -> Result {
    let asked = async |variables: &[(&'static str, &str)], key: Option<&str>| -> Result<u16> {
        let app = App::start(&app(variables))?;
        let mut request = reqwest::Client::new().get(app.url("/metrics"));
        if let Some(key) = key {
            request = request.bearer_auth(key);
        }
        Ok(request.send().await?.status().as_u16())
    };
    let pull = ("metrics_backend", "pull");
    assert_eq!(asked(&[("metrics_backend", "off")], None).await?, 404);
    assert_eq!(
        asked(&[pull, ("metrics_endpoint", "false")], None).await?,
        404
    );
    assert_eq!(asked(&[pull, ("api_key", "k")], None).await?, 401);
    assert_eq!(asked(&[pull, ("api_key", "k")], Some("k")).await?, 200);
    Ok(())
}

/// Asks `/readyz`: its code, and its lines.
async fn readiness(app: &App) -> Result<(u16, String)> {
    let answer = reqwest::get(app.url("/readyz")).await?;
    Ok((answer.status().as_u16(), answer.text().await?))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_pushgateway_delays_no_answer_and_is_named() -> Result {
    let nobody = "http://127.0.0.1:1";
    let app = App::start(&app(&[
        ("metrics_backend", "pushgateway"),
        ("pushgateway_url", nobody),
    ]))?;
    send(&app, 20, 4).await?;
    let (code, lines) = readiness(&app).await?;
    assert_eq!(code, 503, "{lines}");
    let named = format!("pushgateway: {nobody}: nothing listens there");
    ensure!(lines.contains(&named), "{lines}");
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    let mut logged = 0.0;
    while logged < 20.0 {
        ensure!(
            tokio::time::Instant::now() < deadline,
            "{logged} of 20 are logged: {}",
            app.output()?
        );
        tokio::time::sleep(POLL).await;
        let lines = app.log("batch_not_stored")?;
        let counts = lines.iter().filter_map(|line| {
            let cells = line["increments"]["metrics:request_counter"].as_object()?;
            let invoked = cells
                .iter()
                .filter(|(field, _)| field.contains("/invoke\""));
            invoked
                .map(|(_, count)| count.as_f64())
                .sum::<Option<f64>>()
        });
        logged = counts.sum();
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pushgateway_that_hangs_loses_and_doubles_nothing() -> Result {
    let pushgateway = Pushgateway::start().await?;
    let app = App::start(&app(&[
        ("metrics_backend", "pushgateway"),
        ("pushgateway_url", &pushgateway.url()),
    ]))?;
    let prometheus = Prometheus::start(&[("pushgateway", vec![pushgateway.address()])]).await?;
    // One instance takes these, and some of the next: its group has a count
    // already when a push of it is given up.
    send(&app, 50, 1).await?;
    let pushed = async || -> Result<f64> {
        let text = pushgateway.scrape().await?;
        let requests = text.lines().filter(|line| {
            line.starts_with("http_requests_total{") && line.contains("endpoint=\"/invoke\"")
        });
        let counts = requests.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        Ok(counts.sum())
    };
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    while pushed().await? < 50.0 {
        ensure!(tokio::time::Instant::now() < deadline, "{}", app.output()?);
        tokio::time::sleep(POLL).await;
    }
    pushgateway.suspend()?;
    send(&app, 150, 1).await?;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while app.log("batch_not_stored")?.is_empty() {
        ensure!(tokio::time::Instant::now() < deadline, "{}", app.output()?);
        tokio::time::sleep(POLL).await;
    }
    // It may answer now to what was given up long ago.
    pushgateway.resume()?;
    send(&app, 100, 8).await?;
    replay_to_pushgateway(&pushgateway.url(), &app.output()?)?;
    becomes(&prometheus, INVOKED, 300.0).await?;
    replay_to_pushgateway(&pushgateway.url(), &app.output()?)?;
    tokio::time::sleep(2 * INTERVAL).await;
    becomes(&prometheus, INVOKED, 300.0).await
}
