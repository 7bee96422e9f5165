//! Reads Spin variables into typed values.
//!
//! A variable is declared where it is read: its name, its default and its type
//! are the arguments of one call on [`Reader`].

use std::{collections::BTreeMap, fmt::Display, ops::RangeInclusive, str::FromStr, time::Duration};

use functional_scaffold_protocol::replay_key::ReplayKey;
use spin_sdk::variables;
use thiserror::Error;

use crate::outbound_http::Origin;

/// A variable whose value is unusable.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("variable {name}: {reason}")]
pub struct VariableError {
    /// The variable's name.
    pub name: &'static str,
    /// The reason, with the offending value unless it may hold a secret.
    pub reason: String,
}

/// Reads all variables that `read` declares, and returns what it makes of them.
///
/// Calls `read` twice: to collect the names, and with their values.
///
/// # Errors
/// One for each variable with an unusable value, or that the host could not
/// resolve.
pub async fn load<T>(read: impl Fn(&mut Reader) -> T) -> Result<T, Vec<VariableError>> {
    let mut names = Reader::default();
    read(&mut names);
    let mut reader = Reader::default();
    for (name, _) in names.declared {
        match variables::get(name).await {
            Ok(value) => {
                reader.values.insert(name, value);
            }
            // The manifest does not declare it.
            Err(variables::Error::Undefined(_)) => {}
            Err(error) => reader.refuse(name, error.to_string()),
        }
    }
    let config = read(&mut reader);
    reader.finish(config)
}

/// Converts variables one by one, and collects what is wrong with them, so that
/// all errors are reported at once. A variable with an unusable value reads as
/// some valid value; [`Reader::finish`] then fails.
///
/// An empty value counts as unset: a manifest leaves out an optional variable
/// that way.
#[derive(Debug, Default)]
pub struct Reader {
    values: BTreeMap<&'static str, String>,
    declared: Vec<(&'static str, &'static str)>,
    errors: Vec<VariableError>,
}

impl Reader {
    /// Makes a reader of these values, by the variables' names.
    #[must_use]
    pub fn new(values: BTreeMap<&'static str, String>) -> Self {
        Self {
            values,
            ..Self::default()
        }
    }

    /// The variables that were read so far, each with its default.
    #[must_use]
    pub fn declared(&self) -> &[(&'static str, &'static str)] {
        &self.declared
    }

    /// Returns `config`, unless a variable was wrong.
    ///
    /// # Errors
    /// One for each variable with an unusable value.
    pub fn finish<T>(self, config: T) -> Result<T, Vec<VariableError>> {
        if self.errors.is_empty() {
            Ok(config)
        } else {
            Err(self.errors)
        }
    }

    /// Reads a text of any length.
    pub fn text(&mut self, name: &'static str, default: &'static str) -> String {
        let value = self.get(name, default);
        value
            .filter(|value| !value.is_empty())
            .unwrap_or_else(|| default.to_owned())
    }

    /// Reads a text of at most `max_bytes` bytes.
    pub fn short_text(
        &mut self,
        name: &'static str,
        default: &'static str,
        max_bytes: usize,
    ) -> String {
        let text = self.text(name, default);
        if text.len() > max_bytes {
            self.refuse(name, format!("{text:?} is longer than {max_bytes} bytes"));
        }
        text
    }

    /// Reads an integer within `range`.
    pub fn integer<T>(
        &mut self,
        name: &'static str,
        default: &'static str,
        range: RangeInclusive<T>,
    ) -> T
    where
        T: Copy + PartialOrd + Display + FromStr,
    {
        let text = self.text(name, default);
        self.parse_integer(name, &text, range)
    }

    /// Reads a number of milliseconds within `range`.
    pub fn millis(
        &mut self,
        name: &'static str,
        default: &'static str,
        range: RangeInclusive<u64>,
    ) -> Duration {
        Duration::from_millis(self.integer(name, default, range))
    }

