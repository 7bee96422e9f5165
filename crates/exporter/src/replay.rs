//! The command `replay`: stores batches that the service gave to its log. Owns
//! which are stored and what is reported; lines are [`crate::log_lines`]'s.
//!
//! A batch that is in the log in parts is stored whole, when the last of them has
//! come, or not at all: its id stands for all of it.
//!
//! A batch is stored once however often it is replayed, because Redis remembers
//! its id after it was stored, and those of its leases after they ran out. So a
//! batch that was given up longer than an hour ago is refused: what became of it
//! may be forgotten. Its age is judged by the clock of Redis, by which ids are
//! forgotten, against the line's time, which is of the service's clock.
//!
//! Redis remembers for longer than that hour, because what it remembers may be
//! older than the line: a batch is tried for a second or two before it goes to
//! the log, and a lease of an execution that was slower than its limit ran out
//! before it ended.

use std::{
    fmt,
    pin::pin,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use functional_scaffold_protocol::{
    batch::{Incomplete, Joiner, LoggedBatch, SentBatch},
    calls::{Applied, REMEMBERED_SECONDS, Script, applied_from_reply, apply_call},
    catalog::Catalog,
};
use redis::{RedisError, aio::MultiplexedConnection};
use tokio::time::{Instant, sleep};

use crate::{
    config::{Config, ReplayOptions},
    connection::{Failure, Redis},
    groups::Groups,
    labels::value,
    leases,
    log_lines::{Found, LogLine, batch_in, read_lines},
    script,
    serve::stop_signal,
};

/// Until this age a batch is replayed.
const MAX_AGE: Duration = Duration::from_secs(3600);
/// How far the clocks of the service and of Redis may differ.
const MARGIN: Duration = Duration::from_secs(60);
/// By how much an execution may exceed its limit and still be known to have
/// done so when it is replayed.
const MAX_EXCESS: Duration = Duration::from_secs(3500);
const _: () = assert!(
    MAX_AGE.as_secs() + MARGIN.as_secs() + MAX_EXCESS.as_secs() <= REMEMBERED_SECONDS,
    "what is replayed must be remembered"
);
/// The pause before Redis is asked again.
const BACKOFF: Duration = Duration::from_millis(200);

/// What became of the batches.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Stored now.
    pub applied: u64,
    /// Stored before; nothing changed.
    pub already_applied: u64,
    /// Refused for their age.
    pub too_old: u64,
    /// Lines that say they hold a batch and do not.
    pub unreadable: u64,
    /// Of which parts are missing; not stored.
    pub incomplete: u64,
    /// Not stored, as far as is known: the same again is safe.
    pub failed: u64,
    /// Increments of stored batches that Redis could not add.
    pub refused_increments: u64,
}

impl Report {
    /// Whether every batch is stored whole.
    #[must_use]
    pub fn all_stored(&self) -> bool {
        let not_stored = self.too_old + self.unreadable + self.incomplete + self.failed;
        not_stored + self.refused_increments == 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "applied: {}", self.applied)?;
        writeln!(out, "already applied: {}", self.already_applied)?;
        writeln!(out, "too old: {}", self.too_old)?;
        writeln!(out, "unreadable: {}", self.unreadable)?;
        writeln!(out, "incomplete: {}", self.incomplete)?;
        writeln!(out, "failed: {}", self.failed)?;
        writeln!(out, "refused increments: {}", self.refused_increments)
    }
}

/// Stores the batches of the files, or of standard input as they come. A
/// SIGTERM or SIGINT ends it like the end of the input.
///
/// # Errors
/// A file cannot be opened, or signals cannot be received.
pub async fn replay(config: Config, options: &ReplayOptions) -> anyhow::Result<Report> {
    let mut stop = pin!(stop_signal().context("cannot receive signals")?);
    let redis = Redis::new(&config).context("unusable address of Redis")?;
    let mut lines = read_lines(&options.files)?;
    let mut replayer = Replayer::new(redis, config.prefix, options);
    loop {
        let line = tokio::select! {
            line = lines.recv() => line,
            name = &mut stop => {
                tracing::warn!("stopping on {name}: later lines are not read");
                break;
            }
        };
        let Some(line) = line else { break };
        tokio::select! {
            () = replayer.replay_line(line) => {}
            name = &mut stop => {
                replayer.report.failed += 1;
                tracing::warn!("stopping on {name} while a batch is being stored");
                break;
            }
        }
    }
    replayer.report_incomplete();
    Ok(replayer.report)
}

