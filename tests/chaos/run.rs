//! A run, from its first server to its findings.

use std::{
    collections::BTreeMap,
    fs, mem,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, ensure};
use functional_scaffold_testkit::runtime::Runtime;

use crate::{
    doubt::{Expected, LEASE, OUTAGE_LASTS},
    findings::{Counted, Findings, series_of},
    load::Load,
    log::{Logged, Shipper, replay_all},
    plan::{Phase, Plan, Schedule},
    servers::Servers,
    steps::{Step, steps, steps_of_a_round},
    verdict::unsettled,
    watcher::Watcher,
};

/// After this time without a change, everything is stored or logged. It is longer than an
/// instance tries to store a batch, and than the shipper waits.
const QUIET: Duration = Duration::from_secs(3);
/// The longest wait after the last request: for a lease, for the exporter's interval, and
/// for a busy machine.
const QUIET_TIMEOUT: Duration = Duration::from_secs(LEASE.as_secs() + 60);
/// Longer than a response waits for its count while Redis is slow.
const BETWEEN_PHASES: Duration = Duration::from_millis(700);
/// After this time without a request, no instance lives.
const INSTANCES_END: Duration = Duration::from_millis(2_500);
const POLL: Duration = Duration::from_millis(250);

/// A run that can be interrupted.
struct Run<'a> {
    plan: Plan,
    began: Instant,
    is_interrupted: &'a AtomicBool,
}

/// Runs a plan, and writes the application's log to a folder.
pub(crate) fn run(
    plan: Plan,
    folder: &Path,
    is_interrupted: &AtomicBool,
) -> anyhow::Result<Findings> {
    let began_at = SystemTime::now();
    let run = Run {
        plan,
        began: Instant::now(),
        is_interrupted,
    };
    let mut servers = Servers::start(&plan, run.began)?;
    let findings = run.findings(&mut servers, began_at);
    fs::write(folder.join("app.log"), servers.app.output()?)?;
    findings
}

