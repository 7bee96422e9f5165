//! Who may ask, over what, and what becomes of those who take too long.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{
    client::{answer, ask},
    prometheus::Server,
    support::{Exporter, PATIENCE, Redis, exporter_command, needed, wait_for},
};

/// Files in a directory of their own.
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

    /// A certificate for 127.0.0.1 that signs itself, and its key.
    fn add_certificate(&self, certificate: &str, key: &str) {
        let mut command = Command::new("openssl");
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
        let status = needed("openssl", "openssl", &mut command).wait();
        assert!(status.expect("it ends").success(), "openssl");
    }
}

fn secrets() -> Files {
    Files::new(&[("tokens", "t0ken\nnext\n"), ("users", "user:s3cret\n")])
}

#[test]
fn only_those_with_credentials_see_the_metrics() {
    let redis = Redis::start();
    let files = secrets();
    let (tokens, users) = (files.path("tokens"), files.path("users"));
    let options = [
        ("EXPORTER_AUTH_BEARER_FILE", tokens.as_str()),
        ("EXPORTER_AUTH_BASIC_FILE", &users),
        ("EXPORTER_LOG_LEVEL", "trace"),
    ];
    let exporter = Exporter::start_with(redis.port, &options);
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
            let ask = |headers: &[(&str, &str)]| {
                ask(exporter.address, &format!("{method} {path}"), headers)
            };
            assert_eq!(ask(&[]).status, without, "{path}");
            assert_eq!(
                ask(&[("authorization", "Bearer tok")]).status,
                without,
                "{path}"
            );
            assert_eq!(
                ask(&[("authorization", "Basic dXNlcjo=")]).status,
                without,
                "{path}"
            );
            assert_eq!(ask(&[basic]).status, with, "{path}");
            assert_eq!(ask(&[bearer]).status, with, "{path}");
        }
    }
    let refused = ask(exporter.address, "GET /metrics", &[]);
    assert!(
        refused.head.contains("www-authenticate: bearer\r\n"),
        "{}",
        refused.head
    );
    let challenge = "www-authenticate: basic realm=\"exporter\"\r\n";
    assert!(refused.head.contains(challenge), "{}", refused.head);
    assert_eq!(refused.text(), "credentials are required\n");
    // Who needs no credentials learns no more than that it is down.
    drop(redis);
    assert_eq!(exporter.get("/readyz").body, "redis: connection\n");
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
    let exporter = Exporter::start_with(redis.port, &options);
    assert!(
        exporter.log().contains("serving https://"),
        "{}",
        exporter.log()
    );
    let mut health = exporter_command();
    health.arg("health").envs(options);
    health.env("EXPORTER_LISTEN", exporter.address.to_string());
    assert!(health.status().expect("it ends").success());
    let scrape = |password: &str| {
        let tls = format!("scheme: https\n  tls_config: {{ca_file: '{}'}}", paths[1]);
        let user = format!("basic_auth: {{username: user, password: {password}}}");
        Server::prometheus_with(&[exporter.address], &format!("{tls}\n  {user}"))
    };
    let prometheus = scrape("s3cret");
    wait_for("scrape", || prometheus.query("up").filter(|&up| up > 0.0));
    assert_eq!(prometheus.query("functional_scaffold_redis_up"), Some(1.0));
    drop(prometheus);
    let refused = scrape("other");
    wait_for("scrape", || refused.query("up"));
    assert_eq!(refused.query("up"), Some(0.0));

    // Whoever does not speak TLS is not answered, and not waited for.
    for words in ["GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n", ""] {
        let mut stream = connect(&exporter);
        stream.write_all(words.as_bytes()).expect("sent");
        let heard = hear_out(&mut stream);
        assert!(
            !String::from_utf8_lossy(&heard).contains("HTTP"),
            "{heard:?}"
        );
    }
}

#[test]
fn files_that_are_no_use_are_named_and_not_shown() {
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
    let stream = TcpStream::connect(exporter.address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
    stream
}

/// What comes until the connection ends, however it does.
fn hear_out(stream: &mut TcpStream) -> Vec<u8> {
    let mut heard = Vec::new();
    match stream.read_to_end(&mut heard) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("it was not cut off: {error}"),
    }
    heard
}

const HURRIED: (&str, &str) = ("EXPORTER_CLIENT_TIMEOUT_MS", "500");

#[test]
fn a_head_that_does_not_end_is_cut_off() {
    let redis = Redis::start();
    let exporter = Exporter::start_with(redis.port, &[HURRIED]);
    for head in ["", "GET /metrics HTTP/1.1\r\nhost: x\r\n"] {
        let began = Instant::now();
        let mut stream = connect(&exporter);
        stream.write_all(head.as_bytes()).expect("sent");
        hear_out(&mut stream);
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(400), "{took:?}");
        assert!(took < Duration::from_secs(5), "{took:?}");
    }
    // A drop at a time makes it no longer.
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
    let exporter = Exporter::start(redis.port);
    let mut stream = connect(&exporter);
    let head = format!(
        "GET /metrics HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n",
        "x".repeat(20_000)
    );
    // It may be refused before all of it is sent.
    let _ = stream.write_all(head.as_bytes());
    let heard = hear_out(&mut stream);
    assert!(heard.is_empty() || answer(&heard).status == 431);
    assert_eq!(
        ask(
            exporter.address,
            "GET /metrics",
            &[("x", &"x".repeat(8000))]
        )
        .status,
        200
    );
}

/// More than the system's buffers of a connection hold.
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
fn a_client_that_does_not_read_is_cut_off_and_gives_its_place_up() {
    let redis = Redis::start();
    write_much(&redis);
    let one = ("EXPORTER_MAX_SCRAPES", "1");
    let slow = ("EXPORTER_CLIENT_TIMEOUT_MS", "1500");
    let exporter = Exporter::start_with(redis.port, &[one, slow]);
    let scrape = || exporter.get("/metrics").status;
    for reads in [false, true] {
        let mut stream = wait_for("place", || begin_scrape(&exporter));
        assert_eq!(scrape(), 503);
        let began = Instant::now();
        let mut taken = 0;
        wait_for("place", || {
            if reads {
                // A little at a time, so that some of it always goes on.
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
        let rest = hear_out(&mut stream).len();
        assert!(taken + rest < 30_000_000, "{taken} and {rest} came through");
    }
    let _holding = wait_for("place", || begin_scrape(&exporter));
    let refused = ask(exporter.address, "GET /metrics", &[]);
    assert_eq!(refused.status, 503);
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(exporter.get("/healthz").status, 200);
}

/// A scrape of which no more is read than that it was taken.
fn begin_scrape(exporter: &Exporter) -> Option<TcpStream> {
    let mut stream = connect(exporter);
    let request = b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stream.write_all(request).expect("sent");
    let mut status = *b"HTTP/1.1 xxx";
    stream.read_exact(&mut status).expect("an answer");
    (status == *b"HTTP/1.1 200").then_some(stream)
}
