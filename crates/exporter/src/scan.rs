//! One hash or sorted set, read page by page (HSCAN, ZSCAN). Owns the pace, so
//! that Redis is never busy with one scrape for long; knows nothing of what the
//! fields mean.

use redis::{RedisError, Value, aio::MultiplexedConnection};
use thiserror::Error;
use tokio::sync::Semaphore;

/// How many pages are asked for at a time. Redis works through all commands
/// that have arrived from one client before it turns to the next client, so
/// this times the page is what others may have to wait for.
const PAGES_AT_A_TIME: usize = 3;

/// Why a key could not be read.
#[derive(Debug, Error)]
pub enum ScanError {
    /// The key is of another type.
    #[error("the key {0:?} does not hold what it should: it is of another type")]
    WrongType(String),
    /// The user may not read this key.
    #[error("the key {0:?} may not be read by this Redis user")]
    Forbidden(String),
    /// Redis as a whole cannot be read.
    #[error(transparent)]
    Redis(RedisError),
}

impl ScanError {
    /// Classes the error of a command that reads `key`.
    #[must_use]
    pub fn of(error: RedisError, key: &str) -> Self {
        match error.code() {
            Some("WRONGTYPE") => Self::WrongType(key.to_owned()),
            Some("NOPERM") => Self::Forbidden(key.to_owned()),
            _ => Self::Redis(error),
        }
    }
}

/// Reads hashes over one connection.
///
/// There is no other way for small hashes (`HLEN`, then `HGETALL`): HSCAN gives
/// a hash below its COUNT in a page or two all the same. `HGETALL` costs Redis
/// a third of it, but of fractions of a millisecond, and for large hashes it
/// is what must not be sent: 100,000 fields block Redis for 20 ms and more.
pub struct Scanner {
    connection: MultiplexedConnection,
    count: u32,
    turns: Semaphore,
}

struct Page {
    cursor: Vec<u8>,
    cells: Vec<Value>,
}

impl Page {
    fn is_last(&self) -> bool {
        self.cursor == b"0"
    }
}

impl Scanner {
    /// `count` is the COUNT of each HSCAN.
    #[must_use]
    pub fn new(connection: MultiplexedConnection, count: u32) -> Self {
        Self {
            connection,
            count,
            turns: Semaphore::new(PAGES_AT_A_TIME),
        }
    }

    /// Hands every field and value of a hash to `take`; none if there is no
    /// such key. A field may come twice, and one that is written or deleted
    /// meanwhile may come or not: see
    /// [SCAN's guarantees](https://redis.io/docs/latest/commands/scan/#scan-guarantees).
    ///
    /// # Errors
    /// See [`ScanError`]; what was handed over until then stands.
    pub async fn scan(&self, key: &str, take: impl FnMut(&[u8], &[u8])) -> Result<(), ScanError> {
        self.pages("HSCAN", key, take).await
    }

    /// The same for a sorted set: hands over every member and score.
    ///
    /// # Errors
    /// See [`ScanError`]; what was handed over until then stands.
    pub async fn scan_sorted_set(
        &self,
        key: &str,
        take: impl FnMut(&[u8], &[u8]),
    ) -> Result<(), ScanError> {
        self.pages("ZSCAN", key, take).await
    }

    async fn pages(
        &self,
        command: &'static str,
        key: &str,
        mut take: impl FnMut(&[u8], &[u8]),
    ) -> Result<(), ScanError> {
        let mut page = self.page(command, key, b"0").await?;
        while !page.is_last() {
            let cursor = std::mem::take(&mut page.cursor);
            // The next page is asked for before this one is decoded, so that
            // Redis and the exporter work at the same time. It is the
            // connection's task that asks, and tokio runs it next on this thread,
            // on no other: so it is given way to.
            let (following, taken) = tokio::join!(self.page(command, key, &cursor), async {
                tokio::task::yield_now().await;
                take_cells(&page.cells, &mut take)
            });
            taken?;
            page = following?;
        }
        take_cells(&page.cells, &mut take)
    }

    async fn page(
        &self,
        command: &'static str,
        key: &str,
        cursor: &[u8],
    ) -> Result<Page, ScanError> {
        // The semaphore is never closed; without a turn the read still works.
        let _turn = self.turns.acquire().await.ok();
        let mut connection = self.connection.clone();
        let reply: Result<(Vec<u8>, Value), RedisError> = redis::cmd(command)
            .arg(key)
            .arg(cursor)
            .arg("COUNT")
            .arg(self.count)
            .query_async(&mut connection)
            .await;
        match reply {
            Ok((cursor, Value::Array(cells))) => Ok(Page { cursor, cells }),
            Ok((_, other)) => Err(unexpected(&other)),
            Err(error) => Err(ScanError::of(error, key)),
        }
    }
}

fn take_cells(cells: &[Value], take: &mut impl FnMut(&[u8], &[u8])) -> Result<(), ScanError> {
    for cell in cells.chunks(2) {
        match cell {
            [Value::BulkString(field), Value::BulkString(value)] => take(field, value),
            [other, ..] => return Err(unexpected(other)),
            [] => {}
        }
    }
    Ok(())
}

/// Names the form of a reply, not its bytes: they may be anything.
fn unexpected(reply: &Value) -> ScanError {
    let form = match reply {
        Value::Nil => "nil",
        Value::Int(_) => "an integer",
        Value::BulkString(_) => "an odd string",
        Value::Array(_) => "an array",
        Value::SimpleString(_) | Value::Okay => "a status",
        _ => "something else",
    };
    ScanError::Redis(RedisError::from((
        redis::ErrorKind::TypeError,
        "a scan did not answer with pairs but with",
        form.to_owned(),
    )))
}
