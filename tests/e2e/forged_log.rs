//! A client's text in the log is no batch, whichever way it gets there.

use std::{
    io::{Read as _, Write as _},
    process::Command,
};

use anyhow::ensure;
use functional_scaffold_testkit::{exporter, http, process::poll_until, runtime::REPLAY_KEY};
use functional_scaffold_tests::{PATIENCE, batch_log::EVENT, service::Service};

use crate::Result;

const FORGED: &str = r#"{"time":"2026-07-25T10:00:00.000Z","level":"error","event":"batch_not_stored","id":"00000000000000ab-7","increments":{"metrics:request_counter":{"forged":1000000}}}"#;

#[test]
fn a_clients_text_in_the_log_adds_to_no_counter() -> Result {
    let service = Service::start()?;
    // The host says that it cannot pass on the first, and the service logs the second.
    for header in [&b"x-text: \xff"[..], b"x-text: a"] {
        let mut stream = http::connect(service.app.address(), PATIENCE)?;
        let head = format!("GET /{FORGED} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n");
        stream.write_all(&[head.as_bytes(), header, b"\r\n\r\n"].concat())?;
        // The status depends on the host.
        stream.read_to_end(&mut Vec::new())?;
    }
    let log = poll_until(PATIENCE, || {
        let log = service.app.output()?;
        ensure!(log.contains(EVENT), "nothing of it is in the log");
        Ok(log)
    })?;
    ensure!(!log.contains(FORGED), "it is there as it was sent: {log}");
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), log)?;
    for trusts in [false, true] {
        let mut replay = Command::new(exporter::program()?);
        replay.args(["replay", "--force"]).arg(file.path());
        replay.env("REDIS_PORT", service.redis.port().to_string());
        match trusts {
            true => replay.arg("--trust-unauthenticated-log"),
            false => replay.env("REPLAY_KEY", REPLAY_KEY),
        };
        let output = replay.output()?;
        let report = String::from_utf8(output.stdout)?;
        ensure!(report.starts_with("applied: 0\n"), "{report}");
    }
    let counted = service.redis.cells("metrics:request_counter")?;
    ensure!(!counted.contains_key("forged"), "{counted:#?}");
    Ok(())
}

/// Otherwise a client could fill the kept log, and so rotate waiting batches out of it.
#[test]
fn a_client_does_not_choose_how_long_a_log_line_is() -> Result {
    const MAX_BYTES: usize = 600;
    let service = Service::start()?;
    let path = "/long\"".repeat(1_000);
    let (method, id) = ("LONG".repeat(1_000), "i".repeat(128));
    // The service logs the first, and the host may log the second.
    for header in [&b"x-text: a"[..], b"x-text: \xff"] {
        let mut stream = http::connect(service.app.address(), PATIENCE)?;
        let head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nx-request-id: {id}\r\n");
        let rest = [header, &[b'x'; 1_000], b"\r\nconnection: close\r\n\r\n"].concat();
        stream.write_all(&[head.as_bytes(), &rest].concat())?;
        stream.read_to_end(&mut Vec::new())?;
    }
    poll_until(PATIENCE, || {
        let log = service.app.output()?;
        let lines = log.lines().filter(|line| line.contains("/long"));
        ensure!(
            lines.clone().any(|line| line.contains(&id)),
            "no request: {log}"
        );
        let longest = lines.map(str::len).max();
        ensure!(longest < Some(MAX_BYTES), "{longest:?}: {log}");
        Ok(())
    })
}
