//! One read of every registered family and of the open leases. Owns the order
//! of the steps and what one bad key or field costs (itself); what is kept
//! between reads is [`crate::marks`]'s.

use std::{sync::Arc, time::Duration};

use functional_scaffold_schema::{
    cell::{CellError, decode_value},
    protocol::{Settled, families_key, leases_key, state_key},
    removal::{Removed, removed_key},
    series::{FamilySeries, SeriesReader, merge_layouts},
};
use redis::{RedisError, aio::MultiplexedConnection};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout_at},
};

use crate::{
    connection::{Failure, Reason, Redis},
    leases::{EXECUTIONS, OpenLeases},
    marks::Marks,
    offences::{LEASES, Offences, REGISTRY, REMOVED, STATE, reason},
    registry::{self, Registered},
    scan::{ScanError, Scanner},
    settle::Settler,
};

/// What Redis held.
#[derive(Debug, Default)]
pub struct Reading {
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
}

/// Settles leases that ran out and reads every registered family, over a kept
/// connection if there is one.
///
/// # Errors
/// Redis cannot be read. A family, key or field that cannot be served is no
/// error: it is among the reading's offences.
pub async fn read(
    redis: &Redis,
    plan: &Plan,
    settler: &Settler,
    marks: &mut Marks,
) -> Result<Reading, Failure> {
    let deadline = Instant::now() + plan.limit;
    let mut may_retry = true;
    loop {
        let lease = timeout_at(deadline, redis.lease())
            .await
            .unwrap_or_else(|_elapsed| Err(Failure::timeout(plan.limit)))?;
        let seen = marks.removals();
        let reading = read_over(lease.connection.clone(), redis, plan, settler, seen);
        let failure = match timeout_at(deadline, reading).await {
            Ok(Ok(found)) => return Ok(found.hold(marks)),
            Ok(Err(failure)) => failure,
            Err(_elapsed) => Failure::timeout(plan.limit),
        };
        // Also after a time-out: the connection may lead nowhere any more, and
        // TCP takes a quarter of an hour to say so.
        redis.discard(&lease).await;
        // Redis may have closed a kept connection since the last read, as it
        // does when it restarts: a new one tells whether it is there.
        if lease.fresh || failure.reason != Reason::Connection || !may_retry {
            return Err(failure);
        }
        may_retry = false;
    }
}

/// What was read, before the layouts of each family are put together.
#[derive(Default)]
struct Found {
    /// Each family's name and layouts.
    families: Vec<(String, Vec<FamilySeries>)>,
    cells: u64,
    leases: Option<OpenLeases>,
    /// The time that the leases' scores are compared with, if any are settled.
    lease_time_millis: Option<i64>,
    state: State,
    /// What was removed since the last read, with its number.
    removals: Vec<(Removed, i64)>,
    offences: Offences,
}

