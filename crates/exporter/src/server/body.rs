//! Response bodies: compressed, and limited in number and time.

use std::{
    io::{self, Write as _},
    iter,
    sync::Arc,
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use flate2::{Compression, write::GzEncoder};
use futures_util::stream;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

/// Bytes per chunk. hyper asks for the next chunk when most of the earlier ones are
/// sent, and then the time-out is checked.
const CHUNK_BYTES: usize = 64 * 1024;

/// Compresses with gzip. The fastest level makes an exposition about 10× smaller;
/// higher levels cost a scrape more CPU time than they save the network.
pub(crate) fn gzip(plain: &[u8], level: Compression) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), level);
    encoder
        .write_all(plain)
        .and_then(|()| encoder.finish())
        .expect("writing to a Vec does not fail")
        .into()
}

/// Limits concurrent scrapes, which hold the memory of their responses.
#[derive(Clone)]
pub(crate) struct ScrapeLimit {
    permits: Arc<Semaphore>,
    client_timeout: Duration,
}

impl ScrapeLimit {
    pub(crate) fn new(max_scrapes: usize, client_timeout: Duration) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(max_scrapes)),
            client_timeout,
        }
    }

    pub(crate) fn acquire(&self) -> Result<ScrapePermit, TooManyScrapes> {
        let permit = Arc::clone(&self.permits).try_acquire_owned();
        Ok(ScrapePermit {
            permit: permit.map_err(|_limited| TooManyScrapes)?,
            client_timeout: self.client_timeout,
        })
    }
}

/// The response to a scrape beyond the limit.
pub(crate) struct TooManyScrapes;

impl IntoResponse for TooManyScrapes {
    fn into_response(self) -> Response {
        let headers = [(header::RETRY_AFTER, "1")];
        let text = "too many concurrent scrapes\n";
        (StatusCode::SERVICE_UNAVAILABLE, headers, text).into_response()
    }
}

/// The permit of one scrape.
pub(crate) struct ScrapePermit {
    permit: OwnedSemaphorePermit,
    client_timeout: Duration,
}

impl ScrapePermit {
    /// Responds, and releases the permit when the client has read the body. Aborts
    /// the response if that takes longer than the client's time-out.
    pub(crate) fn respond(self, mut headers: HeaderMap, mut body: Bytes) -> Response {
        let deadline = Instant::now() + self.client_timeout;
        headers.insert(header::CONTENT_LENGTH, body.len().into());
        let chunks = iter::from_fn(move || {
            let _held = &self.permit;
            if body.is_empty() {
                None
            } else if Instant::now() >= deadline {
                Some(Err(io::Error::from(io::ErrorKind::TimedOut)))
            } else {
                Some(Ok(body.split_to(body.len().min(CHUNK_BYTES))))
            }
        });
        (headers, Body::from_stream(stream::iter(chunks))).into_response()
    }
}
