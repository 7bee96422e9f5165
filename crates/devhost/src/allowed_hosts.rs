//! `allowed_outbound_hosts`: the addresses that a component can reach.
//!
//! Entries follow Spin's rules: `scheme://host:port`, `*` for each part,
//! `*.domain`, CIDR blocks, half-open port ranges, `self`. One malformed entry
//! denies every host.

use std::fmt::{self, Display, Formatter};
use std::net::IpAddr;
use std::ops::Range;

use anyhow::{Context, Result, bail, ensure};
use http::Uri;
use ip_network::IpNetwork;
use url::Host;

use crate::variables::{Template, Variables};

/// The destination of a connection.
///
/// Made of the host and the port that the client library would open, and the library
/// then opens these. So no second reading of an address can differ from the one that
/// is checked, as of `redis://evil:6379?@allowed:6379`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Destination {
    scheme: String,
    host: Host,
    port: u16,
}

impl Destination {
    /// Makes a destination, or `None` if the host is neither a name nor an address.
    /// Without a port it is the scheme's.
    pub(crate) fn new(scheme: &str, host: &str, port: Option<u16>) -> Option<Self> {
        let host = match host.parse() {
            Ok(IpAddr::V4(ip)) => Host::Ipv4(ip),
            Ok(IpAddr::V6(ip)) => Host::Ipv6(ip),
            Err(_) => Host::parse(host).ok()?,
        };
        Some(Self {
            scheme: scheme.to_owned(),
            host,
            port: port.or_else(|| well_known_port(scheme))?,
        })
    }

    /// Returns where a client sends a request with this URI, or `None` if the URI has no
    /// usable host or port.
    pub(crate) fn of_uri(uri: &Uri) -> Option<Self> {
        let authority = uri.authority()?;
        let port = match authority.port_u16() {
            None if !authority.as_str().ends_with(authority.host()) => return None,
            port => port,
        };
        Self::new(uri.scheme_str()?, authority.host(), port)
    }

    /// Returns the name or address to connect to, which has no brackets.
    pub(crate) fn host(&self) -> String {
        match &self.host {
            Host::Domain(name) => name.clone(),
            Host::Ipv4(ip) => ip.to_string(),
            Host::Ipv6(ip) => ip.to_string(),
        }
    }

    /// Returns `host:port`, as in a URL.
    pub(crate) fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

/// The entry that allows it.
impl Display for Destination {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}", self.scheme, self.host, self.port)
    }
}

/// A component's resolved entries, or the error of one of them.
#[derive(Clone, Debug)]
pub(crate) struct AllowedHosts(Result<Vec<Entry>, String>);

#[derive(Clone, Debug)]
struct Entry {
    /// `None` stands for `*`.
    scheme: Option<String>,
    host: HostRule,
    /// Half-open; `None` stands for `*`.
    ports: Option<Range<u32>>,
}

#[derive(Clone, Debug, PartialEq)]
enum HostRule {
    Any,
    /// With its leading dot.
    Subdomains(String),
    /// The application itself.
    Application,
    Literal(Host),
    Network(IpNetwork),
}

impl AllowedHosts {
    /// Checks the entries with the defaults of the variables that have one, and
    /// resolves them with the actual values.
    ///
    /// # Errors
    ///
    /// An entry is malformed as it stands or with the default values. If it is
    /// malformed only with the actual values, [`Self::allows`] fails instead: Spin
    /// starts such an application and denies it every host.
    pub(crate) fn new(entries: &[String], variables: &Variables) -> Result<Self> {
        parse_entries(entries, |template| {
            match template.resolve(|name| variables.default(name)) {
                Ok(text) => Ok(text),
                // A variable has no default: the entry cannot be checked yet.
                Err(_) => Ok(String::new()),
            }
        })?;
        let resolved = variables
            .resolve_all()
            .map_err(anyhow::Error::from)
            .and_then(|values| {
                parse_entries(entries, |template| {
                    Ok(template.resolve(|name| match values.get(name) {
                        Some(value) => Ok(value.clone()),
                        None => variables.default(name),
                    })?)
                })
            });
        Ok(Self(resolved.map_err(|error| error.to_string())))
    }

    /// Returns whether a destination is allowed.
    ///
    /// # Errors
    ///
    /// An entry is malformed.
    pub(crate) fn allows(&self, destination: &Destination) -> Result<bool, String> {
        let entries = self.0.as_ref().map_err(Clone::clone)?;
        Ok(entries.iter().any(|entry| entry.allows(destination)))
    }

    /// Returns whether the component can send requests to its own application.
    pub(crate) fn allows_self(&self) -> bool {
        self.0.as_ref().is_ok_and(|entries| {
            entries.iter().any(|entry| {
                matches!(entry.scheme.as_deref(), None | Some("http" | "https"))
                    && matches!(entry.host, HostRule::Any | HostRule::Application)
            })
        })
    }

