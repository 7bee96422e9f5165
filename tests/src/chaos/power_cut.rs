//! How much Redis forgets with `appendfsync everysec`. A kill -9 alone loses
//! nothing: what was written is in the kernel's memory. A power cut loses what
//! was not synced, up to the last second. So the append-only file is cut to the
//! size that it had a second before, while Redis stands still.

use std::{
    collections::VecDeque,
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::Context as _;

/// What the policy may lose.
const LOST: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(20);
const KEPT: Duration = Duration::from_secs(3);

/// Watches the sizes of an append-only file until it is dropped.
#[derive(Debug)]
pub struct AppendOnlyFile {
    folder: PathBuf,
    began: Instant,
    sizes: Arc<Mutex<VecDeque<Size>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Clone)]
struct Size {
    at: Duration,
    file: PathBuf,
    bytes: u64,
}

impl AppendOnlyFile {
    /// Of the Redis that keeps its data in a folder.
    #[must_use]
    pub fn watch(data: &Path, began: Instant) -> Self {
        let folder = data.join("appendonlydir");
        let sizes = Arc::new(Mutex::new(VecDeque::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let (folder, sizes, stop) = (folder.clone(), Arc::clone(&sizes), Arc::clone(&stop));
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let at = began.elapsed();
                    if let Some((file, bytes)) = newest(&folder) {
                        let mut sizes = sizes.lock().unwrap_or_else(PoisonError::into_inner);
                        sizes.push_back(Size { at, file, bytes });
                        while sizes.front().is_some_and(|size| size.at + KEPT < at) {
                            sizes.pop_front();
                        }
                    }
                    thread::sleep(LOOK);
                }
            })
        };
        Self {
            folder,
            began,
            sizes,
            stop,
            thread: Some(thread),
        }
    }

    /// Takes the last second out of the file of a Redis that stands still, and
    /// gives the time, since the run's beginning, from which all is forgotten.
    ///
    /// # Errors
    /// The file is gone.
    pub fn forget(&self) -> anyhow::Result<Duration> {
        let now = self.began.elapsed();
        let (file, _) = newest(&self.folder).context("there is no append-only file")?;
        let sizes = self.sizes.lock().unwrap_or_else(PoisonError::into_inner);
        let old_enough = |size: &&Size| size.at + LOST <= now;
        let Some(size) = sizes.iter().rev().find(old_enough) else {
            return Ok(now);
        };
        // Another file was begun since: all in it is younger.
        let bytes = if size.file == file { size.bytes } else { 0 };
        let open = OpenOptions::new().write(true).open(&file);
        let open = open.with_context(|| format!("cannot open {}", file.display()))?;
        open.set_len(bytes)?;
        Ok(size.at)
    }
}

impl Drop for AppendOnlyFile {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The file that is appended to: `appendonly.aof.<number>.incr.aof`, of the
/// highest number.
fn newest(folder: &Path) -> Option<(PathBuf, u64)> {
    let number = |path: &Path| -> Option<u64> {
        let name = path.file_name()?.to_str()?;
        let number = name.strip_suffix(".incr.aof")?.rsplit('.').next()?;
        number.parse().ok()
    };
    let files = fs::read_dir(folder).ok()?.flatten().map(|file| file.path());
    let (_, newest) = files
        .filter_map(|file| Some((number(&file)?, file)))
        .max()?;
    let bytes = fs::metadata(&newest).ok()?.len();
    Some((newest, bytes))
}
