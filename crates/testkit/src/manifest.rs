//! Lets a test set every variable of the application: a manifest declares only
//! those that its users change, and a runtime ignores the others.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use tempfile::TempDir;

/// A manifest of the application.
#[derive(Debug)]
pub struct Manifest {
    path: PathBuf,
    /// Holds the manifest if it is a copy.
    _folder: Option<TempDir>,
}

impl Manifest {
    /// Takes the manifest at `path`, or a copy that declares the given variables
    /// if it leaves out any of them.
    ///
    /// # Errors
    /// The manifest cannot be read or copied.
    pub fn declaring(path: &Path, names: &[&str]) -> anyhow::Result<Self> {
        let read = || format!("cannot read {}", path.display());
        let text = fs::read_to_string(path).with_context(read)?;
        let copy = with_variables(&text, names);
        if copy == text {
            return Ok(Self {
                path: path.to_owned(),
                _folder: None,
            });
        }
        let home = path.canonicalize().with_context(read)?;
        let home = home.parent().with_context(read)?;
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("spin.toml");
        fs::write(&path, with_absolute_paths(&copy, home))?;
        Ok(Self {
            path,
            _folder: Some(folder),
        })
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Declares the variables that are missing, and passes them to every component.
fn with_variables(manifest: &str, names: &[&str]) -> String {
    let mut text = manifest.to_owned();
    for name in names {
        if text.contains(&format!("\n{name} = {{ default = ")) {
            continue;
        }
        let declaration = format!("\n[variables]\n{name} = {{ default = \"\" }}\n");
        text = text.replace("\n[variables]\n", &declaration);
        let passed = format!(".variables]\n{name} = \"{{{{ {name} }}}}\"\n");
        text = text.replace(".variables]\n", &passed);
    }
    text
}

fn with_absolute_paths(manifest: &str, home: &Path) -> String {
    let parts = manifest.split('"').enumerate().map(|(index, part)| {
        let is_component = index % 2 == 1 && part.ends_with(".wasm");
        match is_component {
            true => home.join(part).display().to_string(),
            false => part.to_owned(),
        }
    });
    parts.collect::<Vec<_>>().join("\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository;

    #[test]
    fn only_a_variable_that_is_left_out_needs_a_copy() {
        let path = repository().join("spin.toml");
        let manifest = Manifest::declaring(&path, &["redis_port", "log_level"]);
        assert_eq!(manifest.expect("it is readable").path(), path);
        let manifest = Manifest::declaring(&path, &["redis_port", "lease_timeout_ms"]);
        let manifest = manifest.expect("it is readable");
        assert_ne!(manifest.path(), path);
        let text = fs::read_to_string(manifest.path()).expect("it is readable");
        assert!(text.contains("\nlease_timeout_ms = { default = \"\" }\n"));
        assert!(text.contains("\nlease_timeout_ms = \"{{ lease_timeout_ms }}\"\n"));
        assert_eq!(text.matches("redis_port = { default").count(), 1);
        assert!(!text.contains("\"target/"), "{text}");
    }
}
