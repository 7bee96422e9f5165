//! Credentials, TLS, and clients that are too slow.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use functional_scaffold_testkit::process::Process;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpSocket,
};

use crate::support::{
    Exporter, PATIENCE, Redis, Response, exporter_command, free_port, instant_query, program,
    start_prometheus, text, wait_for,
};

/// Files in a temporary directory.
struct Files(TempDir);

impl Files {
    fn new(files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        for (name, text) in files {
            std::fs::write(directory.path().join(name), text).expect("written");
        }
        Self(directory)
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    /// Adds a self-signed certificate for 127.0.0.1, and its key.
    fn add_certificate(&self, certificate: &str, key: &str) {
        let mut command = program(&["openssl"], "openssl");
        command
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
            ])
            .args(["-nodes", "-days", "1", "-subj", "/CN=exporter"])
            .args(["-addext", "subjectAltName=IP:127.0.0.1"])
            .args(["-out", &self.path(certificate), "-keyout", &self.path(key)])
            .stderr(Stdio::null());
        let status = command.status();
        assert!(status.expect("it ends").success(), "openssl");
    }
}

fn secrets() -> Files {
    Files::new(&[("tokens", "t0ken\nnext\n"), ("users", "user:s3cret\n")])
}

#[test]
fn metrics_require_credentials() {
    let redis = Redis::start();
    let files = secrets();
    let (tokens, users) = (files.path("tokens"), files.path("users"));
    let options = [
        ("EXPORTER_AUTH_BEARER_FILE", tokens.as_str()),
        ("EXPORTER_AUTH_BASIC_FILE", &users),
        ("EXPORTER_LOG_LEVEL", "trace"),
    ];
    let exporter = Exporter::start_with(redis.port(), &options);
    // user:s3cret
    let basic = ("authorization", "Basic dXNlcjpzM2NyZXQ=");
    let bearer = ("authorization", "Bearer next");
    for (path, with, without) in [
        ("/metrics", 200, 401),
        ("/", 200, 401),
        ("/nothing", 404, 401),
        ("/healthz", 200, 200),
        ("/readyz", 200, 200),
    ] {
        for method in ["GET", "HEAD"] {
            for (headers, status) in [
                (&[][..], without),
                (&[("authorization", "Bearer tok")], without),
                (&[("authorization", "Basic dXNlcjo=")], without),
                (&[basic], with),
                (&[bearer], with),
            ] {
                let response = exporter.request(&format!("{method} {path}"), headers);
                assert_eq!(response.status, status, "{path} {headers:?}");
            }
        }
    }
    let refused = exporter.get("/metrics");
    assert!(
        refused.head.contains("www-authenticate: Bearer\r\n"),
        "{}",
        refused.head
    );
    let challenge = "www-authenticate: Basic realm=\"exporter\"\r\n";
    assert!(refused.head.contains(challenge), "{}", refused.head);
    assert_eq!(text(&refused), "credentials are required\n");
    // Without credentials, the details are left out.
    drop(redis);
    assert_eq!(text(&exporter.get("/readyz")), "redis: connection\n");
    let log = exporter.stop();
    assert!(!log.contains("s3cret") && !log.contains("t0ken") && !log.contains("dXNlcj"));
}

#[test]
fn a_real_prometheus_scrapes_over_tls_with_a_password() {
    let redis = Redis::start();
    let files = secrets();
    files.add_certificate("cert.pem", "key.pem");
    let paths = ["users", "cert.pem", "key.pem"].map(|name| files.path(name));
    let options = [
        ("EXPORTER_AUTH_BASIC_FILE", paths[0].as_str()),
        ("EXPORTER_TLS_CERT_FILE", &paths[1]),
        ("EXPORTER_TLS_KEY_FILE", &paths[2]),
        ("EXPORTER_CLIENT_TIMEOUT_MS", "500"),
    ];
    let exporter = Exporter::start_with(redis.port(), &options);
    assert!(
        exporter.log().contains("serving https://"),
        "{}",
        exporter.log()
    );
    let mut health = exporter_command();
    health.arg("health").envs(options);
    health.env("EXPORTER_LISTEN", exporter.address().to_string());
    assert!(health.status().expect("it ends").success());
    let scrape = |password: &str| {
        let tls = format!("scheme: https\n  tls_config: {{ca_file: '{}'}}", paths[1]);
        let user = format!("basic_auth: {{username: user, password: {password}}}");
        start_prometheus(&[exporter.address()], &format!("{tls}\n  {user}"))
    };
    let prometheus = scrape("s3cret");
    wait_for("scrape", || {
        instant_query(&prometheus, "up").filter(|&up| up > 0.0)
    });
    assert_eq!(
        instant_query(&prometheus, "functional_scaffold_redis_up"),
        Some(1.0)
    );
    drop(prometheus);
    let refused = scrape("other");
    wait_for("scrape", || instant_query(&refused, "up"));
    assert_eq!(instant_query(&refused, "up"), Some(0.0));

    // A client without TLS gets no response, and is disconnected.
    for words in ["GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n", ""] {
        let mut stream = connect(&exporter);
        stream.write_all(words.as_bytes()).expect("sent");
        let bytes = read_to_end(&mut stream);
        assert!(
            !String::from_utf8_lossy(&bytes).contains("HTTP"),
            "{bytes:?}"
        );
    }
}

