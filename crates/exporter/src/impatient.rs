//! A connection that fails when the other side takes nothing in for too long.
//! Reading is left to whoever knows what is to come: an idle connection may be
//! kept open.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// Such a connection.
#[derive(Debug)]
pub struct Impatient<S> {
    stream: S,
    limit: Duration,
    /// Runs while a write waits.
    patience: Option<Pin<Box<Sleep>>>,
}

impl<S> Impatient<S> {
    /// Lets each write wait for `limit`.
    pub fn new(stream: S, limit: Duration) -> Self {
        Self {
            stream,
            limit,
            patience: None,
        }
    }

    fn judge<T>(
        &mut self,
        context: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.patience = None;
            return polled;
        }
        let limit = self.limit;
        let patience = self.patience.get_or_insert_with(|| Box::pin(sleep(limit)));
        patience
            .as_mut()
            .poll(context)
            .map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Impatient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.judge(context, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, pieces);
        self.judge(context, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(context);
        self.judge(context, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(context);
        self.judge(context, polled)
    }
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
    fn a_client_that_takes_nothing_in_is_given_up() {
        runtime().block_on(async {
            let (near, _far) = duplex(4);
            let mut near = Impatient::new(near, LIMIT);
            let began = tokio::time::Instant::now();
            let error = near.write_all(b"12345").await.expect_err("nobody reads");
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            assert_eq!(began.elapsed().as_secs(), LIMIT.as_secs());
        });
    }

    #[test]
    fn one_that_is_slow_or_silent_is_not() {
        runtime().block_on(async {
            let (near, mut far) = duplex(1);
            let mut near = Impatient::new(near, LIMIT);
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
