//! The command `replay`: stores batches that the service wrote to its log.
//!
//! A log also holds what clients and algorithms say. So only lines that are signed with
//! the service's key are stored, and they add to registered families only, or to an app's
//! own that the batch itself registers: its writer had not reached Redis.
//!
//! A batch that is logged in parts is stored whole, when its last part has come, or not
//! at all: its id is the idempotency key of the whole batch.
//!
//! Redis remembers the ids of applied batches and settled leases, so a batch is stored
//! once, however often it is replayed. A batch that the service sent carries its lease
//! time, and the script refuses it if Redis may have forgotten its id. A batch that was
//! never sent has none, because its instance may not have reached Redis at all. Only
//! replays can have stored it, so it is refused if its line is more than an hour old, by
//! Redis's clock or this host's.
//!
//! Such a batch, and one that `--force` stores, gets the lease time of now, once for all
//! retries. If this host is suspended before it reads a reply, Redis may forget the id
//! meanwhile, and then the script refuses the retry.

use std::{
    collections::HashSet,
    fmt,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, anyhow};
use functional_scaffold_protocol::{
    batch::{Batch, BatchId, Incomplete, Joiner, LoggedBatch, SentBatch},
    calls::{
        ApplyReply, Call, REMEMBERED_SECONDS, Script, apply_call, apply_call_from_parts,
        families_key, is_own_key, key_in_force,
    },
    catalog::Catalog,
    custom::{custom_key, family_of_key},
    exposition::{Format, expose},
    family::Family,
    series::families_with_gauges,
};
use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep};

use crate::{
    cli::{Config, ReplayOptions, ReplayPolicy},
    commands::{
        log_lines::{Batches, Event, LoggedLine, Rejection},
        push::Group,
    },
    redis_client::{Connection, Failure, Reason},
    scrape::{
        decode_errors::DecodeErrors, labels::value, leases, registry::registered_families,
        self_metrics::is_own_name, store::Store,
    },
    server::stop_signal,
};

/// The age of its line from which a batch that was never sent is refused.
const MAX_AGE: Duration = Duration::from_secs(REMEMBERED_SECONDS / 2);
/// The greatest difference between the clock of the service and another one.
const MARGIN: Duration = Duration::from_secs(60);
/// The pause before a retry.
const BACKOFF: Duration = Duration::from_millis(200);
/// The longest pause, to which it grows where retries have no limit.
const MAX_BACKOFF: Duration = Duration::from_secs(3);
/// The time that a follower waits for the registration of an app's own family. If Redis lost
/// its data, the next instance that records into the family registers it again.
const REGISTRATION_PATIENCE: Duration = Duration::from_secs(300);

/// The summary at the end.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) applied: u64,
    pub(crate) already_applied: u64,
    pub(crate) too_old: u64,
    /// Lines with an invalid batch.
    pub(crate) unreadable: u64,
    /// Lines that may not be the service's, and batches with keys of other data.
    pub(crate) refused: u64,
    /// Batches with missing parts.
    pub(crate) incomplete: u64,
    /// Batches that are not stored, or not known to be. Replaying them again is safe.
    pub(crate) failed: u64,
    /// Executions that are left out of applied batches, because they are counted as
    /// crashed, or may be.
    late: u64,
    /// Increments of applied batches that Redis refused.
    refused_increments: u64,
}

impl Report {
    fn add_incomplete(&mut self, incomplete: Incomplete) {
        self.incomplete += 1;
        let Incomplete {
            id, missing, of, ..
        } = incomplete;
        let id = String::from(id);
        tracing::error!(
            "{missing} of the {of} parts of batch {id} are missing: it is not stored; replay it with the whole log"
        );
    }

    /// Whether every batch is stored whole.
    pub(crate) fn all_stored(&self) -> bool {
        let left_out = self.too_old + self.unreadable + self.refused;
        let failed = self.incomplete + self.failed;
        left_out + failed + self.late + self.refused_increments == 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "applied: {}", self.applied)?;
        writeln!(out, "already applied: {}", self.already_applied)?;
        writeln!(out, "too old: {}", self.too_old)?;
        writeln!(out, "unreadable: {}", self.unreadable)?;
        writeln!(out, "refused: {}", self.refused)?;
        writeln!(out, "incomplete: {}", self.incomplete)?;
        writeln!(out, "failed: {}", self.failed)?;
        writeln!(out, "late: {}", self.late)?;
        writeln!(out, "refused increments: {}", self.refused_increments)
    }
}

