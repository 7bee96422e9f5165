//! The command `push`, with a real Pushgateway.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    process::{Command, Output, Stdio},
    sync::mpsc::{self, Receiver},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use functional_scaffold_protocol::{
    batch::{Batch, BatchId, SentBatch},
    calls::{DEFAULT_PREFIX, Script, apply_call},
    catalog::{Catalog, FinishedRequest, RequestLabels},
    custom::CustomWrites,
};

use functional_scaffold_testkit::{
    process::{Process, Signal},
    pushgateway::Pushgateway,
};

use crate::support::{
    Exporter, PATIENCE, Redis, exporter_command, free_port, instant_query, sample,
    start_prometheus, wait_for,
};

fn push_command(redis_port: u16, to: &str, options: &[&str]) -> Command {
    let mut command = exporter_command();
    command
        .env("REDIS_PORT", redis_port.to_string())
        .args(["push", "--to", to])
        .args(options)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn push_once(redis: &Redis, to: &str, options: &[&str]) -> Output {
    let mut command = push_command(redis.port(), to, &[&["--once"], options].concat());
    command.output().expect("it runs")
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A running relay, stopped on drop.
struct Relay(Process);

impl Relay {
    fn start(redis: &Redis, to: &str, options: &[&str]) -> Self {
        let mut command = push_command(redis.port(), to, options);
        Self(Process::start(&mut command).expect("it starts"))
    }
}

/// Counts requests in batches, as instances do.
fn count_requests(redis: &Redis, requests: u64) {
    let catalog = Catalog::new(DEFAULT_PREFIX);
    for (sequence, some) in (0..requests).collect::<Vec<_>>().chunks(50).enumerate() {
        let mut increments = Batch::default();
        for n in some {
            let request = FinishedRequest {
                labels: RequestLabels::new("POST", "/invoke", if n % 10 == 0 { 422 } else { 200 }),
                duration_nanos: n * 1_000_000,
            };
            catalog.record_request(&mut increments, &request);
        }
        let id = BatchId {
            nonce: sequence as u64,
            sequence: 1,
        };
        let batch = SentBatch {
            id,
            frozen_ms: Some(redis.lease_time()),
            increments,
            leased: Vec::new(),
            custom: CustomWrites::default(),
        };
        redis.call_script(&Script::APPLY, &apply_call(DEFAULT_PREFIX, &batch));
    }
}

/// An exporter that reads later finds nothing that steps back, so the alert needs the
/// relay's count. A series shows an increase only after a first value.
#[test]
fn a_regression_that_a_relay_sees_first_is_an_increase_in_its_group() {
    const REGRESSIONS: &str = "functional_scaffold_regressions_total";
    let redis = Redis::start();
    redis.register("a");
    count_requests(&redis, 100);
    let pushgateway = Pushgateway::start().expect("Pushgateway starts");
    let folder = tempfile::tempdir().expect("a directory");
    let start = |interval| {
        let mut command = push_command(redis.port(), &pushgateway.url(), &["--interval", interval]);
        command.env("EXPORTER_STATE_FILE", folder.path().join("state"));
        Relay(Process::start(&mut command).expect("it starts"))
    };
    let pushed = || {
        let text = pushgateway.scrape().expect("a scrape");
        let mut lines = text.lines().filter(|line| line.starts_with(REGRESSIONS));
        let value = lines.next()?.rsplit_once(' ')?.1.to_owned();
        assert_eq!(lines.next(), None);
        Some(value)
    };
    let wait_for_regressions = |count: &str| {
        wait_for(count, || (pushed()? == count).then_some(()));
    };
    let decrease = || {
        let cells = redis.cells("metrics:request_counter").expect("cells");
        let (field, _) = cells.iter().next().expect("a cell");
        redis.cli(&["HINCRBY", "metrics:request_counter", field, "-5"]);
    };
    let mut relay = start("200ms");
    wait_for_regressions("0");
    decrease();
    wait_for_regressions("1");
    let exporter = Exporter::start(redis.port());
    assert_eq!(sample(&exporter.metrics(), REGRESSIONS), Some(0.0));

    // Another relay finds one at its first read.
    relay.0.signal(Signal::TERM).expect("it runs");
    relay.0.wait(PATIENCE).expect("it ends");
    assert_eq!(pushed(), None);
    drop(exporter);
    decrease();
    let mut relay = start("1h");
    relay
        .0
        .wait_for_output("Redis lost writes", PATIENCE)
        .expect("it finds it");
    let first = wait_for("a push", pushed);
    assert_eq!(first, "0");
}

#[test]
fn prometheus_sees_every_count_through_a_pushgateway() {
    let redis = Redis::start();
    redis.register("a");
    let pushgateway = Pushgateway::start().expect("Pushgateway starts");
    let prometheus = start_prometheus(&[pushgateway.address()], "scheme: http");
    let _relay = Relay::start(&redis, &pushgateway.url(), &["--interval", "200ms"]);
    count_requests(&redis, 1000);
    wait_for("1,000 requests in Prometheus", || {
        (instant_query(&prometheus, "sum(http_requests_total)") == Some(1000.0)).then_some(())
    });
    for (query, value) in [
        ("sum(http_requests_total{status='rejected'})", 100.0),
        ("http_request_duration_seconds_count", 1000.0),
        ("http_request_duration_seconds_bucket{le='+Inf'}", 1000.0),
        ("http_request_duration_seconds_sum", 499.5),
        (
            "count(count by (job) (http_requests_total{job='functional_scaffold'}))",
            1.0,
        ),
        ("push_failure_time_seconds", 0.0),
    ] {
        assert_eq!(instant_query(&prometheus, query), Some(value), "{query}");
    }
}

/// A Redis whose counter `jobs_total` is 10.
fn redis_with_ten_jobs() -> Redis {
    let redis = Redis::start();
    let json = r#"{"type":"counter","key":"metrics:jobs"}"#;
    redis.cli(&["HSET", "metrics:families", "jobs_total", json]);
    redis.cli(&["HSET", "metrics:jobs", "", "10"]);
    redis
}

/// The lines of the counter of jobs in a Pushgateway.
fn jobs(pushgateway: &Pushgateway) -> Vec<String> {
    let text = pushgateway.scrape().expect("a scrape");
    let lines = text.lines().filter(|line| line.starts_with("jobs_total{"));
    lines.map(str::to_owned).collect()
}

#[test]
fn two_relays_push_a_group_each_and_delete_it_when_they_stop() {
    let redis = redis_with_ten_jobs();
    let pushgateway = Pushgateway::start().expect("Pushgateway starts");
    let start = || Relay::start(&redis, &pushgateway.url(), &["--interval", "100ms"]);
    let (mut one, other) = (start(), start());
    let lines = wait_for("two groups", || {
        let lines = jobs(&pushgateway);
        (lines.len() == 2).then_some(lines)
    });
    for line in &lines {
        assert!(line.starts_with("jobs_total{instance=\"relay-"), "{line}");
        // The recording rules take the maximum over the instances of this scheme.
        assert!(
            line.ends_with("job=\"functional_scaffold\",scheme=\"redis\"} 10"),
            "{line}"
        );
    }
    // A suspended relay goes back to no older count: its group is its own.
    one.0.signal(Signal::STOP).expect("it runs");
    redis.cli(&["HINCRBY", "metrics:jobs", "", "5"]);
    wait_for("a newer count", || {
        let lines = jobs(&pushgateway);
        assert_eq!(lines.len(), 2);
        lines
            .iter()
            .any(|line| line.ends_with("} 15"))
            .then_some(())
    });
    one.0.signal(Signal::CONT).expect("it runs");
    wait_for("both newer counts", || {
        let lines = jobs(&pushgateway);
        lines
            .iter()
            .all(|line| line.ends_with("} 15"))
            .then_some(())
    });
    one.0.signal(Signal::TERM).expect("it runs");
    assert!(one.0.wait(PATIENCE).expect("it ends").success());
    assert_eq!(jobs(&pushgateway).len(), 1);
    drop(other);
}

#[test]
fn a_group_is_replaced_and_its_counters_never_go_backwards() {
    let redis = Redis::start();
    let json = r#"{"type":"counter","key":"metrics:jobs"}"#;
    redis.cli(&["HSET", "metrics:families", "jobs_total", json]);
    redis.cli(&["HSET", "metrics:jobs", "k=\"a\"", "10", "k=\"b\"", "5"]);
    let pushgateway = Pushgateway::start().expect("Pushgateway starts");
    let options = [
        "--interval",
        "100ms",
        "--job",
        "a/b",
        "--grouping",
        "instance=",
    ];
    let _relay = Relay::start(&redis, &pushgateway.url(), &options);
    let served = |name: &str| sample(&pushgateway.scrape().expect("a scrape"), name);
    let a = "jobs_total{instance=\"\",job=\"a/b\",k=\"a\"}";
    let b = "jobs_total{instance=\"\",job=\"a/b\",k=\"b\"}";
    wait_for("first push", || (served(a) == Some(10.0)).then_some(()));
    // Redis loses writes, but not the Pushgateway.
    redis.cli(&["HSET", "metrics:jobs", "k=\"a\"", "4"]);
    redis.cli(&["HINCRBY", "metrics:jobs", "k=\"b\"", "1"]);
    wait_for("a push after the loss", || {
        assert!(served(a) >= Some(10.0));
        (served(b) == Some(6.0)).then_some(())
    });
    assert_eq!(served(a), Some(10.0));
    // An exporter of the same store serves the same.
    let exporter = Exporter::start(redis.port());
    let text = exporter.metrics();
    assert_eq!(sample(&text, "jobs_total{k=\"a\"}"), Some(10.0));
    let remove = exporter_command()
        .env("REDIS_PORT", redis.port().to_string())
        .args(["series", "remove", "--yes", "jobs_total{k=\"b\"}"])
        .output();
    assert!(remove.expect("it runs").status.success());
    wait_for("a group without it", || served(b).is_none().then_some(()));
    assert_eq!(served(a), Some(10.0));
}

#[test]
fn a_push_restores_the_marks_of_the_previous_one_from_its_file() {
    let redis = Redis::start();
    let json = r#"{"type":"counter","key":"metrics:jobs"}"#;
    redis.cli(&["HSET", "metrics:families", "jobs_total", json]);
    let pushgateway = Pushgateway::start().expect("Pushgateway starts");
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("state.json");
    for stored in ["10", "4"] {
        redis.cli(&["HSET", "metrics:jobs", "", stored]);
        let mut command = push_command(redis.port(), &pushgateway.url(), &["--once"]);
        let output = command.env("EXPORTER_STATE_FILE", &file).output();
        let output = output.expect("it runs");
        assert!(output.status.success(), "{}", errors(&output));
        let text = pushgateway.scrape().expect("a scrape");
        let name = "jobs_total{instance=\"\",job=\"functional_scaffold\"}";
        assert_eq!(sample(&text, name), Some(10.0), "{text}");
    }
}

#[test]
fn a_relay_settles_leases() {
    let redis = Redis::start();
    redis.register("a");
    let pushgateway = Pushgateway::start().expect("Pushgateway starts");
    let _relay = Relay::start(&redis, &pushgateway.url(), &["--interval", "1h"]);
    redis.lease("1", "a", 1);
    let crashed = "algorithm=\"a\",status=\"crashed\"";
    wait_for("settled lease", || {
        let count = redis.cli(&["HGET", "metrics:algorithm_counter", crashed]);
        (count == "1\n").then_some(())
    });
}

/// A server that gives one of these responses to each request, in order; an empty one
/// closes the connection. Returns the requests.
fn responding(responses: Vec<&'static str>) -> (SocketAddr, JoinHandle<Vec<String>>) {
    responding_after(responses, |_| {})
}

/// Like [`responding`], and calls a function before each response.
fn responding_after(
    responses: Vec<&'static str>,
    mut before: impl FnMut(usize) + Send + 'static,
) -> (SocketAddr, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("its address");
    listener.set_nonblocking(true).expect("a socket");
    let serving = thread::spawn(move || {
        let mut requests = Vec::new();
        for (number, response) in responses.into_iter().enumerate() {
            let (mut stream, _) = wait_for("client", || listener.accept().ok());
            stream.set_nonblocking(false).expect("a socket");
            requests.push(request_of(&mut stream));
            before(number);
            if response.is_empty() {
                continue;
            }
            let head = "connection: close\r\ncontent-length: 0\r\n\r\n";
            let _ = stream.write_all(format!("HTTP/1.1 {response}\r\n{head}").as_bytes());
        }
        requests
    });
    (address, serving)
}

/// Reads one request.
fn request_of(stream: &mut TcpStream) -> String {
    let mut request = Vec::new();
    let mut some = [0; 4096];
    let mut expected = usize::MAX;
    while request.len() < expected {
        let read = stream.read(&mut some).expect("a request");
        assert!(read > 0, "a request that ends");
        request.extend_from_slice(&some[..read]);
        expected = length_of(&request).unwrap_or(usize::MAX);
    }
    String::from_utf8_lossy(&request).into_owned()
}

/// The length of a request with its body, once its head is complete.
fn length_of(request: &[u8]) -> Option<usize> {
    let head = request.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&request[..head]);
    let body = text
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let body: usize = body.map_or(0, |length| length.parse().expect("a number"));
    Some(head + body)
}

#[test]
fn a_retry_pushes_what_is_stored_by_then() {
    let redis = redis_with_ten_jobs();
    let mut connection = redis.connect().expect("a connection");
    let count = move |number: usize| {
        let mut increment = redis::cmd("HINCRBY");
        increment.arg("metrics:jobs").arg("").arg(number + 1);
        increment.exec(&mut connection).expect("counted");
    };
    let (address, serving) = responding_after(vec!["503 x", "503 x", "202 x"], count);
    let pushed = push_once(&redis, &format!("http://{address}"), &[]);
    assert_eq!(pushed.status.code(), Some(0), "{}", errors(&pushed));
    let bodies = serving.join().expect("no panic");
    for (request, count) in bodies.iter().zip([10, 11, 13]) {
        assert!(
            request.ends_with(&format!("jobs_total {count}\n")),
            "{request}"
        );
    }
}

#[test]
fn a_push_that_may_arrive_late_cannot_replace_newer_counts() {
    let redis = Redis::start();
    let (address, serving) = responding(vec!["", "504 x", "503 x", "202 x", "202 x", "202 x"]);
    let relay = Relay::start(&redis, &format!("http://{address}"), &["--interval", "1h"]);
    let requests = serving.join().expect("no panic");
    drop(relay);
    let line = |request: &str| request.split(" HTTP").next().map(str::to_owned);
    let lines: Vec<_> = requests
        .iter()
        .filter_map(|request| line(request))
        .collect();
    let group = |put: &str| put.strip_prefix("PUT ").map(str::to_owned).expect("a PUT");
    let groups: Vec<_> = lines[..4].iter().map(|line| group(line)).collect();
    // The first two may arrive late. The third was refused.
    assert!(
        groups[0] != groups[1] && groups[1] != groups[2],
        "{groups:?}"
    );
    assert_eq!(groups[2], groups[3]);
    // Only then are the old groups deleted.
    let deleted = [&groups[0], &groups[1]].map(|group| format!("DELETE {group}"));
    assert_eq!(lines[4..], deleted);
}

/// In front of a Pushgateway. Keeps the first request to itself, as a proxy that hangs
/// does, until its client has given up.
struct HoldingProxy {
    address: SocketAddr,
    held: Receiver<String>,
}

impl HoldingProxy {
    fn start(pushgateway: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("its address");
        let (holding, held) = mpsc::channel();
        thread::spawn(move || {
            let (mut first, _) = listener.accept().expect("a client");
            let request = request_of(&mut first);
            drop(first);
            holding.send(request).expect("the test waits for it");
            for client in listener.incoming() {
                let client = client.expect("a client");
                let server = TcpStream::connect(pushgateway).expect("a connection");
                let copy = |mut from: TcpStream, mut to: TcpStream| {
                    // An error ends the connection, as its end does.
                    thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Write);
                    })
                };
                copy(
                    client.try_clone().expect("a socket"),
                    server.try_clone().expect("a socket"),
                );
                copy(server, client);
            }
        });
        Self { address, held }
    }
}

