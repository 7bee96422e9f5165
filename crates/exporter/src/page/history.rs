//! What the page shows: the newest sample, and what the last minute came to at
//! each of the last [`MOST_POINTS`] reads. A ring of bounded size, without I/O and
//! clock.

use std::{collections::VecDeque, time::Duration};

use super::{
    sample::Sample,
    window::{Rates, Window},
};
use crate::connection::Reason;

/// A quarter of an hour, at a read in five seconds.
pub const MOST_POINTS: usize = 180;

/// What was recorded. Times are since the recorder began.
#[derive(Debug, Default)]
pub struct History {
    window: Window,
    points: VecDeque<Point>,
    latest: Option<(Duration, Sample)>,
    down: Option<Down>,
}

/// One read, and what the minute before came to. None where Redis could not be
/// read, or there is nothing to compare with.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// When.
    pub at: Duration,
    /// What it came to.
    pub rates: Option<Rates>,
}

/// That Redis cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Down {
    /// The class of the last failure.
    pub reason: Reason,
    /// When the first of them was.
    pub since: Duration,
}

impl History {
    /// Takes what a read gave; `at` is later than before.
    pub fn push(&mut self, at: Duration, read: Result<Sample, Reason>) {
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
        if self.points.len() == MOST_POINTS {
            self.points.pop_front();
        }
        self.points.push_back(Point { at, rates });
    }

    /// The points, the oldest first.
    pub fn points(&self) -> impl Iterator<Item = &Point> {
        self.points.iter()
    }

    /// The newest sample, and when it was taken: before Redis went down, if it
    /// is.
    #[must_use]
    pub fn latest(&self) -> Option<(Duration, &Sample)> {
        self.latest.as_ref().map(|(at, sample)| (*at, sample))
    }

    /// Whether the last read failed.
    #[must_use]
    pub fn down(&self) -> Option<Down> {
        self.down
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_points_make_room() {
        let mut history = History::default();
        let last = 2 * MOST_POINTS as u64;
        for second in 0..=last {
            history.push(Duration::from_secs(second), Ok(Sample::default()));
        }
        let times: Vec<u64> = history.points().map(|point| point.at.as_secs()).collect();
        assert_eq!(times.len(), MOST_POINTS);
        assert_eq!(times.last(), Some(&last));
        assert!(times.is_sorted());
    }

    #[test]
    fn what_was_known_stays_while_redis_is_down() {
        let mut history = History::default();
        let at = Duration::from_secs;
        history.push(at(1), Err(Reason::Connection));
        assert_eq!(history.latest(), None);
        history.push(at(2), Ok(Sample::default()));
        history.push(at(3), Ok(Sample::default()));
        assert_eq!(history.down(), None);
        history.push(at(4), Err(Reason::Timeout));
        history.push(at(5), Err(Reason::Connection));
        let down = Down {
            reason: Reason::Connection,
            since: at(4),
        };
        assert_eq!(history.down(), Some(down));
        assert_eq!(history.latest().map(|(at, _)| at), Some(at(3)));
        // Nothing is said of the time in which it was.
        history.push(at(6), Ok(Sample::default()));
        history.push(at(7), Ok(Sample::default()));
        let rates: Vec<bool> = history.points().map(|one| one.rates.is_some()).collect();
        assert_eq!(rates, [false, false, true, false, false, false, true]);
    }
}
