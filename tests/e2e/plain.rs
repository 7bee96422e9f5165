//! The middleware in front of an app that knows nothing of metrics: every response is the
//! app's own, byte for byte, and is counted once.

use std::{
    collections::BTreeMap,
    env,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use functional_scaffold_protocol::catalog::RequestLabels;
use functional_scaffold_testkit::{
    exporter::Exporter,
    http,
    process::poll_until,
    prometheus::Prometheus,
    repository,
    runtime::{App, AppOptions},
};
use functional_scaffold_tests::{
    PATIENCE,
    expositions::{check_with_promtool, parse_with_prometheus_client},
    service::Service,
};

use crate::{Result, api::check_one_piece};

/// The variable with the number of requests, if it is another.
const REQUESTS_VARIABLE: &str = "PLAIN_REQUESTS";
const REQUESTS: usize = 2_000;
const CONNECTIONS: usize = 32;

/// The method of the clients that go away before they get a response.
const VANISHING: &str = "PATCH";

/// The route of the app in its manifest.
const ENDPOINT: &str = "/...";

/// How much of a response a client reads.
#[derive(Clone, Copy, PartialEq)]
enum Reading {
    All,
    /// It goes away after this many bytes of the body.
    Some(usize),
    /// It goes away at once.
    Nothing,
}

/// A kind of request.
struct Kind {
    /// How often it is sent, of 1,000.
    weight: usize,
    method: &'static str,
    path: &'static str,
    /// Headers and body.
    rest: String,
    reading: Reading,
    /// The status code under which it is counted.
    code: u16,
}

impl Kind {
    fn new(weight: usize, method: &'static str, path: &'static str, code: u16) -> Self {
        Self {
            weight,
            method,
            path,
            rest: "\r\n".to_owned(),
            reading: Reading::All,
            code,
        }
    }

    fn body(self, body: &str) -> Self {
        let rest = format!("content-length: {}\r\n\r\n{body}", body.len());
        Self { rest, ..self }
    }

    fn reading(self, reading: Reading) -> Self {
        Self { reading, ..self }
    }

    fn bytes(&self) -> Vec<u8> {
        let Self {
            method, path, rest, ..
        } = self;
        // The route that a client claims is nobody's.
        format!(
            "{method} {path} HTTP/1.1\r\nhost: test\r\nte: trailers\r\n\
             spin-raw-component-route: /forged\r\n{rest}"
        )
        .into_bytes()
    }

    fn labels(&self) -> String {
        let method = match self.method {
            "BREW" => "OTHER",
            known => known,
        };
        RequestLabels::new(method, ENDPOINT, self.code).to_text()
    }
}

fn kinds() -> Vec<Kind> {
    let megabyte = "0123456789abcdef".repeat(1 << 16);
    let chunked = "transfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n\
                   5\r\nhello\r\n6\r\n world\r\n0\r\nx-sum: 11\r\n\r\n";
    vec![
        Kind::new(400, "GET", "/hello", 200),
        Kind::new(100, "POST", "/echo", 200).body("a small body"),
        Kind::new(60, "POST", "/echo", 200).body(""),
        Kind::new(10, "PUT", "/echo", 200).body(&megabyte),
        Kind {
            rest: chunked.to_owned(),
            ..Kind::new(60, "POST", "/echo", 200)
        },
        Kind::new(60, "GET", "/stream?5", 200),
        Kind::new(60, "HEAD", "/head?12345", 200),
        Kind::new(60, "GET", "/missing", 404),
        Kind::new(40, "DELETE", "/code?204", 204),
        Kind::new(20, "BREW", "/code?418", 418),
        Kind::new(20, "GET", "/code?503", 503),
        Kind::new(20, "GET", "/error", 500),
        Kind::new(10, "GET", "/broken", 200),
        Kind::new(20, "GET", "/slow?20", 200),
        // The host may not even pass it on.
        Kind::new(20, VANISHING, "/slow?20", 200).reading(Reading::Nothing),
        Kind::new(20, "GET", "/endless", 200).reading(Reading::Some(100_000)),
        Kind::new(20, "GET", "/stream?50", 200).reading(Reading::Some(10)),
    ]
}

/// The kind of the request with this number: each as often as its weight says.
fn nth(kinds: &[Kind], number: usize) -> usize {
    // Coprime to 1,000, so that kinds alternate.
    let mut place = number * 377 % 1_000;
    for (index, kind) in kinds.iter().enumerate() {
        match place.checked_sub(kind.weight) {
            Some(rest) => place = rest,
            None => return index,
        }
    }
    0
}

/// A response as its client sees it, without its date: head, body without chunks, and
/// trailers, or `None` in place of the last if the body is cut off.
type Seen = (String, Vec<u8>, Option<String>);

struct Connection(BufReader<TcpStream>);

impl Connection {
    fn open(address: SocketAddr) -> Result<Self> {
        Ok(Self(BufReader::new(http::connect(address, PATIENCE)?)))
    }

    /// Sends a request. Returns the response and whether the connection can be used
    /// again.
    fn send(&mut self, kind: &Kind) -> Result<(Seen, bool)> {
        self.0.get_mut().write_all(&kind.bytes())?;
        if kind.reading == Reading::Nothing {
            return Ok((Seen::default(), false));
        }
        let head = self.lines()?;
        let header = |name: &str| {
            let mut lines = head.lines().filter_map(|line| line.split_once(": "));
            lines.find_map(|(header, value)| (header == name).then_some(value))
        };
        let has_body = kind.method != "HEAD" && !head.starts_with("HTTP/1.1 204");
        let mut body = Vec::new();
        let trailers = if let Reading::Some(length) = kind.reading {
            body.resize(length, 0);
            self.0.read_exact(&mut body)?;
            return Ok(((without_date(&head), Vec::new(), None), false));
        } else if !has_body {
            Some(String::new())
        } else if header("transfer-encoding") == Some("chunked") {
            self.chunks(&mut body)
        } else {
            let length = header("content-length").context("no length")?.parse()?;
            body.resize(length, 0);
            let is_whole = self.0.read_exact(&mut body).is_ok();
            is_whole.then(String::new)
        };
        let is_open = trailers.is_some();
        Ok(((without_date(&head), body, trailers), is_open))
    }

    /// The lines up to an empty one.
    fn lines(&mut self) -> Result<String> {
        let mut lines = String::new();
        while !lines.ends_with("\r\n\r\n") {
            ensure!(self.0.read_line(&mut lines)? > 0, "closed after {lines:?}");
            if lines == "\r\n" {
                break;
            }
        }
        Ok(lines.replace("\r\n", "\n"))
    }

    /// Reads a body of chunks, and returns its trailers, unless it is cut off.
    fn chunks(&mut self, body: &mut Vec<u8>) -> Option<String> {
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).ok()?;
            let length = usize::from_str_radix(line.trim(), 16).ok()?;
            if length == 0 {
                return self.lines().ok();
            }
            let before = body.len();
            body.resize(before + length + 2, 0);
            self.0.read_exact(&mut body[before..]).ok()?;
            body.truncate(before + length);
        }
    }
}

