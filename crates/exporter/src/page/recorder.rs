//! Reads Redis for the page again and again, as a scrape does and together with
//! those that wait at the time. Owns how often: the page works where nobody
//! scrapes, and costs little where there is much to read.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use super::{
    answer::{self, Clock},
    history::History,
    options::Links,
    sample::Sample,
};
use crate::scrape::Scraper;

/// The pause after a read, in times of what it took: at the most a twentieth of
/// the time is spent on reading for the page.
const PAUSE_PER_READ: u32 = 20;

/// The history, and the clock that it is on.
#[derive(Debug)]
pub struct Recorder {
    began: Instant,
    interval: Duration,
    // A std Mutex: it is never held across an await.
    recorded: Mutex<Recorded>,
}

#[derive(Debug)]
struct Recorded {
    history: History,
    pause: Duration,
}

impl Recorder {
    /// Has recorded nothing; is to read every `interval`.
    #[must_use]
    pub fn new(interval: Duration) -> Self {
        let recorded = Recorded {
            history: History::default(),
            pause: interval,
        };
        Self {
            began: Instant::now(),
            interval,
            recorded: Mutex::new(recorded),
        }
    }

    /// Records, for ever.
    pub async fn record(&self, scraper: &Scraper) {
        loop {
            let pause = self.record_once(scraper).await;
            tokio::time::sleep(pause).await;
        }
    }

    async fn record_once(&self, scraper: &Scraper) -> Duration {
        let snapshot = scraper.scrape(None).await;
        let mut pause = self.interval;
        let read = match snapshot.reading() {
            Ok(reading) => {
                pause = pause.max(PAUSE_PER_READ * snapshot.duration());
                Ok(Sample::of(reading))
            }
            Err(failure) => Err(failure.reason),
        };
        let mut recorded = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        recorded.history.push(self.began.elapsed(), read);
        recorded.pause = pause;
        pause
    }

    /// What was recorded until now, as JSON.
    #[must_use]
    pub fn answer(&self, links: &Links) -> Vec<u8> {
        let recorded = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        let clock = Clock {
            elapsed: self.began.elapsed(),
            now: SystemTime::now(),
            interval: recorded.pause,
        };
        answer::write(&recorded.history, clock, links)
    }
}
