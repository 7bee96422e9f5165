//! High-water marks: no counter steps back while the store's epoch is the same.
//!
//! Redis may lose writes that it acknowledged: in a power cut with `appendfsync
//! everysec`, or in a failover to a replica that lagged behind. Its counts step back,
//! and Prometheus takes that for a counter reset and counts the whole total again. So
//! if a value is lower than at the previous read, the difference (the lost count) is
//! added to it from then on. A served value never decreases, and every later increment
//! is served. Only increments that were written after one read and lost before the
//! next are missing: no read has seen them.
//!
//! Lost counts are kept in Redis, so that other exporters add the same, and this one
//! still does after a restart. As soon as they are found, they are added to those in
//! Redis, and every later read contains them. If Redis refuses them, they stay in the
//! mark.
//!
//! A series that disappears has stepped back to 0, and stays served. It is forgotten
//! only in another epoch, or when a command removes it: commands record their removals
//! in Redis. So the marks take memory for every series of the epoch, up to a bound.
//!
//! A series with a cell that cannot be decoded has lost nothing: its count may be
//! whole again at the next read. It is held at its mark, and no lost count is recorded.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, HashMap, HashSet},
    fmt::Debug,
    fs,
    io::ErrorKind,
    mem,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use functional_scaffold_protocol::{
    batch::Batch,
    calls::{AddLostCountsReply, Script, add_lost_counts_call},
    cell::{CARRY, fields_of_series},
    family::{Family, Kind},
    removal::Removal,
    series::{FamilySeries, Histogram, Series, SeriesReader},
};
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use crate::{
    durable_file::replace_file,
    redis_client::{self, Connection, Failure, Reason},
    scrape::limits::{MAX_REGISTRATIONS, MAX_REMOVAL_BYTES, MAX_REMOVALS},
};

/// The high-water marks of one epoch.
#[derive(Debug, Default)]
pub(crate) struct HighWaterMarks {
    epoch: Option<String>,
    /// The last epochs that were read as begun by a wipe. A store that is restored from a
    /// backup has an old one again.
    wipes: Vec<String>,
    /// The version of the lost counts in Redis at the last read.
    version: Option<String>,
    /// When the counts began, in milliseconds since 1970, as far as that is known.
    began_millis: Option<i64>,
    /// By the name of the family and the key of its hash.
    hashes: HashMap<(String, String), HashMarks>,
    /// Families whose regression was logged.
    logged: HashSet<String>,
    /// The number of the last removal that was processed.
    last_removal: i64,
    /// The number of the last removal of each hash and series.
    removals: HashMap<Removal, i64>,
    /// The bytes of these removals, or more.
    removal_bytes: usize,
}

/// The values that were served last, as cells of the hashes that they come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Served {
    epoch: String,
    wipes: Vec<String>,
    began_millis: Option<i64>,
    /// Name and registration of each hash's family, and the epochs in which it was read.
    families: Vec<(String, String, Vec<String>)>,
    cells: Batch,
    last_removal: i64,
}

impl HighWaterMarks {
    /// Forgets every mark if this is another epoch. Stores without an epoch cannot be
    /// told apart, and have no marks.
    pub(crate) fn enter(&mut self, epoch: Option<&str>, version: Option<&str>) {
        self.begin_read(version);
        if self.epoch.as_deref() == epoch {
            return;
        }
        if let (Some(before), Some(epoch)) = (&self.epoch, epoch) {
            tracing::warn!("the store was wiped (epoch {before}, now {epoch}): counters are reset");
        }
        *self = Self {
            epoch: epoch.map(str::to_owned),
            version: version.map(str::to_owned),
            wipes: mem::take(&mut self.wipes),
            ..Self::default()
        };
    }

    /// Returns whether the store was wiped since the last read. `wiped` is the epoch that
    /// its last wipe began.
    pub(crate) fn is_new_wipe(&self, wiped: Option<&str>) -> bool {
        self.epoch.is_some() && wiped.is_some_and(|wiped| !self.knows_wipe(wiped))
    }

    fn knows_wipe(&self, wiped: &str) -> bool {
        self.wipes.iter().any(|known| known == wiped)
    }

