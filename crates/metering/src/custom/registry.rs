//! The author's families of one instance, and what was recorded since the last batch.
//! No I/O.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use functional_scaffold_protocol::{
    batch::{Batch, MAX_INCREMENT},
    calls::{Call, Script, add_limited},
    catalog::{Catalog, IN_FLIGHT},
    cell::{bucket_field, le_of_bound, sum_field},
    custom::{CustomWrites, DEFAULT_MAX_SERIES, GAUGE_SCALE, GaugeWrite, custom_key},
    escape::to_json,
    exposition::sample_suffixes,
    family::{Family, Kind},
    labels::{is_label_name, is_metric_name, write_labels},
};
use metrics::{CounterFn, GaugeFn, HistogramFn, Key, Unit};
use serde_json::json;

use crate::{
    custom::source::CustomSource,
    log::{self, Level},
    time::Instant,
};

/// Names of families come from the code, so an instance has few. This bounds its memory
/// if they come from clients nevertheless.
const MAX_FAMILIES: usize = 200;
const MAX_NAME_BYTES: usize = 128;
/// With a longer registration, the exporter leaves the family out.
const MAX_HELP_BYTES: usize = 1_000;
const MAX_LABELS: usize = 16;
const MAX_LABEL_NAME_BYTES: usize = 64;
/// The longest label set as JSON. With it, one cell fits into a line of the log.
const MAX_LABELS_JSON_BYTES: usize = 1_500;
/// Stored units in one unit of a histogram's sum.
const SUM_SCALE: u64 = 1_000_000_000;
/// The largest bound of a histogram from which its sum is stored in whole units.
const LARGE_BOUND: f64 = 1_000_000.0;
const OTHER: &str = "other";

/// Families, their series with something to store, and what was refused.
pub(crate) struct Registry {
    families: Vec<Family>,
    /// The bounds of each family's buckets, as texts.
    les: Vec<Vec<String>>,
    series: BTreeMap<(usize, String), Series>,
    buckets: BTreeMap<String, Vec<f64>>,
    descriptions: BTreeMap<String, (&'static str, String)>,
    refused: BTreeSet<String>,
    /// Refusals that were not logged yet.
    refusals: Vec<(String, String)>,
    has_news: Arc<AtomicBool>,
    clock: fn() -> Instant,
    /// Series that each family may have in Redis.
    max_series: u64,
    is_off: bool,
}

#[derive(Clone)]
enum Series {
    Counter(Arc<Counter>),
    Gauge(Arc<Gauge>),
    Histogram(Arc<Histogram>),
}

impl Series {
    /// Returns whether the author's code holds no handle.
    fn is_unused(&self) -> bool {
        match self {
            Self::Counter(counter) => Arc::strong_count(counter) == 1,
            Self::Gauge(gauge) => Arc::strong_count(gauge) == 1,
            Self::Histogram(histogram) => Arc::strong_count(histogram) == 1,
        }
    }
}

/// Values that a handle recorded, and how it was misused.
struct Recorded<T> {
    value: Mutex<(T, Option<&'static str>)>,
    has_news: Arc<AtomicBool>,
}

impl<T: Default> Recorded<T> {
    fn new(has_news: &Arc<AtomicBool>) -> Self {
        Self {
            value: Mutex::default(),
            has_news: Arc::clone(has_news),
        }
    }

    /// An instance has one thread, so this never waits.
    fn lock(&self) -> MutexGuard<'_, (T, Option<&'static str>)> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is recorded. `change` returns `None`, without a change, where a batch
    /// cannot hold the result: a wrong sum would be worse than a missing value.
    fn change(&self, change: impl FnOnce(&mut T) -> Option<()>) {
        let changed = change(&mut self.lock().0);
        match changed {
            Some(()) => self.has_news.store(true, Ordering::Relaxed),
            None => {
                self.refuse("a batch cannot hold the sum: it would have 2^62 stored units or more")
            }
        }
    }

    fn refuse(&self, reason: &'static str) {
        self.lock().1 = Some(reason);
        self.has_news.store(true, Ordering::Relaxed);
    }

    fn take(&self) -> (T, Option<&'static str>) {
        std::mem::take(&mut *self.lock())
    }
}

pub(crate) struct Counter(Recorded<u64>);

impl CounterFn for Counter {
    fn increment(&self, value: u64) {
        if value > 0 {
            self.0.change(|count| {
                *count = add(*count, value)?;
                Some(())
            });
        }
    }

