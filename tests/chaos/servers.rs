//! The servers of a run, and what its faults did to them.

use std::{
    sync::Arc,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::ensure;
use functional_scaffold_testkit::{
    process::poll_until,
    redis::RedisServer,
    runtime::{App, AppOptions, Runtime},
};

use crate::{
    clients::Clients,
    cluster::Failover,
    contents::{Contents, Taken},
    doubt::{EXECUTION_LIMIT_MS, Events, REQUESTS_AN_INSTANCE, Span},
    ledger::Ledger,
    plan::{AppKind, Plan},
    proxy::Proxy,
    readers::Readers,
    store::Store,
    watcher::{Reset, Resets},
};

/// The time after which the dev host ends a loop. Spin ends none.
const HOST_LIMIT: &str = "500ms";
/// The longest wait for Redis's replies to the calls that it has received.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a master executes calls whose replies are dropped, before it is killed.
const UNHEARD: Duration = Duration::from_millis(50);

/// The servers, and what has happened to them.
#[derive(Debug)]
pub(crate) struct Servers {
    pub(crate) app: App,
    pub(crate) app_kind: AppKind,
    /// The variable `metrics_shards`.
    pub(crate) shards: String,
    pub(crate) clients: Clients,
    pub(crate) readers: Readers,
    /// From the application to Redis.
    pub(crate) path: Proxy,
    /// From the exporters, the relay and replays to Redis.
    pub(crate) reader_path: Proxy,
    pub(crate) redis: Store,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) events: Events,
    pub(crate) taken: Taken,
    pub(crate) resets: Arc<Resets>,
    pub(crate) began: Instant,
    /// What a master held before a failover of the cluster.
    before: Contents,
}

impl Servers {
    pub(crate) fn start(plan: &Plan, began: Instant) -> anyhow::Result<Self> {
        let redis = Store::start(plan)?;
        let ports = redis.ports();
        let ledger = Arc::new(Ledger::default());
        let path = Proxy::start(&ports, &ledger)?;
        let reader_path = Proxy::start(&ports, &ledger)?;
        let runtime = Runtime::from_environment()?;
        let mut options = AppOptions::with_redis(path.port())
            .manifest(plan.app.manifest())
            .arguments(&[
                "--max-instance-reuse-count",
                &REQUESTS_AN_INSTANCE.to_string(),
            ])
            .variable("metrics_durability", plan.durability.name())
            .variable("metrics_shards", &plan.shards())
            .variable("execution_limit_ms", &EXECUTION_LIMIT_MS.to_string())
            // Without a line per request, which would be most of the work.
            .variable("log_level", "info");
        if !runtime.is_spin() {
            options = options.arguments(&["--execution-limit", HOST_LIMIT]);
        }
        let app = App::start_on(runtime, &options)?;
        Ok(Self {
            clients: Clients::new(app.address(), plan, began),
            app,
            app_kind: plan.app,
            shards: plan.shards(),
            readers: Readers::start(plan, reader_path.port())?,
            path,
            reader_path,
            redis,
            ledger,
            events: Events::default(),
            taken: Taken::default(),
            resets: Arc::default(),
            began,
            before: Contents::default(),
        })
    }

    /// Notes that Redis did not reply since then.
    pub(crate) fn note_outage(&mut self, from: Duration) {
        let to = self.began.elapsed();
        self.events.outages.push(Span { from, to });
    }

    /// Notes that every instance may have died since then.
    pub(crate) fn note_death(&mut self, from: Duration) {
        let to = self.began.elapsed();
        self.events.kills.push(Span { from, to });
    }

    /// Notes that results of executions since then may be late.
    pub(crate) fn note_lateness(&mut self, from: Duration) {
        let to = self.began.elapsed();
        self.events.lateness.push(Span { from, to });
    }

    /// Lets readers serve smaller counts from now on.
    pub(crate) fn allow(&self, reset: Reset) {
        self.resets.allow(reset, self.began.elapsed());
    }

    /// Accepts no connection to Redis until [`Self::reconnect`].
    pub(crate) fn refuse(&self) {
        self.path.refuse();
        self.reader_path.refuse();
    }

    /// Cuts all connections to Redis, and accepts new ones.
    pub(crate) fn reconnect(&self) {
        self.path.cut();
        self.reader_path.cut();
    }

