//! Adapts a manifest to a run. A test sets every variable of the application, of
//! which a manifest declares only those that its users change. An algorithm whose
//! language is not installed is left out, and those that a test does not need.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use tempfile::TempDir;

/// A manifest of the application.
#[derive(Debug)]
pub struct Manifest {
    path: PathBuf,
    left_out: BTreeSet<String>,
    /// Holds the manifest if it is a copy.
    _folder: Option<TempDir>,
}

impl Manifest {
    /// Takes the manifest at `path`, or a copy if it does not declare all the given
    /// variables or names an algorithm that is not built. A component that cargo
    /// builds is never left out.
    ///
    /// # Errors
    /// The manifest cannot be read or copied.
    pub fn declaring(path: &Path, names: &[&str]) -> anyhow::Result<Self> {
        Self::serving(path, names, None)
    }

    /// Like [`Self::declaring`], with this component alone.
    ///
    /// # Errors
    /// The manifest cannot be read or copied.
    pub fn serving(path: &Path, names: &[&str], only: Option<&str>) -> anyhow::Result<Self> {
        let read = || format!("cannot read {}", path.display());
        let text = fs::read_to_string(path).with_context(read)?;
        let home = path.canonicalize().with_context(read)?;
        let home = home.parent().with_context(read)?;
        let mut left_out = unbuilt(&text, home);
        if let Some(only) = only {
            let others = tables(&text).filter_map(component);
            left_out.extend(others.filter(|name| *name != only).map(str::to_owned));
        }
        let copy = without(&with_variables(&text, names), &left_out);
        if copy == text {
            return Ok(Self {
                path: path.to_owned(),
                left_out,
                _folder: None,
            });
        }
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("spin.toml");
        fs::write(&path, with_absolute_paths(&copy, home))?;
        Ok(Self {
            path,
            left_out,
            _folder: Some(folder),
        })
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The components that are left out.
    pub fn left_out(&self) -> impl Iterator<Item = &str> {
        self.left_out.iter().map(String::as_str)
    }
}

/// A table of a manifest: its header and what follows.
fn tables(manifest: &str) -> impl Iterator<Item = &str> {
    let starts = manifest.match_indices("\n[").map(|(at, _)| at + 1);
    let ends = starts.clone().chain([manifest.len()]);
    let starts = [0].into_iter().chain(starts);
    starts.zip(ends).map(|(start, end)| &manifest[start..end])
}

/// The component that a table describes.
fn component(table: &str) -> Option<&str> {
    table.strip_prefix("[component.")?.split(['.', ']']).next()
}

/// The components with a file that is not there and that cargo does not build.
fn unbuilt(manifest: &str, home: &Path) -> BTreeSet<String> {
    let is_missing = |file: &&str| {
        file.ends_with(".wasm") && !file.contains("target/") && !home.join(file).is_file()
    };
    let components = tables(manifest).filter_map(|table| {
        let component = component(table)?;
        let mut strings = table.split('"').skip(1).step_by(2);
        strings.find(is_missing).map(|_| component.to_owned())
    });
    components.collect()
}

/// The manifest without the tables of the given components, and their triggers.
fn without(manifest: &str, components: &BTreeSet<String>) -> String {
    let is_of = |table: &str, name: &String| {
        component(table) == Some(name)
            || table.starts_with("[[trigger.") && table.contains(&format!("component = \"{name}\""))
    };
    let kept = tables(manifest).filter(|table| !components.iter().any(|name| is_of(table, name)));
    kept.collect()
}

/// Declares the variables that are missing, and passes them to every component that
/// does not set its own.
fn with_variables(manifest: &str, names: &[&str]) -> String {
    let mut text = manifest.to_owned();
    for name in names {
        if text.contains(&format!("\n{name} = {{ default = ")) {
            continue;
        }
        let declaration = format!("\n[variables]\n{name} = {{ default = \"\" }}\n");
        text = text.replace("\n[variables]\n", &declaration);
        let tables = tables(&text).map(|table| match table.split_once(".variables]\n") {
            Some((component, set)) if !table.contains(&format!("\n{name} = ")) => {
                format!("{component}.variables]\n{name} = \"{{{{ {name} }}}}\"\n{set}")
            }
            _ => table.to_owned(),
        });
        text = tables.collect();
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

    #[test]
    fn one_component_is_served_alone() {
        let path = repository().join("spin.toml");
        let manifest = Manifest::serving(&path, &[], Some("prime-check"));
        let text = fs::read_to_string(manifest.expect("it is readable").path());
        let text = text.expect("it is readable");
        let components = tables(&text).filter_map(component).collect::<BTreeSet<_>>();
        assert_eq!(components, ["prime-check"].into());
        assert_eq!(text.matches("[[trigger.http]]").count(), 1);
    }

    #[test]
    fn an_algorithm_that_is_not_built_is_left_out() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("spin.toml");
        let entry = |name: &str, file: &str| {
            format!(
                "[[trigger.http]]\nroute = \"/{name}\"\ncomponent = \"{name}\"\n\n\
                 [component.{name}]\nsource = \"target/service.wasm\"\n\
                 [component.{name}.dependencies]\n\"a:b/c\" = {{ path = \"{file}\" }}\n\
                 [component.{name}.variables]\nname = \"{name}\"\n\n"
            )
        };
        let rust = entry("words", "target/words.wasm");
        let python = entry("words-py", "words-py/words-py.wasm");
        let text = format!("spin_manifest_version = 2\n\n[application]\n\n{rust}{python}{rust}");
        fs::write(&path, &text).expect("it can be written");
        let manifest = Manifest::declaring(&path, &[]).expect("it is readable");
        assert_eq!(manifest.left_out().collect::<Vec<_>>(), ["words-py"]);
        let copy = fs::read_to_string(manifest.path()).expect("it is readable");
        let expected = with_absolute_paths(&text.replace(&python, ""), folder.path());
        assert_eq!(copy, expected);

        fs::create_dir(folder.path().join("words-py")).expect("it can be made");
        fs::write(folder.path().join("words-py/words-py.wasm"), "").expect("it can be written");
        let manifest = Manifest::declaring(&path, &[]).expect("it is readable");
        assert_eq!((manifest.path(), manifest.left_out().count()), (&*path, 0));
    }
}
