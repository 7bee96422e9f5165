//! An algorithm has no capabilities: it has no imports for them, and an algorithm that
//! tries to use them fails.

use std::{env, io::Write as _, thread, time::Duration};

use anyhow::{Context as _, ensure};
use functional_scaffold_testkit::{
    http::{self, connect},
    load::{RequestKind, Until},
    process::poll_until,
    repository,
    runtime::Runtime,
};
use functional_scaffold_tests::{PATIENCE, service::Service};
use serde_json::Value;
use wasmparser::{Parser, Payload};

use crate::Result;

/// Spin loads, compiles and keeps this component for every algorithm.
#[test]
fn the_service_is_small() -> Result {
    let wasm = repository().join("target/wasm32-wasip2/release/functional_scaffold.wasm");
    let bytes = std::fs::metadata(wasm)?.len();
    // Debian's toolchain builds the standard library with the component, for size.
    // Rustup's was built for speed, which adds 24 kB.
    let is_debian = env::var_os("SCAFFOLD_WASM_TOOLCHAIN").is_some_and(|it| it == "debian");
    let limit = if is_debian { 500_000 } else { 525_000 };
    assert!(bytes < limit, "{bytes} bytes, and the limit is {limit}");
    Ok(())
}

#[test]
fn the_example_imports_what_its_runtime_needs_and_nothing_else() -> Result {
    let wasm = repository().join("target/wasm32-wasip2/release/prime_check.wasm");
    let bytes = std::fs::read(&wasm)?;
    let mut imports = Vec::new();
    // The component's own imports come at its top level, before those of the
    // modules and components nested in it.
    let mut depth = 0_u32;
    for payload in Parser::new(0).parse_all(&bytes) {
        match payload? {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    imports.push(import?.name.0.to_owned());
                }
            }
            _ => {}
        }
    }
    // Imports of Rust's standard library on this target, whatever the program does.
    let runtime = [
        "wasi:cli/environment@",
        "wasi:cli/exit@",
        "wasi:cli/stderr@",
        "wasi:cli/stdin@",
        "wasi:cli/stdout@",
        "wasi:cli/terminal-",
        "wasi:clocks/",
        "wasi:filesystem/preopens@",
        "wasi:filesystem/types@",
        "wasi:io/",
        "wasi:random/",
    ];
    assert!(!imports.is_empty(), "a Rust component imports something");
    for import in &imports {
        assert!(
            runtime.iter().any(|prefix| import.starts_with(prefix)),
            "{import} is not needed by Rust's runtime; imports: {imports:#?}"
        );
    }
    Ok(())
}

#[test]
fn the_composed_algorithm_is_denied_every_capability() -> Result {
    let rogue = Service::start_rogue(|options| options)?;
    let redis = format!("connect 127.0.0.1:{}", rogue.redis.port());
    let app = format!("connect {}", rogue.app.address());
    let manifest = repository().join("spin.toml");
    let read = format!("read-file {}", manifest.display());
    // A denied call either fails or traps; it never succeeds.
    for misdeed in [
        "environment",
        "arguments",
        &read,
        "write-file /tmp/rogue",
        &redis,
        &app,
    ] {
        let (status, body) = rogue.commit(misdeed)?;
        assert!(
            status == 500 || body["result"] == false,
            "{misdeed} succeeded: {status} {body}"
        );
    }
    // The same algorithm does respond, so the failures above are denials.
    let (status, body) = rogue.commit("nothing")?;
    assert_eq!((status, &body["result"]), (200, &Value::from(false)));
    Ok(())
}

#[test]
fn an_algorithms_errors_are_responded_and_counted() -> Result {
    let rogue = Service::start_rogue(|options| options)?;
    let (status, body) = rogue.commit("fail")?;
    assert_eq!(
        (status, &body["detail"]),
        (500, &Value::from("asked to fail"))
    );
    assert_eq!(
        body["type"],
        "urn:functional-scaffold:problem:algorithm-failed"
    );
    let (status, body) = rogue.commit("babble")?;
    assert_eq!(status, 500);
    assert_eq!(
        body["type"],
        "urn:functional-scaffold:problem:invalid-output"
    );
    assert!(body["detail"].to_string().contains("not JSON"), "{body}");
    assert_eq!(rogue.commit("hum")?.0, 422);
    let labels = |status: &str| format!("algorithm=\"rogue\",status=\"{status}\"");
    let expected = [(labels("failed"), 2), (labels("invalid_input"), 1)];
    rogue.wait_for("metrics:algorithm_counter", &expected.into())
}