    /// Reads an integer within `range`, `None` if it is unset.
    pub(crate) fn optional<T>(&mut self, name: &'static str, range: RangeInclusive<T>) -> Option<T>
    where
        T: Copy + PartialOrd + Display + FromStr,
    {
        let text = self.text(name, "");
        let is_set = !text.is_empty();
        is_set.then(|| self.parse_integer(name, &text, range))
    }

    /// Reads `true` or `false`.
    pub fn boolean(&mut self, name: &'static str, default: bool) -> bool {
        let choices = [("true", true), ("false", false)];
        self.choice(name, default, &choices)
    }

    /// Reads the name of one of `choices`, of which `default` is one.
    pub fn choice<T: Copy + PartialEq>(
        &mut self,
        name: &'static str,
        default: T,
        choices: &[(&'static str, T)],
    ) -> T {
        let default_name = choices.iter().find(|(_, value)| *value == default);
        let default_name = default_name.map_or("", |(name, _)| *name);
        let text = self.text(name, default_name);
        let choice = choices.iter().find(|(name, _)| *name == text);
        choice.map_or_else(
            || {
                self.refuse(name, format!("{text:?} is not {}", list(choices)));
                default
            },
            |(_, value)| *value,
        )
    }

    /// Reads a port. Refuses an empty one: `allowed_outbound_hosts` is built
    /// from it, and one entry that Spin cannot parse denies every host.
    pub fn port(&mut self, name: &'static str, default: &'static str) -> u16 {
        let text = self.outbound_text(name, default);
        self.parse_integer(name, &text, 1..=u16::MAX)
    }

    /// Reads the URL of a server, see [`Origin`]. Refuses an empty one if the
    /// server `is_used`.
    pub(crate) fn origin(
        &mut self,
        name: &'static str,
        default: &'static str,
        is_used: bool,
    ) -> Origin {
        let url = if is_used {
            self.outbound_text(name, default)
        } else {
            self.text(name, default)
        };
        Origin::parse(&url).unwrap_or_else(|| {
            let shown = without_user_info(&url);
            self.refuse(
                name,
                format!("{shown:?} is not http:// or https:// with only host and port"),
            );
            Origin {
                tls: false,
                authority: String::new(),
            }
        })
    }

    /// Reads the key that authenticates batches in the log, `None` if it is unset. No
    /// error shows it.
    pub(crate) fn replay_key(&mut self, name: &'static str) -> Option<ReplayKey> {
        let text = self.text(name, "");
        if text.is_empty() {
            return None;
        }
        ReplayKey::new(&text)
            .inspect_err(|error| self.refuse(name, error.to_string()))
            .ok()
    }

    /// Reads a part of an address. Refuses an empty one: see [`Self::port`].
    pub(crate) fn outbound_text(&mut self, name: &'static str, default: &'static str) -> String {
        match self.get(name, default) {
            Some(value) if value.is_empty() => {
                let reason = "must not be empty: allowed_outbound_hosts is built from it";
                self.refuse(name, reason.to_owned());
                default.to_owned()
            }
            Some(value) => value,
            None => default.to_owned(),
        }
    }

    fn get(&mut self, name: &'static str, default: &'static str) -> Option<String> {
        self.declared.push((name, default));
        self.values.get(name).cloned()
    }

    fn parse_integer<T>(&mut self, name: &'static str, text: &str, range: RangeInclusive<T>) -> T
    where
        T: Copy + PartialOrd + Display + FromStr,
    {
        match text.trim().parse() {
            Ok(value) if range.contains(&value) => value,
            _ => {
                let (min, max) = (range.start(), range.end());
                let reason = format!("{text:?} is not an integer from {min} to {max}");
                self.refuse(name, reason);
                *range.start()
            }
        }
    }

    pub(crate) fn refuse(&mut self, name: &'static str, reason: String) {
        self.errors.push(VariableError { name, reason });
    }
}

/// The part of an address that is no secret: what is before an `@` may be a password.
fn without_user_info(address: &str) -> &str {
    address.rsplit('@').next().unwrap_or_default()
}

/// Lists names as "a, b or c".
fn list<T>(choices: &[(&str, T)]) -> String {
    let mut text = String::new();
    for (index, (name, _)) in choices.iter().enumerate() {
        text += match index {
            0 => "",
            _ if index + 1 == choices.len() => " or ",
            _ => ", ",
        };
        text += name;
    }
    text
}
