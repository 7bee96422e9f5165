//! The followed files: which there are, how far each was read, and whether it is still
//! the same file.
//!
//! A rotated file is the same device and inode under another name, and is read to its
//! end. A truncated one (`copytruncate`) is begun again. A [`Mark`] tells whether the
//! bytes before a position are those that were read: inodes are used again, a truncated
//! file grows, and a copy of it needs not be read again. Reading a file twice is always
//! safe, because a batch is stored once.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    fs::{self, DirEntry, File, Metadata},
    hash::{DefaultHasher, Hasher as _},
    io::{self, BufReader, ErrorKind, Seek as _, SeekFrom},
    mem,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use anyhow::Context as _;
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};
use serde::{Deserialize, Serialize};

use super::unwrap::Joined;
use crate::{
    commands::log_lines::{
        LoggedLine, MAX_LINE_BYTES, RawLine, Rejection, Trust, find_batch, read_line,
    },
    durable_file::replace_file,
};

/// Directories below a followed one: Kubernetes has one for each pod, with one for each
/// container.
const MAX_DEPTH: usize = 3;
/// Endings of rotated files that are compressed, or not complete yet.
const COMPRESSED: [&str; 6] = ["gz", "zst", "bz2", "xz", "lz4", "tmp"];
/// Bytes of a file that are read before it is another one's turn.
const CHUNK_BYTES: u64 = 1 << 20;
/// The time without a change after which a file is closed if it was read to its end, and
/// forgotten if it is gone.
const IDLE: Duration = Duration::from_secs(60);
/// Files that are open at the same time. Further ones wait until others are read.
const MAX_OPEN: usize = 200;
/// Unread bytes of deleted files that are kept on the disk by keeping the files open.
const MAX_DELETED_BYTES: u64 = 1 << 30;
/// The bytes at the beginning of a file, and those before a position, that identify it.
const MARK_BYTES: u64 = 1 << 10;

/// Files as they are found in directories.
type Files = Vec<(PathBuf, Metadata)>;

/// A file's device and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
}

/// A position in a file, and a hash of bytes before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    position: u64,
    hash: u64,
}

/// A position as it is remembered across restarts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Remembered {
    path: PathBuf,
    #[serde(flatten)]
    id: FileId,
    #[serde(flatten)]
    mark: Mark,
}

/// A place in a file, until the file is truncated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    id: FileId,
    truncations: u64,
    position: u64,
}

/// The part of a file that was read: the bytes before the mark.
pub(super) struct ReadTo {
    id: FileId,
    truncations: u64,
    mark: Mark,
}

/// A batch, or a line that is left out.
pub(super) struct Found {
    pub(super) place: Place,
    /// Path and position, for messages.
    pub(super) name: String,
    pub(super) line: Result<LoggedLine, Rejection>,
}

struct LogFile {
    path: PathBuf,
    handle: Option<File>,
    size: u64,
    modified: SystemTime,
    /// When one of the two was last seen to change.
    changed: Instant,
    /// When it was last found in a directory.
    listed: Instant,
    truncations: u64,
    /// Where the next line begins.
    next: Mark,
    /// Where a line begins whose end is not there yet, and is too long already.
    long_line: Option<u64>,
    joined: Joined,
    /// The last position before which nothing has to be read again.
    mark: Mark,
}

/// The files of some directories.
pub(super) struct Logs {
    roots: Vec<PathBuf>,
    positions: PathBuf,
    files: BTreeMap<FileId, LogFile>,
    /// Positions of files that were not found yet.
    remembered: Vec<Remembered>,
    /// As of the last [`Logs::save`], for the next one.
    unsaved: Vec<Remembered>,
    saved: Vec<Remembered>,
}

impl fmt::Display for Logs {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let roots: Vec<_> = self
            .roots
            .iter()
            .map(|root| root.to_string_lossy())
            .collect();
        write!(
            out,
            "{}, from {}",
            roots.join(", "),
            self.positions.display()
        )
    }
}

impl Logs {
    /// Reads the positions. Without them, every file is read from its beginning.
    pub(super) fn new(roots: Vec<PathBuf>, positions: PathBuf) -> Self {
        let read = || match fs::read(&positions) {
            Ok(text) => serde_json::from_slice(&text).context("it is no file of positions"),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        };
        let remembered = read().unwrap_or_else(|error| {
            let path = positions.display();
            tracing::error!("cannot read {path}, so that all logs are read again: {error:#}");
            Vec::new()
        });
        Self {
            roots,
            positions,
            files: BTreeMap::new(),
            unsaved: remembered.clone(),
            remembered,
            saved: Vec::new(),
        }
    }

