//! Finds series that step back on the exporter. Prometheus would take that for a counter
//! reset, and count the whole total again.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::anyhow;
use functional_scaffold_testkit::http;

const PERIOD: Duration = Duration::from_millis(500);
const MAX_EXAMPLES: usize = 5;

#[derive(Debug)]
pub(crate) struct Watcher {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Watched>>,
}

#[derive(Debug, Default)]
pub(crate) struct Watched {
    /// The number of scrapes that showed series.
    pub(crate) scrapes: i64,
    /// Each series of a counter or a histogram with its last value.
    pub(crate) last: BTreeMap<String, f64>,
    /// Steps back, and their number.
    pub(crate) steps_back: (Vec<String>, usize),
}

impl Watcher {
    pub(crate) fn start(exporter: SocketAddr, began: Instant) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let is_stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut watched = Watched::default();
            loop {
                let is_last = is_stopped.load(Ordering::Relaxed);
                if let Ok(text) = http::get_text(exporter, "/metrics") {
                    watched.compare(&text, began.elapsed());
                }
                if is_last {
                    return watched;
                }
                thread::sleep(PERIOD);
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }

    /// Scrapes once more, and returns what it has seen.
    pub(crate) fn end(mut self) -> anyhow::Result<Watched> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().ok_or_else(|| anyhow!("it was ended"))?;
        thread
            .join()
            .map_err(|_panic| anyhow!("the watcher panicked"))
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Watched {
    /// Steps back in Redis that the exporter did not show.
    pub(crate) fn regressions(&self) -> f64 {
        let series = "functional_scaffold_regressions_total";
        self.last.get(series).copied().unwrap_or_default()
    }

    pub(crate) fn compare(&mut self, text: &str, now: Duration) {
        let mut series_shown = 0;
        for (series, value) in counted_series(text) {
            series_shown += 1;
            let last = self.last.entry(series.to_owned()).or_insert(value);
            if value < *last {
                let (examples, count) = &mut self.steps_back;
                *count += 1;
                if examples.len() < MAX_EXAMPLES {
                    let seconds = now.as_secs_f64();
                    examples.push(format!("{series}: {value} after {last}, at {seconds:.1} s"));
                }
            }
            *last = value;
        }
        self.scrapes += i64::from(series_shown > 0);
    }
}

/// The samples of counters and histograms: the series as written, and the value.
fn counted_series(text: &str) -> impl Iterator<Item = (&str, f64)> {
    let types: HashMap<&str, &str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .collect();
    text.lines().filter_map(move |line| {
        let (series, value) = line.rsplit_once(' ')?;
        let name = series.split('{').next()?;
        let is_of_histogram = ["_bucket", "_sum", "_count"]
            .iter()
            .filter_map(|suffix| name.strip_suffix(suffix))
            .any(|base| types.get(base) == Some(&"histogram"));
        let is_counted = is_of_histogram || types.get(name) == Some(&"counter");
        (is_counted && !line.starts_with('#')).then_some((series, value.parse().ok()?))
    })
}

#[test]
fn only_counters_and_histograms_step_back() {
    const TEXT: &str = "# HELP a_total A.\n# TYPE a_total counter\na_total{x=\"1 2\"} 3\n\
        # TYPE g gauge\ng 5\n# TYPE h histogram\nh_bucket{le=\"1\"} 2\nh_sum 0.5\nh_count 2\n";
    let mut watched = Watched::default();
    watched.compare(TEXT, Duration::ZERO);
    assert_eq!(watched.last.len(), 4, "{watched:?}");
    watched.compare(TEXT, Duration::ZERO);
    // A missing series does not step back. When it returns, it is compared with its last
    // value.
    watched.compare("", Duration::ZERO);
    assert_eq!((watched.scrapes, watched.steps_back.1), (2, 0));
    let text = TEXT.replace("} 3", "} 2").replace("g 5", "g 1");
    watched.compare(&text.replace("0.5", "0.25"), Duration::ZERO);
    assert_eq!(watched.steps_back.1, 2, "{watched:?}");
}
