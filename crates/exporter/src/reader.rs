//! One read of every registered family. Owns the order of the steps and what
//! one bad key or field costs (itself); keeps no state between reads.

use std::{sync::Arc, time::Duration};

use functional_scaffold_schema::{
    cell::CellError,
    protocol::families_key,
    series::{FamilySeries, SeriesReader, merge_layouts},
};
use redis::{RedisError, aio::MultiplexedConnection};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout_at},
};

use crate::{
    connection::{Failure, Reason, Redis},
    offences::{Offences, REGISTRY, reason},
    registry::{self, Registered},
    scan::{ScanError, Scanner},
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

/// Reads every registered family, over a kept connection if there is one.
///
/// # Errors
/// Redis cannot be read. A family, key or field that cannot be served is no
/// error: it is among the reading's offences.
pub async fn read(redis: &Redis, plan: &Plan) -> Result<Reading, Failure> {
    let deadline = Instant::now() + plan.limit;
    let mut may_retry = true;
    loop {
        let lease = timeout_at(deadline, redis.lease())
            .await
            .unwrap_or_else(|_elapsed| Err(Failure::timeout(plan.limit)))?;
        let reading = read_over(lease.connection.clone(), redis, plan);
        let failure = match timeout_at(deadline, reading).await {
            Ok(Ok(reading)) => return Ok(reading),
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

async fn read_over(
    connection: MultiplexedConnection,
    redis: &Redis,
    plan: &Plan,
) -> Result<Reading, Failure> {
    let scanner = Arc::new(Scanner::new(connection, plan.scan_count));
    let mut reading = Reading::default();
    let registered = registered(&scanner, &plan.prefix, &mut reading.offences)
        .await
        .map_err(|error| redis.failure(&error))?;

    // A task each, so that one family is decoded while another is waited for.
    // They end with this set, whatever becomes of this read.
    let mut tasks = JoinSet::new();
    for family in registered {
        tasks.spawn(read_family(Arc::clone(&scanner), family));
    }
    while let Some(joined) = tasks.join_next().await {
        let part = joined
            .map_err(|panic| Failure::new(Reason::Internal, panic.to_string()))?
            .map_err(|error| redis.failure(&error))?;
        reading.families.extend(part.families);
        reading.cells = reading.cells.saturating_add(part.cells);
        reading.offences.merge(part.offences);
    }
    reading
        .families
        .sort_unstable_by(|left, right| left.family.name.cmp(&right.family.name));
    Ok(reading)
}

async fn registered(
    scanner: &Scanner,
    prefix: &str,
    offences: &mut Offences,
) -> Result<Vec<Registered>, RedisError> {
    let mut registrations = Vec::new();
    let scanned = scanner
        .scan(&families_key(prefix), |field, json| {
            registrations.push((field.to_vec(), json.to_vec()));
        })
        .await;
    refused_or_failed(scanned, REGISTRY, offences)?;
    Ok(registry::families(registrations, offences))
}

/// Reads one family: each layout's hash, then their sum.
async fn read_family(scanner: Arc<Scanner>, family: Registered) -> Result<Reading, RedisError> {
    let Registered { name, layouts } = family;
    let mut part = Reading::default();
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
        if refused_or_failed(scanned, &name, &mut part.offences)? {
            read.push(series.finish());
        }
    }
    let (merged, refused) = merge_layouts(read);
    part.families.extend(merged);
    for layout in refused {
        part.offences.add(&name, reason::LAYOUT, || {
            format!("layout with key {:?} has no bound in common", layout.key)
        });
    }
    Ok(part)
}

fn add_cell(offences: &mut Offences, name: &str, key: &str, field: &[u8], error: &CellError) {
    offences.add(name, error.class(), || {
        let field = String::from_utf8_lossy(field);
        format!("key {key:?}, field {field:?}: {error}")
    });
}

/// Whether the hash was read; a failure of Redis as a whole is the error.
fn refused_or_failed(
    scanned: Result<(), ScanError>,
    name: &str,
    offences: &mut Offences,
) -> Result<bool, RedisError> {
    let (reason, text) = match scanned {
        Ok(()) => return Ok(true),
        Err(ScanError::Redis(error)) => return Err(error),
        Err(error @ ScanError::WrongType(_)) => (reason::WRONG_TYPE, error.to_string()),
        Err(error @ ScanError::Forbidden(_)) => (reason::FORBIDDEN, error.to_string()),
    };
    offences.add(name, reason, || text);
    Ok(false)
}
