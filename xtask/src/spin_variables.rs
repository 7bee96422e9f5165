//! The app's variables as Spin will read them: from the environment, else from
//! `.env`, each with its prefix.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::io::ErrorKind;

use anyhow::{Context, Result};

/// What Spin puts before a variable's name.
pub(crate) const PREFIX: &str = "SPIN_VARIABLE_";

/// A value, and where it came from.
#[derive(Debug)]
pub(crate) struct Given {
    /// Never empty.
    pub(crate) value: String,
    /// The variable that it was given in, as the user knows it.
    pub(crate) variable: String,
}

/// What `.env` says; the environment is asked anew each time.
#[derive(Debug, Default)]
pub(crate) struct SpinVariables {
    file: BTreeMap<String, String>,
}

impl SpinVariables {
    /// Reads the `.env` of the working directory, as Spin does.
    ///
    /// # Errors
    ///
    /// When it is there and cannot be read.
    pub(crate) fn read() -> Result<Self> {
        let lines = match dotenvy::from_path_iter(".env") {
            Ok(lines) => lines,
            Err(dotenvy::Error::Io(error)) if error.kind() == ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(error) => return Err(error).context("cannot read .env"),
        };
        let file: dotenvy::Result<_> = lines.collect();
        let file = file.context("cannot read .env")?;
        Ok(Self { file })
    }

    /// A variable by its name without the prefix, in capitals. An empty one
    /// counts as not given.
    pub(crate) fn get(&self, name: &str) -> Option<Given> {
        self.get_in(|name| env::var(name).ok(), name)
    }

    /// The same with another environment.
    pub(crate) fn get_in(
        &self,
        environment: impl Fn(&str) -> Option<String>,
        name: &str,
    ) -> Option<Given> {
        let variable = format!("{PREFIX}{name}");
        let in_file = format!("{variable} in .env");
        let in_environment = environment(&variable).map(|value| (value, variable.clone()));
        let in_file = || Some((self.file.get(&variable)?.clone(), in_file));
        let (value, variable) = in_environment
            .filter(|(value, _)| !value.is_empty())
            .or_else(in_file)?;
        (!value.is_empty()).then_some(Given { value, variable })
    }

    /// Variables for Spin that the app does not have: misspelt, most likely.
    /// Spin says nothing of them.
    pub(crate) fn unknown(&self, known: &BTreeSet<&str>) -> Vec<String> {
        let in_environment = env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        let in_environment = in_environment.filter(|name| !is_known(name, known));
        let in_file = self.file.keys().filter(|name| !is_known(name, known));
        let in_file = in_file.map(|name| format!("{name} in .env"));
        in_environment.chain(in_file).collect()
    }

    /// What a `.env` of these lines says.
    #[cfg(test)]
    pub(crate) fn of_file(lines: &[(&str, &str)]) -> Self {
        let lines = lines.iter();
        let file = lines.map(|(name, value)| (String::from(*name), String::from(*value)));
        Self {
            file: file.collect(),
        }
    }
}

/// What is not meant for Spin is not for us to know.
fn is_known(name: &str, known: &BTreeSet<&str>) -> bool {
    name.strip_prefix(PREFIX)
        .is_none_or(|name| known.contains(name.to_ascii_lowercase().as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_wins_and_an_empty_value_is_none() {
        let variables = SpinVariables::of_file(&[
            ("SPIN_VARIABLE_API_KEY", "file"),
            ("SPIN_VARIABLE_REDIS_HOST", ""),
        ]);
        let given = |environment: Option<&'static str>, name: &str| {
            let environment = |_: &str| environment.map(str::to_owned);
            variables
                .get_in(environment, name)
                .map(|given| (given.value, given.variable))
        };
        let in_environment = ("a".to_owned(), "SPIN_VARIABLE_API_KEY".to_owned());
        let in_file = (
            "file".to_owned(),
            "SPIN_VARIABLE_API_KEY in .env".to_owned(),
        );
        assert_eq!(given(Some("a"), "API_KEY"), Some(in_environment));
        assert_eq!(given(Some(""), "API_KEY"), Some(in_file));
        assert_eq!(given(None, "REDIS_HOST"), None);
    }

    #[test]
    fn a_misspelt_variable_is_unknown() {
        let known = BTreeSet::from(["redis_host"]);
        assert!(is_known("SPIN_VARIABLE_REDIS_HOST", &known));
        assert!(is_known("REDIS_HSOT", &known));
        assert!(!is_known("SPIN_VARIABLE_REDIS_HSOT", &known));
        let misspelt = SpinVariables::of_file(&[("SPIN_VARIABLE_REDIS_HSOT", "a")]);
        let unknown = misspelt.unknown(&known);
        assert!(unknown.contains(&"SPIN_VARIABLE_REDIS_HSOT in .env".to_owned()));
    }
}
