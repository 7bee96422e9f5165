//! Instances of the service as Redis sees them: each opens a connection, checks
//! that its families are registered, makes the calls of its requests with the real
//! scripts, and ends. They do nothing else, so that Redis is measured. Over shards, an
//! instance has the shard that its random name gives it, for life.

use std::{
    collections::{BTreeSet, VecDeque},
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
    shard::{shard_of, shard_prefix},
};
use redis::Value;

use crate::{
    machine::cpu_of_threads,
    measure::{Bench, as_float},
    store::Store,
};

/// The number of requests that Spin gives an instance.
pub(crate) const REQUESTS_OF_AN_INSTANCE: u64 = 128;
/// One thread encodes while Redis works for the other.
const THREADS: usize = 2;
/// The lease time of the service: 30 s for the execution, and 5 s.
const LEASE_MILLIS: u64 = 35_000;

/// Long enough for each of up to some 300 instances at a time to end.
pub(crate) const LASTING: Duration = Duration::from_millis(800);
const SMOKE_LASTING: Duration = Duration::from_millis(100);

/// The writes of instances.
#[derive(Debug, Clone)]
pub(crate) struct Workload {
    /// The prefix of every key, to which shards add their number.
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
    /// No batch begins after this time.
    pub(crate) lasting: Duration,
}

