//! Application variables, component variables and `{{ }}` templates.
//!
//! A value comes from `--variable`, else from `SPIN_VARIABLE_*` in the environment,
//! else from the same in `.env` of the working directory, else from the default.
//! The order and the error texts are Spin's.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::path::Path;

use crate::manifest::{Manifest, Variable};

const PREFIX: &str = "SPIN_VARIABLE_";

/// The reason why a variable has no value, as an error of `spin:variables`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum VariableError {
    #[error("invalid variable name: {0}")]
    InvalidName(String),
    #[error("invalid variable template: {0}")]
    InvalidTemplate(String),
    #[error("provider error: {0}")]
    Provider(String),
    #[error("undefined variable: {0}")]
    Undefined(String),
}

type Result<T> = std::result::Result<T, VariableError>;

/// The values from outside the manifest.
#[derive(Debug)]
pub(crate) struct ValueSources {
    flags: HashMap<String, String>,
    environment: HashMap<String, OsString>,
    /// A result, because Spin fails on a broken `.env` only when the environment
    /// does not have the variable.
    dotenv: std::result::Result<HashMap<String, String>, String>,
}

impl ValueSources {
    /// Reads the environment and the file `dotenv` once.
    pub(crate) fn new(flags: HashMap<String, String>, dotenv: &Path) -> Self {
        Self {
            flags,
            environment: std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
                .filter(|(name, _)| name.starts_with(PREFIX))
                .collect(),
            dotenv: read_dotenv(dotenv),
        }
    }

    fn get(&self, name: &str) -> Result<Option<&str>> {
        if let Some(value) = self.flags.get(name) {
            return Ok(Some(value));
        }
        let variable = format!("{PREFIX}{}", name.to_ascii_uppercase());
        if let Some(value) = self.environment.get(&variable) {
            let failed = || format!("failed to resolve env var {variable}");
            return match value.to_str() {
                Some(value) => Ok(Some(value)),
                None => Err(VariableError::Provider(failed())),
            };
        }
        match &self.dotenv {
            Ok(values) => Ok(values.get(&variable).map(String::as_str)),
            Err(error) => Err(VariableError::Provider(error.clone())),
        }
    }
}

fn read_dotenv(path: &Path) -> std::result::Result<HashMap<String, String>, String> {
    // A missing file is no error, but a line that cannot be parsed is one.
    let Ok(lines) = dotenvy::from_path_iter(path) else {
        return Ok(HashMap::new());
    };
    lines
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| error.to_string())
}

/// The variables of an application and of its components.
#[derive(Debug)]
pub(crate) struct Variables {
    sources: ValueSources,
    /// The default by name. A variable without one is required.
    application: BTreeMap<String, Option<String>>,
    /// The templates by name, by component.
    components: HashMap<String, HashMap<String, Template>>,
}

impl Variables {
    /// Checks every name and template of the manifest.
    ///
    /// # Errors
    ///
    /// A name is not in lower_snake_case, a template is malformed or uses an
    /// unknown variable, or a required variable has no value.
    pub(crate) fn new(manifest: &Manifest, sources: ValueSources) -> Result<Self> {
        let mut variables = Self {
            sources,
            application: BTreeMap::new(),
            components: HashMap::new(),
        };
        for (name, Variable { default, .. }) in &manifest.variables {
            check_name(name)?;
            variables.application.insert(name.clone(), default.clone());
        }
        for (id, component) in &manifest.component {
            let mut templates = HashMap::new();
            for (name, template) in &component.variables {
                check_name(name)?;
                let template = Template::parse(template)?;
                variables.check_template(&template)?;
                templates.insert(name.clone(), template);
            }
            variables.components.insert(id.clone(), templates);
        }
        variables.check_required()?;
        Ok(variables)
    }

