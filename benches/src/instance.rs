//! Instances of the service as Redis sees them: each opens a connection, asks
//! whether its families are registered, makes the calls of its requests with the
//! real scripts, and ends. What else an instance does is left out, so that Redis
//! is what there is to measure.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, anyhow, bail, ensure};
use functional_scaffold_protocol::{
    batch::{Batch, BatchId},
    calls::{
        Call, Registration, Script, apply_merged_call, is_registered_call, lease_command,
        register_call,
    },
    catalog::{Catalog, ExecutionStatus, FinishedExecution, FinishedRequest, RequestLabels},
    lease::LeaseTemplate,
};
use redis::Value;

/// How many requests Spin gives an instance.
pub(crate) const REQUESTS_OF_AN_INSTANCE: u64 = 128;
/// What runs the instances: one encodes while Redis works for the other.
const THREADS: usize = 2;
/// The lease's time in the service: 30 s for the execution, and 5 s.
const LEASE_MILLIS: u64 = 35_000;

/// What instances write, and how.
#[derive(Debug, Clone)]
pub(crate) struct Habit {
    /// What every key begins with.
    pub(crate) prefix: String,
    /// Whether each execution takes a lease first.
    pub(crate) leased: bool,
    /// Requests a batch; 0 for instances that begin and end.
    pub(crate) batch: u64,
    /// Algorithms, each with a route and series of its own, that take turns.
    pub(crate) algorithms: u64,
    /// Instances at the same time, each with its connection.
    pub(crate) instances: usize,
    /// Calls that an instance sends before it reads the answers. The service
    /// sends one.
    pub(crate) calls_at_a_time: usize,
}

/// What instances did.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Done {
    /// Requests whose batch Redis has applied.
    pub(crate) requests: u64,
    /// Leases and calls of scripts, instances' first included.
    pub(crate) calls: u64,
    /// Instances that began.
    pub(crate) instances: u64,
}

/// The route that serves an algorithm.
pub(crate) fn endpoint(algorithm: u64) -> String {
    format!("/invoke/algorithm-{algorithm}")
}

/// The name of an algorithm.
pub(crate) fn algorithm_name(algorithm: u64) -> String {
    format!("algorithm-{algorithm}")
}

impl Habit {
    /// Runs instances for a while; each finishes the batch it has begun.
    ///
    /// # Errors
    /// Redis answered something else than that it did what it was asked for.
    pub(crate) fn run(&self, port: u16, lasting: Duration) -> anyhow::Result<Done> {
        let until = Instant::now() + lasting;
        let shares = (0..THREADS).map(|thread| self.instances.saturating_sub(thread));
        let shares = shares.map(|left| left.div_ceil(THREADS));
        thread::scope(|scope| {
            let threads: Vec<_> = shares
                .filter(|share| *share > 0)
                .map(|share| scope.spawn(move || self.run_some(port, share, until)))
                .collect();
            let mut all = Done::default();
            for thread in threads {
                let done = thread
                    .join()
                    .map_err(|_panic| anyhow!("a client panicked"))??;
                all.requests += done.requests;
                all.calls += done.calls;
                all.instances += done.instances;
            }
            Ok(all)
        })
    }

    fn run_some(&self, port: u16, instances: usize, until: Instant) -> anyhow::Result<Done> {
        let client = redis::Client::open(("127.0.0.1", port))?;
        let forms = Forms::new(self, &client)?;
        let mut done = Done::default();
        let mut running = Vec::new();
        for _ in 0..instances {
            running.push(Instance::begin(&forms, &client)?);
            done.instances += 1;
        }
        loop {
            let more = Instant::now() < until;
            for instance in &mut running {
                if instance.queue.is_empty() && more {
                    if instance.left == 0 {
                        *instance = Instance::begin(&forms, &client)?;
                        done.instances += 1;
                    } else {
                        instance.queue_batches(self.calls_at_a_time)?;
                    }
                }
                instance.send(self.calls_at_a_time)?;
            }
            for instance in &mut running {
                instance.receive(&mut done)?;
            }
            if !more && running.iter().all(|instance| instance.queue.is_empty()) {
                return Ok(done);
            }
        }
    }
}

