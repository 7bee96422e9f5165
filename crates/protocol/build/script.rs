//! Reads a Lua script with its includes, as [BullMQ] writes them:
//! `--- @include "includes/clock"`, relative to the file that includes. Each file
//! is included once, before the code of the first file that names it.
//!
//! [BullMQ]: https://github.com/taskforcesh/bullmq/tree/master/src/commands

use std::{
    fs,
    path::{Path, PathBuf},
};

const INCLUDE: &str = "--- @include ";

/// Collects the code of a script.
#[derive(Default)]
pub(crate) struct Loader {
    code: String,
    /// Files whose code is complete.
    included: Vec<PathBuf>,
    /// Files that are being read, from the script to its innermost include.
    open: Vec<PathBuf>,
}

impl Loader {
    /// Returns the code of a script and its includes, without comments and
    /// indentation.
    ///
    /// # Errors
    /// A file cannot be read, includes itself, or has a malformed include.
    pub(crate) fn load(path: &Path) -> Result<String, String> {
        let mut loader = Self::default();
        loader.append(path)?;
        Ok(loader.code)
    }

    fn append(&mut self, path: &Path) -> Result<(), String> {
        if self.included.iter().any(|included| included == path) {
            return Ok(());
        }
        if self.open.iter().any(|open| open == path) {
            return Err(format!(
                "{} includes itself: {:?}",
                path.display(),
                self.open
            ));
        }
        let text = fs::read_to_string(path)
            .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        self.open.push(path.to_owned());
        let mut own_code = String::new();
        // No string literal spans lines in these scripts, so a line that begins with
        // `--` is a comment.
        for line in text.lines().map(str::trim) {
            if let Some(name) = line.strip_prefix(INCLUDE) {
                let name = name
                    .strip_prefix('"')
                    .and_then(|name| name.strip_suffix('"'))
                    .ok_or_else(|| format!("{}: malformed include: {line}", path.display()))?;
                let folder = path.parent().unwrap_or(Path::new(""));
                self.append(&folder.join(name).with_extension("lua"))?;
            } else if !line.is_empty() && !line.starts_with("--") {
                own_code.push_str(line);
                own_code.push('\n');
            }
        }
        self.code.push_str(&own_code);
        self.open.pop();
        self.included.push(path.to_owned());
        Ok(())
    }
}