    /// Returns the error that denies every host, if there is one.
    pub(crate) fn error(&self) -> Option<&str> {
        self.0.as_ref().err().map(String::as_str)
    }
}

fn parse_entries(
    entries: &[String],
    resolve: impl Fn(&Template) -> Result<String>,
) -> Result<Vec<Entry>> {
    if entries == ["insecure:allow-all"] {
        bail!("'insecure:allow-all' is not allowed, '*://*:*' is");
    }
    let mut parsed = Vec::new();
    for text in entries {
        let template = Template::parse(text)?;
        if template.is_literal() {
            parsed.push(Entry::parse(text)?);
            continue;
        }
        let resolved = resolve(&template)?;
        // As on Spin, an empty variable means no host.
        if !matches!(resolved.as_str(), "" | "http://" | "https://") {
            let entry = Entry::parse(&resolved);
            parsed.push(entry.with_context(|| format!("allowed outbound host {text:?}"))?);
        }
    }
    Ok(parsed)
}

impl Entry {
    fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        // It may hold a password, which is not shown.
        if let Some((_, host)) = text.rsplit_once('@') {
            bail!("allowed outbound host {host:?} has user info before it");
        }
        let (scheme, rest) = text.split_once("://").with_context(|| {
            format!(
                "allowed outbound host {text:?} has no scheme: it must have the form \
                 <scheme>://<host>[:<port>], with '*' for any"
            )
        })?;
        let (host, port) = match rest.rsplit_once(':') {
            None => (rest, ""),
            Some((host, "")) => (host, ""),
            // An IPv6 address without a port.
            Some(_) if HostRule::parse(rest).is_ok() => (rest, ""),
            Some((host, tail)) => match tail.split_once('/') {
                Some((port, "")) => (host, port),
                Some(_) => bail!("allowed outbound host {text:?} has a path"),
                None => (host, tail),
            },
        };
        Ok(Self {
            ports: parse_ports(port, scheme)
                .with_context(|| format!("allowed outbound host {text:?}: port {port:?}"))?,
            scheme: parse_scheme(scheme)
                .with_context(|| format!("allowed outbound host {text:?}: scheme {scheme:?}"))?,
            host: HostRule::parse(host)
                .with_context(|| format!("allowed outbound host {text:?}: host {host:?}"))?,
        })
    }

    fn allows(&self, destination: &Destination) -> bool {
        let Destination { scheme, host, port } = destination;
        self.scheme.as_ref().is_none_or(|allowed| allowed == scheme)
            && self
                .ports
                .as_ref()
                .is_none_or(|ports| ports.contains(&u32::from(*port)))
            && self.host.allows(host)
    }
}

impl HostRule {
    fn parse(host: &str) -> Result<Self> {
        let host = host.trim();
        match host {
            "*" => return Ok(Self::Any),
            "self" | "self.alt" => return Ok(Self::Application),
            _ => {}
        }
        ensure!(!host.starts_with('{'), "host lists are not supported");
        if let Ok(network) = IpNetwork::from_str_truncate(host) {
            return Ok(Self::Network(network));
        }
        let host = host.strip_suffix('/').unwrap_or(host);
        ensure!(!host.contains('/'), "must not include a path");
        if let Some(domain) = host.strip_prefix("*.") {
            ensure!(
                !domain.contains('*'),
                "wildcards are allowed only as prefixes"
            );
            let Host::Domain(domain) = Host::parse(domain)? else {
                bail!("wildcard suffix must be a domain");
            };
            return Ok(Self::Subdomains(format!(".{domain}")));
        }
        ensure!(
            !host.contains('*'),
            "wildcards are allowed only as subdomains"
        );
        Ok(Self::Literal(Host::parse(host)?))
    }

    fn allows(&self, host: &Host) -> bool {
        match (self, host) {
            (Self::Any, _) => true,
            (Self::Subdomains(suffix), Host::Domain(domain)) => domain.ends_with(suffix),
            (Self::Literal(literal), host) => literal == host,
            (Self::Network(network), Host::Ipv4(ip)) => network.contains(*ip),
            (Self::Network(network), Host::Ipv6(ip)) => network.contains(*ip),
            // `allows_self` checks requests to the application.
            (Self::Subdomains(_) | Self::Network(_) | Self::Application, _) => false,
        }
    }
}

fn parse_scheme(scheme: &str) -> Result<Option<String>> {
    if scheme == "*" {
        return Ok(None);
    }
    ensure!(
        scheme.chars().all(char::is_alphabetic),
        "only alphabetic characters are allowed"
    );
    Ok(Some(scheme.to_owned()))
}