    /// Returns the value of a component's own variable.
    ///
    /// # Errors
    ///
    /// The name is malformed or the component has no such variable.
    pub(crate) fn get(&self, component: &str, name: &str) -> Result<String> {
        check_name(name)?;
        let template = self
            .components
            .get(component)
            .and_then(|templates| templates.get(name))
            .ok_or_else(|| {
                VariableError::Undefined(format!("no variable for {component:?}.{name:?}"))
            })?;
        template.resolve(|name| self.resolve(name))
    }

    /// Resolves one application variable.
    ///
    /// # Errors
    ///
    /// The variable is unknown or has no value.
    pub(crate) fn resolve(&self, name: &str) -> Result<String> {
        match self.sources.get(name)? {
            Some(value) => Ok(value.to_owned()),
            None => self.default(name),
        }
    }

    /// Returns the default of an application variable.
    ///
    /// # Errors
    ///
    /// The variable is unknown or has no default.
    pub(crate) fn default(&self, name: &str) -> Result<String> {
        let default = self
            .application
            .get(name)
            .ok_or_else(|| VariableError::InvalidName(name.to_owned()))?;
        default.clone().ok_or_else(|| {
            VariableError::Provider(format!("no provider resolved required variable {name:?}"))
        })
    }

    /// Resolves all application variables, as Spin does before it checks outbound
    /// hosts.
    ///
    /// # Errors
    ///
    /// A variable has no value.
    pub(crate) fn resolve_all(&self) -> Result<HashMap<&str, String>> {
        self.application
            .keys()
            .map(|name| Ok((name.as_str(), self.resolve(name)?)))
            .collect()
    }

    fn check_template(&self, template: &Template) -> Result<()> {
        template.resolve(|name| match self.application.contains_key(name) {
            true => Ok(String::new()),
            false => Err(VariableError::InvalidTemplate(format!(
                "unknown variable {name:?}"
            ))),
        })?;
        Ok(())
    }

    fn check_required(&self) -> Result<()> {
        let missing: Vec<_> = self
            .application
            .iter()
            .filter(|(_, default)| default.is_none())
            .map(|(name, _)| name)
            .filter(|name| !matches!(self.sources.get(name), Ok(Some(_))))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(VariableError::Provider(format!(
            "no provider resolved required variable(s): {missing:?} (use --variable, \
             {PREFIX}<NAME> in the environment or in .env)"
        )))
    }
}

/// Text with `{{ variable }}` expressions in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    Variable(String),
}

impl Template {
    /// Parses a template.
    ///
    /// # Errors
    ///
    /// A `{{` has no `}}`.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((literal, expression)) = rest.split_once("{{") {
            let (name, after) = expression.split_once("}}").ok_or_else(|| {
                VariableError::InvalidTemplate(format!("unmatched '{{{{' in template {text:?}"))
            })?;
            parts.push(Part::Literal(literal.to_owned()));
            parts.push(Part::Variable(name.trim().to_owned()));
            rest = after;
        }
        parts.push(Part::Literal(rest.to_owned()));
        Ok(Self(parts))
    }

    /// Returns whether the template has no expression.
    pub(crate) fn is_literal(&self) -> bool {
        self.0.iter().all(|part| matches!(part, Part::Literal(_)))
    }

    /// Replaces the expressions by values.
    ///
    /// # Errors
    ///
    /// `value_of` fails.
    pub(crate) fn resolve(&self, value_of: impl Fn(&str) -> Result<String>) -> Result<String> {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Literal(literal) => text.push_str(literal),
                Part::Variable(name) => text.push_str(&value_of(name)?),
            }
        }
        Ok(text)
    }
}

