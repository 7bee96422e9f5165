//! Tests each route and each documented error over HTTP, and that each is counted.

use std::{
    io::{Read as _, Write as _},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use functional_scaffold_protocol::calls::Script;
use functional_scaffold_testkit::{
    http::{self, Response},
    load::{RequestKind, Until},
    process::poll_until,
    runtime::App,
    runtime::AppOptions,
};
use functional_scaffold_tests::{
    PATIENCE,
    service::{NEGATIVE, PRIME, Service, invoke, readiness},
};
use serde_json::{Value, json};

use crate::Result;

/// A request whose line is its method and path, e.g. `POST /invoke`.
fn request(
    service: &Service,
    line: &str,
    headers: &[(&str, &str)],
    body: impl AsRef<[u8]>,
) -> Result<Response> {
    http::request(
        service.app.address(),
        line,
        headers,
        body.as_ref(),
        PATIENCE,
    )
}

fn status(service: &Service, line: &str) -> Result<u16> {
    Ok(request(service, line, &[], "")?.status)
}

/// Waits until the request counter has exactly these series, in any order.
fn counted(service: &Service, expected: &[(&str, i64)]) -> Result {
    let expected = expected
        .iter()
        .map(|&(labels, count)| (labels.to_owned(), count));
    service.wait_for("metrics:request_counter", &expected.collect())
}

fn executions(service: &Service, expected: &[(&str, i64)]) -> Result {
    let labels = |status| format!("algorithm=\"prime-check\",status=\"{status}\"");
    let expected = expected
        .iter()
        .map(|&(status, count)| (labels(status), count));
    service.wait_for("metrics:algorithm_counter", &expected.collect())
}

/// Checks that a response is a problem of this status and type, and returns its
/// detail.
fn problem(response: &Response, status: u16, name: &str) -> Result<String> {
    let body: Value = serde_json::from_slice(&response.body)?;
    ensure!(
        response.status == status,
        "{} is not {status}: {body}",
        response.status
    );
    assert_eq!(
        response.header("content-type"),
        Some("application/problem+json")
    );
    assert_eq!(body["status"], status);
    assert_eq!(
        body["type"],
        format!("urn:functional-scaffold:problem:{name}")
    );
    assert_eq!(body["request_id"].as_str(), response.header("x-request-id"));
    assert!(body["request_id"].is_string() && body["title"].is_string());
    Ok(body["detail"].as_str().unwrap_or_default().to_owned())
}

fn json_body(response: &Response, status: u16) -> Result<Value> {
    assert_eq!(response.status, status, "{response:?}");
    assert_eq!(response.header("content-type"), Some("application/json"));
    Ok(serde_json::from_slice(&response.body)?)
}

#[test]
fn runs_the_algorithm_and_counts_it() -> Result {
    let service = Service::start()?;
    let body = json_body(&invoke(&service.app, PRIME)?, 200)?;
    assert_eq!(body["status"], "success");
    assert_eq!(
        body["result"],
        json!({"number": 17, "is_prime": true, "factors": [{"prime": 17, "exponent": 1}]})
    );
    assert_eq!(body["metadata"]["algorithm"], "prime-check");
    assert!(body["metadata"]["execution_time_ms"].is_f64());

    // curl sends the form type by default.
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let form = request(&service, "POST /invoke", &form, r#"{"number": 12}"#)?;
    assert_eq!(form.status, 200);
    let line = "POST /invoke/prime-check?verbose=1";
    let named = request(&service, line, &[], r#"{"number": 2}"#)?;
    assert_eq!(named.status, 200);

    counted(
        &service,
        &[
            (
                r#"code="200",endpoint="/invoke",method="POST",status="success""#,
                2,
            ),
            (
                r#"code="200",endpoint="/invoke/{algorithm}",method="POST",status="success""#,
                1,
            ),
        ],
    )?;
    executions(&service, &[("success", 3)])
}

#[test]
fn large_numbers_stay_exact() -> Result {
    let service = Service::start()?;
    let largest_prime = "18446744073709551557";
    for body in [
        format!("{{\"number\": {largest_prime}}}"),
        format!("{{\"number\": \"{largest_prime}\"}}"),
    ] {
        let body = json_body(&invoke(&service.app, &body)?, 200)?;
        assert_eq!(body["result"]["is_prime"], true);
        assert_eq!(body["result"]["number"], largest_prime);
        assert_eq!(body["result"]["factors"][0]["prime"], largest_prime);
    }
    Ok(())
}

#[test]
fn every_refused_body_is_a_documented_problem_and_counted() -> Result {
    let service = Service::start()?;
    let large = vec![b' '; 10 * 1024 * 1024];
    let name_of = |status| match status {
        400 => "malformed-body",
        413 => "body-too-large",
        _ => "invalid-input",
    };
    for (body, status, says) in [
        (&b""[..], 400, "empty"),
        (b"{", 400, "not JSON"),
        (&[b'{', 0xff, b'}'], 400, "not UTF-8 at byte 1"),
        (NEGATIVE.as_bytes(), 422, "-1"),
        (br#"{"number": 1.5}"#, 422, "1.5"),
        (br#"{"number": "abc"}"#, 422, "abc"),
        (
            br#"{"number": 18446744073709551616}"#,
            422,
            "18446744073709551616",
        ),
        (b"[]", 422, ""),
        (&large, 413, "1048576"),
    ] {
        let response = request(&service, "POST /invoke", &[], body)?;
        let detail = problem(&response, status, name_of(status))?;
        assert!(detail.contains(says), "{detail:?} does not say {says:?}");
    }
    let mut chunks = Vec::new();
    for chunk in large.chunks(64 * 1024) {
        chunks.extend(
            format!("{:x}\r\n", chunk.len())
                .bytes()
                .chain(chunk.iter().copied()),
        );
        chunks.extend(b"\r\n");
    }
    chunks.extend(b"0\r\n\r\n");
    let chunked = [("transfer-encoding", "chunked")];
    let response = request(&service, "POST /invoke", &chunked, chunks)?;
    let detail = problem(&response, 413, "body-too-large")?;
    assert!(detail.contains("1048576"), "{detail}");
    let xml = request(
        &service,
        "POST /invoke",
        &[("content-type", "text/xml")],
        "<a/>",
    )?;
    let detail = problem(&xml, 415, "unsupported-media-type")?;
    assert!(detail.contains("text/xml"), "{detail}");

    let labels =
        |code: u16| format!(r#"code="{code}",endpoint="/invoke",method="POST",status="rejected""#);
    let expected = [(400, 3), (413, 2), (415, 1), (422, 5)];
    let expected = expected.map(|(code, count)| (labels(code), count));
    let expected = expected
        .each_ref()
        .map(|(labels, count)| (labels.as_str(), *count));
    counted(&service, &expected)?;
    executions(&service, &[("invalid_input", 5)])
}

#[test]
fn wrong_paths_and_methods_are_problems_and_counted() -> Result {
    let service = Service::start()?;
    for path in ["/", "/nope", "/invoke/", "/invoke/other", "/metrics"] {
        let response = request(&service, &format!("GET {path}"), &[], "")?;
        let detail = problem(&response, 404, "not-found")?;
        assert!(detail.contains(path));
    }
    for (line, allowed) in [
        ("DELETE /invoke", "GET, HEAD, POST"),
        ("BREW /readyz", "GET, HEAD"),
    ] {
        let response = request(&service, line, &[], "")?;
        assert_eq!(response.header("allow"), Some(allowed));
        problem(&response, 405, "method-not-allowed")?;
    }
    counted(
        &service,
        &[
            (
                r#"code="404",endpoint="unmatched",method="GET",status="rejected""#,
                4,
            ),
            (
                r#"code="404",endpoint="/metrics",method="GET",status="rejected""#,
                1,
            ),
            (
                r#"code="405",endpoint="/invoke",method="DELETE",status="rejected""#,
                1,
            ),
            (
                r#"code="405",endpoint="/readyz",method="OTHER",status="rejected""#,
                1,
            ),
        ],
    )
}

#[test]
fn a_response_leaves_in_one_piece() -> Result {
    let request = format!(
        "POST /invoke HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n\r\n{PRIME}",
        PRIME.len()
    );
    for durability in ["batched", "exact", "strict"] {
        let service =
            Service::start_with(|options| options.variable("metrics_durability", durability))?;
        check_one_piece(&service.app, &request, b"}").context(durability)?;
    }
    Ok(())
}

/// Checks that the responses to a request, which have this end, leave in one write. In
/// two, the second waits some 40 ms on Spin.
pub(crate) fn check_one_piece(app: &App, request: &str, end: &[u8]) -> Result {
    const REQUESTS: usize = 200;
    // Another thread of the host may poll the connection between head and body, more
    // often on a busy machine. A host that writes them separately does so nearly every
    // time.
    const MOST_IN_PIECES: usize = REQUESTS / 4;

    let mut connection = http::connect(app.address(), PATIENCE)?;
    let mut in_pieces = 0;
    for _ in 0..REQUESTS {
        connection.write_all(request.as_bytes())?;
        let mut response = Vec::new();
        let mut pieces = 0;
        while !response.ends_with(end) {
            let mut piece = [0; 4096];
            let length = connection.read(&mut piece)?;
            ensure!(length > 0, "closed after {response:?}");
            response.extend_from_slice(&piece[..length]);
            pieces += 1;
        }
        assert!(response.starts_with(b"HTTP/1.1 200 "));
        in_pieces += usize::from(pieces > 1);
    }
    ensure!(
        in_pieces <= MOST_IN_PIECES,
        "{in_pieces} of {REQUESTS} are in pieces"
    );
    Ok(())
}

#[test]
fn request_ids_are_honoured_or_made_and_logged() -> Result {
    let service = Service::start()?;
    let sent = [("x-request-id", "order-66")];
    let response = request(&service, "POST /invoke", &sent, r#"{"number": 1}"#)?;
    assert_eq!(response.header("x-request-id"), Some("order-66"));
    assert_eq!(json_body(&response, 200)?["request_id"], "order-66");
    poll_until(PATIENCE, || {
        let logged = service.app.log("request")?;
        ensure!(
            logged.iter().any(|line| line["request_id"] == "order-66"),
            "{logged:?}"
        );
        Ok(())
    })?;

    let made = || -> Result<String> {
        let sent = [("x-request-id", "not valid")];
        let response = request(&service, "GET /healthz", &sent, "")?;
        Ok(response.header("x-request-id").context("no id")?.to_owned())
    };
    let (first, second) = (made()?, made()?);
    assert_ne!(first, second);
    assert!(!first.contains(' '));
    Ok(())
}

#[test]
fn describes_itself() -> Result {
    // A late lease on a busy machine would make it unready.
    let service = Service::start_with(|options| options.variable("lease_timeout_ms", "1000"))?;
    let get = |path: &str| http::get(service.app.address(), path);
    let described = json_body(&get("/invoke")?, 200)?;
    assert_eq!(described["algorithm"], "prime-check");
    assert_eq!(described["version"], env!("CARGO_PKG_VERSION"));
    let summary = "Tells whether a number is prime, and gives its prime factors.";
    assert_eq!(described["summary"], summary);
    assert_eq!(described["input_schema"]["required"][0], "number");

    let document = json_body(&get("/openapi.json")?, 200)?;
    assert_eq!(document["openapi"], "3.1.0");
    let paths = document["paths"].as_object().context("no paths")?;
    assert_eq!(paths.len(), 5);
    // Every route and method that it names responds, by the name it gives.
    for (path, item) in paths {
        for (method, _) in item.as_object().context("no methods")? {
            let line = format!("{} {path}", method.to_uppercase());
            let response = poll_until(PATIENCE, || {
                let response = request(&service, &line, &[], r#"{"number":1}"#)?;
                // A busy Redis is not ready at first.
                ensure!(path != "/readyz" || response.status == 200, "{response:?}");
                Ok(response)
            })?;
            assert_eq!(response.status, 200, "{line}");
        }
    }

    let health = get("/healthz")?;
    assert_eq!(health.header("content-length"), Some("3"));
    assert_eq!(health.text()?, "ok\n");
    let head = request(&service, "HEAD /invoke", &[], "")?;
    assert_eq!(head.status, 200);
    assert_eq!(head.text()?, "");
    Ok(())
}

#[test]
fn an_api_key_is_required_where_one_is_set() -> Result {
    let service = Service::start_with(|options| options.variable("api_key", "s3cret"))?;
    let authorized = |header: Option<&str>| {
        let headers: Vec<_> = header
            .map(|header| ("authorization", header))
            .into_iter()
            .collect();
        request(&service, "POST /invoke", &headers, PRIME)
    };
    for header in [
        None,
        Some("Bearer wrong"),
        Some("Bearer s3cret2"),
        Some("Basic s3cret"),
    ] {
        let response = authorized(header)?;
        assert_eq!(response.header("www-authenticate"), Some("Bearer"));
        problem(&response, 401, "unauthorized")?;
    }
    assert_eq!(authorized(Some("bearer s3cret"))?.status, 200);
    assert_eq!(status(&service, "GET /healthz")?, 200);
    assert!(!service.app.output()?.contains("s3cret"));
    Ok(())
}

#[test]
fn a_wrong_variable_is_named_and_never_a_trap() -> Result {
    let service = Service::start_with(|options| {
        // Each instance logs it once.
        let options = options.lasting().variable("max_body_bytes", "1MiB");
        options.variable("flush_interval_ms", "-1")
    })?;
    for _ in 0..2 {
        let detail = problem(&invoke(&service.app, PRIME)?, 500, "misconfigured")?;
        assert!(detail.contains("/readyz"), "{detail}");
    }
    let (status_of_readiness, lines) = readiness(&service.app)?;
    assert_eq!(status_of_readiness, 503);
    for says in [
        "max_body_bytes: \"1MiB\" is not an integer",
        "flush_interval_ms: \"-1\"",
    ] {
        assert!(lines.contains(says), "{lines}");
    }
    assert_eq!(status(&service, "GET /healthz")?, 200);
    let logged = poll_until(PATIENCE, || {
        let logged = service.app.log("misconfigured")?;
        ensure!(!logged.is_empty(), "nothing is logged");
        Ok(logged)
    })?;
    assert_eq!(logged.len(), 1, "once, not at every request");
    Ok(())
}

#[test]
fn readiness_names_the_dependency_that_does_not_respond() -> Result {
    // A running Redis responds within a second, even on a busy machine.
    const LIMIT: Duration = Duration::from_secs(1);
    let service = Service::start_with(|options| {
        options.variable("redis_timeout_ms", &LIMIT.as_millis().to_string())
    })?;
    let (status, lines) = readiness(&service.app)?;
    assert_eq!(status, 200, "{lines}");
    assert!(lines.contains("redis: ok (redis://127.0.0.1:"), "{lines}");
    service.redis.suspend()?;
    // The last check is good for a second.
    let lines = poll_until(PATIENCE, || {
        let (status, lines) = readiness(&service.app)?;
        ensure!(status == 503, "{lines}");
        Ok(lines)
    })?;
    assert!(lines.contains("redis: redis://127.0.0.1:"), "{lines}");
    assert!(
        lines.contains(&format!("within {} ms", LIMIT.as_millis())),
        "{lines}"
    );
    service.redis.resume()
}

#[test]
fn a_body_that_does_not_arrive_is_a_problem_and_counted() -> Result {
    let service = Service::start_with(|options| options.variable("body_timeout_ms", "500"))?;
    let begin = |head: &str| {
        let mut connection = http::connect(service.app.address(), PATIENCE)?;
        let head = format!("POST /invoke HTTP/1.1\r\nhost: test\r\n{head}");
        connection.write_all(head.as_bytes())?;
        Ok::<_, anyhow::Error>(connection)
    };
    for mut slow in [
        begin("content-length: 14\r\n\r\n{\"number\"")?,
        begin("content-length: 14\r\n\r\n")?,
        begin("transfer-encoding: chunked\r\n\r\n9\r\n{\"number\"\r\n")?,
    ] {
        // Others do not wait for it.
        assert_eq!(invoke(&service.app, PRIME)?.status, 200);
        let mut bytes = Vec::new();
        let response = loop {
            let mut piece = [0; 4096];
            let length = slow.read(&mut piece)?;
            ensure!(length > 0, "closed after {bytes:?}");
            bytes.extend_from_slice(&piece[..length]);
            if bytes.ends_with(b"}") {
                break Response::parse(&bytes)?;
            }
        };
        let detail = problem(&response, 408, "body-timeout")?;
        assert!(detail.contains("500 ms"), "{detail}");
    }
    counted(
        &service,
        &[
            (
                r#"code="200",endpoint="/invoke",method="POST",status="success""#,
                3,
            ),
            (
                r#"code="408",endpoint="/invoke",method="POST",status="rejected""#,
                3,
            ),
        ],
    )?;
    executions(&service, &[("success", 3)])
}

#[test]
fn readiness_shows_details_to_those_with_the_key_alone() -> Result {
    const NO_DETAILS: &str =
        "configuration: ok\nalgorithm: ok\nredis: ok\nleases: ok\nbatches: ok\n";
    let ask = |service: &Service, header: Option<&str>| {
        let headers: Vec<_> = header.map(|it| ("authorization", it)).into_iter().collect();
        request(service, "GET /readyz", &headers, "")?.text()
    };
    // A running Redis responds in this time, even on a busy machine.
    let patient = |options: AppOptions| options.variable("redis_timeout_ms", "10000");
    let keyless = Service::start_with(|options| patient(options).variable("readyz_details", ""))?;
    assert_eq!(ask(&keyless, None)?, NO_DETAILS);
    assert_eq!(ask(&keyless, Some("Bearer "))?, NO_DETAILS);

    let set = |options: AppOptions| {
        let options = patient(options).variable("readyz_details", "key");
        options.variable("api_key", "s3cret")
    };
    let service = Service::start_with(set)?;
    for header in [None, Some("Bearer wrong"), Some("Basic s3cret")] {
        assert_eq!(ask(&service, header)?, NO_DETAILS);
    }
    let details = ask(&service, Some("Bearer s3cret"))?;
    let address = format!("redis: ok (redis://127.0.0.1:{}", service.redis.port());
    assert!(details.contains(&address), "{details}");
    service
        .redis
        .call::<()>(&["CONFIG", "SET", "maxmemory", "1"])?;
    poll_until(PATIENCE, || {
        let lines = ask(&service, None)?;
        ensure!(lines.contains("redis: failed\n"), "{lines}");
        Ok(())
    })?;
    let details = ask(&service, Some("Bearer s3cret"))?;
    assert!(details.contains("memory is full"), "{details}");

    let misconfigured = Service::start_with(|options| {
        let options = set(options).variable("redis_host", "app:s3cret@127.0.0.1");
        options.variable("flush_interval_ms", "-1")
    })?;
    assert_eq!(
        ask(&misconfigured, None)?,
        "configuration: failed\n".repeat(2)
    );
    let details = ask(&misconfigured, Some("Bearer s3cret"))?;
    assert!(details.contains("variable redis_host: "), "{details}");
    assert!(details.contains("flush_interval_ms: \"-1\""), "{details}");
    assert!(!details.contains("s3cret"), "{details}");
    let logged = format!("{:?}", misconfigured.app.log("misconfigured")?);
    assert!(
        logged.contains("redis_host") && !logged.contains("s3cret"),
        "{logged}"
    );
    Ok(())
}

#[test]
fn readiness_checks_redis_once_a_second_for_all_requests() -> Result {
    let service = Service::start_with(AppOptions::lasting)?;
    assert_eq!(readiness(&service.app)?.0, 200);
    // Redis keeps every command that it executes.
    for (name, value) in [
        ("slowlog-max-len", "100000"),
        ("slowlog-log-slower-than", "0"),
    ] {
        service.redis.call::<()>(&["CONFIG", "SET", name, value])?;
    }
    let began = Instant::now();
    service.load(
        &[RequestKind::get("/readyz", "/readyz")],
        8,
        Until::Requests(400),
    )?;
    let seconds = began.elapsed().as_secs();
    let log: Vec<(i64, i64, i64, Vec<String>, String, String)> =
        service.redis.call(&["SLOWLOG", "GET", "-1"])?;
    let checks = log.iter().filter(|(_, _, _, command, ..)| {
        command
            .get(1)
            .is_some_and(|digest| digest == Script::REGISTER.sha)
    });
    // More than one instance may serve 8 connections.
    let (checks, most) = (checks.count() as u64, 8 * (seconds + 2));
    assert!(
        checks <= most,
        "{checks} checks of 400 requests in {seconds} s"
    );
    Ok(())
}
