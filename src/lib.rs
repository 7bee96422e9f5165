//! The service component: HTTP in front of one sandboxed algorithm.
//!
//! # Layout
//! A request passes through these, from top to bottom:
//! - [`wasi_http`]: converts WASI's requests and responses
//! - [`handler`]: handles one request, from routing to counting
//! - [`router`]: maps method and path to a route
//! - [`invoke`]: runs the algorithm on a request body
//! - [`readiness`], [`openapi`]: the responses about the service itself
//! - [`response`]: responses, and errors as problem details
//! - [`text`]: puts texts of others on one line
//!
//! The requests of an instance share:
//! - [`state`]: the instance, which serves up to 128 requests
//! - [`config`]: its options, from Spin variables
//!
//! The metric path is the crate [`functional_scaffold_metering`]. "ADR 3" in a
//! comment is the page 0003 in `docs/adr/`.
//!
//! Nothing here panics: in wasm a panic ends every request of the instance.

pub mod config;
pub mod handler;
pub mod invoke;
pub mod openapi;
pub mod readiness;
pub mod response;
pub mod router;
pub mod state;
pub mod text;
pub mod wasi_http;

/// The component's only export, `wasi:http/handler`.
#[cfg(target_family = "wasm")]
mod export {
    #![allow(
        unsafe_code,
        reason = "the export macro generates the C entry points of the component ABI"
    )]

    use functional_scaffold_metering::http::single_write;
    use spin_sdk::wasip3::{
        exports::http::handler::Guest,
        http::types::{ErrorCode, Request, Response},
    };

    use crate::{handler, wasi_http};

    struct Component;

    // Not `#[http_service]`, whose conversions cost a third of the throughput of
    // a small POST (ADR 5).
    spin_sdk::wasip3::http::service::export!(Component with_types_in spin_sdk::wasip3);

    impl Guest for Component {
        async fn handle(request: Request) -> Result<Response, ErrorCode> {
            let (head, body) = wasi_http::from_wasi_request(request);
            let response = single_write::respond_on_fresh_poll(handler::handle(head, body)).await;
            wasi_http::into_wasi_response(response)
        }
    }
}
