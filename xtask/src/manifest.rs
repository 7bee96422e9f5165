//! What `up` has to know of `spin.toml`: which variables the app has, and which
//! built files it is made of. Read line by line: a TOML library would take
//! longer to compile than the rest of xtask, and whatever runs the app checks
//! the manifest anyway.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::tools::TARGET_DIR;

/// Where the manifest is, in the workspace.
const PATH: &str = "spin.toml";

/// The manifest's text.
pub(crate) struct Manifest(String);

impl Manifest {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub(crate) fn read() -> Result<Self> {
        let text = fs::read_to_string(PATH);
        text.map(Self)
            .with_context(|| format!("cannot read {PATH}"))
    }

    /// The application's variables.
    pub(crate) fn variables(&self) -> BTreeSet<&str> {
        let lines = self.0.lines().map(str::trim);
        lines
            .skip_while(|line| *line != "[variables]")
            .skip(1)
            .take_while(|line| !line.starts_with('['))
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| Some(line.split_once('=')?.0.trim()))
            .collect()
    }

    /// Sees to it that the components are built.
    ///
    /// # Errors
    ///
    /// Names the files that are missing.
    pub(crate) fn check_built(&self) -> Result<()> {
        let missing: BTreeSet<&str> = self
            .components()
            .filter(|path| !Path::new(path).is_file())
            .collect();
        let missing: Vec<&str> = missing.into_iter().collect();
        ensure!(
            missing.is_empty(),
            "not built yet: {}; run it without --no-build, or `cargo xtask build` before",
            missing.join(", ")
        );
        Ok(())
    }

    fn components(&self) -> impl Iterator<Item = &str> {
        let lines = self.0.lines().map(str::trim);
        lines
            .filter(|line| !line.starts_with('#'))
            .flat_map(|line| line.split('"'))
            .filter(|text| text.starts_with(TARGET_DIR) && text.ends_with(".wasm"))
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

        [component.a]
        source = "target/nowhere/a.wasm"
        [component.a.dependencies]
        "x:y/z@0.1.0" = { path = "target/nowhere/b.wasm" }
        [component.a.variables]
        other = "{{ redis_host }}"
    "#;

    #[test]
    fn the_variables_are_those_of_the_application() {
        let manifest = Manifest(TEXT.to_owned());
        let names: Vec<_> = manifest.variables().into_iter().collect();
        assert_eq!(names, ["api_key", "redis_host"]);
    }

    #[test]
    fn what_is_not_built_is_named() {
        let error = Manifest(TEXT.to_owned()).check_built();
        let text = error.expect_err("neither is there").to_string();
        assert!(
            text.contains("target/nowhere/a.wasm, target/nowhere/b.wasm;"),
            "{text}"
        );
    }
}
