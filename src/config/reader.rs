//! One variable at a time: from its text to its type. Owns refusing what does not
//! fit by name and reason, and goes on; names and defaults are its caller's.

use std::{collections::BTreeMap, net::Ipv6Addr, num::NonZeroU16, time::Duration};

use super::{Backend, ConfigError, Durability};
use crate::{log::Level, outbound_http::Origin};

/// Takes values by name and collects what is wrong with them, so that all of
/// it is reported at once.
pub(super) struct Reader<'a> {
    values: &'a BTreeMap<&'a str, String>,
    errors: Vec<ConfigError>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(values: &'a BTreeMap<&'a str, String>) -> Self {
        Self {
            values,
            errors: Vec::new(),
        }
    }

    /// What was read, unless something was refused.
    pub(super) fn finish<T>(self, read: T) -> Result<T, Vec<ConfigError>> {
        if self.errors.is_empty() {
            Ok(read)
        } else {
            Err(self.errors)
        }
    }

    /// An empty value is as good as none: that is how an optional variable is
    /// left out in a manifest.
    pub(super) fn text(&self, name: &'static str, default: &str) -> String {
        self.values
            .get(name)
            .filter(|value| !value.is_empty())
            .map_or(default, String::as_str)
            .to_owned()
    }

    pub(super) fn short_text(
        &mut self,
        name: &'static str,
        default: &str,
        most_bytes: usize,
    ) -> String {
        let text = self.text(name, default);
        if text.len() > most_bytes {
            self.refuse(name, format!("{text:?} is longer than {most_bytes} bytes"));
        }
        text
    }

    /// Refuses an empty value of those that `allowed_outbound_hosts` is built
    /// from: the host would not parse it, and deny every address.
    pub(super) fn refuse_empty(&mut self, names: &[&'static str]) {
        for name in names {
            if self.values.get(name).is_some_and(String::is_empty) {
                let reason = "must not be empty: allowed_outbound_hosts is built from it";
                self.refuse(name, reason.to_owned());
            }
        }
    }

    pub(super) fn integer<T>(
        &mut self,
        name: &'static str,
        default: T,
        range: std::ops::RangeInclusive<T>,
    ) -> T
    where
        T: Copy + PartialOrd + std::fmt::Display + std::str::FromStr,
    {
        let text = self.text(name, "");
        if text.is_empty() {
            return default;
        }
        match text.trim().parse() {
            Ok(value) if range.contains(&value) => value,
            _ => {
                let (least, most) = (range.start(), range.end());
                self.refuse(
                    name,
                    format!("{text:?} is not an integer from {least} to {most}"),
                );
                default
            }
        }
    }

    pub(super) fn millis(
        &mut self,
        name: &'static str,
        default: u64,
        range: std::ops::RangeInclusive<u64>,
    ) -> Duration {
        Duration::from_millis(self.integer(name, default, range))
    }

    pub(super) fn boolean(&mut self, name: &'static str, default: bool) -> bool {
        match self.text(name, "").as_str() {
            "" => default,
            "true" => true,
            "false" => false,
            other => {
                self.refuse(name, format!("{other:?} is not true or false"));
                default
            }
        }
    }

    pub(super) fn backend(&mut self) -> Backend {
        match self.text("metrics_backend", "redis").as_str() {
            "redis" => Backend::Redis,
            "pushgateway" => Backend::Pushgateway,
            "pull" => Backend::Pull,
            "off" => Backend::Off,
            other => {
                self.refuse(
                    "metrics_backend",
                    format!("{other:?} is not redis, pushgateway, pull or off"),
                );
                Backend::Off
            }
        }
    }

    pub(super) fn durability(&mut self) -> Durability {
        match self.text("metrics_durability", "exact").as_str() {
            "relaxed" => Durability::Relaxed,
            "exact" => Durability::Exact,
            "strict" => Durability::Strict,
            other => {
                self.refuse(
                    "metrics_durability",
                    format!("{other:?} is not relaxed, exact or strict"),
                );
                Durability::Relaxed
            }
        }
    }

    pub(super) fn host(&mut self) -> String {
        let host = self.text("redis_host", "127.0.0.1");
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
        if !host.bytes().all(plain) {
            self.refuse(
                "redis_host",
                format!("{host:?} is not a host name or address (the port is redis_port)"),
            );
        }
        host
    }

    /// A URL of scheme, host and port, as `allowed_outbound_hosts` takes it: with
    /// anything more the host would deny every address, Redis's as well.
    pub(super) fn origin(&mut self, name: &'static str, default: &str) -> Origin {
        let url = self.text(name, default);
        origin(&url).unwrap_or_else(|| {
            // What stands before an @ may be a password.
            let shown = url.rsplit('@').next().unwrap_or_default();
            self.refuse(
                name,
                format!("{shown:?} is not http:// or https:// with host and port alone"),
            );
            Origin {
                tls: false,
                authority: String::new(),
            }
        })
    }

    pub(super) fn log_level(&mut self) -> Level {
        let name = self.text("log_level", Level::Info.name());
        Level::from_name(&name).unwrap_or_else(|| {
            self.refuse(
                "log_level",
                format!("{name:?} is not error, warn, info or debug"),
            );
            Level::Info
        })
    }

    fn refuse(&mut self, name: &'static str, reason: String) {
        self.errors.push(ConfigError { name, reason });
    }
}

fn origin(url: &str) -> Option<Origin> {
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let is_host = match host.strip_prefix('[') {
        Some(rest) => rest
            .strip_suffix(']')
            .is_some_and(|address| address.parse::<Ipv6Addr>().is_ok()),
        None => !host.is_empty() && host.bytes().all(plain),
    };
    let is_port = port.is_none_or(|port| port.parse::<NonZeroU16>().is_ok());
    let tls = match scheme {
        "http" => false,
        "https" => true,
        _ => return None,
    };
    (is_host && is_port).then(|| Origin {
        tls,
        authority: authority.to_owned(),
    })
}
