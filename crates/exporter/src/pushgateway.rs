//! A Pushgateway that a group is pushed to. Owns the request: where it goes, with
//! which credentials, and how a failure is worded, so that none of them leaves.

use std::{fmt, time::Duration};

use anyhow::{Context as _, ensure};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use functional_scaffold_protocol::{exposition::Format, pushgateway::group_path};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, Response, Uri,
    body::{Bytes, Incoming},
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue},
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustls::crypto::ring;
use thiserror::Error;
use tokio::time::timeout;
use url::Url;

/// Longest time for one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of an answer that are read, to say why it refused.
const MAX_ANSWER_BYTES: usize = 1000;

/// Why a group was not taken.
#[derive(Debug, Error)]
pub enum PushError {
    /// There was no answer.
    #[error("no answer: {0:#}")]
    NoAnswer(anyhow::Error),
    /// The answer was not that it was taken.
    #[error("answered {status}: {text}")]
    Refused {
        /// The answer's status.
        status: u16,
        /// The beginning of its body.
        text: String,
    },
}

impl PushError {
    /// Whether the same may be taken a little later.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::NoAnswer(_) => true,
            Self::Refused { status, .. } => *status >= 500 || *status == 429,
        }
    }
}

/// One group of a Pushgateway.
pub struct Group {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    uri: Uri,
    authorization: Option<HeaderValue>,
    // Without what may be secret in it.
    address: String,
}

impl fmt::Display for Group {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.address)
    }
}

impl Group {
    /// The group with this job and these further labels in the Pushgateway at
    /// `url`, which may hold user and password.
    ///
    /// # Errors
    /// The URL is none of HTTP. No error shows it: it may hold a password.
    pub fn new(url: &str, job: &str, labels: &[(String, String)]) -> anyhow::Result<Self> {
        let labels = labels.iter().map(|(name, value)| (&**name, &**value));
        Self::at(url, &group_path(job, labels))
    }

    /// The group with this path below the Pushgateway's own, as [`group_path`]
    /// gives it.
    ///
    /// # Errors
    /// The URL is none of HTTP, or the path is no group's.
    pub fn at(url: &str, path: &str) -> anyhow::Result<Self> {
        let mut url = Url::parse(url).context("the Pushgateway's URL is none")?;
        ensure!(
            matches!(url.scheme(), "http" | "https"),
            "the Pushgateway's URL begins with neither http:// nor https://"
        );
        let authorization = basic(&url)?;
        // These fail for URLs without a host, which those of HTTP have.
        let _ = (url.set_username(""), url.set_password(None));
        // The path may be a log's: it leads to a group, and to nothing else.
        let is_group = ["/metrics/job/", "/metrics/job@base64/"]
            .iter()
            .any(|start| path.starts_with(start));
        let path = format!("{}{path}", url.path().trim_end_matches('/'));
        url.set_path(&path);
        ensure!(
            is_group && url.path() == path,
            "{path:?} is not the path of a group"
        );
        url.set_query(None);
        url.set_fragment(None);
        let uri = url
            .as_str()
            .parse()
            .context("the Pushgateway's URL is none")?;
        // The system's certificates, or SSL_CERT_FILE's.
        let connector = HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(ring::default_provider())
            .context("no certificates to trust")?
            .https_or_http()
            .enable_http1()
            .build();
        Ok(Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
            uri,
            authorization,
            address: url.into(),
        })
    }

    /// Replaces the group by an exposition in the text format.
    ///
    /// # Errors
    /// See [`PushError`].
    pub async fn put(&self, exposition: &Bytes) -> Result<(), PushError> {
        let mut request = Request::new(Full::new(exposition.clone()));
        *request.method_mut() = Method::PUT;
        *request.uri_mut() = self.uri.clone();
        let headers = request.headers_mut();
        let content_type = HeaderValue::from_static(Format::Text.content_type());
        headers.insert(CONTENT_TYPE, content_type);
        if let Some(authorization) = &self.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        let answering = async {
            let answer = self.client.request(request).await?;
            let status = answer.status();
            anyhow::Ok((status, beginning(answer).await))
        };
        let (status, text) = timeout(REQUEST_TIMEOUT, answering)
            .await
            .with_context(|| format!("not within {REQUEST_TIMEOUT:?}"))
            .flatten()
            .map_err(PushError::NoAnswer)?;
        if status.is_success() {
            return Ok(());
        }
        let status = status.as_u16();
        Err(PushError::Refused { status, text })
    }
}

/// The user and password of a URL as a header.
fn basic(url: &Url) -> anyhow::Result<Option<HeaderValue>> {
    if url.username().is_empty() && url.password().is_none() {
        return Ok(None);
    }
    let decoded = |text| percent_encoding::percent_decode_str(text).collect::<Vec<u8>>();
    let user = decoded(url.username());
    let password = decoded(url.password().unwrap_or_default());
    let encoded = BASE64_STANDARD.encode([&user[..], b":", &password].concat());
    let mut header = HeaderValue::try_from(format!("Basic {encoded}"))
        .context("unusable user or password of the Pushgateway")?;
    header.set_sensitive(true);
    Ok(Some(header))
}

/// The beginning of an answer, on one line.
async fn beginning(answer: Response<Incoming>) -> String {
    let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES)
        .collect()
        .await;
    // Also where it is longer than that, or breaks off: the status says enough.
    let body = body.map(|body| body.to_bytes()).unwrap_or_default();
    let text = String::from_utf8_lossy(&body);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_from_a_log_leads_to_a_group_alone() {
        let at = |path| Group::at("http://me:s3cret@h:9091/below/", path);
        let group = at("/metrics/job@base64/YS9i/instance/x").expect("it is a group's");
        assert_eq!(
            group.to_string(),
            "http://h:9091/below/metrics/job@base64/YS9i/instance/x"
        );
        for path in [
            "",
            "/api/v1/admin/wipe",
            "/metrics/job/../../api/v1/admin/wipe",
            "/metrics/job/%2e%2e/x",
            "/metrics/job/x?y",
        ] {
            let error = at(path).err().expect("it is refused");
            assert!(!format!("{error:#}").contains("s3cret"), "{error:#}");
        }
    }
}
