//! Finds series that step back on an exporter or a relay. Prometheus would take that for a counter
//! reset, and count the whole total again.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::anyhow;
use functional_scaffold_testkit::http;

use crate::ledger::lock;

/// The name of the relay, of which a Pushgateway is watched.
pub(crate) const RELAY: &str = "relay";
/// The labels that a relay adds; `status` follows them in the series that are judged.
const GROUP_LABELS: [&str; 3] = ["instance", "job", "scheme"];
const PERIOD: Duration = Duration::from_millis(500);
const MAX_EXAMPLES: usize = 5;
/// The longest time until a reset shows in what a reader has read: the interval of the
/// relay, and a scrape on a busy machine.
const RESET_SHOWS: Duration = Duration::from_secs(4);

/// An event after which readers may serve smaller counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reset {
    /// A new epoch: every series may step back once.
    All,
    /// A command removed the series of this family with this label.
    Series(&'static str, &'static str),
    /// An exporter restarted: its own metrics begin at 0.
    Restart,
}

impl Reset {
    fn is_of(self, series: &str) -> bool {
        const STORED: [&str; 6] = [
            "http_request",
            "algorithm_execution",
            "functional_scaffold_unleased_executions_total",
            "functional_scaffold_leases_settled_total",
            "functional_scaffold_late_results_total",
            "functional_scaffold_flush_failures_total",
        ];
        match self {
            Self::All => true,
            Self::Series(family, label) => {
                let labels = series.strip_prefix(family);
                labels.is_some_and(|labels| labels.starts_with('{') && labels.contains(label))
            }
            Self::Restart => !STORED.iter().any(|name| series.starts_with(name)),
        }
    }
}

/// The resets so far, each with the time of the run before which it did not show.
#[derive(Debug, Default)]
pub(crate) struct Resets(Mutex<Vec<(Duration, Reset)>>);

impl Resets {
    pub(crate) fn allow(&self, reset: Reset, now: Duration) {
        lock(&self.0).push((now, reset));
    }
}

#[derive(Debug)]
pub(crate) struct Watcher {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Watched>>,
}

#[derive(Debug, Default)]
pub(crate) struct Watched {
    /// The name of the reader.
    pub(crate) name: String,
    /// The number of scrapes that showed series.
    pub(crate) scrapes: i64,
    /// Each series of a counter or a histogram with its last value.
    pub(crate) last: BTreeMap<String, f64>,
    /// The series of the last scrape.
    shown: BTreeMap<String, f64>,
    /// Steps back, and their number.
    pub(crate) steps_back: (Vec<String>, usize),
    /// The number of steps back that a reset allowed.
    pub(crate) resets: usize,
    /// By series, the number of the first reset that may still show in it.
    next_reset: HashMap<String, usize>,
}