/// What all instances have in common.
struct Forms<'a> {
    habit: &'a Habit,
    catalog: Catalog,
    apply: String,
    known: String,
    algorithms: Vec<Algorithm>,
}

struct Algorithm {
    name: String,
    endpoint: String,
    lease: LeaseTemplate,
    registration: Registration,
}

impl<'a> Forms<'a> {
    fn new(habit: &'a Habit, client: &redis::Client) -> anyhow::Result<Self> {
        let mut connection = client.get_connection()?;
        let mut load = |script: &Script| -> anyhow::Result<String> {
            let mut load = redis::cmd("SCRIPT");
            Ok(load.arg("LOAD").arg(script.source).query(&mut connection)?)
        };
        let known = load(&Script::IS_REGISTERED)?;
        let apply = load(&Script::APPLY)?;
        let register = load(&Script::REGISTER)?;
        let catalog = Catalog::new(&habit.prefix);
        let algorithms = (0..habit.algorithms).map(|number| {
            let (name, endpoint) = (algorithm_name(number), endpoint(number));
            let counts = catalog.crash_cells(&name, &endpoint);
            Algorithm {
                lease: LeaseTemplate::new(LEASE_MILLIS, counts),
                registration: Registration::of_catalog(&catalog, &name, &[&endpoint]),
                name,
                endpoint,
            }
        });
        let algorithms: Vec<_> = algorithms.collect();
        // Once for all instances: those of the service know for a minute.
        for algorithm in &algorithms {
            let call = register_call(&habit.prefix, 1, &algorithm.registration);
            connection.send_packed_command(&packed(&register, &call))?;
            connection.recv_response()?;
        }
        Ok(Self {
            algorithms,
            apply,
            known,
            habit,
            catalog,
        })
    }
}

/// A call that waits to be sent.
struct Queued {
    packed: Vec<u8>,
    answer: Answer,
}

/// What Redis is to say to a call.
#[derive(Clone, Copy)]
enum Answer {
    /// That its families are registered.
    Known,
    /// One member of the sorted set that was not there.
    LeasedExecution,
    /// That a batch of so many requests is applied.
    Applied(u64),
}

struct Instance<'a> {
    forms: &'a Forms<'a>,
    connection: redis::Connection,
    id: BatchId,
    /// When it began, as this Redis, which never stood still, would tell.
    lease_time_millis: i64,
    leases: u64,
    algorithm: usize,
    /// Requests that it takes before it ends.
    left: u64,
    queue: VecDeque<Queued>,
    sent: VecDeque<Answer>,
}

impl<'a> Instance<'a> {
    fn begin(forms: &'a Forms<'a>, client: &redis::Client) -> anyhow::Result<Self> {
        static BEGUN: AtomicU64 = AtomicU64::new(0);
        let begun = BEGUN.fetch_add(1, Ordering::Relaxed);
        let now = SystemTime::UNIX_EPOCH.elapsed()?;
        // Algorithms take turns, by instances, in an order that is none.
        let turn = begun.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
        let algorithm = usize::try_from(turn)? % forms.algorithms.len();
        let named = &forms.algorithms[algorithm];
        let call = is_registered_call(&forms.habit.prefix, &named.registration);
        let question = Queued {
            packed: packed(&forms.known, &call),
            answer: Answer::Known,
        };
        Ok(Self {
            connection: client.get_connection()?,
            id: BatchId {
                started_at: now.as_secs(),
                nonce: begun,
                sequence: 0,
            },
            lease_time_millis: i64::try_from(now.as_millis())?,
            leases: 0,
            algorithm,
            left: match forms.habit.batch {
                0 => 0,
                _ => REQUESTS_OF_AN_INSTANCE,
            },
            queue: VecDeque::from([question]),
            sent: VecDeque::new(),
            forms,
        })
    }

