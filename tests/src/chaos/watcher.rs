//! Whether a series steps back on the exporter: what Prometheus would take for
//! a restart, and count the whole total again.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::task::JoinHandle;

/// How often it scrapes.
const PERIOD: Duration = Duration::from_millis(500);
/// Examples of steps back that are kept.
const MAX_EXAMPLES: usize = 5;

/// Scrapes until it is ended.
#[derive(Debug)]
pub struct Watcher {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Watched>,
}

/// What was seen.
#[derive(Debug, Default)]
pub struct Watched {
    /// Scrapes that showed series.
    pub scrapes: i64,
    /// Each series of a counter or a histogram with its last value.
    pub last: BTreeMap<String, f64>,
    /// Steps back, and how many there were.
    pub back: (Vec<String>, usize),
}

impl Watcher {
    /// Watches the exposition at a URL.
    #[must_use]
    pub fn start(url: String, began: Instant) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let mut watched = Watched::default();
            loop {
                let last = until.load(Ordering::Relaxed);
                if let Ok(text) = scrape(&url).await {
                    watched.look(&text, began.elapsed());
                }
                if last {
                    return watched;
                }
                tokio::time::sleep(PERIOD).await;
            }
        });
        Self { stop, task }
    }

    /// Scrapes once more, and gives what was seen.
    ///
    /// # Errors
    /// The watcher panicked.
    pub async fn end(self) -> anyhow::Result<Watched> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.context("the watcher failed")
    }
}

impl Watched {
    /// Steps back in Redis that the exporter did not show.
    #[must_use]
    pub fn regressions(&self) -> f64 {
        let series = "functional_scaffold_regressions_total";
        self.last.get(series).copied().unwrap_or_default()
    }

    fn look(&mut self, text: &str, now: Duration) {
        let mut seen = 0;
        for (series, value) in growing(text) {
            seen += 1;
            let last = self.last.entry(series.to_owned()).or_insert(value);
            if value < *last {
                let (examples, count) = &mut self.back;
                *count += 1;
                if examples.len() < MAX_EXAMPLES {
                    let seconds = now.as_secs_f64();
                    examples.push(format!("{series}: {value} after {last}, at {seconds:.1} s"));
                }
            }
            *last = value;
        }
        self.scrapes += i64::from(seen > 0);
    }
}

async fn scrape(url: &str) -> anyhow::Result<String> {
    Ok(reqwest::get(url).await?.error_for_status()?.text().await?)
}

/// The samples of counters and histograms: series as written, and value.
fn growing(text: &str) -> impl Iterator<Item = (&str, f64)> {
    let types: HashMap<&str, &str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .collect();
    text.lines().filter_map(move |line| {
        let (series, value) = line.rsplit_once(' ')?;
        let name = series.split('{').next()?;
        let of_histogram = ["_bucket", "_sum", "_count"]
            .iter()
            .filter_map(|suffix| name.strip_suffix(suffix))
            .any(|base| types.get(base) == Some(&"histogram"));
        let grows = of_histogram || types.get(name) == Some(&"counter");
        (grows && !line.starts_with('#')).then_some((series, value.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP a_total A.\n# TYPE a_total counter\na_total{x=\"1 2\"} 3\n\
        # TYPE g gauge\ng 5\n# TYPE h histogram\nh_bucket{le=\"1\"} 2\nh_sum 0.5\nh_count 2\n";

    #[test]
    fn steps_back_of_counters_and_histograms_are_seen_and_of_gauges_are_not() {
        let mut watched = Watched::default();
        watched.look(TEXT, Duration::ZERO);
        assert_eq!(watched.last.len(), 4, "{watched:?}");
        watched.look(TEXT, Duration::ZERO);
        // A series that is not shown is none that steps back; when it comes
        // again it is compared with what it was.
        watched.look("", Duration::ZERO);
        assert_eq!((watched.scrapes, watched.back.1), (2, 0));
        let text = TEXT.replace("} 3", "} 2").replace("g 5", "g 1");
        watched.look(&text.replace("0.5", "0.25"), Duration::ZERO);
        assert_eq!(watched.back.1, 2, "{watched:?}");
    }
}