    /// Looks for new files, and for changes of those that are known.
    ///
    /// # Errors
    /// Something cannot be read. Everything else was looked at.
    pub(super) fn scan(&mut self) -> anyhow::Result<()> {
        let now = Instant::now();
        let mut found = Vec::new();
        let mut result = Ok(());
        for root in &self.roots {
            let listing = match root.is_dir() {
                true => list(root, MAX_DEPTH, &mut found),
                false => list_rotated(root, &mut found),
            };
            result = listing.and(result);
        }
        let positions = fs::metadata(&self.positions).ok();
        let positions = positions.map(|metadata| FileId::of(&metadata));
        found.retain(|(_, metadata)| Some(FileId::of(metadata)) != positions);
        let mut new = Vec::new();
        for (path, metadata) in found {
            match self.files.get_mut(&FileId::of(&metadata)) {
                Some(file) => {
                    file.path = path;
                    file.listed = now;
                    // Of an open file, its handle knows more: the path may have another
                    // file by now.
                    if file.handle.is_none() {
                        file.observe(&metadata);
                    }
                }
                None => new.push((path, metadata)),
            }
        }
        // Before the known files are found to be truncated: a new one may be the copy.
        for (path, metadata) in new {
            if let Err(error) = self.add(&path, &metadata) {
                result = Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        }
        if result.is_ok() {
            self.remembered.clear();
        }
        let open = self.files.values().filter(|file| file.handle.is_some());
        let mut room = MAX_OPEN.saturating_sub(open.count());
        for (id, file) in &mut self.files {
            if let Err(error) = file.refresh(*id, &mut room) {
                let path = file.path.display().to_string();
                result = Err(error).with_context(|| format!("cannot read {path}"));
            }
        }
        self.files.retain(|_, file| !file.is_over(now));
        self.limit_deleted();
        result
    }

    /// Adds a file at the position up to which it, or what it is a copy of, was read.
    fn add(&mut self, path: &Path, metadata: &Metadata) -> io::Result<()> {
        let id = FileId::of(metadata);
        let Some(file) = open(path, id)? else {
            return Ok(());
        };
        let known = self
            .files
            .iter()
            .map(|(id, file)| (*id, &file.path, file.mark));
        let remembered = self
            .remembered
            .iter()
            .map(|one| (one.id, &one.path, one.mark));
        let marks = known.chain(remembered).filter(|(other, log, mark)| {
            let is_related = *other == id || is_rotated(path, log) || is_rotated(log, path);
            is_related && mark.holds(&file)
        });
        let mark = marks
            .map(|(_, _, mark)| mark)
            .max_by_key(|mark| mark.position);
        let mark = mark.unwrap_or_default();
        let file = LogFile {
            path: path.to_owned(),
            handle: None,
            size: metadata.len(),
            modified: modified(metadata),
            changed: Instant::now(),
            listed: Instant::now(),
            truncations: 0,
            next: mark,
            long_line: None,
            joined: Joined::default(),
            mark,
        };
        self.files.insert(id, file);
        Ok(())
    }

    /// Drops what is unread of deleted files, the oldest first, beyond a limit: rotation
    /// bounds the space that logs take, and keeping deleted files open lifts that bound.
    fn limit_deleted(&mut self) {
        let mut deleted: Vec<_> = self
            .files
            .iter()
            .filter(|(_, file)| file.is_deleted())
            .collect();
        deleted.sort_by_key(|(_, file)| std::cmp::Reverse(file.modified));
        let mut bytes = 0;
        let mut dropped = Vec::new();
        for (id, file) in deleted {
            bytes += file.size.saturating_sub(file.next.position);
            if bytes > MAX_DELETED_BYTES {
                tracing::error!(
                    "{} was deleted, and is not read from byte {} on: more than {MAX_DELETED_BYTES} bytes of deleted files wait",
                    file.path.display(),
                    file.next.position
                );
                dropped.push(*id);
            }
        }
        for id in dropped {
            self.files.remove(&id);
        }
    }

    /// The files with something to read, the oldest first.
    pub(super) fn unread(&self) -> Vec<FileId> {
        let unread = self.files.iter();
        let unread = unread.filter(|(_, file)| file.handle.is_some() && file.has_unread());
        let mut unread: Vec<_> = unread.map(|(id, file)| (file.modified, *id)).collect();
        unread.sort_unstable();
        unread.into_iter().map(|(_, id)| id).collect()
    }

    /// Reads lines of a file. Returns what was found, and how far it was read, for
    /// [`Self::advance`].
    pub(super) fn read(&mut self, id: FileId, trust: &Trust) -> io::Result<(Vec<Found>, ReadTo)> {
        let mut found = Vec::new();
        let missing = || io::Error::from(ErrorKind::NotFound);
        let file = self.files.get_mut(&id).ok_or_else(missing)?;
        let place = |position| Place {
            id,
            truncations: file.truncations,
            position,
        };
        let handle = file.handle.as_ref().ok_or_else(missing)?;
        let mut source = BufReader::with_capacity(1 << 16, handle);
        source.seek(SeekFrom::Start(file.next.position))?;
        let mut next = file.next.position;
        let metadata = handle.metadata()?;
        let is_unchanged = (metadata.len(), modified(&metadata)) == (file.size, file.modified);
        let is_idle = is_unchanged && file.changed.elapsed() > IDLE;
        // After an error the same lines are read again.
        let (mut long_line, mut joined) = (file.long_line, file.joined.clone());
        while next < file.next.position + CHUNK_BYTES {
            let Some(RawLine {
                text,
                bytes,
                is_ended,
            }) = read_line(&mut source)?
            else {
                break;
            };
            // Its end may still come, unless it should have come long ago.
            if !is_ended && !is_idle {
                if bytes > MAX_LINE_BYTES as u64 {
                    long_line.get_or_insert(next);
                    next += bytes;
                }
                break;
            }
            let start = next;
            next += bytes;
            let lines = match (long_line.take(), text) {
                (Some(start), _) => vec![(start, None)],
                (None, None) => vec![(start, None)],
                (None, Some(text)) => joined.push(start, text, |line| is_signed(line, trust)),
            };
            for (start, text) in lines {
                let line = match text {
                    Some(text) => find_batch(&text, trust),
                    None => Err(Rejection::too_long()),
                };
                if let Some(line) = line.transpose() {
                    let name = format!("{} at byte {start}", file.path.display());
                    let place = place(start);
                    found.push(Found { place, name, line });
                }
            }
        }
        let read = ReadTo {
            id,
            truncations: file.truncations,
            mark: Mark::at(handle, next)?,
        };
        (file.long_line, file.joined) = (long_line, joined);
        Ok((found, read))
    }

    /// Continues after what was read, once it is stored. Returns whether something was.
    pub(super) fn advance(&mut self, read: ReadTo) -> bool {
        let file = self.files.get_mut(&read.id);
        let Some(file) = file.filter(|file| file.truncations == read.truncations) else {
            return true;
        };
        let has_read = file.next.position != read.mark.position;
        file.next = read.mark;
        // It may have been truncated while Redis was down, and be longer again.
        let is_other = !file.is_as_read();
        if is_other {
            file.begin_again();
        }
        has_read || is_other
    }

    /// Writes down the positions of the last call, and takes those of now, each not after
    /// the places that have to be read again: a Redis that loses power may lose what it
    /// stored in the last two seconds.
    pub(super) fn save(&mut self, again: impl Iterator<Item = Place>) -> anyhow::Result<()> {
        let mut first: HashMap<(FileId, u64), u64> = HashMap::new();
        for place in again {
            let first = first.entry((place.id, place.truncations));
            let first = first.or_insert(place.position);
            *first = place.position.min(*first);
        }
        let mut positions = Vec::new();
        for (id, file) in &mut self.files {
            let again = first.get(&(*id, file.truncations)).copied();
            let waiting = [again, file.long_line, file.joined.start()];
            let next = file.next.position;
            let position = waiting.into_iter().flatten().fold(next, u64::min);
            if position == next {
                file.mark = file.next;
            } else if position != file.mark.position
                && file.is_as_read()
                && let Some(Ok(mark)) = file.handle.as_ref().map(|file| Mark::at(file, position))
            {
                file.mark = mark;
            }
            if file.mark.position > 0 {
                positions.push(Remembered {
                    path: file.path.clone(),
                    id: *id,
                    mark: file.mark,
                });
            }
        }
        positions.extend(self.remembered.iter().cloned());
        let positions = mem::replace(&mut self.unsaved, positions);
        if positions != self.saved {
            replace_file(&self.positions, &serde_json::to_vec(&positions)?)?;
            self.saved = positions;
        }
        Ok(())
    }

    /// The number of files, and of bytes in them that may have to be read.
    pub(super) fn lag(&self) -> (usize, u64) {
        let lag = |file: &LogFile| file.size.saturating_sub(file.mark.position);
        (self.files.len(), self.files.values().map(lag).sum())
    }
}

impl LogFile {
    /// Opens it if something can come of it and there is room, and begins it again if it
    /// was truncated.
    fn refresh(&mut self, id: FileId, room: &mut usize) -> io::Result<()> {
        // The rest of a line that a container runtime split may never come.
        let is_done = self.next.position == self.size && is_idle(self.modified);
        let was_open = self.handle.is_some();
        if is_done {
            self.handle = None;
        } else if !was_open && *room > 0 {
            self.handle = open(&self.path, id)?;
            *room -= usize::from(self.handle.is_some());
        }
        let metadata = self.handle.as_ref().map(File::metadata).transpose()?;
        let has_changed = metadata.is_some_and(|metadata| self.observe(&metadata));
        if (has_changed || !was_open) && !self.is_as_read() {
            self.begin_again();
        }
        Ok(())
    }

