//! Another client of Redis, and how long it waits: what a reader costs others.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::anyhow;

/// A ping, a pause, and so on.
pub(crate) struct Probe {
    ended: Arc<AtomicBool>,
    pinging: thread::JoinHandle<redis::RedisResult<Duration>>,
}

const PAUSE: Duration = Duration::from_micros(300);

impl Probe {
    /// Begins to ping.
    ///
    /// # Errors
    /// Redis does not answer.
    pub(crate) fn start(port: u16) -> anyhow::Result<Self> {
        let mut connection = redis::Client::open(("127.0.0.1", port))?.get_connection()?;
        let ended = Arc::new(AtomicBool::new(false));
        let ending = Arc::clone(&ended);
        let pinging = thread::spawn(move || {
            let mut longest = Duration::ZERO;
            // Once at least: a short read may be over before this begins.
            loop {
                let began = Instant::now();
                redis::cmd("PING").exec(&mut connection)?;
                longest = longest.max(began.elapsed());
                if ending.load(Ordering::Relaxed) {
                    return Ok(longest);
                }
                thread::sleep(PAUSE);
            }
        });
        Ok(Self { ended, pinging })
    }

    /// The longest wait for an answer.
    ///
    /// # Errors
    /// Redis did not answer.
    pub(crate) fn stop(self) -> anyhow::Result<Duration> {
        self.ended.store(true, Ordering::Relaxed);
        let longest = self.pinging.join();
        Ok(longest.map_err(|_panic| anyhow!("the pinging panicked"))??)
    }
}