/// Stores the batches of the files, or of standard input as they come, until the input
/// ends, or a SIGTERM or SIGINT.
pub(crate) async fn replay(config: Config, options: &ReplayOptions) -> anyhow::Result<Report> {
    let mut stop = pin!(stop_signal().context("cannot receive signals")?);
    let mut replayer = Replayer::new(&config, options.policy.clone())?;
    let mut batches = Batches::read(&options.files, options.trust.check()?)?;
    let mut shown = 0;
    let stopped = loop {
        let event = tokio::select! {
            event = batches.next() => event,
            name = &mut stop => {
                tracing::warn!("stopping on {name}: later lines are not read");
                break true;
            }
        };
        match event {
            None => break false,
            Some(Event::Rejected(place, why)) => {
                shown += 1;
                tracing::error!("{place}: {why}");
            }
            Some(Event::Batch(place, line)) => tokio::select! {
                _ = replayer.replay_line(&place, line) => {}
                name = &mut stop => {
                    replayer.report.failed += 1;
                    tracing::warn!("stopping on {name} while a batch is being stored");
                    break true;
                }
            },
        }
    };
    let waiting = batches.waiting();
    if stopped && waiting > 0 {
        replayer.report.failed += waiting;
        tracing::error!("{waiting} batches that were read are not stored: replay them again");
    }
    replayer.report_incomplete();
    let mut report = replayer.report;
    let rejected = batches.rejected();
    let counts = [&rejected.unreadable, &rejected.refused, &rejected.failed];
    let counts = counts.map(|count| count.load(Ordering::Relaxed));
    if let hidden @ 1.. = counts.iter().sum::<u64>().saturating_sub(shown) {
        tracing::error!("{hidden} more lines were left out, too many to be named");
    }
    report.unreadable += counts[0];
    report.refused += counts[1];
    report.failed += counts[2];
    Ok(report)
}

/// Stores batches one after the other.
pub(crate) struct Replayer {
    stores: Vec<BatchStore>,
    options: ReplayPolicy,
    /// The service's families in a Pushgateway.
    catalog: Catalog,
    joiner: Joiner,
    /// The batch that made room for the parts of others last.
    pub(crate) given_up: Option<BatchId>,
    pub(crate) report: Report,
}

/// Stores the batches of one store.
struct BatchStore {
    store: Arc<Store>,
    catalog: Catalog,
    /// The keys of the service's families, and of the registered ones that were read.
    keys: HashSet<String>,
    options: ReplayPolicy,
    /// Since when Redis has been unavailable.
    down_since: Option<Instant>,
    /// Since when an app's own families have been missing in Redis.
    unregistered_since: Option<Instant>,
}

enum Stored {
    Now {
        /// Ids of the leases of executions that are left out.
        late: Vec<String>,
        refused: Vec<String>,
    },
    Before,
}

/// Why a batch is not stored.
enum NotStored {
    TooOld(String),
    Rejected(Rejection),
}

impl NotStored {
    fn unreadable(why: impl Into<anyhow::Error>) -> Self {
        Self::Rejected(Rejection::Unreadable(why.into()))
    }

    fn refused(why: String) -> Self {
        Self::Rejected(Rejection::Refused(why))
    }

    fn failed(why: impl Into<String>) -> Self {
        Self::Rejected(Rejection::Failed(why.into()))
    }
}

impl From<Failure> for NotStored {
    fn from(failure: Failure) -> Self {
        Self::failed(failure.to_string())
    }
}

impl Replayer {
    pub(crate) fn new(config: &Config, options: ReplayPolicy) -> anyhow::Result<Self> {
        let stores = Store::all(config, &Arc::default())?.into_iter();
        let stores = stores.map(|store| BatchStore::new(store, options.clone()));
        Ok(Self {
            stores: stores.collect(),
            options,
            catalog: Catalog::new(&config.prefix),
            joiner: Joiner::default(),
            given_up: None,
            report: Report::default(),
        })
    }

