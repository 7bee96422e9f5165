//! Options, start and stop.

use std::{io::Write as _, net::TcpStream, time::Instant};

use functional_scaffold_testkit::process::Signal;

use crate::support::{Exporter, PATIENCE, Redis, exporter_command, free_port, wait_for};

#[test]
fn a_signal_stops_it_with_success() {
    let redis = Redis::start();
    for (signal, name) in [(Signal::TERM, "SIGTERM"), (Signal::INT, "SIGINT")] {
        let mut exporter = Exporter::start(redis.port());
        exporter.metrics();
        // Neither an idle connection delays it, ...
        let _idle = TcpStream::connect(exporter.address()).expect("it listens");
        // ... nor an incomplete request, for long.
        let mut slow = TcpStream::connect(exporter.address()).expect("it listens");
        slow.write_all(b"GET /metrics HTTP/1.1\r\n").expect("sent");
        let began = Instant::now();
        exporter.signal(signal);
        assert_eq!(exporter.wait().code(), Some(0), "{name}");
        assert!(began.elapsed() < PATIENCE / 2, "{:?}", began.elapsed());
        wait_for("reason in the log", || {
            let reason = format!("stopping on {name}");
            exporter.log().contains(&reason).then_some(())
        });
    }
}

#[test]
fn a_signal_stops_it_while_redis_does_not_reply() {
    let redis = Redis::start();
    let mut exporter = Exporter::start(redis.port());
    exporter.metrics();
    redis.suspend().expect("it runs");
    let mut waiting = TcpStream::connect(exporter.address()).expect("it listens");
    waiting
        .write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .expect("sent");
    let began = Instant::now();
    exporter.signal(Signal::TERM);
    assert_eq!(exporter.wait().code(), Some(0));
    assert!(began.elapsed() < PATIENCE / 2, "{:?}", began.elapsed());
}

#[test]
fn health_checks_the_exporter_at_the_same_address() {
    let health = |listen: &str| {
        let mut command = exporter_command();
        let output = command
            .arg("health")
            .env("EXPORTER_LISTEN", listen)
            .output();
        let output = output.expect("it ends");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), error)
    };
    // It does not depend on Redis.
    let exporter = Exporter::start(free_port());
    let address = exporter.address().to_string();
    assert_eq!(health(&address), (Some(0), String::new()));
    let any = format!("0.0.0.0:{}", exporter.address().port());
    assert_eq!(health(&any), (Some(0), String::new()));
    exporter.signal(Signal::STOP);
    let (code, error) = health(&address);
    assert!(code == Some(1) && error.contains("within 2.5s"), "{error}");
    exporter.signal(Signal::CONT);
    drop(exporter);
    let (code, error) = health(&address);
    assert!(code == Some(1) && error.contains(&address), "{error}");
}

#[test]
fn a_port_in_use_is_named() {
    let exporter = Exporter::start(free_port());
    let address = exporter.address().to_string();
    let output = exporter_command()
        .args(["--listen", &address])
        .output()
        .expect("it ends");
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        error.contains(&address) && error.contains("Address already in use"),
        "{error}"
    );
}

#[test]
fn help_names_every_variable_and_shows_no_secret() {
    let output = exporter_command()
        .env("REDIS_PASSWORD", "s3cret")
        .env("REDIS_URL", "redis://:s3cret@h")
        .arg("--help")
        .output()
        .expect("it ends");
    let help = String::from_utf8_lossy(&output.stdout);
    for variable in [
        "REDIS_HOST",
        "REDIS_PORT",
        "REDIS_METRICS_DB",
        "REDIS_USERNAME",
        "REDIS_PASSWORD",
        "REDIS_PASSWORD_FILE",
        "REDIS_URL",
        "REDIS_TIMEOUT_MS",
        "METRICS_PREFIX",
        "EXPORTER_LISTEN",
        "EXPORTER_SCRAPE_TIMEOUT_MS",
        "EXPORTER_SCAN_COUNT",
        "EXPORTER_SETTLE_INTERVAL_MS",
        "EXPORTER_AUTH_BEARER_FILE",
        "EXPORTER_AUTH_BASIC_FILE",
        "EXPORTER_TLS_CERT_FILE",
        "EXPORTER_TLS_KEY_FILE",
        "EXPORTER_MAX_SCRAPES",
        "EXPORTER_CLIENT_TIMEOUT_MS",
        "EXPORTER_LOG_LEVEL",
        "EXPORTER_LOG_FORMAT",
    ] {
        assert!(
            help.contains(&format!("[env: {variable}")),
            "{variable}\n{help}"
        );
    }
    assert!(!help.contains("s3cret"), "{help}");
}

#[test]
fn flags_take_precedence_over_variables() {
    let redis = Redis::start();
    let json = r#"{"type":"gauge","key":"m2:g"}"#;
    let select = ["-n", "2"];
    redis.cli(&[&select[..], &["HSET", "m2:families", "g", json]].concat());
    redis.cli(&[&select[..], &["HSET", "m2:g", "", "6"]].concat());
    let options = [
        ("REDIS_METRICS_DB", "2"),
        ("METRICS_PREFIX", "m2:"),
        ("REDIS_PASSWORD", ""),
        ("REDIS_URL", ""),
        ("EXPORTER_LOG_FORMAT", "json"),
    ];
    let exporter = Exporter::start_with(redis.port(), &options);
    assert!(exporter.metrics().contains("\ng 6\n"));
    assert!(
        exporter.log().starts_with("{\"timestamp\":"),
        "{}",
        exporter.log()
    );

    let output = exporter_command()
        .env("EXPORTER_LISTEN", "127.0.0.1:0")
        .args(["--listen", "nowhere"])
        .output()
        .expect("it ends");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("cannot listen on nowhere"), "{error}");
}