    fn absolute(&self, _value: u64) {
        self.0.refuse(
            "absolute() is not supported: an instance's own count means nothing beside others",
        );
    }
}

pub(crate) struct Gauge {
    /// The time is that of the last `set`.
    recorded: Recorded<Option<(GaugeWrite, Option<Instant>)>>,
    clock: fn() -> Instant,
}

impl Gauge {
    fn write(&self, value: f64, write: impl FnOnce(i64) -> (GaugeWrite, Option<Instant>)) {
        let Some(stored) = stored_units(value, GAUGE_SCALE) else {
            let reason = "a value is not a number, or not between -9*10^12 and 9*10^12";
            return self.recorded.refuse(reason);
        };
        let (write, at) = write(stored);
        self.recorded.change(|recorded| {
            let (mut known, set_at) = recorded.unwrap_or_default();
            if write.set.is_none() {
                let sum = known.sum.checked_add(write.sum)?;
                known.set.unwrap_or_default().checked_add(sum)?;
            }
            known.then(write);
            *recorded = Some((known, at.or(set_at)));
            Some(())
        });
    }

    fn add(&self, value: f64) {
        let add = |sum| GaugeWrite {
            sum,
            ..GaugeWrite::default()
        };
        self.write(value, |stored| (add(stored), None));
    }
}

impl GaugeFn for Gauge {
    fn increment(&self, value: f64) {
        self.add(value);
    }

    fn decrement(&self, value: f64) {
        self.add(-value);
    }

    fn set(&self, value: f64) {
        self.write(value, |stored| {
            let write = GaugeWrite {
                set: Some(stored),
                ..GaugeWrite::default()
            };
            (write, Some((self.clock)()))
        });
    }
}

pub(crate) struct Histogram {
    recorded: Recorded<(BTreeMap<usize, u64>, u64)>,
    bounds: Vec<f64>,
    scale: u64,
}

impl HistogramFn for Histogram {
    fn record(&self, value: f64) {
        self.record_many(value, 1);
    }

    fn record_many(&self, value: f64, count: usize) {
        let stored = stored_units(value, self.scale).and_then(|stored| u64::try_from(stored).ok());
        let Some(stored) = stored else {
            let reason = "an observation is negative, not a number, or too large: with it, the \
                          sum would step back or not be right";
            return self.recorded.refuse(reason);
        };
        let count = count as u64;
        if count == 0 {
            return;
        }
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.recorded.change(|(buckets, sum)| {
            let known = buckets.get(&bucket).copied().unwrap_or_default();
            let observations = add(known, count)?;
            *sum = add(*sum, stored.checked_mul(count)?)?;
            buckets.insert(bucket, observations);
            Some(())
        });
    }
}

/// Adds two increments; `None` if a batch cannot hold the sum.
fn add(left: u64, right: u64) -> Option<u64> {
    let sum = left.checked_add(right)?;
    (sum <= MAX_INCREMENT).then_some(sum)
}

/// Converts a value to whole stored units; `None` if they are not below 2^63.
fn stored_units(value: f64, scale: u64) -> Option<i64> {
    #[allow(
        clippy::cast_precision_loss,
        reason = "a scale is a power of ten below 2^53"
    )]
    let stored = (value * scale as f64).round();
    // 2^63 as a float. NaN fails, too.
    #[allow(
        clippy::cast_possible_truncation,
        reason = "the float is whole and in the range"
    )]
    (stored.abs() < 9_223_372_036_854_775_808.0).then_some(stored as i64)
}

impl Registry {
    /// Makes a registry without families. `clock` dates the writes of gauges.
    pub(crate) fn new(clock: fn() -> Instant) -> Self {
        Self {
            families: Vec::new(),
            les: Vec::new(),
            series: BTreeMap::new(),
            buckets: BTreeMap::new(),
            descriptions: BTreeMap::new(),
            refused: BTreeSet::new(),
            refusals: Vec::new(),
            has_news: Arc::default(),
            clock,
            max_series: DEFAULT_MAX_SERIES,
            is_off: false,
        }
    }

    /// Sets the number of series that each family may have in Redis.
    pub(crate) fn limit_series(&mut self, max_series: u64) {
        self.max_series = max_series;
    }

    /// Declares the inclusive upper bounds of a histogram's buckets. The first
    /// declaration stands.
    pub(crate) fn declare_buckets(&mut self, name: &str, bounds: &[f64]) {
        if !self.buckets.contains_key(name) {
            self.buckets.insert(name.to_owned(), bounds.to_vec());
        }
    }

