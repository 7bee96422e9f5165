//! An app that counts something in each request: on `/counter` by the `metrics` crate, on
//! `/incr` by a command to Redis, as the SDK's examples do it. On other paths it counts
//! nothing.

// A native linker rejects the names of the exports.
#![cfg(target_family = "wasm")]

use functional_scaffold_metering::custom;
use metrics::counter;
use spin_sdk::{
    http::{IntoResponse, Request},
    http_service,
    redis::Connection,
    variables,
};

#[http_service]
async fn count(request: Request) -> anyhow::Result<impl IntoResponse> {
    match request.uri().path() {
        "/counter" => {
            let _flush = custom::install(&[]);
            counter!("greetings_total").increment(1);
        }
        "/incr" => {
            let prefix = variables::get("metrics_prefix").await?;
            let address = format!("redis://127.0.0.1:{}", variables::get("redis_port").await?);
            let connection = Connection::open(&address).await?;
            connection.incr(&format!("{prefix}greetings")).await?;
        }
        _ => {}
    }
    Ok("Hello, world!")
}
