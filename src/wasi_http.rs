//! WASI's HTTP requests and responses, to and from plain types. The hot path:
//! everything here is counted in host calls. Decides nothing about content.

use std::time::Duration;

use spin_sdk::{
    wasip3::{
        http::types::{ErrorCode, Fields, Method, Request, Response},
        wit_future, wit_stream,
    },
    wit_bindgen::{self, StreamReader, StreamResult},
};

use crate::{answer::Answer, clock::within, turn};

/// What a request says before its body.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestHead {
    /// The method as sent.
    pub method: String,
    /// The path, without the query.
    pub path: String,
    /// The body's length in bytes, where it is announced.
    pub content_length: Option<u64>,
    /// `Content-Type`.
    pub content_type: Option<String>,
    /// `Authorization`.
    pub authorization: Option<Vec<u8>>,
    /// `X-Request-Id`.
    pub request_id: Option<String>,
}

/// A request's body, not yet read.
pub struct RequestBody {
    request: Request,
    content_length: Option<u64>,
}

/// Why a body could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyError {
    /// It has more bytes than the limit.
    TooLarge,
    /// It ended before the announced length.
    Incomplete,
}

/// Splits a request into what it says and what it carries.
#[must_use]
pub fn from_wasi_request(request: Request) -> (RequestHead, RequestBody) {
    let mut head = RequestHead {
        method: match request.get_method() {
            Method::Get => "GET".into(),
            Method::Head => "HEAD".into(),
            Method::Post => "POST".into(),
            Method::Put => "PUT".into(),
            Method::Delete => "DELETE".into(),
            Method::Connect => "CONNECT".into(),
            Method::Options => "OPTIONS".into(),
            Method::Trace => "TRACE".into(),
            Method::Patch => "PATCH".into(),
            Method::Other(other) => other,
        },
        path: request.get_path_with_query().unwrap_or_default(),
        ..RequestHead::default()
    };
    if let Some(query) = head.path.find('?') {
        head.path.truncate(query);
    }
    // All headers in one host call; looking up each would be one call a name.
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
    /// Reads the body, whose end and trailers are not awaited when its length
    /// was announced: that would be two more turns through the host.
    ///
    /// # Errors
    /// See [`BodyError`].
    pub async fn read(self, limit: u64) -> Result<Vec<u8>, BodyError> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        // One that does not fit into memory is too large whatever the limit.
        let announced = self
            .content_length
            .map(|length| usize::try_from(length).unwrap_or(usize::MAX));
        if announced == Some(0) {
            return Ok(Vec::new());
        }
        let (verdict, verdict_reader) = wit_future::new(|| Ok(()));
        let (mut stream, _trailers) = Request::consume_body(self.request, verdict_reader);
        drop(verdict);

        let read = if announced.is_some_and(|length| length > limit) {
            Err(BodyError::TooLarge)
        } else {
            read_up_to(&mut stream, limit, announced).await
        };
        if read == Err(BodyError::TooLarge) {
            wit_bindgen::spawn(discard(stream));
        }
        read
    }
}

/// The size of a read where the length is unknown.
const CHUNK_BYTES: usize = 16 * 1024;

async fn read_up_to(
    stream: &mut StreamReader<u8>,
    limit: usize,
    announced: Option<usize>,
) -> Result<Vec<u8>, BodyError> {
    // Grown as bytes come: a length that is only announced takes no memory.
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

/// Reads what is left of a body that is refused, beside the answer: many
/// clients read the answer only after they have sent everything, and a
/// connection closed under their hands loses it. For a second at most, since an
/// instance is of no use meanwhile.
async fn discard(mut stream: StreamReader<u8>) {
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
    let _ = within(LIMIT, drain).await;
}

/// Hands an answer to the host.
///
/// The body carries its length, and is written in the turn that returns the
/// response: head and body then leave in one piece ([`turn`]). In two, the
/// second waits for the client's delayed acknowledgement, 40 ms on plain Spin.
///
/// # Errors
/// The host refuses a header or the status code.
pub fn into_wasi_response(answer: Answer) -> Result<Response, ErrorCode> {
    let mut headers = vec![
        ("content-type".to_owned(), answer.content_type.into()),
        (
            "content-length".to_owned(),
            answer.body.len().to_string().into(),
        ),
        ("x-request-id".to_owned(), answer.request_id.into()),
    ];
    if let Some((name, value)) = answer.header {
        headers.push((name.to_owned(), value.into()));
    }
    let internal = |what: &str| ErrorCode::InternalError(Some(what.to_owned()));
    let headers =
        Fields::from_list(&headers).map_err(|error| internal(&format!("headers: {error:?}")))?;

    let (mut writer, contents) = wit_stream::new();
    let (trailers, trailers_reader) = wit_future::new(|| Ok(None));
    let (response, _sent) = Response::new(headers, Some(contents), trailers_reader);
    response
        .set_status_code(answer.code)
        .map_err(|()| internal("status code"))?;
    wit_bindgen::spawn(async move {
        writer.write_all(answer.body).await;
        // Writes that there are none.
        drop(trailers);
    });
    turn::end_in_waiting();
    Ok(response)
}