    /// Remembers the store's last wipe.
    pub(crate) fn note_wipe(&mut self, wiped: Option<&str>) {
        if let Some(wiped) = wiped.filter(|wiped| !self.knows_wipe(wiped)) {
            push_bounded(&mut self.wipes, wiped.to_owned());
        }
    }

    /// The epoch that the marks are of.
    pub(crate) fn epoch(&self) -> Option<&str> {
        self.epoch.as_deref()
    }

    /// Enters the next read of a shard that was not wiped since the last one, whatever its
    /// epoch. If it is another one, or none yet, the shard has lost its data. The others
    /// count on, so the sum of all shards must not step back: what was served of this one
    /// is lost counts from now on.
    pub(crate) fn continue_in(&mut self, epoch: Option<&str>, version: Option<&str>) {
        self.begin_read(version);
        let Some(epoch) = epoch else {
            return;
        };
        let before = self.epoch.replace(epoch.to_owned());
        if let Some(before) = before.filter(|before| before != epoch) {
            tracing::warn!(
                "a shard lost its data (epoch {before}, now {epoch}): its counters stay at their \
                 highest values"
            );
        }
    }

    /// Lost counts that are kept here may be in Redis now: this reader or another one has
    /// added them, if the version is another. If they are not, the next values step back
    /// once more.
    fn begin_read(&mut self, version: Option<&str>) {
        let has_changed = self.version.as_deref() != version;
        for hash in self.hashes.values_mut() {
            hash.is_read = false;
            if has_changed {
                hash.series.rebase();
            }
        }
        self.version = version.map(str::to_owned);
    }

    /// When the counts began: the earliest time that was known since the last reset.
    pub(crate) fn began(&mut self, epoch_millis: Option<i64>) -> Option<i64> {
        let times = [self.began_millis, epoch_millis];
        self.began_millis = times.into_iter().flatten().min();
        self.began_millis
    }

    /// The number of the last removal that was processed in this epoch, or 0.
    pub(crate) fn last_removal(&self, epoch: Option<&str>) -> i64 {
        if self.epoch.as_deref() == epoch {
            self.last_removal
        } else {
            0
        }
    }

    /// Forgets removed series and hashes. Each removal comes with its number. A shard whose
    /// data came back has old removals again, after which series were counted anew.
    pub(crate) fn forget(&mut self, removals: &[(Removal, i64)]) {
        let mut series: HashMap<&str, HashSet<&str>> = HashMap::new();
        let processed = self.last_removal;
        for (removed, number) in removals.iter().filter(|(_, number)| *number > processed) {
            self.last_removal = self.last_removal.max(*number);
            let bytes = removed.key.len() + removed.labels.as_ref().map_or(0, String::len);
            self.removal_bytes += bytes;
            if self.removals.len() >= MAX_REMOVALS || self.removal_bytes > MAX_REMOVAL_BYTES {
                // Then series seem to have begun with the epoch.
                self.removals.clear();
                self.removal_bytes = bytes;
            }
            self.removals.insert(removed.clone(), *number);
            match &removed.labels {
                Some(labels) => drop(series.entry(&removed.key).or_default().insert(labels)),
                None => self.hashes.retain(|(_, key), _| *key != removed.key),
            }
        }
        for ((_, key), hash) in &mut self.hashes {
            if let Some(removed) = series.get(key.as_str()) {
                hash.series.forget(removed);
            }
        }
    }

    /// When hashes and series were last removed, as far as that is known: in milliseconds
    /// since 1970, by the key of the hash and the labels.
    pub(crate) fn removed_at(&self) -> impl Iterator<Item = (&Removal, i64)> {
        // The number of a removal is its time in microseconds.
        let removals = self.removals.iter();
        removals.map(|(removal, number)| (removal, number / 1000))
    }