fn without_date(head: &str) -> String {
    let lines = head.lines().filter(|line| !line.starts_with("date: "));
    lines.collect::<Vec<_>>().join("\n")
}

fn plain(options: AppOptions) -> AppOptions {
    options.manifest(repository().join("tests/plain/spin.toml"))
}

/// The app without the middleware.
fn start_bare() -> Result<App> {
    App::start(&AppOptions {
        manifest: repository().join("tests/plain/bare.toml"),
        component: None,
        variables: Vec::new(),
        arguments: Vec::new(),
        environment: Vec::new(),
    })
}

/// Sends `requests` requests of all kinds, and checks that each response is one of
/// `references`. Returns how many were sent by their labels.
fn send_all(
    app: &App,
    kinds: &[Kind],
    references: &[Seen],
    requests: usize,
) -> Result<BTreeMap<String, i64>> {
    let next = AtomicUsize::new(0);
    let sent = Mutex::new(BTreeMap::new());
    let client = || -> Result {
        let mut connection = None;
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= requests {
                return Ok(());
            }
            let index = nth(kinds, number);
            let kind = &kinds[index];
            let mut open = match connection.take() {
                Some(open) => open,
                None => Connection::open(app.address())?,
            };
            let (seen, is_open) = open
                .send(kind)
                .with_context(|| format!("{} {}", kind.method, kind.path))?;
            connection = is_open.then_some(open);
            ensure!(
                seen == references[index],
                "{} {}: {:?}",
                kind.method,
                kind.path,
                (seen.0, seen.1.len(), seen.2)
            );
            let mut sent = sent.lock().unwrap_or_else(PoisonError::into_inner);
            *sent.entry(kind.labels()).or_default() += 1;
        }
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CONNECTIONS).map(|_| scope.spawn(client)).collect();
        clients
            .into_iter()
            .try_for_each(|client| client.join().expect("no panic"))
    })?;
    Ok(sent.into_inner().unwrap_or_else(PoisonError::into_inner))
}