    /// Stores the batch that is complete with this line. Returns whether the line is a
    /// part that waits for others.
    pub(crate) async fn replay_line(&mut self, place: &str, line: LoggedLine) -> bool {
        let report = match self.store_line(line).await {
            Ok(None) => return true,
            Ok(Some(Stored::Now { late, refused })) => {
                if !late.is_empty() {
                    self.report.late += late.len() as u64;
                    tracing::error!(
                        "{place}: {} executions are late: they are left out, because they are counted as crashed, or may be: {late:?}",
                        late.len()
                    );
                }
                self.report.refused_increments += refused.len() as u64;
                for text in refused {
                    tracing::error!("{place}: increment refused: {text}");
                }
                &mut self.report.applied
            }
            Ok(Some(Stored::Before)) => &mut self.report.already_applied,
            Err(NotStored::TooOld(why)) => {
                tracing::error!("{place}: not replayed: {why}");
                &mut self.report.too_old
            }
            Err(NotStored::Rejected(why)) => {
                tracing::error!("{place}: {why}");
                match why {
                    Rejection::Unreadable(_) => &mut self.report.unreadable,
                    Rejection::Refused(_) => &mut self.report.refused,
                    Rejection::Failed(_) => &mut self.report.failed,
                }
            }
        };
        *report += 1;
        false
    }

    /// Stops waiting for the missing parts of a batch, and reports it unless it is stored.
    pub(crate) async fn give_up(&mut self, id: &BatchId) {
        let Some(incomplete) = self.joiner.remove(id) else {
            return;
        };
        let store = self.store(incomplete.shard);
        let is_stored = match store {
            Ok(store) => store
                .lease_time_unless_stored(id)
                .await
                .is_ok_and(|time| time.is_none()),
            Err(_) => false,
        };
        match is_stored {
            true => self.report.already_applied += 1,
            false => self.report.add_incomplete(incomplete),
        }
    }

    /// The store of a shard's batches.
    fn store(&mut self, shard: Option<u32>) -> Result<&mut BatchStore, NotStored> {
        let number = self.stores.len();
        let mut stores = self.stores.iter_mut();
        let found = stores.find(|known| known.store.shard == shard);
        found.ok_or_else(|| {
            NotStored::refused(match shard {
                Some(shard) => format!(
                    "its shard is {shard}, which is beyond METRICS_SHARDS: set it to the number of shards that the app has"
                ),
                None => format!(
                    "it names no shard, and METRICS_SHARDS is {number}: replay it without METRICS_SHARDS"
                ),
            })
        })
    }

    /// Stores the batch that is complete with this line, if there is one.
    async fn store_line(&mut self, line: LoggedLine) -> Result<Option<Stored>, NotStored> {
        let LoggedLine { time, part } = line;
        let batch = self.joiner.push(part);
        if let Some(incomplete) = self.joiner.give_up() {
            self.given_up = Some(incomplete.id.clone());
            self.report.add_incomplete(incomplete);
        }
        let Some(logged) = batch.map_err(NotStored::unreadable)? else {
            return Ok(None);
        };
        let LoggedBatch {
            batch,
            group,
            shard,
        } = logged;
        // Totals of a group in Redis, or increments in a Pushgateway, would be counted
        // twice or not at all.
        match (&self.options.to, group) {
            (None, None) => self.store(shard)?.apply(time, batch).await.map(Some),
            (Some(url), Some(path)) => {
                self.restore_group(url, &path, &batch).await?;
                Ok(Some(Stored::Now {
                    late: Vec::new(),
                    refused: Vec::new(),
                }))
            }
            (None, Some(_)) => Err(NotStored::unreadable(anyhow!(
                "it is a group of a Pushgateway, which needs --to"
            ))),
            (Some(_), None) => Err(NotStored::unreadable(anyhow!(
                "it has increments for Redis, which --to does not accept"
            ))),
        }
    }

    fn report_incomplete(&mut self) {
        for incomplete in self.joiner.incomplete() {
            self.report.add_incomplete(incomplete);
        }
    }

