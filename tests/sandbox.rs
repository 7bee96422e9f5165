//! What an algorithm may touch: nothing. Shown from its imports, and with an
//! algorithm that tries.

use std::time::{Duration, Instant};

use functional_scaffold_tests::{
    app::{App, AppOptions, on_spin},
    client::{Kind, Until, load},
    process::{POLL, poll_until},
    redis_server::RedisServer,
    repository,
};
use reqwest::Client;
use serde_json::Value;
use wasmparser::{Parser, Payload};

type Result<T = ()> = anyhow::Result<T>;

struct Rogue {
    redis: RedisServer,
    app: App,
    client: Client,
}

impl Rogue {
    fn start(arguments: &[&str]) -> Result<Self> {
        let redis = RedisServer::start()?;
        // Also on a busy machine every execution is to get its lease.
        let mut options = AppOptions::with_redis(redis.port())
            .rogue()
            .variable("lease_timeout_ms", "1000");
        options.arguments = arguments.iter().map(|&text| text.to_owned()).collect();
        let app = App::start(&options)?;
        Ok(Self {
            redis,
            app,
            client: Client::new(),
        })
    }

    async fn commit(&self, misdeed: &str) -> Result<(u16, Value)> {
        let body = Value::from(misdeed).to_string();
        let response = self.client.post(self.app.url("/invoke")).body(body).send();
        let response = response.await?;
        let code = response.status().as_u16();
        let body = serde_json::from_slice(&response.bytes().await?).unwrap_or_default();
        Ok((code, body))
    }
}

/// What Spin loads, compiles and keeps for every algorithm.
#[test]
fn the_service_is_small() -> Result {
    let wasm = repository().join("target/wasm32-wasip2/release/functional_scaffold.wasm");
    let bytes = std::fs::metadata(wasm)?.len();
    assert!(bytes < 500_000, "{bytes} bytes");
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
    // What Rust's standard library asks for on this target, whatever the
    // program does.
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

#[tokio::test]
async fn the_composed_algorithm_is_denied_every_capability() -> Result {
    let rogue = Rogue::start(&[])?;
    let redis = format!("connect 127.0.0.1:{}", rogue.redis.port());
    let app = format!("connect 127.0.0.1:{}", rogue.app.port());
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
        let (code, body) = rogue.commit(misdeed).await?;
        assert!(
            code == 500 || body["result"] == false,
            "{misdeed} succeeded: {code} {body}"
        );
    }
    // The same algorithm does answer, so the denials above are denials.
    let (code, body) = rogue.commit("nothing").await?;
    assert_eq!((code, &body["result"]), (200, &Value::from(false)));
    Ok(())
}

#[tokio::test]
async fn what_an_algorithm_reports_is_answered_and_counted() -> Result {
    let rogue = Rogue::start(&[])?;
    let (code, body) = rogue.commit("fail").await?;
    assert_eq!(
        (code, &body["detail"]),
        (500, &Value::from("asked to fail"))
    );
    let (code, body) = rogue.commit("babble").await?;
    assert_eq!(code, 500);
    assert!(body["detail"].to_string().contains("not JSON"), "{body}");
    let (code, _) = rogue.commit("hum").await?;
    assert_eq!(code, 422);
    poll_until(Duration::from_secs(3), || {
        let executions = rogue.redis.cells("metrics:algorithm_counter")?;
        let executions: Vec<_> = executions.into_iter().collect();
        let label = |status: &str| format!("algorithm=\"rogue\",status=\"{status}\"");
        let expected = [(label("failed"), 2), (label("invalid_input"), 1)];
        anyhow::ensure!(executions == expected, "{executions:?}");
        Ok(())
    })
}

#[tokio::test]
async fn a_trap_answers_500_and_the_next_request_is_served() -> Result {
    let rogue = Rogue::start(&[])?;
    for misdeed in ["trap", "exit"] {
        let (code, _) = rogue.commit(misdeed).await?;
        assert_eq!(code, 500, "{misdeed}");
        let (code, _) = rogue.commit("nothing").await?;
        assert_eq!(code, 200, "after {misdeed}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_computes_keeps_nobody_waiting() -> Result {
    let rogue = Rogue::start(&[])?;
    let kinds = [Kind::invoke("\"nothing\"")];
    let url = rogue.app.url("");
    let beside = async {
        // It begins when it has its lease. What came to its instance before that
        // would wait for its end.
        let deadline = Instant::now() + Duration::from_secs(5);
        while rogue.redis.call::<i64>(&["ZCARD", "metrics:leases"])? == 0 {
            anyhow::ensure!(Instant::now() < deadline, "no lease");
            tokio::time::sleep(POLL).await;
        }
        load(&url, &kinds, 4, Until::Elapsed(Duration::from_millis(500))).await
    };
    let (worked, beside) = tokio::join!(rogue.commit("work 3000"), beside);
    assert_eq!(worked?.0, 200);
    // One for each connection, if all of them waited.
    let served = beside?.with_code(200);
    assert!(served > 20, "{served} requests were served beside it");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_loop_ends_at_the_execution_limit() -> Result {
    if on_spin() {
        // Spin has no such limit: a loop blocks a worker thread for good
        // (ARCHITECTURE.md). The dev host goes beyond it here.
        return Ok(());
    }
    let rogue = Rogue::start(&["--execution-limit", "500ms"])?;
    assert_eq!(rogue.commit("loop").await?.0, 500);
    let (code, _) = rogue.commit("nothing").await?;
    assert_eq!(code, 200);
    Ok(())
}