    /// Raises the values read from one hash to their marks, and restores missing
    /// series. Those of the label sets in `corrupt` are not taken for lost. `has_lost` says
    /// whether Redis has lost counts of the hash. Gauges may fall.
    pub(crate) fn clamp(
        &mut self,
        layout: &mut FamilySeries,
        corrupt: &LabelSets,
        has_lost: bool,
    ) -> Clamped {
        let FamilySeries { family, series } = layout;
        let Some(epoch) = self.epoch.as_ref().filter(|_| family.kind != Kind::Gauge) else {
            return Clamped {
                regressions: 0,
                is_partial: !corrupt.is_empty(),
            };
        };
        let hash = (family.name.clone(), family.key.clone());
        let hash = self
            .hashes
            .entry(hash)
            .or_insert_with(|| HashMarks::new(family, epoch));
        if !hash.family.same_layout(family) {
            // Someone changed the registration: its cells have another meaning now.
            *hash = HashMarks::new(family, epoch);
        }
        hash.is_read = true;
        let is_partial = corrupt.iter().any(|labels| !hash.series.has(labels));
        let mut lost = 0;
        if !hash.epochs.contains(epoch) {
            // With lost counts in Redis, another reader has added them. If no value is
            // lower, the store has lost its state only.
            if !has_lost && hash.series.is_above(series, family) {
                lost = hash.series.lose();
            }
            push_bounded(&mut hash.epochs, epoch.clone());
        }
        let mut regressions = hash.series.clamp(series, family, corrupt);
        regressions.series += lost;
        let name = &family.name;
        if self.logged.len() > MAX_REGISTRATIONS {
            self.logged.clear();
        }
        if let Some(example) = &regressions.example
            && self.logged.insert(name.clone())
        {
            tracing::warn!(
                series = regressions.series,
                "Redis lost writes: family {name} stepped back, for example {{{example}}}; \
                 it stays at its highest values"
            );
        }
        Clamped {
            regressions: regressions.series,
            is_partial,
        }
    }

    /// The last values of the hashes that were not read since the read began: they cannot
    /// be read, or their registrations are lost as well.
    pub(crate) fn unread(&self) -> Vec<FamilySeries> {
        let hashes = self.hashes.values().filter(|hash| !hash.is_read);
        let unread = hashes.map(|hash| FamilySeries {
            family: hash.family.clone(),
            series: hash.series.values(),
        });
        unread.collect()
    }

    /// Forgets marks until they take no more memory than this number of samples: first of
    /// the hashes that were not read since [`Self::enter`], then of the largest ones.
    /// Returns the families of the latter, of which nothing that Redis lost is served any
    /// more.
    pub(crate) fn forget_beyond(&mut self, most: usize) -> Vec<String> {
        let mut forgotten = Vec::new();
        if self.size() <= most {
            return forgotten;
        }
        self.hashes.retain(|_, hash| hash.is_read);
        tracing::warn!(
            "more than {most} samples: the last values of families that are not served are forgotten"
        );
        while self.size() > most {
            let largest = self.hashes.iter().max_by_key(|(_, hash)| hash.size());
            let Some(largest) = largest.map(|(hash, _)| hash.clone()) else {
                break;
            };
            self.hashes.remove(&largest);
            forgotten.push(largest.0);
        }
        forgotten
    }

    /// The number of samples that the marks are of.
    fn size(&self) -> usize {
        let hashes = self.hashes.values();
        hashes.fold(0, |size, hash| size.saturating_add(hash.size()))
    }

    /// Returns the lost counts, to be added to those in Redis; None if there are none.
    pub(crate) fn lost_counts(&self) -> Option<Batch> {
        let mut lost = Batch::default();
        // The next read would not show those of an unregistered family.
        let read = self.hashes.iter().filter(|(_, hash)| hash.is_read);
        for ((_, key), hash) in read {
            let cells = hash.series.lost_counts(&hash.family).into_iter();
            for (field, by) in cells.filter(|&(_, by)| by > 0) {
                raise(&mut lost, key, &field, by);
            }
        }
        (!lost.is_empty()).then_some(lost)
    }

    /// The values that were served last; None without an epoch.
    pub(crate) fn served(&self) -> Option<Served> {
        let mut served = Served {
            epoch: self.epoch.clone()?,
            wipes: self.wipes.clone(),
            began_millis: self.began_millis,
            families: Vec::with_capacity(self.hashes.len()),
            cells: Batch::default(),
            last_removal: self.last_removal,
        };
        for ((name, key), hash) in &self.hashes {
            let registration = hash.family.encode();
            served
                .families
                .push((name.clone(), registration, hash.epochs.clone()));
            for (field, value) in hash.series.served(&hash.family) {
                raise(&mut served.cells, key, &field, value);
            }
        }
        // A HashMap has no order, and an unchanged state is not written again.
        served.families.sort_unstable();
        Some(served)
    }

