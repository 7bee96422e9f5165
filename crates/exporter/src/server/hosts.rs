//! The `Host` header of requests without credentials. It protects from DNS rebinding: if
//! the name of a web page resolves to the exporter's address, a browser takes both for
//! the same origin, and lets the page read what the exporter serves.
//!
//! Such a name comes from public DNS. So IP addresses are allowed, and names that public
//! DNS does not have.

use std::net::{IpAddr, SocketAddr};

use axum::http::{HeaderMap, HeaderValue, header, uri::Authority};

/// Top-level domains of private networks: reserved
/// ([RFC 6762](https://www.rfc-editor.org/rfc/rfc6762),
/// [internal](https://www.icann.org/en/board-activities-and-meetings/materials/approved-resolutions-special-meeting-of-the-icann-board-29-07-2024-en)),
/// or of services in Kubernetes.
const PRIVATE_DOMAINS: [&str; 3] = ["local", "internal", "svc"];

/// The host names by which the exporter may be addressed.
pub(crate) struct AllowedHosts {
    /// In lower case.
    names: Vec<String>,
    /// Whether names that only a private network resolves are allowed. Who can publish
    /// such a name can reach an exporter that listens there, but not one on loopback.
    allows_private: bool,
}

impl AllowedHosts {
    /// `listen` is what the exporter was told to listen on, `address` where it does.
    pub(crate) fn new(listen: &str, address: SocketAddr, further: &[String]) -> Self {
        let listen = listen.rsplit_once(':').map_or(listen, |(host, _port)| host);
        let names = further.iter().map(String::as_str).chain([listen]);
        Self {
            names: names
                .filter(|name| !name.is_empty())
                .map(str::to_ascii_lowercase)
                .collect(),
            allows_private: !address.ip().is_loopback(),
        }
    }

    /// Returns whether every `Host` is allowed. Browsers always send one.
    pub(crate) fn allow(&self, headers: &HeaderMap) -> bool {
        headers
            .get_all(header::HOST)
            .iter()
            .all(|value| self.allows(value))
    }

    fn allows(&self, value: &HeaderValue) -> bool {
        let Ok(authority) = Authority::try_from(value.as_bytes()) else {
            return false;
        };
        let host = authority.host().trim_end_matches('.').to_ascii_lowercase();
        let address = host.trim_start_matches('[').trim_end_matches(']');
        if address.parse::<IpAddr>().is_ok() || self.names.contains(&host) {
            return true;
        }
        match host.rsplit_once('.') {
            None => self.allows_private || host == "localhost",
            Some((_, domain)) => {
                domain == "localhost" || self.allows_private && PRIVATE_DOMAINS.contains(&domain)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(hosts: &AllowedHosts, host: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().expect("a header"));
        hosts.allow(&headers)
    }

    #[test]
    fn names_of_public_dns_are_refused() {
        let further = ["Metrics.Example.com".to_owned()];
        let new = |listen: &str, address: &str| {
            AllowedHosts::new(listen, address.parse().expect("an address"), &further)
        };
        let loopback = new("localhost:8001", "127.0.0.1:8001");
        let everywhere = new("0.0.0.0:8001", "0.0.0.0:8001");
        let named = new("Exporter.example.com:8001", "10.0.0.7:8001");
        for (host, on_loopback, elsewhere) in [
            ("127.0.0.1:8001", true, true),
            ("10.1.2.3", true, true),
            ("[::1]:8001", true, true),
            ("localhost:8001", true, true),
            ("LOCALHOST.", true, true),
            ("a.localhost", true, true),
            ("metrics.example.com", true, true),
            ("redis-exporter:8001", false, true),
            ("exporter.monitoring.svc:8001", false, true),
            ("exporter.monitoring.svc.cluster.local:8001", false, true),
            ("host.docker.internal", false, true),
            ("evil.example:8001", false, false),
            ("127.0.0.1.evil.example", false, false),
            ("localhost.evil.example", false, false),
            ("metrics.example.com.evil.example", false, false),
            ("evil.example/", false, false),
            ("", false, false),
        ] {
            assert_eq!(allows(&loopback, host), on_loopback, "{host}");
            assert_eq!(allows(&everywhere, host), elsewhere, "{host}");
        }
        assert!(allows(&named, "exporter.example.com:8001"));
        assert!(!allows(&named, "other.example.com:8001"));
        assert!(loopback.allow(&HeaderMap::new()));
        // The second of two is checked, too.
        let mut headers = HeaderMap::new();
        headers.append(header::HOST, HeaderValue::from_static("localhost"));
        headers.append(header::HOST, HeaderValue::from_static("evil.example"));
        assert!(!everywhere.allow(&headers));
    }
}
