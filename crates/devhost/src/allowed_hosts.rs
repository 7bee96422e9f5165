//! `allowed_outbound_hosts`: the addresses that a component can reach.
//!
//! Entries follow Spin's rules: `scheme://host:port`, `*` for each part,
//! `*.domain`, CIDR blocks, half-open port ranges, `self`. One malformed entry
//! denies every host.

use std::ops::Range;

use anyhow::{Context, Result, bail, ensure};
use ip_network::IpNetwork;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use url::{Host, Url};

use crate::variables::{Template, Variables};

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

    /// Returns whether an address is allowed. An address without a scheme has
    /// `default_scheme`.
    ///
    /// # Errors
    ///
    /// An entry is malformed.
    pub(crate) fn allows(&self, address: &str, default_scheme: &str) -> Result<bool, String> {
        let entries = self.0.as_ref().map_err(Clone::clone)?;
        let Ok(url) = parse_address(address, default_scheme) else {
            return Ok(false);
        };
        Ok(entries.iter().any(|entry| entry.allows(&url)))
    }

    /// Returns the entry that would allow an address, without its user info.
    pub(crate) fn entry_for(address: &str, default_scheme: &str) -> Option<String> {
        let url = parse_address(address, default_scheme).ok()?;
        let port = url
            .port()
            .map(|port| format!(":{port}"))
            .unwrap_or_default();
        Some(format!("{}://{}{port}", url.scheme(), url.host_str()?))
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
            parsed.push(Entry::parse(&resolved).with_context(|| {
                format!("allowed outbound host {text:?} resolves to {resolved:?}")
            })?);
        }
    }
    Ok(parsed)
}

impl Entry {
    fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
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

    fn allows(&self, url: &Url) -> bool {
        let port_allowed = self.ports.as_ref().is_none_or(|ports| {
            url.port()
                .or_else(|| well_known_port(url.scheme()))
                .is_some_and(|port| ports.contains(&port.into()))
        });
        let scheme_allowed = self.scheme.as_deref().is_none_or(|s| s == url.scheme());
        let host = url.host_str().map(Host::parse);
        scheme_allowed && port_allowed && matches!(host, Some(Ok(h)) if self.host.allows(&h))
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

fn parse_address(address: &str, scheme: &str) -> Result<Url> {
    // A password can contain characters that end an authority.
    let encoded = encode_user_info(address);
    match Url::parse(&encoded) {
        Ok(url) if url.has_host() => Ok(url),
        _ => Ok(Url::parse(&format!("{scheme}://{encoded}"))?),
    }
}

fn encode_user_info(address: &str) -> String {
    let start = address.find("://").map_or(0, |end| end + 3);
    match address[start..].split_once('@') {
        Some((user_info, rest)) if !user_info.contains('/') => {
            let user_info = utf8_percent_encode(user_info, NON_ALPHANUMERIC);
            format!("{}{user_info}@{rest}", &address[..start])
        }
        _ => address.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            ("redis://localhost", "localhost:6379", true),
            ("redis://localhost", "redis://:pa/ss@localhost", false),
            ("redis://localhost", "redis://:pa?ss#@localhost:6379", true),
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
            let scheme = entry.split_once(':').map_or("", |(scheme, _)| scheme);
            let scheme = if scheme == "*" { "http" } else { scheme };
            let result = allowed(&[entry]).allows(address, scheme);
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
        ];
        for entry in wrong {
            let hosts = allowed(&["http://fine.test", entry]);
            assert!(hosts.error().is_some(), "{entry} is accepted");
            assert!(hosts.allows("http://fine.test", "http").is_err());
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
        assert_eq!(hosts.allows("http://x.test", "http"), Ok(false));
    }
}
