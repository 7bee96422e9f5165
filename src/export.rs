//! The component's one export, `wasi:http/handler`. Only the trigger calls it.

#![allow(
    unsafe_code,
    reason = "the export macro generates the C entry points of the component ABI"
)]

use spin_sdk::wasip3::{
    exports::http::handler::Guest,
    http::types::{ErrorCode, Request, Response},
};

use crate::{service, turn, wasi_http};

struct Component;

// The handler trait itself rather than `#[http_service]`: that one's
// conversions cost more than a third of the throughput of a small POST.
spin_sdk::wasip3::http::service::export!(Component with_types_in spin_sdk::wasip3);

impl Guest for Component {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let (head, body) = wasi_http::from_wasi_request(request);
        let answer = turn::fresh(service::serve(head, body)).await;
        wasi_http::into_wasi_response(answer)
    }
}
