//! The app's settings, from the environment and from `.env`. App and exporter
//! read variables of different names (`SPIN_VARIABLE_REDIS_HOST`, `REDIS_HOST`);
//! `up` gives both the same values, so that they use the same database.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::io::ErrorKind;

use anyhow::{Context, Result, bail};

/// The prefix of Spin's variables in the environment.
pub(crate) const SPIN_PREFIX: &str = "SPIN_VARIABLE_";

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
        })
    }

    /// A variable of the app, by its name without the prefix, in capitals. The
    /// environment wins over `.env`, and an empty value counts as not given.
    pub(crate) fn for_app(&self, name: &str) -> Option<Given> {
        let variable = format!("{SPIN_PREFIX}{name}");
        self.plain(&variable).or_else(|| {
            let value = non_empty(&self.file, &variable)?;
            let source = format!("{variable} in .env");
            Some(Given { value, source })
        })
    }

    /// A setting of app and exporter: the plain variable, else the app's.
    pub(crate) fn shared(&self, name: &str) -> Option<Given> {
        self.plain(name).or_else(|| self.for_app(name))
    }

    fn plain(&self, name: &str) -> Option<Given> {
        let value = non_empty(&self.environment, name)?;
        let source = name.to_owned();
        Some(Given { value, source })
    }

    /// The app's `metrics_backend`, redis unless it is given.
    pub(crate) fn metrics_backend(&self) -> Result<MetricsBackend> {
        let Some(Given { value, source }) = self.for_app("METRICS_BACKEND") else {
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

    /// Variables for Spin that the manifest does not declare, most likely
    /// misspelt. Spin ignores them silently.
    pub(crate) fn undeclared(&self, declared: &BTreeSet<String>) -> Vec<String> {
        let is_undeclared = |name: &&String| {
            let variable = name.strip_prefix(SPIN_PREFIX);
            variable.is_some_and(|name| !declared.contains(&name.to_ascii_lowercase()))
        };
        let in_environment = self.environment.keys().filter(is_undeclared);
        let in_file = self.file.keys().filter(is_undeclared);
        let in_file = in_file.map(|name| format!("{name} in .env"));
        in_environment.cloned().chain(in_file).collect()
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
        }
    }
}

fn non_empty(variables: &BTreeMap<String, String>, name: &str) -> Option<String> {
    variables.get(name).filter(|it| !it.is_empty()).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_wins_and_an_empty_value_is_not_given() {
        let file = [
            ("SPIN_VARIABLE_API_KEY", "file"),
            ("SPIN_VARIABLE_REDIS_HOST", ""),
        ];
        let api_key = |environment: &[(&str, &str)]| {
            let given = Settings::of(environment, &file).for_app("API_KEY");
            given.map(|given| (given.value, given.source))
        };
        let given = |value: &str, source: &str| Some((value.to_owned(), source.to_owned()));
        let in_file = given("file", "SPIN_VARIABLE_API_KEY in .env");
        let in_environment = given("a", "SPIN_VARIABLE_API_KEY");
        assert_eq!(api_key(&[("SPIN_VARIABLE_API_KEY", "a")]), in_environment);
        assert_eq!(api_key(&[("SPIN_VARIABLE_API_KEY", "")]), in_file);
        assert_eq!(Settings::of(&[], &file).for_app("REDIS_HOST"), None);
    }

    #[test]
    fn the_plain_variable_wins_over_the_apps_unless_it_is_empty() {
        let environment = [("REDIS_HOST", "plain"), ("METRICS_PREFIX", "")];
        let file = [
            ("SPIN_VARIABLE_REDIS_HOST", "file"),
            ("SPIN_VARIABLE_METRICS_PREFIX", "{a}:"),
        ];
        let settings = Settings::of(&environment, &file);
        let value = |name| settings.shared(name).map(|given| given.value);
        assert_eq!(value("REDIS_HOST").as_deref(), Some("plain"));
        assert_eq!(value("METRICS_PREFIX").as_deref(), Some("{a}:"));
        assert_eq!(value("REDIS_PORT"), None);
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
    fn a_misspelt_variable_is_undeclared() {
        let environment = [("SPIN_VARIABLE_REDIS_HOST", "a"), ("REDIS_HSOT", "a")];
        let settings = Settings::of(&environment, &[("SPIN_VARIABLE_REDIS_HSOT", "a")]);
        let undeclared = settings.undeclared(&BTreeSet::from(["redis_host".to_owned()]));
        assert_eq!(undeclared, ["SPIN_VARIABLE_REDIS_HSOT in .env"]);
    }
}
