//! The app's settings, from the environment and from `.env`. App and exporter
//! read variables of different names (`SPIN_VARIABLE_REDIS_HOST`, `REDIS_HOST`);
//! `up` takes both names and gives both programs the same values, so that they
//! use the same database.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::io::ErrorKind;

use anyhow::{Context, Result, bail};

/// The prefix of Spin's variables in the environment.
pub(crate) const SPIN_PREFIX: &str = "SPIN_VARIABLE_";

/// Settings whose plain names other programs read from the environment too. There
/// they need the prefix.
const NEED_PREFIX_IN_ENVIRONMENT: [&str; 2] = ["API_KEY", "LOG_LEVEL"];

/// A value that was given, never empty.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Given {
    pub(crate) value: String,
    /// Its source: `REDIS_HOST`, or `SPIN_VARIABLE_REDIS_HOST in .env`.
    pub(crate) source: String,
}

/// Variables of the environment and of `.env`.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    environment: BTreeMap<String, String>,
    file: BTreeMap<String, String>,
    host_name: String,
}

/// The app's `metrics_backend`, which decides what runs beside the app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MetricsBackend {
    Redis,
    Pushgateway,
    Pull,
    Off,
}

impl Settings {
    /// Reads the environment, and `.env` in the working directory as Spin does.
    pub(crate) fn read() -> Result<Self> {
        let file: dotenvy::Result<_> = match dotenvy::from_path_iter(".env") {
            Ok(lines) => lines.collect(),
            Err(dotenvy::Error::Io(error)) if error.kind() == ErrorKind::NotFound => {
                Ok(BTreeMap::new())
            }
            Err(error) => Err(error),
        };
        let environment = env::vars_os();
        let environment = environment
            .filter_map(|(name, value)| name.into_string().ok().zip(value.into_string().ok()));
        Ok(Self {
            environment: environment.collect(),
            file: file.context("cannot read .env")?,
            host_name: rustix::system::uname()
                .nodename()
                .to_string_lossy()
                .into_owned(),
        })
    }

    /// A setting, by its plain name. The environment wins over `.env`, in each of
    /// them the name with Spin's prefix wins over the plain one, and an empty
    /// value counts as not given.
    pub(crate) fn get(&self, name: &str) -> Option<Given> {
        let prefixed = format!("{SPIN_PREFIX}{name}");
        let mut names = vec![prefixed.as_str()];
        if !NEED_PREFIX_IN_ENVIRONMENT.contains(&name) {
            names.push(name);
        }
        find(&self.environment, &names, "")
            .or_else(|| find(&self.file, &[&prefixed, name], " in .env"))
    }

    /// The environment variables that give the app its settings, as far as the
    /// manifest declares them. `instance_id` is the host's name by default.
    pub(crate) fn for_app(&self, declared: &BTreeSet<String>) -> BTreeMap<String, String> {
        let names = declared.iter().map(|name| name.to_ascii_uppercase());
        let given = names.filter_map(|name| {
            let value = self.get(&name).map(|given| given.value);
            let default = || (name == "INSTANCE_ID").then(|| self.host_name.clone());
            Some((format!("{SPIN_PREFIX}{name}"), value.or_else(default)?))
        });
        given.collect()
    }

    /// The app's `metrics_backend`, redis unless it is given.
    pub(crate) fn metrics_backend(&self) -> Result<MetricsBackend> {
        let Some(Given { value, source }) = self.get("METRICS_BACKEND") else {
            return Ok(MetricsBackend::Redis);
        };
        Ok(match value.as_str() {
            "redis" => MetricsBackend::Redis,
            "pushgateway" => MetricsBackend::Pushgateway,
            "pull" => MetricsBackend::Pull,
            "off" => MetricsBackend::Off,
            _ => bail!("{source} is {value:?}; it must be redis, pushgateway, pull or off"),
        })
    }

    /// Variables for Spin and lines of `.env` that are no setting, most likely
    /// misspelt. Spin and `up` ignore them.
    pub(crate) fn undeclared(&self, declared: &BTreeSet<String>) -> Vec<String> {
        let is_setting = |name: &str| {
            let setting = name.strip_prefix(SPIN_PREFIX).unwrap_or(name);
            let is_upper = !setting.bytes().any(|byte| byte.is_ascii_lowercase());
            is_upper && declared.contains(&setting.to_ascii_lowercase())
        };
        let in_environment = self.environment.keys();
        let in_environment =
            in_environment.filter(|name| name.starts_with(SPIN_PREFIX) && !is_setting(name));
        let in_file = self.file.keys().filter(|name| !is_setting(name));
        let in_file = in_file.map(|name| format!("{name} in .env"));
        in_environment.cloned().chain(in_file).collect()
    }

    /// Plain names of settings in `.env`, which Spin itself ignores.
    pub(crate) fn plain_in_file(&self, declared: &BTreeSet<String>) -> Vec<String> {
        let names = self.file.keys();
        let plain = names.filter(|name| declared.contains(&name.to_ascii_lowercase()));
        plain.cloned().collect()
    }

    #[cfg(test)]
    pub(crate) fn of(environment: &[(&str, &str)], file: &[(&str, &str)]) -> Self {
        let map = |variables: &[(&str, &str)]| {
            let variables = variables.iter();
            let owned = variables.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            owned.collect()
        };
        Self {
            environment: map(environment),
            file: map(file),
            host_name: "this-host".to_owned(),
        }
    }
}