#[test]
fn invalid_files_are_named_and_not_shown() {
    let files = secrets();
    files.add_certificate("cert.pem", "key.pem");
    files.add_certificate("cert2.pem", "key2.pem");
    let broken = "-----BEGIN PRIVATE KEY-----\ns3cret\n-----END PRIVATE KEY-----\n";
    std::fs::write(files.path("broken.pem"), broken).expect("written");
    for (options, said) in [
        (&["--tls-cert-file", "cert.pem"][..], "--tls-key-file"),
        (&["--tls-key-file", "key.pem"], "--tls-cert-file"),
        (
            &["--tls-cert-file", "none.pem", "--tls-key-file", "key.pem"],
            "none.pem",
        ),
        (
            &["--tls-cert-file", "key.pem", "--tls-key-file", "key.pem"],
            "no certificate in",
        ),
        (
            &["--tls-cert-file", "cert.pem", "--tls-key-file", "cert.pem"],
            "private key",
        ),
        (
            &[
                "--tls-cert-file",
                "cert.pem",
                "--tls-key-file",
                "broken.pem",
            ],
            "broken.pem",
        ),
        (
            &["--tls-cert-file", "cert.pem", "--tls-key-file", "key2.pem"],
            "key2.pem",
        ),
        (&["--auth-basic-file", "tokens"], "user:password"),
        (&["--auth-bearer-file", "none"], "No such file"),
    ] {
        let output = exporter_command()
            .current_dir(files.0.path())
            .args(["--listen", "127.0.0.1:0"])
            .args(options)
            .output()
            .expect("it ends");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{options:?}: {errors}");
        assert!(errors.contains(said), "{options:?}: {errors}");
        assert!(
            !errors.contains("s3cret") && !errors.contains("t0ken"),
            "{errors}"
        );
    }
}

fn connect(exporter: &Exporter) -> TcpStream {
    connect_to(exporter.address())
}

fn connect_to(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
    stream
}

/// Reads until the connection ends, in whatever way.
fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("it was not closed: {error}"),
    }
    bytes
}

const SHORT_TIMEOUT: (&str, &str) = ("EXPORTER_CLIENT_TIMEOUT_MS", "500");

#[test]
fn a_connection_with_an_incomplete_head_is_closed() {
    let redis = Redis::start();
    let exporter = Exporter::start_with(redis.port(), &[SHORT_TIMEOUT]);
    for head in ["", "GET /metrics HTTP/1.1\r\nhost: localhost\r\n"] {
        let began = Instant::now();
        let mut stream = connect(&exporter);
        stream.write_all(head.as_bytes()).expect("sent");
        read_to_end(&mut stream);
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(400), "{took:?}");
        assert!(took < Duration::from_secs(5), "{took:?}");
    }
    // Sending byte by byte does not extend the time.
    let began = Instant::now();
    let mut stream = connect(&exporter);
    while stream.write_all(b"x").is_ok() && began.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(50));
    }
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn a_head_that_is_too_long_is_refused() {
    let redis = Redis::start();
    let exporter = Exporter::start(redis.port());
    let mut stream = connect(&exporter);
    let head = format!(
        "GET /metrics HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n",
        "x".repeat(20_000)
    );
    // The exporter may refuse it before all of it is sent.
    let _ = stream.write_all(head.as_bytes());
    let bytes = read_to_end(&mut stream);
    assert!(bytes.is_empty() || Response::parse(&bytes).expect("a response").status == 431);
    assert_eq!(
        exporter
            .request("GET /metrics", &[("x", &"x".repeat(8000))])
            .status,
        200
    );
}

#[test]
fn a_name_of_public_dns_is_no_host_without_credentials() {
    let redis = Redis::start();
    let allowed = (
        "EXPORTER_ALLOWED_HOSTS",
        "metrics.example.com,other.example",
    );
    let exporter = Exporter::start_with(redis.port(), &[allowed]);
    let status = |address: SocketAddr, path: &str, host: &str| {
        let mut stream = connect_to(address);
        let head = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).expect("sent");
        let response = Response::parse(&read_to_end(&mut stream)).expect("a response");
        let nosniff = response.header("x-content-type-options");
        assert_eq!(nosniff, Some("nosniff"), "{path} {host}");
        response.status
    };
    for path in ["/metrics", "/", "/api/recent", "/assets/page.js"] {
        for (host, expected) in [
            ("127.0.0.1:8001", 200),
            ("[::1]", 200),
            ("localhost:8001", 200),
            ("metrics.example.com", 200),
            ("rebound.example:8001", 421),
            // Only names that the machine itself resolves reach loopback.
            ("exporter", 421),
        ] {
            assert_eq!(
                status(exporter.address(), path, host),
                expected,
                "{path} {host}"
            );
        }
    }
    let address = exporter.address();
    assert_eq!(status(address, "/nothing", "rebound.example"), 421);
    assert_eq!(status(address, "/healthz", "rebound.example"), 200);
    // Listening everywhere, for Prometheus in Compose or Kubernetes.
    let port = free_port();
    let mut command = exporter_command();
    command
        .env("REDIS_PORT", redis.port().to_string())
        .env("EXPORTER_LISTEN", format!("0.0.0.0:{port}"));
    let mut everywhere = Process::start(&mut command).expect("it starts");
    let serving = everywhere.wait_for_output("serving http", PATIENCE);
    serving.expect("it serves");
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    for (host, expected) in [
        ("redis-exporter:8001", 200),
        ("exporter.monitoring.svc.cluster.local:8001", 200),
        ("rebound.example:8001", 421),
    ] {
        assert_eq!(status(address, "/metrics", host), expected, "{host}");
    }
    // With credentials, any name.
    let files = secrets();
    let users = files.path("users");
    let exporter = Exporter::start_with(
        redis.port(),
        &[("EXPORTER_AUTH_BASIC_FILE", users.as_str())],
    );
    let address = exporter.address();
    assert_eq!(status(address, "/metrics", "rebound.example"), 401);
}

