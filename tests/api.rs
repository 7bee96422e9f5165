//! Each route and each documented error, over HTTP, and that each is counted.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use functional_scaffold_tests::{
    app::{App, AppOptions},
    process::poll_until,
    redis_server::RedisServer,
};
use reqwest::{Body, Client, Method, RequestBuilder, Response};
use serde_json::{Value, json};

type Result<T = ()> = anyhow::Result<T>;

struct Service {
    redis: RedisServer,
    app: App,
    client: Client,
}

impl Service {
    fn start(variables: &[(&'static str, &str)]) -> Result<Self> {
        let redis = RedisServer::start()?;
        let mut options = AppOptions::with_redis(redis.port());
        for (name, value) in variables {
            options = options.variable(name, value);
        }
        let app = App::start(&options)?;
        Ok(Self {
            redis,
            app,
            client: Client::new(),
        })
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, self.app.url(path))
    }

    fn invoke(&self, body: impl Into<Body>) -> RequestBuilder {
        self.request(Method::POST, "/invoke").body(body)
    }

    /// Waits until the request counter shows exactly these, in any order.
    fn counted(&self, expected: &[(&str, i64)]) -> Result {
        let expected = expected
            .iter()
            .map(|&(labels, count)| (labels.to_owned(), count))
            .collect();
        poll_until(Duration::from_secs(3), || {
            let counted = self.redis.cells("metrics:request_counter")?;
            anyhow::ensure!(counted == expected, "{counted:#?} is not {expected:#?}");
            Ok(())
        })
    }
}

/// Checks that a response is problem details with this code; gives its detail.
async fn problem(response: Response, code: u16) -> Result<String> {
    let content_type = response.headers()["content-type"].to_str()?.to_owned();
    let request_id = response.headers()["x-request-id"].to_str()?.to_owned();
    let status = response.status().as_u16();
    let body: Value = serde_json::from_slice(&response.bytes().await?)?;
    anyhow::ensure!(status == code, "{status} is not {code}: {body}");
    assert_eq!(content_type, "application/problem+json");
    assert_eq!(body["status"], code);
    assert_eq!(body["type"], "about:blank");
    assert_eq!(body["request_id"], request_id);
    assert!(body["title"].is_string());
    Ok(body["detail"].as_str().unwrap_or_default().to_owned())
}

async fn json_body(response: Response, code: u16) -> Result<Value> {
    assert_eq!(response.status().as_u16(), code);
    assert_eq!(response.headers()["content-type"], "application/json");
    Ok(serde_json::from_slice(&response.bytes().await?)?)
}

#[tokio::test]
async fn runs_the_algorithm_and_counts_it() -> Result {
    let service = Service::start(&[])?;
    let answer = json_body(service.invoke(r#"{"number": 17}"#).send().await?, 200).await?;
    assert_eq!(answer["status"], "success");
    assert_eq!(
        answer["result"],
        json!({"number": 17, "is_prime": true, "factors": [{"prime": 17, "exponent": 1}]})
    );
    assert_eq!(answer["metadata"]["algorithm"], "prime-check");
    assert!(answer["metadata"]["execution_time_ms"].is_f64());

    // The form type is what curl sends when nobody says anything else.
    let form = service
        .invoke(r#"{"number": 12}"#)
        .header("content-type", "application/x-www-form-urlencoded");
    assert_eq!(form.send().await?.status(), 200);
    let named = service
        .request(Method::POST, "/invoke/prime-check?verbose=1")
        .body(r#"{"number": 2}"#);
    assert_eq!(named.send().await?.status(), 200);

    service.counted(&[
        (
            r#"code="200",endpoint="/invoke",method="POST",status="success""#,
            2,
        ),
        (
            r#"code="200",endpoint="/invoke/{algorithm}",method="POST",status="success""#,
            1,
        ),
    ])?;
    let executions = service.redis.cells("metrics:algorithm_counter")?;
    assert_eq!(
        executions.into_iter().collect::<Vec<_>>(),
        [(r#"algorithm="prime-check",status="success""#.to_owned(), 3)]
    );
    Ok(())
}

#[tokio::test]
async fn large_numbers_stay_exact() -> Result {
    let service = Service::start(&[])?;
    let largest_prime = "18446744073709551557";
    for body in [
        format!("{{\"number\": {largest_prime}}}"),
        format!("{{\"number\": \"{largest_prime}\"}}"),
    ] {
        let answer = json_body(service.invoke(body).send().await?, 200).await?;
        assert_eq!(answer["result"]["is_prime"], true);
        assert_eq!(answer["result"]["number"], largest_prime);
        assert_eq!(answer["result"]["factors"][0]["prime"], largest_prime);
    }
    Ok(())
}

#[tokio::test]
async fn every_refused_body_is_a_documented_problem_and_counted() -> Result {
    let service = Service::start(&[])?;
    let large = vec![b' '; 10 * 1024 * 1024];
    let chunked = || {
        let chunks = large.chunks(64 * 1024).map(<[u8]>::to_vec);
        let chunks: Vec<std::io::Result<Vec<u8>>> = chunks.map(Ok).collect();
        Body::wrap_stream(futures_util::stream::iter(chunks))
    };
    for (body, code, says) in [
        (Body::from(""), 400, "empty"),
        (Body::from("{"), 400, "not JSON"),
        (
            Body::from(vec![b'{', 0xff, b'}']),
            400,
            "not UTF-8 at byte 1",
        ),
        (Body::from(r#"{"number": -1}"#), 422, "-1"),
        (Body::from(r#"{"number": 1.5}"#), 422, "1.5"),
        (Body::from(r#"{"number": "abc"}"#), 422, "abc"),
        (
            Body::from(r#"{"number": 18446744073709551616}"#),
            422,
            "18446744073709551616",
        ),
        (Body::from("[]"), 422, ""),
        (Body::from(large.clone()), 413, "1048576"),
        (chunked(), 413, "1048576"),
    ] {
        let detail = problem(service.invoke(body).send().await?, code).await?;
        assert!(detail.contains(says), "{detail:?} does not say {says:?}");
    }
    let xml = service.invoke("<a/>").header("content-type", "text/xml");
    let detail = problem(xml.send().await?, 415).await?;
    assert!(detail.contains("text/xml"), "{detail}");

    let labels =
        |code: u16| format!(r#"code="{code}",endpoint="/invoke",method="POST",status="rejected""#);
    service.counted(&[
        (&labels(400), 3),
        (&labels(413), 2),
        (&labels(415), 1),
        (&labels(422), 5),
    ])?;
    let executions = service.redis.cells("metrics:algorithm_counter")?;
    assert_eq!(
        executions.into_iter().collect::<Vec<_>>(),
        [(
            r#"algorithm="prime-check",status="invalid_input""#.to_owned(),
            5
        )]
    );
    Ok(())
}

#[tokio::test]
async fn wrong_paths_and_methods_are_problems_and_counted() -> Result {
    let service = Service::start(&[])?;
    for path in ["/", "/nope", "/invoke/", "/invoke/other", "/metrics"] {
        let detail = problem(service.request(Method::GET, path).send().await?, 404).await?;
        assert!(detail.contains(path));
    }
    let response = service.request(Method::DELETE, "/invoke").send().await?;
    assert_eq!(response.headers()["allow"], "GET, HEAD, POST");
    problem(response, 405).await?;
    let method = Method::from_bytes(b"BREW")?;
    let response = service.request(method, "/readyz").send().await?;
    assert_eq!(response.headers()["allow"], "GET, HEAD");
    problem(response, 405).await?;
    service.counted(&[
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
    ])
}

#[test]
fn a_response_leaves_in_one_piece() -> Result {
    const REQUESTS: usize = 200;
    // Another thread of the host may now and then come between head and body.
    const MOST_IN_PIECES: usize = 10;

    for durability in ["relaxed", "exact", "strict"] {
        let service = Service::start(&[("metrics_durability", durability)])?;
        let mut connection = TcpStream::connect(("127.0.0.1", service.app.port()))?;
        connection.set_read_timeout(Some(Duration::from_secs(10)))?;
        let body = r#"{"number": 17}"#;
        let request = format!(
            "POST /invoke HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut in_pieces = 0;
        for _ in 0..REQUESTS {
            connection.write_all(request.as_bytes())?;
            let mut response = Vec::new();
            let mut pieces = 0;
            while !response.ends_with(b"}") {
                let mut piece = [0; 4096];
                let length = connection.read(&mut piece)?;
                anyhow::ensure!(length > 0, "closed after {response:?}");
                response.extend_from_slice(&piece[..length]);
                pieces += 1;
            }
            assert!(response.starts_with(b"HTTP/1.1 200 "));
            in_pieces += usize::from(pieces > 1);
        }
        assert!(
            in_pieces <= MOST_IN_PIECES,
            "{in_pieces} of {REQUESTS} in {durability} mode"
        );
    }
    Ok(())
}

#[tokio::test]
async fn request_ids_are_honoured_or_made_and_logged() -> Result {
    let service = Service::start(&[])?;
    let sent = service
        .invoke(r#"{"number": 1}"#)
        .header("x-request-id", "order-66")
        .send()
        .await?;
    assert_eq!(sent.headers()["x-request-id"], "order-66");
    assert_eq!(json_body(sent, 200).await?["request_id"], "order-66");
    let logged = service.app.log("request")?;
    assert!(logged.iter().any(|line| line["request_id"] == "order-66"));

    let mut made = Vec::new();
    for _ in 0..2 {
        let response = service
            .request(Method::GET, "/healthz")
            .header("x-request-id", "not valid")
            .send()
            .await?;
        made.push(response.headers()["x-request-id"].to_str()?.to_owned());
    }
    assert_ne!(made[0], made[1]);
    assert!(!made[0].contains(' '));
    Ok(())
}

#[tokio::test]
async fn describes_itself() -> Result {
    // A late lease on a busy machine would make it unready.
    let service = Service::start(&[("lease_timeout_ms", "1000")])?;
    let get = |path: &'static str| service.request(Method::GET, path).send();
    let described = json_body(get("/invoke").await?, 200).await?;
    assert_eq!(described["algorithm"], "prime-check");
    assert_eq!(described["input_schema"]["required"][0], "number");

    let document = json_body(get("/openapi.json").await?, 200).await?;
    assert_eq!(document["openapi"], "3.1.0");
    let paths: Vec<_> = document["paths"]
        .as_object()
        .into_iter()
        .flatten()
        .collect();
    assert_eq!(paths.len(), 5);
    // Every route and method that it names is answered, by the name it gives.
    for (path, item) in paths {
        for method in item.as_object().into_iter().flatten().map(|(name, _)| name) {
            let method = Method::from_bytes(method.to_uppercase().as_bytes())?;
            let response = service.request(method, path).body(r#"{"number":1}"#);
            assert_eq!(response.send().await?.status(), 200, "{path}");
        }
    }

    let health = get("/healthz").await?;
    assert_eq!(health.headers()["content-length"], "3");
    assert_eq!(health.text().await?, "ok\n");
    let head = service.request(Method::HEAD, "/invoke").send().await?;
    assert_eq!(head.status(), 200);
    assert_eq!(head.text().await?, "");
    Ok(())
}

#[tokio::test]
async fn an_api_key_is_wanted_where_one_is_set() -> Result {
    let service = Service::start(&[("api_key", "s3cret")])?;
    let wrong = [
        None,
        Some("Bearer wrong"),
        Some("Bearer s3cret2"),
        Some("Basic s3cret"),
    ];
    for header in wrong {
        let mut request = service.invoke(r#"{"number": 17}"#);
        if let Some(header) = header {
            request = request.header("authorization", header);
        }
        let response = request.send().await?;
        assert_eq!(response.headers()["www-authenticate"], "Bearer");
        problem(response, 401).await?;
    }
    let right = service
        .invoke(r#"{"number": 17}"#)
        .header("authorization", "bearer s3cret");
    assert_eq!(right.send().await?.status(), 200);
    assert_eq!(
        service
            .request(Method::GET, "/healthz")
            .send()
            .await?
            .status(),
        200
    );
    assert!(!service.app.output()?.contains("s3cret"));
    Ok(())
}

#[tokio::test]
async fn a_wrong_variable_is_named_and_never_a_trap() -> Result {
    let service = Service::start(&[("max_body_bytes", "1MiB"), ("flush_interval_ms", "-1")])?;
    for _ in 0..2 {
        let detail = problem(service.invoke(r#"{"number": 17}"#).send().await?, 500).await?;
        assert!(detail.contains("/readyz"), "{detail}");
    }
    let ready = service.request(Method::GET, "/readyz").send().await?;
    assert_eq!(ready.status(), 503);
    let lines = ready.text().await?;
    assert!(
        lines.contains("max_body_bytes: \"1MiB\" is not an integer"),
        "{lines}"
    );
    assert!(lines.contains("flush_interval_ms: \"-1\""), "{lines}");
    assert_eq!(
        service
            .request(Method::GET, "/healthz")
            .send()
            .await?
            .status(),
        200
    );
    let logged = service.app.log("misconfigured")?;
    assert_eq!(logged.len(), 1, "once, not at every request");
    Ok(())
}

#[tokio::test]
async fn readiness_names_the_dependency_that_does_not_answer() -> Result {
    let service = Service::start(&[])?;
    let ready = service.request(Method::GET, "/readyz").send().await?;
    assert_eq!(ready.status(), 200);
    let lines = ready.text().await?;
    assert!(lines.contains("redis: ok (redis://127.0.0.1:"), "{lines}");
    service.redis.hang()?;
    let ready = service.request(Method::GET, "/readyz").send().await?;
    assert_eq!(ready.status(), 503);
    let lines = ready.text().await?;
    assert!(lines.contains("redis: redis://127.0.0.1:"), "{lines}");
    assert!(lines.contains("no reply within 300 ms"), "{lines}");
    service.redis.resume()?;
    Ok(())
}
