//! The command `health`: checks that the exporter with the same options is alive. For
//! the health check of a container, which has no other program.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use http_body_util::Empty;
use hyper::{StatusCode, body::Bytes};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::time::timeout;

use crate::cli::Config;

/// Less than the three seconds after which a container's health check fails, so that
/// the error can be printed.
const TIMEOUT: Duration = Duration::from_millis(2500);

/// Fails unless the exporter responds 200 to `/healthz` in time.
pub(crate) async fn health(config: &Config) -> anyhow::Result<()> {
    let address = local_address(&config.listen).await?;
    let request = request_health(address, config.tls.is_some());
    let status = match timeout(TIMEOUT, request).await {
        Ok(status) => status.with_context(|| format!("no response from {address}"))?,
        Err(_elapsed) => bail!("no response from {address} within {TIMEOUT:?}"),
    };
    ensure!(status == StatusCode::OK, "{address} responds {status}");
    Ok(())
}

/// The address at which a listener is reachable from its own machine.
async fn local_address(listen: &str) -> anyhow::Result<SocketAddr> {
    let mut addresses = tokio::net::lookup_host(listen)
        .await
        .with_context(|| format!("unusable address {listen} (--listen, EXPORTER_LISTEN)"))?;
    let mut address = addresses
        .next()
        .with_context(|| format!("{listen} has no address"))?;
    ensure!(
        address.port() != 0,
        "{listen} does not name the port of the exporter"
    );
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    Ok(address)
}

async fn request_health(address: SocketAddr, over_tls: bool) -> anyhow::Result<StatusCode> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Arc::new(AnyCertificate(Arc::clone(&provider)));
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_http1()
        .build();
    let client = Client::builder(TokioExecutor::new()).build::<_, Empty<Bytes>>(connector);
    let scheme = if over_tls { "https" } else { "http" };
    let uri = format!("{scheme}://{address}/healthz").parse()?;
    Ok(client.get(uri).await?.status())
}

/// Accepts any certificate. The exporter's is valid for the name that other machines
/// use, this request does not leave the machine, and it contains no secret.
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
    async fn the_address_is_reachable_from_its_own_machine() {
        for (listen, reached) in [
            ("0.0.0.0:8001", Some("127.0.0.1:8001")),
            ("[::]:8001", Some("[::1]:8001")),
            ("127.0.0.2:80", Some("127.0.0.2:80")),
            ("0.0.0.0:0", None),
            ("8001", None),
        ] {
            let found = local_address(listen).await.ok();
            assert_eq!(
                found,
                reached.map(|text| text.parse().expect("one")),
                "{listen}"
            );
        }
    }
}