#[test]
fn a_group_that_a_late_push_brings_back_is_deleted_again() {
    let redis = redis_with_ten_jobs();
    let pushgateway = Pushgateway::start().expect("Pushgateway starts");
    let proxy = HoldingProxy::start(pushgateway.address());
    let to = format!("http://{}", proxy.address);
    let relay = Relay::start(&redis, &to, &["--interval", "100ms"]);
    let held = proxy.held.recv_timeout(PATIENCE).expect("a push");
    let line = held.split_once(" HTTP").expect("a request").0;
    let path = line.strip_prefix("PUT ").expect("a push").to_owned();
    let name = path.rsplit_once("/instance/").expect("its group").1;
    let name = name.split('/').next().expect("its name").to_owned();
    // Several pushes to another group, so that the first one is deleted.
    for count in ["11", "12", "13"] {
        redis.cli(&["HSET", "metrics:jobs", "", count]);
        wait_for("a push", || {
            let lines = jobs(&pushgateway);
            (lines.len() == 1 && lines[0].ends_with(&format!(" {count}"))).then_some(())
        });
    }
    let groups = || {
        jobs(&pushgateway)
            .into_iter()
            .filter(|line| line.contains(&name))
            .count()
    };
    for _late in 0..2 {
        let mut late = TcpStream::connect(pushgateway.address()).expect("a connection");
        late.write_all(held.as_bytes()).expect("it is sent");
        let mut response = [0; 12];
        late.read_exact(&mut response).expect("a response");
        assert!(response.starts_with(b"HTTP/1.1 20"), "{response:?}");
        wait_for("the group to be deleted", || (groups() == 0).then_some(()));
    }
    drop(relay);
}