impl Run<'_> {
    fn findings(&self, servers: &mut Servers, began_at: SystemTime) -> anyhow::Result<Findings> {
        let redis_port = servers.reader_path.port();
        let shards = self.plan.shards();
        let log = servers
            .app
            .process()
            .output_file()
            .context("it has no log")?;
        let shipper = Shipper::start(log.to_owned(), redis_port, &shards)?;
        let readers = servers.readers.addresses().into_iter();
        let watchers: Vec<_> = readers
            .map(|reader| Watcher::start(reader, &servers.resets, self.began))
            .collect();
        let runtime = Runtime::from_environment()?;
        let may_loop = !runtime.is_spin();
        let load = Load::start(&servers.app.url(""), &self.plan, may_loop, self.began);
        let faults = self.inject_all(servers, &load)?;
        let mut requests = load.end()?;
        if self.plan.schedule == Schedule::Wide {
            // A new instance registers the families that a fault removed.
            self.sleep(INSTANCES_END)?;
            let load = Load::start(&servers.app.url(""), &self.plan, may_loop, self.began);
            self.sleep(POLL)?;
            let last = load.end()?;
            requests.entries.extend(last.entries);
            requests.unexpected.1 += last.unexpected.1;
            requests.unexpected.0.extend(last.unexpected.0);
        }
        let sent = servers.clients.finish()?;
        requests.entries.extend(sent.entries);
        self.say("the load has ended; waiting for what is in flight");
        self.wait_until_quiet(servers)?;
        servers.app.terminate()?;
        let shipped = shipper.end()?;
        let log = servers.app.output()?;
        let replays = [
            shipped,
            replay_all(&log, redis_port, &shards)?,
            replay_all(&log, redis_port, &shards)?,
        ];
        servers.readers.wait_for_push()?;
        let watched = watchers.into_iter().map(Watcher::end);
        let watched = watched.collect::<anyhow::Result<Vec<_>>>()?;
        let logged = Logged::read(&log, began_at)?;
        let given_up = logged.leases_given_up.iter().copied();
        servers.events.slow.extend(given_up);
        let leases = servers.ledger.leases();
        let batches = servers.ledger.take_batches();
        let taken = mem::take(&mut servers.taken);
        let contents = servers.redis.contents()?;
        let is_closed = |id| contents.closed.contains(id) || taken.closed.contains(id);
        let mut counts = (0, 0);
        for lease in unsettled(&leases, &logged, &taken) {
            counts = (counts.0 + 1, counts.1 + usize::from(!is_closed(lease)));
        }
        let held = series_of(&taken.held);
        let stored = series_of(&contents.cells)
            .into_iter()
            .map(|(series, count)| {
                let held = held.get(&series).copied().unwrap_or_default();
                (series, (count, held))
            });
        let counted = taken.restore(&contents, &batches.again);
        Ok(Findings {
            plan: self.plan,
            runtime: match runtime.is_spin() {
                true => "Spin",
                false => "the dev host",
            },
            faults,
            expected: Expected::of(
                self.plan.app,
                &requests.entries,
                &servers.events,
                self.plan.durability,
            ),
            requests,
            counted: Counted::of_cells(self.plan.app, &counted, contents.open.len()),
            stored: stored.collect(),
            taken,
            broken: sent.broken,
            astray: sent.astray,
            batches,
            leases,
            unsettled: counts,
            logged,
            replays,
            watched,
            dropped_bytes: servers.path.dropped_bytes(),
        })
    }

    /// Injects all faults, and returns their numbers by name.
    fn inject_all(
        &self,
        servers: &mut Servers,
        load: &Load,
    ) -> anyhow::Result<BTreeMap<&'static str, usize>> {
        let end = Instant::now() + Duration::from_secs(self.plan.seconds);
        let mut faults = BTreeMap::new();
        let Plan {
            schedule,
            seed,
            seconds,
            ..
        } = self.plan;
        let steps = steps(schedule, seed, seconds).into_iter();
        for (done, step) in steps.enumerate() {
            // The plan does not count the time that servers need to start. On a slow
            // machine it is cut short, but each kind of fault happens once.
            let is_round_done = done >= steps_of_a_round(schedule);
            if is_round_done && Instant::now() + step.pause + step.duration() > end {
                break;
            }
            self.change_phase(load, step)?;
            self.say(&step.to_string());
            self.inject(servers, &step)
                .with_context(|| format!("the step failed: {step}"))?;
            let second = step.second.map(|(_, fault)| fault);
            for fault in [step.fault].into_iter().chain(second) {
                *faults.entry(fault.kind.name).or_default() += 1;
            }
        }
        self.sleep(end.saturating_duration_since(Instant::now()))?;
        Ok(faults)
    }

    /// Injects the faults of a step, and waits for their end.
    fn inject(&self, servers: &mut Servers, step: &Step) -> anyhow::Result<()> {
        let mut times = vec![(Duration::ZERO, step.fault)];
        times.extend(step.second);
        // Begins and ends in order. Of those at the same time, begins come first.
        let mut moments = Vec::new();
        for (index, (at, fault)) in times.iter().enumerate() {
            moments.push((*at, false, index));
            moments.push((*at + fault.time, true, index));
        }
        moments.sort_unstable();
        let began = Instant::now();
        let mut began_at = [Duration::ZERO; 2];
        for (at, is_end, index) in moments {
            self.sleep((began + at).saturating_duration_since(Instant::now()))?;
            let kind = times[index].1.kind;
            if is_end {
                (kind.end)(servers, began_at[index])?;
            } else {
                began_at[index] = self.began.elapsed();
                (kind.begin)(servers)?;
            }
        }
        Ok(())
    }

    /// Pauses before a step, and changes the phase when the effects of the previous fault
    /// are over. Nothing ends an instance shortly before or after the change, so that no
    /// death affects a calm response.
    fn change_phase(&self, load: &Load, step: Step) -> anyhow::Result<()> {
        let is_deadly = step.phase == Phase::Deadly;
        if !is_deadly {
            load.set_fatal(false);
        }
        self.sleep(OUTAGE_LASTS)?;
        load.set_phase(step.phase);
        self.sleep(BETWEEN_PHASES)?;
        load.set_fatal(is_deadly);
        self.sleep(step.pause.saturating_sub(OUTAGE_LASTS + BETWEEN_PHASES))
    }

    /// Waits until no lease is open and no count changes.
    fn wait_until_quiet(&self, servers: &Servers) -> anyhow::Result<()> {
        let deadline = Instant::now() + QUIET_TIMEOUT;
        let mut last = (Counted::default(), Instant::now());
        loop {
            let contents = servers.redis.contents()?;
            let counted = Counted::of_contents(self.plan.app, &contents);
            if counted != last.0 {
                last = (counted, Instant::now());
            } else if counted.open_leases == 0 && last.1.elapsed() >= QUIET {
                return Ok(());
            }
            let is_late = Instant::now() > deadline;
            ensure!(
                !is_late,
                "after {QUIET_TIMEOUT:?} executions are in flight: {:?}",
                last.0
            );
            self.sleep(POLL)?;
        }
    }

    /// Sleeps, unless the run is interrupted.
    fn sleep(&self, time: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + time;
        loop {
            ensure!(!self.is_interrupted.load(Ordering::Relaxed), "interrupted");
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(POLL));
        }
    }

    fn say(&self, what: &str) {
        eprintln!("{:8.2} s  {what}", self.began.elapsed().as_secs_f64());
    }
}