    /// Notes size and time. Returns whether they changed.
    fn observe(&mut self, metadata: &Metadata) -> bool {
        let now = (metadata.len(), modified(metadata));
        let has_changed = now != (self.size, self.modified);
        if has_changed {
            (self.size, self.modified) = now;
            self.changed = Instant::now();
        }
        has_changed
    }

    fn begin_again(&mut self) {
        tracing::info!(
            "{} was truncated, and is read from its beginning",
            self.path.display()
        );
        self.truncations += 1;
        self.next = Mark::default();
        self.long_line = None;
        self.joined = Joined::default();
        self.mark = Mark::default();
    }

    fn has_unread(&self) -> bool {
        self.size > self.next.position
    }

    /// Returns false if the bytes that were read have changed.
    fn is_as_read(&self) -> bool {
        let handle = self.handle.as_ref();
        handle.is_none_or(|handle| self.next.holds(handle))
    }

    /// Returns true if the file is gone, and can be forgotten.
    fn is_over(&self, now: Instant) -> bool {
        let is_gone = now.duration_since(self.listed) > IDLE;
        is_gone && (self.handle.is_none() || !self.has_unread())
    }

    fn is_deleted(&self) -> bool {
        let metadata = self.handle.as_ref().map(File::metadata);
        metadata.is_some_and(|metadata| metadata.is_ok_and(|metadata| metadata.nlink() == 0))
    }
}

impl FileId {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }
}

