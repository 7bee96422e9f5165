//! Each scheme by which counts reach Prometheus, with real servers and a real Prometheus
//! that scrapes them: every response is counted.

use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    process::Command,
    time::Duration,
};

use anyhow::ensure;
use functional_scaffold_testkit::{
    exporter::{self, Exporter},
    http,
    load::{RequestKind, Until},
    process::{Process, poll_until},
    prometheus::Prometheus,
    pushgateway::Pushgateway,
    redis::RedisServer,
    runtime::{App, AppOptions},
};
use functional_scaffold_tests::{
    PATIENCE,
    batch_log::{EVENT, replay, replay_to_pushgateway},
    expositions::{check_with_promtool, parse_with_prometheus_client, sum},
    retry_if_too_busy,
    service::{NEGATIVE, PRIME, load_all, logged_sum, readiness},
};

use crate::Result;

/// How often Prometheus scrapes and evaluates its rules.
pub(crate) const INTERVAL: Duration = Duration::from_secs(1);
/// Nothing listens there.
pub(crate) const CLOSED_PORT: u16 = 1;

const REQUESTS: usize = 1000;
const CONNECTIONS: usize = 32;
/// The requests of users: a scrape of `/metrics` is a request as well.
const INVOKED: &str = r#"sum(http_requests_total{endpoint="/invoke"})"#;
const RATE: &str = r#"sum(job_scheme:http_requests:rate5m{endpoint="/invoke"})"#;

