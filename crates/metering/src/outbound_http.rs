//! One outbound HTTP request with a deadline.

use std::{fmt, net::Ipv6Addr, num::NonZeroU16, time::Duration};

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

use crate::time::Deadline;

pub(crate) use spin_sdk::wasip3::http::types::Method;

/// Bytes of an error response's body that are read, for the error message.
const MAX_TEXT_BYTES: usize = 1000;

/// Scheme, host and port of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) tls: bool,
    /// Host, with the port unless it is the scheme's own.
    pub(crate) authority: String,
}

impl Origin {
    /// Parses a URL of scheme, host and port alone. With anything more it would
    /// be no valid entry of `allowed_outbound_hosts`, and one such entry makes
    /// the host deny every address.
    pub(crate) fn parse(url: &str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (authority, None),
        };
        let is_name_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let is_host = match host.strip_prefix('[') {
            Some(rest) => rest
                .strip_suffix(']')
                .is_some_and(|address| address.parse::<Ipv6Addr>().is_ok()),
            None => !host.is_empty() && host.bytes().all(is_name_byte),
        };
        let is_port = port.is_none_or(|port| port.parse::<NonZeroU16>().is_ok());
        let tls = match scheme {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        (is_host && is_port).then(|| Self {
            tls,
            authority: authority.to_owned(),
        })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(out, "{scheme}://{}", self.authority)
    }
}

/// An outbound request.
#[derive(Debug)]
pub(crate) struct OutboundRequest<'a> {
    pub(crate) method: Method,
    pub(crate) origin: &'a Origin,
    /// The path, already percent-encoded.
    pub(crate) path: &'a str,
    /// The body's media type; empty for no `Content-Type`.
    pub(crate) content_type: &'static str,
    pub(crate) body: Vec<u8>,
}

/// The response to an outbound request.
#[derive(Debug)]
pub(crate) struct OutboundResponse {
    pub(crate) status: u16,
    /// The beginning of the body; empty for a 2xx, whose body is not read.
    pub(crate) text: String,
}

/// The reason why there is no response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SendError {
    /// The manifest's `allowed_outbound_hosts` does not allow the server.
    Denied,
    /// The response did not arrive before the deadline.
    Timeout,
    /// Anything else, as text.
    Failed(String),
}

/// Sends a request and waits for its response until the deadline. A request that
/// times out may still arrive.
pub(crate) async fn send(
    request: OutboundRequest<'_>,
    deadline: Deadline,
) -> Result<OutboundResponse, SendError> {
    let OutboundRequest {
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
        // Dropping it says that there are no trailers.
        drop(trailers);
    });
    let exchange = async {
        let response = client::send(request).await.map_err(send_error)?;
        let status = response.get_status_code();
        let text = match status {
            200..=299 => String::new(),
            _ => read_beginning(response).await,
        };
        Ok(OutboundResponse { status, text })
    };
    deadline
        .timeout(exchange)
        .await
        .unwrap_or(Err(SendError::Timeout))
}

/// Sets the host's own limits, so that a request which times out here is ended
/// there too. A host without such limits refuses them; the errors are ignored.
fn options(limit: Duration) -> RequestOptions {
    let nanos = u64::try_from(limit.as_nanos()).ok();
    let options = RequestOptions::new();
    let _ = options.set_connect_timeout(nanos);
    let _ = options.set_first_byte_timeout(nanos);
    options
}

async fn read_beginning(response: Response) -> String {
    let (verdict, verdict_reader) = wit_future::new(|| Ok(()));
    let (mut stream, _trailers) = Response::consume_body(response, verdict_reader);
    drop(verdict);
    let (_, bytes) = stream.read(Vec::with_capacity(MAX_TEXT_BYTES)).await;
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

fn send_error(code: ErrorCode) -> SendError {
    let reason = match code {
        ErrorCode::HttpRequestDenied => return SendError::Denied,
        ErrorCode::ConnectionTimeout
        | ErrorCode::ConnectionReadTimeout
        | ErrorCode::ConnectionWriteTimeout
        | ErrorCode::HttpResponseTimeout => return SendError::Timeout,
        ErrorCode::ConnectionRefused => "nothing listens there",
        ErrorCode::DnsError(_) | ErrorCode::DnsTimeout => "the host name cannot be resolved",
        ErrorCode::ConnectionTerminated | ErrorCode::HttpProtocolError => {
            "the server ended the connection, or does not speak HTTP"
        }
        ErrorCode::TlsCertificateError => "its certificate is not trusted by this component's host",
        ErrorCode::TlsProtocolError | ErrorCode::TlsAlertReceived(_) => "the TLS handshake failed",
        ErrorCode::DestinationNotFound
        | ErrorCode::DestinationUnavailable
        | ErrorCode::DestinationIpProhibited
        | ErrorCode::DestinationIpUnroutable => "there is no route to the server",
        ErrorCode::ConnectionLimitReached => "this component's host has no connection left",
        ErrorCode::ConfigurationError => "this component's host is not configured for it",
        ErrorCode::InternalError(Some(reason)) => return SendError::Failed(reason),
        ErrorCode::InternalError(None) => "this component's host failed",
        // The other codes name a fault in one of the two messages. The request
        // is the same each time, so it is the server's.
        _ => "its response is not valid HTTP",
    };
    SendError::Failed(reason.to_owned())
}
