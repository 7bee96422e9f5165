//! Reads every store, and adds the shards up.
//!
//! A read of several shards takes time, in which a command may change all of them: a wipe,
//! or a removal of series. Such a command closes every shard before it changes the first,
//! and opens them after the last. A read looks at the state of every shard again at its
//! end. If one is closed, or has changed since it was read, everything is read again. So
//! no sum mixes shards from before and after.

use std::{mem, path::PathBuf, sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use crate::{
    redis_client::{Failure, Reason},
    scrape::{
        decode_errors::DecodeErrors,
        high_water::{HandOver, HighWaterMarks, LostCountsWriter, StateFile},
        pass::{RawReading, State, read_pass},
        reading::{Reading, Unread},
        store::Store,
        sum::sum,
    },
};

/// Passes of one read over everything in Redis. After lost counts are added to Redis,
/// another pass reads what other readers added and what was counted meanwhile.
const MAX_PASSES: usize = 3;
/// The pause before everything is read again.
const PAUSE: Duration = Duration::from_millis(20);

/// Reads Redis, and remembers what the next read needs.
pub(crate) struct Reader {
    shards: Vec<Shard>,
    timeout: Duration,
    state_file: Option<StateFile>,
    /// The epoch reported for the sum: that of one shard at the last reset of all.
    epoch: Option<String>,
    /// The number of series that stepped back since the last successful read.
    regressions: u64,
}

/// One store, and what is remembered of it.
struct Shard {
    store: Arc<Store>,
    marks: HighWaterMarks,
    lost_counts: LostCountsWriter,
}

impl Reader {
    /// Makes a reader of these stores, for reads of this duration at most. Restores the
    /// high-water marks from the state file, if there is one.
    pub(crate) fn new(
        stores: &[Arc<Store>],
        timeout: Duration,
        state_file: Option<PathBuf>,
    ) -> Self {
        let prefixes = stores.iter().map(|store| store.options.prefix.as_str());
        let state_file = state_file.map(|path| StateFile::open(path, prefixes));
        let (state_file, marks) = state_file.unzip();
        let mut marks = marks.unwrap_or_default().into_iter();
        let shards = stores.iter().map(|store| Shard {
            marks: marks.next().unwrap_or_default(),
            lost_counts: LostCountsWriter::new(&store.options.prefix),
            store: Arc::clone(store),
        });
        Self {
            shards: shards.collect(),
            timeout,
            state_file,
            epoch: None,
            regressions: 0,
        }
    }

    /// Settles expired leases and reads every registered family.
    pub(crate) async fn read(&mut self) -> Result<Reading, Unread> {
        let deadline = Instant::now() + self.timeout;
        let reading = self.read_until_stable(deadline).await?;
        if let Some(file) = &mut self.state_file {
            let shards = self.shards.iter();
            let stores = shards.map(|shard| (shard.store.options.prefix.as_str(), &shard.marks));
            file.save(stores).await;
        }
        Ok(reading)
    }

    /// Reads everything until there are no new lost counts, in [`MAX_PASSES`] at most.
    async fn read_until_stable(&mut self, deadline: Instant) -> Result<Reading, Unread> {
        let earlier = self.regressions;
        let mut passes_left = MAX_PASSES;
        loop {
            passes_left -= 1;
            let raw = self.read_consistently(deadline).await?;
            let states: Vec<_> = raw.iter().map(|raw| raw.state.clone()).collect();
            let mut reading = self.sum(raw);
            // A series that steps back in two passes of one read is counted once.
            self.regressions = self.regressions.max(earlier + reading.regressions);
            if passes_left == 0 || !self.hand_over(&states, deadline).await? {
                reading.regressions = mem::take(&mut self.regressions);
                return Ok(reading);
            }
        }
    }

    /// Makes a pass over every store, and repeats all of them until none has changed
    /// meanwhile.
    async fn read_consistently(&self, deadline: Instant) -> Result<Vec<RawReading>, Unread> {
        // Early enough for the reason to be served.
        let give_up = deadline - self.timeout / 4;
        loop {
            let passes = self.shards.iter().map(|shard| shard.read(deadline));
            let raw = all(self, join_all(passes).await)?;
            if raw.len() == 1 {
                return Ok(raw);
            }
            let states = self.shards.iter().map(|shard| shard.state(deadline));
            let states = all(self, join_all(states).await)?;
            let mut read = raw.iter().zip(&states);
            if read.all(|(raw, state)| state.closed.is_none() && state.is_same_as(&raw.state)) {
                return Ok(raw);
            }
            if Instant::now() >= give_up {
                let closed = states.iter().find_map(|state| state.closed.as_deref());
                return Err(changing(closed).into());
            }
            sleep(PAUSE).await;
        }
    }

    /// Applies the high-water marks of each shard, and adds the shards up.
    fn sum(&mut self, raw: Vec<RawReading>) -> Reading {
        let is_sharded = raw.len() > 1;
        let mut shards = self.shards.iter().zip(&raw);
        let any_is_wiped =
            shards.any(|(shard, raw)| shard.marks.is_new_wipe(raw.state.wiped.as_deref()));
        let mut is_reset = false;
        let shards = self.shards.iter_mut().zip(raw);
        let readings = shards.map(|(Shard { store, marks, .. }, raw)| {
            let State {
                epoch,
                version,
                wiped,
                ..
            } = &raw.state;
            let [epoch, version, wiped] = [epoch, version, wiped].map(Option::as_deref);
            // A wipe covers all shards. One that lost its data afterwards has no `wiped`.
            let was_wiped = marks.is_new_wipe(wiped) || (any_is_wiped && wiped.is_none());
            // A single store that lost everything is a counter reset, as after a wipe.
            if !is_sharded || was_wiped || marks.epoch().is_none() {
                is_reset |= marks.epoch() != epoch;
                marks.enter(epoch, version);
            } else {
                marks.continue_in(epoch, version);
            }
            marks.note_wipe(wiped);
            raw.into_reading(marks, store.options.max_samples, is_sharded)
        });
        let sum = sum(readings.collect());
        if is_reset || self.epoch.is_none() {
            self.epoch.clone_from(&sum.epoch);
        }
        Reading {
            epoch: self.epoch.clone(),
            ..sum
        }
    }

    /// Adds lost counts to those in Redis. Returns whether everything has to be read
    /// again.
    async fn hand_over(&mut self, states: &[State], deadline: Instant) -> Result<bool, Unread> {
        let shards = self.shards.iter_mut().zip(states);
        let handed_over = shards.map(|(shard, state)| shard.hand_over(state, deadline));
        let handed_over = join_all(handed_over).await;
        Ok(all(self, handed_over)?.contains(&true))
    }
}

/// The values of all stores, or the first failure.
fn all<T>(reader: &Reader, results: Vec<Result<T, Failure>>) -> Result<Vec<T>, Unread> {
    let up = results.iter().map(Result::is_ok).collect();
    let results = reader.shards.iter().zip(results);
    let named = results
        .map(|(shard, result)| result.map_err(|failure| failure.of_store(&shard.store.name())));
    let values: Result<Vec<T>, Failure> = named.collect();
    values.map_err(|failure| Unread { failure, up })
}

fn changing(closed: Option<&str>) -> Failure {
    let text = match closed {
        Some(by) => format!(
            "the shards are closed by {by}: it is running, or was interrupted and has to be run again"
        ),
        None => "the shards changed during the read".to_owned(),
    };
    Failure::new(Reason::Closed, text)
}

impl Shard {
    async fn read(&self, deadline: Instant) -> Result<RawReading, Failure> {
        let limit = deadline.saturating_duration_since(Instant::now());
        let mut shard = self;
        let reading = self
            .store
            .redis
            .run(limit, &mut shard, |shard, mut connection| {
                Box::pin(
                    async move { read_pass(&shard.store, &shard.marks, &mut connection).await },
                )
            });
        reading.await
    }

    async fn state(&self, deadline: Instant) -> Result<State, Failure> {
        let limit = deadline.saturating_duration_since(Instant::now());
        let mut shard = self;
        let state = self
            .store
            .redis
            .run(limit, &mut shard, |shard, mut connection| {
                Box::pin(async move {
                    // Its errors are those of the pass.
                    let errors = &mut DecodeErrors::default();
                    State::read(&mut connection, &shard.store.options, errors).await
                })
            });
        state.await
    }

    /// Adds lost counts to those in Redis, if there are any. Returns whether they may have
    /// been stored.
    async fn hand_over(&mut self, state: &State, deadline: Instant) -> Result<bool, Failure> {
        let Some(epoch) = &state.epoch else {
            return Ok(false);
        };
        let Some(lost) = self.marks.lost_counts() else {
            return Ok(false);
        };
        let limit = deadline.saturating_duration_since(Instant::now());
        let mut writer = (&mut self.lost_counts, epoch, &state.version, &lost);
        let redis = &self.store.redis;
        let adding = redis.run(limit, &mut writer, |writer, mut connection| {
            let (lost_counts, epoch, version, lost) = writer;
            Box::pin(async move {
                let version = version.as_deref();
                lost_counts.add(&mut connection, epoch, version, lost).await
            })
        });
        Ok(adding.await? == HandOver::Done)
    }
}