#[test]
fn every_response_is_the_apps_own_and_counted_once() -> Result {
    let kinds = kinds();
    assert_eq!(kinds.iter().map(|kind| kind.weight).sum::<usize>(), 1_000);
    let bare = start_bare()?;
    let references = kinds.iter().map(|kind| -> Result<Seen> {
        let (seen, _) = Connection::open(bare.address())?.send(kind)?;
        Ok(seen)
    });
    let references = references.collect::<Result<Vec<_>>>()?;
    for (kind, (head, body, trailers)) in kinds.iter().zip(&references) {
        let code = kind.code.to_string();
        let is_seen = kind.reading != Reading::Nothing;
        assert_eq!(head.contains(&code), is_seen, "{} {head}", kind.path);
        if kind.path == "/echo" && kind.rest.contains("x-sum") {
            assert_eq!(body, b"hello world");
            assert_eq!(trailers.as_deref(), Some("x-sum: 11\n\n"));
        }
    }

    let service =
        Service::start_with(|options| plain(options).variable("lease_timeout_ms", "1000"))?;
    let requests = match env::var(REQUESTS_VARIABLE) {
        Ok(number) => number.parse()?,
        Err(_) => REQUESTS,
    };
    let mut sent = send_all(&service.app, &kinds, &references, requests)?;
    assert_eq!(sent.values().sum::<i64>(), i64::try_from(requests)?);
    let vanished = |labels: &String| labels.contains(VANISHING);
    let most_vanished: i64 = sent
        .extract_if(.., |labels, _| vanished(labels))
        .map(|(_, count)| count)
        .sum();
    let counted = poll_until(PATIENCE, || {
        service.replay_log()?;
        let counted = service.redis.cells("metrics:request_counter")?;
        let mut certain = counted.clone();
        certain.retain(|labels, _| !vanished(labels));
        ensure!(certain == sent, "{certain:#?} is not {sent:#?}");
        let leases: i64 = service.redis.call(&["ZCARD", "metrics:leases"])?;
        ensure!(leases == 0, "{leases} requests are in flight");
        Ok(counted)
    })?;
    // Not before: it would settle the leases in batches that are yet to be replayed.
    let exporter = Exporter::start(service.redis.port())?;
    let total: i64 = counted.values().sum();
    assert!(total - sent.values().sum::<i64>() <= most_vanished);

    let text = exporter.scrape()?;
    check_with_promtool(&text)?;
    let samples = parse_with_prometheus_client(&text)?;
    let cells = |name: &str| -> BTreeMap<String, i64> {
        let cells = samples.iter().filter_map(|(key, &value)| {
            let labels = key
                .strip_prefix(name)?
                .strip_prefix('{')?
                .strip_suffix('}')?;
            #[allow(clippy::cast_possible_truncation, reason = "a count far below 2^53")]
            (value != 0.0).then(|| (labels.to_owned(), value as i64))
        });
        cells.collect()
    };
    assert_eq!(cells("http_requests_total"), counted);
    let observed = cells("http_request_duration_seconds_count");
    assert_eq!(observed.values().sum::<i64>(), total);
    assert!(!text.contains("algorithm_execution"), "{text}");

    let targets = [("redis", vec![exporter.address().to_string()])];
    let prometheus = Prometheus::start(&targets, Duration::from_secs(1))?;
    poll_until(PATIENCE, || {
        let found = prometheus.query("http_requests_total > 0")?;
        let found: BTreeMap<_, _> = found
            .into_iter()
            .map(|sample| {
                let label = |name: &str| sample.labels.get(name).cloned().unwrap_or_default();
                let code = label("code").parse().unwrap_or_default();
                let (method, endpoint) = (label("method"), label("endpoint"));
                let labels = RequestLabels::new(&method, &endpoint, code);
                #[allow(clippy::cast_possible_truncation, reason = "a count far below 2^53")]
                (labels.to_text(), sample.value as i64)
            })
            .collect();
        ensure!(found == counted, "{found:#?} is not {counted:#?}");
        Ok(())
    })
}

