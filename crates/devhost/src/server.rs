//! The HTTP server: accepts connections, and passes requests to the component of
//! their route.
//!
//! Serves Spin's own paths, and responds 404 and 500 without a body, as Spin does.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::uri::{Authority, Scheme};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use wasmtime_wasi_http::WasiBody;
use wasmtime_wasi_http::handler::ProxyHandler;

use crate::instance::Instances;
use crate::routes::{RouteMatch, Routes};

const WELL_KNOWN_PREFIX: &str = "/.well-known/spin/";
/// Ports that `--find-free-port` tries.
const MAX_PORTS_TRIED: u16 = 10;

/// An application that is ready to serve.
pub(crate) struct Server {
    pub(crate) routes: Routes,
    /// The instances of each component, by its id.
    pub(crate) components: HashMap<String, ProxyHandler<Instances>>,
    /// The JSON of `/.well-known/spin/info`.
    pub(crate) info: String,
    pub(crate) tcp_nodelay: bool,
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
        loop {
            let (stream, client) = match listener.accept().await {
                Ok(accepted) => accepted,
                // One connection failed, or there are too many. Others continue.
                Err(error) => {
                    eprintln!("Cannot accept a connection: {error}");
                    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                    continue;
                }
            };
            tokio::spawn(Arc::clone(&self).serve_connection(stream, client));
        }
    }

    async fn serve_connection(self: Arc<Self>, stream: TcpStream, client: SocketAddr) {
        if self.tcp_nodelay {
            // Otherwise a response of two writes waits for the client's delayed
            // acknowledgement. Nothing else depends on it.
            let _ = stream.set_nodelay(true);
        }
        let service = service_fn(|request| {
            let server = Arc::clone(&self);
            async move { server.respond(request, client).await }
        });
        // The client went away, or sent no HTTP.
        let _ = Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service)
            .await;
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
                eprintln!("Component {component} failed a request on {path}: {error:#}");
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
            ensure!(text.is_ok(), "header {name} is not valid UTF-8: {value:?}");
        }
        let uri = request.uri().clone();
        route_match.append_headers(request.headers_mut(), &uri, client);
        let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        let component = &self.components[&route_match.route.component];
        Ok(component.handle((), request).await?)
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