struct Replayer {
    redis: Redis,
    prefix: String,
    catalog: Catalog,
    /// Where batches are put, if not into Redis.
    groups: Option<Groups>,
    force: bool,
    retry: Duration,
    /// Since when Redis has not answered.
    away_since: Option<Instant>,
    joiner: Joiner,
    report: Report,
}

enum Outcome {
    Stored(Vec<String>),
    Duplicate,
    TooOld(String),
    Unreadable(String),
}

impl Replayer {
    fn new(redis: Redis, prefix: String, options: &ReplayOptions) -> Self {
        let retry = Duration::from_secs(options.retry_seconds);
        Self {
            redis,
            catalog: Catalog::new(&prefix),
            prefix,
            groups: options.to.clone().map(|url| Groups::new(url, retry)),
            force: options.force,
            retry,
            away_since: None,
            joiner: Joiner::default(),
            report: Report::default(),
        }
    }

    async fn replay_line(&mut self, line: anyhow::Result<LogLine>) {
        let LogLine { place, text } = match line {
            Ok(line) => line,
            Err(error) => {
                self.report.failed += 1;
                tracing::error!("{error:#}");
                return;
            }
        };
        let outcome = match text.as_deref().map(batch_in) {
            Some(Ok(None)) => return,
            Some(Ok(Some(Found { time, part }))) => match self.joiner.push(part) {
                // The rest of it is still to come.
                Ok(None) => return,
                Ok(Some(logged)) => self.store(time, logged).await,
                Err(error) => Ok(Outcome::Unreadable(error.to_string())),
            },
            Some(Err(error)) => Ok(Outcome::Unreadable(format!("{error:#}"))),
            None => Ok(Outcome::Unreadable("the line is too long".into())),
        };
        match outcome {
            Ok(Outcome::Stored(refused)) => {
                self.report.applied += 1;
                self.report.refused_increments += refused.len() as u64;
                for text in refused {
                    tracing::error!("{place}: increment refused: {text}");
                }
            }
            Ok(Outcome::Duplicate) => self.report.already_applied += 1,
            Ok(Outcome::TooOld(why)) => {
                self.report.too_old += 1;
                tracing::error!("{place}: not replayed: {why}");
            }
            Ok(Outcome::Unreadable(why)) => {
                self.report.unreadable += 1;
                tracing::error!("{place}: unreadable: {why}");
            }
            Err(failure) => {
                self.report.failed += 1;
                tracing::error!("{place}: not stored: {failure}");
            }
        }
    }

    fn report_incomplete(&mut self) {
        for Incomplete { id, missing, of } in self.joiner.incomplete() {
            self.report.incomplete += 1;
            let id = String::from(id);
            tracing::error!(
                "{missing} of the {of} parts of batch {id} are missing: it is not stored; replay it with the whole log"
            );
        }
    }

    /// Increments go to Redis, a group's totals to the Pushgateway: each is
    /// counted twice, or not at all, in the other's place.
    /// Its time is that of the part which came last.
    async fn store(
        &mut self,
        time: Option<String>,
        logged: LoggedBatch,
    ) -> Result<Outcome, Failure> {
        match (&self.groups, &logged.group) {
            (None, None) => self.apply(time, logged.batch).await,
            (Some(groups), Some(path)) => {
                let totals = logged.batch.total();
                match groups.put(path, &totals, &self.catalog).await {
                    Ok(Ok(())) => Ok(Outcome::Stored(Vec::new())),
                    Ok(Err(error)) => Err(unexpected(error.to_string())),
                    Err(error) => Ok(Outcome::Unreadable(format!("{error:#}"))),
                }
            }
            (None, Some(_)) => Ok(Outcome::Unreadable(
                "it is a group of a Pushgateway's, which --to takes".into(),
            )),
            (Some(_), None) => Ok(Outcome::Unreadable(
                "it is increments for Redis, which --to does not take".into(),
            )),
        }
    }

    async fn apply(
        &mut self,
        time: Option<String>,
        mut batch: SentBatch,
    ) -> Result<Outcome, Failure> {
        if !self.force {
            let Some(time) = time.as_deref().and_then(given_up_at) else {
                return Ok(Outcome::Unreadable(
                    "the line has no time in RFC 3339".into(),
                ));
            };
            let now = self.insist(redis_time).await?;
            if let Some(why) = too_old(time, now) {
                return Ok(Outcome::TooOld(why));
            }
        }
        loop {
            let call = apply_call(&self.prefix, &batch);
            let reply = self
                .insist(|mut connection| {
                    let call = call.clone();
                    async move { script::call(&mut connection, &Script::APPLY, &call).await }
                })
                .await?;
            match applied_from_reply(reply) {
                Ok(Applied::Stored { refused, .. }) => return Ok(Outcome::Stored(refused)),
                Ok(Applied::Duplicate) => return Ok(Outcome::Duplicate),
                Ok(Applied::Late(ids)) => {
                    if remove_late(&self.catalog, &mut batch, &ids) == 0 {
                        return Err(unexpected(format!("late, but not in the batch: {ids:?}")));
                    }
                }
                Err(error) => return Err(unexpected(error.to_string())),
            }
        }
    }