/// Counts of `GET` requests, by code.
fn gets<const N: usize>(counts: [(u16, i64); N]) -> BTreeMap<String, i64> {
    let label = |code| RequestLabels::new("GET", ENDPOINT, code).to_text();
    counts.map(|(code, count)| (label(code), count)).into()
}

#[test]
fn a_request_whose_client_goes_away_is_counted_as_what_the_app_responds() -> Result {
    let service =
        Service::start_with(|options| plain(options).variable("lease_timeout_ms", "1000"))?;
    let mut connection = http::connect(service.app.address(), PATIENCE)?;
    connection.write_all(b"GET /slow?5000 HTTP/1.1\r\nhost: test\r\n\r\n")?;
    poll_until(PATIENCE, || {
        let leases: i64 = service.redis.call(&["ZCARD", "metrics:leases"])?;
        ensure!(leases == 1, "the app has not begun");
        Ok(())
    })?;
    drop(connection);
    service.wait_for("metrics:request_counter", &gets([(200, 1)]))?;
    let leases: i64 = service.redis.call(&["ZCARD", "metrics:leases"])?;
    assert_eq!(leases, 0);
    Ok(())
}

#[test]
fn traps_are_counted_by_their_leases_and_shown_without_an_algorithm() -> Result {
    let service = Service::start_with(|options| {
        plain(options)
            .variable("lease_timeout_ms", "1000")
            .variable("execution_limit_ms", "100")
    })?;
    let exporter = Exporter::start(service.redis.port())?;
    let get = |path: &str, code: u16| -> Result {
        let status = http::get(service.app.address(), path)?.status;
        ensure!(status == code, "{path} responds {status}");
        Ok(())
    };
    let wait_for = |counts| service.wait_for("metrics:request_counter", &counts);
    get("/error", 500)?;
    get("/hello", 200)?;
    wait_for(gets([(200, 1), (500, 1)]))?;
    let targets = [("redis", vec![exporter.address().to_string()])];
    let prometheus = Prometheus::start(&targets, Duration::from_secs(1))?;
    let wait_for_samples = |expression: &str| {
        poll_until(PATIENCE, || {
            let samples = prometheus.query(expression)?;
            ensure!(!samples.is_empty(), "{expression} gives no sample");
            Ok(())
        })
    };
    wait_for_samples("job_scheme:http_requests_total:sum == 1")?;
    // Each is stored before a trap takes its instance along.
    get("/error", 500)?;
    get("/hello", 200)?;
    wait_for(gets([(200, 2), (500, 2)]))?;
    get("/trap", 500)?;
    get("/trap", 500)?;
    wait_for(gets([(200, 2), (500, 4)]))?;

    let text = exporter.scrape()?;
    for line in [
        "functional_scaffold_leases_settled_total 2\n",
        "functional_scaffold_late_results_total 0\n",
    ] {
        assert!(text.contains(line), "no {line} in {text}");
    }
    assert!(!text.contains("decode_errors{"), "{text}");
    // Panels and alerts use these series.
    for expression in [
        "job_scheme:user_requests:rate5m > 0",
        "job_scheme:user_errors_per_user_requests:ratio_rate5m > 0",
        "histogram_quantile(0.99, job_scheme:user_request_duration_seconds_bucket:rate5m) > 0",
        "sum by (method, endpoint, code) (job_scheme:http_requests:rate5m{code=\"500\"}) > 0",
        "ALERTS{alertname=\"FunctionalScaffoldAlgorithmCrashed\", alertstate=\"firing\"}",
    ] {
        wait_for_samples(expression)?;
    }
    let names = prometheus.metric_names()?;
    let of_algorithms = names.iter().find(|name| name.contains("algorithm_"));
    assert_eq!(of_algorithms, None);
    Ok(())
}

