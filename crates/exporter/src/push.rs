//! The command `push`: relays the families to a Pushgateway, as one group that
//! each push replaces. Owns when and how often; what is read is what a scrape
//! reads, held by the same marks, so no counter there goes backwards.

use std::{pin::pin, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use functional_scaffold_protocol::exposition::{Exposition, Format};
use hyper::body::Bytes;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::{
    commands::PushOptions,
    config::Config,
    connection::Redis,
    offences::OffenceLog,
    pushgateway::{Group, PushError},
    reader::{Plan, Reader, Reading},
    self_metrics::Totals,
    serve::stop_signal,
    settle::{Settler, settle_again_and_again},
};

/// The pause before a push is tried again; each further one is twice as long.
const BACKOFF: Duration = Duration::from_millis(250);

/// Pushes at every interval until SIGTERM or SIGINT, or once.
///
/// # Errors
/// The Pushgateway's address is unusable, or signals cannot be received; where
/// it is to push once, also that it did not.
pub async fn push(config: Config, options: &PushOptions) -> anyhow::Result<()> {
    let mut stop = pin!(stop_signal().context("cannot receive signals")?);
    let group = Group::new(&options.to, &options.job, &options.grouping)?;
    let redis = Arc::new(Redis::new(&config).context("unusable address of Redis")?);
    let settler = Arc::new(Settler::new(&config.prefix, Arc::new(Totals::default())));
    let plan = Plan {
        limit: config.scrape_timeout.min(options.interval),
        ..Plan::of(&config)
    };
    let mut relay = Relay {
        redis: Arc::clone(&redis),
        reader: Reader::new(Arc::clone(&redis), Arc::clone(&settler), plan.clone()),
        group,
        limit: options.interval,
        offences: OffenceLog::default(),
    };
    if options.once {
        return tokio::select! {
            pushed = relay.push() => pushed,
            name = stop => bail!("stopped on {name} before it was pushed"),
        };
    }
    // A relay may be all that looks at leases; it ends with the runtime.
    tokio::spawn(settle_again_and_again(
        Arc::clone(&redis),
        settler,
        plan,
        config.settle_interval,
    ));
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        "pushing to {} from Redis at {}, every {}",
        relay.group,
        redis.address(),
        humantime::format_duration(options.interval)
    );
    let mut ticks = interval(options.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        let pushing = async {
            ticks.tick().await;
            relay.push().await
        };
        let pushed = tokio::select! {
            pushed = pushing => pushed,
            name = &mut stop => {
                tracing::info!("stopping on {name}");
                return Ok(());
            }
        };
        // Changes are logged, not states.
        match &pushed {
            Ok(()) if failing => tracing::info!("pushing to {} again", relay.group),
            Err(error) if !failing => tracing::warn!("not pushed: {error:#}"),
            _ => {}
        }
        failing = pushed.is_err();
    }
}

struct Relay {
    redis: Arc<Redis>,
    reader: Reader,
    group: Group,
    /// How long one push is tried.
    limit: Duration,
    offences: OffenceLog,
}

impl Relay {
    /// Reads once, and pushes that until it is taken.
    async fn push(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + self.limit;
        let read = self.reader.read().await;
        let reading =
            read.with_context(|| format!("cannot read Redis ({})", self.redis.address()))?;
        self.offences.log(&reading.offences);
        let exposition = Bytes::from(expose(&reading));
        let mut pause = BACKOFF;
        loop {
            let error = match self.group.put(&exposition).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let again = Instant::now() + pause;
            if !error.may_pass() || again >= deadline {
                return Err(self.failed(error));
            }
            tracing::debug!("trying again in {pause:?}: {error}");
            sleep_until(again).await;
            pause *= 2;
        }
    }

    fn failed(&self, error: PushError) -> anyhow::Error {
        anyhow::Error::new(error).context(format!("cannot push to {}", self.group))
    }
}

/// The families alone: what the exporter says of itself is about a scrape.
fn expose(reading: &Reading) -> String {
    let families = || reading.in_flight.iter().chain(&reading.families);
    let names = families().map(|family| &family.family);
    let mut exposition = Exposition::begin(Format::Text, names, 0);
    families().for_each(|family| exposition.write_family(family));
    exposition.finish()
}
