//! A response's body that is handed out piece by piece, holds its place among the
//! scrapes until the client has taken it in, and breaks off when that takes too
//! long.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use axum::{
    body::{Bytes, HttpBody},
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use http_body::{Frame, SizeHint};
use tokio::{sync::OwnedSemaphorePermit, time::Instant};

/// The connection asks for the next piece when most of those before are sent.
const PIECE_BYTES: usize = 64 * 1024;

/// Such a body.
#[derive(Debug)]
pub struct Paced {
    rest: Bytes,
    deadline: Instant,
    _place: OwnedSemaphorePermit,
}

impl Paced {
    /// A body of these bytes, to be taken in by the deadline.
    #[must_use]
    pub fn new(bytes: Bytes, deadline: Instant, place: OwnedSemaphorePermit) -> Self {
        Self {
            rest: bytes,
            deadline,
            _place: place,
        }
    }
}

/// The answer to whom there is no place for.
#[must_use]
pub fn no_place() -> Response {
    let soon = [(header::RETRY_AFTER, "1")];
    let why = "too many scrapes at once\n";
    (StatusCode::SERVICE_UNAVAILABLE, soon, why).into_response()
}

impl HttpBody for Paced {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        if Instant::now() >= self.deadline {
            return Poll::Ready(Some(Err(io::ErrorKind::TimedOut.into())));
        }
        let length = self.rest.len().min(PIECE_BYTES);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}