#[test]
fn an_output_above_the_limit_is_not_sent_and_counted_as_failed() -> Result {
    let rogue = Service::start_rogue(|options| options.variable("max_output_bytes", "1000"))?;
    let (status, body) = rogue.commit("talk 1000")?;
    assert_eq!(status, 200);
    assert_eq!(body["result"].as_str().map(str::len), Some(998));
    let (status, body) = rogue.commit("talk 1001")?;
    assert_eq!(status, 500);
    assert_eq!(
        body["type"],
        "urn:functional-scaffold:problem:output-too-large"
    );
    let detail = body["detail"].to_string();
    assert!(detail.contains("1001") && detail.contains("1000"), "{body}");
    let labels = |status: &str| format!("algorithm=\"rogue\",status=\"{status}\"");
    let expected = [(labels("failed"), 1), (labels("success"), 1)];
    rogue.wait_for("metrics:algorithm_counter", &expected.into())
}

#[test]
fn an_algorithms_error_text_is_shortened_to_one_line() -> Result {
    let rogue = Service::start_rogue(|options| options)?;
    for (misdeed, expected) in [("fail-loudly", 500), ("refuse-loudly", 422)] {
        let (status, body) = rogue.commit(misdeed)?;
        assert_eq!(status, expected);
        let detail = body["detail"].as_str().context("no detail")?;
        assert!(
            detail.starts_with("line one  {\"level\":\"info\"}   [2J é"),
            "{detail}"
        );
        assert!(detail.ends_with("é…"), "{detail}");
        assert_eq!(detail.chars().count(), 1000);
    }
    Ok(())
}

#[test]
fn the_reason_of_a_500_is_logged_at_every_level() -> Result {
    let rogue = Service::start_rogue(|options| {
        let options = options.variable("max_output_bytes", "1000");
        options.variable("log_level", "error")
    })?;
    let misdeeds = [
        ("fail", "failed", "algorithm-failed", "asked to fail"),
        ("fail-loudly", "failed", "algorithm-failed", "line one"),
        ("babble", "failed", "invalid-output", "not JSON"),
        ("talk 1001", "failed", "output-too-large", "1001"),
        ("claim-crash", "crashed", "algorithm-crashed", "crashed"),
        ("claim-limit", "crashed", "limit-exceeded", "budget"),
    ];
    // A client's own errors are not logged.
    assert_eq!(rogue.commit("hum")?.0, 422);
    for (misdeed, status, name, says) in misdeeds {
        let (code, body) = rogue.commit(misdeed)?;
        assert_eq!(code, 500, "{misdeed}");
        assert_eq!(
            body["type"],
            format!("urn:functional-scaffold:problem:{name}")
        );
        let line = poll_until(PATIENCE, || {
            let lines = rogue.app.log("request_failed")?;
            let mut lines = lines.into_iter();
            let line = lines.find(|line| line["request_id"] == body["request_id"]);
            line.with_context(|| format!("no line for {misdeed}"))
        })?;
        assert_eq!(line["level"], "error");
        assert_eq!(line["algorithm"], "rogue");
        assert_eq!(line["status"], status);
        assert_eq!(
            line["type"],
            format!("urn:functional-scaffold:problem:{name}")
        );
        assert!(line["reason"].to_string().contains(says), "{line}");
    }
    assert_eq!(rogue.app.log("request_failed")?.len(), misdeeds.len());
    Ok(())
}

#[test]
fn a_crash_that_is_returned_is_counted_at_once_as_crashed() -> Result {
    let rogue = Service::start_rogue(|options| options)?;
    for misdeed in ["claim-crash", "nothing", "claim-limit"] {
        rogue.commit(misdeed)?;
    }
    let labels = |status: &str| format!("algorithm=\"rogue\",status=\"{status}\"");
    let expected = [(labels("crashed"), 2), (labels("success"), 1)];
    rogue.wait_for("metrics:algorithm_counter", &expected.into())?;
    // By the same batches: no exporter settles leases here.
    let invoke = RequestKind::invoke("");
    let expected = [(invoke.labels(200), 1), (invoke.labels(500), 2)];
    assert_eq!(
        rogue.redis.cells("metrics:request_counter")?,
        expected.into()
    );
    let leases: i64 = rogue.redis.call(&["ZCARD", "metrics:leases"])?;
    assert_eq!(leases, 0);
    let observed = |key| -> Result<i64> {
        let cells = rogue.redis.cells(key)?.into_iter();
        Ok(cells
            .filter(|(field, _)| !field.ends_with("|sum"))
            .map(|(_, count)| count)
            .sum())
    };
    assert_eq!(observed("metrics:request_latency")?, 3);
    assert_eq!(observed("metrics:algorithm_latency")?, 1);
    Ok(())
}