/// The cost of a workload.
#[derive(Debug, Clone)]
pub(crate) struct Cost {
    pub(crate) completed: Completed,
    /// Processor time of Redis, of all servers, without what rewrites their append-only
    /// files: that is another process, on another core.
    pub(crate) redis: Duration,
    /// On the clock.
    pub(crate) took: Duration,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Completed {
    /// Requests whose batch Redis has applied.
    pub(crate) requests: u64,
    /// Of these, the requests of each shard.
    of_shards: Vec<u64>,
    /// Leases and calls of scripts.
    pub(crate) calls: u64,
    pub(crate) instances: u64,
}

impl Completed {
    /// Nothing yet, on so many shards.
    fn of(shards: usize) -> Self {
        Self {
            of_shards: vec![0; shards],
            ..Self::default()
        }
    }
}

impl Cost {
    /// Runs a workload for a while on the servers of the shards, or on one without
    /// shards. Fails unless each request is counted once, in the shard of its
    /// instance, and no lease is left.
    pub(crate) fn measure(
        bench: &Bench,
        stores: &[&Store],
        workload: &Workload,
    ) -> anyhow::Result<Self> {
        let lasting = match bench.smoke {
            true => SMOKE_LASTING,
            false => workload.lasting,
        };
        let prefixes = prefixes(&workload.prefix, stores.len());
        let counted_before = counted_in_each(stores, &prefixes)?;
        let cpu_before = cpu_of_all(stores)?;
        let began = Instant::now();
        let completed = workload.run(stores, &prefixes, lasting)?;
        let took = began.elapsed();
        let redis = cpu_of_all(stores)?.saturating_sub(cpu_before);
        let counted = counted_in_each(stores, &prefixes)?;
        for (place, prefix) in prefixes.iter().enumerate() {
            let sent = completed.of_shards[place];
            let counted = counted[place] - counted_before[place];
            ensure!(
                counted == sent,
                "under {prefix}, {sent} requests were sent, and {counted} are counted"
            );
            let leases: u64 = stores[place].call(&["ZCARD", &leases_key(prefix)])?;
            ensure!(leases == 0, "under {prefix}, {leases} leases are open");
        }
        Ok(Self {
            completed,
            redis,
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

    /// Requests per second on the clock.
    pub(crate) fn requests_per_second(&self) -> f64 {
        as_float(self.completed.requests) / self.took.as_secs_f64()
    }
}

/// Processor time of the servers, each once, whatever the number of its shards.
pub(crate) fn cpu_of_all(stores: &[&Store]) -> anyhow::Result<Duration> {
    let processes: BTreeSet<u32> = stores.iter().map(|store| store.process_id()).collect();
    processes.into_iter().map(cpu_of_threads).sum()
}

fn counted_in_each(stores: &[&Store], prefixes: &[String]) -> anyhow::Result<Vec<u64>> {
    let shards = stores.iter().zip(prefixes);
    shards
        .map(|(store, prefix)| counted(store, prefix))
        .collect()
}

/// The number of executions under a prefix, by their durations: each is in one bucket
/// of its algorithm's histogram.
fn counted(store: &Store, prefix: &str) -> anyhow::Result<u64> {
    const SUM: &str = "local sum = 0 \
        local cells = redis.call('HGETALL', KEYS[1]) \
        for i = 1, #cells, 2 do \
          if string.sub(cells[i], -4) ~= '|sum' then sum = sum + cells[i + 1] end \
        end \
        return sum";
    store.call(&["EVAL", SUM, "1", &format!("{prefix}algorithm_latency")])
}

/// The prefixes of an app with so many shards. A single one is an app without shards.
pub(crate) fn prefixes(prefix: &str, shards: usize) -> Vec<String> {
    match shards {
        1 => vec![prefix.to_owned()],
        _ => (0..shards)
            .map(|shard| shard_prefix(prefix, as_number(shard)))
            .collect(),
    }
}

/// The number of a shard, or of shards, as the protocol has it.
fn as_number(shards: usize) -> u32 {
    u32::try_from(shards).unwrap_or(u32::MAX)
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
    fn run(
        &self,
        stores: &[&Store],
        prefixes: &[String],
        lasting: Duration,
    ) -> anyhow::Result<Completed> {
        let ports: Vec<u16> = stores.iter().map(|store| store.port()).collect();
        let until = Instant::now() + lasting;
        let shares = (0..THREADS).map(|thread| self.instances.saturating_sub(thread));
        let shares = shares.map(|left| left.div_ceil(THREADS));
        thread::scope(|scope| {
            let ports = &ports;
            let threads: Vec<_> = shares
                .filter(|share| *share > 0)
                .map(|share| scope.spawn(move || self.run_share(ports, prefixes, share, until)))
                .collect();
            let mut all = Completed::of(prefixes.len());
            for thread in threads {
                let completed = thread
                    .join()
                    .map_err(|_panic| anyhow!("a client panicked"))??;
                all.requests += completed.requests;
                all.calls += completed.calls;
                all.instances += completed.instances;
                for (all, own) in all.of_shards.iter_mut().zip(completed.of_shards) {
                    *all += own;
                }
            }
            Ok(all)
        })
    }

    fn run_share(
        &self,
        ports: &[u16],
        prefixes: &[String],
        share: usize,
        until: Instant,
    ) -> anyhow::Result<Completed> {
        let shards = prefixes.iter().zip(ports).enumerate();
        let shards = shards.map(|(shard, (prefix, port))| Calls::new(self, shard, prefix, *port));
        let shards = shards.collect::<anyhow::Result<Vec<_>>>()?;
        let mut completed = Completed::of(shards.len());
        let mut running = Vec::new();
        for _ in 0..share {
            running.push(Instance::begin(&shards)?);
            completed.instances += 1;
        }
        loop {
            let more = Instant::now() < until;
            for instance in &mut running {
                if instance.queue.is_empty() && more {
                    if instance.left == 0 {
                        *instance = Instance::begin(&shards)?;
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

/// Memory that a connection takes in Redis after its instance's first batch, in bytes:
/// the mean over the instances of a workload.
pub(crate) fn memory_of_a_connection(store: &Store, workload: &Workload) -> anyhow::Result<f64> {
    let calls = [Calls::new(workload, 0, &workload.prefix, store.port())?];
    let before = store.memory()?;
    let (mut running, mut completed) = (Vec::new(), Completed::of(1));
    for _ in 0..workload.instances {
        let mut instance = Instance::begin(&calls)?;
        instance.finish_queue(&mut completed)?;
        instance.queue_batches(1)?;
        instance.finish_queue(&mut completed)?;
        running.push(instance);
    }
    let grown = store.memory()?.saturating_sub(before);
    Ok(as_float(grown) / as_float(running.len() as u64))
}

/// Parts of the calls that all instances of a shard share.
struct Calls<'a> {
    workload: &'a Workload,
    shard: usize,
    prefix: &'a str,
    client: redis::Client,
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
    fn new(
        workload: &'a Workload,
        shard: usize,
        prefix: &'a str,
        port: u16,
    ) -> anyhow::Result<Self> {
        let client = redis::Client::open(("127.0.0.1", port))?;
        let mut connection = client.get_connection()?;
        let mut load = |script: &Script| -> anyhow::Result<String> {
            let mut load = redis::cmd("SCRIPT");
            Ok(load.arg("LOAD").arg(script.source).query(&mut connection)?)
        };
        let is_registered = load(&Script::IS_REGISTERED)?;
        let apply = load(&Script::APPLY_UNLIMITED)?;
        let register = load(&Script::REGISTER)?;
        let catalog = Catalog::new(prefix);
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
            let call = register_call(prefix, 1, &algorithm.registration);
            connection.send_packed_command(&packed(&register, &call))?;
            connection.recv_response()?;
        }
        Ok(Self {
            algorithms,
            apply,
            is_registered,
            workload,
            shard,
            prefix,
            client,
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
    fn begin(shards: &'a [Calls<'a>]) -> anyhow::Result<Self> {
        static BEGUN: AtomicU64 = AtomicU64::new(0);
        let begun = BEGUN.fetch_add(1, Ordering::Relaxed);
        let nonce = scattered(begun);
        let shard = shard_of(nonce, as_number(shards.len()));
        let calls = &shards[usize::try_from(shard)?];
        let now = SystemTime::UNIX_EPOCH.elapsed()?;
        // Instances take the algorithms in turn, in a scattered order.
        let turn = begun.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
        let algorithm = usize::try_from(turn)? % calls.algorithms.len();
        let named = &calls.algorithms[algorithm];
        let call = is_registered_call(calls.prefix, &named.registration);
        let first = Queued {
            packed: packed(&calls.is_registered, &call),
            expected: Reply::Registered,
        };
        Ok(Self {
            connection: calls.client.get_connection()?,
            id: BatchId { nonce, sequence: 0 },
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
        let prefix = calls.prefix;
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

    /// Sends what is queued, one call after the other.
    fn finish_queue(&mut self, completed: &mut Completed) -> anyhow::Result<()> {
        while !self.queue.is_empty() {
            self.send(1)?;
            self.receive(completed)?;
        }
        Ok(())
    }

    fn receive(&mut self, completed: &mut Completed) -> anyhow::Result<()> {
        while let Some(expected) = self.sent.pop_front() {
            let reply = self.connection.recv_response()?;
            let requests = expected.counted(reply)?;
            completed.calls += 1;
            completed.requests += requests;
            completed.of_shards[self.calls.shard] += requests;
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

/// A number that looks random, another one for each number: the finaliser of
/// [splitmix64](https://prng.di.unimi.it/splitmix64.c).
pub(crate) fn scattered(number: u64) -> u64 {
    let mixed = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn packed(digest: &str, call: &Call) -> Vec<u8> {
    let mut command = redis::cmd("EVALSHA");
    command.arg(digest);
    for part in call.parts() {
        command.arg(part);
    }
    command.get_packed_command()
}