    /// Puts the totals of a group back into the Pushgateway at `url`. Doing so again
    /// changes nothing, so the age does not matter.
    async fn restore_group(
        &self,
        url: &str,
        path: &str,
        batch: &SentBatch,
    ) -> Result<(), NotStored> {
        let retry = Duration::from_secs(self.options.retry_seconds);
        let prepare = || -> anyhow::Result<_> {
            let custom = batch.custom.families()?;
            let families: Vec<_> = self.catalog.families().into_iter().chain(&custom).collect();
            let families = families_with_gauges(&families, &batch.total(), &batch.custom.gauges)?;
            Ok((Group::at(url, path)?, expose(Format::Text, &families)))
        };
        let (group, exposition) = prepare().map_err(NotStored::unreadable)?;
        let exposition = exposition.into();
        let started = Instant::now();
        loop {
            match group.put(&exposition).await {
                Ok(()) => return Ok(()),
                Err(error) if error.is_transient() && started.elapsed() + BACKOFF < retry => {
                    sleep(BACKOFF).await;
                }
                Err(error) => return Err(NotStored::failed(error.to_string())),
            }
        }
    }
}

impl BatchStore {
    fn new(store: Arc<Store>, options: ReplayPolicy) -> Self {
        let catalog = Catalog::new(&store.options.prefix);
        let families = catalog.families().into_iter();
        Self {
            keys: families.map(|family| family.key.clone()).collect(),
            catalog,
            store,
            options,
            down_since: None,
            unregistered_since: None,
        }
    }

    /// Applies a batch in Redis. `time` is that of the part that came last.
    async fn apply(
        &mut self,
        time: Option<String>,
        mut batch: SentBatch,
    ) -> Result<Stored, NotStored> {
        let has_time = batch.frozen_ms.is_some();
        let line_time = if has_time || self.options.force {
            None
        } else {
            let time = time.as_deref().map(humantime::parse_rfc3339);
            let missing = || NotStored::unreadable(anyhow!("the line has no time in RFC 3339"));
            Some(time.and_then(Result::ok).ok_or_else(missing)?)
        };
        let families = self.families_of(&batch)?;
        if self.wait_for_keys(&batch, &families, line_time).await? {
            return Ok(Stored::Before);
        }
        if !has_time || self.options.force {
            let Some(lease_time_millis) = self.lease_time_unless_stored(&batch.id).await? else {
                return Ok(Stored::Before);
            };
            batch.frozen_ms = Some(lease_time_millis);
        }
        // Not before lease time is known: this host may be suspended in between, and the
        // line too old by then.
        if let Some(time) = line_time {
            self.check_age(time).await?;
        }
        self.register(&families, &mut batch).await?;
        let mut late = Vec::new();
        loop {
            match self
                .send(apply_call(&self.store.options.prefix, &batch))
                .await?
            {
                ApplyReply::Stored { refused, .. } => return Ok(Stored::Now { late, refused }),
                ApplyReply::Duplicate if late.is_empty() => return Ok(Stored::Before),
                // Redis did not know the id when it replied `late`. So this is a retry,
                // and the first reply was lost.
                ApplyReply::Duplicate => {
                    let refused = Vec::new();
                    return Ok(Stored::Now { late, refused });
                }
                ApplyReply::Late(ids) => {
                    if remove_late(&self.catalog, &mut batch, &ids) == 0 {
                        let why = format!("late, but not in the batch: {ids:?}");
                        return Err(NotStored::failed(why));
                    }
                    late.extend(ids);
                }
                ApplyReply::TooOld { lease_time_millis } => {
                    let why = refused(batch.frozen_ms.unwrap_or_default(), lease_time_millis);
                    return Err(NotStored::TooOld(why));
                }
            }
        }
    }

    /// Returns lease time in milliseconds, or `None` if a batch with this id is stored.
    ///
    /// The script looks for the id first. A call that is far too old changes nothing, and
    /// its reply has lease time.
    async fn lease_time_unless_stored(&mut self, id: &BatchId) -> Result<Option<i64>, NotStored> {
        let nothing = Batch::default();
        let call = apply_call_from_parts(
            &self.store.options.prefix,
            id,
            i64::MIN,
            [].iter(),
            &nothing,
        );
        match self.send(call).await? {
            ApplyReply::TooOld { lease_time_millis } => Ok(Some(lease_time_millis)),
            ApplyReply::Duplicate => Ok(None),
            other => Err(NotStored::failed(format!("unexpected reply {other:?}"))),
        }
    }