#[test]
fn a_trap_is_responded_with_500_and_the_next_request_is_served() -> Result {
    let rogue = Service::start_rogue(|options| options)?;
    for misdeed in ["trap", "exit"] {
        assert_eq!(rogue.commit(misdeed)?.0, 500, "{misdeed}");
        assert_eq!(rogue.commit("nothing")?.0, 200, "after {misdeed}");
    }
    Ok(())
}

#[test]
fn the_hosts_memory_limit_ends_an_instance_that_exceeds_it() -> Result {
    let limit = ["--max-instance-memory", "33554432"];
    let rogue = Service::start_rogue(|options| options.arguments(&limit))?;
    // Without the limit, this would be a problem document: the output is too large.
    let (status, body) = rogue.commit("talk 50000000")?;
    assert_eq!((status, &body), (500, &Value::Null));
    assert_eq!(rogue.commit("nothing")?.0, 200);
    Ok(())
}

#[test]
fn an_execution_keeps_no_other_request_waiting() -> Result {
    let rogue = Service::start_rogue(|options| options)?;
    thread::scope(|scope| {
        let execution = scope.spawn(|| rogue.commit("work 15000"));
        // It begins when it has its lease. Requests that reached its instance before
        // that wait for its end.
        poll_until(PATIENCE, || {
            let leases: i64 = rogue.redis.call(&["ZCARD", "metrics:leases"])?;
            ensure!(leases > 0, "no lease");
            Ok(())
        })?;
        let kinds = [RequestKind::invoke("\"nothing\"")];
        let beside = rogue.load(&kinds, 4, Until::Requests(24))?;
        ensure!(
            !execution.is_finished(),
            "24 requests took as long as the execution"
        );
        assert_eq!(beside.with_code(200), 24);
        assert_eq!(execution.join().expect("no panic")?.0, 200);
        Ok(())
    })
}

#[test]
fn an_endless_loop_ends_at_the_execution_limit() -> Result {
    if Runtime::from_environment()?.is_spin() {
        // Spin has no such limit: a loop blocks a worker thread for good (ADR 22).
        return Ok(());
    }
    let rogue = Service::start_rogue(|options| options.arguments(&["--execution-limit", "500ms"]))?;
    assert_eq!(rogue.commit("loop")?.0, 500);
    assert_eq!(rogue.commit("nothing")?.0, 200);
    Ok(())
}

#[test]
fn executions_are_limited_although_their_clients_left() -> Result {
    const LIMIT: i64 = 3;
    if Runtime::from_environment()?.is_spin() {
        // Spin executes whatever it accepts.
        return Ok(());
    }
    let limit = LIMIT.to_string();
    let rogue = Service::start_rogue(|options| options.arguments(&["--max-connections", &limit]))?;
    let body = "\"sleep\"";
    let request = format!(
        "POST /invoke HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let sleepers = || -> Result<i64> { rogue.redis.call(&["ZCARD", "metrics:leases"]) };
    let send = || -> Result<_> {
        let mut client = connect(rogue.app.address(), PATIENCE)?;
        client.write_all(request.as_bytes())?;
        Ok(client)
    };
    // They leave when their executions have begun: before, the host may drop a request.
    let clients = (0..LIMIT).map(|_| send()).collect::<Result<Vec<_>>>()?;
    poll_until(PATIENCE, || {
        ensure!(sleepers()? == LIMIT, "{} executions", sleepers()?);
        Ok(())
    })?;
    drop(clients);
    for _ in 0..3 * LIMIT {
        send()?;
    }
    // No place is left for another, although no client is connected.
    let waiting = http::request(
        rogue.app.address(),
        "GET /healthz",
        &[],
        b"",
        Duration::from_millis(500),
    );
    ensure!(waiting.is_err(), "{waiting:?}");
    ensure!(sleepers()? == LIMIT, "{} executions", sleepers()?);
    Ok(())
}
