//! The service as one would write it at first, with the SDK's own means and as
//! its examples do: each request connects to Redis, sends six commands one after
//! the other, and is answered then. For the benchmarks, which compare it.
//!
//! It runs the same algorithms in the same sandbox and counts the same in the
//! same keys. It lacks everything else that the service does: no time-out, no
//! count of what failed, no answer while Redis is away.

// A native linker refuses the exports' names.
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
    let began = Instant::now();
    let endpoint = match request.uri().path() {
        "/invoke" => "/invoke",
        _ => "/invoke/{algorithm}",
    };
    let input = String::from_utf8(request.into_body().bytes().await?.into())?;
    let started = Instant::now();
    let result = algorithm::run(&input);
    let execution = started.elapsed();
    let (code, answer) = match result {
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
            .count_request(endpoint, code.as_u16(), began.elapsed())
            .await?;
        metrics
            .count_execution(&algorithm::describe().name, code.is_success(), execution)
            .await?;
    }
    Ok((code, Json(answer)))
}
