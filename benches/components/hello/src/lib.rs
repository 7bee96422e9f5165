//! A hello-world app without metrics, written as the SDK's examples are. On `/work` it
//! computes for about 1 ms before it responds.

// A native linker rejects the names of the exports.
#![cfg(target_family = "wasm")]

use std::hint::black_box;

use spin_sdk::{
    http::{IntoResponse, Request},
    http_service,
};

#[http_service]
async fn hello(request: Request) -> impl IntoResponse {
    if request.uri().path() == "/work" {
        black_box(work(130_000));
    }
    "Hello, world!"
}

/// A step needs the one before it, so that no compiler shortens the work.
fn work(steps: u32) -> u64 {
    (0..steps).fold(1, |state, _| black_box(state * 48_271 % 2_147_483_647))
}
