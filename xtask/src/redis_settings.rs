//! How the app and the exporter reach Redis. Each reads variables of its own
//! (`SPIN_VARIABLE_REDIS_HOST`, `REDIS_HOST`); here they come from one place,
//! so that the two never look at different databases.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;

use anyhow::{Context, Result};

use crate::probe::Credentials;
use crate::spin_variables::{Given, PREFIX, SpinVariables};

/// Settings that app and exporter share, by the names the exporter reads.
const SHARED: [&str; 7] = [
    "REDIS_HOST",
    "REDIS_PORT",
    "REDIS_TLS",
    "REDIS_METRICS_DB",
    "REDIS_USERNAME",
    "REDIS_PASSWORD",
    "METRICS_PREFIX",
];

/// Settings as given, so far as they are given.
#[derive(Debug, Default)]
pub(crate) struct RedisSettings {
    values: BTreeMap<&'static str, Given>,
}

impl RedisSettings {
    /// Reads each setting: the plain variable of the environment, else Spin's.
    pub(crate) fn read(variables: &SpinVariables) -> Self {
        Self::from_sources(|name| env::var(name).ok(), variables)
    }

    fn from_sources(
        environment: impl Fn(&str) -> Option<String>,
        variables: &SpinVariables,
    ) -> Self {
        let mut values = BTreeMap::new();
        for name in SHARED {
            let plain = environment(name).filter(|value| !value.is_empty());
            let plain = plain.map(|value| Given {
                value,
                variable: name.to_owned(),
            });
            let given = plain.or_else(|| variables.get_in(&environment, name));
            if let Some(given) = given {
                values.insert(name, given);
            }
        }
        Self { values }
    }

    /// The host that the user named.
    pub(crate) fn host(&self) -> Option<&str> {
        self.get("REDIS_HOST")
    }

    /// The port, 6379 unless it is given.
    ///
    /// # Errors
    ///
    /// When it is not a port.
    pub(crate) fn port(&self) -> Result<u16> {
        let Some(Given { value, variable }) = self.values.get("REDIS_PORT") else {
            return Ok(6379);
        };
        let number = value.parse();
        number.with_context(|| format!("{variable} is {value:?}; it must be a port"))
    }

    /// Whether it is reached over TLS. Other values than `true` and `false` are
    /// refused by the exporter and the app.
    pub(crate) fn tls(&self) -> bool {
        self.get("REDIS_TLS") == Some("true")
    }

    /// The file with the authorities to trust, which only the exporter takes
    /// from a variable of its own.
    pub(crate) fn certificate_authority(&self) -> Option<OsString> {
        env::var_os("REDIS_CA_FILE").filter(|file| !file.is_empty())
    }

    /// The number of the database.
    pub(crate) fn database(&self) -> Option<&str> {
        self.get("REDIS_METRICS_DB")
    }

    /// What every key begins with.
    pub(crate) fn metrics_prefix(&self) -> &str {
        self.get("METRICS_PREFIX").unwrap_or("metrics:")
    }

    /// Who asks.
    pub(crate) fn credentials(&self) -> Credentials<'_> {
        Credentials {
            username: self.get("REDIS_USERNAME"),
            password: self.get("REDIS_PASSWORD"),
        }
    }

    /// The same settings, at another address.
    pub(crate) fn at(mut self, host: &str, port: u16) -> Self {
        for (name, value) in [
            ("REDIS_HOST", host.to_owned()),
            ("REDIS_PORT", port.to_string()),
        ] {
            let variable = name.to_owned();
            self.values.insert(name, Given { value, variable });
        }
        self
    }

    /// Environment variables for the app.
    pub(crate) fn for_app(&self) -> impl Iterator<Item = (String, &str)> {
        let values = self.values.iter();
        values.map(|(name, given)| (format!("{PREFIX}{name}"), given.value.as_str()))
    }

    /// Environment variables for the exporter.
    pub(crate) fn for_exporter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.values
            .iter()
            .map(|(name, given)| (*name, given.value.as_str()))
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(|given| given.value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn app_and_exporter_get_the_same_from_one_place() {
        let file = SpinVariables::of_file(&[("SPIN_VARIABLE_REDIS_METRICS_DB", "3")]);
        let settings = RedisSettings::from_sources(|_| None, &file).at("127.0.0.1", 6380);
        let app: Vec<_> = settings.for_app().collect();
        assert!(app.contains(&("SPIN_VARIABLE_REDIS_METRICS_DB".to_owned(), "3")));
        let exporter: Vec<_> = settings.for_exporter().collect();
        assert!(exporter.contains(&("REDIS_METRICS_DB", "3")));
        assert!(exporter.contains(&("REDIS_PORT", "6380")));
    }

    #[test]
    fn a_wrong_port_is_named_as_it_was_given() {
        let file = SpinVariables::of_file(&[("SPIN_VARIABLE_REDIS_PORT", "redis")]);
        let error = RedisSettings::from_sources(|_| None, &file).port();
        let text = error.expect_err("it is no port").to_string();
        assert_eq!(
            text,
            "SPIN_VARIABLE_REDIS_PORT in .env is \"redis\"; it must be a port"
        );
    }

    #[test]
    fn the_plain_variable_wins_and_an_empty_one_does_not() {
        let file = SpinVariables::of_file(&[
            ("SPIN_VARIABLE_REDIS_HOST", "file"),
            ("SPIN_VARIABLE_METRICS_PREFIX", "{a}:"),
        ]);
        let environment = |name: &str| match name {
            "REDIS_HOST" => Some("plain".to_owned()),
            "METRICS_PREFIX" => Some(String::new()),
            _ => None,
        };
        let settings = RedisSettings::from_sources(environment, &file);
        assert_eq!(settings.host(), Some("plain"));
        assert_eq!(settings.metrics_prefix(), "{a}:");
        assert_eq!(settings.port().expect("the default"), 6379);
    }
}
