//! The responses that are not the app's.

use functional_scaffold_metering::{Format, Meter, RETRY_AFTER, http};
use serde_json::json;
use spin_sdk::wasip3::http::types::{ErrorCode, Method, Request, Response};

/// The status code of [`unavailable`].
pub const UNAVAILABLE: u16 = 503;

/// Makes the response to a request that Redis has not acknowledged in `strict` mode: the
/// service's problem `metrics-unavailable`.
///
/// # Errors
/// The host refuses it.
pub fn unavailable(detail: &str, request_id: &str) -> Result<Response, ErrorCode> {
    let problem = json!({
        "type": "urn:functional-scaffold:problem:metrics-unavailable",
        "title": "The execution cannot be counted",
        "status": UNAVAILABLE,
        "detail": detail,
        "request_id": request_id,
    });
    let headers = vec![
        ("content-type".to_owned(), "application/problem+json".into()),
        ("x-request-id".to_owned(), request_id.into()),
        ("retry-after".to_owned(), RETRY_AFTER.into()),
    ];
    http::response(UNAVAILABLE, headers, problem.to_string().into())
}

/// Returns whether a request asks for this instance's own metrics.
#[must_use]
pub fn is_scrape(request: &Request) -> bool {
    let path = request.get_path_with_query();
    matches!(request.get_method(), Method::Get | Method::Head)
        && path.is_some_and(|path| path.split('?').next() == Some("/metrics"))
}

/// Makes the response with everything that this instance has counted, in the scheme
/// `pull`.
///
/// # Errors
/// The totals cannot be encoded, or the host refuses the response.
pub fn exposition(meter: &Meter) -> Result<Response, ErrorCode> {
    let text = meter.exposition();
    let text = text.map_err(|error| ErrorCode::InternalError(Some(error.to_string())))?;
    let content_type = Format::Text.content_type();
    let headers = vec![("content-type".to_owned(), content_type.into())];
    http::response(200, headers, text.into_bytes())
}