    /// Restores the marks after a restart.
    pub(crate) fn restore(served: &Served) -> anyhow::Result<Self> {
        let mut marks = Self::default();
        marks.enter(Some(&served.epoch), None);
        marks.wipes.clone_from(&served.wipes);
        marks.last_removal = served.last_removal;
        marks.began_millis = served.began_millis;
        for (name, registration, epochs) in &served.families {
            let family = Family::decode(name, registration.as_bytes())?;
            let mut series = SeriesReader::new(family.clone());
            let cells = served.cells.cells();
            for (_, field, value) in cells.filter(|(key, _, _)| *key == family.key) {
                series.push(field.as_bytes(), value.to_string().as_bytes())?;
            }
            marks.clamp(&mut series.finish(), &LabelSets::new(), false);
            if let Some(hash) = marks.hashes.get_mut(&(family.name, family.key)) {
                hash.epochs.clone_from(epochs);
            }
        }
        Ok(marks)
    }
}

/// Label sets of one hash.
pub(crate) type LabelSets = HashSet<Box<str>>;

/// The marks of one hash.
#[derive(Debug)]
struct HashMarks {
    family: Family,
    series: Box<dyn SeriesMarks>,
    /// True if the last read had it.
    is_read: bool,
    /// The epochs of the store in which it was read, the last ones. A store may lose its
    /// data and get it back, from a backup.
    epochs: Vec<String>,
}

/// Epochs that are remembered, of each hash and of wipes.
const MAX_EPOCHS: usize = 16;

/// Remembers one more epoch, and forgets the oldest of too many.
fn push_bounded(epochs: &mut Vec<String>, epoch: String) {
    if epochs.len() >= MAX_EPOCHS {
        epochs.remove(0);
    }
    epochs.push(epoch);
}

/// Raises a cell to a value. Families may share a hash, and have the same cells of it.
fn raise(cells: &mut Batch, key: &str, field: &str, value: u64) {
    let known = cells.of_key(key).and_then(|fields| fields.get(field));
    let known = known.copied().unwrap_or(0);
    cells.inc(key, field, value.saturating_sub(known));
}

/// The result of [`HighWaterMarks::clamp`].
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Clamped {
    /// The number of series that stepped back.
    pub(crate) regressions: u64,
    /// True if a series has a corrupt cell, and no earlier value to serve instead.
    pub(crate) is_partial: bool,
}

impl HashMarks {
    fn new(family: &Family, epoch: &str) -> Self {
        Self {
            family: family.clone(),
            epochs: vec![epoch.to_owned()],
            series: match family.kind {
                Kind::Counter | Kind::Gauge => Box::new(Marks::<i64>(Vec::new())),
                Kind::Histogram => Box::new(Marks::<Histogram>(Vec::new())),
            },
            is_read: true,
        }
    }

    /// As [`SeriesReader::size`], and some for the registration.
    fn size(&self) -> usize {
        let Family {
            name,
            help,
            unit,
            key,
            ..
        } = &self.family;
        let text = name.len() + help.len() + unit.len() + key.len();
        let registration = 1 + text / SAMPLE_BYTES + self.family.bounds.len();
        registration.saturating_add(self.series.size(&self.family))
    }
}

/// The bytes of name and labels that count as a sample.
const SAMPLE_BYTES: usize = 256;

/// The series of one hash that stepped back.
#[derive(Default)]
struct Regressions {
    series: u64,
    example: Option<Box<str>>,
}

impl Regressions {
    fn add(&mut self, labels: &str) {
        self.series += 1;
        self.example.get_or_insert_with(|| labels.into());
    }
}

