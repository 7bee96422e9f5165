//! The command `health`: whether the exporter of the same options is alive, for a
//! container that has no other program to ask it with. Owns how its own address
//! is found from the one it listens on.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use http_body_util::Empty;
use hyper::{Request, StatusCode, body::Bytes, client::conn::http1, header::HOST};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::config::Config;

/// Longest time for the whole question: less than the three seconds after which
/// a container's health check is taken for failed, so that it can say why.
const LIMIT: Duration = Duration::from_millis(2500);

/// Asks the exporter's `/healthz`.
///
/// # Errors
/// It does not answer 200 in time.
pub async fn health(config: &Config) -> anyhow::Result<()> {
    let address = own_address(&config.listen).await?;
    let asking = ask(address, config.exposure.tls.is_some());
    let status = match timeout(LIMIT, asking).await {
        Ok(status) => status.with_context(|| format!("no answer from {address}"))?,
        Err(_elapsed) => bail!("no answer from {address} within {LIMIT:?}"),
    };
    ensure!(status == StatusCode::OK, "{address} answers {status}");
    Ok(())
}

/// Where what listens there is reached from its own machine.
async fn own_address(listen: &str) -> anyhow::Result<SocketAddr> {
    let mut addresses = tokio::net::lookup_host(listen)
        .await
        .with_context(|| format!("unusable address {listen} (--listen, EXPORTER_LISTEN)"))?;
    let mut address = addresses
        .next()
        .with_context(|| format!("{listen} has no address"))?;
    ensure!(
        address.port() != 0,
        "{listen} does not say which port the exporter has"
    );
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    Ok(address)
}

async fn ask(address: SocketAddr, over_tls: bool) -> anyhow::Result<StatusCode> {
    let stream = TcpStream::connect(address).await?;
    if !over_tls {
        return ask_over(stream).await;
    }
    let provider = Arc::new(ring::default_provider());
    let trust = Arc::new(AnyCertificate(Arc::clone(&provider)));
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(trust)
        .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));
    let name = ServerName::IpAddress(address.ip().into());
    ask_over(connector.connect(name, stream).await?).await
}

async fn ask_over(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> anyhow::Result<StatusCode> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends with the runtime at the latest.
    tokio::spawn(connection);
    let request = Request::get("/healthz")
        .header(HOST, "localhost")
        .body(Empty::<Bytes>::new())?;
    Ok(sender.send_request(request).await?.status())
}

/// Takes any certificate: the exporter's is for the name that others reach it by,
/// and this is asked over this machine's own loopback, or an address that is its
/// own, and tells nothing.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_address_is_one_that_reaches_it() {
        for (listen, reached) in [
            ("0.0.0.0:8001", Some("127.0.0.1:8001")),
            ("[::]:8001", Some("[::1]:8001")),
            ("127.0.0.2:80", Some("127.0.0.2:80")),
            ("0.0.0.0:0", None),
            ("8001", None),
        ] {
            let found = own_address(listen).await.ok();
            assert_eq!(
                found,
                reached.map(|text| text.parse().expect("one")),
                "{listen}"
            );
        }
    }
}
