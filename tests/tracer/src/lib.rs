//! Middleware that appends a header `trace` to each request: what it reads of the
//! configuration, `variables` and `environment`.

// A native linker rejects the names of the exports.
#![cfg(target_family = "wasm")]

use std::env;

use spin_sdk::{
    http::{self, HeaderValue, Request, Response},
    http_service, variables,
    wasip3::http::types::ErrorCode,
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
    http::next(request).await
}
