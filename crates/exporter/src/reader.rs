//! One read of every registered family and of the open leases, made what is to be
//! served. Owns how often Redis is read for it, over which connection; what is
//! kept between reads is [`crate::marks`]'s, and [`crate::offsets`]' in Redis.

use std::{path::PathBuf, sync::Arc, time::Duration};

use functional_scaffold_protocol::series::{FamilySeries, merge_layouts};
use redis::aio::MultiplexedConnection;
use tokio::time::{Instant, timeout_at};

use crate::{
    config::Config,
    connection::{Failure, Reason, Redis},
    found::{Found, State, read_once},
    marks::Marks,
    offences::{Offences, reason},
    offsets::{Added, OffsetWriter},
    settle::Settler,
    state_file::StateFile,
};

/// Reads of one scrape, of which each but the last added offsets: one more where
/// another reader was first, or writes were lost again.
const MAX_ROUNDS: usize = 3;

/// What Redis held.
#[derive(Debug, Default)]
pub struct Reading {
    /// What tells this store from another, if it says so.
    pub epoch: Option<String>,
    /// In order of their names.
    pub families: Vec<FamilySeries>,
    /// How many fields were read, corrupt ones and repeated ones included.
    pub cells: u64,
    /// What could not be served.
    pub offences: Offences,
    /// The executions in flight, where there are algorithms and the open
    /// leases can be read.
    pub in_flight: Option<FamilySeries>,
    /// The age of the oldest open lease, 0 without any. None where the open
    /// leases cannot be read or settled.
    pub oldest_lease_age_seconds: Option<f64>,
    /// When a batch was last stored, in milliseconds since 1970.
    pub flushed_millis: Option<i64>,
    /// Series that stepped back since the last read.
    pub regressions: u64,
}

/// What to read, and for how long.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What every key begins with.
    pub prefix: String,
    /// `COUNT` of each HSCAN.
    pub scan_count: u32,
    /// Longest time for the whole read.
    pub limit: Duration,
    /// Where what was served last is kept, if it is.
    pub state_file: Option<PathBuf>,
}

impl Plan {
    /// What the options say.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        Self {
            prefix: config.prefix.clone(),
            scan_count: config.scan_count,
            limit: config.scrape_timeout,
            state_file: config.state_file.clone(),
        }
    }
}

/// Reads Redis, and keeps what a read needs of those before it.
pub struct Reader {
    redis: Arc<Redis>,
    plan: Plan,
    settler: Arc<Settler>,
    offsets: OffsetWriter,
    marks: Marks,
    state_file: Option<StateFile>,
}

impl Reader {
    /// Has read nothing yet, and knows what is in the file, if there is one.
    #[must_use]
    pub fn new(redis: Arc<Redis>, settler: Arc<Settler>, plan: Plan) -> Self {
        let (state_file, marks) = plan.state_file.clone().map(StateFile::open).unzip();
        Self {
            redis,
            offsets: OffsetWriter::new(&plan.prefix),
            plan,
            settler,
            marks: marks.unwrap_or_default(),
            state_file,
        }
    }

    /// Settles leases that ran out and reads every registered family, over a
    /// kept connection if there is one.
    ///
    /// # Errors
    /// Redis cannot be read. A family, key or field that cannot be served is no
    /// error: it is among the reading's offences.
    pub async fn read(&mut self) -> Result<Reading, Failure> {
        let limit = self.plan.limit;
        let deadline = Instant::now() + limit;
        let redis = Arc::clone(&self.redis);
        let mut may_retry = true;
        loop {
            let lease = timeout_at(deadline, redis.lease())
                .await
                .unwrap_or_else(|_elapsed| Err(Failure::timeout(limit)))?;
            let reading = self.read_over(lease.connection.clone());
            let failure = match timeout_at(deadline, reading).await {
                Ok(Ok(reading)) => {
                    if let Some(file) = &mut self.state_file {
                        file.save(&self.marks).await;
                    }
                    return Ok(reading);
                }
                Ok(Err(failure)) => failure,
                Err(_elapsed) => Failure::timeout(limit),
            };
            // Also after a time-out: the connection may lead nowhere any more,
            // and TCP takes a quarter of an hour to say so.
            redis.discard(&lease).await;
            // Redis may have closed a kept connection since the last read, as it
            // does when it restarts: a new one tells whether it is there.
            if lease.fresh || failure.reason != Reason::Connection || !may_retry {
                return Err(failure);
            }
            may_retry = false;
        }
    }

    /// Reads, and again where offsets were added: what another reader found
    /// lost at the same time, and what was counted meanwhile, is then read.
    async fn read_over(
        &mut self,
        mut connection: MultiplexedConnection,
    ) -> Result<Reading, Failure> {
        let mut regressions = 0;
        for rounds_left in (0..MAX_ROUNDS).rev() {
            let found = read_once(
                &mut connection,
                &self.redis,
                &self.plan,
                &self.settler,
                &self.marks,
            )
            .await?;
            let State { epoch, offsets, .. } = found.state.clone();
            let mut reading = found.hold(&mut self.marks);
            regressions = reading.regressions.max(regressions);
            reading.regressions = regressions;
            let Some(epoch) = epoch.filter(|_| rounds_left > 0) else {
                return Ok(reading);
            };
            let Some(lost) = self.marks.hand_over() else {
                return Ok(reading);
            };
            let version = offsets.as_deref();
            let adding = self
                .offsets
                .add(&mut connection, &self.redis, &epoch, version, &lost);
            if adding.await? == Added::Refused {
                self.marks.keep();
                return Ok(reading);
            }
        }
        // The last round returns.
        Err(Failure::new(Reason::Internal, "nothing was read".into()))
    }
}

impl Found {
    /// Holds every series at its mark, and puts the layouts together. Marks
    /// are kept by layout: the bounds that layouts share may become fewer.
    fn hold(self, marks: &mut Marks) -> Reading {
        let mut reading = Reading {
            cells: self.cells,
            offences: self.offences,
            flushed_millis: self.state.flushed_millis,
            ..Reading::default()
        };
        marks.enter(self.state.epoch.as_deref());
        reading.epoch = self.state.epoch;
        marks.forget(&self.removals);
        for (name, mut layouts) in self.families {
            for layout in &mut layouts {
                reading.regressions += marks.hold(layout);
            }
            let (merged, refused) = merge_layouts(layouts);
            reading.families.extend(merged);
            for layout in refused {
                reading.offences.add(&name, reason::LAYOUT, || {
                    format!(
                        "layout with key {:?}: its type or scale is another",
                        layout.key
                    )
                });
            }
        }
        reading
            .families
            .sort_unstable_by(|left, right| left.family.name.cmp(&right.family.name));
        if let Some(leases) = self.leases {
            reading.in_flight = leases.in_flight(&reading.families);
            reading.oldest_lease_age_seconds = self
                .lease_time_millis
                .map(|time| leases.oldest_age_seconds(time));
        }
        reading
    }
}