#[test]
fn transient_errors_are_retried_and_others_are_not() {
    let redis = Redis::start();
    let (address, serving) = responding(vec!["503 x", "500 x", "202 x"]);
    let to = format!("http://us%40er:s3cret@{address}/prefix/");
    let pushed = push_once(&redis, &to, &["--job", "j", "--grouping", "a=x y"]);
    assert_eq!(pushed.status.code(), Some(0), "{}", errors(&pushed));
    let requests = serving.join().expect("no panic");
    for request in requests {
        let path = "PUT /prefix/metrics/job/j/a@base64/eCB5 HTTP/1.1\r\n";
        assert!(request.starts_with(path), "{request}");
        // us@er:s3cret
        let credentials = "authorization: Basic dXNAZXI6czNjcmV0\r\n";
        assert!(request.contains(credentials), "{request}");
        assert!(request.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"));
        assert!(!request.contains("us%40er"), "{request}");
    }

    let (address, serving) = responding(vec!["401 x"]);
    let to = format!("http://user:s3cret@{address}");
    let refused = push_once(&redis, &to, &[]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        errors(&refused).contains("it responded 401"),
        "{}",
        errors(&refused)
    );
    serving.join().expect("no panic");
}

#[test]
fn an_impossible_push_fails_in_time_without_showing_a_secret() {
    let redis = Redis::start();
    let nobody = free_port();
    let url = format!("http://user:s3cret@127.0.0.1:{nobody}");
    for (to, options, reason) in [
        (
            url.as_str(),
            &["--interval", "1s"][..],
            "Connection refused",
        ),
        ("ftp://user:s3cret@h", &[], "http://"),
        ("s3cret", &[], "relative URL"),
        (
            url.as_str(),
            &["--redis-port", &nobody.to_string()],
            "cannot read Redis",
        ),
    ] {
        let began = Instant::now();
        let failed = push_once(&redis, to, options);
        let errors = errors(&failed);
        assert_eq!(failed.status.code(), Some(1), "{errors}");
        assert!(errors.contains(reason), "{errors}");
        assert!(!errors.contains("s3cret"), "{errors}");
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "{:?}",
            began.elapsed()
        );
    }
}

#[test]
fn the_error_shows_what_the_pushgateway_responds() {
    let redis = Redis::start();
    let pushgateway = Pushgateway::start().expect("Pushgateway starts");
    let to = pushgateway.url();
    let push = |kind: &str, job: &str| {
        let json = format!(r#"{{"type":"{kind}","key":"k"}}"#);
        redis.cli(&["HSET", "metrics:families", "jobs_total", &json]);
        redis.cli(&["HSET", "k", "", "1"]);
        push_once(&redis, &to, &["--job", job])
    };
    assert!(push("counter", "a").status.success());
    let refused = push("gauge", "b");
    let errors = errors(&refused);
    assert_eq!(refused.status.code(), Some(1), "{errors}");
    let said = "it responded 400: pushed metrics are invalid or inconsistent";
    assert!(errors.contains(said), "{errors}");
}
