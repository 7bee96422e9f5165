//! Addresses to listen on: how they are written, whether they are free, and
//! how they are reached.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};

use anyhow::{Context, Result, bail};

/// Reads `host:port`. Port 0 is refused: nobody could be told what it became.
///
/// # Errors
///
/// When it is no address of this machine's resolver.
pub(crate) fn parse(text: &str) -> Result<SocketAddr> {
    let mut addresses = text.to_socket_addrs().context("it must be HOST:PORT")?;
    let address = addresses.next().context("the host has no address")?;
    if address.port() == 0 {
        bail!("port 0 cannot be used; name a port");
    }
    Ok(address)
}

/// Sees to it that nobody listens on `address`.
///
/// # Errors
///
/// Says that the port is in use, `purpose` (what it is for), and `option` (how
/// to take another).
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

/// Where a client on this machine reaches a server that listens on `address`.
pub(crate) fn reached_at(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_named_with_its_purpose_and_option() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a free port exists");
        let address = taken.local_addr().expect("it is bound");
        let error = check_free(address, "the app", "--listen").expect_err("it is taken");
        let text = error.to_string();
        assert!(text.contains(&format!("port {}", address.port())), "{text}");
        assert!(
            text.contains("the app") && text.contains("--listen"),
            "{text}"
        );
    }

    #[test]
    fn an_unspecified_address_is_reached_over_loopback() {
        let any = parse("0.0.0.0:8000").expect("an address");
        assert_eq!(reached_at(any).to_string(), "127.0.0.1:8000");
    }

    #[test]
    fn port_zero_and_no_port_are_refused() {
        assert!(parse("127.0.0.1:0").is_err());
        assert!(parse("127.0.0.1").is_err());
    }
}