    async fn send(&mut self, mut call: Call) -> Result<ApplyReply, NotStored> {
        let reply = self.retry_until(&mut call, |call, mut connection| {
            Box::pin(async move { connection.call(&Script::APPLY, call).await })
        });
        ApplyReply::decode(reply.await?).map_err(|error| NotStored::failed(error.to_string()))
    }

    /// Refuses a batch whose line has this time, if it is too old.
    async fn check_age(&mut self, time: SystemTime) -> Result<(), NotStored> {
        let now = self
            .retry_until(&mut (), |(), connection| Box::pin(redis_time(connection)))
            .await?;
        let by_redis = too_old(time, now, "Redis's");
        let why = by_redis.or_else(|| too_old(time, SystemTime::now(), "this host's"));
        why.map_or(Ok(()), |why| Err(NotStored::TooOld(why)))
    }

    /// Decodes the families that a batch registers. Refuses those that are not an app's own.
    fn families_of(&self, batch: &SentBatch) -> Result<Vec<Family>, NotStored> {
        let families = batch.custom.families().map_err(NotStored::unreadable)?;
        for Family { name, key, .. } in &families {
            let is_reserved = name.starts_with("functional_scaffold_")
                || is_own_name(name)
                || self.catalog.family(name).is_some();
            if is_reserved || family_of_key(&self.store.options.prefix, key) != Some(name) {
                return Err(NotStored::refused(format!(
                    "it registers {name:?} with the key {key:?}, which is not an app's own family under {:?}",
                    self.store.options.prefix
                )));
            }
        }
        Ok(families)
    }

    /// Registers families as the writer of the batch would have, and moves what it adds to
    /// the hashes of their layouts.
    async fn register(
        &mut self,
        families: &[Family],
        batch: &mut SentBatch,
    ) -> Result<(), NotStored> {
        for logged in families {
            let ours = Family {
                key: custom_key(&self.store.options.prefix, &logged.name),
                ..logged.clone()
            };
            let in_force = self.register_as(&ours.name, &ours).await?;
            let key = match key_in_force(&self.store.options.prefix, &ours, &in_force) {
                Some(key) => key,
                None => {
                    let (field, own) = ours.with_own_key();
                    self.register_as(&field, &own).await?;
                    own.key
                }
            };
            batch.rename_key(&logged.key, &key);
        }
        Ok(())
    }

    /// Registers a family under a field. Returns the registration in force.
    async fn register_as(&mut self, field: &str, family: &Family) -> Result<String, Failure> {
        let key = families_key(&self.store.options.prefix);
        let mut arguments = (key, field.to_owned(), family.encode());
        let in_force: Vec<u8> = self
            .retry_until(&mut arguments, |(key, field, json), mut connection| {
                Box::pin(async move {
                    let mut set = redis::cmd("HSETNX");
                    set.arg(&*key).arg(&*field).arg(&*json);
                    connection.query::<()>(&set).await?;
                    let mut get = redis::cmd("HGET");
                    get.arg(&*key).arg(&*field);
                    connection.query(&get).await
                })
            })
            .await?;
        Ok(String::from_utf8_lossy(&in_force).into_owned())
    }

    /// Refuses writes to anything but families: to the protocol's own keys, and data of
    /// others. `registered` are those that the batch registers itself. A follower waits until
    /// others are registered, but not for a batch that is stored (then this returns true) or
    /// too old: its line may have been repeated.
    async fn wait_for_keys(
        &mut self,
        batch: &SentBatch,
        registered: &[Family],
        line_time: Option<SystemTime>,
    ) -> Result<bool, NotStored> {
        let total = batch.total();
        let foreign = |keys: &HashSet<String>| {
            let gauges = batch.custom.gauges.cells().map(|(key, _, _)| key);
            let mut written = total.hashes().map(|(key, _)| key).chain(gauges);
            let is_known =
                |key: &str| keys.contains(key) || registered.iter().any(|family| family.key == key);
            written.find(|key| !is_known(key)).map(str::to_owned)
        };
        while foreign(&self.keys).is_some() {
            self.read_keys().await?;
            let Some(key) = foreign(&self.keys) else {
                self.unregistered_since = None;
                break;
            };
            if self.options.is_endless && self.is_stored(batch, line_time).await? {
                return Ok(true);
            }
            if !self.waits_for_registration(&key) {
                let prefix = &self.store.options.prefix;
                return Err(NotStored::refused(format!(
                    "no family that is registered under {prefix:?} has the key {key:?}"
                )));
            }
            sleep(MAX_BACKOFF).await;
        }
        Ok(false)
    }

