//! Files that are whole whenever the machine stops.

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
};

use anyhow::Context as _;

/// Replaces the file, so that the old one or the new one is whole whenever the
/// machine stops.
pub(crate) fn replace_file(path: &Path, text: &[u8]) -> anyhow::Result<()> {
    let cannot = || format!("cannot write {}", path.display());
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let mut file = File::create(&new).with_context(cannot)?;
    file.write_all(text).with_context(cannot)?;
    file.sync_all().with_context(cannot)?;
    fs::rename(&new, path).with_context(cannot)?;
    let directory = path
        .parent()
        .filter(|directory| !directory.as_os_str().is_empty());
    let directory = File::open(directory.unwrap_or(Path::new("."))).with_context(cannot)?;
    directory.sync_all().with_context(cannot)
}
