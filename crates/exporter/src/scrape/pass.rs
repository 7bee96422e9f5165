//! One pass over one store: every registered family and the open leases, as a [`Reading`]
//! of that store.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    ops::ControlFlow,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use functional_scaffold_protocol::{
    calls::{CLOSED, WIPED, lost_counts_key, removed_key, state_key},
    cell::{Cell, decode_field, decode_value},
    family::{Family, Kind},
    removal::Removal,
    series::{FamilySeries, SeriesReader, merge_layouts},
};
use futures_util::future::try_join_all;
use tokio::task::JoinSet;

use crate::{
    redis_client::{Connection, Failure, Reason},
    redis_transport::{MAX_STRING_BYTES, TOO_LONG},
    scrape::{
        decode_errors::{DecodeErrors, REMOVED, STATE, reason},
        high_water::{HighWaterMarks, LabelSets},
        info::{Memory, Persistence},
        leases::{EXECUTIONS, OpenLeases},
        limits::{MAX_REMOVAL_BYTES, MAX_REMOVALS, REMOVALS_PAGE, SampleLimit},
        reading::{Began, Reading, SetTimes, StoreInfo},
        registry::{RegisteredFamily, registered_families},
        scan::{Pair, ReadOptions, Scanner, skip_unreadable},
        store::Store,
    },
};

/// Makes one pass over a store, and repeats it until epoch and version are the same
/// before and after. So it never mixes two epochs, counts with lost counts that another
/// reader added since, or values from before and after a removal. A family, key or field
/// that cannot be served is a decode error of the reading.
pub(crate) async fn read_pass(
    store: &Store,
    marks: &HighWaterMarks,
    connection: &mut Connection,
) -> Result<RawReading, Failure> {
    let options = &store.options;
    let memory = Memory::read(connection).await?;
    let persistence = Persistence::read(connection).await?;
    loop {
        let mut raw = RawReading {
            memory: memory.clone(),
            persistence: persistence.clone(),
            ..RawReading::default()
        };
        let registered = registered_families(connection, options, &mut raw.errors).await?;
        // The part of a family whose registration is invalid cannot be read.
        raw.partial = registered.partial;
        raw.known = registered.known;
        raw.lease_time_millis = store.settler.settle(connection).await;
        // Its errors are ignored here: the state is read again below, and they are
        // recorded then.
        let before = State::read(connection, options, &mut DecodeErrors::default()).await?;
        let last_removal = marks.last_removal(before.epoch.as_deref());
        raw.removals = read_removals(connection, options, last_removal, &mut raw.errors).await?;
        raw.read_families(connection, options, registered.families)
            .await?;
        raw.state = State::read(connection, options, &mut raw.errors).await?;
        if raw.state.is_same_as(&before) {
            return Ok(raw);
        }
    }
}

/// The result of one pass, before high-water marks are applied and layouts merged.
#[derive(Default)]
pub(crate) struct RawReading {
    /// Each family's name and layouts.
    families: Vec<(String, Vec<Layout>)>,
    /// Families of which something could not be read.
    partial: BTreeSet<String>,
    /// The names of which every registration was read, if not all were.
    known: Option<BTreeSet<String>>,
    cells: u64,
    leases: Option<OpenLeases>,
    /// Lease time when leases were settled; `None` if that failed.
    lease_time_millis: Option<i64>,
    pub(crate) state: State,
    /// Removals since the last read, with their numbers.
    removals: Vec<(Removal, i64)>,
    errors: DecodeErrors,
    memory: Option<Memory>,
    persistence: Option<Persistence>,
}

/// The contents of one layout's hashes.
struct Layout {
    series: FamilySeries,
    /// The label sets of cells whose value cannot be decoded.
    corrupt: LabelSets,
    /// When gauges were set, in milliseconds of lease time, by label set.
    set_millis: SetTimes,
    /// True if Redis has lost counts of it.
    has_lost: bool,
}