    /// Keeps help and unit for when the family is first recorded.
    pub(crate) fn describe(&mut self, name: &str, unit: Option<Unit>, help: &str) {
        let unit = unit.map_or("", |unit| unit.as_str());
        if self.descriptions.len() < MAX_FAMILIES && name.len() <= MAX_NAME_BYTES {
            let help = log::clip(help, MAX_HELP_BYTES).to_owned();
            self.descriptions.insert(name.to_owned(), (unit, help));
        }
    }

    pub(crate) fn counter(&mut self, key: &Key) -> Option<Arc<Counter>> {
        let has_news = Arc::clone(&self.has_news);
        let new = move |_: &Family, _| {
            let counter = Counter(Recorded::new(&has_news));
            Series::Counter(Arc::new(counter))
        };
        match self.series(key, Kind::Counter, new)? {
            Series::Counter(counter) => Some(counter),
            Series::Gauge(_) | Series::Histogram(_) => None,
        }
    }

    pub(crate) fn gauge(&mut self, key: &Key) -> Option<Arc<Gauge>> {
        let has_news = Arc::clone(&self.has_news);
        let new = move |_: &Family, clock| {
            let recorded = Recorded::new(&has_news);
            Series::Gauge(Arc::new(Gauge { recorded, clock }))
        };
        match self.series(key, Kind::Gauge, new)? {
            Series::Gauge(gauge) => Some(gauge),
            Series::Counter(_) | Series::Histogram(_) => None,
        }
    }

    pub(crate) fn histogram(&mut self, key: &Key) -> Option<Arc<Histogram>> {
        let has_news = Arc::clone(&self.has_news);
        let new = move |family: &Family, _| {
            let histogram = Histogram {
                recorded: Recorded::new(&has_news),
                bounds: family.bounds.clone(),
                scale: family.scale,
            };
            Series::Histogram(Arc::new(histogram))
        };
        match self.series(key, Kind::Histogram, new)? {
            Series::Histogram(histogram) => Some(histogram),
            Series::Counter(_) | Series::Gauge(_) => None,
        }
    }

    fn series(
        &mut self,
        key: &Key,
        kind: Kind,
        new: impl FnOnce(&Family, fn() -> Instant) -> Series,
    ) -> Option<Series> {
        if self.is_off {
            return None;
        }
        let found = self.find_family(key.name(), kind);
        let found = found.and_then(|family| Ok((family, self.label_set(key)?)));
        match found {
            Ok((family, labels)) => {
                let (families, clock) = (&self.families, self.clock);
                let series = self.series.entry((family, labels));
                Some(
                    series
                        .or_insert_with(|| new(&families[family], clock))
                        .clone(),
                )
            }
            Err(reason) => {
                self.refuse(key.name(), reason);
                None
            }
        }
    }

    /// Finds a family by name, or declares it.
    fn find_family(&mut self, name: &str, kind: Kind) -> Result<usize, String> {
        if let Some(known) = self.families.iter().position(|family| family.name == name) {
            let known_kind = self.families[known].kind;
            return match known_kind == kind {
                true => Ok(known),
                false => Err(format!("it is a {} already", known_kind.name())),
            };
        }
        if !is_metric_name(name) || name == "_total" || name.len() > MAX_NAME_BYTES {
            return Err(format!(
                "the name is not [a-zA-Z_][a-zA-Z0-9_]*, or longer than {MAX_NAME_BYTES} bytes"
            ));
        }
        if is_own_name(name, kind) {
            return Err(
                "the name belongs to a metric of functional-scaffold or of Prometheus".to_owned(),
            );
        }
        let collides = |other: &Family| share_samples((name, kind), (&other.name, other.kind));
        if let Some(other) = self.families.iter().find(|other| collides(other)) {
            let (kind, name) = (other.kind.name(), &other.name);
            return Err(format!("the {kind} {name} has series of the same name"));
        }
        if self.families.len() >= MAX_FAMILIES {
            return Err(format!("this instance has {MAX_FAMILIES} families already"));
        }
        let bounds =
            match kind {
                Kind::Histogram => self.buckets.get(name).cloned().ok_or(
                    "its buckets are not declared: the call of `install` has to name them",
                )?,
                Kind::Counter | Kind::Gauge => Vec::new(),
            };
        let (unit, help) = self.descriptions.get(name).cloned().unwrap_or_default();
        let family = Family {
            name: name.to_owned(),
            kind,
            help,
            unit: unit.to_owned(),
            // The batcher knows the prefix.
            key: String::new(),
            scale: match (kind, bounds.last()) {
                (Kind::Gauge, _) => GAUGE_SCALE,
                (Kind::Histogram, Some(largest)) if *largest < LARGE_BOUND => SUM_SCALE,
                _ => 1,
            },
            bounds,
        };
        let probe = Family {
            key: "k".to_owned(),
            ..family.clone()
        };
        Family::decode(name, probe.encode().as_bytes()).map_err(|error| error.to_string())?;
        let les = family.bounds.iter().map(|&bound| le_of_bound(bound));
        self.les.push(les.chain(["+Inf".to_owned()]).collect());
        self.families.push(family);
        Ok(self.families.len() - 1)
    }