fn parse_ports(port: &str, scheme: &str) -> Result<Option<Range<u32>>> {
    let number = |text: &str| -> Result<u32> {
        let number = text.parse::<u16>();
        Ok(number
            .with_context(|| format!("{text:?} is not a port"))?
            .into())
    };
    match port {
        "*" => Ok(None),
        "" => {
            let port: u32 = well_known_port(scheme)
                .with_context(|| format!("scheme {scheme:?} has no default port, give one"))?
                .into();
            Ok(Some(port..port + 1))
        }
        _ => match port.split_once("..") {
            Some((start, end)) => Ok(Some(number(start)?..number(end)?)),
            None => Ok(Some(number(port)?..number(port)? + 1)),
        },
    }
}

fn well_known_port(scheme: &str) -> Option<u16> {
    Some(match scheme {
        "http" => 80,
        "https" => 443,
        "redis" => 6379,
        "mqtt" => 1883,
        "mysql" => 3306,
        "postgres" => 5432,
        _ => return None,
    })
}

/// Tells which of two ports a client reaches, of which it may reach one.
#[cfg(test)]
pub(crate) mod reached {
    use std::io::ErrorKind;
    use std::net::{Ipv4Addr, TcpListener};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use proptest::collection::vec;
    use proptest::sample::select;
    use proptest::test_runner::{Config, TestRunner};
    use tokio::runtime::Runtime;

    use crate::component::ComponentSettings;

    const PLAIN: [&str; 3] = ["ALLOWED", "ALLOWED/", "user:password@ALLOWED/0"];
    /// One parser may read these otherwise than another one.
    const CONFUSING: [&str; 20] = [
        "DENIED",
        "DENIED?@ALLOWED",
        "DENIED/?@ALLOWED",
        "DENIED#@ALLOWED",
        "DENIED/@ALLOWED",
        "DENIED\\@ALLOWED",
        "DENIED;@ALLOWED",
        "ALLOWED@DENIED",
        "a@ALLOWED@DENIED",
        "a:b?@ALLOWED@DENIED",
        "ALLOWED:DENIED_PORT",
        "ALLOWED\t@DENIED",
        "ALLOWED%40DENIED",
        "ALLOWED%2f@DENIED",
        "ALLOWED,DENIED",
        "127.1:DENIED_PORT",
        "0x7f000001:DENIED_PORT",
        "[::ffff:127.0.0.1]:DENIED_PORT",
        "localhost:DENIED_PORT",
        "%6cocalhost:DENIED_PORT",
    ];
    const PARTS: [&str; 16] = [
        "ALLOWED",
        "DENIED",
        "ALLOWED_PORT",
        "DENIED_PORT",
        "localhost",
        "127.1",
        "[::1]",
        "@",
        ":",
        "?",
        "#",
        "/",
        "\\",
        "%",
        "%40",
        ";",
    ];

    /// Calls `open` with addresses of a scheme, as a component that may reach one of
    /// two ports. Checks that `open` reaches it by its plain address, and the other
    /// port by none: neither by those that are listed nor by those that are made up.
    pub(crate) fn check(scheme: &str, open: impl AsyncFn(&ComponentSettings, &str)) {
        let [allowed, denied] =
            [(); 2].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port"));
        let [allowed_at, denied_at] =
            [&allowed, &denied].map(|listener| listener.local_addr().expect("it listens"));
        denied.set_nonblocking(true).expect("a socket");
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        // Closes at once, so that `open` returns.
        std::thread::spawn(move || {
            for _stream in allowed.incoming() {
                count.fetch_add(1, SeqCst);
            }
        });
        let settings = ComponentSettings::with_allowed_hosts(&[format!("{scheme}://{allowed_at}")]);
        let runtime = Runtime::new().expect("threads");
        let check = |address: &str| {
            let address = address
                .replace("ALLOWED_PORT", &allowed_at.port().to_string())
                .replace("DENIED_PORT", &denied_at.port().to_string())
                .replace("ALLOWED", &allowed_at.to_string())
                .replace("DENIED", &denied_at.to_string());
            let address = format!("{scheme}://{address}");
            runtime.block_on(open(&settings, &address));
            let denied = denied.accept().map_err(|error| error.kind());
            assert_eq!(denied.err(), Some(ErrorKind::WouldBlock), "{address}");
        };
        for (before, address) in PLAIN.into_iter().enumerate() {
            check(address);
            assert_eq!(accepted.load(SeqCst), before + 1, "{address}");
        }
        CONFUSING.into_iter().for_each(check);
        let config = Config {
            failure_persistence: None,
            ..Config::default()
        };
        let made_up = vec(select(&PARTS[..]), 1..8);
        let result = TestRunner::new(config).run(&made_up, |parts| {
            check(&parts.concat());
            Ok(())
        });
        result.expect("no made-up address reaches the denied port");
    }
}