/// The state of the store as a whole.
#[derive(Clone, Default)]
pub(crate) struct State {
    pub(crate) epoch: Option<String>,
    /// Changes with every new lost count and every removal.
    pub(crate) version: Option<String>,
    /// The command that is changing all shards, if one is.
    pub(crate) closed: Option<String>,
    /// The epoch that the last wipe began.
    pub(crate) wiped: Option<String>,
    flushed_millis: Option<i64>,
    epoch_millis: Option<i64>,
    /// Redis's clock minus lease time.
    shift_millis: i64,
}

impl State {
    /// Returns whether counts that were read with the two states belong together.
    pub(crate) fn is_same_as(&self, other: &Self) -> bool {
        self.epoch == other.epoch && self.version == other.version && self.closed == other.closed
    }

    pub(crate) async fn read(
        connection: &mut Connection,
        options: &ReadOptions,
        errors: &mut DecodeErrors,
    ) -> Result<Self, Failure> {
        let key = state_key(&options.prefix);
        let mut command = redis::cmd("HMGET");
        command.arg(&key).arg(&[
            "epoch",
            "lost_version",
            "flushed_ms",
            "epoch_ms",
            "shift_ms",
            CLOSED,
            WIPED,
        ]);
        let read: Result<[Option<Vec<u8>>; 7], _> = connection.query(&command).await;
        let fields = skip_unreadable(read, STATE, &key, errors)?.unwrap_or_default();
        let [epoch, version, flushed, began, shift, closed, wiped] =
            fields.map(|field| field.map(|text| String::from_utf8_lossy(&text).into_owned()));
        Ok(Self {
            epoch,
            version,
            flushed_millis: flushed.and_then(|text| text.parse().ok()),
            epoch_millis: began.and_then(|text| text.parse().ok()),
            shift_millis: shift.and_then(|text| text.parse().ok()).unwrap_or(0),
            closed,
            wiped,
        })
    }
}

/// Reads the removals after the one with the number `last_removal`.
async fn read_removals(
    connection: &mut Connection,
    options: &ReadOptions,
    last_removal: i64,
    errors: &mut DecodeErrors,
) -> Result<Vec<(Removal, i64)>, Failure> {
    let key = removed_key(&options.prefix);
    let mut removals = Vec::new();
    let mut bytes = 0;
    for offset in (0..MAX_REMOVALS).step_by(REMOVALS_PAGE) {
        let mut command = redis::cmd("ZRANGEBYSCORE");
        command
            .arg(&key)
            .arg(format!("({last_removal}"))
            .arg("+inf")
            .arg("WITHSCORES")
            .arg("LIMIT")
            .arg(offset)
            .arg(REMOVALS_PAGE);
        let read: Result<Vec<Pair>, _> = connection.query(&command).await;
        let members = skip_unreadable(read, REMOVED, &key, errors)?.unwrap_or_default();
        let is_last = members.len() < REMOVALS_PAGE;
        for (member, number) in members {
            bytes += member.len();
            if bytes > MAX_REMOVAL_BYTES {
                errors.add(REMOVED, reason::TOO_MANY, || {
                    format!("more than {MAX_REMOVAL_BYTES} bytes of removals")
                });
                // The next read begins here.
                return Ok(removals);
            }
            match (Removal::decode(&member), decode_value(&number)) {
                (Ok(removed), Ok(number)) => removals.push((removed, number)),
                _ => errors.add(REMOVED, reason::REMOVAL, || {
                    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
                    format!("member {:?}, number {:?}", text(&member), text(&number))
                }),
            }
        }
        if is_last {
            return Ok(removals);
        }
    }
    errors.add(REMOVED, reason::TOO_MANY, || {
        format!("more than {MAX_REMOVALS} removals")
    });
    Ok(removals)
}

