//! The byte stream to Redis, over TCP, TLS or a Unix socket. It cuts long strings out of
//! the replies while they arrive.
//
// The redis crate would connect by itself, but it holds each reply in memory as a whole:
// a field of a hash may have 512 MB, and a page has hundreds of them. Redis has no
// command that tells how long the fields of a hash are.

use std::{
    io, mem,
    ops::Range,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use hyper_rustls::ConfigBuilderExt as _;
use redis::ConnectionAddr;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::TlsConnector;

/// The longest string of a reply that is received.
pub(crate) const MAX_STRING_BYTES: u64 = 64 * 1024;

/// What is received instead of a longer string. It is not UTF-8, and fits into the head
/// of any longer string (`$65537`).
pub(crate) const TOO_LONG: &[u8] = b"\xff";
const TOO_LONG_REPLY: &[u8] = b"$1\r\n\xff\r\n";

/// The longest head of a string: its type and length.
const MAX_HEAD_BYTES: usize = 32;

const BUFFER_BYTES: usize = 64 * 1024;

/// A connection's stream.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// The address, credentials and TLS settings of one Redis.
pub(crate) struct Transport {
    address: ConnectionAddr,
    tls: Option<TlsConnector>,
}

/// A node of a Redis Cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Transport {
    /// `authority` are the certificates (PEM) to trust instead of the system's.
    pub(crate) fn new(address: ConnectionAddr, authority: Option<&[u8]>) -> io::Result<Self> {
        let over_tls = matches!(address, ConnectionAddr::TcpTls { .. });
        let tls = over_tls.then(|| tls_connector(authority)).transpose()?;
        Ok(Self { address, tls })
    }

    /// Connects to the address, or to another node of its cluster.
    pub(crate) async fn connect(
        &self,
        node: Option<Node>,
    ) -> io::Result<CutStrings<Box<dyn Stream>>> {
        let address = match node {
            None => self.address.clone(),
            Some(node) => self.address_of(node),
        };
        let stream: Box<dyn Stream> = match (&address, &self.tls) {
            (ConnectionAddr::Unix(path), _) => Box::new(UnixStream::connect(path).await?),
            (ConnectionAddr::TcpTls { host, port, .. }, Some(tls)) => {
                let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
                let stream = connect_tcp(host, *port).await?;
                Box::new(tls.connect(name, stream).await?)
            }
            (ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. }, _) => {
                Box::new(connect_tcp(host, *port).await?)
            }
        };
        Ok(CutStrings::new(stream))
    }

    /// The address of a node, with the TLS settings of this one.
    fn address_of(&self, Node { host, port }: Node) -> ConnectionAddr {
        match &self.address {
            ConnectionAddr::TcpTls {
                insecure,
                tls_params,
                ..
            } => ConnectionAddr::TcpTls {
                host,
                port,
                insecure: *insecure,
                tls_params: tls_params.clone(),
            },
            ConnectionAddr::Tcp(..) | ConnectionAddr::Unix(_) => ConnectionAddr::Tcp(host, port),
        }
    }

    /// Where Redis is.
    pub(crate) fn address(&self) -> &ConnectionAddr {
        &self.address
    }
}

async fn connect_tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn tls_connector(authority: Option<&[u8]>) -> io::Result<TlsConnector> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    let config = match authority {
        None => config.with_native_roots()?,
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(authority) {
                let certificate = certificate.map_err(io::Error::other)?;
                roots.add(certificate).map_err(io::Error::other)?;
            }
            config.with_root_certificates(roots)
        }
    };
    Ok(TlsConnector::from(Arc::new(config.with_no_client_auth())))
}

/// Replaces every string of the replies that is longer than [`MAX_STRING_BYTES`] by
/// [`TOO_LONG`]. Knows of the [protocol](https://redis.io/docs/latest/develop/reference/protocol-spec/)
/// only that these begin with a type, their length and a line break.
pub(crate) struct CutStrings<S> {
    inner: S,
    at: At,
    buffer: Box<[u8]>,
    /// The part of the buffer that can be read.
    ready: Range<usize>,
    /// The part of the buffer with the beginning of a line that has not arrived as a
    /// whole.
    held: Range<usize>,
}

/// The part of the reply to which the next byte belongs.
#[derive(Clone, Copy)]
enum At {
    /// The beginning of a line.
    Line,
    /// A line that is no head of a string.
    OtherLine,
    /// A string, of which this number of bytes is left, with its line break.
    String(u64),
    /// Likewise, a string that is too long.
    LongString(u64),
}

impl<S> CutStrings<S> {
    fn new(inner: S) -> Self {
        Self {
            inner,
            at: At::Line,
            buffer: vec![0; BUFFER_BYTES].into(),
            ready: 0..0,
            held: 0..0,
        }
    }
}

