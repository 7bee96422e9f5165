//! The HTTP server: accepts connections, and passes requests to the component of
//! their route.
//!
//! Serves Spin's own paths, and responds 404 and 500 without a body, as Spin does.
//! Beyond Spin, it limits connections: their number, and how long each can be without
//! a request.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context as PollContext, Poll};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::uri::{Authority, Scheme};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, sleep_until};
use wasmtime_wasi_http::handler::ProxyHandler;
use wasmtime_wasi_http::{Error, WasiBody};

use crate::instance::Instances;
use crate::routes::{RouteMatch, Routes};

const WELL_KNOWN_PREFIX: &str = "/.well-known/spin/";
/// Ports that `--find-free-port` tries.
const MAX_PORTS_TRIED: u16 = 10;
/// The longest part of a path or of a header's name in the log, in characters.
const MAX_LOGGED_CHARS: usize = 200;
/// The pause after the operating system refused to accept a connection.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// An application that is ready to serve.
pub(crate) struct Server {
    pub(crate) routes: Routes,
    /// The instances for each trigger, in the manifest's order.
    pub(crate) services: Vec<ProxyHandler<Instances>>,
    /// The JSON of `/.well-known/spin/info`.
    pub(crate) info: String,
    pub(crate) tcp_nodelay: bool,
    pub(crate) connections: ConnectionOptions,
    /// One permit for each request that can be executed at a time. A connection's own
    /// limit does not suffice: a request outlives the connection of a client that left.
    pub(crate) executions: Arc<Semaphore>,
}

/// Limits on the connections of clients.
#[derive(Clone, Copy, Debug, clap::Args)]
#[command(next_help_heading = "Beyond Spin")]
pub(crate) struct ConnectionOptions {
    /// Connections that are served at a time, and requests that are executed at a time.
    /// Further connections wait in the operating system's queue.
    #[arg(long, value_name = "COUNT", default_value = "512", value_parser = parse_connections)]
    pub(crate) max_connections: usize,

    /// Time that a connection is kept without a request: while its first or next
    /// request's head is not complete.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "30s",
        value_parser = crate::instance::parse_duration
    )]
    idle_connection_timeout: Duration,
}

fn parse_connections(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count) if (1..=Semaphore::MAX_PERMITS).contains(&count) => Ok(count),
        _ => Err(format!("{text:?} is no number of connections")),
    }
}

/// Listens on an address, or on a free port above its port.
///
/// # Errors
///
/// No port is free, or the process may not use it.
pub(crate) async fn listen(address: SocketAddr, find_free_port: bool) -> Result<TcpListener> {
    let last_port = match find_free_port {
        true => address.port().saturating_add(MAX_PORTS_TRIED - 1),
        false => address.port(),
    };
    for port in address.port()..=last_port {
        let address = SocketAddr::new(address.ip(), port);
        match TcpListener::bind(address).await {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {}
            result => return result.with_context(|| format!("unable to listen on {address}")),
        }
    }
    if find_free_port {
        bail!("no free port from {address} to {last_port}");
    }
    bail!("{address} is already in use; --find-free-port searches for a free one")
}

impl Server {
    /// Serves connections until the process ends.
    pub(crate) async fn serve(self: Arc<Self>, listener: TcpListener) -> Result<()> {
        let permits = Arc::new(Semaphore::new(self.connections.max_connections));
        let mut is_refused = false;
        loop {
            let permit = Arc::clone(&permits).acquire_owned().await?;
            let (stream, client) = match listener.accept().await {
                Ok(accepted) => accepted,
                // The client went away before.
                Err(error) if is_of_connection(&error) => continue,
                // No file descriptors are left, or no memory. Both come back when a
                // connection ends. Reported once, not at each attempt.
                Err(error) => {
                    if !is_refused {
                        eprintln!(
                            "Cannot accept connections: {error}. New ones wait until one ends."
                        );
                    }
                    is_refused = true;
                    sleep(ACCEPT_RETRY).await;
                    continue;
                }
            };
            is_refused = false;
            let server = Arc::clone(&self);
            tokio::spawn(async move {
                server.serve_connection(stream, client).await;
                drop(permit);
            });
        }
    }

    async fn serve_connection(self: Arc<Self>, stream: TcpStream, client: SocketAddr) {
        if self.tcp_nodelay {
            // Otherwise a response of two writes waits for the client's delayed
            // acknowledgement. Nothing else depends on it.
            let _ = stream.set_nodelay(true);
        }
        let activity = Activity::begin();
        let service = service_fn(|request| {
            let server = Arc::clone(&self);
            let request_guard = activity.begin_request();
            async move {
                let response = server.respond(request, client).await?;
                Ok::<_, anyhow::Error>(response.map(|body| GuardedBody {
                    body,
                    _request: request_guard,
                }))
            }
        });
        let builder = Builder::new(TokioExecutor::new());
        let connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        tokio::select! {
            biased;
            // The client went away, or sent no HTTP.
            _ = connection => {}
            () = activity.idle(self.connections.idle_connection_timeout) => {}
        }
    }

