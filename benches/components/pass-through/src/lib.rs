//! Middleware that hands each request to the component behind it, and its response
//! back: the same resources. The benchmarks measure what any middleware costs by it.

// A native linker rejects the names of the exports.
#![cfg(target_family = "wasm")]

mod bindings;

use spin_sdk::wasip3::{
    exports::http::handler::Guest,
    http::{
        service,
        types::{ErrorCode, Request, Response},
    },
};

use bindings::wasi::http::handler;

struct PassThrough;

service::export!(PassThrough);

impl Guest for PassThrough {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        handler::handle(request).await
    }
}
