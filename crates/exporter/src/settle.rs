//! Settles leases that have run out: at every read, so that what a scrape shows
//! is settled, and in between, so that crashes are counted and Redis's clock is
//! kept where nobody scrapes. Owns what a failure of it costs: never a scrape.

use std::{
    collections::HashSet,
    hash::{BuildHasher as _, RandomState},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use functional_scaffold_protocol::{
    calls::{Call, Script, Settled, settle_call, settled_from_reply},
    family::Kind,
};
use redis::{ErrorKind, RedisError, aio::MultiplexedConnection};
use tokio::time::{MissedTickBehavior, interval_at, timeout};

use crate::{
    connection::{Failure, Reason, Redis},
    found::read_registered,
    reader::Plan,
    registry::Registered,
    script,
    self_metrics::Totals,
};

/// Calls at a time, each of which looks at a hundred leases: Redis serves
/// others between two of them.
const MAX_CALLS: usize = 100;
/// Refused counts that are logged before the exporter is started again.
const MAX_LOGGED: usize = 100;

/// Settles, counts its failures, and logs them when they change.
pub struct Settler {
    prefix: String,
    totals: Arc<Totals>,
    // A std Mutex: it is never held across an await.
    log: Mutex<Log>,
}

#[derive(Default)]
struct Log {
    failing: Option<Reason>,
    refused: HashSet<String>,
}

impl Settler {
    /// Settles leases under `prefix`.
    #[must_use]
    pub fn new(prefix: &str, totals: Arc<Totals>) -> Self {
        Self {
            prefix: prefix.to_owned(),
            totals,
            log: Mutex::default(),
        }
    }

    /// Settles what has run out of what counts in `registered` counters.
    /// Nothing if that failed, which is counted and logged.
    pub async fn settle(
        &self,
        connection: &mut MultiplexedConnection,
        redis: &Redis,
        registered: &[Registered],
    ) -> Option<Settled> {
        let settled = self.call(connection, registered).await;
        let settled = settled.map_err(|error| redis.failure(&error));
        self.note(&settled);
        settled.ok()
    }

    async fn call(
        &self,
        connection: &mut MultiplexedConnection,
        registered: &[Registered],
    ) -> Result<Settled, RedisError> {
        let mut all: Option<Settled> = None;
        let mut skip = 0;
        for _ in 0..MAX_CALLS {
            let call = self.settle_call(skip, registered);
            let reply = script::call(connection, &Script::SETTLE, &call).await?;
            let mut settled = settled_from_reply(reply).map_err(|error| {
                RedisError::from((
                    ErrorKind::TypeError,
                    "the settle script answered something else",
                    error.to_string(),
                ))
            })?;
            let next_skip = settled.next_skip;
            if let Some(before) = all {
                settled.leases += before.leases;
                settled.refused.extend(before.refused);
            }
            all = Some(settled);
            match next_skip {
                Some(next) => skip = next,
                None => break,
            }
        }
        // It was called once at least.
        all.ok_or_else(|| RedisError::from((ErrorKind::ClientError, "nothing was called")))
    }

    /// Names the counters under the prefix only: the others are not the api
    /// component's, and one that this Redis user may not write, or of another
    /// cluster slot, would make Redis refuse the whole call.
    fn settle_call(&self, skip: u64, registered: &[Registered]) -> Call {
        let countable = registered
            .iter()
            .flat_map(|family| &family.layouts)
            .filter(|layout| layout.kind == Kind::Counter && layout.key.starts_with(&self.prefix))
            .map(|layout| layout.key.as_str());
        // Random enough: the keys are seeded by the system.
        let epoch = RandomState::new().hash_one(0);
        settle_call(&self.prefix, epoch, skip, countable)
    }

    fn note(&self, settled: &Result<Settled, Failure>) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        match settled {
            Ok(settled) => {
                if log.failing.take().is_some() {
                    tracing::info!("leases are settled again");
                }
                if settled.leases > 0 {
                    tracing::debug!(leases = settled.leases, "settled leases that ran out");
                }
                for text in &settled.refused {
                    if log.refused.len() < MAX_LOGGED && log.refused.insert(text.clone()) {
                        tracing::error!("count of a settled lease refused: {text}");
                    }
                }
            }
            Err(failure) => {
                self.totals.count_settle_failure(failure.reason);
                if log.failing.replace(failure.reason) != Some(failure.reason) {
                    tracing::warn!(
                        reason = failure.reason.label(),
                        "leases that run out cannot be settled: {failure}"
                    );
                }
            }
        }
    }
}

/// Settles every `pause`, for ever.
pub async fn settle_again_and_again(
    redis: Arc<Redis>,
    settler: Arc<Settler>,
    plan: Plan,
    pause: Duration,
) {
    let mut ticks = interval_at(tokio::time::Instant::now() + pause, pause);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let settling = redis.ask(|mut connection| {
            let (redis, settler, plan) = (&redis, &settler, &plan);
            async move {
                let registered = read_registered(connection.clone(), plan).await?;
                settler.settle(&mut connection, redis, &registered).await;
                Ok(())
            }
        });
        let settled = timeout(plan.limit, settling)
            .await
            .unwrap_or_else(|_elapsed| Err(Failure::timeout(plan.limit)));
        if let Err(failure) = settled {
            settler.note(&Err(failure));
        }
    }
}