    async fn respond(
        &self,
        mut request: Request<Incoming>,
        client: SocketAddr,
    ) -> Result<Response<WasiBody>> {
        let path = request.uri().path().to_owned();
        if let Some(name) = path.strip_prefix(WELL_KNOWN_PREFIX) {
            return self.respond_well_known(name);
        }
        let Some(route_match) = self.routes.find(&path) else {
            return Ok(empty(StatusCode::NOT_FOUND));
        };
        complete_uri(&mut request)?;
        let component = &route_match.route.component;
        match self.call(&route_match, request, client).await {
            Ok(response) => Ok(response),
            Err(error) => {
                // As a Rust literal, so that a client's text cannot pass for a log line, and
                // clipped, so that it does not fill the log.
                let path: String = path.chars().take(MAX_LOGGED_CHARS).collect();
                eprintln!("Component {component} failed a request on {path:?}: {error:#}");
                Ok(empty(StatusCode::INTERNAL_SERVER_ERROR))
            }
        }
    }

    async fn call(
        &self,
        route_match: &RouteMatch<'_>,
        mut request: Request<Incoming>,
        client: SocketAddr,
    ) -> Result<Response<WasiBody>> {
        for (name, value) in request.headers() {
            let text = std::str::from_utf8(value.as_bytes());
            let name = name.as_str();
            ensure!(
                text.is_ok(),
                "header {name:.MAX_LOGGED_CHARS$} is not valid UTF-8"
            );
        }
        let uri = request.uri().clone();
        route_match.set_headers(request.headers_mut(), &uri, client);
        let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        let service = &self.services[route_match.route.trigger];
        let permit = Arc::clone(&self.executions).acquire_owned().await?;
        Ok(service.handle(permit, request).await?)
    }

    fn respond_well_known(&self, name: &str) -> Result<Response<WasiBody>> {
        match name {
            "health" => Ok(Response::new(full("OK".to_owned()))),
            "info" => Ok(Response::builder()
                .header(CONTENT_TYPE, "application/json")
                .body(full(self.info.clone()))?),
            _ => Ok(empty(StatusCode::NOT_FOUND)),
        }
    }
}

fn is_of_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionRefused | ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset
    )
}

/// The requests of one connection, and since when it has as many.
///
/// hyper's own time-outs leave gaps: none applies while it waits for the first bytes,
/// which tell HTTP/1 from HTTP/2, nor to an idle HTTP/2 connection.
#[derive(Clone)]
struct Activity(Arc<Mutex<(usize, Instant)>>);

impl Activity {
    fn begin() -> Self {
        Self(Arc::new(Mutex::new((0, Instant::now()))))
    }

    fn begin_request(&self) -> RequestGuard {
        self.change(|requests| requests + 1);
        RequestGuard(self.clone())
    }

    fn change(&self, change: impl FnOnce(usize) -> usize) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *state = (change(state.0), Instant::now());
    }

    /// Ends when there has been no request for `timeout`. Wakes the connection's task
    /// only once in that time: an additional poll could split a response into two
    /// writes.
    async fn idle(&self, timeout: Duration) {
        loop {
            let (requests, since) = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let begin = if requests == 0 { since } else { now };
            match begin.checked_add(timeout) {
                Some(end) if end <= now => return,
                Some(end) => sleep_until(end).await,
                None => std::future::pending().await,
            }
        }
    }
}

/// A request, from its complete head to the end of its response.
struct RequestGuard(Activity);

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.0.change(|requests| requests - 1);
    }
}

/// A response's body, at whose end its request ends.
struct GuardedBody {
    body: WasiBody,
    _request: RequestGuard,
}

impl Body for GuardedBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut PollContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Completes a request's URI by scheme and authority.
fn complete_uri(request: &mut Request<Incoming>) -> Result<()> {
    let host: Option<Authority> = match request.headers().get(HOST) {
        None => None,
        Some(host) => {
            let host = host.to_str().context("'Host' header is not valid UTF-8")?;
            let host = host.parse();
            Some(host.context("'Host' header contains an invalid authority")?)
        }
    };
    let mut parts = request.uri().clone().into_parts();
    parts.authority = match (host, parts.authority) {
        (Some(host), Some(authority)) => {
            ensure!(
                host == authority,
                "authority in 'Host' header does not match authority in URI"
            );
            Some(host)
        }
        (host, authority) => Some(
            host.or(authority)
                .context("no 'Host' header present in request")?,
        ),
    };
    parts.scheme = Some(Scheme::HTTP);
    *request.uri_mut() = Uri::from_parts(parts)?;
    Ok(())
}

fn empty(status: StatusCode) -> Response<WasiBody> {
    let mut response = Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response
}

fn full(text: String) -> WasiBody {
    Full::new(Bytes::from(text))
        .map_err(|never| match never {})
        .boxed_unsync()
}
