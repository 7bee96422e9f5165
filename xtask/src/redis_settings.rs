//! How the app and the exporter reach Redis. Each reads variables of its own
//! (`SPIN_VARIABLE_REDIS_HOST`, `REDIS_HOST`); here they come from one place,
//! so that the two never look at different databases.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::ffi::OsString;
use std::io::ErrorKind;

use anyhow::{Context, Result};

use crate::probe::Credentials;

/// What Spin puts before a variable's name.
const SPIN_PREFIX: &str = "SPIN_VARIABLE_";

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

#[derive(Debug)]
struct Given {
    value: String,
    /// The variable that it was given in, as the user knows it.
    variable: String,
}

impl RedisSettings {
    /// Reads each setting: the plain variable, else Spin's from the
    /// environment, else Spin's from `.env`. An empty one counts as not given.
    ///
    /// # Errors
    ///
    /// When `.env` cannot be read.
    pub(crate) fn read() -> Result<Self> {
        let file = read_env_file()?;
        Ok(Self::from_sources(|name| env::var(name).ok(), &file))
    }

    fn from_sources(
        environment: impl Fn(&str) -> Option<String>,
        file: &BTreeMap<String, String>,
    ) -> Self {
        let mut values = BTreeMap::new();
        for name in SHARED {
            let spin_name = format!("{SPIN_PREFIX}{name}");
            let given = [
                (environment(name), name.to_owned()),
                (environment(&spin_name), spin_name.clone()),
                (
                    file.get(&spin_name).cloned(),
                    format!("{spin_name} in .env"),
                ),
            ];
            let mut given = given.into_iter().filter_map(|(value, variable)| {
                let value = value.filter(|value| !value.is_empty())?;
                Some(Given { value, variable })
            });
            if let Some(given) = given.next() {
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
        values.map(|(name, given)| (format!("{SPIN_PREFIX}{name}"), given.value.as_str()))
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

/// Variables for Spin that the app does not have: misspelt, most likely. Spin
/// says nothing of them.
///
/// # Errors
///
/// When `.env` cannot be read.
pub(crate) fn unknown_variables(known: &BTreeSet<&str>) -> Result<Vec<String>> {
    let in_environment = env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let in_file = read_env_file()?.into_keys();
    let unknown = in_environment.filter(|name| !is_known(name, known)).chain(
        in_file
            .filter(|name| !is_known(name, known))
            .map(|name| format!("{name} in .env")),
    );
    Ok(unknown.collect())
}

/// What is not meant for Spin is not for us to know.
fn is_known(name: &str, known: &BTreeSet<&str>) -> bool {
    name.strip_prefix(SPIN_PREFIX)
        .is_none_or(|name| known.contains(name.to_ascii_lowercase().as_str()))
}

/// Whether requests need an API key.
///
/// # Errors
///
/// When `.env` cannot be read.
pub(crate) fn api_key_is_set() -> Result<bool> {
    let name = format!("{SPIN_PREFIX}API_KEY");
    let key = env::var(&name).ok().or(read_env_file()?.remove(&name));
    Ok(key.is_some_and(|key| !key.is_empty()))
}

/// The file that Spin reads in the working directory.
fn read_env_file() -> Result<BTreeMap<String, String>> {
    let lines = match dotenvy::from_path_iter(".env") {
        Ok(lines) => lines,
        Err(dotenvy::Error::Io(error)) if error.kind() == ErrorKind::NotFound => {
            return Ok(BTreeMap::new());
        }
        Err(error) => return Err(error).context("cannot read .env"),
    };
    let lines: dotenvy::Result<_> = lines.collect();
    lines.context("cannot read .env")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(lines: &[(&str, &str)]) -> BTreeMap<String, String> {
        let lines = lines.iter();
        lines
            .map(|(name, value)| (String::from(*name), String::from(*value)))
            .collect()
    }

    #[test]
    fn app_and_exporter_get_the_same_from_one_place() {
        let file = file(&[("SPIN_VARIABLE_REDIS_METRICS_DB", "3")]);
        let settings = RedisSettings::from_sources(|_| None, &file).at("127.0.0.1", 6380);
        let app: Vec<_> = settings.for_app().collect();
        assert!(app.contains(&("SPIN_VARIABLE_REDIS_METRICS_DB".to_owned(), "3")));
        let exporter: Vec<_> = settings.for_exporter().collect();
        assert!(exporter.contains(&("REDIS_METRICS_DB", "3")));
        assert!(exporter.contains(&("REDIS_PORT", "6380")));
    }

    #[test]
    fn a_wrong_port_is_named_as_it_was_given() {
        let file = file(&[("SPIN_VARIABLE_REDIS_PORT", "redis")]);
        let error = RedisSettings::from_sources(|_| None, &file).port();
        let text = error.expect_err("it is no port").to_string();
        assert_eq!(
            text,
            "SPIN_VARIABLE_REDIS_PORT in .env is \"redis\"; it must be a port"
        );
    }

    #[test]
    fn a_misspelt_variable_is_unknown() {
        let known = BTreeSet::from(["redis_host"]);
        assert!(is_known("SPIN_VARIABLE_REDIS_HOST", &known));
        assert!(is_known("REDIS_HSOT", &known));
        assert!(!is_known("SPIN_VARIABLE_REDIS_HSOT", &known));
    }

    #[test]
    fn the_plain_variable_wins_and_an_empty_one_does_not() {
        let file = file(&[
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