/// The marks of the series of one hash, whatever their type.
trait SeriesMarks: Debug + Send + Sync {
    fn clamp(&mut self, series: &mut Series, family: &Family, corrupt: &LabelSets) -> Regressions;
    fn forget(&mut self, removed: &HashSet<&str>);
    /// Returns whether there is a mark of a label set.
    fn has(&self, labels: &str) -> bool;
    /// Returns whether a value is lower than its mark, or missing.
    fn is_above(&self, series: &mut Series, family: &Family) -> bool;
    /// Treats everything that was served as lost, so that what is read next counts from 0.
    /// Returns the number of series.
    fn lose(&mut self) -> u64;
    /// The values that were served last.
    fn values(&self) -> Series;
    /// What is added to each cell.
    fn lost_counts(&self, family: &Family) -> Cells;
    /// What was served last of each cell.
    fn served(&self, family: &Family) -> Cells;
    /// The number of samples, as [`SeriesReader::size`] counts them.
    fn size(&self, family: &Family) -> usize;
    /// Treats the values that were served as those that were read, because their lost
    /// counts are in Redis now.
    fn rebase(&mut self);
}

/// Marks by label set, in order.
#[derive(Debug)]
struct Marks<V>(Vec<(Box<str>, HighWaterMark<V>)>);

impl<V: Value> SeriesMarks for Marks<V> {
    /// Both lists are in order of label sets, so that one walk compares them, and a
    /// read without new or missing series moves nothing.
    fn clamp(&mut self, series: &mut Series, family: &Family, corrupt: &LabelSets) -> Regressions {
        let mut regressions = Regressions::default();
        let Some(values) = V::values_of(series) else {
            return regressions;
        };
        let (mut missing, mut new) = (Vec::new(), Vec::new());
        let mut marks = self.0.iter_mut().peekable();
        for (labels, value) in values.iter_mut() {
            let mark = loop {
                let Some(next) = marks.peek() else { break None };
                match next.0.cmp(labels) {
                    Ordering::Less => missing.extend(marks.next()),
                    Ordering::Equal => break marks.next(),
                    Ordering::Greater => break None,
                }
            };
            match mark {
                Some((_, mark)) => {
                    if mark.clamp(value, family, corrupt.contains(labels)) {
                        regressions.add(labels);
                    }
                }
                None => new.push((labels.clone(), HighWaterMark::new(value))),
            }
        }
        missing.extend(marks);
        if !missing.is_empty() {
            for (labels, mark) in missing {
                let mut value = mark.last.zero();
                if mark.clamp(&mut value, family, corrupt.contains(labels)) {
                    regressions.add(labels);
                }
                values.push((labels.clone(), value));
            }
            values.sort_unstable_by(|(left, _), (right, _)| left.cmp(right));
        }
        if !new.is_empty() {
            self.0.append(&mut new);
            self.0
                .sort_unstable_by(|(left, _), (right, _)| left.cmp(right));
        }
        regressions
    }

    fn forget(&mut self, removed: &HashSet<&str>) {
        self.0.retain(|(labels, _)| !removed.contains(&**labels));
    }

    fn has(&self, labels: &str) -> bool {
        let found = self.0.binary_search_by(|(known, _)| (**known).cmp(labels));
        found.is_ok()
    }

    fn is_above(&self, series: &mut Series, family: &Family) -> bool {
        let Some(values) = V::values_of(series) else {
            return false;
        };
        self.0.iter().any(|(labels, mark)| {
            let found = values.binary_search_by(|(known, _)| known.cmp(labels));
            let is_lower = |value: &V| value.lost_since(&mark.last, family).is_some();
            found.map_or_else(
                |_| is_lower(&mark.last.zero()),
                |at| is_lower(&values[at].1),
            )
        })
    }

    fn lose(&mut self) -> u64 {
        for (_, mark) in &mut self.0 {
            let zero = mark.last.zero();
            mark.lost = Some(Box::new(mark.served()));
            mark.last = zero;
        }
        self.0.len() as u64
    }

    fn values(&self) -> Series {
        let marks = self.0.iter();
        let served = marks.map(|(labels, mark)| (labels.clone(), mark.served()));
        V::series_of(served.collect())
    }

    fn lost_counts(&self, family: &Family) -> Cells {
        let lost = self
            .0
            .iter()
            .filter_map(|(labels, mark)| Some(mark.lost.as_ref()?.cells(labels, family)));
        lost.flatten().collect()
    }

    fn served(&self, family: &Family) -> Cells {
        let marks = self.0.iter();
        marks
            .flat_map(|(labels, mark)| mark.served().cells(labels, family))
            .collect()
    }

