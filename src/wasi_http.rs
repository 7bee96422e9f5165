//! Converts WASI's HTTP requests and responses. Every request passes through
//! here, so there are as few host calls as possible.

use std::time::Duration;

use functional_scaffold_metering::{http, time::timeout};
use spin_sdk::{
    wasip3::{
        http::types::{self as wasi, ErrorCode, Method},
        wit_future,
    },
    wit_bindgen::{self, StreamReader, StreamResult},
};

use crate::response::Response;

/// A request without its body.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestHead {
    /// The method as sent.
    pub method: String,
    /// The value of the label `method`.
    pub method_label: &'static str,
    /// The path, without the query.
    pub path: String,
    /// `Content-Length`, in bytes.
    pub content_length: Option<u64>,
    /// `Content-Type`.
    pub content_type: Option<String>,
    /// `Authorization`.
    pub authorization: Option<Vec<u8>>,
    /// `X-Request-Id`.
    pub request_id: Option<String>,
}

/// A request's unread body.
pub struct RequestBody {
    request: wasi::Request,
    content_length: Option<u64>,
}

/// Why a body could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyError {
    /// It is longer than the limit.
    TooLarge,
    /// It ended before its `Content-Length`.
    Incomplete,
}

/// Splits a request into head and body.
#[must_use]
pub fn from_wasi_request(request: wasi::Request) -> (RequestHead, RequestBody) {
    let method = request.get_method();
    let mut head = RequestHead {
        method_label: http::method_label(&method),
        method: match method {
            Method::Other(other) => other,
            known => http::method_label(&known).to_owned(),
        },
        path: request.get_path_with_query().unwrap_or_default(),
        ..RequestHead::default()
    };
    if let Some(query) = head.path.find('?') {
        head.path.truncate(query);
    }
    // One host call for all headers, rather than one for each name.
    for (name, value) in request.get_headers().copy_all() {
        let text = |value| String::from_utf8(value).ok();
        if name.eq_ignore_ascii_case("content-length") {
            head.content_length = text(value).and_then(|length| length.parse().ok());
        } else if name.eq_ignore_ascii_case("content-type") {
            head.content_type = Some(String::from_utf8_lossy(&value).into_owned());
        } else if name.eq_ignore_ascii_case("authorization") {
            head.authorization = Some(value);
        } else if name.eq_ignore_ascii_case("x-request-id") {
            head.request_id = text(value);
        }
    }
    let content_length = head.content_length;
    (
        head,
        RequestBody {
            request,
            content_length,
        },
    )
}

impl RequestBody {
    /// Reads the body. With a `Content-Length`, it does not wait for the end of
    /// the stream or for the trailers, which would take two more polls.
    ///
    /// # Errors
    /// The body is longer than `limit` bytes, or incomplete.
    pub async fn read(self, limit: u64) -> Result<Vec<u8>, BodyError> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        // A length beyond the address space is too large for any limit.
        let announced = self
            .content_length
            .map(|length| usize::try_from(length).unwrap_or(usize::MAX));
        if announced == Some(0) {
            return Ok(Vec::new());
        }
        let (verdict, verdict_reader) = wit_future::new(|| Ok(()));
        let (mut stream, _trailers) = wasi::Request::consume_body(self.request, verdict_reader);
        drop(verdict);

        let read = if announced.is_some_and(|length| length > limit) {
            Err(BodyError::TooLarge)
        } else {
            read_up_to(&mut stream, limit, announced).await
        };
        if read == Err(BodyError::TooLarge) {
            wit_bindgen::spawn(drain(stream));
        }
        read
    }
}

/// The most that one read takes, in bytes.
const CHUNK_BYTES: usize = 16 * 1024;

async fn read_up_to(
    stream: &mut StreamReader<u8>,
    limit: usize,
    announced: Option<usize>,
) -> Result<Vec<u8>, BodyError> {
    // Grows with the bytes that arrive: the announced length reserves no memory.
    let mut body = Vec::new();
    loop {
        let missing = announced.map_or(CHUNK_BYTES, |length| length - body.len());
        body.reserve_exact(missing.min(CHUNK_BYTES));
        let result;
        (result, body) = stream.read(body).await;
        match (result, announced) {
            (StreamResult::Complete(_), Some(length)) if body.len() >= length => {
                body.truncate(length);
                return Ok(body);
            }
            (StreamResult::Complete(_), _) if body.len() > limit => {
                return Err(BodyError::TooLarge);
            }
            (StreamResult::Complete(_), _) => {}
            (StreamResult::Dropped | StreamResult::Cancelled, None) => return Ok(body),
            (StreamResult::Dropped | StreamResult::Cancelled, Some(_)) => {
                return Err(BodyError::Incomplete);
            }
        }
    }
}

/// Reads the rest of a body that is too large, in the background. Many clients read
/// the response only after they have sent everything, and lose it if the
/// connection closes before. Stops after a second, because the instance cannot be
/// reused meanwhile.
async fn drain(mut stream: StreamReader<u8>) {
    const LIMIT: Duration = Duration::from_secs(1);

    let drain = async {
        let mut buffer = Vec::with_capacity(CHUNK_BYTES);
        loop {
            buffer.clear();
            let result;
            (result, buffer) = stream.read(buffer).await;
            if !matches!(result, StreamResult::Complete(_)) {
                return;
            }
        }
    };
    let _ = timeout(LIMIT, drain).await;
}

/// Converts a response for the host.
///
/// # Errors
/// The host refuses a header or the status code.
pub fn into_wasi_response(response: Response) -> Result<wasi::Response, ErrorCode> {
    let mut headers = vec![
        ("content-type".to_owned(), response.content_type.into()),
        ("x-request-id".to_owned(), response.request_id.into()),
    ];
    if let Some((name, value)) = response.header {
        headers.push((name.to_owned(), value.into()));
    }
    http::response(response.code, headers, response.body)
}
