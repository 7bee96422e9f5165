//! One HTTP request over a new connection, without an HTTP library: xtask compiles
//! in seconds, and tests see every byte of a response.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context as _, ensure};

/// How long a connection, and each read and write on it, may take by default.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// A response.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The status line and the headers.
    pub head: String,
    /// The body, chunks put together.
    pub body: Vec<u8>,
}

impl Response {
    /// The value of a header, by its name in any case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let headers = self.head.lines().filter_map(|line| line.split_once(':'));
        let mut named = headers.filter(|(header, _)| header.eq_ignore_ascii_case(name));
        named.next().map(|(_, value)| value.trim())
    }

    /// The body as text.
    ///
    /// # Errors
    /// It is not UTF-8.
    pub fn text(self) -> anyhow::Result<String> {
        String::from_utf8(self.body).context("the body is not UTF-8")
    }

    /// Parses the bytes of a response.
    ///
    /// # Errors
    /// They are not a whole response.
    pub fn parse(bytes: &[u8]) -> anyhow::Result<Self> {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let end =
            end.with_context(|| format!("no head in {:?}", String::from_utf8_lossy(bytes)))?;
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        let mut response = Self {
            status: status.with_context(|| format!("no status in {head:?}"))?,
            head,
            body: bytes[end + 4..].to_vec(),
        };
        if response.header("transfer-encoding") == Some("chunked") && !response.body.is_empty() {
            response.body = join_chunks(&response.body)?;
        }
        Ok(response)
    }
}

/// Sends `GET path`.
///
/// # Errors
/// There is no response within [`TIMEOUT`].
pub fn get(address: SocketAddr, path: &str) -> anyhow::Result<Response> {
    request(address, &format!("GET {path}"), &[], b"", TIMEOUT)
}

/// Sends `GET path` and returns the body of a response with status 200.
///
/// # Errors
/// There is no such response within [`TIMEOUT`].
pub fn get_text(address: SocketAddr, path: &str) -> anyhow::Result<String> {
    let response = get(address, path)?;
    let status = response.status;
    let text = response.text()?;
    ensure!(
        status == 200,
        "http://{address}{path} responds {status}: {text}"
    );
    Ok(text)
}

/// Succeeds if the response to `GET path` has status 200 and arrives within two
/// seconds.
///
/// # Errors
/// The error says what happened instead.
pub fn check_ok(address: SocketAddr, path: &str) -> anyhow::Result<()> {
    let limit = Duration::from_secs(2);
    let response = request(address, &format!("GET {path}"), &[], b"", limit)?;
    let status = response.status;
    ensure!(status == 200, "http://{address}{path} responds {status}");
    Ok(())
}

/// Sends a request, `line` being its method and path, and reads the response.
///
/// # Errors
/// Nothing listens, or `limit` passed during a read or a write.
pub fn request(
    address: SocketAddr,
    line: &str,
    headers: &[(&str, &str)],
    body: &[u8],
    limit: Duration,
) -> anyhow::Result<Response> {
    let mut stream = connect(address, limit)?;
    let mut head = format!("{line} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
    let is_chunked = headers.iter().any(|header| header.0 == "transfer-encoding");
    if !is_chunked && (!body.is_empty() || line.starts_with('P')) {
        head.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let request = [head.as_bytes(), body].concat();
    let mut writing = stream.try_clone()?;
    let mut bytes = Vec::new();
    let read = thread::scope(|scope| {
        // A server may respond, and stop reading, before the request has ended.
        scope.spawn(move || writing.write_all(&request));
        let read = read_response(&mut stream, &mut bytes);
        let _closed = stream.shutdown(Shutdown::Both);
        read
    });
    if bytes.is_empty() {
        read.with_context(|| format!("no response from http://{address}"))?;
    }
    Response::parse(&bytes).with_context(|| format!("{line} at {address}"))
}

/// Reads a response up to the length that its head tells, because not every server
/// closes the connection, or else to the end.
fn read_response(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> std::io::Result<()> {
    let mut piece = vec![0; 64 * 1024];
    loop {
        let read = stream.read(&mut piece)?;
        bytes.extend_from_slice(&piece[..read]);
        let is_whole = Response::parse(bytes).is_ok_and(|response| {
            let length = response.header("content-length").map(str::parse);
            length == Some(Ok(response.body.len()))
        });
        if read == 0 || is_whole {
            return Ok(());
        }
    }
}

/// Connects, with a limit on each further read and write.
///
/// # Errors
/// Nothing listens there.
pub fn connect(address: SocketAddr, limit: Duration) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, limit)
        .with_context(|| format!("cannot connect to {address}"))?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    Ok(stream)
}

/// <https://www.rfc-editor.org/rfc/rfc9112#section-7.1>
fn join_chunks(mut bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = bytes.windows(2).position(|two| two == b"\r\n");
        let end = end.context("a chunk without a length")?;
        let length = std::str::from_utf8(&bytes[..end])?;
        let length = length.split(';').next().unwrap_or_default();
        let length = usize::from_str_radix(length.trim(), 16)?;
        bytes = &bytes[end + 2..];
        if length == 0 {
            return Ok(body);
        }
        ensure!(bytes.len() >= length + 2, "a chunk is cut off");
        body.extend_from_slice(&bytes[..length]);
        bytes = &bytes[length + 2..];
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader},
        net::TcpListener,
    };

    use super::*;

    /// Responds `response` to one client.
    pub(crate) fn responding(response: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port exists");
        let address = listener.local_addr().expect("it is bound");
        thread::spawn(move || {
            let (stream, _) = listener.accept().expect("the test connects");
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            while line.trim() != "" || line.is_empty() {
                line.clear();
                stream.read_line(&mut line).expect("the test sends");
            }
            let written = stream.get_mut().write_all(response.as_bytes());
            written.expect("the test reads");
        });
        address
    }

    #[test]
    fn puts_chunks_together() {
        let response = "HTTP/1.1 200 OK\r\ntransfer-Encoding: chunked\r\n\r\n\
                        3\r\nabc\r\n1;x=y\r\nd\r\n0\r\n\r\n";
        assert_eq!(get_text(responding(response), "/").expect("a text"), "abcd");
        let cut = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab";
        assert!(get(responding(cut), "/").is_err());
    }

    #[test]
    fn a_response_ends_with_its_length_or_with_the_connection() {
        // The connection stays open for as long as the listener lives.
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port exists");
        let address = listener.local_addr().expect("it is bound");
        let began = std::time::Instant::now();
        thread::scope(|scope| {
            let text = scope.spawn(|| get_text(address, "/"));
            let (mut stream, _) = listener.accept().expect("the test connects");
            let response = b"HTTP/1.1 200 OK\r\nContent-Length:2\r\n\r\nab";
            stream.write_all(response).expect("the test reads");
            assert_eq!(text.join().expect("no panic").expect("a text"), "ab");
        });
        assert!(began.elapsed() < TIMEOUT);
        assert_eq!(
            get_text(responding("HTTP/1.1 200 OK\r\n\r\nabc"), "/").expect("a text"),
            "abc"
        );
    }

    #[test]
    fn only_status_200_is_ok() {
        check_ok(responding("HTTP/1.1 200 OK\r\n\r\n"), "/healthz").expect("it is 200");
        let error = check_ok(responding("HTTP/1.1 500 Oh\r\n\r\n"), "/healthz");
        let text = error.expect_err("it is 500").to_string();
        assert!(text.ends_with("/healthz responds 500"), "{text}");
    }
}