    fn size(&self, family: &Family) -> usize {
        let sizes = self.0.iter().map(|(labels, mark)| {
            let weight = 1 + (family.name.len() + labels.len()) / SAMPLE_BYTES;
            mark.last.samples() * weight
        });
        sizes.fold(0, usize::saturating_add)
    }

    fn rebase(&mut self) {
        for (_, mark) in &mut self.0 {
            if mark.lost.is_some() {
                mark.last = mark.served();
                mark.lost = None;
            }
        }
    }
}

/// The mark of one series.
#[derive(Debug)]
struct HighWaterMark<V> {
    /// The value read last.
    last: V,
    /// Added to it. Boxed, because most series never step back.
    lost: Option<Box<V>>,
    /// Whether the last value read was torn.
    torn: bool,
}

impl<V: Value> HighWaterMark<V> {
    fn new(value: &V) -> Self {
        Self {
            last: value.clone(),
            lost: None,
            torn: false,
        }
    }

    /// Turns a value that was read into the value to serve. What a corrupt value lacks
    /// is not lost. Returns whether it stepped back.
    fn clamp(&mut self, value: &mut V, family: &Family, is_corrupt: bool) -> bool {
        self.torn = !self.torn && value.repair_torn(&self.last);
        if is_corrupt && let Some(lacking) = value.lost_since(&self.last, family) {
            value.add(&lacking);
        }
        let lost = value.lost_since(&self.last, family);
        let stepped_back = lost.is_some();
        if let Some(lost) = lost {
            match &mut self.lost {
                Some(total) => total.add(&lost),
                none => *none = Some(Box::new(lost)),
            }
        }
        self.last.copy_from(value);
        if let Some(lost) = &self.lost {
            value.add(lost);
        }
        stepped_back
    }

    fn served(&self) -> V {
        let mut value = self.last.clone();
        if let Some(lost) = &self.lost {
            value.add(lost);
        }
        value
    }
}

/// Fields and values.
type Cells = Vec<(String, u64)>;

/// The value of a series.
trait Value: Clone + Debug + Send + Sync + 'static {
    fn values_of(series: &mut Series) -> Option<&mut Vec<(Box<str>, Self)>>;
    fn series_of(values: Vec<(Box<str>, Self)>) -> Series;
    /// The value of a missing series of the same form.
    fn zero(&self) -> Self;
    fn add(&mut self, other: &Self);
    /// Like `clone_from`, without an allocation.
    fn copy_from(&mut self, other: &Self);
    /// What the value lacks compared to `last`; None if nothing.
    fn lost_since(&self, last: &Self, family: &Family) -> Option<Self>;
    /// Replaces a torn value, one that was read between two writes that belong together,
    /// by the last value. Returns whether it was torn.
    fn repair_torn(&mut self, last: &Self) -> bool;
    /// The cells of the value, except those of a negative sum.
    fn cells(&self, labels: &str, family: &Family) -> Cells;
    /// The number of its samples.
    fn samples(&self) -> usize;
}

impl Value for i64 {
    fn values_of(series: &mut Series) -> Option<&mut Vec<(Box<str>, Self)>> {
        match series {
            Series::Values(values) => Some(values),
            Series::Histograms(_) => None,
        }
    }

    fn series_of(values: Vec<(Box<str>, Self)>) -> Series {
        Series::Values(values)
    }

    fn zero(&self) -> Self {
        0
    }

    fn add(&mut self, other: &Self) {
        *self = self.saturating_add(*other);
    }

    fn copy_from(&mut self, other: &Self) {
        *self = *other;
    }

    fn lost_since(&self, last: &Self, _family: &Family) -> Option<Self> {
        (self < last).then(|| last.saturating_sub(*self))
    }

    fn repair_torn(&mut self, _last: &Self) -> bool {
        false
    }

    fn cells(&self, labels: &str, _family: &Family) -> Cells {
        let value = u64::try_from(*self).into_iter();
        value.map(|value| (labels.to_owned(), value)).collect()
    }

    fn samples(&self) -> usize {
        1
    }
}

/// The smallest step of a sum that may be torn, in stored units: half of a carry. A
/// read may see the sum before its carry was moved and the carry after, or the other
/// way round. Then the sum steps by a whole carry. If the next read shows the step
/// again, it is real.
const TORN_STEP: i128 = 1 << 61;

