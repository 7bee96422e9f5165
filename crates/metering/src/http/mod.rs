//! A component's side of the host's HTTP server.

pub mod backpressure;
pub mod single_write;

use spin_sdk::{
    wasip3::{
        http::types::{ErrorCode, Fields, Method, Response},
        wit_future, wit_stream,
    },
    wit_bindgen,
};

/// The value of the label `method`: a method of
/// [RFC 9110](https://www.rfc-editor.org/rfc/rfc9110#section-9) or RFC 5789, or
/// `OTHER`.
#[must_use]
pub fn method_label(method: &Method) -> &'static str {
    match method {
        Method::Get => "GET",
        Method::Head => "HEAD",
        Method::Post => "POST",
        Method::Put => "PUT",
        Method::Delete => "DELETE",
        Method::Connect => "CONNECT",
        Method::Options => "OPTIONS",
        Method::Trace => "TRACE",
        Method::Patch => "PATCH",
        Method::Other(_) => "OTHER",
    }
}

/// Makes a response for the host, and adds a `Content-Length` to its headers.
///
/// The body is written in the poll that returns the response, before the trailers, so
/// that head and body leave in one write ([`single_write`]).
///
/// # Errors
/// The host refuses a header or the status code.
pub fn response(
    code: u16,
    mut headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
) -> Result<Response, ErrorCode> {
    let length = body.len().to_string();
    headers.push(("content-length".to_owned(), length.into()));
    let internal = |what: &str| ErrorCode::InternalError(Some(what.to_owned()));
    let headers =
        Fields::from_list(&headers).map_err(|error| internal(&format!("headers: {error:?}")))?;

    let (mut writer, contents) = wit_stream::new();
    let (trailers, trailers_reader) = wit_future::new(|| Ok(None));
    let (response, _sent) = Response::new(headers, Some(contents), trailers_reader);
    response
        .set_status_code(code)
        .map_err(|()| internal("status code"))?;
    wit_bindgen::spawn(async move {
        writer.write_all(body).await;
        // Dropping it says that there are no trailers.
        drop(trailers);
    });
    single_write::avoid_final_yield();
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_a_bounded_set() {
        assert_eq!(method_label(&Method::Patch), "PATCH");
        for other in ["BREW", "get"] {
            assert_eq!(method_label(&Method::Other(other.to_owned())), "OTHER");
        }
    }
}