/// The number of fields of each family's hashes, or 0 where it cannot be known: the read
/// of the hash shows why.
async fn count_fields(
    connection: &Connection,
    options: &ReadOptions,
    registered: &[RegisteredFamily],
) -> Result<Vec<usize>, Failure> {
    let lengths = registered.iter().map(|family| async {
        let mut fields = 0_usize;
        for layout in &family.layouts {
            for key in [&layout.key, &lost_counts_key(&options.prefix, &layout.key)] {
                let mut command = redis::cmd("HLEN");
                command.arg(key);
                fields = fields.saturating_add(match connection.clone().query(&command).await {
                    Err(failure) if failure.code().is_none() => return Err(failure),
                    read => read.unwrap_or(0),
                });
            }
        }
        Ok(fields)
    });
    try_join_all(lengths).await
}

/// Adds layouts that were not read to their families, and `with_families` those without any
/// layout that was read.
fn add_unread(
    families: &mut Vec<(String, Vec<Layout>)>,
    unread: Vec<FamilySeries>,
    with_families: bool,
) {
    for series in unread {
        let name = series.family.name.clone();
        let layout = Layout {
            series,
            corrupt: LabelSets::new(),
            set_millis: SetTimes::new(),
            has_lost: false,
        };
        match families.iter_mut().find(|(other, _)| *other == name) {
            Some((_, layouts)) if with_families || !layouts.is_empty() => layouts.push(layout),
            None if with_families => families.push((name, vec![layout])),
            _ => {}
        }
    }
}

/// When the series of families with several layouts began is not known exactly: the sum
/// of a series lacks what one layout lost. They seem to have begun before, because a
/// series that seems to have begun later than it did is counted twice.
fn began(epoch: Option<i64>, families: &[(String, Vec<Layout>)], marks: &HighWaterMarks) -> Began {
    let mut began = Began {
        epoch,
        ..Began::default()
    };
    let mut removals = marks.removed_at().peekable();
    if removals.peek().is_none() {
        return began;
    }
    let names: HashMap<&str, &str> = families
        .iter()
        .filter_map(|(name, layouts)| match layouts.as_slice() {
            [layout] => Some((layout.series.family.key.as_str(), name.as_str())),
            _ => None,
        })
        .collect();
    for (removal, millis) in removals {
        let Some(&name) = names.get(removal.key.as_str()) else {
            continue;
        };
        match &removal.labels {
            None => drop(began.families.insert(name.to_owned(), millis)),
            Some(labels) => {
                let series = began.series.entry(name.to_owned()).or_default();
                series.insert(labels.as_str().into(), millis);
            }
        }
    }
    began
}

/// This machine's clock, in milliseconds since 1970.
fn clock_millis() -> i64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
    let millis = since_1970.unwrap_or_default().as_millis();
    i64::try_from(millis).unwrap_or(i64::MAX)
}

/// Returns whether a node of a Redis Cluster serves the store, but not the slot of this
/// key.
fn is_in_another_slot(failure: &Failure, prefix: &str, key: &str) -> bool {
    // The hash tag of the prefix decides the slot of such a key.
    let is_in_the_stores = prefix.contains('{') && key.starts_with(prefix);
    !is_in_the_stores
        && matches!(
            failure.code(),
            Some("MOVED" | "ASK" | "TRYAGAIN" | "CLUSTERDOWN")
        )
}

/// One family's share of the limit on samples.
struct FamilyLimit {
    limit: Arc<SampleLimit>,
    number: usize,
    samples: usize,
}

impl FamilyLimit {
    fn is_served(&self) -> bool {
        self.limit.raise(self.number, self.samples)
    }
}

/// Assembles the series in one hash, page by page.
struct HashReader<'a> {
    key: &'a str,
    layout: &'a Family,
    series: SeriesReader,
    corrupt: LabelSets,
    set_millis: SetTimes,
    /// The fields' share of the limit on samples.
    fields: usize,
}

