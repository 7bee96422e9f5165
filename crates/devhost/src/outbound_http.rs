//! Outbound HTTP, `wasi:http/client@0.3.0`.
//!
//! As on Spin, requests need an entry in `allowed_outbound_hosts`, can go to the
//! application itself (`self`), and time out after 600 s unless the component
//! sets another time. TLS and service chaining are not supported: such requests
//! fail with an error that says so.

use std::error::Error as _;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, HeaderValue};
use http::uri::{Authority, Scheme};
use http::{Request, Response, Uri};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep, timeout};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use crate::allowed_hosts::Destination;
use crate::component::ComponentSettings;

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);

/// The client that all instances share, and the address of the application.
#[derive(Clone)]
pub(crate) struct HttpClient {
    client: Client<Connector, WasiBody>,
    /// Set when the server listens.
    pub(crate) own_address: Arc<OnceLock<SocketAddr>>,
}

impl HttpClient {
    /// Makes a client. It connects when a request is sent.
    pub(crate) fn new() -> Self {
        Self {
            client: Client::builder(TokioExecutor::new()).build(Connector),
            own_address: Arc::default(),
        }
    }
}

/// An instance's outbound HTTP.
pub(crate) struct OutboundHttp {
    pub(crate) client: HttpClient,
    pub(crate) settings: Arc<ComponentSettings>,
}

type Sent = (
    Response<WasiBody>,
    Box<dyn Future<Output = Result<(), Error>> + Send>,
);

impl WasiHttpHooks for OutboundHttp {
    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        // The error of a component that reads the response: not reported.
        _response_result: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Result<Sent, Error>> + Send> {
        let client = self.client.clone();
        let settings = Arc::clone(&self.settings);
        let options = options.unwrap_or_default();
        Box::new(async move {
            let response = client.send(&settings, request, options).await?;
            let written: Box<dyn Future<Output = _> + Send> = Box::new(async { Ok(()) });
            Ok((response, written))
        })
    }
}

impl HttpClient {
    async fn send(
        &self,
        settings: &ComponentSettings,
        mut request: Request<WasiBody>,
        options: RequestOptions,
    ) -> Result<Response<WasiBody>, Error> {
        self.authorize(settings, &mut request)?;
        let connect_timeout = options.connect_timeout.unwrap_or(DEFAULT_TIMEOUT);
        let first_byte_timeout = options.first_byte_timeout.unwrap_or(DEFAULT_TIMEOUT);
        let between_bytes = options.between_bytes_timeout.unwrap_or(DEFAULT_TIMEOUT);
        let response = CONNECT_TIMEOUT.scope(connect_timeout, self.client.request(request));
        let response = timeout(first_byte_timeout, response)
            .await
            .map_err(|_elapsed| Error::ConnectionReadTimeout)?
            .map_err(
                |error| match error.source().and_then(|e| e.downcast_ref()) {
                    Some(ConnectError::Timeout) => Error::ConnectionTimeout,
                    Some(ConnectError::Refused) => Error::ConnectionRefused,
                    Some(ConnectError::NoAddress) => Error::DnsError {
                        rcode: Some("address not available".to_owned()),
                        info_code: Some(0),
                    },
                    None => Error::HttpProtocolError,
                },
            )?;
        Ok(response.map(|body| {
            TimedBody {
                body: Some(body),
                timeout: between_bytes,
                sleep: None,
            }
            .boxed_unsync()
        }))
    }

    /// Denies a request that is not allowed, and makes the others go where they were
    /// allowed to: to the checked destination, or to the application itself.
    fn authorize(
        &self,
        settings: &ComponentSettings,
        request: &mut Request<WasiBody>,
    ) -> Result<(), Error> {
        let uri = request.uri().clone();
        let host = uri.host().unwrap_or_default();
        // hyper's client sets it from the URI.
        request.headers_mut().remove(HOST);
        if host.is_empty() || host == "self.alt" {
            if !settings.allowed_hosts.allows_self() {
                settings.report_denied_host(&"http://self");
                return Err(Error::HttpRequestDenied);
            }
            let address = self.own_address.get().ok_or(Error::HttpRequestUriInvalid)?;
            *request.uri_mut() = with_authority(uri, &address.to_string())?;
            let host = HeaderValue::try_from(address.to_string());
            request
                .headers_mut()
                .insert(HOST, host.map_err(|_invalid| Error::HttpRequestUriInvalid)?);
            return Ok(());
        }
        let destination = Destination::of_uri(&uri).ok_or(Error::HttpRequestUriInvalid)?;
        if !settings.allowed_hosts.allows(&destination).unwrap_or(false) {
            settings.report_denied_host(&destination);
            return Err(Error::HttpRequestDenied);
        }
        if host.ends_with(".spin.internal") {
            return Err(unsupported("service chaining"));
        }
        if uri.scheme() != Some(&Scheme::HTTP) {
            return Err(unsupported("https"));
        }
        *request.uri_mut() = with_authority(uri, &destination.authority())?;
        Ok(())
    }
}

fn unsupported(what: &str) -> Error {
    let message = format!("the dev host does not support outbound {what}");
    eprintln!("{message}");
    Error::InternalError(Some(message))
}

fn with_authority(uri: Uri, authority: &str) -> Result<Uri, Error> {
    let mut parts = uri.into_parts();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Authority::try_from(authority).ok();
    Uri::from_parts(parts).map_err(|_invalid| Error::HttpRequestUriInvalid)
}

tokio::task_local! {
    /// hyper's pooled client passes nothing but the URI to a connector.
    static CONNECT_TIMEOUT: Duration;
}

#[derive(Clone)]
struct Connector;

#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error("connection timed out")]
    Timeout,
    #[error("connection refused")]
    Refused,
    #[error("address not available")]
    NoAddress,
}

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(async move {
            let host = uri.host().ok_or(ConnectError::NoAddress)?;
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let addresses = tokio::net::lookup_host((host, uri.port_u16().unwrap_or(80)))
                .await
                .map_err(|_unknown| ConnectError::NoAddress)?;
            let addresses: Vec<_> = addresses.collect();
            let stream = timeout(CONNECT_TIMEOUT.get(), TcpStream::connect(&*addresses))
                .await
                .map_err(|_elapsed| ConnectError::Timeout)?
                .map_err(|_refused| ConnectError::Refused)?;
            Ok(TokioIo::new(stream))
        })
    }
}

/// A response body that fails when no data comes for `timeout`.
struct TimedBody {
    /// Dropped when the time is over, which closes the connection.
    body: Option<Incoming>,
    timeout: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Body for TimedBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Some(body) = self.body.as_mut() else {
            return Poll::Ready(None);
        };
        if let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) {
            self.sleep = None;
            return Poll::Ready(
                frame.map(|frame| frame.map_err(|_broken| Error::HttpProtocolError)),
            );
        }
        let timeout = self.timeout;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep(timeout)));
        ready!(sleep.as_mut().poll(cx));
        self.body = None;
        Poll::Ready(Some(Err(Error::ConnectionReadTimeout)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Empty;

    use super::*;
    use crate::allowed_hosts::reached;

    #[test]
    fn what_is_opened_is_what_was_checked() {
        let client = HttpClient::new();
        reached::check("http", async |settings, address| {
            let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
            let Ok(request) = Request::get(address).body(body) else {
                return;
            };
            let response = client.send(settings, request, RequestOptions::default());
            assert!(response.await.is_err(), "nothing there speaks HTTP");
        });
    }
}