fn app(variables: &[(&'static str, &str)]) -> AppOptions {
    let options = AppOptions::with_redis(CLOSED_PORT);
    variables.iter().fold(options, |options, (name, value)| {
        options.variable(name, value)
    })
}

/// The application with pushes to a Pushgateway.
pub(crate) fn pushing(options: AppOptions, pushgateway: &Pushgateway) -> AppOptions {
    let options = options.variable("metrics_backend", "pushgateway");
    options.variable("pushgateway_url", &pushgateway.url())
}

/// A relay from Redis to a Pushgateway, with further arguments.
pub(crate) fn start_relay(
    redis: &RedisServer,
    pushgateway: &Pushgateway,
    arguments: &[&str],
) -> Result<Process> {
    let mut command = Command::new(exporter::program()?);
    command
        .args(["push", "--to", &pushgateway.url(), "--interval", "1s"])
        .args(arguments)
        .env("REDIS_PORT", redis.port().to_string());
    Process::start(&mut command)
}

/// Returns whether a second instance served a request. A scrape during an execution that a
/// busy machine prolongs is enough for that.
pub(crate) fn has_second_instance(app: &App) -> Result<bool> {
    let log = app.output()?;
    let ids = log.split("\"request_id\":\"").skip(1);
    let instances: BTreeSet<_> = ids.filter_map(|id| id.split('-').next()).collect();
    Ok(instances.len() > 1)
}

fn send(app: &App, requests: usize, connections: usize) -> Result {
    let kinds = [
        RequestKind::invoke(PRIME),
        RequestKind::invoke(NEGATIVE),
        RequestKind::invoke("{"),
    ];
    load_all(app, &kinds, connections, Until::Requests(requests)).map(drop)
}

/// Waits until Prometheus has this value; `replay` stores what a busy machine sent
/// to the log.
fn becomes(prometheus: &Prometheus, expected: f64, replay: impl Fn() -> Result) -> Result {
    poll_until(PATIENCE, || {
        replay()?;
        let found = prometheus.value(INVOKED)?.unwrap_or_default();
        ensure!(found == expected, "{INVOKED} is {found}, not {expected}");
        Ok(())
    })
}

/// Sends the requests in two halves: every one is counted, and the rate is recorded.
fn counts_all(
    app: &App,
    prometheus: &Prometheus,
    connections: usize,
    replay: impl Fn(&str) -> Result,
) -> Result {
    for sent in [REQUESTS / 2, REQUESTS] {
        send(app, REQUESTS / 2, connections)?;
        becomes(prometheus, sent as f64, || {
            let log = app.output()?;
            if log.contains(EVENT) {
                replay(&log)
            } else {
                Ok(())
            }
        })?;
    }
    rate_is_recorded(app, prometheus)
}

/// Sends single requests until the recorded rate is an increase: Prometheus has to scrape a
/// series twice, and a Pushgateway has a new series for each instance, which a burst may
/// fill within a scrape.
fn rate_is_recorded(app: &App, prometheus: &Prometheus) -> Result {
    poll_until(PATIENCE, || {
        send(app, 1, 1)?;
        let rate = prometheus.value(RATE)?;
        ensure!(rate > Some(0.0), "the recorded rate is {rate:?}");
        Ok(())
    })
}

#[test]
fn redis_counts_every_request() -> Result {
    let redis = RedisServer::start()?;
    let app = App::start(&AppOptions::with_redis(redis.port()))?;
    let exporter = Exporter::start(redis.port())?;
    let targets = [("redis", vec![exporter.address().to_string()])];
    let prometheus = Prometheus::start(&targets, INTERVAL)?;
    counts_all(&app, &prometheus, CONNECTIONS, |log| {
        replay(redis.port(), log)
    })
}

#[test]
fn a_pushgateway_counts_every_request() -> Result {
    let pushgateway = Pushgateway::start()?;
    let app = App::start(&pushing(app(&[("instance_id", "a/b")]), &pushgateway))?;
    let targets = [("pushgateway", vec![pushgateway.address().to_string()])];
    let prometheus = Prometheus::start(&targets, INTERVAL)?;
    counts_all(&app, &prometheus, CONNECTIONS, |log| {
        replay_to_pushgateway(&pushgateway.url(), log)
    })?;
    let text = pushgateway.scrape()?;
    for label in [
        "instance=\"a/b-",
        "job=\"functional_scaffold\"",
        "status=\"crashed\"} 0",
    ] {
        ensure!(text.contains(label), "no {label} in\n{text}");
    }
    let groups = pushgateway.groups()?;
    ensure!(groups >= REQUESTS / 128, "an instance takes 128 requests");
    Ok(())
}

#[test]
fn a_relay_counts_every_request() -> Result {
    let redis = RedisServer::start()?;
    let pushgateway = Pushgateway::start()?;
    let app = App::start(&AppOptions::with_redis(redis.port()))?;
    let _relay = start_relay(&redis, &pushgateway, &[])?;
    let targets = [("pushgateway", vec![pushgateway.address().to_string()])];
    let prometheus = Prometheus::start(&targets, INTERVAL)?;
    counts_all(&app, &prometheus, CONNECTIONS, |log| {
        replay(redis.port(), log)
    })?;
    assert_eq!(pushgateway.groups()?, 1);
    Ok(())
}

#[test]
fn pull_counts_every_request_of_one_long_lived_instance() -> Result {
    retry_if_too_busy(|| {
        let app = App::start(&app(&[("metrics_backend", "pull")]).lasting())?;
        let targets = [("pull", vec![app.address().to_string()])];
        let prometheus = Prometheus::start(&targets, INTERVAL)?;
        for sent in [REQUESTS / 2, REQUESTS] {
            send(&app, REQUESTS / 2, 1)?;
            if has_second_instance(&app)? {
                return Ok(None);
            }
            becomes(&prometheus, sent as f64, || Ok(()))?;
        }
        rate_is_recorded(&app, &prometheus)?;
        let described = http::get_text(app.address(), "/openapi.json")?;
        ensure!(described.contains("\"/metrics\""), "{described}");
        Ok(Some(()))
    })
}

#[test]
fn pull_loses_what_short_lived_instances_counted() -> Result {
    let app = App::start(&app(&[("metrics_backend", "pull")]))?;
    let prometheus = Prometheus::start(&[("pull", vec![app.address().to_string()])], INTERVAL)?;
    send(&app, REQUESTS, CONNECTIONS)?;
    let text = http::get_text(app.address(), "/metrics")?;
    check_with_promtool(&text)?;
    let samples = parse_with_prometheus_client(&text)?;
    let at_once = sum(&samples, "http_requests_total", "endpoint=\"/invoke\"");
    poll_until(PATIENCE, || {
        let up = prometheus.value(r#"min(up{scheme="pull"})"#)?;
        ensure!(up == Some(1.0), "up is {up:?}");
        Ok(())
    })?;
    let scraped = prometheus.value(&format!("max_over_time({INVOKED}[1m:1s])"))?;
    let most = at_once.max(scraped.unwrap_or_default());
    ensure!(
        most < REQUESTS as f64,
        "{most}: an instance takes 128 requests"
    );
    Ok(())
}

#[test]
fn metrics_are_served_where_they_are_pulled_and_nowhere_else() -> Result {
    let status = |variables: &[(&'static str, &str)], key: Option<&str>| -> Result<u16> {
        let app = App::start(&app(variables))?;
        let key = key.map(|key| format!("Bearer {key}"));
        let headers: Vec<_> = key
            .iter()
            .map(|key| ("authorization", key.as_str()))
            .collect();
        let response = http::request(app.address(), "GET /metrics", &headers, b"", PATIENCE)?;
        Ok(response.status)
    };
    let pull = ("metrics_backend", "pull");
    assert_eq!(status(&[("metrics_backend", "off")], None)?, 404);
    assert_eq!(status(&[pull, ("metrics_endpoint", "false")], None)?, 404);
    assert_eq!(status(&[pull, ("api_key", "k")], None)?, 401);
    assert_eq!(status(&[pull, ("api_key", "k")], Some("k"))?, 200);
    Ok(())
}

#[test]
fn an_unreachable_pushgateway_delays_no_response_and_is_named() -> Result {
    let url = format!("http://127.0.0.1:{CLOSED_PORT}");
    let app = App::start(&app(&[
        ("metrics_backend", "pushgateway"),
        ("pushgateway_url", &url),
    ]))?;
    send(&app, 20, 4)?;
    let (code, lines) = readiness(&app)?;
    assert_eq!(code, 503, "{lines}");
    let named = format!("pushgateway: {url}: nothing listens there");
    ensure!(lines.contains(&named), "{lines}");
    poll_until(PATIENCE, || {
        let logged = logged_sum(&app, "metrics:request_counter", "/invoke\"")?;
        ensure!(logged >= 20, "{logged} of 20 are logged: {}", app.output()?);
        Ok(())
    })
}

#[test]
fn a_pushgateway_that_hangs_loses_and_doubles_nothing() -> Result {
    let pushgateway = Pushgateway::start()?;
    let app = App::start(&pushing(app(&[]), &pushgateway))?;
    let replay = || {
        let log = app.output()?;
        match log.contains(EVENT) {
            true => replay_to_pushgateway(&pushgateway.url(), &log),
            false => Ok(()),
        }
    };
    let pushed = || -> Result<f64> {
        let samples = parse_with_prometheus_client(&pushgateway.scrape()?)?;
        Ok(sum(&samples, "http_requests_total", "endpoint=\"/invoke\""))
    };
    let becomes = |expected: f64| {
        poll_until(PATIENCE, || {
            replay()?;
            let pushed = pushed()?;
            ensure!(pushed == expected, "{pushed} of {expected} are pushed");
            Ok(())
        })
    };
    // One instance serves these and some of the next requests. So its group has a
    // count already when a push of it is given up.
    send(&app, 50, 1)?;
    becomes(50.0)?;
    pushgateway.suspend()?;
    send(&app, 150, 1)?;
    let logged = poll_until(PATIENCE, || {
        ensure!(!app.log(EVENT)?.is_empty(), "{}", app.output()?);
        Ok(())
    });
    // Now it handles the push that was given up long ago.
    pushgateway.resume()?;
    logged?;
    send(&app, 100, 8)?;
    becomes(300.0)?;
    replay()?;
    ensure!(pushed()? == 300.0, "a second replay changed the counts");
    Ok(())
}

/// A push can be cut off before its body, because nothing leaves an instance during an
/// execution. The Pushgateway then gets only the head of the app's request.
#[test]
fn a_push_that_is_cut_off_removes_nothing_from_its_group() -> Result {
    let (head, body) = push_of_an_instance()?;
    let pushgateway = Pushgateway::start()?;
    let pushed = || -> Result<Vec<String>> {
        let text = pushgateway.scrape()?;
        let is_pushed = |line: &&str| {
            line.contains("job=\"functional_scaffold\"") && !line.starts_with("push_")
        };
        Ok(text.lines().filter(is_pushed).map(str::to_owned).collect())
    };
    let response = send_part(&pushgateway, &[head.as_bytes(), &body].concat())?;
    ensure!(response.starts_with("HTTP/1.1 200"), "{response}");
    let before = pushed()?;
    ensure!(!before.is_empty(), "nothing was pushed: {head}");

    let response = send_part(&pushgateway, head.as_bytes())?;
    let left = pushed()?;
    ensure!(left == before, "{response}\nonly this is left: {left:?}");
    Ok(())
}

/// Head and body of the push of an instance after one request.
fn push_of_an_instance() -> Result<(String, Vec<u8>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}", listener.local_addr()?);
    let app = App::start(&app(&[
        ("metrics_backend", "pushgateway"),
        ("pushgateway_url", &url),
    ]))?;
    http::get(app.address(), "/healthz")?;
    let (stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        let read = stream.read_line(&mut head)?;
        ensure!(read > 0, "it ends in its head: {head}");
    }
    let mut lengths = head
        .lines()
        .filter_map(|line| line.strip_prefix("content-length: "));
    let length = lengths.next().map_or(Ok(0), str::parse)?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok((head, body))
}

/// Sends only a part of a request, and returns the response.
fn send_part(pushgateway: &Pushgateway, part: &[u8]) -> Result<String> {
    let mut stream = TcpStream::connect(pushgateway.address())?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(part)?;
    stream.shutdown(Shutdown::Write)?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    Ok(response)
}
