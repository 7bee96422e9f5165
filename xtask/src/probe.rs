//! Whether a server answers: one HTTP GET, one Redis PING. By hand, since a
//! client library for either would take longer to compile than all of xtask.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

const TIMEOUT: Duration = Duration::from_secs(2);

/// Sees to it that `GET path` answers 200.
///
/// # Errors
///
/// What happened instead.
pub(crate) fn http_ok(address: SocketAddr, path: &str) -> Result<()> {
    let mut stream = connect(address)?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let status = read_line(&mut BufReader::new(stream))?;
    ensure!(
        status.split(' ').nth(1) == Some("200"),
        "http://{address}{path} answers {status:?}"
    );
    Ok(())
}

/// Sees to it that something listens there.
///
/// # Errors
///
/// What happened instead.
pub(crate) fn connects(host: &str, port: u16) -> Result<()> {
    connect(resolve(host, port)?).map(drop)
}

/// Who asks Redis.
#[derive(Clone, Copy, Default)]
pub(crate) struct Credentials<'a> {
    /// The name, when it is not the default user's.
    pub(crate) username: Option<&'a str>,
    /// The password; without one there is no AUTH.
    pub(crate) password: Option<&'a str>,
}

/// Sees to it that a Redis answers PING with PONG.
///
/// # Errors
///
/// What happened instead; what Redis said begins with `Redis says`.
pub(crate) fn redis_pong(host: &str, port: u16, credentials: Credentials<'_>) -> Result<()> {
    let mut replies = BufReader::new(connect(resolve(host, port)?)?);
    if let Some(password) = credentials.password {
        let name_and_password = credentials.username.into_iter().chain([password]);
        let auth: Vec<&str> = ["AUTH"].into_iter().chain(name_and_password).collect();
        let reply = ask_redis(&mut replies, &auth)?;
        ensure!(reply == "+OK", "Redis says {reply:?} to AUTH");
    }
    let reply = ask_redis(&mut replies, &["PING"])?;
    ensure!(reply == "+PONG", "Redis says {reply:?} to PING");
    Ok(())
}

/// Whether what listens there speaks as Redis does, be it to refuse us.
pub(crate) fn is_redis(port: u16) -> bool {
    match redis_pong("127.0.0.1", port, Credentials::default()) {
        Ok(()) => true,
        Err(error) => error.to_string().starts_with("Redis says \"-"),
    }
}

fn resolve(host: &str, port: u16) -> Result<SocketAddr> {
    let addresses = (host, port).to_socket_addrs();
    let mut addresses = addresses.with_context(|| format!("cannot resolve {host}"))?;
    addresses.next().context("the host has no address")
}

fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, TIMEOUT)
        .with_context(|| format!("cannot connect to {address}"))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

fn ask_redis(replies: &mut BufReader<TcpStream>, words: &[&str]) -> Result<String> {
    let mut request = format!("*{}\r\n", words.len());
    for word in words {
        request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    replies.get_mut().write_all(request.as_bytes())?;
    read_line(replies)
}

fn read_line(stream: &mut BufReader<TcpStream>) -> Result<String> {
    let mut line = String::new();
    stream.read_line(&mut line).context("no answer")?;
    if line.is_empty() {
        bail!("the connection was closed");
    }
    Ok(line.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// A server that says `answer` to one client.
    fn answering(answer: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port exists");
        let address = listener.local_addr().expect("it is bound");
        thread::spawn(move || {
            let (stream, _) = listener.accept().expect("the test connects");
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            stream.read_line(&mut line).expect("the test asks");
            let answered = stream.get_mut().write_all(answer.as_bytes());
            answered.expect("the test listens");
        });
        address
    }

    #[test]
    fn a_redis_that_wants_a_password_is_still_a_redis() {
        assert!(is_redis(
            answering("-NOAUTH Authentication required.\r\n").port()
        ));
        assert!(is_redis(answering("+PONG\r\n").port()));
        assert!(!is_redis(answering("HTTP/1.1 400 Bad Request\r\n").port()));
    }

    #[test]
    fn only_a_200_is_healthy() {
        http_ok(answering("HTTP/1.1 200 OK\r\n"), "/healthz").expect("it is 200");
        let error = http_ok(answering("HTTP/1.1 500 Oh\r\n"), "/healthz");
        let text = error.expect_err("it is 500").to_string();
        assert!(text.ends_with("answers \"HTTP/1.1 500 Oh\""), "{text}");
    }
}
