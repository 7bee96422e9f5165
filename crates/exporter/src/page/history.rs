//! The page's history: the newest sample, and the rates at each of the last reads.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use crate::{
    page::rates::{Rates, Sample, Window},
    redis_client::Reason,
    scrape::Scraper,
};

/// A quarter of an hour, at a read every five seconds.
const MAX_POINTS: usize = 180;

/// The least pause after a read, as a multiple of its duration: reads for the page take
/// at most a twentieth of the time.
const PAUSE_PER_READ: u32 = 20;

/// What was recorded. Times are since the recorder started.
#[derive(Default)]
pub(crate) struct History {
    window: Window,
    pub(crate) points: VecDeque<Point>,
    /// The newest sample and its time; from before the failure, while Redis is down.
    pub(crate) latest: Option<(Duration, Sample)>,
    /// Whether the last read failed.
    pub(crate) down: Option<Down>,
}

/// One read, and the rates of the minute before it. None if the read failed, or if
/// there was no earlier one to compare it with.
#[derive(Debug, PartialEq)]
pub(crate) struct Point {
    pub(crate) at: Duration,
    pub(crate) rates: Option<Rates>,
}

/// A period in which Redis cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Down {
    /// The reason of the last failure.
    pub(crate) reason: Reason,
    /// The time of the first failure.
    pub(crate) since: Duration,
}

impl History {
    fn push(&mut self, at: Duration, read: Result<Sample, Reason>) {
        let rates = match read {
            Ok(sample) => {
                self.down = None;
                self.latest = Some((at, sample.clone()));
                self.window.push(at, sample)
            }
            Err(reason) => {
                let since = self.down.map_or(at, |down| down.since);
                self.down = Some(Down { reason, since });
                self.window.interrupt();
                None
            }
        };
        if self.points.len() == MAX_POINTS {
            self.points.pop_front();
        }
        self.points.push_back(Point { at, rates });
    }
}

/// The clock of a history.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    /// The time since the recorder started.
    pub(crate) elapsed: Duration,
    /// The same moment on the system's clock.
    pub(crate) now: SystemTime,
    /// The pause before the next read.
    pub(crate) pause: Duration,
}

/// Reads Redis for the page, like a scrape and together with waiting ones, so that the
/// page also works if nobody scrapes.
pub(crate) struct Recorder {
    started: Instant,
    interval: Duration,
    // A std Mutex: it is never held across an await.
    recorded: Mutex<Recorded>,
}

struct Recorded {
    history: History,
    pause: Duration,
}

impl Recorder {
    pub(crate) fn new(interval: Duration) -> Self {
        Self {
            started: Instant::now(),
            interval,
            recorded: Mutex::new(Recorded {
                history: History::default(),
                pause: interval,
            }),
        }
    }

    /// Records forever.
    pub(crate) async fn record(&self, scraper: &Scraper) {
        loop {
            let snapshot = scraper.scrape(None).await;
            let mut pause = self.interval;
            let read = match &snapshot.reading {
                Ok(reading) => {
                    // With more series, reads get rarer, and the load stays the same.
                    pause = pause.max(PAUSE_PER_READ * snapshot.duration);
                    Ok(Sample::new(reading))
                }
                Err(unread) => Err(unread.failure.reason),
            };
            {
                let mut recorded = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
                recorded.history.push(self.started.elapsed(), read);
                recorded.pause = pause;
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Passes the history to `view`.
    pub(crate) fn view<T>(&self, view: impl FnOnce(&History, Clock) -> T) -> T {
        let recorded = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        let clock = Clock {
            elapsed: self.started.elapsed(),
            now: SystemTime::now(),
            pause: recorded.pause,
        };
        view(&recorded.history, clock)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_points_are_dropped() {
        let mut history = History::default();
        let last = 2 * MAX_POINTS as u64;
        for second in 0..=last {
            history.push(Duration::from_secs(second), Ok(Sample::default()));
        }
        let times: Vec<u64> = history
            .points
            .iter()
            .map(|point| point.at.as_secs())
            .collect();
        assert_eq!(times.len(), MAX_POINTS);
        assert_eq!(times.last(), Some(&last));
        assert!(times.is_sorted());
    }

    #[test]
    fn the_latest_sample_stays_while_redis_is_down() {
        let mut history = History::default();
        let at = Duration::from_secs;
        history.push(at(1), Err(Reason::Connection));
        assert_eq!(history.latest, None);
        history.push(at(2), Ok(Sample::default()));
        history.push(at(3), Ok(Sample::default()));
        assert_eq!(history.down, None);
        history.push(at(4), Err(Reason::Timeout));
        history.push(at(5), Err(Reason::Connection));
        let down = Down {
            reason: Reason::Connection,
            since: at(4),
        };
        assert_eq!(history.down, Some(down));
        assert_eq!(history.latest.as_ref().map(|(at, _)| *at), Some(at(3)));
        // There are no rates for the time in which Redis was down.
        history.push(at(6), Ok(Sample::default()));
        history.push(at(7), Ok(Sample::default()));
        let rates: Vec<bool> = history
            .points
            .iter()
            .map(|one| one.rates.is_some())
            .collect();
        assert_eq!(rates, [false, false, true, false, false, false, true]);
    }
}