impl Value for Histogram {
    fn values_of(series: &mut Series) -> Option<&mut Vec<(Box<str>, Self)>> {
        match series {
            Series::Values(_) => None,
            Series::Histograms(values) => Some(values),
        }
    }

    fn series_of(values: Vec<(Box<str>, Self)>) -> Series {
        Series::Histograms(values)
    }

    fn zero(&self) -> Self {
        Self {
            buckets: vec![0; self.buckets.len()].into(),
            sum: 0,
        }
    }

    fn add(&mut self, other: &Self) {
        for (bucket, other) in self.buckets.iter_mut().zip(&other.buckets) {
            *bucket = bucket.saturating_add(*other);
        }
        self.sum = self.sum.saturating_add(other.sum);
    }

    fn copy_from(&mut self, other: &Self) {
        self.buckets.clone_from(&other.buckets);
        self.sum = other.sum;
    }

    fn lost_since(&self, last: &Self, family: &Family) -> Option<Self> {
        // The sum of observations that may be negative is not a counter.
        let sum_grows = family.bounds.first().is_some_and(|&bound| bound >= 0.0);
        let sum_fell = sum_grows && self.sum < last.sum;
        let buckets = || last.buckets.iter().zip(&self.buckets);
        let stepped_back = sum_fell || buckets().any(|(last, value)| value < last);
        stepped_back.then(|| Self {
            buckets: buckets()
                .map(|(last, value)| last.saturating_sub(*value))
                .collect(),
            sum: if sum_fell { last.sum - self.sum } else { 0 },
        })
    }

    fn repair_torn(&mut self, last: &Self) -> bool {
        let step = self.sum.saturating_sub(last.sum);
        let torn = step.saturating_abs() >= TORN_STEP;
        if torn {
            self.sum = last.sum;
        }
        torn
    }

    fn cells(&self, labels: &str, family: &Family) -> Cells {
        let carry = u128::from(CARRY.unsigned_abs());
        let sum = u128::try_from(self.sum).ok();
        let cell = |part: Option<u128>| part.and_then(|part| u64::try_from(part).ok());
        let sums = [
            cell(sum.map(|sum| sum % carry)),
            cell(sum.map(|sum| sum / carry)),
        ];
        let values = self.buckets.iter().copied().map(Some).chain(sums);
        let cells = fields_of_series(family, labels).into_iter().zip(values);
        cells
            .filter_map(|(field, value)| Some((field, value?)))
            .collect()
    }

    fn samples(&self) -> usize {
        // With sum and count.
        self.buckets.len() + 2
    }
}

/// Fields of one call, so that no script takes long.
const MAX_FIELDS: usize = 5_000;

/// Adds lost counts to those in Redis.
pub(crate) struct LostCountsWriter {
    prefix: String,
    failing: Option<Reason>,
}

/// The result of handing over lost counts.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum HandOver {
    /// They are in Redis, or another exporter changed its lost counts first: the next
    /// read shows which.
    Done,
    Refused,
}

impl LostCountsWriter {
    pub(crate) fn new(prefix: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
            failing: None,
        }
    }

    /// Adds `lost`, if the store still has the epoch and version of the read that found
    /// it. After an error, some of it may have been added, or may still be.
    pub(crate) async fn add(
        &mut self,
        connection: &mut Connection,
        epoch: &str,
        version: Option<&str>,
        lost: &Batch,
    ) -> Result<HandOver, Failure> {
        let mut version = version.map(str::to_owned);
        for (part, lost) in split(lost).enumerate() {
            let next = format!("{:016x}", redis_client::random());
            let call = add_lost_counts_call(&self.prefix, epoch, version.as_deref(), &next, &lost);
            let reply = connection.call(&Script::ADD_LOST_COUNTS, &call).await;
            let added = reply.and_then(|reply| {
                AddLostCountsReply::decode(reply)
                    .map_err(|error| Failure::new(Reason::Server, error.to_string()))
            });
            self.log(&added);
            match added {
                Ok(AddLostCountsReply::Added { .. }) => {}
                Ok(AddLostCountsReply::Overtaken) => return Ok(HandOver::Done),
                // A script that fails has written nothing, but the parts before it are
                // written.
                Err(failure) if part == 0 && failure.code().is_some() => {
                    return Ok(HandOver::Refused);
                }
                Err(failure) => return Err(failure),
            }
            version = Some(next);
        }
        Ok(HandOver::Done)
    }

    fn log(&mut self, added: &Result<AddLostCountsReply, Failure>) {
        match added {
            Ok(AddLostCountsReply::Added { refused }) => {
                self.failing = None;
                for text in refused {
                    tracing::error!("lost count refused: {text}");
                }
            }
            Ok(AddLostCountsReply::Overtaken) => {}
            Err(failure) => {
                if self.failing.replace(failure.reason) != Some(failure.reason) {
                    tracing::warn!(
                        reason = failure.reason.label(),
                        "lost counts cannot be kept in Redis: {failure}"
                    );
                }
            }
        }
    }
}

