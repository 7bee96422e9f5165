//! A run from its first server to its verdict. Owns the order of things; each
//! of them is another module's.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use tokio::{task::block_in_place, time::sleep};

use crate::exporter::Exporter;

use super::{
    Plan,
    faults::Scene,
    findings::Findings,
    lease_verdict,
    load::{Load, Part},
    replay::{Logged, Report, Shipper, logged, replay_all},
    risk::TROUBLE_LASTS,
    runtime,
    schedule::{KINDS, Mood, Step, schedule},
    stored::{Stored, is_closed},
    tally::tally,
    watcher::{Watched, Watcher},
};

/// Nothing changes for so long once all is written, logged and replayed: longer
/// than an instance tries to write.
const QUIET: Duration = Duration::from_secs(3);
/// After the last request: a lease, the exporter's interval, and patience for a
/// machine that does other things as well.
const QUIET_TIMEOUT: Duration = Duration::from_secs(runtime::LEASE.as_secs() + 30);
/// Longer than an answer waits for its count while Redis is well, if slow.
const MOODS_APART: Duration = Duration::from_millis(700);
const LOOK: Duration = Duration::from_millis(250);

/// Runs a plan, with the application's outputs in `folder`.
///
/// # Errors
/// A server does not start, or the run cannot be brought to its end. What it
/// found wrong is no error: see [`super::verdict::judge`].
pub async fn run(plan: Plan, folder: &Path) -> anyhow::Result<Findings> {
    let began = Instant::now();
    let mut scene = Scene::start(&plan, folder, began).await?;
    let exporter = Exporter::start(scene.redis.port()).await?;
    let shipper = block_in_place(|| Shipper::start(folder, scene.redis.port()))?;
    let watcher = Watcher::start(exporter.url("/metrics"), began);
    let load = Load::start(&scene.runtime.origin(), &plan, began)?;

    let faults = suffer_all(&plan, &mut scene, &load, began).await?;
    let requests = load.end().await?;
    say(began, "the load has ended; waiting for what is in flight");
    wait_until_quiet(&scene).await?;
    scene.runtime.terminate()?;
    let shipped = block_in_place(|| shipper.end())?;
    let replay = || replay_all(folder, scene.redis.port());
    let replays = [block_in_place(replay)?, block_in_place(replay)?];
    let watched = watcher.end().await?;
    let ending = Ending {
        faults,
        requests,
        shipped,
        logged: logged(folder, began)?,
        replays,
        watched,
    };
    block_in_place(|| ending.findings(plan, scene))
}

/// What is known when all has ended, beside the servers.
struct Ending {
    faults: BTreeMap<&'static str, usize>,
    requests: Part,
    shipped: Report,
    logged: Logged,
    replays: [Report; 2],
    watched: Watched,
}

impl Ending {
    fn findings(self, plan: Plan, mut scene: Scene) -> anyhow::Result<Findings> {
        let slow = self.logged.leases_given_up.iter().copied();
        scene.events.slow.extend(slow);
        let leases = scene.proxy.leases();
        let mut unsettled = (0, 0);
        for lease in lease_verdict::unsettled(&leases, &self.logged) {
            let lost = !is_closed(&scene.redis, lease)?;
            unsettled = (unsettled.0 + 1, unsettled.1 + usize::from(lost));
        }
        Ok(Findings {
            plan,
            faults: self.faults,
            swallowed_bytes: scene.proxy.swallowed_bytes(),
            tally: tally(&self.requests.entries, &scene.events, plan.durability),
            requests: self.requests,
            stored: Stored::read(&scene.redis)?,
            leases,
            unsettled,
            logged: self.logged,
            shipped: self.shipped,
            replays: self.replays,
            watched: self.watched,
        })
    }
}

/// Does what the schedule says, and gives how often it did what.
async fn suffer_all(
    plan: &Plan,
    scene: &mut Scene,
    load: &Load,
    began: Instant,
) -> anyhow::Result<BTreeMap<&'static str, usize>> {
    let end = Instant::now() + Duration::from_secs(plan.seconds);
    let mut faults = BTreeMap::new();
    for (done, step) in schedule(plan.seed, plan.seconds).into_iter().enumerate() {
        // What the servers needed to start is not in the schedule. But each kind
        // is done once, however slow the machine is.
        if done >= KINDS && Instant::now() + step.pause + step.fault.duration() > end {
            break;
        }
        change_mood(load, step).await;
        say(began, &format!("{} ({})", step.fault, step.mood.name()));
        let suffered = scene.suffer(step.fault).await;
        suffered.with_context(|| format!("could not {}", step.fault))?;
        *faults.entry(step.fault.name()).or_default() += 1;
    }
    sleep(end.saturating_duration_since(Instant::now())).await;
    Ok(faults)
}

/// Leaves everything alone before a step, and changes the mood meanwhile: when
/// what the fault before has left behind is over, and with nothing that ends an
/// instance shortly before or after. So no death takes a calm answer back.
async fn change_mood(load: &Load, step: Step) {
    let fatal = step.mood == Mood::Deadly;
    if !fatal {
        load.set_fatal(false);
    }
    sleep(TROUBLE_LASTS).await;
    load.set_mood(step.mood);
    sleep(MOODS_APART).await;
    load.set_fatal(fatal);
    sleep(step.pause.saturating_sub(TROUBLE_LASTS + MOODS_APART)).await;
}

/// Waits until no lease is open and no count changes.
async fn wait_until_quiet(scene: &Scene) -> anyhow::Result<()> {
    let deadline = Instant::now() + QUIET_TIMEOUT;
    let mut last = (Stored::default(), Instant::now());
    loop {
        let stored = block_in_place(|| Stored::read(&scene.redis))?;
        if stored != last.0 {
            last = (stored, Instant::now());
        } else if stored.open_leases == 0 && last.1.elapsed() >= QUIET {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "after {QUIET_TIMEOUT:?} executions are still in flight: {stored:?}",
            stored = last.0
        );
        sleep(LOOK).await;
    }
}

fn say(began: Instant, what: &str) {
    eprintln!("{:8.2} s  {what}", began.elapsed().as_secs_f64());
}
