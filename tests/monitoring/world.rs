//! The ways by which numbers come to Prometheus, each with the real servers it
//! takes, and the load that gives every expression something to show.

use std::{process::Command, time::Duration};

use anyhow::ensure;
use functional_scaffold_tests::{
    app::{App, AppOptions},
    client::{Kind, Ledger, Until, load},
    exporter::{Exporter, replay_to_pushgateway},
    process::Process,
    prometheus::{INTERVAL, Prometheus},
    pushgateway::Pushgateway,
    redis_server::RedisServer,
    workspace_binary,
};

use super::Result;

/// A way by which numbers come to Prometheus.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scheme {
    /// What takes them there.
    pub(crate) way: Way,
    /// The value of the label `scheme`.
    pub(crate) label: &'static str,
    /// Series that there are not in this scheme.
    pub(crate) absent: &'static [&'static [&'static str]],
}

/// What takes the numbers to Prometheus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Two exporters on one Redis.
    Exporters,
    /// A relay from Redis to a Pushgateway.
    Relay,
    /// A Pushgateway, to which each instance pushes.
    Pushgateway,
    /// One instance, which lives on.
    Pull,
}

impl Scheme {
    /// Whether there is no such series in this scheme.
    pub(crate) fn lacks(&self, metric: &str) -> bool {
        self.absent.iter().any(|absent| absent.contains(&metric))
    }
}

impl Way {
    /// How many executions crash. Without leases nobody counts a crash, and
    /// where the instance itself is scraped all is lost with it.
    pub(crate) fn crashes(self) -> usize {
        match self {
            Self::Exporters | Self::Relay => 3,
            Self::Pushgateway | Self::Pull => 0,
        }
    }

    /// How many requests take more than a second. Who computes is not scraped,
    /// but another instance in its place.
    pub(crate) fn slow(self) -> usize {
        match self {
            Self::Pull => 0,
            _ => SLOW,
        }
    }