    fn label_set(&mut self, key: &Key) -> Result<String, String> {
        let labels = key.labels().map(|label| (label.key(), label.value()));
        let mut labels: Vec<_> = labels.collect();
        labels.sort_unstable();
        if let Some(pair) = labels.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(format!("the label {:?} occurs twice", pair[0].0));
        }
        let is_valid = |name: &str| is_label_name(name) && name.len() <= MAX_LABEL_NAME_BYTES;
        if let Some((name, _)) = labels.iter().find(|(name, _)| !is_valid(name)) {
            return Err(format!("{name:?} is reserved, or not a label name"));
        }
        if labels.len() > MAX_LABELS {
            return Err(format!("it has more than {MAX_LABELS} labels"));
        }
        let mut text = String::new();
        write_labels(&mut text, &labels);
        if to_json(&text).len() > MAX_LABELS_JSON_BYTES {
            let reason = format!(
                "labels of more than {MAX_LABELS_JSON_BYTES} bytes are counted as \"other\""
            );
            self.refuse(key.name(), reason);
            labels.iter_mut().for_each(|(_, value)| *value = OTHER);
            text.clear();
            write_labels(&mut text, &labels);
        }
        Ok(text)
    }

    /// Takes the refusals that were not logged yet.
    fn take_refusals(&mut self) -> Vec<(String, String)> {
        std::mem::take(&mut self.refusals)
    }

    /// Notes a refusal, once a family and reason.
    fn refuse(&mut self, metric: &str, reason: String) {
        // Names may come from clients.
        if self.refused.len() < MAX_FAMILIES && self.refused.insert(format!("{metric} {reason}")) {
            self.refusals.push((metric.to_owned(), reason));
            self.has_news.store(true, Ordering::Relaxed);
        }
    }
}

impl CustomSource for Registry {
    fn has_news(&self) -> bool {
        self.has_news.load(Ordering::Relaxed)
    }

    fn switch_off(&mut self) {
        self.is_off = true;
        self.series.clear();
        self.refusals.clear();
        self.has_news.store(false, Ordering::Relaxed);
    }

    fn admit(&self, catalog: &mut Catalog) {
        for family in self.families.iter().skip(catalog.custom().len()) {
            let family = with_key(catalog.prefix(), family);
            catalog.add_custom(family);
        }
    }

    fn to_register(&self, catalog: &Catalog) -> Catalog {
        let mut original = Catalog::of_custom(catalog.prefix());
        for family in self.families.iter().take(catalog.custom().len()) {
            original.add_custom(with_key(catalog.prefix(), family));
        }
        original
    }

    fn add_limited(&self, call: &mut Call, prefix: &str, total: &Batch, custom: &CustomWrites) {
        add_limited(call, prefix, total, custom);
    }