    /// Batches until so many calls wait, or the instance has had its requests.
    fn queue_batches(&mut self, calls: usize) -> anyhow::Result<()> {
        while self.left > 0 && self.queue.len() < calls {
            let requests = self.forms.habit.batch.min(self.left);
            self.left -= requests;
            self.queue_batch(requests)?;
        }
        ensure!(!self.queue.is_empty(), "an instance with nothing to do");
        Ok(())
    }

    fn queue_batch(&mut self, requests: u64) -> anyhow::Result<()> {
        let forms = self.forms;
        let algorithm = &forms.algorithms[self.algorithm];
        let prefix = &forms.habit.prefix;
        let mut leases = Vec::new();
        let mut total = Batch::default();
        for request in 0..requests {
            if forms.habit.leased {
                self.leases += 1;
                let id = format!("{}/{}", self.id.writer(), self.leases);
                let lease = algorithm.lease.with_id(id);
                let command = lease_command(prefix, &lease, self.lease_time_millis);
                leases.push(lease);
                self.queue.push_back(Queued {
                    packed: redis::cmd(command.name)
                        .arg(command.arguments)
                        .get_packed_command(),
                    answer: Answer::LeasedExecution,
                });
            }
            // One in four takes longer: a batch seldom is of one bucket alone.
            let duration_nanos = if request % 4 == 3 { 120_000 } else { 60_000 };
            let finished = FinishedRequest {
                labels: RequestLabels::new("POST", &algorithm.endpoint, 200),
                duration_nanos,
            };
            forms.catalog.record_request(&mut total, &finished);
            let execution = FinishedExecution {
                algorithm: &algorithm.name,
                status: ExecutionStatus::Success,
                duration_nanos: duration_nanos / 2,
            };
            forms.catalog.record_execution(&mut total, &execution);
        }
        self.id.sequence += 1;
        let call = apply_merged_call(prefix, &self.id, leases.iter(), &total);
        self.queue.push_back(Queued {
            packed: packed(&forms.apply, &call),
            answer: Answer::Applied(requests),
        });
        Ok(())
    }

    fn send(&mut self, calls: usize) -> anyhow::Result<()> {
        let calls = calls.min(self.queue.len());
        let mut packed = Vec::new();
        for queued in self.queue.drain(..calls) {
            packed.extend(queued.packed);
            self.sent.push_back(queued.answer);
        }
        if !packed.is_empty() {
            self.connection.send_packed_command(&packed)?;
        }
        Ok(())
    }

    fn receive(&mut self, done: &mut Done) -> anyhow::Result<()> {
        while let Some(expected) = self.sent.pop_front() {
            let answer = self.connection.recv_response()?;
            done.calls += 1;
            done.requests += expected.accept(answer)?;
        }
        Ok(())
    }
}

impl Answer {
    /// How many requests it says are counted.
    fn accept(self, answer: Value) -> anyhow::Result<u64> {
        if matches!((self, &answer), (Self::LeasedExecution, Value::Int(1))) {
            return Ok(0);
        }
        let texts: Vec<String> = redis::from_redis_value(&answer)
            .with_context(|| format!("Redis answered {answer:?}"))?;
        // Either has lease time in it.
        match (self, texts.as_slice()) {
            (Self::Known, [_time]) => Ok(0),
            (Self::Applied(requests), [applied, _time]) if applied == "applied" => Ok(requests),
            _ => bail!("Redis answered {texts:?}"),
        }
    }
}

fn packed(sha: &str, call: &Call) -> Vec<u8> {
    let mut command = redis::cmd("EVALSHA");
    command.arg(sha);
    for part in call.parts() {
        command.arg(part);
    }
    command.get_packed_command()
}