    /// What is sent: one error in six answers to users, and some refusals.
    fn kinds(self) -> Vec<Kind> {
        let [long, short] = match self {
            Self::Pull => [r#""nothing""#; 2],
            _ => [r#""work 3""#, r#""work 1""#],
        };
        vec![
            Kind::invoke(r#""nothing""#),
            Kind::invoke(r#""fail""#),
            Kind::invoke(long),
            Kind::invoke(r#""unheard of""#),
            Kind::invoke(short),
            Kind::get("/healthz", "/healthz"),
            Kind::get("/readyz", "/readyz"),
            Kind::get("/nowhere", "unmatched"),
        ]
    }

    /// How many requests are sent at a time: two may become two instances.
    fn concurrency(self) -> usize {
        match self {
            Self::Pull => 1,
            _ => 8,
        }
    }
}

/// What an exporter says of itself, and what is recorded of that.
const OF_EXPORTER: [&str; 17] = [
    "functional_scaffold_redis_up",
    "functional_scaffold_scrape_duration_seconds",
    "functional_scaffold_series",
    "functional_scaffold_oldest_lease_age_seconds",
    "functional_scaffold_last_flush_timestamp_seconds",
    "functional_scaffold_redis_read_failures_total",
    "functional_scaffold_settle_failures_total",
    "functional_scaffold_regressions_total",
    "job_scheme:up:max",
    "job_scheme:functional_scaffold_redis_up:max",
    "job_scheme:functional_scaffold_scrape_duration_seconds:max",
    "job_scheme:functional_scaffold_series:max",
    "job_scheme:functional_scaffold_oldest_lease_age_seconds:max",
    "job_scheme:functional_scaffold_last_flush_timestamp_seconds:max",
    "job_scheme:functional_scaffold_redis_read_failures:rate5m",
    "job_scheme:functional_scaffold_settle_failures:rate5m",
    "job_scheme:functional_scaffold_regressions_total:max",
];

/// What is known of leases, and what is recorded of that.
const OF_LEASES: [&str; 8] = [
    "functional_scaffold_unleased_executions_total",
    "functional_scaffold_late_results_total",
    "functional_scaffold_leases_settled_total",
    "algorithm_executions_in_flight",
    "job_scheme:functional_scaffold_unleased_executions_total:max",
    "job_scheme:functional_scaffold_late_results_total:max",
    "job_scheme:functional_scaffold_leases_settled_total:max",
    "job_scheme:algorithm_executions_in_flight:max",
];

/// Redis, with exporters.
pub(crate) const EXPORTERS: Scheme = Scheme {
    way: Way::Exporters,
    label: "redis",
    absent: &[],
};

/// Redis, with a relay to a Pushgateway.
pub(crate) const RELAY: Scheme = Scheme {
    way: Way::Relay,
    label: "redis",
    absent: &[&OF_EXPORTER],
};

/// Pushes to a Pushgateway.
pub(crate) const PUSHGATEWAY: Scheme = Scheme {
    way: Way::Pushgateway,
    label: "pushgateway",
    absent: &[&OF_EXPORTER, &OF_LEASES],
};

/// Scrapes of the app.
pub(crate) const PULL: Scheme = Scheme {
    way: Way::Pull,
    label: "pull",
    absent: &[&OF_EXPORTER, &OF_LEASES],
};

/// The servers of one scheme.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) prometheus: Prometheus,
    pub(crate) app: App,
    pub(crate) way: Way,
    /// What there is of these, if this scheme has them.
    pub(crate) redis: Option<RedisServer>,
    pub(crate) exporters: Vec<Exporter>,
    pushgateway: Option<Pushgateway>,
    _relay: Option<Process>,
}

/// How long an execution's lease lasts: the least limit, and the margin.
const LEASE: Duration = Duration::from_millis(5_100);

/// How many requests the load sends beside these.
const REQUESTS: usize = 400;

/// How many executions take more than a second: more than one request in a
/// hundred.
const SLOW: usize = 5;

impl World {
    pub(crate) async fn start(scheme: &Scheme) -> Result<Self> {
        match scheme.way {
            Way::Exporters => Self::of_redis(Way::Exporters).await,
            Way::Relay => Self::of_redis(Way::Relay).await,
            Way::Pushgateway => Self::of_pushgateway().await,
            Way::Pull => Self::of_pull().await,
        }
    }

    async fn of_redis(way: Way) -> Result<Self> {
        let redis = RedisServer::start()?;
        let app = App::start(&app(redis.port()))?;
        let (mut exporters, mut pushgateway, mut relay) = (Vec::new(), None, None);
        let target = if way == Way::Exporters {
            for _ in 0..2 {
                exporters.push(Exporter::start(redis.port()).await?);
            }
            let addresses = exporters.iter().map(Exporter::address).collect();
            ("redis", addresses)
        } else {
            let gateway = pushgateway.insert(Pushgateway::start().await?);
            relay = Some(start_relay(redis.port(), &gateway.url())?);
            ("pushgateway", vec![gateway.address()])
        };
        Ok(Self {
            prometheus: Prometheus::start(&[target]).await?,
            app,
            way,
            redis: Some(redis),
            exporters,
            pushgateway,
            _relay: relay,
        })
    }

    async fn of_pushgateway() -> Result<Self> {
        let pushgateway = Pushgateway::start().await?;
        let options = app(NOBODY)
            .variable("metrics_backend", "pushgateway")
            .variable("pushgateway_url", &pushgateway.url());
        Ok(Self {
            prometheus: Prometheus::start(&[("pushgateway", vec![pushgateway.address()])]).await?,
            app: App::start(&options)?,
            way: Way::Pushgateway,
            redis: None,
            exporters: Vec::new(),
            pushgateway: Some(pushgateway),
            _relay: None,
        })
    }

    async fn of_pull() -> Result<Self> {
        let options = app(NOBODY).variable("metrics_backend", "pull").lasting();
        let app = App::start(&options)?;
        let target = format!("127.0.0.1:{}", app.port());
        Ok(Self {
            prometheus: Prometheus::start(&[("pull", vec![target])]).await?,
            app,
            way: Way::Pull,
            redis: None,
            exporters: Vec::new(),
            pushgateway: None,
            _relay: None,
        })
    }

    /// One answer of each kind, so that each series is born and scraped, then
    /// the load itself and the crashes. Gives the ledger of all but the first.
    pub(crate) async fn load(&self) -> Result<Ledger> {
        let url = self.app.url("");
        let kinds = self.way.kinds();
        let born = load(&url, &kinds, 1, Until::Requests(kinds.len())).await?;
        self.scraped(born.total()).await?;
        let mut ledger = load(
            &url,
            &kinds,
            self.way.concurrency(),
            Until::Requests(REQUESTS),
        )
        .await?;
        let slow = [Kind::invoke(r#""work 1100""#)];
        add(
            &mut ledger,
            load(&url, &slow, 1, Until::Requests(self.way.slow())).await?,
        )?;
        // A crash takes with it what its instance had answered and not yet
        // stored, so that is waited for.
        self.scraped(born.total() + ledger.total()).await?;
        let crashes = [Kind::invoke(r#""trap""#)];
        add(
            &mut ledger,
            load(&url, &crashes, 1, Until::Requests(self.way.crashes())).await?,
        )?;
        self.scraped(born.total() + ledger.total()).await?;
        // A rate is extrapolated by an interval, which must be little of what
        // there is of the series.
        tokio::time::sleep(4 * INTERVAL).await;
        Ok(ledger)
    }

    /// Waits until Prometheus has recorded so many requests.
    async fn scraped(&self, requests: i64) -> Result {
        let deadline = tokio::time::Instant::now() + LEASE + 8 * INTERVAL;
        loop {
            let recorded = self
                .prometheus
                .query(r#"sum(job_scheme:http_requests_total:sum{endpoint!="/metrics"})"#)
                .await?;
            let recorded = recorded.first().map_or(0.0, |sample| sample.value);
            if recorded == requests as f64 {
                return Ok(());
            }
            ensure!(
                tokio::time::Instant::now() < deadline,
                "{recorded} of {requests} requests are recorded; given up: {:?}, failed: {:?}",
                self.app.log("batch_not_stored")?,
                self.app.log("flush_failed")?
            );
            // Where executions compute, pushes are given up now and then.
            if let (Way::Pushgateway, Some(pushgateway)) = (self.way, &self.pushgateway) {
                replay_to_pushgateway(&pushgateway.url(), &self.app.output()?)?;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// No Redis is here.
const NOBODY: u16 = 1;

fn app(redis_port: u16) -> AppOptions {
    AppOptions::with_redis(redis_port)
        .rogue()
        .variable("execution_limit_ms", "100")
        // Longer than any pause of a busy machine: without its lease a crash is
        // not counted.
        .variable("lease_timeout_ms", "1000")
}

fn start_relay(redis_port: u16, to: &str) -> Result<Process> {
    let mut command = Command::new(workspace_binary("functional-scaffold-exporter")?);
    command
        .args(["push", "--to", to, "--interval", "1s"])
        // What it pushes are Redis's numbers.
        .args(["--grouping", "scheme=redis"])
        .env("REDIS_PORT", redis_port.to_string());
    Process::start(&mut command, "run `cargo xtask build`")
}

fn add(ledger: &mut Ledger, part: Ledger) -> Result {
    ensure!(part.unanswered == 0, "{part:?}");
    for (labels, count) in part.answers {
        *ledger.answers.entry(labels).or_default() += count;
    }
    Ok(())
}
