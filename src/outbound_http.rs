//! One HTTP request to elsewhere, bounded in time. Knows nothing of what it is
//! for.

use std::{fmt, time::Duration};

use spin_sdk::{
    wasip3::{
        http::{
            client,
            types::{self, ErrorCode, Fields, RequestOptions, Response, Scheme},
        },
        wit_future, wit_stream,
    },
    wit_bindgen,
};

use crate::clock::Deadline;

pub use spin_sdk::wasip3::http::types::Method;

/// Bytes of an answer that are read, to say why it refused.
const MAX_TEXT_BYTES: usize = 1000;

/// Where a server is reached: scheme, host and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Whether it is reached over TLS.
    pub tls: bool,
    /// Host, and port where it is not the scheme's own.
    pub authority: String,
}

impl fmt::Display for Origin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(out, "{scheme}://{}", self.authority)
    }
}

/// A request.
#[derive(Debug)]
pub struct Request<'a> {
    /// The method.
    pub method: Method,
    /// Whom it goes to.
    pub origin: &'a Origin,
    /// The path, as it stands in the request.
    pub path: &'a str,
    /// The body's media type; none is named where it is empty.
    pub content_type: &'static str,
    /// The body.
    pub body: Vec<u8>,
}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// The beginning of the body; of a success it is not read.
    pub text: String,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SendError {
    /// The host does not let the component reach this server.
    Denied,
    /// It did not come in time.
    Timeout,
    /// The way there failed; in words.
    Failed(String),
}

/// Sends a request and waits for its answer until the deadline.
///
/// # Errors
/// See [`SendError`]. A request that timed out may still arrive.
pub async fn send(request: Request<'_>, deadline: Deadline) -> Result<Reply, SendError> {
    let Request {
        method,
        origin,
        path,
        content_type,
        body,
    } = request;
    let refused = |what: &str| SendError::Failed(format!("the host refuses the {what}"));
    let mut headers = vec![("content-length".to_owned(), body.len().to_string().into())];
    if !content_type.is_empty() {
        headers.push(("content-type".to_owned(), content_type.into()));
    }
    let headers = Fields::from_list(&headers)
        .map_err(|error| SendError::Failed(format!("the host refuses a header: {error:?}")))?;
    let (mut writer, contents) = wit_stream::new();
    let (trailers, trailers_reader) = wit_future::new(|| Ok(None));
    let options = options(deadline.remaining());
    let (request, _sent) =
        types::Request::new(headers, Some(contents), trailers_reader, Some(options));
    let scheme = if origin.tls {
        Scheme::Https
    } else {
        Scheme::Http
    };
    request
        .set_method(&method)
        .map_err(|()| refused("method"))?;
    request
        .set_scheme(Some(&scheme))
        .map_err(|()| refused("scheme"))?;
    request
        .set_authority(Some(&origin.authority))
        .map_err(|()| refused("authority"))?;
    request
        .set_path_with_query(Some(path))
        .map_err(|()| refused("path"))?;
    wit_bindgen::spawn(async move {
        writer.write_all(body).await;
        // Writes that there are none.
        drop(trailers);
    });
    let exchange = async {
        let response = client::send(request).await.map_err(send_error)?;
        let status = response.get_status_code();
        let text = match status {
            200..=299 => String::new(),
            _ => beginning(response).await,
        };
        Ok(Reply { status, text })
    };
    deadline
        .bounds(exchange)
        .await
        .unwrap_or(Err(SendError::Timeout))
}

/// The host's own limits: a request given up here is to be given up there, too.
/// A host without such limits goes without.
fn options(limit: Duration) -> RequestOptions {
    let nanos = u64::try_from(limit.as_nanos()).ok();
    let options = RequestOptions::new();
    let _ = options.set_connect_timeout(nanos);
    let _ = options.set_first_byte_timeout(nanos);
    options
}

async fn beginning(response: Response) -> String {
    let (verdict, verdict_reader) = wit_future::new(|| Ok(()));
    let (mut stream, _trailers) = Response::consume_body(response, verdict_reader);
    drop(verdict);
    let (_, bytes) = stream.read(Vec::with_capacity(MAX_TEXT_BYTES)).await;
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

fn send_error(code: ErrorCode) -> SendError {
    let words = match code {
        ErrorCode::HttpRequestDenied => return SendError::Denied,
        ErrorCode::ConnectionTimeout
        | ErrorCode::ConnectionReadTimeout
        | ErrorCode::ConnectionWriteTimeout
        | ErrorCode::HttpResponseTimeout => return SendError::Timeout,
        ErrorCode::ConnectionRefused => "nothing listens there",
        ErrorCode::DnsError(_) | ErrorCode::DnsTimeout => "the host's name is unknown",
        ErrorCode::ConnectionTerminated | ErrorCode::HttpProtocolError => {
            "what listens there ended the connection, or does not speak HTTP"
        }
        ErrorCode::TlsCertificateError => {
            "its certificate is not one that the host of this component trusts"
        }
        ErrorCode::TlsProtocolError | ErrorCode::TlsAlertReceived(_) => {
            "what listens there does not agree to TLS"
        }
        ErrorCode::DestinationNotFound
        | ErrorCode::DestinationUnavailable
        | ErrorCode::DestinationIpProhibited
        | ErrorCode::DestinationIpUnroutable => "the host of this component finds no way there",
        ErrorCode::ConnectionLimitReached => "the host of this component has no connection left",
        ErrorCode::ConfigurationError => "the host of this component is not configured for it",
        ErrorCode::InternalError(Some(words)) => return SendError::Failed(words),
        ErrorCode::InternalError(None) => "the host of this component failed",
        // What it names is a fault of one of the two messages; all others are
        // the server's, for the request is the same each time.
        _ => "its answer is not one of HTTP",
    };
    SendError::Failed(words.to_owned())
}
