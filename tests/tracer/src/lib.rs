//! Middleware that appends a header `trace` to each request: what it reads of the
//! configuration, `variables` and `environment`. It cancels a request with a header
//! `cancel-after-ms` after that time.

// A native linker rejects the names of the exports.
#![cfg(target_family = "wasm")]

use std::{env, future::poll_fn, pin::pin, task::Poll};

use spin_sdk::{
    http::{self, HeaderValue, Request, Response},
    http_service, variables,
    wasip3::{clocks::monotonic_clock::wait_for, http::types::ErrorCode},
};

#[http_service]
async fn trace(mut request: Request) -> Result<Response, ErrorCode> {
    let variable = variables::get("name").await;
    let environment = env::var("NAME");
    let text = format!(
        "variable {}, environment {}",
        variable.as_deref().unwrap_or("denied"),
        environment.as_deref().unwrap_or("denied")
    );
    let value = HeaderValue::from_str(&text)
        .map_err(|error| ErrorCode::InternalError(Some(error.to_string())))?;
    let headers = request.headers_mut();
    headers.append("trace", value);
    // A request of a component must not have it.
    headers.remove("host");
    let millis = headers.get("cancel-after-ms");
    let millis = millis.and_then(|millis| millis.to_str().ok()?.parse::<u64>().ok());
    let mut response = pin!(http::next(request));
    let Some(millis) = millis else {
        return response.await;
    };
    let mut time_is_up = pin!(wait_for(millis * 1_000_000));
    poll_fn(|context| match response.as_mut().poll(context) {
        Poll::Pending if time_is_up.as_mut().poll(context).is_ready() => {
            Poll::Ready(Err(ErrorCode::HttpResponseTimeout))
        }
        polled => polled,
    })
    .await
}