#[cfg(test)]
mod tests {
    use redis::IntoConnectionInfo;

    use super::*;

    /// The destination of an address, as its client library reads it.
    fn destination(address: &str) -> Option<Destination> {
        if let Some(url) = redis::parse_redis_url(address) {
            let scheme = url.scheme().to_owned();
            let address = url.into_connection_info().ok()?.addr.to_string();
            let (host, port) = address.rsplit_once(':')?;
            return Destination::new(&scheme, host, port.parse().ok());
        }
        Destination::of_uri(&address.parse().ok()?)
    }

    fn allows(hosts: &AllowedHosts, address: &str) -> Result<bool, String> {
        match destination(address) {
            Some(destination) => hosts.allows(&destination),
            None => Ok(false),
        }
    }

    fn allowed(entries: &[&str]) -> AllowedHosts {
        let entries: Vec<_> = entries.iter().map(|e| (*e).to_owned()).collect();
        AllowedHosts(
            parse_entries(&entries, |_| Ok(String::new())).map_err(|error| format!("{error:#}")),
        )
    }

    #[test]
    fn entries_allow_what_they_name() {
        let cases = [
            ("redis://localhost:6379", "redis://localhost:6379", true),
            ("redis://localhost:6379", "redis://localhost", true),
            ("redis://localhost", "redis://localhost:6379/2", true),
            // Not a password with a question mark: no library reads it so.
            ("redis://localhost", "redis://:pa?ss#@localhost:6379", false),
            ("redis://localhost", "redis://:pa%3Fss@localhost", true),
            ("redis://localhost", "redis://:pa/ss@localhost", false),
            ("redis://localhost", "localhost:6379", false),
            ("redis://localhost", "redis://other?@localhost", false),
            ("rediss://localhost:6379", "rediss://localhost", true),
            ("redis://[::1]:6379", "redis://[::1]", true),
            ("redis://localhost:6379", "redis://127.0.0.1:6379", false),
            ("redis://localhost:6379", "redis://localhost:6380", false),
            ("redis://localhost:6379", "http://localhost:6379", false),
            ("redis://*:*", "redis://anything:1", true),
            ("*://localhost:*", "http://localhost", true),
            ("*://*:*", "rediss://x.test:1", true),
            ("*://*:80", "ftp://x.test", false),
            ("http://*.test", "http://a.b.test", true),
            ("http://*.test", "http://test", false),
            ("http://10.0.0.0/8", "http://10.1.2.3", true),
            ("http://10.0.0.0/8", "http://11.1.2.3", false),
            ("http://10.0.0.0/8", "http://ten.test", false),
            ("http://[::1]:80", "http://[::1]/", true),
            ("http://x.test:80..82", "http://x.test:81", true),
            ("http://x.test:80..82", "http://x.test:82", false),
            ("http://x.test:80/", "http://x.test", true),
            ("http://self", "http://self.alt", false),
            ("http://x.test", "http://x.test:bad", false),
        ];
        for (entry, address, expected) in cases {
            let result = allows(&allowed(&[entry]), address);
            assert_eq!(result, Ok(expected), "{entry} and {address}");
        }
    }

    #[test]
    fn one_malformed_entry_denies_all() {
        let wrong = [
            "*",
            "",
            "localhost:80",
            "http://x.test/path",
            "http://x.test:80/path",
            "http://x.test:port",
            "http://{a,b}",
            "{http,https}://a",
            "http://a.*.test",
            "http://*.a.*",
            "tcp://x.test",
            "redis://user:password@x.test",
        ];
        for entry in wrong {
            let hosts = allowed(&["http://fine.test", entry]);
            let error = hosts
                .error()
                .unwrap_or_else(|| panic!("{entry} is accepted"));
            assert!(!error.contains("password"), "{error}");
            assert!(allows(&hosts, "http://fine.test").is_err());
            assert!(!hosts.allows_self());
        }
    }

    #[test]
    fn self_requests_need_self_or_any() {
        for (entry, expected) in [
            ("http://self", true),
            ("*://*:*", true),
            ("https://*", true),
            ("redis://*", false),
            ("http://localhost", false),
        ] {
            assert_eq!(allowed(&[entry]).allows_self(), expected, "{entry}");
        }
        assert!(!allowed(&[]).allows_self());
    }

    #[test]
    fn empty_templates_allow_nothing() {
        let hosts = allowed(&["{{ host }}"]);
        assert_eq!(allows(&hosts, "http://x.test"), Ok(false));
    }
}