    fn apply_script(&self) -> &'static Script {
        &Script::APPLY
    }

    fn add_families(
        &self,
        catalog: &Catalog,
        skipped: usize,
        total: &Batch,
        custom: &mut CustomWrites,
    ) {
        // Those of this library are the first in the catalog.
        let own = catalog.families().len() - catalog.custom().len();
        for family in catalog.custom().iter().skip(skipped.saturating_sub(own)) {
            let is_written = total.of_key(&family.key).is_some()
                || custom.gauges.of_key(&family.key).next().is_some();
            if is_written {
                custom.push_family(family);
            }
        }
    }

    fn drain(
        &mut self,
        catalog: &Catalog,
        max_series: usize,
        offset_ms: Option<i64>,
        (increments, custom): (&mut Batch, &mut CustomWrites),
    ) {
        custom.max_series = self.max_series;
        let mut refused = Vec::new();
        let mut kept = BTreeMap::new();
        let mut drained = 0;
        while drained < max_series
            && let Some(((index, labels), series)) = self.series.pop_first()
        {
            let Some(family) = catalog.custom().get(index) else {
                // The series of later families follow.
                self.series.insert((index, labels), series);
                break;
            };
            let reason = match &series {
                Series::Counter(counter) => {
                    let (count, reason) = counter.0.take();
                    if count > 0 {
                        drained += 1;
                        increments.inc(&family.key, &labels, count);
                    }
                    reason
                }
                Series::Gauge(gauge) => {
                    let (write, reason) = gauge.recorded.take();
                    if let Some((mut write, set_at)) = write {
                        drained += 1;
                        let time = |at: Instant| at.millis().saturating_add(offset_ms?).into();
                        write.set_ms = set_at.and_then(time);
                        custom.gauges.write(&family.key, &labels, write);
                    }
                    reason
                }
                Series::Histogram(histogram) => {
                    let ((buckets, sum), reason) = histogram.recorded.take();
                    for (bucket, count) in &buckets {
                        let field = bucket_field(&labels, &self.les[index][*bucket]);
                        increments.inc(&family.key, &field, *count);
                    }
                    if !buckets.is_empty() {
                        drained += 1;
                        increments.inc(&family.key, &sum_field(&labels), sum);
                    }
                    reason
                }
            };
            if let Some(reason) = reason {
                refused.push((family.name.clone(), reason));
            }
            if !series.is_unused() {
                kept.insert((index, labels), series);
            }
        }
        self.has_news
            .store(!self.series.is_empty(), Ordering::Relaxed);
        self.series.append(&mut kept);
        for (name, reason) in refused {
            self.refuse(&name, reason.to_owned());
        }
        for (metric, reason) in self.take_refusals() {
            let fields = json!({ "metric": metric, "reason": reason });
            log::write(Level::Error, "metric_refused", fields);
        }
    }
}

fn with_key(prefix: &str, family: &Family) -> Family {
    Family {
        key: custom_key(prefix, &family.name),
        ..family.clone()
    }
}

/// Returns whether a family of this library has series of the same name.
fn is_own_name(name: &str, kind: Kind) -> bool {
    let catalog = Catalog::new("");
    let families = catalog.families().into_iter();
    let mut own = families.map(|family| (family.name.as_str(), family.kind));
    name.starts_with("functional_scaffold_")
        // Prometheus writes these itself for each target.
        || name == "up"
        || name.starts_with("scrape_")
        || name == IN_FLIGHT
        || own.any(|own| share_samples((name, kind), own))
}

fn share_samples(left: (&str, Kind), right: (&str, Kind)) -> bool {
    let names = |(name, kind): (&str, Kind)| -> Vec<String> {
        let suffixes = sample_suffixes(kind).iter();
        suffixes.map(|suffix| format!("{name}{suffix}")).collect()
    };
    let right = names(right);
    names(left).iter().any(|name| right.contains(name))
}

#[cfg(test)]
mod tests {
    use metrics::Label;

    use std::{cell::RefCell, rc::Rc};

    use functional_scaffold_protocol::custom::Gauges;

    use super::*;
    use crate::{batcher::Batcher, custom::source::Custom};

    fn registry() -> Registry {
        let mut registry = Registry::new(|| Instant::at(7_000_000_000));
        registry.declare_buckets("value_euros", &[1.0, 10.0]);
        registry.declare_buckets("size_bytes", &[1_000.0, 1_000_000.0]);
        registry
    }

    fn key(name: &'static str, labels: &[(&'static str, &'static str)]) -> Key {
        let labels = labels.iter().map(|(name, value)| Label::new(*name, *value));
        Key::from_parts(name, labels.collect::<Vec<_>>())
    }

    fn count(registry: &mut Registry, key: &Key, by: u64) {
        if let Some(counter) = registry.counter(key) {
            counter.increment(by);
        }
    }

    /// Admits every family, and returns key, field and increment of each cell.
    fn drain(registry: &mut Registry) -> (Vec<(String, String, u64)>, Gauges) {
        let catalog = catalog(registry);
        let (increments, gauges) = drain_some(registry, &catalog, usize::MAX, Some(1_000));
        let cells = increments.cells();
        let cells = cells.map(|(key, field, by)| (key.to_owned(), field.to_owned(), by));
        (cells.collect(), gauges)
    }

    fn drain_some(
        registry: &mut Registry,
        catalog: &Catalog,
        max_series: usize,
        offset_ms: Option<i64>,
    ) -> (Batch, Gauges) {
        let (mut increments, mut custom) = (Batch::default(), CustomWrites::default());
        let into = (&mut increments, &mut custom);
        registry.drain(catalog, max_series, offset_ms, into);
        (increments, custom.gauges)
    }