impl Watcher {
    /// Watches what the reader of this name serves.
    pub(crate) fn start(
        (name, reader): (String, SocketAddr),
        resets: &Arc<Resets>,
        began: Instant,
    ) -> Self {
        let resets = Arc::clone(resets);
        let stop = Arc::new(AtomicBool::new(false));
        let is_stopped = Arc::clone(&stop);
        let began_at = SystemTime::now() - began.elapsed();
        let thread = thread::spawn(move || {
            let mut watched = Watched::named(&name);
            loop {
                let is_last = is_stopped.load(Ordering::Relaxed);
                let asked = began.elapsed();
                if let Ok(text) = http::get_text(reader, "/metrics") {
                    // A relay whose pushes fail shows what it pushed last.
                    let read = pushed_at(&text, began_at).unwrap_or(asked).min(asked);
                    watched.compare(&text, read, &resets);
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
    pub(crate) fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::default()
        }
    }

    /// Steps back in Redis that the exporter did not show.
    pub(crate) fn regressions(&self) -> f64 {
        let series = "functional_scaffold_regressions_total";
        self.last.get(series).copied().unwrap_or_default()
    }

    /// The series of the last scrape without the labels of a relay's group, as recording
    /// rules combine its groups.
    pub(crate) fn of_relay(&self) -> BTreeMap<String, f64> {
        let mut all = BTreeMap::new();
        for (series, value) in &self.shown {
            let mut series = series.clone();
            for label in GROUP_LABELS {
                let start = format!("{label}=\"");
                if let Some((before, rest)) = series.split_once(&start)
                    && let Some((_, after)) = rest.split_once("\",")
                {
                    series = format!("{before}{after}");
                }
            }
            let most = all.entry(series).or_insert(*value);
            *most = value.max(*most);
        }
        all
    }

    /// Compares an exposition that was read at `now` with the one before it.
    pub(crate) fn compare(&mut self, text: &str, now: Duration, resets: &Resets) {
        let resets = lock(&resets.0).clone();
        self.shown.clear();
        for (series, value) in counted_series(text) {
            self.shown.insert(series.to_owned(), value);
            let last = self.last.entry(series.to_owned()).or_insert(value);
            let next_reset = self.next_reset.entry(series.to_owned()).or_default();
            if value < *last {
                let mut new = resets.iter().skip(*next_reset);
                if let Some(index) = new.position(|(_, reset)| reset.is_of(series)) {
                    self.resets += 1;
                    *next_reset += index + 1;
                } else {
                    let (examples, count) = &mut self.steps_back;
                    *count += 1;
                    if examples.len() < MAX_EXAMPLES {
                        let seconds = now.as_secs_f64();
                        examples.push(format!("{series}: {value} after {last}, at {seconds:.1} s"));
                    }
                }
            }
            // A reset that has not shown by now will not.
            let shown = resets.partition_point(|(at, _)| *at + RESET_SHOWS < now);
            *next_reset = shown.max(*next_reset);
            *last = value;
        }
        self.scrapes += i64::from(!self.shown.is_empty());
    }
}

/// When the last push arrived, since the beginning of the run; None without a Pushgateway.
fn pushed_at(text: &str, began: SystemTime) -> Option<Duration> {
    let pushes = text.lines().filter_map(|line| {
        let (_, seconds) = line.strip_prefix("push_time_seconds{")?.rsplit_once(' ')?;
        seconds.parse().ok()
    });
    let last = pushes.reduce(f64::max)?;
    let last = UNIX_EPOCH + Duration::try_from_secs_f64(last).ok()?;
    Some(last.duration_since(began).unwrap_or_default())
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
fn groups_of_a_relay_are_combined_by_their_maximum() {
    let series = |relay| {
        format!(
            "a_total{{code=\"2\",instance=\"{relay}\",job=\"j\",method=\"P\",scheme=\"redis\",status=\"s\"}}"
        )
    };
    let text = format!(
        "# TYPE a_total counter\n{} 5\n{} 7\n{} 6\n",
        series("1"),
        series("2"),
        series("3")
    );
    let mut watched = Watched::named(RELAY);
    watched.compare(&text, Duration::ZERO, &Resets::default());
    let combined = "a_total{code=\"2\",method=\"P\",status=\"s\"}".to_owned();
    assert_eq!(watched.of_relay(), [(combined, 7.0)].into());
    watched.compare("", Duration::ZERO, &Resets::default());
    assert!(watched.of_relay().is_empty(), "they are gone");
}

#[test]
fn a_pushgateway_shows_what_was_pushed_last() {
    let began = UNIX_EPOCH + Duration::from_secs(1_784_973_600);
    let text = "push_time_seconds{instance=\"a\"} 1.7849736e+09\n\
                push_time_seconds{instance=\"b\"} 1.7849736055e+09\na_total 1\n";
    assert_eq!(pushed_at(text, began), Some(Duration::from_millis(5_500)));
    assert_eq!(pushed_at("a_total 1\n", began), None);
}

#[test]
fn only_counters_and_histograms_step_back() {
    const TEXT: &str = "# HELP a_total A.\n# TYPE a_total counter\na_total{x=\"1 2\"} 3\n\
        # TYPE g gauge\ng 5\n# TYPE h histogram\nh_bucket{le=\"1\"} 2\nh_sum 0.5\nh_count 2\n";
    let resets = Resets::default();
    let mut watched = Watched::default();
    watched.compare(TEXT, Duration::ZERO, &resets);
    assert_eq!(watched.last.len(), 4, "{watched:?}");
    watched.compare(TEXT, Duration::ZERO, &resets);
    // A missing series does not step back. When it returns, it is compared with its last
    // value.
    watched.compare("", Duration::ZERO, &resets);
    assert_eq!((watched.scrapes, watched.steps_back.1), (2, 0));
    let text = TEXT.replace("} 3", "} 2").replace("g 5", "g 1");
    watched.compare(&text.replace("0.5", "0.25"), Duration::ZERO, &resets);
    assert_eq!(watched.steps_back.1, 2, "{watched:?}");

    // A reset excuses one step back of each of its series.
    resets.allow(Reset::All, Duration::ZERO);
    watched.compare(
        "# TYPE a_total counter\na_total{x=\"1 2\"} 1\n",
        Duration::ZERO,
        &resets,
    );
    assert_eq!((watched.steps_back.1, watched.resets), (2, 1));
    watched.compare(
        "# TYPE a_total counter\na_total{x=\"1 2\"} 0\n",
        Duration::ZERO,
        &resets,
    );
    assert_eq!((watched.steps_back.1, watched.resets), (3, 1));
    // Later it excuses none.
    let later = RESET_SHOWS * 2;
    watched.compare("# TYPE h histogram\nh_sum 9\n", later, &resets);
    watched.compare("# TYPE h histogram\nh_sum 8\n", later, &resets);
    assert_eq!((watched.steps_back.1, watched.resets), (4, 1));
}