    /// Changes what Redis holds while no call is under way, and notes what is gone.
    pub(crate) fn replace_contents(
        &mut self,
        change: impl FnOnce(&RedisServer) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let from = self.began.elapsed();
        {
            let _gates = (self.path.shut_gate(), self.reader_path.shut_gate());
            wait_for_replies(&self.ledger)?;
            let redis = self.redis.set()?.master();
            let before = Contents::read(redis)?;
            change(redis)?;
            let after = Contents::read(redis)?;
            if after.is_reset_of(&before) {
                self.resets.allow(Reset::All, self.began.elapsed());
            }
            self.taken.add(&before, &after);
            self.ledger.forget(&before, &after);
        }
        self.note_outage(from);
        self.note_lost_leases(from);
        Ok(())
    }

    pub(crate) fn fail_over(&mut self, stale_from: Duration) -> anyhow::Result<()> {
        let from = self.began.elapsed();
        self.refuse();
        let (before, after) = self.redis.set()?.fail_over()?;
        // Replies that Redis has sent are read. Calls that wait will not be executed.
        wait_for_replies(&self.ledger)?;
        self.taken.add(&before, &after);
        self.ledger.forget(&before, &after);
        self.reconnect();
        self.note_outage(from);
        self.note_lost_leases(stale_from);
        Ok(())
    }

    /// Kills a master of the cluster. With `is_stale`, its replica has
    /// not replicated for some time.
    pub(crate) fn kill_master(&mut self, failover: Failover, is_stale: bool) -> anyhow::Result<()> {
        // It executes calls whose replies nobody gets.
        for path in [&self.path, &self.reader_path] {
            path.mute_server(Some(failover.old));
        }
        sleep(UNHEARD);
        {
            let _gates = (self.path.shut_gate(), self.reader_path.shut_gate());
            wait_for_replies(&self.ledger)?;
            let cluster = self.redis.cluster()?;
            if !is_stale {
                cluster.wait_until_in_sync(&failover)?;
                cluster.pause_replica(&failover)?;
            }
            self.before = cluster.kill_master(failover)?;
        }
        for path in [&self.path, &self.reader_path] {
            path.mute_server(None);
        }
        Ok(())
    }

    /// Waits until the killed master is replaced, and notes what is lost.
    pub(crate) fn end_failover(&mut self, from: Duration) -> anyhow::Result<()> {
        let cluster = self.redis.cluster()?;
        let after = cluster.promoted()?;
        self.taken.add(&self.before, &after);
        self.ledger.forget(&self.before, &after);
        cluster.end_failover()?;
        self.note_outage(from);
        self.note_lost_leases(from);
        Ok(())
    }

    /// Suspends the next master of the cluster.
    pub(crate) fn suspend_master(&mut self) -> anyhow::Result<()> {
        let cluster = self.redis.cluster()?;
        let failover = cluster.next_failover()?;
        let _gates = (self.path.shut_gate(), self.reader_path.shut_gate());
        wait_for_replies(&self.ledger)?;
        cluster.wait_until_in_sync(&failover)?;
        self.ledger.cut_off(Some(failover.old));
        self.before = cluster.suspend_master(failover)?;
        Ok(())
    }

    /// Resumes it once it is replaced, and notes what it executed nevertheless, which is
    /// lost.
    pub(crate) fn resume_master(&mut self, from: Duration) -> anyhow::Result<()> {
        let cluster = self.redis.cluster()?;
        let failover = cluster.resume_master()?;
        {
            let _gates = (self.path.shut_gate(), self.reader_path.shut_gate());
            wait_for_replies(&self.ledger)?;
            let [old, new] = cluster.contents_of(&failover)?;
            self.ledger.cut_off(None);
            self.taken.add(&old, &self.before);
            let closed = old.closed.difference(&self.before.closed);
            self.ledger
                .reopen(closed.filter(|id| !new.closed.contains(*id)));
        }
        cluster.let_it_sync(&failover)?;
        self.note_outage(from);
        self.note_lost_leases(from);
        Ok(())
    }

    /// Notes that leases which Redis acknowledged since then may be gone, or have another
    /// time.
    fn note_lost_leases(&mut self, from: Duration) {
        let to = self.began.elapsed();
        self.events.lost_leases.push(Span { from, to });
        self.events.lateness.push(Span { from, to });
    }
}

/// Waits until Redis has replied to every call that it received, or is gone.
fn wait_for_replies(ledger: &Ledger) -> anyhow::Result<()> {
    poll_until(REPLY_TIMEOUT, || {
        let unanswered = ledger.unanswered();
        ensure!(unanswered == 0, "{unanswered} calls have no reply");
        Ok(())
    })
}
