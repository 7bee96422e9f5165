//! The log of the app that `up` runs: in the terminal, and in files that the exporter
//! follows.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, PipeReader, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context as _, Result};

/// The size at which the file is rotated. One rotated file is kept.
const MAX_BYTES: u64 = 64 << 20;

/// Sends a command's output to the terminal, and appends it to a file.
pub(crate) fn keep(command: &mut Command, path: PathBuf) -> Result<()> {
    let cannot = || format!("cannot write the app's log to {}", path.display());
    let file = open(&path).with_context(cannot)?;
    let (reader, writer) = io::pipe().with_context(cannot)?;
    command.stdout(writer.try_clone()?).stderr(writer);
    thread::spawn(move || {
        if let Err(error) = copy(reader, file, &path, MAX_BYTES) {
            eprintln!("the app's log is incomplete: {}: {error}", path.display());
        }
    });
    Ok(())
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// Copies to the end. An error of the file does not stop the copy to the terminal, because
/// the app would wait for its reader.
fn copy(output: PipeReader, mut file: File, path: &Path, max_bytes: u64) -> io::Result<()> {
    let mut output = BufReader::new(output);
    let mut result = file.metadata().map(drop);
    let mut bytes = file.metadata().map_or(0, |metadata| metadata.len());
    let mut line = Vec::new();
    while output.read_until(b'\n', &mut line)? > 0 {
        // The terminal may be gone.
        let _ = io::stderr().write_all(&line);
        let written = file.write_all(&line);
        bytes += line.len() as u64;
        line.clear();
        let rotated = written.and_then(|()| {
            if bytes >= max_bytes {
                fs::rename(path, path.with_extension("log.1"))?;
                file = open(path)?;
                bytes = 0;
            }
            Ok(())
        });
        result = result.and(rotated);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_appended_and_rotated_between_lines() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("app.log");
        fs::write(&path, "before\n").expect("written");
        let (reader, mut writer) = io::pipe().expect("a pipe");
        writer.write_all(b"first\nsecond\nhalf").expect("written");
        drop(writer);
        copy(reader, open(&path).expect("opened"), &path, 12).expect("copied");
        let text = |name: &str| fs::read_to_string(folder.path().join(name)).expect(name);
        assert_eq!(text("app.log.1"), "before\nfirst\n");
        assert_eq!(text("app.log"), "second\nhalf");
    }
}