    /// The catalog with every family so far.
    fn catalog(registry: &Registry) -> Catalog {
        let mut catalog = Catalog::of_custom("m:");
        registry.admit(&mut catalog);
        catalog
    }

    /// Returns the refused metrics with their reasons, each once.
    fn refused(registry: &Registry) -> Vec<&str> {
        registry.refused.iter().map(String::as_str).collect()
    }

    fn cell(key: &str, field: &str, by: u64) -> (String, String, u64) {
        (format!("m:custom:{key}"), field.to_owned(), by)
    }

    #[test]
    fn counters_are_summed_until_they_are_drained() {
        let mut registry = registry();
        let labels = [("b", "x \"y\""), ("a", "1"), ("c", "")];
        for by in [2, 0, 3] {
            count(&mut registry, &key("jobs_total", &labels), by);
        }
        count(&mut registry, &key("idle_total", &[]), 0);
        assert!(registry.has_news());
        let expected = [cell("jobs_total", r#"a="1",b="x \"y\"""#, 5)];
        assert_eq!(drain(&mut registry).0, expected);
        assert!(!registry.has_news());
        assert!(registry.series.is_empty(), "nobody holds a handle");
        assert_eq!(drain(&mut registry).0, []);
    }

    #[test]
    fn a_handle_that_is_held_counts_on() {
        let mut registry = registry();
        let held = registry.counter(&key("jobs_total", &[])).expect("valid");
        held.increment(1);
        assert_eq!(drain(&mut registry).0, [cell("jobs_total", "", 1)]);
        held.increment(4);
        count(&mut registry, &key("jobs_total", &[]), 1);
        assert_eq!(drain(&mut registry).0, [cell("jobs_total", "", 5)]);
        drop(held);
        drain(&mut registry);
        assert!(registry.series.is_empty());
    }

    #[test]
    fn observations_are_in_the_first_bucket_whose_bound_they_do_not_exceed() {
        let mut registry = registry();
        let histogram = registry.histogram(&key("value_euros", &[("k", "1")]));
        let histogram = histogram.expect("its buckets are declared");
        for value in [0.5, 1.0, 1.25, 10.5] {
            histogram.record(value);
        }
        histogram.record_many(2.0, 3);
        let labels = |suffix: &str| format!("k=\"1\"|{suffix}");
        let expected = [("+Inf", 1), ("1", 2), ("10", 4), ("sum", 19_250_000_000)];
        let expected = expected.map(|(suffix, by)| cell("value_euros", &labels(suffix), by));
        assert_eq!(drain(&mut registry).0, expected);
        // Values up to millions are stored in whole units.
        let sizes = registry
            .histogram(&key("size_bytes", &[]))
            .expect("declared");
        sizes.record(1_500_000.0);
        let expected = [("|+Inf", 1), ("|sum", 1_500_000)];
        let expected = expected.map(|(field, by)| cell("size_bytes", field, by));
        assert_eq!(drain(&mut registry).0, expected);
    }

    #[test]
    fn a_gauge_keeps_its_last_value_and_what_is_added_later() {
        let mut registry = registry();
        let gauge = registry.gauge(&key("level", &[])).expect("valid");
        gauge.increment(5.0);
        gauge.set(2.5);
        gauge.decrement(0.25);
        let other = registry.gauge(&key("visitors", &[])).expect("valid");
        other.increment(2.0);
        other.decrement(3.0);
        let (cells, gauges) = drain(&mut registry);
        assert_eq!(cells, []);
        let writes: Vec<_> = gauges.cells().collect();
        let set = GaugeWrite {
            set: Some(2_500_000),
            // Seven seconds after the clock's start.
            set_ms: Some(8_000),
            sum: -250_000,
        };
        let added = GaugeWrite {
            sum: -1_000_000,
            ..GaugeWrite::default()
        };
        let expected = [
            ("m:custom:level", "", set),
            ("m:custom:visitors", "", added),
        ];
        assert_eq!(writes, expected);
        gauge.set(1.0);
        let catalog = catalog(&registry);
        let (_, gauges) = drain_some(&mut registry, &catalog, usize::MAX, None);
        let set_ms = gauges.cells().map(|(_, _, write)| write.set_ms).next();
        assert_eq!(set_ms, Some(None), "lease time is not known");
    }

    #[test]
    fn a_family_that_is_not_admitted_waits() {
        let mut registry = registry();
        count(&mut registry, &key("first_total", &[]), 1);
        let admitted = catalog(&registry);
        count(&mut registry, &key("second_total", &[]), 2);
        let (increments, _) = drain_some(&mut registry, &admitted, usize::MAX, None);
        assert_eq!(increments.len(), 1);
        assert!(registry.has_news());
        assert_eq!(drain(&mut registry).0, [cell("second_total", "", 2)]);
        assert!(!registry.has_news());
    }

    #[test]
    fn a_batch_has_a_limited_number_of_series() {
        let mut registry = registry();
        for labels in [[("a", "1")], [("a", "2")], [("a", "3")]] {
            count(&mut registry, &key("jobs_total", &labels), 1);
        }
        let catalog = catalog(&registry);
        let mut sizes = Vec::new();
        while registry.has_news() {
            sizes.push(drain_some(&mut registry, &catalog, 2, None).0.len());
        }
        assert_eq!(sizes, [2, 1]);
        // Handles that are held do not keep others waiting.
        let held: Vec<_> = ["1", "2", "3"]
            .map(|value| registry.counter(&key("jobs_total", &[("a", value)])))
            .into();
        count(&mut registry, &key("jobs_total", &[("a", "4")]), 1);
        assert_eq!(drain_some(&mut registry, &catalog, 1, None).0.len(), 1);
        drop(held);
    }

    #[test]
    fn what_prometheus_forbids_is_refused_by_name_once() {
        let mut registry = registry();
        count(&mut registry, &key("right_total", &[]), 1);
        for _ in 0..3 {
            for name in [
                "",
                "a b",
                "0a",
                "_total",
                "functional_scaffold_x_total",
                "http_requests_total",
                "http_request_duration_seconds_count",
                "algorithm_executions_in_flight",
            ] {
                count(&mut registry, &key(name, &[]), 1);
            }
            for labels in [
                &[("le", "1")][..],
                &[("__name__", "x")],
                &[("a-b", "x")],
                &[("a", "1"), ("a", "2")],
            ] {
                count(&mut registry, &key("right_total", labels), 1);
            }
            assert!(registry.gauge(&key("right_total", &[])).is_none());
            assert!(registry.histogram(&key("undeclared", &[])).is_none());
            let histogram = registry.histogram(&key("value_euros", &[]));
            let histogram = histogram.expect("it is declared");
            count(&mut registry, &key("value_euros_sum", &[]), 1);
            histogram.record(-1.0);
            histogram.record(f64::NAN);
            let counter = registry.counter(&key("right_total", &[])).expect("valid");
            counter.absolute(7);
            let gauge = registry.gauge(&key("level", &[])).expect("valid");
            gauge.set(f64::INFINITY);
        }
        drain(&mut registry);
        let refused = refused(&registry);
        // Names, labels, another kind, no buckets, a sample's name, and three values.
        assert_eq!(refused.len(), 8 + 4 + 1 + 1 + 1 + 3, "{refused:#?}");
        assert!(registry.take_refusals().is_empty(), "they are logged");
    }

    #[test]
    fn a_sum_that_a_batch_cannot_hold_is_refused_and_not_cut() {
        let mut registry = registry();
        for _ in 0..3 {
            let histogram = registry.histogram(&key("value_euros", &[]));
            let histogram = histogram.expect("its buckets are declared");
            // 4.6 thousand million are 2^62 stored units.
            for value in [4e9, 6e8, 7e8, 1e6] {
                histogram.record(value);
            }
            histogram.as_ref().record_many(1e6, 1_000);
            count(&mut registry, &key("jobs_total", &[]), MAX_INCREMENT - 1);
            count(&mut registry, &key("jobs_total", &[]), 2);
            count(&mut registry, &key("jobs_total", &[]), 1);
            let gauge = registry.gauge(&key("level", &[])).expect("valid");
            for value in [9e12, 9e12, -1.0] {
                gauge.increment(value);
            }
            let (cells, gauges) = drain(&mut registry);
            let expected = [
                cell("jobs_total", "", MAX_INCREMENT),
                cell("value_euros", "|+Inf", 3),
                cell("value_euros", "|sum", 4_601_000_000_000_000_000),
            ];
            assert_eq!(cells, expected);
            let sums: Vec<_> = gauges.cells().map(|(_, _, write)| write.sum).collect();
            assert_eq!(sums, [8_999_999_999_999_000_000]);
        }
        let refused = refused(&registry);
        assert_eq!(refused.len(), 3, "each family once: {refused:?}");
    }

    #[test]
    fn labels_that_fit_no_log_line_are_counted_as_other() {
        let mut registry = registry();
        let long: &'static str = "x".repeat(2_000).leak();
        count(
            &mut registry,
            &key("jobs_total", &[("a", long), ("b", "1")]),
            2,
        );
        let cells = drain(&mut registry).0;
        assert_eq!(cells, [cell("jobs_total", r#"a="other",b="other""#, 2)]);
        assert_eq!(refused(&registry).len(), 1);
    }

    #[test]
    fn names_of_clients_take_a_bounded_memory() {
        let mut registry = registry();
        for number in 0..1_000 {
            let name: &'static str = format!("n{number}_total").leak();
            count(&mut registry, &key(name, &[]), 1);
        }
        assert_eq!(registry.families.len(), MAX_FAMILIES);
        assert!(refused(&registry).len() <= MAX_FAMILIES);
    }

    #[test]
    fn nothing_is_recorded_when_it_is_off() {
        let mut registry = registry();
        let held = registry.counter(&key("jobs_total", &[])).expect("valid");
        registry.switch_off();
        held.increment(1);
        assert!(registry.counter(&key("jobs_total", &[])).is_none());
        assert_eq!(drain(&mut registry).0, []);
    }

    #[test]
    fn a_flush_to_a_denied_store_ends_and_nothing_more_is_recorded() {
        let registry = Rc::new(RefCell::new(registry()));
        let held = registry.borrow_mut().counter(&key("jobs_total", &[]));
        let held = held.expect("it is valid");
        held.increment(1);
        let custom = Custom::new(Rc::clone(&registry) as _);
        let mut batcher = Batcher::of_custom("m:", custom, 7);
        assert!(batcher.begin_flushing());
        assert!(!batcher.end_flushing(), "a count waits");
        assert!(batcher.turn_off());
        held.increment(1);
        assert!(batcher.end_flushing());
        let refused = registry.borrow_mut().counter(&key("other_total", &[]));
        assert!(refused.is_none());
    }

    #[test]
    fn a_long_help_is_cut_and_names_that_prometheus_writes_are_refused() {
        let mut registry = registry();
        registry.describe("jobs_total", None, &"é".repeat(1_000));
        let _handle = registry.counter(&key("jobs_total", &[]));
        assert_eq!(registry.families[0].help, "é".repeat(500));
        for name in ["up", "scrape_duration_seconds"] {
            assert!(registry.gauge(&key(name, &[])).is_none(), "{name}");
        }
    }

    #[test]
    fn units_and_help_are_those_that_were_described() {
        let mut registry = registry();
        registry.describe("value_euros", Some(Unit::Bytes), "Its value.");
        let _handle = registry.histogram(&key("value_euros", &[]));
        let family = &registry.families[0];
        assert_eq!((&*family.unit, &*family.help), ("bytes", "Its value."));
        assert_eq!(family.scale, SUM_SCALE);
    }

    /// An instance that has not registered its families does not know their keys.
    #[test]
    fn a_batch_in_the_log_has_the_registrations_that_redis_may_not_have() {
        let registry = Rc::new(RefCell::new(registry()));
        registry.borrow_mut().limit_series(10);
        let custom = Custom::new(Rc::clone(&registry) as _);
        let mut batcher = Batcher::of_custom("m:", custom, 7);
        let record = |name: &'static str| {
            count(&mut registry.borrow_mut(), &key(name, &[]), 1);
        };
        let mut logged = |is_registered: bool| {
            if is_registered {
                let families = batcher.catalog_to_register().families().len();
                batcher.set_registered(families);
            }
            let batch = batcher.take_for_log([8, 9]).remove(0);
            assert_eq!(batch.custom.max_series, 10);
            let families = batch.custom.families().expect("they are valid");
            let families = families.into_iter().map(|family| (family.name, family.key));
            families.collect::<Vec<_>>()
        };
        let family = |name: &str| (name.to_owned(), format!("m:custom:{name}"));
        record("first_total");
        assert_eq!(logged(false), [family("first_total")]);
        record("second_total");
        let histogram = registry.borrow_mut().histogram(&key("value_euros", &[]));
        histogram.expect("it is declared").record(1.0);
        let gauge = registry.borrow_mut().gauge(&key("level", &[]));
        gauge.expect("it is valid").set(1.0);
        let those = ["second_total", "value_euros", "level"].map(family);
        assert_eq!(logged(false), those, "those that it writes to");
        record("first_total");
        assert_eq!(logged(true), []);
        record("third_total");
        record("first_total");
        assert_eq!(logged(false), [family("third_total")]);
    }
}
