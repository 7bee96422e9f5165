//! Instances of the service as Redis sees them: each opens a connection, checks
//! that its families are registered, makes the calls of its requests with the real
//! scripts, and ends. They do nothing else, so that Redis is measured.

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
        Call, Registration, Script, apply_call_from_parts, is_registered_call, lease_command,
        leases_key, register_call,
    },
    catalog::{
        Catalog, ExecutionStatus, FinishedExecution, FinishedRequest, RequestLabels, RouteLabels,
    },
    lease::LeaseTemplate,
};
use redis::Value;

use crate::{
    measure::{Bench, as_float},
    store::Store,
};

/// The number of requests that Spin gives an instance.
pub(crate) const REQUESTS_OF_AN_INSTANCE: u64 = 128;
/// One thread encodes while Redis works for the other.
const THREADS: usize = 2;
/// The lease time of the service: 30 s for the execution, and 5 s.
const LEASE_MILLIS: u64 = 35_000;

const LASTING: Duration = Duration::from_millis(800);
const SMOKE_LASTING: Duration = Duration::from_millis(100);

/// The writes of instances.
#[derive(Debug, Clone)]
pub(crate) struct Workload {
    /// Of every key.
    pub(crate) prefix: String,
    /// True if each execution takes a lease first.
    pub(crate) leased: bool,
    /// Requests per batch; 0 for instances that begin and end.
    pub(crate) batch: u64,
    /// Algorithms in turn, each with its own route and series.
    pub(crate) algorithms: u64,
    /// Instances at a time, each with a connection.
    pub(crate) instances: usize,
    /// Calls that an instance sends before it reads the replies. The service
    /// sends one.
    pub(crate) pipelined: usize,
}

/// The cost of a workload.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    pub(crate) completed: Completed,
    /// Processor time of Redis.
    pub(crate) redis: Duration,
    /// On the clock.
    pub(crate) took: Duration,
}

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Completed {
    /// Requests whose batch Redis has applied.
    pub(crate) requests: u64,
    /// Leases and calls of scripts.
    pub(crate) calls: u64,
    pub(crate) instances: u64,
}

impl Cost {
    /// Runs a workload for a while. Fails unless each request is counted once, and
    /// no lease is left.
    pub(crate) fn measure(
        bench: &Bench,
        store: &Store,
        workload: &Workload,
    ) -> anyhow::Result<Self> {
        let lasting = if bench.smoke { SMOKE_LASTING } else { LASTING };
        let before = (counted(store, workload)?, store.work()?);
        let began = Instant::now();
        let completed = workload.run(store.port(), lasting)?;
        let took = began.elapsed();
        let work = store.work()?;
        let counted = counted(store, workload)? - before.0;
        ensure!(
            counted == completed.requests,
            "{} requests were sent, {counted} are counted",
            completed.requests
        );
        let leases: u64 = store.call(&["ZCARD", &leases_key(&workload.prefix)])?;
        ensure!(leases == 0, "{leases} leases are open");
        Ok(Self {
            completed,
            redis: work.cpu.saturating_sub(before.1.cpu),
            took,
        })
    }

    /// Requests per second of processor time of Redis.
    pub(crate) fn requests_per_core(&self) -> f64 {
        as_float(self.completed.requests) / self.redis.as_secs_f64()
    }

    /// Processor time of Redis per request, in microseconds.
    pub(crate) fn micros_per_request(&self) -> f64 {
        1e6 / self.requests_per_core()
    }
}

/// The number of executions in the store, by their durations: each is in one bucket
/// of its algorithm's histogram.
fn counted(store: &Store, workload: &Workload) -> anyhow::Result<u64> {
    const SUM: &str = "local sum = 0 \
        local cells = redis.call('HGETALL', KEYS[1]) \
        for i = 1, #cells, 2 do \
          if string.sub(cells[i], -4) ~= '|sum' then sum = sum + cells[i + 1] end \
        end \
        return sum";
    let key = format!("{}algorithm_latency", workload.prefix);
    store.call(&["EVAL", SUM, "1", &key])
}

pub(crate) fn endpoint(algorithm: u64) -> String {
    format!("/invoke/algorithm-{algorithm}")
}

pub(crate) fn algorithm_name(algorithm: u64) -> String {
    format!("algorithm-{algorithm}")
}

/// Records a request with its execution, which takes half of the time.
pub(crate) fn record(
    catalog: &Catalog,
    batch: &mut Batch,
    algorithm: &str,
    endpoint: &str,
    duration_nanos: u64,
) {
    let request = FinishedRequest {
        labels: RequestLabels::new("POST", endpoint, 200),
        duration_nanos,
    };
    catalog.record_request(batch, &request);
    let execution = FinishedExecution {
        algorithm,
        status: ExecutionStatus::Success,
        duration_nanos: duration_nanos / 2,
    };
    catalog.record_execution(batch, &execution);
}