impl Mark {
    /// Marks a position of a file. Not every version of Rust has the same hash; after an
    /// update, files are read again.
    fn at(file: &File, position: u64) -> io::Result<Self> {
        let length = position.min(MARK_BYTES);
        let mut bytes = vec![0; length as usize];
        let mut hasher = DefaultHasher::new();
        for start in [0, position - length] {
            file.read_exact_at(&mut bytes, start)?;
            hasher.write(&bytes);
        }
        let hash = hasher.finish();
        Ok(Self { position, hash })
    }

    /// Compares the bytes before the position with those of a file.
    fn holds(&self, file: &File) -> bool {
        self.position == 0 || Self::at(file, self.position).is_ok_and(|mark| mark == *self)
    }
}

/// Opens a file, unless the path has another one by now, or none. Does not wait for a
/// writer if that is a FIFO.
fn open(path: &Path, id: FileId) -> io::Result<Option<File>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let metadata = file.metadata()?;
    let is_it = metadata.is_file() && FileId::of(&metadata) == id;
    Ok(is_it.then_some(file))
}

fn is_signed(line: &[u8], trust: &Trust) -> bool {
    matches!(trust, Trust::Key(_)) && matches!(find_batch(line, trust), Ok(Some(_)))
}

fn modified(metadata: &Metadata) -> SystemTime {
    metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Returns true if nothing was written for [`IDLE`], by the clock of the file system. A
/// time ahead of this host's clock is recent.
fn is_idle(modified: SystemTime) -> bool {
    modified.elapsed().is_ok_and(|age| age > IDLE)
}

/// Lists the files in a directory and below it.
///
/// # Errors
/// Something cannot be read. Everything else is listed.
fn list(directory: &Path, depth: usize, found: &mut Files) -> anyhow::Result<()> {
    let mut result = Ok(());
    for entry in entries(directory)? {
        let path = entry.path();
        // A symbolic link to a directory is not followed: it may be a circle.
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let listed = match is_directory {
            false => add_file(path, found),
            true if depth > 0 && entry.file_name() != "lost+found" => list(&path, depth - 1, found),
            true => Ok(()),
        };
        result = listed.and(result);
    }
    result
}

/// Lists a file and its rotated ones.
fn list_rotated(file: &Path, found: &mut Files) -> anyhow::Result<()> {
    let directory = file
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let mut result = Ok(());
    for entry in entries(directory.unwrap_or(Path::new(".")))? {
        let path = file.with_file_name(entry.file_name());
        if is_rotated(&path, file) {
            result = add_file(path, found).and(result);
        }
    }
    result
}

fn entries(directory: &Path) -> anyhow::Result<Vec<DirEntry>> {
    let entries = fs::read_dir(directory).and_then(Iterator::collect);
    entries.with_context(|| format!("cannot list {}", directory.display()))
}

fn add_file(path: PathBuf, found: &mut Files) -> anyhow::Result<()> {
    let ending = path.extension().and_then(|ending| ending.to_str());
    if ending.is_some_and(|ending| COMPRESSED.contains(&ending)) {
        return Ok(());
    }
    match fs::metadata(&path) {
        Ok(metadata) if metadata.is_file() => found.push((path, metadata)),
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot read {}", path.display()));
        }
        Ok(_) | Err(_) => {}
    }
    Ok(())
}

