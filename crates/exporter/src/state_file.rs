//! What was served, in a file: so that an exporter that ended together with Redis
//! (a power cut) knows what Redis lost. Owns how the file is written and read;
//! what is in it is [`crate::marks`]'s.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use crate::marks::{Marks, Served};

/// A file that holds what was served last.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    /// As it is in the file.
    written: Option<Served>,
    failing: bool,
}

impl StateFile {
    /// Reads the file if there is one, and gives the marks in it. A file that
    /// cannot be read is logged, and written anew.
    #[must_use]
    pub fn open(path: PathBuf) -> (Self, Marks) {
        let (written, marks) = match read(&path) {
            Ok(Some((served, marks))) => (Some(served), marks),
            Ok(None) => (None, Marks::default()),
            Err(error) => {
                tracing::error!("what was served before is not known: {error:#}");
                (None, Marks::default())
            }
        };
        let file = Self {
            path,
            written,
            failing: false,
        };
        (file, marks)
    }

    /// Writes what was served, if that changed: to the disk, because what is
    /// shown after this may be lost by Redis in a power cut. A failure is logged
    /// when it begins.
    pub async fn save(&mut self, marks: &Marks) {
        let served = marks.served();
        let Some(served) = served.filter(|served| Some(served) != self.written.as_ref()) else {
            return;
        };
        let path = self.path.clone();
        let writing = tokio::task::spawn_blocking(move || {
            write(&path, &served)?;
            anyhow::Ok(served)
        });
        let written = writing.await.context("the write was ended");
        match written.and_then(|written| written) {
            Ok(served) => {
                self.written = Some(served);
                if std::mem::take(&mut self.failing) {
                    tracing::info!("what is served is kept in {} again", self.path.display());
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::error!("what is served is not kept: {error:#}");
                }
            }
        }
    }
}

fn read(path: &Path) -> anyhow::Result<Option<(Served, Marks)>> {
    let text = match fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        read => read.with_context(|| format!("cannot read {}", path.display()))?,
    };
    let not_one = || format!("{} is no state file", path.display());
    let served: Served = serde_json::from_slice(&text).with_context(not_one)?;
    let marks = Marks::restore(&served).with_context(not_one)?;
    Ok(Some((served, marks)))
}

/// The old file or the new one is there whenever the machine stops.
fn write(path: &Path, served: &Served) -> anyhow::Result<()> {
    let cannot = || format!("cannot write {}", path.display());
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let text = serde_json::to_vec(served).with_context(cannot)?;
    let mut file = File::create(&new).with_context(cannot)?;
    file.write_all(&text).with_context(cannot)?;
    file.sync_all().with_context(cannot)?;
    fs::rename(&new, path).with_context(cannot)?;
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let folder = File::open(folder.unwrap_or(Path::new("."))).with_context(cannot)?;
    folder.sync_all().with_context(cannot)
}