#[test]
fn without_what_it_needs_the_app_responds_as_ever() -> Result {
    let redis = functional_scaffold_testkit::redis::RedisServer::start()?;
    let home = repository().canonicalize()?;
    let manifest = std::fs::read_to_string(home.join("tests/plain/spin.toml"))?;
    let manifest = manifest.replace("../..", &home.display().to_string());
    let inherited = "inherit_configuration = [\"allowed_outbound_hosts\", \"variables\"]";
    for (found, replacement, problem) in [
        (
            inherited,
            "inherit_configuration = false",
            "does not allow redis://127.0.0.1:6379",
        ),
        (
            inherited,
            "inherit_configuration = [\"variables\"]",
            "inherit_configuration = [\"allowed_outbound_hosts\", \"variables\"]",
        ),
        (
            "allowed_outbound_hosts = [\"redis://127.0.0.1:{{ redis_port }}\"]",
            "allowed_outbound_hosts = []",
            "The component needs allowed_outbound_hosts = [\"redis://",
        ),
        (
            "metrics_durability = \"{{ metrics_durability }}\"",
            "metrics_durability = \"sure\"",
            "variable metrics_durability: \"sure\" is not batched, exact or strict",
        ),
    ] {
        ensure!(manifest.contains(found), "no {found}");
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("spin.toml");
        std::fs::write(&path, manifest.replace(found, replacement))?;
        let options = AppOptions {
            manifest: path,
            component: None,
            variables: vec![("redis_port", redis.port().to_string())],
            arguments: Vec::new(),
            environment: Vec::new(),
        };
        // Each instance logs it once.
        let app = App::start(&options.lasting())?;
        let mut connection = Connection::open(app.address())?;
        for _ in 0..20 {
            let (seen, _) = connection.send(&Kind::new(0, "GET", "/hello", 200))?;
            assert!(
                seen.0.starts_with("HTTP/1.1 200"),
                "{replacement}: {seen:?}"
            );
            assert_eq!(seen.1, b"hello\n", "{replacement}");
        }
        let lines = app.log("misconfigured")?;
        assert_eq!(lines.len(), 1, "{replacement}: {}", app.output()?);
        let text = lines[0]["problems"][0].as_str().unwrap_or_default();
        assert!(text.contains(problem), "{replacement}: {text}");
        let output = app.output()?;
        for event in [
            "execution_unleased",
            "batch_not_stored",
            "flush_failed",
            "lease_given_up",
        ] {
            assert!(!output.contains(event), "{replacement}: {output}");
        }
    }
    assert!(redis.cells("metrics:request_counter")?.is_empty());
    Ok(())
}

#[test]
fn in_strict_mode_an_uncounted_response_is_a_503() -> Result {
    let mut service =
        Service::start_with(|options| plain(options).variable("metrics_durability", "strict"))?;
    let get = |service: &Service| http::get(service.app.address(), "/hello");
    poll_until(PATIENCE, || {
        let status = get(&service)?.status;
        ensure!(status == 200, "{status}");
        Ok(())
    })?;
    service.redis.kill();
    let response = get(&service)?;
    assert_eq!(response.status, 503);
    assert_eq!(response.header("retry-after"), Some("1"));
    assert_eq!(
        response.header("content-type"),
        Some("application/problem+json")
    );
    let id = response.header("x-request-id").context("no id")?.to_owned();
    let problem: serde_json::Value = serde_json::from_slice(&response.body)?;
    assert_eq!(
        problem["type"],
        "urn:functional-scaffold:problem:metrics-unavailable"
    );
    assert_eq!(
        (&problem["status"], &problem["request_id"]),
        (&503.into(), &id.into())
    );
    service.redis.restart()?;
    poll_until(PATIENCE, || {
        let status = get(&service)?.status;
        ensure!(status == 200, "{status}");
        Ok(())
    })
}

#[test]
fn the_apps_response_leaves_in_one_piece() -> Result {
    for durability in ["batched", "exact"] {
        let service = Service::start_with(|options| {
            plain(options).variable("metrics_durability", durability)
        })?;
        let request = "GET /hello HTTP/1.1\r\nhost: test\r\n\r\n";
        check_one_piece(&service.app, request, b"hello\n").context(durability)?;
    }
    Ok(())
}

#[test]
fn in_the_pull_scheme_the_middleware_serves_the_metrics() -> Result {
    let service = Service::start_with(|options| {
        plain(options).variable("metrics_backend", "pull").lasting()
    })?;
    let app = &service.app;
    for _ in 0..3 {
        assert_eq!(http::get_text(app.address(), "/hello")?, "hello\n");
    }
    let text = http::get_text(app.address(), "/metrics")?;
    check_with_promtool(&text)?;
    let line = format!(
        "http_requests_total{{{}}} 3\n",
        RequestLabels::new("GET", ENDPOINT, 200).to_text()
    );
    assert!(text.contains(&line), "{text}");
    Ok(())
}
