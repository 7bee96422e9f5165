//! Counters and histograms in Redis, written with one command per value.

use std::time::Duration;

use spin_sdk::redis::{Connection, RedisParameter};

/// Inclusive upper bounds of the buckets, in nanoseconds and as the label `le`.
const BOUNDS: [(u64, &str); 17] = [
    (50_000, "5e-05"),
    (100_000, "0.0001"),
    (250_000, "0.00025"),
    (500_000, "0.0005"),
    (1_000_000, "0.001"),
    (2_500_000, "0.0025"),
    (5_000_000, "0.005"),
    (10_000_000, "0.01"),
    (25_000_000, "0.025"),
    (50_000_000, "0.05"),
    (100_000_000, "0.1"),
    (250_000_000, "0.25"),
    (500_000_000, "0.5"),
    (1_000_000_000, "1"),
    (2_500_000_000, "2.5"),
    (5_000_000_000, "5"),
    (10_000_000_000, "10"),
];

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
        let bound = BOUNDS.iter().find(|(bound, _)| nanos <= *bound);
        let bucket = bound.map_or("+Inf", |(_, le)| le);
        self.add(key, &format!("{labels}|{bucket}"), 1).await?;
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
