//! An HTTP component that responds with the headers it got, one a line, in their
//! order.

// A native linker rejects the names of the exports.
#![cfg(target_family = "wasm")]

use spin_sdk::{
    http::{IntoResponse, Request},
    http_service,
};

#[http_service]
async fn echo(request: Request) -> impl IntoResponse {
    let headers = request.headers().iter();
    headers
        .map(|(name, value)| format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())))
        .collect::<String>()
}