/// The first of these variables that is not empty.
fn find(variables: &BTreeMap<String, String>, names: &[&str], place: &str) -> Option<Given> {
    names.iter().find_map(|name| {
        let value = variables.get(*name).filter(|value| !value.is_empty())?;
        Some(Given {
            value: value.clone(),
            source: format!("{name}{place}"),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DECLARED: [&str; 5] = [
        "api_key",
        "instance_id",
        "log_level",
        "redis_host",
        "redis_port",
    ];

    fn declared() -> BTreeSet<String> {
        DECLARED.map(str::to_owned).into()
    }

    #[test]
    fn the_environment_wins_over_the_file_and_the_prefix_over_the_plain_name() {
        // From the first to win to the last.
        let sources = [
            ("SPIN_VARIABLE_REDIS_HOST", "", "a"),
            ("REDIS_HOST", "", "b"),
            ("SPIN_VARIABLE_REDIS_HOST", " in .env", "c"),
            ("REDIS_HOST", " in .env", "d"),
        ];
        for first in 0..sources.len() {
            let given = |place: &str| -> Vec<_> {
                let sources = sources.iter().enumerate();
                let sources = sources.filter(|(_, (_, its, _))| *its == place);
                // An empty value counts as not given.
                let value = |(at, (name, _, value)): (usize, &(_, _, _))| {
                    (*name, if at < first { "" } else { *value })
                };
                sources.map(value).collect()
            };
            let settings = Settings::of(&given(""), &given(" in .env"));
            let (name, place, value) = sources[first];
            let expected = Given {
                value: value.to_owned(),
                source: format!("{name}{place}"),
            };
            assert_eq!(settings.get("REDIS_HOST"), Some(expected));
        }
        let empty = Settings::of(&[("REDIS_HOST", "")], &[("SPIN_VARIABLE_REDIS_HOST", "")]);
        assert_eq!(empty.get("REDIS_HOST"), None);
    }

    #[test]
    fn names_that_other_programs_read_need_the_prefix_in_the_environment() {
        let value = |environment: &[(&str, &str)], file: &[(&str, &str)]| {
            let given = Settings::of(environment, file).get("LOG_LEVEL");
            given.map(|given| given.value)
        };
        assert_eq!(value(&[("LOG_LEVEL", "INFO")], &[]), None);
        let debug = Some("debug".to_owned());
        assert_eq!(
            value(&[("LOG_LEVEL", "INFO")], &[("LOG_LEVEL", "debug")]),
            debug
        );
        assert_eq!(value(&[("SPIN_VARIABLE_LOG_LEVEL", "debug")], &[]), debug);
    }

    #[test]
    fn the_app_gets_every_declared_setting_by_spins_name() {
        let file = [
            ("REDIS_HOST", "redis.internal"),
            ("API_KEY", "s3cret"),
            ("PUSHGATEWAY_URL", "http://undeclared:9091"),
        ];
        let settings = Settings::of(&[("REDIS_PORT", "6380")], &file);
        let expected = [
            ("SPIN_VARIABLE_API_KEY", "s3cret"),
            ("SPIN_VARIABLE_INSTANCE_ID", "this-host"),
            ("SPIN_VARIABLE_REDIS_HOST", "redis.internal"),
            ("SPIN_VARIABLE_REDIS_PORT", "6380"),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(settings.for_app(&declared()), expected.into());
        assert_eq!(
            settings.plain_in_file(&declared()),
            ["API_KEY", "REDIS_HOST"]
        );
    }

    #[test]
    fn a_given_instance_id_wins_over_the_hosts_name() {
        let settings = Settings::of(&[], &[("INSTANCE_ID", "rack-7")]);
        let variables = settings.for_app(&declared());
        assert_eq!(variables["SPIN_VARIABLE_INSTANCE_ID"], "rack-7");
        let read = Settings::read().expect("a readable .env, if any");
        assert!(!read.host_name.is_empty());
    }

    #[test]
    fn an_unknown_backend_is_named_with_its_source() {
        let settings = Settings::of(&[], &[("SPIN_VARIABLE_METRICS_BACKEND", "Redis")]);
        let error = settings.metrics_backend().expect_err("unknown").to_string();
        let expected = "SPIN_VARIABLE_METRICS_BACKEND in .env is \"Redis\"";
        assert!(error.starts_with(expected), "{error}");
        let given = Settings::default().metrics_backend();
        assert_eq!(given.expect("the default"), MetricsBackend::Redis);
    }

    #[test]
    fn a_misspelt_setting_is_undeclared() {
        let environment = [("SPIN_VARIABLE_REDIS_HSOT", "a"), ("REDIS_HSOT", "a")];
        let file = [
            ("SPIN_VARIABLE_REDIS_HOST", "a"),
            ("REDIS_PORT", "1"),
            ("REDIS_HSOT", "a"),
            ("redis_host", "a"),
        ];
        let undeclared = Settings::of(&environment, &file).undeclared(&declared());
        let expected = [
            "SPIN_VARIABLE_REDIS_HSOT",
            "REDIS_HSOT in .env",
            "redis_host in .env",
        ];
        assert_eq!(undeclared, expected);
    }
}