impl Workload {
    /// Runs instances for a while; each finishes the batch it has begun.
    fn run(&self, port: u16, lasting: Duration) -> anyhow::Result<Completed> {
        let until = Instant::now() + lasting;
        let shares = (0..THREADS).map(|thread| self.instances.saturating_sub(thread));
        let shares = shares.map(|left| left.div_ceil(THREADS));
        thread::scope(|scope| {
            let threads: Vec<_> = shares
                .filter(|share| *share > 0)
                .map(|share| scope.spawn(move || self.run_share(port, share, until)))
                .collect();
            let mut all = Completed::default();
            for thread in threads {
                let completed = thread
                    .join()
                    .map_err(|_panic| anyhow!("a client panicked"))??;
                all.requests += completed.requests;
                all.calls += completed.calls;
                all.instances += completed.instances;
            }
            Ok(all)
        })
    }

    fn run_share(&self, port: u16, share: usize, until: Instant) -> anyhow::Result<Completed> {
        let client = redis::Client::open(("127.0.0.1", port))?;
        let calls = Calls::new(self, &client)?;
        let mut completed = Completed::default();
        let mut running = Vec::new();
        for _ in 0..share {
            running.push(Instance::begin(&calls, &client)?);
            completed.instances += 1;
        }
        loop {
            let more = Instant::now() < until;
            for instance in &mut running {
                if instance.queue.is_empty() && more {
                    if instance.left == 0 {
                        *instance = Instance::begin(&calls, &client)?;
                        completed.instances += 1;
                    } else {
                        instance.queue_batches(self.pipelined)?;
                    }
                }
                instance.send(self.pipelined)?;
            }
            for instance in &mut running {
                instance.receive(&mut completed)?;
            }
            if !more && running.iter().all(|instance| instance.queue.is_empty()) {
                return Ok(completed);
            }
        }
    }
}

/// Parts of the calls that all instances share.
struct Calls<'a> {
    workload: &'a Workload,
    catalog: Catalog,
    /// Digests of the loaded scripts.
    apply: String,
    is_registered: String,
    algorithms: Vec<Algorithm>,
}

struct Algorithm {
    name: String,
    endpoint: String,
    lease: LeaseTemplate,
    registration: Registration,
}

impl<'a> Calls<'a> {
    fn new(workload: &'a Workload, client: &redis::Client) -> anyhow::Result<Self> {
        let mut connection = client.get_connection()?;
        let mut load = |script: &Script| -> anyhow::Result<String> {
            let mut load = redis::cmd("SCRIPT");
            Ok(load.arg("LOAD").arg(script.source).query(&mut connection)?)
        };
        let is_registered = load(&Script::IS_REGISTERED)?;
        let apply = load(&Script::APPLY)?;
        let register = load(&Script::REGISTER)?;
        let catalog = Catalog::new(&workload.prefix);
        let algorithms = (0..workload.algorithms).map(|number| {
            let (name, endpoint) = (algorithm_name(number), endpoint(number));
            let counts = catalog.crash_cells(&name, RouteLabels::new("POST", &endpoint));
            Algorithm {
                lease: LeaseTemplate::new(LEASE_MILLIS, counts),
                registration: Registration::of_catalog(&catalog, &name, &[&endpoint]),
                name,
                endpoint,
            }
        });
        let algorithms: Vec<_> = algorithms.collect();
        // Once for all instances, as in the service for a minute.
        for algorithm in &algorithms {
            let call = register_call(&workload.prefix, 1, &algorithm.registration);
            connection.send_packed_command(&packed(&register, &call))?;
            connection.recv_response()?;
        }
        Ok(Self {
            algorithms,
            apply,
            is_registered,
            workload,
            catalog,
        })
    }
}

/// A call that waits to be sent.
struct Queued {
    packed: Vec<u8>,
    expected: Reply,
}

/// The reply that a call must get.
#[derive(Clone, Copy)]
enum Reply {
    Registered,
    /// One new member of the sorted set.
    LeaseAdded,
    /// A batch of so many requests.
    Applied(u64),
}

struct Instance<'a> {
    calls: &'a Calls<'a>,
    connection: redis::Connection,
    id: BatchId,
    /// When it began, by the clock of Redis, which is this machine's.
    lease_time_millis: i64,
    leases: u64,
    algorithm: usize,
    /// Requests until it ends.
    left: u64,
    queue: VecDeque<Queued>,
    sent: VecDeque<Reply>,
}