#[test]
fn one_client_cannot_take_all_connections() {
    const MOST: usize = 128;
    let redis = Redis::start();
    let exporter = Exporter::start(redis.port());
    let mut streams: Vec<_> = (0..MOST + 1).map(|_| connect(&exporter)).collect();
    // One is closed; not the last, if the system accepts them in another order.
    wait_for("closed connection", || {
        let is_closed = |mut stream: &TcpStream| {
            stream.set_nonblocking(true).expect("a socket");
            stream.read(&mut [0]).is_ok()
        };
        let before = streams.len();
        streams.retain(|stream| !is_closed(stream));
        (streams.len() < before).then_some(())
    });
    assert_eq!(streams.len(), MOST);
    // Another client is served meanwhile.
    assert_eq!(
        health_from("127.0.0.2", exporter.address()),
        b"HTTP/1.1 200"
    );
    // A connection that ends makes room.
    streams.pop();
    wait_for("connection", || {
        let mut stream = connect(&exporter);
        stream.write_all(HEALTH).expect("sent");
        let response = read_to_end(&mut stream);
        response.starts_with(b"HTTP/1.1 200").then_some(())
    });
}

const HEALTH: &[u8] = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";

/// The beginning of the response to a client with this address.
fn health_from(client: &str, address: SocketAddr) -> Vec<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(async {
        let socket = TcpSocket::new_v4().expect("a socket");
        let client = SocketAddr::new(client.parse().expect("an address"), 0);
        socket.bind(client).expect("an address of loopback");
        let mut stream = socket.connect(address).await.expect("it listens");
        stream.write_all(HEALTH).await.expect("sent");
        let mut response = Vec::new();
        stream.read_to_end(&mut response).await.expect("a response");
        response.truncate(12);
        response
    })
}

/// Writes more than the system buffers for a connection.
fn write_much(redis: &Redis) {
    let json = r#"{"type":"counter","key":"k"}"#;
    redis.cli(&["HSET", "metrics:families", "much_total", json]);
    let long = "x".repeat(1000);
    let cells: Vec<_> = (0..30_000)
        .map(|n| ("k", format!("n=\"{n}{long}\""), "1"))
        .collect();
    redis.set_cells(&cells);
}

#[test]
fn a_client_that_does_not_read_is_disconnected_and_releases_its_permit() {
    let redis = Redis::start();
    write_much(&redis);
    let one = ("EXPORTER_MAX_SCRAPES", "1");
    let slow = ("EXPORTER_CLIENT_TIMEOUT_MS", "1500");
    let exporter = Exporter::start_with(redis.port(), &[one, slow]);
    let scrape = || exporter.get("/metrics").status;
    for reads in [false, true] {
        let mut stream = wait_for("permit", || begin_scrape(&exporter));
        assert_eq!(scrape(), 503);
        let began = Instant::now();
        let mut taken = 0;
        wait_for("permit", || {
            if reads {
                // Slowly, so that every write makes progress.
                let mut some = [0; 50_000];
                taken += stream.read(&mut some).unwrap_or(0);
            }
            (scrape() == 200).then_some(())
        });
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "{:?}",
            began.elapsed()
        );
        let rest = read_to_end(&mut stream).len();
        assert!(taken + rest < 30_000_000, "{taken} and {rest} came through");
    }
    let _holding = wait_for("permit", || begin_scrape(&exporter));
    let refused = exporter.get("/metrics");
    assert_eq!(refused.status, 503);
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(exporter.get("/healthz").status, 200);
}

/// Starts a scrape, and reads no more than its status. None if it is refused.
fn begin_scrape(exporter: &Exporter) -> Option<TcpStream> {
    let mut stream = connect(exporter);
    let request = b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(request).expect("sent");
    let mut status = *b"HTTP/1.1 xxx";
    stream.read_exact(&mut status).expect("an answer");
    (status == *b"HTTP/1.1 200").then_some(stream)
}
