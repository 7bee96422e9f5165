//! The application with its own Redis.

use anyhow::ensure;
use functional_scaffold_protocol::batch::SentBatch;
use functional_scaffold_testkit::{
    http::{self, Response},
    load::{RequestKind, Tally, Until, load},
    process::poll_until,
    redis::{RedisOptions, RedisServer},
    runtime::{App, AppOptions},
};
use serde_json::Value;

use crate::{
    PATIENCE,
    batch_log::{self, BatchLog, replay},
};

/// The body of an input that `prime-check` accepts.
pub const PRIME: &str = r#"{"number": 17}"#;
/// The body of an input that it rejects.
pub const NEGATIVE: &str = r#"{"number": -1}"#;

/// The application with its own Redis. Both are stopped on drop.
#[derive(Debug)]
pub struct Service {
    /// The application, which is stopped before its Redis.
    pub app: App,
    /// The Redis.
    pub redis: RedisServer,
}

impl Service {
    /// Starts both.
    ///
    /// # Errors
    /// One of them does not start.
    pub fn start() -> anyhow::Result<Self> {
        Self::start_with(|options| options)
    }

    /// Starts both, the application with changed options.
    ///
    /// # Errors
    /// One of them does not start.
    pub fn start_with(change: impl FnOnce(AppOptions) -> AppOptions) -> anyhow::Result<Self> {
        Self::start_on(RedisServer::start()?, change)
    }

    /// Like [`Self::start_with`], with a Redis that keeps its data when it is
    /// killed.
    ///
    /// # Errors
    /// One of them does not start.
    pub fn start_durable(change: impl FnOnce(AppOptions) -> AppOptions) -> anyhow::Result<Self> {
        Self::start_on(RedisOptions::new().append_only("always").start()?, change)
    }

    /// Starts the application on this Redis.
    ///
    /// # Errors
    /// It does not start.
    pub fn start_on(
        redis: RedisServer,
        change: impl FnOnce(AppOptions) -> AppOptions,
    ) -> anyhow::Result<Self> {
        let options = change(AppOptions::with_redis(redis.port()));
        Ok(Self {
            app: App::start(&options)?,
            redis,
        })
    }

    /// Starts both with the algorithm that misbehaves on request. Executions get
    /// their leases even on a busy machine.
    ///
    /// # Errors
    /// One of them does not start.
    pub fn start_rogue(change: impl FnOnce(AppOptions) -> AppOptions) -> anyhow::Result<Self> {
        Self::start_with(|options| change(options.rogue().variable("lease_timeout_ms", "1000")))
    }

    /// Asks the rogue algorithm for a misdeed.
    ///
    /// # Errors
    /// There is no response.
    pub fn commit(&self, misdeed: &str) -> anyhow::Result<(u16, Value)> {
        let response = invoke(&self.app, &Value::from(misdeed).to_string())?;
        let body = serde_json::from_slice(&response.body).unwrap_or_default();
        Ok((response.status, body))
    }

    /// Sends a load of which every request gets a response.
    ///
    /// # Errors
    /// A request gets none.
    pub fn load(
        &self,
        kinds: &[RequestKind],
        connections: usize,
        until: Until,
    ) -> anyhow::Result<Tally> {
        load_all(&self.app, kinds, connections, until)
    }

    /// Waits until Redis has counted exactly these responses.
    ///
    /// # Errors
    /// It counts others.
    pub fn wait_for_counts(&self, expected: &Tally) -> anyhow::Result<()> {
        self.wait_for("metrics:request_counter", &expected.responses)
    }

    /// Waits until these are the cells of a hash that are not 0. Replays batches that
    /// a busy machine sent to the log.
    ///
    /// # Errors
    /// They are others.
    pub fn wait_for(
        &self,
        key: &str,
        expected: &std::collections::BTreeMap<String, i64>,
    ) -> anyhow::Result<()> {
        poll_until(PATIENCE, || {
            self.replay_log()?;
            let counted = self.redis.cells(key)?;
            ensure!(counted == *expected, "{counted:#?} is not {expected:#?}");
            Ok(())
        })
    }

    /// Like [`Self::wait_for_counts`], of `/invoke` alone.
    ///
    /// # Errors
    /// It counts others.
    pub fn wait_for_invoked(&self, expected: &Tally) -> anyhow::Result<()> {
        poll_until(PATIENCE, || {
            self.replay_log()?;
            let mut counted = self.redis.cells("metrics:request_counter")?;
            counted.retain(|labels, _| labels.contains("endpoint=\"/invoke\""));
            let expected = &expected.responses;
            ensure!(counted == *expected, "{counted:#?} is not {expected:#?}");
            Ok(())
        })
    }

    /// Replays the batches in the log, if there are any.
    ///
    /// # Errors
    /// Not all of it could be stored.
    pub fn replay_log(&self) -> anyhow::Result<()> {
        let log = self.app.output()?;
        match log.contains(batch_log::EVENT) {
            true => replay(self.redis.port(), &log),
            false => Ok(()),
        }
    }

    /// The sum of a hash's cells.
    ///
    /// # Errors
    /// Redis's own.
    pub fn sum(&self, key: &str) -> anyhow::Result<i64> {
        Ok(self.redis.cells(key)?.values().sum())
    }
}

/// Sends `POST /invoke`.
///
/// # Errors
/// There is no response.
pub fn invoke(app: &App, body: &str) -> anyhow::Result<Response> {
    http::request(
        app.address(),
        "POST /invoke",
        &[],
        body.as_bytes(),
        PATIENCE,
    )
}

/// Sends a load of which every request gets a response.
///
/// # Errors
/// A request gets none.
pub fn load_all(
    app: &App,
    kinds: &[RequestKind],
    connections: usize,
    until: Until,
) -> anyhow::Result<Tally> {
    let tally = load(&app.url(""), kinds, connections, until);
    ensure!(
        tally.failed == 0,
        "{} requests got no response: {tally:?}",
        tally.failed
    );
    Ok(tally)
}

/// The status and the lines of `/readyz`.
///
/// # Errors
/// There is no response.
pub fn readiness(app: &App) -> anyhow::Result<(u16, String)> {
    let response = http::get(app.address(), "/readyz")?;
    Ok((response.status, response.text()?))
}

/// The batches that the application has logged as a whole so far.
///
/// # Errors
/// The log cannot be read.
pub fn logged_batches(app: &App) -> anyhow::Result<Vec<SentBatch>> {
    Ok(BatchLog::read(app.output()?.lines()).batches)
}

/// The sum of the cells of a hash in logged batches whose labels contain a text.
///
/// # Errors
/// The log cannot be read.
pub fn logged_sum(app: &App, key: &str, label: &str) -> anyhow::Result<u64> {
    let mut sum = 0;
    for batch in logged_batches(app)? {
        let total = batch.total();
        let cells = total
            .cells()
            .filter(|(of, labels, _)| *of == key && labels.contains(label));
        sum += cells.map(|(_, _, count)| count).sum::<u64>();
    }
    Ok(sum)
}
