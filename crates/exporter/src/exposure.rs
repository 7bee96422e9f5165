//! The options for an exporter that more than its own machine can reach: who may
//! ask, TLS, and how much at a time. Owns names, defaults and help, and reads the
//! files they name.

use std::{path::PathBuf, time::Duration};

use anyhow::bail;
use clap::Args;
use tokio_rustls::TlsAcceptor;

use crate::{auth::Auth, tls};

/// How safely the metrics are served.
#[derive(Args)]
#[command(next_help_heading = "Exposure")]
pub struct ExposureOptions {
    /// File with a bearer token a line, one of which is needed for everything
    /// but /healthz and /readyz.
    #[arg(long, env = "EXPORTER_AUTH_BEARER_FILE", value_name = "FILE")]
    pub auth_bearer_file: Option<PathBuf>,

    /// File with a user:password a line, for basic authentication. With a file of
    /// tokens as well, either will do.
    #[arg(long, env = "EXPORTER_AUTH_BASIC_FILE", value_name = "FILE")]
    pub auth_basic_file: Option<PathBuf>,

    /// PEM file with the certificate to serve TLS with, and those that it needs
    /// to be trusted. It is read at the start: a new one needs a restart.
    #[arg(long, env = "EXPORTER_TLS_CERT_FILE", value_name = "FILE")]
    pub tls_cert_file: Option<PathBuf>,

    /// PEM file with the certificate's private key.
    #[arg(long, env = "EXPORTER_TLS_KEY_FILE", value_name = "FILE")]
    pub tls_key_file: Option<PathBuf>,

    /// Scrapes that are served at once; further ones are answered 503.
    #[arg(long, env = "EXPORTER_MAX_SCRAPES", value_name = "NUMBER", default_value = "40", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub max_scrapes: u16,

    /// Longest time, in milliseconds, that a client may take to agree on TLS, to
    /// send the head of a request, the pause before it included, and to take in
    /// a response.
    #[arg(long, env = "EXPORTER_CLIENT_TIMEOUT_MS", value_name = "MS", default_value = "30000", value_parser = clap::value_parser!(u64).range(100..=600_000))]
    pub client_timeout_ms: u64,
}

/// The options, checked. It holds secrets: it has no `Debug` on purpose.
#[derive(Clone)]
pub struct Exposure {
    /// Who may ask; None is everybody.
    pub auth: Option<Auth>,
    /// None is plain HTTP.
    pub tls: Option<TlsAcceptor>,
    /// Scrapes at once.
    pub max_scrapes: usize,
    /// Longest time for a client's part.
    pub client_timeout: Duration,
}

impl ExposureOptions {
    /// Reads the files.
    ///
    /// # Errors
    /// A file cannot be used, or one of the two for TLS is missing. No error
    /// shows a secret.
    pub fn check(&self) -> anyhow::Result<Exposure> {
        // Empty is what an unset variable gives in a Compose file.
        let given =
            |path: &'_ Option<PathBuf>| path.clone().filter(|path| !path.as_os_str().is_empty());
        let bearer = given(&self.auth_bearer_file);
        let basic = given(&self.auth_basic_file);
        let tls = match (given(&self.tls_cert_file), given(&self.tls_key_file)) {
            (Some(certificate), Some(key)) => Some(tls::acceptor(&certificate, &key)?),
            (None, None) => None,
            _ => bail!("TLS needs both --tls-cert-file and --tls-key-file"),
        };
        Ok(Exposure {
            auth: Auth::read(bearer.as_deref(), basic.as_deref())?,
            tls,
            max_scrapes: self.max_scrapes.into(),
            client_timeout: Duration::from_millis(self.client_timeout_ms),
        })
    }
}