impl<'a> HashReader<'a> {
    fn new(key: &'a str, layout: &'a Family) -> Self {
        Self {
            key,
            layout,
            series: SeriesReader::new(layout.clone()),
            corrupt: LabelSets::new(),
            set_millis: SetTimes::new(),
            fields: 0,
        }
    }

    /// Adds a page of fields, and counts them and their errors in a reading.
    fn push(&mut self, page: &[Pair], raw: &mut RawReading) {
        let Self { key, layout, .. } = *self;
        let errors = &mut raw.errors;
        for (field, value) in page {
            let example = |error: &dyn fmt::Display| {
                let field = String::from_utf8_lossy(field);
                format!("key {key:?}, field {field:?}: {error}")
            };
            if field == TOO_LONG {
                let error = format!("more than {MAX_STRING_BYTES} bytes");
                errors.add(&layout.name, reason::TOO_LONG, || example(&error));
            } else if let Err(error) = self.series.push(field, value) {
                if let Ok(cell) = decode_field(layout, field) {
                    self.fields += cell.labels().len() / 256;
                    self.corrupt.insert(cell.labels().into());
                }
                errors.add(&layout.name, error.class(), || example(&error));
            } else if layout.kind == Kind::Gauge
                && let Ok(Cell::SetTime { labels }) = decode_field(layout, field)
                && let Ok(millis) = decode_value(value)
            {
                self.set_millis.insert(labels.into(), millis);
            }
        }
        raw.cells += page.len() as u64;
        self.fields += page.len();
    }

    fn samples(&self) -> usize {
        self.series.size().max(self.fields)
    }

    fn finish(self) -> Layout {
        Layout {
            series: self.series.finish(),
            corrupt: self.corrupt,
            set_millis: self.set_millis,
            has_lost: false,
        }
    }
}

impl RawReading {
    async fn read_families(
        &mut self,
        connection: &Connection,
        options: &ReadOptions,
        registered: Vec<RegisteredFamily>,
    ) -> Result<(), Failure> {
        let scanner = Arc::new(Scanner::new(connection.clone(), options));
        let limit = Arc::new(SampleLimit::new(options.max_samples, registered.len()));
        let prefix: Arc<str> = options.prefix.as_str().into();
        let executions: Vec<String> = registered
            .iter()
            .filter(|family| family.name == EXECUTIONS)
            .flat_map(|family| family.layouts.iter().map(|layout| layout.key.clone()))
            .collect();
        let names: Vec<_> = registered
            .iter()
            .map(|family| family.name.clone())
            .collect();
        for (number, fields) in count_fields(connection, options, &registered)
            .await?
            .into_iter()
            .enumerate()
        {
            limit.raise(number, fields);
        }
        // One task per family, so that one is decoded while another waits for Redis.
        // Dropping the set aborts the tasks.
        let mut tasks = JoinSet::new();
        for (number, family) in registered.into_iter().enumerate() {
            let (scanner, limit) = (Arc::clone(&scanner), Arc::clone(&limit));
            let prefix = Arc::clone(&prefix);
            tasks.spawn(async move {
                let taken = FamilyLimit {
                    limit,
                    number,
                    samples: 0,
                };
                let mut part = Self::default();
                part.read_family(&scanner, &prefix, family, taken).await?;
                Ok(part)
            });
        }
        tasks.spawn(async move {
            let mut part = Self::default();
            let errors = &mut part.errors;
            part.leases = OpenLeases::read(&scanner, &prefix, &executions, errors).await?;
            Ok(part)
        });
        while let Some(task) = tasks.join_next().await {
            let part: Self =
                task.map_err(|panic| Failure::new(Reason::Internal, panic.to_string()))??;
            self.families.extend(part.families);
            self.partial.extend(part.partial);
            self.cells = self.cells.saturating_add(part.cells);
            self.leases = self.leases.take().or(part.leases);
            self.errors.merge(part.errors);
        }
        // One may have been left out after it was read.
        let too_large = |name: &str| {
            let number = names.binary_search_by(|other| other.as_str().cmp(name));
            number.is_ok_and(|number| !limit.serves(number))
        };
        self.families.retain(|(name, _)| !too_large(name));
        for name in names.iter().filter(|name| too_large(name)) {
            self.partial.insert(name.clone());
            self.errors.add(name, reason::TOO_MANY, || {
                let most = options.max_samples;
                format!("more than {most} samples, of which this family has the most")
            });
        }
        Ok(())
    }

