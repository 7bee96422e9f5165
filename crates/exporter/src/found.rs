//! What one read of Redis finds: the registrations, the open leases, and each
//! family's hashes with their offsets. Owns what one bad key or field costs
//! (itself); what is made of it is [`crate::reader`]'s.

use std::sync::Arc;

use functional_scaffold_protocol::{
    calls::{families_key, leases_key, lost_counts_key, removed_key, state_key},
    cell::{CellError, decode_value},
    family::{Family, Kind},
    removal::Removed,
    series::{FamilySeries, SeriesReader, merge_layouts},
};
use redis::{RedisError, aio::MultiplexedConnection};
use tokio::task::JoinSet;

use crate::{
    connection::{Failure, Reason, Redis},
    leases::{EXECUTIONS, OpenLeases},
    marks::Marks,
    offences::{LEASES, Offences, REGISTRY, REMOVED, STATE, reason},
    reader::Plan,
    registry::{self, Registered},
    scan::{ScanError, Scanner},
    settle::Settler,
};

/// What was read, before the layouts of each family are put together.
#[derive(Default)]
pub(crate) struct Found {
    /// Each family's name and layouts.
    pub(crate) families: Vec<(String, Vec<FamilySeries>)>,
    pub(crate) cells: u64,
    pub(crate) leases: Option<OpenLeases>,
    /// The time that the leases' scores are compared with, if any are settled.
    pub(crate) lease_time_millis: Option<i64>,
    pub(crate) state: State,
    /// What was removed since the last read, with its number.
    pub(crate) removals: Vec<(Removed, i64)>,
    pub(crate) offences: Offences,
}

/// What is kept of the store as a whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) epoch: Option<String>,
    /// The version of the offsets; a removal is a new one, too.
    pub(crate) offsets: Option<String>,
    pub(crate) flushed_millis: Option<i64>,
}

/// Reads until the epoch and the offsets' version were the same before and after:
/// what was read of two stores together means nothing, nor do counts with the
/// offsets of others, nor what was removed meanwhile.
pub(crate) async fn read_once(
    connection: &mut MultiplexedConnection,
    redis: &Redis,
    plan: &Plan,
    settler: &Settler,
    marks: &Marks,
) -> Result<Found, Failure> {
    loop {
        let mut found = Found::default();
        let registered = registered(connection.clone(), plan, &mut found.offences)
            .await
            .map_err(|error| redis.failure(&error))?;
        let settled = settler.settle(connection, redis, &registered).await;
        found.lease_time_millis = settled.map(|settled| settled.lease_time_millis);
        // What is said of the state's key is said after the families.
        let before = state(connection, plan, &mut Offences::default())
            .await
            .map_err(|error| redis.failure(&error))?;
        let heard = marks.removals(before.epoch.as_deref());
        found.removals = removals(connection, plan, heard, &mut found.offences)
            .await
            .map_err(|error| redis.failure(&error))?;
        read_families(connection, redis, plan, registered, &mut found).await?;
        found.state = state(connection, plan, &mut found.offences)
            .await
            .map_err(|error| redis.failure(&error))?;
        if found.state.epoch == before.epoch && found.state.offsets == before.offsets {
            return Ok(found);
        }
    }
}

/// Reads the registrations alone; what is wrong with them is left to a scrape.
///
/// # Errors
/// Redis cannot be read.
pub(crate) async fn read_registered(
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
    let read: Result<[Option<Vec<u8>>; 3], RedisError> = redis::cmd("HMGET")
        .arg(&key)
        .arg(&["epoch", "lost_version", "flushed_ms"])
        .query_async(connection)
        .await;
    let read = read.map_err(|error| ScanError::of(error, &key));
    let Some(fields) = readable(read, STATE, offences)? else {
        return Ok(State::default());
    };
    let [epoch, offsets, flushed] =
        fields.map(|field| field.map(|text| String::from_utf8_lossy(&text).into_owned()));
    Ok(State {
        epoch,
        offsets,
        flushed_millis: flushed.and_then(|text| text.parse().ok()),
    })
}

/// Members of a sorted set with their scores.
type Members = Vec<(Vec<u8>, Vec<u8>)>;

/// What was removed after the removal `heard`, with the removals' numbers.
async fn removals(
    connection: &mut MultiplexedConnection,
    plan: &Plan,
    heard: i64,
    offences: &mut Offences,
) -> Result<Vec<(Removed, i64)>, RedisError> {
    let key = removed_key(&plan.prefix);
    let read: Result<Members, RedisError> = redis::cmd("ZRANGEBYSCORE")
        .arg(&key)
        .arg(format!("({heard}"))
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
        tasks.spawn(read_family(
            Arc::clone(&scanner),
            plan.prefix.clone(),
            family,
        ));
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

/// Reads one family: each layout's hash, and its offsets.
async fn read_family(
    scanner: Arc<Scanner>,
    prefix: String,
    family: Registered,
) -> Result<Found, RedisError> {
    let Registered { name, layouts } = family;
    let mut part = Found::default();
    let mut read = Vec::with_capacity(layouts.len());
    for layout in layouts {
        let counted = read_hash(&scanner, &name, &layout.key, &layout, &mut part).await?;
        if layout.kind == Kind::Gauge {
            read.extend(counted);
            continue;
        }
        let key = lost_counts_key(&prefix, &layout.key);
        let offsets = read_hash(&scanner, &name, &key, &layout, &mut part).await?;
        // Without its offsets a count would be less than was served before.
        if let (Some(counted), Some(offsets)) = (counted, offsets) {
            // Of one layout: nothing is refused.
            let (sum, _refused) = merge_layouts(vec![counted, offsets]);
            read.extend(sum);
        }
    }
    part.families.push((name, read));
    Ok(part)
}

/// Nothing if the key is at fault.
async fn read_hash(
    scanner: &Scanner,
    name: &str,
    key: &str,
    layout: &Family,
    part: &mut Found,
) -> Result<Option<FamilySeries>, RedisError> {
    let mut series = SeriesReader::new(layout.clone());
    let scanned = scanner
        .scan(key, |field, value| {
            part.cells += 1;
            if let Err(error) = series.push(field, value) {
                add_cell(&mut part.offences, name, key, field, &error);
            }
        })
        .await;
    Ok(readable(scanned, name, &mut part.offences)?.map(|()| series.finish()))
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
