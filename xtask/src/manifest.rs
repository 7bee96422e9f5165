//! The parts of `spin.toml` that `up` needs: the variables that the app has, and
//! the files of it that cargo builds.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use toml::de::{DeTable, DeValue};

use crate::command::TARGET_DIR;

pub(crate) const PATH: &str = "spin.toml";

pub(crate) struct Manifest {
    /// The application's variables.
    pub(crate) variables: BTreeSet<String>,
    /// The components below [`TARGET_DIR`].
    components: BTreeSet<String>,
}

impl Manifest {
    pub(crate) fn read() -> Result<Self> {
        let text = fs::read_to_string(PATH).with_context(|| format!("cannot read {PATH}"))?;
        Self::parse(&text).with_context(|| format!("cannot parse {PATH}"))
    }

    fn parse(text: &str) -> Result<Self> {
        let table = DeTable::parse(text)?;
        let table = table.get_ref();
        let variables = table.get("variables").map(toml::Spanned::get_ref);
        let variables = variables.and_then(DeValue::as_table);
        let names = variables.into_iter().flat_map(|table| table.keys());
        let mut components = BTreeSet::new();
        for value in table.values() {
            add_components(value.get_ref(), &mut components);
        }
        Ok(Self {
            variables: names.map(|name| name.get_ref().to_string()).collect(),
            components,
        })
    }

    /// Fails with the names of the components that are not built.
    pub(crate) fn check_built(&self) -> Result<()> {
        let components = self.components.iter().map(String::as_str);
        let missing: Vec<&str> = components
            .filter(|path| !Path::new(path).is_file())
            .collect();
        ensure!(
            missing.is_empty(),
            "not built yet: {}; omit --no-build, or run `cargo xtask build` first",
            missing.join(", ")
        );
        Ok(())
    }
}

/// Every string that names a component, as a source or as a dependency.
fn add_components(value: &DeValue<'_>, components: &mut BTreeSet<String>) {
    match value {
        DeValue::String(text) if text.starts_with(TARGET_DIR) && text.ends_with(".wasm") => {
            components.insert(text.to_string());
        }
        DeValue::Array(values) => {
            for value in values {
                add_components(value.get_ref(), components);
            }
        }
        DeValue::Table(table) => {
            for value in table.values() {
                add_components(value.get_ref(), components);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        [variables]
        # comment = { default = "" }
        redis_host = { default = "127.0.0.1" }
        api_key={ default = "", secret = true }

        [[trigger.http]]
        component = "a"
        dependencies.middleware = [{ path = "target/nowhere/c.wasm" }]

        [component.a]
        source = "target/nowhere/a.wasm"
        [component.a.dependencies]
        "x:y/z@0.1.0" = { path = "target/nowhere/b.wasm" }
        [component.a.variables]
        other = "{{ redis_host }}"
    "#;

    #[test]
    fn the_variables_are_those_of_the_application() {
        let manifest = Manifest::parse(TEXT).expect("TOML");
        let names: Vec<_> = manifest.variables.into_iter().collect();
        assert_eq!(names, ["api_key", "redis_host"]);
    }

    #[test]
    fn components_that_are_not_built_are_named() {
        let error = Manifest::parse(TEXT).expect("TOML").check_built();
        let text = error.expect_err("none is there").to_string();
        let expected = "target/nowhere/a.wasm, target/nowhere/b.wasm, target/nowhere/c.wasm;";
        assert!(text.contains(expected), "{text}");
    }
}