fn split(lost: &Batch) -> impl Iterator<Item = Batch> {
    let cells: Vec<_> = lost.cells().collect();
    let parts = cells.chunks(MAX_FIELDS).map(|cells| {
        let mut part = Batch::default();
        for (key, field, by) in cells {
            part.inc(key, field, *by);
        }
        part
    });
    parts.collect::<Vec<_>>().into_iter()
}

/// The values that were served last, by the prefix of the store's keys.
type ServedByPrefix = BTreeMap<String, Served>;

/// The file with the values that were served last, for an exporter that stops
/// together with Redis, as in a power cut.
pub(crate) struct StateFile {
    path: PathBuf,
    /// The content of the file.
    saved: ServedByPrefix,
    failing: bool,
}

impl StateFile {
    /// Restores the marks of the store with each of these prefixes from the file, if it
    /// exists. An invalid file is logged, and replaced later. Entries of other prefixes, from
    /// another configuration, are dropped.
    pub(crate) fn open<'a>(
        path: PathBuf,
        prefixes: impl Iterator<Item = &'a str>,
    ) -> (Self, Vec<HighWaterMarks>) {
        let (saved, mut marks) = read(&path).unwrap_or_else(|error| {
            tracing::error!("cannot restore the values that were served last: {error:#}");
            Default::default()
        });
        let marks = prefixes.map(|prefix| marks.remove(prefix).unwrap_or_default());
        let marks = marks.collect();
        let failing = false;
        let file = Self {
            path,
            saved,
            failing,
        };
        (file, marks)
    }

    /// Saves the values that were served last, if they changed, and waits until they
    /// are on the disk: Redis may lose them in a power cut after the response. A
    /// failure is logged when it starts.
    pub(crate) async fn save(&mut self, stores: impl Iterator<Item = (&str, &HighWaterMarks)>) {
        let served =
            stores.filter_map(|(prefix, marks)| Some((prefix.to_owned(), marks.served()?)));
        let served: ServedByPrefix = served.collect();
        if served == self.saved || served.is_empty() {
            return;
        }
        let path = self.path.clone();
        let writing = spawn_blocking(move || {
            replace_file(&path, &serde_json::to_vec(&served)?).map(|()| served)
        });
        match writing.await.context("the task was aborted").flatten() {
            Ok(served) => {
                self.saved = served;
                if mem::take(&mut self.failing) {
                    tracing::info!("saving to {} works again", self.path.display());
                }
            }
            Err(error) => {
                if !mem::replace(&mut self.failing, true) {
                    tracing::error!("cannot save the served values: {error:#}");
                }
            }
        }
    }
}

fn read(path: &Path) -> anyhow::Result<(ServedByPrefix, HashMap<String, HighWaterMarks>)> {
    let text = match fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Default::default()),
        read => read.with_context(|| format!("cannot read {}", path.display()))?,
    };
    let invalid = || format!("{} is not a state file", path.display());
    let stores: ServedByPrefix = serde_json::from_slice(&text).with_context(invalid)?;
    let marks = stores.iter().map(|(prefix, served)| {
        let marks = HighWaterMarks::restore(served).with_context(invalid)?;
        Ok((prefix.clone(), marks))
    });
    let marks = marks.collect::<anyhow::Result<_>>()?;
    Ok((stores, marks))
}

#[cfg(test)]
#[path = "high_water_tests.rs"]
mod tests;
