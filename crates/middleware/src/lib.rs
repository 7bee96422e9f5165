//! HTTP middleware that counts the requests of any Spin app whose component exports
//! `wasi:http/handler@0.3.0`. Request and response pass through it as the same
//! resources, so that it reads and copies no body.
//!
//! # Layout
//! - [`handler`]: counts one request
//! - [`state`]: the instance, whose requests share one [`Meter`]
//! - [`response`]: the responses that are not the app's
//!
//! Nothing here panics: in wasm a panic ends every request of the instance.
//!
//! [`Meter`]: functional_scaffold_metering::Meter

pub mod handler;
pub mod response;
pub mod state;

/// The component's import `wasi:http/handler`: the app, or the next middleware.
mod next {
    #![allow(
        missing_docs,
        unreachable_pub,
        unsafe_code,
        clippy::all,
        reason = "generated from wit/ by wit-bindgen"
    )]
    spin_sdk::wit_bindgen::generate!({
        path: "wit",
        with: {
            "wasi:clocks/types@0.3.0": spin_sdk::wasip3::clocks::types,
            "wasi:http/types@0.3.0": spin_sdk::wasip3::http::types,
        },
        runtime_path: "::spin_sdk::wit_bindgen::rt",
    });

    pub use wasi::http::handler::handle;
}

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

    use crate::handler;

    struct Component;

    spin_sdk::wasip3::http::service::export!(Component with_types_in spin_sdk::wasip3);

    impl Guest for Component {
        async fn handle(request: Request) -> Result<Response, ErrorCode> {
            let response = single_write::respond_on_fresh_poll(handler::handle(request)).await;
            single_write::avoid_final_yield();
            response
        }
    }
}