    /// Reads the hash of each layout, and its lost counts.
    async fn read_family(
        &mut self,
        scanner: &Scanner,
        prefix: &str,
        family: RegisteredFamily,
        mut taken: FamilyLimit,
    ) -> Result<(), Failure> {
        let RegisteredFamily { name, layouts } = family;
        let mut read = Vec::with_capacity(layouts.len());
        let registered = layouts.len();
        for layout in layouts {
            let counted = self
                .read_hash(scanner, prefix, &layout.key, &layout, &mut taken)
                .await?;
            if layout.kind == Kind::Gauge {
                read.extend(counted);
                continue;
            }
            let key = lost_counts_key(prefix, &layout.key);
            let lost = self
                .read_hash(scanner, prefix, &key, &layout, &mut taken)
                .await?;
            // Without its lost counts, a counter would step back.
            if let (Some(mut counted), Some(lost)) = (counted, lost) {
                counted.corrupt.extend(lost.corrupt);
                let has_lost = !lost.series.series.is_empty();
                // They have the same layout, so none is refused.
                let (sum, _refused) = merge_layouts(vec![counted.series, lost.series]);
                let corrupt = counted.corrupt;
                read.extend(sum.map(|series| Layout {
                    series,
                    corrupt,
                    set_millis: SetTimes::new(),
                    has_lost,
                }));
            }
        }
        if read.len() < registered {
            self.partial.insert(name.clone());
        }
        self.families.push((name, read));
        Ok(())
    }

