//! The exporter's certificate and key, from PEM files that are read once: a new
//! certificate needs a restart.

use std::{path::Path, sync::Arc};

use anyhow::{Context as _, ensure};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio_rustls::TlsAcceptor;

/// Reads a chain of certificates, the exporter's own first, and its key.
///
/// # Errors
/// A file cannot be read, or the two do not belong together.
pub fn acceptor(certificates: &Path, key: &Path) -> anyhow::Result<TlsAcceptor> {
    let chain = CertificateDer::pem_file_iter(certificates)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| format!("cannot read certificates from {}", certificates.display()))?;
    ensure!(
        !chain.is_empty(),
        "no certificate in {}",
        certificates.display()
    );
    // Its error names what is missing, not what was read.
    let private = PrivateKeyDer::from_pem_file(key)
        .with_context(|| format!("cannot read a private key from {}", key.display()))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .context("no version of TLS")?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .with_context(|| {
            let (certificates, key) = (certificates.display(), key.display());
            format!("cannot serve the certificate in {certificates} with the key in {key}")
        })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