    /// Returns whether a batch is stored. Refuses one that is too old to be, as the script
    /// does.
    async fn is_stored(
        &mut self,
        batch: &SentBatch,
        line_time: Option<SystemTime>,
    ) -> Result<bool, NotStored> {
        let Some(now_ms) = self.lease_time_unless_stored(&batch.id).await? else {
            return Ok(true);
        };
        if let Some(frozen_ms) = batch.frozen_ms
            && u128::from(now_ms.abs_diff(frozen_ms)) > MAX_AGE.as_millis()
        {
            return Err(NotStored::TooOld(refused(frozen_ms, now_ms)));
        }
        if let Some(time) = line_time {
            self.check_age(time).await?;
        }
        Ok(false)
    }

    /// Adds the keys of the families that are registered.
    async fn read_keys(&mut self) -> Result<(), Failure> {
        let mut options = self.store.options.clone();
        let read = self.retry_until(&mut options, |options, connection| {
            Box::pin(async move {
                let mut errors = DecodeErrors::default();
                registered_families(&connection, options, &mut errors).await
            })
        });
        let families = read.await?.families.into_iter();
        let layouts = families.flat_map(|family| family.layouts);
        let keys = layouts.map(|layout| layout.key);
        let prefix = &self.store.options.prefix;
        self.keys
            .extend(keys.filter(|key| !is_own_key(prefix, key)));
        Ok(())
    }

    /// Returns true while a follower should wait for the registration of an unknown key.
    /// All keys share the time, so that removed families do not delay it once each.
    fn waits_for_registration(&mut self, key: &str) -> bool {
        if !self.options.is_endless || family_of_key(&self.store.options.prefix, key).is_none() {
            return false;
        }
        let since = self.unregistered_since;
        let since = since.filter(|since| since.elapsed() < MAX_AGE);
        if since.is_none() {
            tracing::warn!(
                "no family with the key {key:?} is registered; waiting {REGISTRATION_PATIENCE:?} for an instance to register it"
            );
        }
        let since = since.unwrap_or_else(Instant::now);
        self.unregistered_since = Some(since);
        since.elapsed() < REGISTRATION_PATIENCE
    }

    /// Runs commands until they succeed, or Redis has been unavailable for the time of
    /// `--retry-seconds`. From then on, each further batch gets one attempt.
    ///
    /// A follower never gives up: every failure of Redis can be repaired, and the log
    /// keeps the batch meanwhile.
    async fn retry_until<S: Send, T>(
        &mut self,
        state: &mut S,
        commands: impl Fn(&mut S, Connection) -> BoxFuture<'_, Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let retry = Duration::from_secs(self.options.retry_seconds);
        let mut pause = BACKOFF;
        loop {
            let started = Instant::now();
            let redis = &self.store.redis;
            let limit = 2 * redis.round_trip_limit();
            let failure = match redis.run(limit, state, &commands).await {
                Ok(value) => {
                    self.down_since = None;
                    return Ok(value);
                }
                Err(failure) => failure,
            };
            if self.options.is_endless {
                if self.down_since.is_none() {
                    tracing::warn!("{failure}; trying again until it works");
                }
                self.down_since.get_or_insert(started);
                sleep(pause).await;
                pause = MAX_BACKOFF.min(2 * pause);
                continue;
            }
            if !failure.is_transient() {
                return Err(failure);
            }
            if self.down_since.is_none() {
                tracing::warn!("{failure}; trying again for {retry:?}");
            }
            let since = *self.down_since.get_or_insert(started);
            if since.elapsed() + BACKOFF > retry {
                return Err(failure);
            }
            sleep(BACKOFF).await;
        }
    }
}

