//! Connections: accepted, few enough, with TLS or without, and cut off when a
//! client does not do its part in time. What is answered is [`crate::http`]'s.

use std::{io, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::{GracefulShutdown, Watcher},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

use crate::impatient::Impatient;

/// Connections at once; further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 512;
/// Bytes of a request's head; a longer one is answered 431.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// The pause after no connection could be accepted, for want of something that
/// others use up: files, memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// A server of routes.
pub struct Server {
    /// Where connections come from.
    pub listener: TcpListener,
    /// What they are answered.
    pub routes: Router,
    /// None is plain HTTP.
    pub tls: Option<TlsAcceptor>,
    /// Longest time for each part that is the client's.
    pub client_timeout: Duration,
}

impl Server {
    /// Serves until `stopped`, and then until the requests under way are
    /// answered, which may be for ever.
    pub async fn serve(self, stopped: impl Future<Output = ()>) {
        let graceful = GracefulShutdown::new();
        let serving = async {
            let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
            loop {
                // The semaphore is never closed.
                let place = Arc::clone(&places).acquire_owned().await;
                let stream = accept(&self.listener).await;
                let connection = Connection {
                    routes: self.routes.clone(),
                    tls: self.tls.clone(),
                    limit: self.client_timeout,
                };
                let watcher = graceful.watcher();
                tokio::spawn(async move {
                    let _place = place;
                    // Most clients just went away.
                    if let Err(error) = connection.serve(stream, watcher).await {
                        tracing::debug!("connection: {error:#}");
                    }
                });
            }
        };
        tokio::select! {
            () = serving => {}
            () = stopped => {}
        }
        drop(self.listener);
        graceful.shutdown().await;
    }
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _address)) => return stream,
            Err(error) if is_the_clients(&error) => {}
            Err(error) => {
                tracing::error!("cannot accept connections: {error}");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn is_the_clients(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
    )
}

struct Connection {
    routes: Router,
    tls: Option<TlsAcceptor>,
    limit: Duration,
}

impl Connection {
    async fn serve(self, stream: TcpStream, watcher: Watcher) -> anyhow::Result<()> {
        // Without it, the end of a large response waits for the client's
        // delayed acknowledgement. It is only speed: a failure is ignored.
        let _ = stream.set_nodelay(true);
        let stream = Impatient::new(stream, self.limit);
        let Some(tls) = &self.tls else {
            return self.converse(stream, watcher).await;
        };
        let stream = timeout(self.limit, tls.accept(stream)).await??;
        self.converse(stream, watcher).await
    }

    async fn converse<S>(&self, stream: S, watcher: Watcher) -> anyhow::Result<()>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let routes = TowerToHyperService::new(self.routes.clone());
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limit)
            .max_header_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), routes);
        Ok(watcher.watch(connection).await?)
    }
}
