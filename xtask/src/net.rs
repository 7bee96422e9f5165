//! Addresses to listen on and to connect to.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};

use anyhow::{Context, Result, bail, ensure};

/// Parses `host:port`. Refuses port 0, because the real port would be unknown.
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

#[cfg(test)]
mod tests {
    use super::*;

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
