//! A naive version of the service, for comparison in the benchmarks: written
//! with the SDK as its examples are. Each request connects to Redis and sends
//! six commands, one after the other, before it responds.
//!
//! It runs the same algorithms in the same sandbox and writes the same keys. It
//! has no timeouts, no count of failed writes, and no response without Redis.

// A native linker rejects the names of the exports.
#![cfg(target_family = "wasm")]

mod bindings;
mod metrics;

use std::time::Instant;

use bindings::functional_scaffold::algorithm::algorithm;
use serde_json::{json, value::RawValue};
use spin_sdk::{
    http::{IntoResponse, Json, Request, StatusCode, body::IncomingBodyExt as _},
    http_service, variables,
};

#[http_service]
async fn invoke(request: Request) -> anyhow::Result<impl IntoResponse> {
    let received = Instant::now();
    let endpoint = match request.uri().path() {
        "/invoke" => "/invoke",
        _ => "/invoke/{algorithm}",
    };
    let input = String::from_utf8(request.into_body().bytes().await?.into())?;
    let started = Instant::now();
    let result = algorithm::run(&input);
    let execution = started.elapsed();
    let (code, body) = match result {
        Ok(result) => (
            StatusCode::OK,
            json!({"status": "success", "result": RawValue::from_string(result)?}),
        ),
        Err(error) => (
            StatusCode::UNPROCESSABLE_ENTITY,
            json!({"status": "error", "detail": error.to_string()}),
        ),
    };
    if variables::get("metrics_backend").await? == "redis" {
        let prefix = variables::get("metrics_prefix").await?;
        let address = variables::get("redis_address").await?;
        let metrics = metrics::Metrics::connect(&address, &prefix).await?;
        metrics
            .record_request(endpoint, code.as_u16(), received.elapsed())
            .await?;
        metrics
            .record_execution(&algorithm::describe().name, code.is_success(), execution)
            .await?;
    }
    Ok((code, Json(body)))
}
