//! The page at `/`: its files and its data.

use std::{collections::BTreeSet, thread, time::Duration};

use serde_json::{Value, json};

use crate::support::{Exporter, Redis, sample, text, wait_for};

const FREQUENT: (&str, &str) = ("EXPORTER_PAGE_INTERVAL_MS", "500");

fn recent(exporter: &Exporter) -> Value {
    let response = exporter.get("/api/recent");
    assert_eq!(response.status, 200, "{}", text(&response));
    assert_eq!(response.header("cache-control"), Some("no-store"));
    serde_json::from_slice(&response.body).expect("JSON")
}

/// Counts requests of a status, of a hundred milliseconds each.
fn count_requests(redis: &Redis, status: &str, endpoint: &str, count: &str) {
    let counter = r#"{"type":"counter","key":"metrics:r"}"#;
    let histogram = r#"{"type":"histogram","key":"metrics:d","bounds":[0.1,1]}"#;
    redis.cli(&["HSETNX", "metrics:families", "http_requests_total", counter]);
    let durations = "http_request_duration_seconds";
    redis.cli(&["HSETNX", "metrics:families", durations, histogram]);
    let labels = format!(r#"endpoint="{endpoint}",status="{status}""#);
    redis.cli(&["HINCRBY", "metrics:r", &labels, count]);
    let bucket = format!(r#"endpoint="{endpoint}"|1"#);
    redis.cli(&["HINCRBY", "metrics:d", &bucket, count]);
}

#[test]
fn the_page_shows_what_the_metrics_show() {
    let redis = Redis::start();
    count_requests(&redis, "success", "/invoke", "10");
    let exporter = Exporter::start_with(redis.port(), &[FREQUENT]);
    wait_for("first rates", || {
        recent(&exporter)["latest"]["requests_per_second"].as_f64()
    });
    // The counts at the start are not an increase.
    assert_eq!(recent(&exporter)["latest"]["requests_per_second"], 0.0);
    assert_eq!(recent(&exporter)["latest"]["error_ratio"], Value::Null);
    count_requests(&redis, "success", "/invoke", "6");
    count_requests(&redis, "error", "/invoke", "2");
    count_requests(&redis, "error", "/readyz", "100");
    let said = wait_for("all requests", || {
        let said = recent(&exporter);
        (said["latest"]["requests_total"] == 118.0).then_some(said)
    });
    let text = exporter.metrics();
    let error = r#"http_requests_total{endpoint="/invoke",status="error"}"#;
    assert_eq!(sample(&text, error), Some(2.0));
    assert_eq!(said["latest"]["requests"]["error"], 102.0);
    assert_eq!(said["latest"]["error_ratio"], 0.25);
    assert_eq!(said["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(said["recording"], true);
    assert_eq!(said["redis"]["up"], true);
    let times = said["times"].as_array().expect("times");
    for (column, name) in [
        ("requests_per_second", "rejected"),
        ("request_duration_seconds", "p95"),
        ("executions_per_second", "invalid_input"),
        ("execution_duration_seconds", "p50"),
    ] {
        let values = said[column][name].as_array().expect("a column");
        assert_eq!(values.len(), times.len(), "{column}");
    }
    let last = |column: &Value| column.as_array().and_then(|all| all.last()).cloned();
    // The middle of the bucket from 0.1 to 1.
    assert_eq!(
        last(&said["request_duration_seconds"]["p50"]),
        Some(Value::from(0.55))
    );
    assert_eq!(
        last(&said["execution_duration_seconds"]["p50"]),
        Some(Value::Null)
    );
}

#[test]
fn while_redis_is_down_the_last_sample_stays() {
    let redis = Redis::start();
    count_requests(&redis, "success", "/invoke", "10");
    let exporter = Exporter::start_with(redis.port(), &[FREQUENT]);
    wait_for("a sample", || {
        (recent(&exporter)["latest"]["requests_total"] == 10.0).then_some(())
    });
    drop(redis);
    let said = wait_for("Redis down", || {
        let said = recent(&exporter);
        (said["redis"]["up"] == false).then_some(said)
    });
    assert_eq!(said["redis"]["reason"], "connection");
    assert_eq!(said["latest"]["requests_total"], 10.0);
    assert!(said["redis"]["since"].as_f64() > said["latest"]["time"].as_f64());
}

#[test]
fn reads_for_the_page_are_few_if_they_take_long() {
    let redis = Redis::start();
    let exporter = Exporter::start_with(redis.port(), &[FREQUENT]);
    let interval = || recent(&exporter)["interval_seconds"].as_f64();
    assert!(interval() >= Some(0.5));
    let longer = wait_for("longer interval", || {
        // A read that starts in the pause is delayed for the rest of it. On a busy
        // machine none may start in it.
        redis.cli(&["CLIENT", "PAUSE", "1500", "ALL"]);
        (0..50).find_map(|_| {
            thread::sleep(Duration::from_millis(100));
            interval().filter(|interval| *interval >= 10.0)
        })
    });
    // Twenty times the time-out of a scrape.
    assert!(longer <= 160.5, "{longer}");
}

#[test]
fn the_page_is_guarded_and_limited_like_the_metrics() {
    let redis = Redis::start();
    let directory = tempfile::tempdir().expect("a directory");
    let tokens = directory.path().join("tokens");
    std::fs::write(&tokens, "t0ken\n").expect("written");
    let options = [
        ("EXPORTER_AUTH_BEARER_FILE", tokens.to_str().expect("UTF-8")),
        ("EXPORTER_MAX_SCRAPES", "1"),
        FREQUENT,
    ];
    let exporter = Exporter::start_with(redis.port(), &options);
    for path in ["/", "/api/recent", "/assets/page.js"] {
        assert_eq!(exporter.get(path).status, 401, "{path}");
    }
    let token = [("authorization", "Bearer t0ken")];
    let ask = |line: &str| exporter.request(line, &token);
    assert_eq!(ask("GET /api/recent").status, 200);
    redis.cli(&["CLIENT", "PAUSE", "3000", "ALL"]);
    thread::scope(|scope| {
        // The page may have the only permit.
        scope.spawn(|| {
            wait_for("permit", || {
                Some(ask("GET /metrics")).filter(|answer| answer.status != 503)
            })
        });
        let refusal = wait_for("refusal", || {
            Some(ask("GET /api/recent")).filter(|answer| answer.status != 200)
        });
        assert_eq!(refusal.status, 503);
        assert_eq!(refusal.header("retry-after"), Some("1"));
    });
}

#[test]
fn without_reads_nothing_is_recorded() {
    let redis = Redis::start();
    let exporter = Exporter::start_with(redis.port(), &[("EXPORTER_PAGE_INTERVAL_MS", "0")]);
    let said = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "recording": false,
        "links": {},
    });
    assert_eq!(recent(&exporter), said);
    assert_eq!(exporter.get("/").status, 200);
}

/// The quoted names that follow one of these texts.
fn named<'a>(text: &'a str, before: &'a [&str]) -> impl Iterator<Item = &'a str> {
    before
        .iter()
        .flat_map(move |before| text.split(before).skip(1))
        .filter_map(|rest| rest.split('"').next())
}

#[test]
fn the_page_has_all_its_files_and_needs_no_others() {
    let redis = Redis::start();
    let exporter = Exporter::start(redis.port());
    let mut seen = BTreeSet::new();
    let mut next = vec![String::new()];
    while let Some(path) = next.pop() {
        let answer = exporter.get(&format!("/{path}"));
        assert_eq!(answer.status, 200, "{path}");
        let policy = answer.header("content-security-policy").expect("a policy");
        assert!(policy.starts_with("default-src 'none'"), "{policy}");
        assert!(
            !policy.contains("unsafe") && !policy.contains("http"),
            "{policy}"
        );
        let (_, ending) = path.rsplit_once('.').unwrap_or_default();
        let expected = match ending {
            "js" => "text/javascript; charset=utf-8",
            "css" => "text/css; charset=utf-8",
            "svg" => "image/svg+xml",
            _ => "text/html; charset=utf-8",
        };
        assert_eq!(answer.header("content-type"), Some(expected), "{path}");
        let body = text(&answer);
        // The links to the routes are not files.
        let links = named(
            &body,
            &[
                "<link rel=\"icon\" href=\"",
                "stylesheet\" href=\"",
                " src=\"",
            ],
        );
        let imports = named(&body, &["from \"./"]);
        let files: Vec<String> = match ending {
            "" => links.map(str::to_owned).collect(),
            "js" => imports.map(|file| format!("assets/{file}")).collect(),
            _ => Vec::new(),
        };
        next.extend(files.into_iter().filter(|file| !seen.contains(file)));
        seen.insert(path);
    }
    assert_eq!(seen.len(), 9, "{seen:?}");
}

#[test]
fn a_cached_file_is_not_sent_again() {
    let redis = Redis::start();
    let exporter = Exporter::start(redis.port());
    let path = "GET /assets/uPlot.iife.min.js";
    let plain = exporter.request(path, &[]);
    let tag = plain.header("etag").expect("a tag").to_owned();
    let gzip = exporter.request(path, &[("accept-encoding", "gzip")]);
    assert_eq!(gzip.header("content-encoding"), Some("gzip"));
    assert!(gzip.body.len() * 2 < plain.body.len());
    let known = exporter.request(path, &[("if-none-match", &tag)]);
    assert_eq!((known.status, known.body.len()), (304, 0));
    assert_eq!(known.header("etag"), Some(tag.as_str()));
    let other = exporter.request(path, &[("if-none-match", "\"other\"")]);
    assert_eq!((other.status, other.body), (200, plain.body));
}
