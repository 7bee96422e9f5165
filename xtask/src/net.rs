//! Addresses to listen on, and probes of servers: one HTTP GET, one Redis PING.
//! A client library for either would take longer to compile than xtask.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

const TIMEOUT: Duration = Duration::from_secs(2);

/// Parses `host:port`. Port 0 is refused: nobody could be told the real one.
pub(crate) fn parse_address(text: &str) -> Result<SocketAddr> {
    let mut addresses = text.to_socket_addrs().context("it must be HOST:PORT")?;
    let address = addresses.next().context("the host has no address")?;
    ensure!(address.port() != 0, "port 0 cannot be used; name a port");
    Ok(address)
}

/// Fails where a server listens on `address` already. The error names `purpose`
/// (what the port is for) and `option` (how to choose another).
pub(crate) fn check_free(address: SocketAddr, purpose: &str, option: &str) -> Result<()> {
    match TcpListener::bind(address) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AddrInUse => bail!(
            "port {} ({address}), meant for {purpose}, is in use; choose another with {option}",
            address.port()
        ),
        Err(error) => Err(error)
            .with_context(|| format!("cannot listen on {address} for {purpose} (see {option})")),
    }
}

/// The address at which a client on this machine reaches a server that listens
/// on `address`.
pub(crate) fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// Fails unless `GET path` returns 200.
pub(crate) fn http_ok(address: SocketAddr, path: &str) -> Result<()> {
    let mut stream = connect(address)?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let status = read_line(&mut BufReader::new(stream))?;
    ensure!(
        status.split(' ').nth(1) == Some("200"),
        "http://{address}{path} returns {status:?}"
    );
    Ok(())
}

/// Fails unless a server accepts connections there.
pub(crate) fn accepts_connections(host: &str, port: u16) -> Result<()> {
    connect(resolve(host, port)?).map(drop)
}

/// A Redis user; without a password there is no AUTH.
#[derive(Clone, Copy, Default)]
pub(crate) struct Credentials<'a> {
    pub(crate) username: Option<&'a str>,
    pub(crate) password: Option<&'a str>,
}

/// Fails unless a Redis replies to PING with PONG. An error reply of Redis
/// begins with `Redis replied`.
pub(crate) fn redis_pong(host: &str, port: u16, credentials: Credentials<'_>) -> Result<()> {
    let mut replies = BufReader::new(connect(resolve(host, port)?)?);
    if let Some(password) = credentials.password {
        let name_and_password = credentials.username.into_iter().chain([password]);
        let auth: Vec<&str> = ["AUTH"].into_iter().chain(name_and_password).collect();
        let reply = send_to_redis(&mut replies, &auth)?;
        ensure!(reply == "+OK", "Redis replied {reply:?} to AUTH");
    }
    let reply = send_to_redis(&mut replies, &["PING"])?;
    ensure!(reply == "+PONG", "Redis replied {reply:?} to PING");
    Ok(())
}

/// Whether the server on a loopback port is a Redis, even one that refuses us.
pub(crate) fn is_redis(port: u16) -> bool {
    match redis_pong("127.0.0.1", port, Credentials::default()) {
        Ok(()) => true,
        Err(error) => error.to_string().starts_with("Redis replied \"-"),
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

fn send_to_redis(replies: &mut BufReader<TcpStream>, words: &[&str]) -> Result<String> {
    let mut request = format!("*{}\r\n", words.len());
    for word in words {
        request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    replies.get_mut().write_all(request.as_bytes())?;
    read_line(replies)
}

fn read_line(stream: &mut BufReader<TcpStream>) -> Result<String> {
    let mut line = String::new();
    stream.read_line(&mut line).context("no response")?;
    ensure!(!line.is_empty(), "the connection was closed");
    Ok(line.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// A server that sends `response` to one client.
    fn server(response: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port exists");
        let address = listener.local_addr().expect("it is bound");
        thread::spawn(move || {
            let (stream, _) = listener.accept().expect("the test connects");
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            stream.read_line(&mut line).expect("the test sends a line");
            let sent = stream.get_mut().write_all(response.as_bytes());
            sent.expect("the test reads");
        });
        address
    }

    #[test]
    fn a_redis_that_wants_a_password_is_still_a_redis() {
        let is_redis = |response| is_redis(server(response).port());
        assert!(is_redis("-NOAUTH Authentication required.\r\n"));
        assert!(is_redis("+PONG\r\n"));
        assert!(!is_redis("HTTP/1.1 400 Bad Request\r\n"));
    }

    #[test]
    fn only_a_200_is_healthy() {
        http_ok(server("HTTP/1.1 200 OK\r\n"), "/healthz").expect("it is 200");
        let error = http_ok(server("HTTP/1.1 500 Oh\r\n"), "/healthz");
        let text = error.expect_err("it is 500").to_string();
        assert!(text.ends_with("returns \"HTTP/1.1 500 Oh\""), "{text}");
    }

    #[test]
    fn a_port_in_use_is_named_with_its_purpose_and_option() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a free port exists");
        let address = taken.local_addr().expect("it is bound");
        let error = check_free(address, "the app", "--listen").expect_err("it is taken");
        let text = error.to_string();
        for part in [&format!("port {}", address.port()), "the app", "--listen"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn an_unspecified_address_is_reached_over_loopback() {
        let any = parse_address("0.0.0.0:8000").expect("an address");
        assert_eq!(reachable(any).to_string(), "127.0.0.1:8000");
    }

    #[test]
    fn port_zero_and_no_port_are_refused() {
        assert!(parse_address("127.0.0.1:0").is_err());
        assert!(parse_address("127.0.0.1").is_err());
    }
}