fn check_name(name: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let reason = if name.is_empty() {
        "must not be empty".to_owned()
    } else if let Some(c) = name.chars().find(|c| !allowed(*c)) {
        format!(
            "invalid character {c:?}. Variable names may contain only lower-case letters, \
             numbers, and underscores."
        )
    } else if !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        "must start with a lowercase ASCII letter".to_owned()
    } else if name.ends_with('_') {
        "must end with a lowercase ASCII letter or digit".to_owned()
    } else if name.contains("__") {
        "must not contain multiple consecutive underscores".to_owned()
    } else {
        return Ok(());
    };
    Err(VariableError::InvalidName(format!("{name:?}: {reason}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings<const N: usize>(pairs: [(&str, &str); N]) -> HashMap<String, String> {
        pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).into()
    }

    fn sources() -> ValueSources {
        ValueSources {
            flags: strings([("a", "flag")]),
            environment: [("A", "env"), ("B", "env")]
                .map(|(name, value)| (format!("{PREFIX}{name}"), value.into()))
                .into(),
            dotenv: Ok(strings([
                ("SPIN_VARIABLE_B", "dotenv"),
                ("SPIN_VARIABLE_C", "dotenv"),
                ("D", "a line without the prefix"),
            ])),
        }
    }

    fn manifest(application: &str, component: &str) -> Manifest {
        toml::from_str(&format!(
            "spin_manifest_version = 2\napplication.name = \"app\"\ntrigger.http = []\n\
             [variables]\n{application}\n[component.api]\nsource = \"x\"\n\
             [component.api.variables]\n{component}"
        ))
        .expect("manifest is well-formed")
    }

    #[test]
    fn flags_win_over_environment_over_dotenv_over_default() {
        let application = ["a", "b", "c", "d"].map(|name| format!("{name} = {{ default = \"\" }}"));
        let variables = Variables::new(&manifest(&application.join("\n"), ""), sources())
            .expect("manifest is accepted");
        let values = ["a", "b", "c", "d"].map(|name| variables.resolve(name));
        assert_eq!(values, ["flag", "env", "dotenv", ""].map(|v| Ok(v.into())));
    }

    #[test]
    fn component_variables_are_templates() {
        let variables = Variables::new(
            &manifest("a = { required = true }", "v = \"<{{ a }}-{{a}}>\""),
            sources(),
        )
        .expect("manifest is accepted");
        assert_eq!(variables.get("api", "v"), Ok("<flag-flag>".to_owned()));
        // An application variable is no component variable.
        assert!(matches!(
            variables.get("api", "a"),
            Err(VariableError::Undefined(_))
        ));
        assert!(matches!(
            variables.get("api", "A"),
            Err(VariableError::InvalidName(_))
        ));
    }

    #[test]
    fn manifests_with_wrong_variables_are_refused() {
        let cases = [
            ("x = { required = true }", "", "[\"x\"]"),
            ("", "v = \"{{ x }}\"", "unknown variable \"x\""),
            ("", "v = \"{{ x\"", "unmatched"),
            ("X = { default = \"\" }", "", "invalid character 'X'"),
            ("x__y = { default = \"\" }", "", "consecutive underscores"),
            ("x_ = { default = \"\" }", "", "must end with"),
            ("1x = { default = \"\" }", "", "must start with"),
        ];
        for (application, component, expected) in cases {
            let error = Variables::new(&manifest(application, component), sources())
                .expect_err(application)
                .to_string();
            assert!(
                error.contains(expected),
                "{application}{component}: {error}"
            );
        }
    }

    #[test]
    fn broken_dotenv_fails_only_what_needs_it() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join(".env");
        assert_eq!(read_dotenv(&path), Ok(HashMap::new()));
        std::fs::write(&path, "SPIN_VARIABLE_A=1\nno assignment\n").expect("file is written");
        let sources = ValueSources {
            dotenv: read_dotenv(&path),
            ..sources()
        };
        assert_eq!(sources.get("b"), Ok(Some("env")));
        assert!(matches!(sources.get("c"), Err(VariableError::Provider(_))));
    }

    #[test]
    fn templates_keep_their_literals() {
        for (text, literal) in [("", true), ("a}}b", true), ("{{a}}", false)] {
            let template = Template::parse(text).expect("template is well-formed");
            assert_eq!(template.is_literal(), literal, "{text}");
            let resolved = template.resolve(|name| Ok(format!("<{name}>")));
            assert_eq!(resolved, Ok(text.replace("{{a}}", "<a>")));
        }
    }
}