impl<'a> Instance<'a> {
    fn begin(calls: &'a Calls<'a>, client: &redis::Client) -> anyhow::Result<Self> {
        static BEGUN: AtomicU64 = AtomicU64::new(0);
        let begun = BEGUN.fetch_add(1, Ordering::Relaxed);
        let now = SystemTime::UNIX_EPOCH.elapsed()?;
        // Instances take the algorithms in turn, in a scattered order.
        let turn = begun.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
        let algorithm = usize::try_from(turn)? % calls.algorithms.len();
        let named = &calls.algorithms[algorithm];
        let call = is_registered_call(&calls.workload.prefix, &named.registration);
        let first = Queued {
            packed: packed(&calls.is_registered, &call),
            expected: Reply::Registered,
        };
        Ok(Self {
            connection: client.get_connection()?,
            id: BatchId {
                nonce: begun,
                sequence: 0,
            },
            lease_time_millis: i64::try_from(now.as_millis())?,
            leases: 0,
            algorithm,
            left: match calls.workload.batch {
                0 => 0,
                _ => REQUESTS_OF_AN_INSTANCE,
            },
            queue: VecDeque::from([first]),
            sent: VecDeque::new(),
            calls,
        })
    }

    /// Queues batches until so many calls wait, or no request is left.
    fn queue_batches(&mut self, calls: usize) -> anyhow::Result<()> {
        while self.left > 0 && self.queue.len() < calls {
            let requests = self.calls.workload.batch.min(self.left);
            self.left -= requests;
            self.queue_batch(requests);
        }
        ensure!(!self.queue.is_empty(), "an instance with nothing to do");
        Ok(())
    }

    fn queue_batch(&mut self, requests: u64) {
        let calls = self.calls;
        let algorithm = &calls.algorithms[self.algorithm];
        let prefix = &calls.workload.prefix;
        let mut leases = Vec::new();
        let mut merged = Batch::default();
        for request in 0..requests {
            if calls.workload.leased {
                self.leases += 1;
                let id = format!("{:016x}/{}", self.id.nonce, self.leases);
                let lease = algorithm.lease.begin(id, self.lease_time_millis);
                let command = lease_command(prefix, &lease);
                leases.push(lease);
                self.queue.push_back(Queued {
                    packed: redis::cmd(command.name)
                        .arg(command.arguments)
                        .get_packed_command(),
                    expected: Reply::LeaseAdded,
                });
            }
            // One in four is longer: a batch rarely has one bucket alone.
            let nanos = if request % 4 == 3 { 120_000 } else { 60_000 };
            let Algorithm { name, endpoint, .. } = algorithm;
            record(&calls.catalog, &mut merged, name, endpoint, nanos);
        }
        self.id.sequence += 1;
        let frozen = self.lease_time_millis;
        let call = apply_call_from_parts(prefix, &self.id, frozen, leases.iter(), &merged);
        self.queue.push_back(Queued {
            packed: packed(&calls.apply, &call),
            expected: Reply::Applied(requests),
        });
    }

    fn send(&mut self, calls: usize) -> anyhow::Result<()> {
        let calls = calls.min(self.queue.len());
        let mut packed = Vec::new();
        for queued in self.queue.drain(..calls) {
            packed.extend(queued.packed);
            self.sent.push_back(queued.expected);
        }
        if !packed.is_empty() {
            self.connection.send_packed_command(&packed)?;
        }
        Ok(())
    }

    fn receive(&mut self, completed: &mut Completed) -> anyhow::Result<()> {
        while let Some(expected) = self.sent.pop_front() {
            let reply = self.connection.recv_response()?;
            completed.calls += 1;
            completed.requests += expected.counted(reply)?;
        }
        Ok(())
    }
}

impl Reply {
    /// The number of requests that this reply counts. Fails on another reply.
    fn counted(self, reply: Value) -> anyhow::Result<u64> {
        if matches!((self, &reply), (Self::LeaseAdded, Value::Int(1))) {
            return Ok(0);
        }
        let texts: Vec<String> =
            redis::from_redis_value(&reply).with_context(|| format!("Redis replied {reply:?}"))?;
        // The last text is the lease time.
        match (self, texts.as_slice()) {
            (Self::Registered, [_]) => Ok(0),
            (Self::Applied(requests), [applied, _]) if applied == "applied" => Ok(requests),
            _ => bail!("Redis replied {texts:?}"),
        }
    }
}

fn packed(digest: &str, call: &Call) -> Vec<u8> {
    let mut command = redis::cmd("EVALSHA");
    command.arg(digest);
    for part in call.parts() {
        command.arg(part);
    }
    command.get_packed_command()
}