/// Removes executions that are already counted as crashed from a batch, and counts them
/// as late results. Returns how many there were.
fn remove_late(catalog: &Catalog, batch: &mut SentBatch, ids: &[String]) -> u64 {
    for leased in &batch.leased {
        if ids.contains(&leased.lease.id) {
            // The lease of a request without an algorithm has none.
            let algorithm = leases::algorithm(&leased.lease, &[]).unwrap_or_default();
            catalog.record_late(&mut batch.increments, &value(algorithm), 1);
        }
    }
    batch.remove_late(ids)
}

async fn redis_time(mut connection: Connection) -> Result<SystemTime, Failure> {
    let (seconds, micros): (u64, u64) = connection.query(&redis::cmd("TIME")).await?;
    let since = Duration::from_secs(seconds).saturating_add(Duration::from_micros(micros));
    SystemTime::UNIX_EPOCH
        .checked_add(since)
        .ok_or_else(|| Failure::new(Reason::Server, "TIME is out of range"))
}

/// Why a batch whose line has this time is not replayed when a clock says `now`.
fn too_old(time: SystemTime, now: SystemTime, clock: &str) -> Option<String> {
    match now.duration_since(time) {
        Ok(age) if age > MAX_AGE => Some(format!(
            "logged {} ago by {clock} clock, and Redis surely remembers only {}; --force stores it, even if it was stored before",
            humantime::format_duration(Duration::from_secs(age.as_secs())),
            humantime::format_duration(MAX_AGE),
        )),
        Ok(_young) => None,
        Err(ahead) if ahead.duration() > MARGIN => Some(format!(
            "its time is {} ahead of {clock} clock, so that its age is unknown; --force stores it, even if it was stored before",
            humantime::format_duration(Duration::from_secs(ahead.duration().as_secs())),
        )),
        Err(_within_margin) => None,
    }
}

/// Why the script refused a batch that was frozen at this lease time.
fn refused(frozen_ms: i64, now_ms: i64) -> String {
    let age = now_ms.saturating_sub(frozen_ms);
    let seconds = Duration::from_secs(age.unsigned_abs() / 1000);
    let when = if age < 0 { "ahead" } else { "ago" };
    format!(
        "frozen {} {when} in lease time, and Redis surely remembers only {}; --force stores it, even if it was stored before",
        humantime::format_duration(seconds),
        humantime::format_duration(MAX_AGE),
    )
}

#[cfg(test)]
mod tests {
    use functional_scaffold_protocol::{
        batch::LeasedExecution, catalog::RouteLabels, custom::CustomWrites, lease::Lease,
    };

    use super::*;

    #[test]
    fn the_age_has_a_margin_on_both_sides() {
        let at = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        for (time, now, refused) in [
            (10_000, 10_000, false),
            (10_000, 13_600, false),
            (10_000, 13_601, true),
            (10_000, 9_940, false),
            (10_000, 9_939, true),
        ] {
            let why = too_old(at(time), at(now), "a");
            assert_eq!(why.is_some(), refused, "{time} {now}: {why:?}");
        }
    }

    #[test]
    fn late_results_are_counted_by_algorithm_instead_of_their_increments() {
        let catalog = Catalog::new("m:");
        let leased = |id: &str, algorithm: &str| {
            let mut increments = Batch::default();
            increments.inc("m:x", "", 1);
            let lease = Lease {
                id: id.into(),
                millis: 1,
                count: catalog.crash_cells(algorithm, RouteLabels::new("POST", "/invoke")),
            };
            LeasedExecution {
                lease,
                due_ms: 1,
                increments,
            }
        };
        let mut batch = SentBatch {
            id: BatchId {
                nonce: 2,
                sequence: 3,
            },
            frozen_ms: None,
            increments: Batch::default(),
            leased: vec![leased("1", "a"), leased("2", "a"), leased("3", "b\"")],
            custom: CustomWrites::default(),
        };
        let ids = ["1", "3", "9"].map(str::to_owned);
        assert_eq!(remove_late(&catalog, &mut batch, &ids), 2);
        let total = batch.total();
        let cells: Vec<_> = total.cells().collect();
        assert_eq!(
            cells,
            [
                ("m:late_counter", "algorithm=\"a\"", 1),
                ("m:late_counter", "algorithm=\"b\\\"\"", 1),
                ("m:x", "", 1)
            ]
        );
    }
}