/// What is kept of the store as a whole.
#[derive(Debug, Default, PartialEq, Eq)]
struct State {
    epoch: Option<String>,
    flushed_millis: Option<i64>,
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

/// Reads until the epoch was the same before and after: what was read of two
/// stores together means nothing.
async fn read_over(
    mut connection: MultiplexedConnection,
    redis: &Redis,
    plan: &Plan,
    settler: &Settler,
    seen: i64,
) -> Result<Found, Failure> {
    loop {
        let mut found = Found::default();
        // Before the hashes; see `Marks::forget`.
        found.removals = removals(&mut connection, plan, seen, &mut found.offences)
            .await
            .map_err(|error| redis.failure(&error))?;
        let registered = registered(connection.clone(), plan, &mut found.offences)
            .await
            .map_err(|error| redis.failure(&error))?;
        let settled = settler.settle(&mut connection, redis, &registered).await;
        found.lease_time_millis = settled.as_ref().map(|settled| settled.lease_time_millis);
        let epoch = match settled {
            Some(Settled { epoch, .. }) => Some(epoch),
            // What is said of the state's key is said after the families.
            None => {
                state(&mut connection, plan, &mut Offences::default())
                    .await
                    .map_err(|error| redis.failure(&error))?
                    .epoch
            }
        };
        read_families(&connection, redis, plan, registered, &mut found).await?;
        found.state = state(&mut connection, plan, &mut found.offences)
            .await
            .map_err(|error| redis.failure(&error))?;
        if found.state.epoch == epoch {
            return Ok(found);
        }
    }
}

/// Reads the registrations alone; what is wrong with them is left to a scrape.
///
/// # Errors
/// Redis cannot be read.
pub async fn read_registered(
    connection: MultiplexedConnection,
    plan: &Plan,
) -> Result<Vec<Registered>, RedisError> {
    registered(connection, plan, &mut Offences::default()).await
}

async fn registered(
    connection: MultiplexedConnection,
    plan: &Plan,
    offences: &mut Offences,
) -> Result<Vec<Registered>, RedisError> {
    let mut registrations = Vec::new();
    let scanned = Scanner::new(connection, plan.scan_count)
        .scan(&families_key(&plan.prefix), |field, json| {
            registrations.push((field.to_vec(), json.to_vec()));
        })
        .await;
    readable(scanned, REGISTRY, offences)?;
    Ok(registry::families(registrations, offences))
}

async fn state(
    connection: &mut MultiplexedConnection,
    plan: &Plan,
    offences: &mut Offences,
) -> Result<State, RedisError> {
    let key = state_key(&plan.prefix);
    let read: Result<[Option<Vec<u8>>; 2], RedisError> = redis::cmd("HMGET")
        .arg(&key)
        .arg(&["epoch", "flushed_ms"])
        .query_async(connection)
        .await;
    let read = read.map_err(|error| ScanError::of(error, &key));
    let Some(fields) = readable(read, STATE, offences)? else {
        return Ok(State::default());
    };
    let [epoch, flushed] =
        fields.map(|field| field.map(|text| String::from_utf8_lossy(&text).into_owned()));
    Ok(State {
        epoch,
        flushed_millis: flushed.and_then(|text| text.parse().ok()),
    })
}

/// Members of a sorted set with their scores.
type Members = Vec<(Vec<u8>, Vec<u8>)>;

/// What was removed after the removal `seen`, with the removals' numbers.
async fn removals(
    connection: &mut MultiplexedConnection,
    plan: &Plan,
    seen: i64,
    offences: &mut Offences,
) -> Result<Vec<(Removed, i64)>, RedisError> {
    let key = removed_key(&plan.prefix);
    let read: Result<Members, RedisError> = redis::cmd("ZRANGEBYSCORE")
        .arg(&key)
        .arg(format!("({seen}"))
        .arg("+inf")
        .arg("WITHSCORES")
        .query_async(connection)
        .await;
    let read = read.map_err(|error| ScanError::of(error, &key));
    let members = readable(read, REMOVED, offences)?.unwrap_or_default();
    let mut removals = Vec::with_capacity(members.len());
    for (member, number) in members {
        match (Removed::decode(&member), decode_value(&number)) {
            (Ok(removed), Ok(number)) => removals.push((removed, number)),
            _ => offences.add(REMOVED, reason::REMOVAL, || {
                let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
                format!("member {:?}, number {:?}", text(&member), text(&number))
            }),
        }
    }
    Ok(removals)
}

async fn read_families(
    connection: &MultiplexedConnection,
    redis: &Redis,
    plan: &Plan,
    registered: Vec<Registered>,
    found: &mut Found,
) -> Result<(), Failure> {
    let scanner = Arc::new(Scanner::new(connection.clone(), plan.scan_count));
    let executions: Vec<String> = registered
        .iter()
        .filter(|family| family.name == EXECUTIONS)
        .flat_map(|family| family.layouts.iter().map(|layout| layout.key.clone()))
        .collect();
    // A task each, so that one family is decoded while another is waited for.
    // They end with this set, whatever becomes of this read.
    let mut tasks = JoinSet::new();
    for family in registered {
        tasks.spawn(read_family(Arc::clone(&scanner), family));
    }
    tasks.spawn(read_leases(scanner, leases_key(&plan.prefix), executions));
    while let Some(joined) = tasks.join_next().await {
        let part = joined
            .map_err(|panic| Failure::new(Reason::Internal, panic.to_string()))?
            .map_err(|error| redis.failure(&error))?;
        found.families.extend(part.families);
        found.cells = found.cells.saturating_add(part.cells);
        found.leases = found.leases.take().or(part.leases);
        found.offences.merge(part.offences);
    }
    Ok(())
}

/// Reads one family: each layout's hash.
async fn read_family(scanner: Arc<Scanner>, family: Registered) -> Result<Found, RedisError> {
    let Registered { name, layouts } = family;
    let mut part = Found::default();
    let mut read = Vec::with_capacity(layouts.len());
    for layout in layouts {
        let key = layout.key.clone();
        let mut series = SeriesReader::new(layout);
        let scanned = scanner
            .scan(&key, |field, value| {
                part.cells += 1;
                if let Err(error) = series.push(field, value) {
                    add_cell(&mut part.offences, &name, &key, field, &error);
                }
            })
            .await;
        if readable(scanned, &name, &mut part.offences)?.is_some() {
            read.push(series.finish());
        }
    }
    part.families.push((name, read));
    Ok(part)
}

async fn read_leases(
    scanner: Arc<Scanner>,
    key: String,
    executions: Vec<String>,
) -> Result<Found, RedisError> {
    let mut part = Found::default();
    let mut leases = OpenLeases::default();
    let scanned = scanner
        .scan_sorted_set(&key, |member, score| {
            leases.push(member, score, &executions, &mut part.offences);
        })
        .await;
    part.leases = readable(scanned, LEASES, &mut part.offences)?.map(|()| leases);
    Ok(part)
}

fn add_cell(offences: &mut Offences, name: &str, key: &str, field: &[u8], error: &CellError) {
    offences.add(name, error.class(), || {
        let field = String::from_utf8_lossy(field);
        format!("key {key:?}, field {field:?}: {error}")
    });
}

/// What was read, or nothing if the key is at fault; a failure of Redis as a
/// whole is the error.
fn readable<T>(
    read: Result<T, ScanError>,
    name: &str,
    offences: &mut Offences,
) -> Result<Option<T>, RedisError> {
    let (reason, text) = match read {
        Ok(read) => return Ok(Some(read)),
        Err(ScanError::Redis(error)) => return Err(error),
        Err(error @ ScanError::WrongType(_)) => (reason::WRONG_TYPE, error.to_string()),
        Err(error @ ScanError::Forbidden(_)) => (reason::FORBIDDEN, error.to_string()),
    };
    offences.add(name, reason, || text);
    Ok(None)
}