/// Cuts strings out of bytes that have arrived, in place. Returns how many bytes are left,
/// and where the bytes begin that are to be cut again, together with the next ones.
fn cut(at: &mut At, bytes: &mut [u8]) -> io::Result<(usize, usize)> {
    let (mut read, mut written) = (0, 0);
    while let Some(&first) = bytes.get(read) {
        let begin = read;
        let rest = &bytes[begin..];
        match *at {
            At::String(left) | At::LongString(left) => {
                let taken = rest.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                read += taken;
                let still_left = left - taken as u64;
                let is_long = matches!(at, At::LongString(_));
                *at = match (still_left, is_long) {
                    (0, _) => At::Line,
                    (left, false) => At::String(left),
                    (left, true) => At::LongString(left),
                };
                if is_long {
                    continue;
                }
            }
            At::Line if !matches!(first, b'$' | b'=' | b'!') => {
                *at = At::OtherLine;
                continue;
            }
            At::OtherLine => {
                let end = line_end(rest);
                read += end.unwrap_or(rest.len());
                if end.is_some() {
                    *at = At::Line;
                }
            }
            At::Line => {
                let Some(end) = line_end(rest) else {
                    if rest.len() > MAX_HEAD_BYTES {
                        let text = "Redis sent a string without a length";
                        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                    }
                    break;
                };
                read += end;
                match string_length(&rest[1..end]) {
                    Some(length) if length > MAX_STRING_BYTES => {
                        *at = At::LongString(length.saturating_add(2));
                        let end = written + TOO_LONG_REPLY.len();
                        bytes[written..end].copy_from_slice(TOO_LONG_REPLY);
                        written = end;
                        continue;
                    }
                    Some(length) => *at = At::String(length + 2),
                    // A null, or something that the client does not accept either.
                    None => {}
                }
            }
        }
        if written < begin {
            bytes.copy_within(begin..read, written);
        }
        written += read - begin;
    }
    Ok((written, read))
}

/// The length of the first line, with its line break.
fn line_end(bytes: &[u8]) -> Option<usize> {
    let feed = bytes.iter().position(|&byte| byte == b'\n')?;
    Some(feed + 1)
}

fn string_length(digits: &[u8]) -> Option<u64> {
    let digits = digits.strip_suffix(b"\r\n")?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

impl<S: AsyncRead + Unpin> AsyncRead for CutStrings<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.ready.is_empty() {
            let held = this.held.len();
            this.buffer.copy_within(mem::take(&mut this.held), 0);
            this.held = 0..held;
            let mut arriving = ReadBuf::new(&mut this.buffer);
            arriving.set_filled(held);
            ready!(Pin::new(&mut this.inner).poll_read(context, &mut arriving))?;
            let filled = arriving.filled().len();
            if filled == held {
                // The end.
                return Poll::Ready(Ok(()));
            }
            let (left, held) = cut(&mut this.at, &mut this.buffer[..filled])?;
            this.ready = 0..left;
            this.held = held..filled;
        }
        let length = this.ready.len().min(out.remaining());
        let end = this.ready.start + length;
        out.put_slice(&this.buffer[this.ready.start..end]);
        this.ready.start = end;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for CutStrings<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    /// What is read of these bytes, if they arrive and are read in pieces.
    fn read_in_pieces(bytes: Vec<u8>, piece: usize) -> Vec<u8> {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.expect("a runtime").block_on(async move {
            let (near, mut far) = duplex(piece);
            let mut near = CutStrings::new(near);
            let writing = tokio::spawn(async move { far.write_all(&bytes).await });
            let (mut all, mut some) = (Vec::new(), vec![0; piece]);
            loop {
                let length = near.read(&mut some).await.expect("read");
                if length == 0 {
                    break;
                }
                all.extend_from_slice(&some[..length]);
            }
            writing.await.expect("no panic").expect("written");
            all
        })
    }

    fn string(length: usize) -> Vec<u8> {
        // What looks like a head is part of it.
        let content = b"$70000\r\n*+-\n".iter().copied().cycle().take(length);
        let head = format!("${length}\r\n").into_bytes();
        head.into_iter().chain(content).chain(*b"\r\n").collect()
    }

    #[test]
    fn a_string_that_is_too_long_is_cut() {
        let most = usize::try_from(MAX_STRING_BYTES).expect("it is small");
        let sent = [
            b"*5\r\n".to_vec(),
            string(most),
            string(most + 1),
            string(3_000_000),
            string(0),
            b"$-1\r\n-ERR long\r\n:5\r\n".to_vec(),
        ];
        let expected = [
            b"*5\r\n".to_vec(),
            string(most),
            TOO_LONG_REPLY.to_vec(),
            TOO_LONG_REPLY.to_vec(),
            string(0),
            b"$-1\r\n-ERR long\r\n:5\r\n".to_vec(),
        ];
        for piece in [1000, 65_536, 1_000_000] {
            assert!(
                read_in_pieces(sent.concat(), piece) == expected.concat(),
                "{piece}"
            );
        }
    }

    #[test]
    fn a_string_without_a_length_is_an_error() {
        let mut bytes = [b'$'; MAX_HEAD_BYTES + 1];
        assert!(cut(&mut At::Line, &mut bytes).is_err());
    }

    proptest! {
        #[test]
        fn shorter_replies_pass_as_they_are(
            parts in prop::collection::vec((0_usize..40, any::<bool>()), 0..20),
            piece in 1_usize..50,
        ) {
            let parts = parts.into_iter().map(|(length, is_string)| match is_string {
                true => string(length),
                false => format!("*{length}\r\n+OK\r\n").into_bytes(),
            });
            let sent: Vec<u8> = parts.flatten().collect();
            prop_assert_eq!(read_in_pieces(sent.clone(), piece), sent);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>, at in 0_u64..4) {
            let at = [At::Line, At::OtherLine, At::String(at), At::LongString(at)];
            for mut at in at {
                let mut bytes = bytes.clone();
                if let Ok((written, read)) = cut(&mut at, &mut bytes) {
                    prop_assert!(written <= read && read <= bytes.len());
                }
            }
        }
    }
}
