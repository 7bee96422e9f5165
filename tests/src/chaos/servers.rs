//! The servers of a run, and the faults done to them.

use std::{
    collections::VecDeque,
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle, sleep},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use functional_scaffold_testkit::{
    program,
    redis::{RedisOptions, RedisServer},
    runtime::{App, AppOptions, Runtime},
};

use super::{
    doubt::{EXECUTION_LIMIT_MS, Events, REQUESTS_AN_INSTANCE, Span},
    plan::{Fault, Fsync, Plan},
    proxy::Proxy,
};

/// The time after which the dev host ends a loop.
const HOST_LIMIT: &str = "500ms";

/// The servers, and what has happened to them.
#[derive(Debug)]
pub struct Servers {
    /// The application.
    pub app: App,
    /// The path to Redis.
    pub proxy: Proxy,
    /// Redis.
    pub redis: RedisServer,
    /// What has happened.
    pub events: Events,
    append_only_file: Option<AppendOnlyFile>,
    began: Instant,
}

impl Servers {
    /// Starts them.
    ///
    /// # Errors
    /// One of them does not start.
    pub fn start(plan: &Plan, began: Instant) -> anyhow::Result<Self> {
        let redis = RedisOptions::new().append_only(plan.fsync.name()).start()?;
        let proxy = Proxy::start(redis.port())?;
        let options = AppOptions::with_redis(proxy.port())
            .rogue()
            .arguments(&["--execution-limit", HOST_LIMIT])
            .arguments(&[
                "--max-instance-reuse-count",
                &REQUESTS_AN_INSTANCE.to_string(),
            ])
            .variable("metrics_durability", plan.durability.name())
            .variable("execution_limit_ms", &EXECUTION_LIMIT_MS.to_string())
            // Without a line a request, which would be most of the work.
            .variable("log_level", "info");
        let runtime = Runtime::Devhost(program::built("devhost")?);
        let everysec = plan.fsync == Fsync::Everysec;
        Ok(Self {
            app: App::start_on(runtime, &options)?,
            proxy,
            append_only_file: everysec.then(|| AppendOnlyFile::watch(redis.folder(), began)),
            redis,
            events: Events::default(),
            began,
        })
    }

    /// Does a fault, and waits for its end.
    ///
    /// # Errors
    /// A server does not survive it.
    pub fn suffer(&mut self, fault: Fault) -> anyhow::Result<()> {
        let from = self.began.elapsed();
        match fault {
            Fault::KillRedis(time) => self.kill_redis(from + time)?,
            Fault::SuspendRedis(time) => {
                self.redis.suspend()?;
                sleep(time);
                self.redis.resume()?;
            }
            Fault::CutConnections => {
                self.proxy.cut();
                // The next call fails, and the one after it succeeds.
                self.events.cuts.push(from);
                return Ok(());
            }
            Fault::DropReplies(time) => {
                self.proxy.mute();
                sleep(time);
                self.proxy.cut();
            }
            Fault::DelayCalls(time) => {
                self.proxy.hold();
                sleep(time);
                self.proxy.release();
            }
            Fault::KillRuntime => {
                self.app.kill_and_restart()?;
                let to = self.began.elapsed();
                self.events.kills.push(Span { from, to });
                return Ok(());
            }
        }
        let to = self.began.elapsed();
        self.events.outages.push(Span { from, to });
        Ok(())
    }

    fn kill_redis(&mut self, refused_until: Duration) -> anyhow::Result<()> {
        // Connections end with Redis, not before.
        self.proxy.refuse();
        if let Some(file) = &self.append_only_file {
            self.redis.suspend()?;
            let from = file.cut_last_second()?;
            let to = self.began.elapsed();
            self.events.forgotten.push(Span { from, to });
        }
        self.redis.restart()?;
        sleep(refused_until.saturating_sub(self.began.elapsed()));
        self.proxy.cut();
        Ok(())
    }
}

/// What `appendfsync everysec` may lose.
const LOST: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(20);
const KEPT: Duration = Duration::from_secs(3);

/// Watches the size of an append-only file, to cut it to the size that it had a second
/// ago. A kill -9 alone loses nothing, because what Redis wrote is in the kernel's
/// memory; a power cut loses what was not synced.
#[derive(Debug)]
struct AppendOnlyFile {
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
    fn watch(data: &Path, began: Instant) -> Self {
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
                    sleep(POLL);
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

    /// Cuts the last second from the file of a suspended Redis. Gives the time, since
    /// the beginning of the run, from which everything is forgotten.
    fn cut_last_second(&self) -> anyhow::Result<Duration> {
        let now = self.began.elapsed();
        let (file, _) = newest(&self.folder).context("there is no append-only file")?;
        let sizes = self.sizes.lock().unwrap_or_else(PoisonError::into_inner);
        let is_old_enough = |size: &&Size| size.at + LOST <= now;
        let Some(size) = sizes.iter().rev().find(is_old_enough) else {
            return Ok(now);
        };
        // All that is in a file that was begun since is younger.
        let bytes = if size.file == file { size.bytes } else { 0 };
        let open = OpenOptions::new().write(true).open(&file);
        open.with_context(|| format!("cannot open {}", file.display()))?
            .set_len(bytes)?;
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

/// The file that is appended to, and its size: `appendonly.aof.<number>.incr.aof`, of
/// the highest number.
fn newest(folder: &Path) -> Option<(PathBuf, u64)> {
    let number = |path: &Path| -> Option<u64> {
        let name = path.file_name()?.to_str()?;
        name.strip_suffix(".incr.aof")?
            .rsplit('.')
            .next()?
            .parse()
            .ok()
    };
    let files = fs::read_dir(folder).ok()?.flatten().map(|file| file.path());
    let numbered = files.filter_map(|file| Some((number(&file)?, file)));
    let (_, newest) = numbered.max()?;
    let bytes = fs::metadata(&newest).ok()?.len();
    Some((newest, bytes))
}
