//! Where Redis is, and its address in the two forms that the host takes and that
//! may be shown.

use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// How Redis is reached.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisConfig {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Whether it is reached over TLS.
    pub tls: bool,
    /// Number of the database.
    pub database: u32,
    /// ACL user; empty for the default user.
    pub username: String,
    /// Password; empty for none.
    pub password: String,
    /// The longest wait for one answer, 1 to 10,000 ms.
    pub timeout: Duration,
}

impl RedisConfig {
    /// The address for Spin's outbound Redis, user info percent-encoded. It
    /// holds the password: not to be logged.
    #[must_use]
    pub fn url(&self) -> String {
        // RFC 3986, section 2.3: what need not be encoded anywhere.
        const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
            .remove(b'-')
            .remove(b'.')
            .remove(b'_')
            .remove(b'~');
        let encode = |text| utf8_percent_encode(text, ENCODED);
        let user_info = match (self.username.is_empty(), self.password.is_empty()) {
            (true, true) => String::new(),
            _ => format!("{}:{}@", encode(&self.username), encode(&self.password)),
        };
        let (scheme, authority) = (self.scheme(), self.authority());
        format!("{scheme}://{user_info}{authority}/{}", self.database)
    }

    /// The address as it may be shown, and as `allowed_outbound_hosts` has it.
    #[must_use]
    pub fn shown(&self) -> String {
        format!("{}://{}", self.scheme(), self.authority())
    }

    fn scheme(&self) -> &'static str {
        if self.tls { "rediss" } else { "redis" }
    }

    fn authority(&self) -> String {
        if self.host.contains(':') && !self.host.starts_with('[') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}
