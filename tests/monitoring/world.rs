//! The ways by which numbers come to Prometheus, each with the real servers it
//! takes, and the load that gives every expression something to show.

use std::time::Duration;

use anyhow::ensure;
use functional_scaffold_tests::{
    app::{App, AppOptions},
    client::{Kind, Ledger, Until, load},
    exporter::Exporter,
    prometheus::{INTERVAL, Prometheus},
    redis_server::RedisServer,
};

use super::Result;

/// A way by which numbers come to Prometheus.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scheme {
    /// The value of the label `scheme`.
    pub(crate) name: &'static str,
    /// How many exporters there are, all on one Redis.
    pub(crate) exporters: usize,
    /// Recorded series that there are not in this scheme.
    pub(crate) absent: &'static [&'static str],
}

/// Every scheme.
pub(crate) const SCHEMES: [Scheme; 1] = [Scheme {
    name: "redis",
    exporters: 2,
    absent: &[],
}];

/// The servers of one scheme.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) prometheus: Prometheus,
    pub(crate) app: App,
    pub(crate) exporters: Vec<Exporter>,
    pub(crate) redis: RedisServer,
}

/// How long an execution's lease lasts: the least limit, and the margin.
const LEASE: Duration = Duration::from_millis(5_100);

/// How many executions crash.
pub(crate) const CRASHES: usize = 3;

/// How many requests the load sends beside these.
const REQUESTS: usize = 400;

/// How many executions take more than a second: more than one request in a
/// hundred.
const SLOW: usize = 5;

impl World {
    pub(crate) async fn start(scheme: &Scheme) -> Result<Self> {
        let redis = RedisServer::start()?;
        let options = AppOptions::with_redis(redis.port())
            .rogue()
            .variable("execution_limit_ms", "100")
            // Longer than any pause of a busy machine: without its lease a
            // crash is not counted.
            .variable("lease_timeout_ms", "1000");
        let app = App::start(&options)?;
        let mut exporters = Vec::new();
        for _ in 0..scheme.exporters {
            exporters.push(Exporter::start(redis.port()).await?);
        }
        let addresses = exporters.iter().map(Exporter::address).collect();
        let prometheus = Prometheus::start(&[(scheme.name, addresses)]).await?;
        Ok(Self {
            prometheus,
            app,
            exporters,
            redis,
        })
    }

    /// One answer of each kind, so that each series is born and scraped, then
    /// the load itself and the crashes. Gives the ledger of all but the first.
    pub(crate) async fn load(&self) -> Result<Ledger> {
        let url = self.app.url("");
        let born = load(&url, &kinds(), 1, Until::Requests(kinds().len())).await?;
        self.scraped(born.total()).await?;
        let mut ledger = load(&url, &kinds(), 8, Until::Requests(REQUESTS)).await?;
        let slow = [Kind::invoke(r#""work 1100""#)];
        add(
            &mut ledger,
            load(&url, &slow, 1, Until::Requests(SLOW)).await?,
        )?;
        // A crash takes with it what its instance had answered and not yet
        // stored, so that is waited for.
        self.scraped(born.total() + ledger.total()).await?;
        let crashes = [Kind::invoke(r#""trap""#)];
        add(
            &mut ledger,
            load(&url, &crashes, 1, Until::Requests(CRASHES)).await?,
        )?;
        self.scraped(born.total() + ledger.total()).await?;
        Ok(ledger)
    }

    /// Waits until Prometheus has recorded so many requests.
    async fn scraped(&self, requests: i64) -> Result {
        let deadline = tokio::time::Instant::now() + LEASE + 8 * INTERVAL;
        loop {
            let recorded = self
                .prometheus
                .query("sum(scaffold:http_requests_total)")
                .await?;
            let recorded = recorded.first().map_or(0.0, |sample| sample.value);
            if recorded == requests as f64 {
                return Ok(());
            }
            ensure!(
                tokio::time::Instant::now() < deadline,
                "{recorded} of {requests} requests are recorded"
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

fn add(ledger: &mut Ledger, part: Ledger) -> Result {
    ensure!(part.unanswered == 0, "{part:?}");
    for (labels, count) in part.answers {
        *ledger.answers.entry(labels).or_default() += count;
    }
    Ok(())
}

/// One error in six answers to users, and some refusals.
fn kinds() -> Vec<Kind> {
    vec![
        Kind::invoke(r#""nothing""#),
        Kind::invoke(r#""fail""#),
        Kind::invoke(r#""work 3""#),
        Kind::invoke(r#""unheard of""#),
        Kind::invoke(r#""work 1""#),
        Kind::get("/healthz", "/healthz"),
        Kind::get("/readyz", "/readyz"),
        Kind::get("/nowhere", "unmatched"),
    ]
}