    /// Reads the series in a hash; None if the key cannot be read, or if the family has
    /// too many samples.
    async fn read_hash(
        &mut self,
        scanner: &Scanner,
        prefix: &str,
        key: &str,
        layout: &Family,
        taken: &mut FamilyLimit,
    ) -> Result<Option<Layout>, Failure> {
        if !taken.is_served() {
            return Ok(None);
        }
        let mut hash = HashReader::new(key, layout);
        let before = taken.samples;
        let scan = scanner.scan("HSCAN", key, |page| {
            hash.push(page, self);
            taken.samples = before + hash.samples();
            if taken.is_served() {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        });
        let scan = match scan.await {
            Err(failure) if is_in_another_slot(&failure, prefix, key) => {
                self.errors.add(&layout.name, reason::OTHER_SLOT, || {
                    format!("key {key:?}: {failure}")
                });
                return Ok(None);
            }
            scan => scan,
        };
        let read = skip_unreadable(scan, &layout.name, key, &mut self.errors)?;
        Ok(read.filter(|()| taken.is_served()).map(|()| hash.finish()))
    }

    /// Applies the high-water marks, which have entered the epoch of this pass, and merges
    /// layouts. The marks are kept by layout, because the bounds that layouts have in
    /// common may become fewer. A family keeps the last values of a layout that cannot be
    /// read or is not registered any more, so that its sum does not step back. With shards,
    /// so does a family that is not registered at all any more.
    pub(crate) fn into_reading(
        mut self,
        marks: &mut HighWaterMarks,
        max_samples: usize,
        is_shard: bool,
    ) -> Reading {
        let mut reading = Reading {
            cells: self.cells,
            decode_errors: self.errors,
            flushed_millis: self.state.flushed_millis,
            partial: self.partial,
            known: self.known,
            stores: vec![StoreInfo {
                memory: self.memory,
                persistence: self.persistence,
            }],
            ..Reading::default()
        };
        reading.epoch = self.state.epoch;
        marks.forget(&self.removals);
        let epoch_millis = marks.began(self.state.epoch_millis);
        reading.began = began(epoch_millis, &self.families, marks);
        for (name, layouts) in &mut self.families {
            for layout in layouts {
                let Layout {
                    series,
                    corrupt,
                    has_lost,
                    ..
                } = layout;
                let clamped = marks.clamp(series, corrupt, *has_lost);
                reading.regressions += clamped.regressions;
                if clamped.is_partial {
                    reading.partial.insert(name.clone());
                }
            }
        }
        add_unread(&mut self.families, marks.unread(), is_shard);
        for (name, layouts) in self.families {
            let mut set_times = SetTimes::new();
            let layouts = layouts.into_iter().map(|layout| {
                // By Redis's clock, because lease times of stores cannot be compared.
                let set = layout.set_millis.into_iter();
                let shift = self.state.shift_millis;
                set_times.extend(set.map(|(labels, at)| (labels, at.saturating_add(shift))));
                layout.series
            });
            let (merged, refused) = merge_layouts(layouts.collect());
            if !set_times.is_empty() {
                reading.set_times.insert(name.clone(), set_times);
            }
            reading.families.extend(merged);
            for layout in refused {
                reading.partial.insert(name.clone());
                reading.decode_errors.add(&name, reason::LAYOUT, || {
                    format!(
                        "layout with key {:?}: its type or scale differs from the first layout's",
                        layout.key
                    )
                });
            }
        }
        // As much again for families that are left out, or not registered now.
        let most = max_samples.saturating_mul(2);
        for name in marks.forget_beyond(most) {
            reading.partial.insert(name.clone());
            reading.decode_errors.add(&name, reason::TOO_MANY, || {
                format!("more than {most} samples with those that are gone from Redis")
            });
        }
        reading
            .families
            .sort_unstable_by(|left, right| left.family.name.cmp(&right.family.name));
        if let Some(leases) = self.leases {
            reading.in_flight = leases.in_flight(&reading.families);
            reading.oldest_lease_age_seconds = self
                .lease_time_millis
                .map(|time| leases.oldest_age_seconds(time));
            // Where leases cannot be settled, the clock of this machine takes the place
            // of Redis's: it needs no further right in Redis.
            let time = self
                .lease_time_millis
                .unwrap_or_else(|| clock_millis().saturating_sub(self.state.shift_millis));
            reading.lease_overdue_seconds = Some(leases.overdue_seconds(time));
        }
        reading
    }
}

/// The contents of a store, for `fuzz/`.
#[cfg(any(test, fuzzing))]
#[derive(Debug)]
pub(crate) struct Contents {
    pub(crate) registrations: crate::scrape::registry::Registrations,
    /// The fields of the families' hashes, in order of the families.
    pub(crate) hashes: Vec<Vec<Pair>>,
    pub(crate) removals: Vec<(Removal, i64)>,
}

#[cfg(any(test, fuzzing))]
impl Contents {
    /// Reads the contents as a scrape does.
    pub(crate) fn read(&self, marks: &mut HighWaterMarks) -> Reading {
        let mut raw = RawReading::default();
        raw.state.epoch = Some("1".to_owned());
        raw.state.epoch_millis = Some(1);
        raw.removals.clone_from(&self.removals);
        let mut hashes = self.hashes.iter();
        let registrations = self.registrations.clone();
        for family in crate::scrape::registry::served_families(registrations, &mut raw.errors) {
            let layouts = family.layouts.iter().map(|layout| {
                let mut hash = HashReader::new(&layout.key, layout);
                hash.push(hashes.next().map_or(&[][..], Vec::as_slice), &mut raw);
                hash.finish()
            });
            let layouts = layouts.collect();
            raw.families.push((family.name, layouts));
        }
        marks.enter(raw.state.epoch.as_deref(), None);
        raw.into_reading(marks, 1_000_000, false)
    }
}
