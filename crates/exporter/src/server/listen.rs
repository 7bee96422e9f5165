//! Accepts connections, limits their number, speaks TLS on them if configured, and
//! closes those of clients that are too slow.
//
// hyper-util and tokio-rustls are used directly, not through axum-server, which
// does not limit connections and needs HTTP/2.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::{GracefulShutdown, Watcher},
    service::TowerToHyperService,
};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;

/// Concurrent connections; further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 512;
/// Concurrent connections of one client; further ones are closed. A quarter, so that one
/// client does not keep out the others, but many may come through one proxy.
const MAX_CONNECTIONS_OF_CLIENT: usize = MAX_CONNECTIONS / 4;
/// A longer head of a request gets a 431.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// The pause after accepting failed for lack of files or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

pub(crate) struct Server {
    pub(crate) listener: TcpListener,
    pub(crate) router: Router,
    /// Without it, connections are plain HTTP.
    pub(crate) tls: Option<TlsAcceptor>,
    /// For the TLS handshake, the head of a request including the idle time before
    /// it, and each write.
    pub(crate) client_timeout: Duration,
}

impl Server {
    /// Serves until `shutdown`, and then until running requests are finished, which
    /// may take forever.
    pub(crate) async fn serve(self, shutdown: impl Future<Output = ()>) {
        let graceful = GracefulShutdown::new();
        let accept_loop = async {
            let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
            let clients = Arc::new(Clients::default());
            loop {
                // The semaphore is never closed.
                let permit = Arc::clone(&permits).acquire_owned().await;
                let (stream, address) = accept(&self.listener).await;
                let Some(of_client) = Clients::admit(&clients, address.ip()) else {
                    tracing::debug!("too many connections of {address}");
                    continue;
                };
                let connection = Connection {
                    router: self.router.clone(),
                    tls: self.tls.clone(),
                    timeout: self.client_timeout,
                };
                let watcher = graceful.watcher();
                tokio::spawn(async move {
                    let _permits = (permit, of_client);
                    // Most of these clients just disconnected.
                    if let Err(error) = connection.serve(stream, watcher).await {
                        tracing::debug!("connection: {error:#}");
                    }
                });
            }
        };
        tokio::select! {
            () = accept_loop => {}
            () = shutdown => {}
        }
        drop(self.listener);
        graceful.shutdown().await;
    }
}

async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            // The client disconnected.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionAborted
                        | io::ErrorKind::ConnectionRefused
                        | io::ErrorKind::ConnectionReset
                ) => {}
            Err(error) => {
                tracing::error!("cannot accept connections: {error}");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// The number of connections of each client.
#[derive(Default)]
struct Clients(Mutex<HashMap<IpAddr, usize>>);

/// One connection of a client, until it is dropped.
struct OfClient {
    clients: Arc<Clients>,
    client: IpAddr,
}

impl Clients {
    /// Counts a connection; None if the client has too many.
    fn admit(clients: &Arc<Self>, address: IpAddr) -> Option<OfClient> {
        let client = client_of(address);
        let mut counts = clients.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(client).or_default();
        if *count >= MAX_CONNECTIONS_OF_CLIENT {
            return None;
        }
        *count += 1;
        Some(OfClient {
            clients: Arc::clone(clients),
            client,
        })
    }
}

impl Drop for OfClient {
    fn drop(&mut self) {
        let mut counts = self
            .clients
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.client);
            }
        }
    }
}

/// A host in IPv6 has a network of 2^64 addresses.
fn client_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (!0 << 64)).into(),
        address => address,
    }
}

struct Connection {
    router: Router,
    tls: Option<TlsAcceptor>,
    timeout: Duration,
}

impl Connection {
    async fn serve(self, stream: TcpStream, watcher: Watcher) -> anyhow::Result<()> {
        // Otherwise the end of a large response waits for the client's delayed
        // acknowledgement. A failure only costs time.
        let _ = stream.set_nodelay(true);
        let stream = with_write_timeout(stream, self.timeout);
        match &self.tls {
            None => self.serve_http(stream, watcher).await,
            Some(tls) => {
                let stream = timeout(self.timeout, tls.accept(stream)).await??;
                self.serve_http(stream, watcher).await
            }
        }
    }

    async fn serve_http<S>(&self, stream: S, watcher: Watcher) -> anyhow::Result<()>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let service = TowerToHyperService::new(self.router.clone());
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.timeout)
            .max_header_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service);
        Ok(watcher.watch(connection).await?)
    }
}

/// Fails a write that makes no progress for `limit`: the client does not read. Reads
/// are limited by hyper, which knows whether a connection is idle.
fn with_write_timeout<S>(stream: S, limit: Duration) -> Pin<Box<TimeoutStream<S>>>
where
    S: AsyncRead + AsyncWrite,
{
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(limit));
    Box::pin(stream)
}

/// Reads a certificate chain, the exporter's own certificate first, and its private
/// key from PEM files.
pub(crate) fn tls_acceptor(certificates: &Path, key: &Path) -> anyhow::Result<TlsAcceptor> {
    let chain = CertificateDer::pem_file_iter(certificates)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| format!("cannot read certificates from {}", certificates.display()))?;
    ensure!(
        !chain.is_empty(),
        "no certificate in {}",
        certificates.display()
    );
    // The error names what is missing, not what was read.
    let private_key = PrivateKeyDer::from_pem_file(key)
        .with_context(|| format!("cannot read a private key from {}", key.display()))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .context("no version of TLS")?
        .with_no_client_auth()
        .with_single_cert(chain, private_key)
        .with_context(|| {
            let (certificates, key) = (certificates.display(), key.display());
            format!("cannot use the certificate in {certificates} with the key in {key}")
        })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime")
    }

    #[test]
    fn a_write_to_a_client_that_does_not_read_fails() {
        runtime().block_on(async {
            let (near, _far) = duplex(4);
            let mut near = with_write_timeout(near, LIMIT);
            let began = tokio::time::Instant::now();
            let error = near
                .write_all(b"12345")
                .await
                .expect_err("the client does not read");
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            assert_eq!(began.elapsed().as_secs(), LIMIT.as_secs());
        });
    }

    #[test]
    fn a_client_in_ipv6_is_a_network() {
        let client = |address: &str| client_of(address.parse().expect("an address"));
        assert_eq!(client("2001:db8:1:2:3:4:5:6"), client("2001:db8:1:2::7"));
        assert_ne!(client("2001:db8:1:2::7"), client("2001:db8:1:3::7"));
        assert_eq!(client("::ffff:10.0.0.7"), client("10.0.0.7"));
        assert_ne!(client("10.0.0.7"), client("10.0.0.8"));
    }

    #[test]
    fn a_slow_or_silent_client_is_waited_for() {
        runtime().block_on(async {
            let (near, mut far) = duplex(1);
            let mut near = with_write_timeout(near, LIMIT);
            let reading = tokio::spawn(async move {
                let mut read = Vec::new();
                for _ in 0..3 {
                    sleep(LIMIT * 9 / 10).await;
                    read.push(far.read_u8().await.expect("a byte"));
                }
                sleep(LIMIT * 2).await;
                far.write_u8(b'x').await.expect("written");
                read
            });
            near.write_all(b"123").await.expect("they are read");
            assert_eq!(near.read_u8().await.expect("a byte"), b'x');
            assert_eq!(reading.await.expect("no panic"), b"123");
        });
    }
}