/// Matches the log itself and the names that rotation gives it: `app.log.1`,
/// `app.log-20261129`.
fn is_rotated(path: &Path, log: &Path) -> bool {
    let name = |path: &Path| {
        path.file_name()
            .map(|name| name.as_encoded_bytes().to_vec())
    };
    let (Some(name), Some(log_name)) = (name(path), name(log)) else {
        return false;
    };
    let rest = name.strip_prefix(&log_name[..]);
    path.parent() == log.parent()
        && rest.is_some_and(|rest| rest.is_empty() || b".-".contains(&rest[0]))
}

#[cfg(test)]
mod tests {
    use std::{iter, process::Command};

    use super::*;

    /// A followed file that was last written a while ago, and read to its end.
    fn read(folder: &Path, text: &str) -> (Logs, FileId) {
        let path = folder.join("app.log");
        fs::write(&path, text).expect("written");
        let file = File::options().write(true).open(&path).expect("a file");
        let before = SystemTime::now() - 2 * IDLE;
        file.set_modified(before).expect("its time is set");
        let mut logs = Logs::new(vec![path], folder.join("positions"));
        logs.scan().expect("it is listed");
        let id = logs.unread()[0];
        let (found, read) = logs.read(id, &Trust::Unauthenticated).expect("it is read");
        assert!(found.is_empty());
        assert!(logs.advance(read));
        (logs, id)
    }

    #[test]
    fn a_file_that_ends_with_a_part_of_a_line_is_closed_and_read_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut logs, id) = read(folder.path(), "2026-11-29T05:00:00Z stderr P {\n");
        logs.scan().expect("it is listed");
        assert!(logs.files[&id].handle.is_none());
        logs.save(iter::empty()).expect("saved");
        assert_eq!(logs.files[&id].mark, Mark::default());
    }

    #[test]
    fn positions_are_written_down_one_save_later() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut logs, _) = read(folder.path(), "text\n");
        let mut saved = || {
            logs.save(iter::empty()).expect("saved");
            fs::read_to_string(folder.path().join("positions")).ok()
        };
        assert_eq!(saved(), None);
        let text = saved().expect("it is written");
        assert!(text.contains("\"position\":5,"), "{text}");
    }

    #[test]
    fn a_fifo_in_place_of_a_log_is_not_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("app.log");
        let made = Command::new("mkfifo").arg(&path).status().expect("mkfifo");
        assert!(made.success());
        let id = FileId::of(&fs::metadata(&path).expect("it is there"));
        let opened = open(&path, id).expect("it can be opened");
        assert!(opened.is_none());
    }
}
