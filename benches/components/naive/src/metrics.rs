//! Counters and histograms in Redis, written with one command per value.

use std::{sync::LazyLock, time::Duration};

use functional_scaffold_protocol::{
    catalog::{LATENCY_BOUNDS_NANOS, latency_bounds},
    cell::le_of_bound,
};
use spin_sdk::redis::{Connection, RedisParameter};

/// The label `le` of each bucket.
static LES: LazyLock<Vec<String>> = LazyLock::new(|| {
    let les = latency_bounds().into_iter().map(le_of_bound);
    les.chain(["+Inf".to_owned()]).collect()
});

/// A connection to Redis for one request.
pub(crate) struct Metrics<'a> {
    connection: Connection,
    prefix: &'a str,
}

impl<'a> Metrics<'a> {
    pub(crate) async fn connect(address: &str, prefix: &'a str) -> anyhow::Result<Self> {
        let connection = Connection::open(address).await?;
        Ok(Self { connection, prefix })
    }

    pub(crate) async fn record_request(
        &self,
        endpoint: &str,
        code: u16,
        duration: Duration,
    ) -> anyhow::Result<()> {
        let status = if code < 400 { "success" } else { "rejected" };
        let labels =
            format!(r#"code="{code}",endpoint="{endpoint}",method="POST",status="{status}""#);
        self.add("request_counter", &labels, 1).await?;
        let labels = format!(r#"endpoint="{endpoint}",method="POST""#);
        self.observe("request_latency", &labels, duration).await
    }

    pub(crate) async fn record_execution(
        &self,
        algorithm: &str,
        succeeded: bool,
        duration: Duration,
    ) -> anyhow::Result<()> {
        let status = if succeeded { "success" } else { "failed" };
        let labels = format!(r#"algorithm="{algorithm}",status="{status}""#);
        self.add("algorithm_counter", &labels, 1).await?;
        let labels = format!(r#"algorithm="{algorithm}""#);
        self.observe("algorithm_latency", &labels, duration).await
    }

    async fn observe(&self, key: &str, labels: &str, duration: Duration) -> anyhow::Result<()> {
        let nanos = u64::try_from(duration.as_nanos())?;
        let bucket = LATENCY_BOUNDS_NANOS.partition_point(|&bound| bound < nanos);
        let le = &LES[bucket];
        self.add(key, &format!("{labels}|{le}"), 1).await?;
        self.add(key, &format!("{labels}|sum"), nanos).await
    }

    async fn add(&self, key: &str, field: &str, amount: u64) -> anyhow::Result<()> {
        let arguments = [
            format!("{}{key}", self.prefix),
            field.to_owned(),
            amount.to_string(),
        ];
        let arguments = arguments.map(|text| RedisParameter::Binary(text.into_bytes()));
        self.connection.execute("HINCRBY", arguments).await?;
        Ok(())
    }
}
