//! Reads one hash or sorted set page by page (HSCAN, ZSCAN), so that Redis is never
//! blocked for long.

use std::{ops::ControlFlow, time::Duration};

use tokio::sync::Semaphore;

use crate::{
    cli::{Config, StoreConfig},
    redis_client::{Connection, Failure},
    scrape::decode_errors::{DecodeErrors, reason},
};

/// What to read, and how.
#[derive(Clone)]
pub(crate) struct ReadOptions {
    /// The prefix of every key.
    pub(crate) prefix: String,
    /// `COUNT` of each HSCAN.
    pub(crate) scan_count: u32,
    /// For a whole read.
    pub(crate) timeout: Duration,
    /// The samples of all families of one store.
    pub(crate) max_samples: usize,
}

impl ReadOptions {
    pub(crate) fn new(config: &Config, store: &StoreConfig) -> Self {
        Self {
            prefix: store.prefix.clone(),
            scan_count: config.scan_count,
            timeout: config.scrape_timeout,
            max_samples: config.max_samples,
        }
    }
}

/// Concurrent requests for a page. Redis executes all commands that have arrived from
/// one client before it turns to the next, so other clients may wait for this many
/// pages.
const CONCURRENT_PAGES: usize = 3;

/// Scans keys over one connection.
///
/// Small hashes are scanned too: HSCAN returns a hash smaller than its COUNT in a page
/// or two. `HGETALL` would cost Redis a third of that, but that is fractions of a
/// millisecond. With 100,000 fields it would block Redis for 20 ms or more.
pub(crate) struct Scanner {
    connection: Connection,
    count: u32,
    permits: Semaphore,
}

/// A field with its value, or a member with its score.
pub(crate) type Pair = (Vec<u8>, Vec<u8>);

/// A cursor, and what was found.
type Page = (Vec<u8>, Vec<Pair>);

impl Scanner {
    pub(crate) fn new(connection: Connection, options: &ReadOptions) -> Self {
        Self {
            connection,
            count: options.scan_count,
            permits: Semaphore::new(CONCURRENT_PAGES),
        }
    }

    /// Passes every field and value of a hash (`HSCAN`), or member and score of a
    /// sorted set (`ZSCAN`), to `take`, page by page until it breaks off; none if the
    /// key does not exist. One may come twice, and one that is written or deleted
    /// meanwhile may be missing
    /// ([SCAN guarantees](https://redis.io/docs/latest/commands/scan/#scan-guarantees)).
    pub(crate) async fn scan(
        &self,
        command: &str,
        key: &str,
        mut take: impl FnMut(&[Pair]) -> ControlFlow<()>,
    ) -> Result<(), Failure> {
        let (mut cursor, mut pairs) = self.page(command, key, b"0").await?;
        while cursor != b"0" {
            // Requests the next page before it decodes this one, so that Redis and
            // the exporter work at the same time. The connection's task sends the
            // request, and tokio may run it on this thread only: hence the yield.
            let (next, flow) = tokio::join!(self.page(command, key, &cursor), async {
                tokio::task::yield_now().await;
                take(&std::mem::take(&mut pairs))
            });
            if flow.is_break() {
                return Ok(());
            }
            (cursor, pairs) = next?;
        }
        let _last = take(&pairs);
        Ok(())
    }

    async fn page(&self, command: &str, key: &str, cursor: &[u8]) -> Result<Page, Failure> {
        // The semaphore is never closed.
        let _permit = self.permits.acquire().await.ok();
        let mut command = redis::cmd(command);
        command.arg(key).arg(cursor).arg("COUNT").arg(self.count);
        self.connection.clone().query(&command).await
    }
}

/// Records a key of the wrong type, or without read permission, as a decode error,
/// and returns None; other failures concern Redis as a whole.
pub(crate) fn skip_unreadable<T>(
    read: Result<T, Failure>,
    family: &str,
    key: &str,
    errors: &mut DecodeErrors,
) -> Result<Option<T>, Failure> {
    let (reason, text) = match read {
        Ok(value) => return Ok(Some(value)),
        Err(failure) => match failure.code() {
            Some("WRONGTYPE") => (reason::WRONG_TYPE, "has the wrong type"),
            Some("NOPERM") => (reason::FORBIDDEN, "may not be read by this Redis user"),
            _ => return Err(failure),
        },
    };
    errors.add(family, reason, || format!("key {key:?} {text}"));
    Ok(None)
}