    /// Asks until there is an answer, or Redis has been away for too long. A
    /// Redis that stays away is asked once for each further batch.
    async fn insist<T, F>(
        &mut self,
        mut command: impl FnMut(MultiplexedConnection) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, RedisError>>,
    {
        loop {
            let began = Instant::now();
            let failure = match self.redis.ask(&mut command).await {
                Ok(answer) => {
                    self.away_since = None;
                    return Ok(answer);
                }
                Err(failure) => failure,
            };
            if !failure.may_pass() {
                return Err(failure);
            }
            if self.away_since.is_none() {
                tracing::warn!("{failure}; trying again for {:?}", self.retry);
            }
            let since = *self.away_since.get_or_insert(began);
            if since.elapsed() + BACKOFF > self.retry {
                return Err(failure);
            }
            sleep(BACKOFF).await;
        }
    }
}

fn unexpected(text: String) -> Failure {
    Failure::new(crate::connection::Reason::Server, text)
}

/// Takes out the executions that are counted as crashed, and counts them as
/// late results. Gives how many there were.
fn remove_late(catalog: &Catalog, batch: &mut SentBatch, ids: &[String]) -> u64 {
    for leased in &batch.leased {
        if ids.contains(&leased.lease.id)
            && let Some(algorithm) = leases::algorithm(&leased.lease, &[])
        {
            catalog.record_late(&mut batch.increments, &value(algorithm), 1);
        }
    }
    batch.remove_late(ids)
}

async fn redis_time(mut connection: MultiplexedConnection) -> Result<SystemTime, RedisError> {
    let (seconds, micros): (u64, u64) = redis::cmd("TIME").query_async(&mut connection).await?;
    let since = Duration::from_secs(seconds).saturating_add(Duration::from_micros(micros));
    SystemTime::UNIX_EPOCH
        .checked_add(since)
        .ok_or_else(|| RedisError::from((redis::ErrorKind::TypeError, "TIME is out of range")))
}

fn given_up_at(time: &str) -> Option<SystemTime> {
    humantime::parse_rfc3339(time).ok()
}

fn too_old(time: SystemTime, now: SystemTime) -> Option<String> {
    match now.duration_since(time) {
        Ok(age) if age > MAX_AGE => Some(format!(
            "given up {} ago, and what became of it is only known for sure for {}; with --force it is stored, even if it was before",
            humantime::format_duration(Duration::from_secs(age.as_secs())),
            humantime::format_duration(MAX_AGE),
        )),
        Ok(_young) => None,
        Err(ahead) if ahead.duration() > MARGIN => Some(format!(
            "its time is {} ahead of Redis's clock, so that its age is not known; --force stores it",
            humantime::format_duration(Duration::from_secs(ahead.duration().as_secs())),
        )),
        Err(_little) => None,
    }
}

#[cfg(test)]
mod tests {
    use functional_scaffold_protocol::batch::{Batch, BatchId, LeasedExecution};
    use functional_scaffold_protocol::lease::Lease;

    use super::*;

    #[test]
    fn age_is_judged_with_a_margin_on_both_sides() {
        let at = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        for (time, now, refused) in [
            (10_000, 10_000, false),
            (10_000, 13_600, false),
            (10_000, 13_601, true),
            (10_000, 9_940, false),
            (10_000, 9_939, true),
        ] {
            let why = too_old(at(time), at(now));
            assert_eq!(why.is_some(), refused, "{time} {now}: {why:?}");
        }
    }

    #[test]
    fn late_results_are_counted_by_algorithm_in_the_place_of_what_they_add() {
        let catalog = Catalog::new("m:");
        let leased = |id: &str, algorithm: &str| {
            let mut increments = Batch::default();
            increments.inc("m:x", "", 1);
            let lease = Lease {
                id: id.into(),
                millis: 1,
                count: catalog.crash_cells(algorithm, "/invoke"),
            };
            LeasedExecution { lease, increments }
        };
        let mut batch = SentBatch {
            id: BatchId {
                started_at: 1,
                nonce: 2,
                sequence: 3,
            },
            increments: Batch::default(),
            leased: vec![leased("1", "a"), leased("2", "a"), leased("3", "b\"")],
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
