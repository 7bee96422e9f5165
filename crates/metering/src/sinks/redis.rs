//! The Redis scheme: a batch is one script call, applied once under its id.
//!
//! Each instance registers the families once, before its first lease or batch,
//! so that a crash is counted under a name that readers know. A lease is acknowledged by
//! Redis before its execution starts, so that an execution which dies with its instance is
//! still counted.
//!
//! In Redis Cluster all keys of an instance are in one slot, so one node has them. The
//! client follows the slot: the error `MOVED` names the node that has it.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Waker},
    time::Duration,
};

use functional_scaffold_protocol::{
    calls::{
        ApplyReply, Call, CheckReply, Command, Eviction, RegisterReply, Registration, Script,
        apply_call_from_parts, check_call, decode_is_registered, is_registered_call, lease_command,
        register_call,
    },
    catalog::RouteLabels,
    lease::EncodedLease,
};
use serde_json::json;
use spin_sdk::{
    redis::{Connection, Error, RedisParameter, RedisResult},
    wasip3::random::random::get_random_u64,
    wit_bindgen,
};

use crate::{
    batcher::{Batcher, FrozenBatch, Leasing},
    config::{Config, Durability, LINGER, RedisConfig, Server, Shard},
    denied::turn_off,
    log::{self, Level},
    single_flight::SingleFlight,
    sinks::error::{StoreError, Stored, Unacknowledged},
    time::{Deadline, Instant},
};

/// Writes leases and batches of one instance to Redis.
pub(crate) struct RedisSink {
    /// The number of the shard; `None` without shards.
    shard: Option<u32>,
    /// The longest wait for one reply.
    timeout: Duration,
    /// Absent if executions have no leases.
    leases: Option<LeaseOptions>,
    /// Each lease that is sent and not awaited holds a clone.
    client: Rc<RedisClient>,
    registering: SingleFlight,
    /// As Redis last reported it; `None` until the families are registered.
    lease_time: Cell<Option<LeaseTime>>,
}

struct LeaseOptions {
    timeout: Duration,
    execution_limit_millis: u64,
    /// Whether no execution begins without an acknowledged lease.
    is_strict: bool,
}

/// The leases of an instance that may be sent without waiting for their
/// acknowledgement, at a time: as many as Spin sends it requests.
const MAX_UNAWAITED: usize = 16;

impl RedisSink {
    /// Makes a sink without connecting.
    pub(super) fn new(config: &Config, shard: &Shard) -> Self {
        let limit = config.execution_limit.as_millis();
        let is_strict = config.durability == Durability::Strict;
        let leases = LeaseOptions {
            timeout: match is_strict {
                true => config.redis.timeout,
                false => config.lease_timeout,
            },
            execution_limit_millis: u64::try_from(limit).unwrap_or(u64::MAX),
            is_strict,
        };
        Self {
            shard: shard.number,
            timeout: config.redis.timeout,
            leases: (config.durability != Durability::Batched).then_some(leases),
            client: Rc::new(RedisClient::new(&config.redis, &shard.server)),
            registering: SingleFlight::default(),
            lease_time: Cell::new(None),
        }
    }

    /// The number of the shard; `None` without shards.
    pub(super) fn shard(&self) -> Option<u32> {
        self.shard
    }

    /// The longest wait for one reply.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Checks that Redis accepts writes. Registers the families again, which
    /// changes nothing, but is a write: a replica, or a Redis whose memory is full,
    /// would still reply to `PING`. Then tries every other command. Returns Redis's
    /// address, or what is wrong with it.
    pub(crate) async fn check(&self, batcher: &RefCell<Batcher>) -> Result<String, String> {
        let deadline = Deadline::after(self.timeout);
        let checked = self.try_commands(batcher, deadline).await;
        if matches!(checked, Err(StoreError::Timeout(_))) {
            self.client.close();
        }
        let mut address = self.client.address();
        if let Some(shard) = self.shard {
            address += &format!(" (shard {shard})");
        }
        match checked {
            Ok(Eviction::Never) => Ok(format!("{address} accepts writes")),
            Ok(Eviction::Policy(policy)) => Ok(format!(
                "{address} accepts writes, but {}",
                may_lose_counts(&policy)
            )),
            Ok(Eviction::Unknown) => Ok(format!(
                "{address} accepts writes; its maxmemory-policy is unknown, because its user \
                 may not call INFO"
            )),
            Err(error) => Err(format!("{address}: {error}")),
        }
    }

    async fn try_commands(
        &self,
        batcher: &RefCell<Batcher>,
        deadline: Deadline,
    ) -> Result<Eviction, StoreError> {
        self.register(batcher, 0, deadline).await?;
        let call = check_call(batcher.borrow().prefix());
        let reply = self.client.call(&Script::CHECK, &call, deadline).await?;
        let CheckReply { eviction, refused } =
            CheckReply::decode(reply).map_err(StoreError::Reply)?;
        match refused.is_empty() {
            true => Ok(eviction),
            false => Err(StoreError::Redis(refused.join("; "))),
        }
    }

    /// Takes a lease for an execution, as [`Meter::lease`](crate::Meter::lease).
    pub(super) async fn lease(
        &self,
        batcher: &RefCell<Batcher>,
        route: RouteLabels<'static>,
        request_id: impl FnOnce() -> String,
    ) -> Result<Option<EncodedLease>, Unacknowledged> {
        let Some(options) = &self.leases else {
            return Ok(None);
        };
        let leasing = batcher.borrow().leasing();
        let lease = match leasing {
            _ if options.is_strict && refuses_executions(&batcher.borrow()) => None,
            Leasing::Awaited => match self.acknowledged_lease(batcher, route, options).await {
                Ok(lease) => return Ok(Some(lease)),
                Err(lease) => lease,
            },
            Leasing::Late => self.send_lease(batcher, route, options).await,
            Leasing::Suspended => None,
        };
        let mut batcher = batcher.borrow_mut();
        if options.is_strict {
            if let Some(lease) = lease {
                batcher.abandon(route, lease);
            }
            return Err(Unacknowledged);
        }
        if batcher.is_off() {
            return Ok(None);
        }
        batcher.record_unleased();
        // At the level that is always written: if the execution crashes, nothing
        // else says that it began.
        let fields = json!({
            "request_id": request_id(),
            "endpoint": route.endpoint(),
            "algorithm": batcher.algorithm(),
        });
        log::write(Level::Error, "execution_unleased", fields);
        Ok(lease)
    }

    /// Sends a lease and waits for its acknowledgement. If there is none, returns the
    /// lease if it was sent: it may still arrive.
    async fn acknowledged_lease(
        &self,
        batcher: &RefCell<Batcher>,
        route: RouteLabels<'static>,
        options: &LeaseOptions,
    ) -> Result<EncodedLease, Option<EncodedLease>> {
        let deadline = Deadline::after(options.timeout);
        let time = match self.ensure_registered(batcher, deadline).await {
            Ok(time) => time,
            Err(error) => {
                give_up_leases(batcher, &error);
                return Err(None);
            }
        };
        let (lease, command) = self.make_lease(batcher, route, options, time);
        match self.client.command(command, deadline).await {
            Ok(_added) => Ok(lease),
            Err(error) => {
                give_up_leases(batcher, &error);
                Err(Some(lease))
            }
        }
    }

    /// Sends a lease without waiting for its acknowledgement. Returns `None` if there
    /// is no open connection, or if too many leases are on their way.
    async fn send_lease(
        &self,
        batcher: &RefCell<Batcher>,
        route: RouteLabels<'static>,
        options: &LeaseOptions,
    ) -> Option<EncodedLease> {
        let time = self.lease_time.get()?;
        let is_open = self.client.connection.borrow().is_some();
        if !is_open || Rc::strong_count(&self.client) > MAX_UNAWAITED {
            return None;
        }
        let (lease, command) = self.make_lease(batcher, route, options, time);
        let deadline = Deadline::after(self.timeout.min(LINGER));
        let mut call = self.client.command(command, deadline);
        // The first poll hands over the command. It happens here, because no other task
        // of the instance runs during the execution.
        let mut context = Context::from_waker(Waker::noop());
        if call.as_mut().poll(&mut context).is_pending() {
            // Holds the connection: the host drops commands of a closed one that it
            // has not sent.
            wit_bindgen::spawn(async move {
                let _ = call.await;
            });
            // The host sends it from a task that may have to wait for this thread.
            // A new request's first yield does not free it (ADR 3).
            for _ in 0..2 {
                wit_bindgen::yield_async().await;
            }
        }
        Some(lease)
    }

    fn make_lease(
        &self,
        batcher: &RefCell<Batcher>,
        route: RouteLabels<'static>,
        options: &LeaseOptions,
        time: LeaseTime,
    ) -> (EncodedLease, Command) {
        let limit = options.execution_limit_millis;
        let now = time.at(Instant::now());
        let mut batcher = batcher.borrow_mut();
        let lease = batcher.lease(route, limit, now);
        let command = lease_command(batcher.prefix(), &lease);
        (lease, command)
    }

    /// Sends the next batch, as [`Sink::store`](super::Sink::store).
    pub(super) async fn store(
        &self,
        batcher: &RefCell<Batcher>,
        deadline: Deadline,
    ) -> Result<Option<Stored>, StoreError> {
        let stored = self.apply(batcher, deadline).await;
        if matches!(stored, Err(StoreError::Timeout(_))) {
            self.client.close();
        }
        stored
    }

    async fn apply(
        &self,
        batcher: &RefCell<Batcher>,
        deadline: Deadline,
    ) -> Result<Option<Stored>, StoreError> {
        let mut time = self.ensure_registered(batcher, deadline).await?;
        loop {
            let sent = Instant::now();
            let call = {
                let mut batcher = batcher.borrow_mut();
                batcher.set_clock_offset(time.offset());
                let prefix = batcher.prefix().to_owned();
                let Some(frozen) = batcher.freeze(Some(time.at(sent))) else {
                    return Ok(None);
                };
                let FrozenBatch { id, total, .. } = frozen;
                let leases = frozen.leases();
                let frozen_ms = frozen.frozen_ms.unwrap_or_default();
                let mut call = apply_call_from_parts(&prefix, id, frozen_ms, leases, total);
                batcher.add_limited(&mut call);
                batcher.begin_sending();
                call
            };
            let script = batcher.borrow().apply_script();
            let reply = self.client.call(script, &call, deadline).await?;
            let reply = ApplyReply::decode(reply).map_err(StoreError::Reply)?;
            batcher.borrow_mut().end_sending();
            match reply {
                ApplyReply::Late(leases) => {
                    batcher.borrow_mut().remove_late(&leases);
                    log::write_list(Level::Warn, "results_late", "leases", &leases);
                }
                ApplyReply::TooOld { lease_time_millis } => {
                    // This host was suspended, or Redis has another clock now.
                    time = LeaseTime::new(lease_time_millis, sent);
                    self.lease_time.set(Some(time));
                    if !batcher.borrow_mut().refreeze(lease_time_millis) {
                        return Err(StoreError::TooOld);
                    }
                }
                ApplyReply::Duplicate => {
                    return Ok(Some(Stored {
                        duplicate: true,
                        refused: Vec::new(),
                    }));
                }
                ApplyReply::Stored {
                    lease_time_millis,
                    refused,
                } => {
                    let time = LeaseTime::new(lease_time_millis, sent);
                    self.lease_time.set(Some(time));
                    return Ok(Some(Stored {
                        duplicate: false,
                        refused,
                    }));
                }
            }
        }
    }

    /// Registers the families, unless this instance has done so. Returns the lease
    /// time. Concurrent callers share one registration and its result: otherwise
    /// their time-outs would add up during an outage. After an error the next
    /// caller tries again.
    async fn ensure_registered(
        &self,
        batcher: &RefCell<Batcher>,
        deadline: Deadline,
    ) -> Result<LeaseTime, StoreError> {
        let has_new_families = batcher.borrow_mut().admit_families();
        if let Some(time) = self.lease_time.get()
            && !has_new_families
        {
            return Ok(time);
        }
        let Some(_flight) = self.registering.begin() else {
            let ended = deadline.timeout(self.registering.ended()).await;
            ended.ok_or(StoreError::Timeout(deadline.limit()))?;
            return self.lease_time.get().ok_or(StoreError::OtherTask);
        };
        if let Some(time) = self.time_if_registered(batcher, deadline).await? {
            return Ok(time);
        }
        let registered = batcher.borrow().registered();
        let (time, eviction) = self.register(batcher, registered, deadline).await?;
        if let Eviction::Policy(policy) = eviction {
            let fields = json!({ "reason": may_lose_counts(&policy) });
            log::write(Level::Warn, "eviction_enabled", fields);
        }
        Ok(time)
    }

    /// Asks whether another instance made the same registration, which spares
    /// both sides most of the work. Returns the lease time if so.
    async fn time_if_registered(
        &self,
        batcher: &RefCell<Batcher>,
        deadline: Deadline,
    ) -> Result<Option<LeaseTime>, StoreError> {
        let (catalog, registration) = {
            let batcher = batcher.borrow();
            let catalog = batcher.catalog_to_register();
            let registration = batcher.registration(&catalog, batcher.registered());
            (catalog, registration)
        };
        let call = is_registered_call(catalog.prefix(), &registration);
        let sent = Instant::now();
        let script = &Script::IS_REGISTERED;
        let reply = self.client.call(script, &call, deadline).await?;
        let millis = decode_is_registered(reply).map_err(StoreError::Reply)?;
        let time = millis.map(|millis| LeaseTime::new(millis, sent));
        self.lease_time.set(time);
        if time.is_some() {
            let families = catalog.families().len();
            batcher.borrow_mut().set_registered(families);
        }
        Ok(time)
    }

    /// Registers the families but the first `skipped`, whether or not they are
    /// registered. Returns the lease time, and whether Redis evicts keys.
    async fn register(
        &self,
        batcher: &RefCell<Batcher>,
        skipped: usize,
        deadline: Deadline,
    ) -> Result<(LeaseTime, Eviction), StoreError> {
        let script = &Script::REGISTER;
        let epoch = get_random_u64();
        let catalog = batcher.borrow().catalog_to_register();
        let registration = batcher.borrow().registration(&catalog, skipped);
        let call = register_call(catalog.prefix(), epoch, &registration);
        let sent = Instant::now();
        let reply = self.client.call(script, &call, deadline).await?;
        let registered = RegisterReply::decode(&registration, reply).map_err(StoreError::Reply)?;
        let time = LeaseTime::new(registered.lease_time_millis, sent);
        let own_keys = {
            let mut batcher = batcher.borrow_mut();
            let families = batcher.adopt(&catalog, skipped, &registered.in_force);
            let named = families
                .iter()
                .map(|(field, family)| (field.as_str(), family));
            (!families.is_empty()).then(|| Registration::new(named, &batcher.zero_cells()))
        };
        if let Some(own_keys) = own_keys {
            let call = register_call(catalog.prefix(), epoch, &own_keys);
            self.client.call(script, &call, deadline).await?;
        }
        self.lease_time.set(Some(time));
        let families = catalog.families().len();
        batcher.borrow_mut().set_registered(families);
        Ok((time, registered.eviction))
    }
}

fn may_lose_counts(policy: &str) -> String {
    format!(
        "its maxmemory-policy is {policy}, which deletes counts when its memory is full: set \
         noeviction"
    )
}

/// Whether Redis has not stored the last batch whole, so that it would probably not
/// store the result of an execution that begins now.
fn refuses_executions(batcher: &Batcher) -> bool {
    batcher.leasing() != Leasing::Awaited
        || batcher.store_error().is_some()
        || batcher.refusal().is_some()
}

/// Lets no execution wait for a lease until Redis acknowledges a batch.
fn give_up_leases(batcher: &RefCell<Batcher>, error: &StoreError) {
    if turn_off(batcher, error) {
        return;
    }
    let reason = error.to_string();
    let mut batcher = batcher.borrow_mut();
    // One line per execution. Only the first line with a new reason is a warning,
    // because other executions may have waited at the same time.
    let is_known = batcher.leasing() != Leasing::Awaited || batcher.lease_error() == Some(&reason);
    let level = if is_known { Level::Info } else { Level::Warn };
    log::write(level, "lease_given_up", json!({ "reason": reason }));
    let leasing = match error {
        StoreError::Timeout(_) => Leasing::Late,
        _ => Leasing::Suspended,
    };
    batcher.give_up_leases(leasing, reason);
}

/// Lease time, by which leases expire: Redis's clock minus the time during which
/// Redis stood still.
///
/// Between two replies, the host's clock extrapolates it, from when the call was
/// sent: a reply is read late if an execution runs meanwhile. If lease time stands
/// still in between, the estimate is too high, and a lease expires later. A lease
/// expires early only if the host was suspended, or if Redis lost its data
/// (docs/protocol.md, "Lease time").
#[derive(Debug, Clone, Copy)]
struct LeaseTime {
    millis: i64,
    sent: Instant,
}

impl LeaseTime {
    /// Makes the lease time of a reply, to a call that was sent at `sent`.
    fn new(millis: i64, sent: Instant) -> Self {
        Self { millis, sent }
    }

    /// The lease time at the start of the host's clock, in milliseconds.
    fn offset(self) -> i64 {
        self.millis.saturating_sub(self.sent.millis())
    }

    /// An upper bound of lease time at `now`, in milliseconds.
    fn at(self, now: Instant) -> i64 {
        let passed = now.nanos_since(self.sent) / 1_000_000;
        self.millis.saturating_add_unsigned(passed)
    }
}

/// A call, boxed so that it is compiled once.
type BoxedCall<'a> = Pin<Box<dyn Future<Output = Result<Vec<String>, StoreError>> + 'a>>;

/// How often one call follows `MOVED`. More says that the nodes disagree.
const MAX_REDIRECTS: usize = 3;

/// Calls Redis on one connection, with a deadline for each call.
///
/// The connection is kept across requests, because opening one costs Redis more
/// than the work done on it. Spin sets no time-outs. A call that times out here may
/// still be executed when Redis comes back.
struct RedisClient {
    config: RedisConfig,
    /// As configured; in Redis Cluster, any node.
    entry: Server,
    /// What no error may show.
    secrets: [String; 2],
    connection: RefCell<Option<Rc<Open>>>,
    /// Where the next connection goes instead of to the entry, if `MOVED` says so.
    redirect: RefCell<Option<Server>>,
    opening: SingleFlight,
}

/// An open connection.
struct Open {
    connection: Connection,
    server: Server,
}

/// A message to Redis.
enum Message<'a> {
    Script(&'a Script, &'a Call),
    Command(&'a Command),
}

impl Message<'_> {
    /// The command and its parameters. A script is named by its digest or has its source.
    fn encode(&self, by_source: bool) -> (&'static str, Vec<RedisParameter>) {
        match self {
            Self::Script(script, call) => {
                let (command, text) = match by_source {
                    true => ("EVAL", script.source),
                    false => ("EVALSHA", script.sha),
                };
                let parts = [text.as_bytes().to_vec()].into_iter().chain(call.parts());
                (command, parts.map(RedisParameter::Binary).collect())
            }
            Self::Command(command) => {
                let words = command.arguments.iter();
                let words = words.map(|word| RedisParameter::Binary(word.clone().into_bytes()));
                (command.name, words.collect())
            }
        }
    }
}

impl RedisClient {
    fn new(config: &RedisConfig, entry: &Server) -> Self {
        Self {
            config: config.clone(),
            entry: entry.clone(),
            secrets: config.secrets(),
            connection: RefCell::new(None),
            redirect: RefCell::new(None),
            opening: SingleFlight::default(),
        }
    }

    /// The address of the server that is connected, or else of the entry.
    fn address(&self) -> String {
        let connection = self.connection.borrow();
        let server = connection.as_ref().map_or(&self.entry, |open| &open.server);
        self.config.address(server)
    }

    /// Calls a script by its digest, or by its source if Redis does not know the
    /// digest: after a restart, and at the very first call. Sends the same call again to
    /// the node that `MOVED` names: a node that replies so has not executed it.
    ///
    /// An error closes the connection, so that the next call opens another, unless
    /// it is `NOSCRIPT`. After a time-out the caller decides.
    fn call<'a>(&'a self, script: &'a Script, call: &'a Call, deadline: Deadline) -> BoxedCall<'a> {
        self.send(Message::Script(script, call), deadline)
    }

    /// Calls a plain command, like [`Self::call`]. The call may outlive the request that
    /// makes it.
    fn command(self: &Rc<Self>, command: Command, deadline: Deadline) -> BoxedCall<'static> {
        let client = Rc::clone(self);
        Box::pin(async move { client.send(Message::Command(&command), deadline).await })
    }

    /// Closes the connection, so that the next call opens another.
    fn close(&self) {
        self.connection.take();
    }

    fn send<'a>(&'a self, message: Message<'a>, deadline: Deadline) -> BoxedCall<'a> {
        Box::pin(async move {
            let (mut by_source, mut redirects) = (false, 0);
            loop {
                let open = self.connection(deadline).await?;
                let (command, parameters) = message.encode(by_source);
                let reply = deadline.timeout(open.connection.execute(command, parameters));
                let error = match reply.await {
                    Some(Ok(results)) => {
                        return Ok(results.into_iter().map(text_of_result).collect());
                    }
                    Some(Err(error)) => self.failed(&open, error),
                    None => return Err(StoreError::Timeout(deadline.limit())),
                };
                match error {
                    StoreError::Redis(reason) if !by_source && is_noscript(&reason) => {
                        by_source = true;
                    }
                    StoreError::Moved(_) if redirects < MAX_REDIRECTS => redirects += 1,
                    error => return Err(error),
                }
            }
        })
    }

    /// Closes a connection after an error, unless the connection is as good as before,
    /// or another has already replaced it. So of several calls that `MOVED` redirects
    /// at the same time, the first decides.
    fn failed(&self, open: &Rc<Open>, error: Error) -> StoreError {
        let redirect = match &error {
            Error::Other(reason) => open.server.of_redirect(reason),
            _ => None,
        };
        let error = self.store_error(error, &open.server);
        if matches!(&error, StoreError::Redis(reason) if is_noscript(reason)) {
            return error;
        }
        let mut current = self.connection.borrow_mut();
        if current
            .as_ref()
            .is_some_and(|current| Rc::ptr_eq(current, open))
        {
            *current = None;
            self.redirect.replace(redirect.clone());
        }
        match (error, redirect) {
            (StoreError::Redis(reason), Some(_)) => StoreError::Moved(reason),
            (error, _) => error,
        }
    }

    /// Returns the open connection, or opens one. One task opens at a time, or
    /// every flush during an outage would open one more.
    async fn connection(&self, deadline: Deadline) -> Result<Rc<Open>, StoreError> {
        let timed_out = || StoreError::Timeout(deadline.limit());
        loop {
            if let Some(open) = self.connection.borrow().as_ref() {
                return Ok(Rc::clone(open));
            }
            let Some(_flight) = self.opening.begin() else {
                let ended = deadline.timeout(self.opening.ended()).await;
                ended.ok_or_else(timed_out)?;
                continue;
            };
            // Taken: if that node does not respond, the next attempt asks the entry.
            let server = self.redirect.take().unwrap_or_else(|| self.entry.clone());
            let url = self.config.url(&server);
            let opened = deadline.timeout(Connection::open(url)).await;
            let opened = opened.ok_or_else(timed_out)?;
            let connection = opened.map_err(|error| self.store_error(error, &server))?;
            let open = Rc::new(Open { connection, server });
            *self.connection.borrow_mut() = Some(Rc::clone(&open));
            return Ok(open);
        }
    }

    fn store_error(&self, error: Error, server: &Server) -> StoreError {
        let is_entry = *server == self.entry;
        let address = || self.config.address(server);
        match error {
            // Spin reports a host that is not allowed as an invalid address. The
            // address itself is valid: it is built from checked parts.
            Error::InvalidAddress if is_entry => StoreError::Denied(address()),
            Error::InvalidAddress => StoreError::DeniedNode(address()),
            // Of Spin, to a middleware that inherits no configuration.
            Error::Other(reason) if is_entry && reason.ends_with("is not permitted") => {
                StoreError::Denied(address())
            }
            Error::TooManyConnections => StoreError::Redis("too many connections".to_owned()),
            Error::TypeError => StoreError::Redis("unexpected type".to_owned()),
            Error::Other(reason) if is_noscript(&reason) => StoreError::Redis(reason),
            Error::Other(reason) => {
                let reason = hide(&self.secrets, reason);
                StoreError::Redis(match is_entry {
                    true => reason,
                    false => format!("{}: {reason}", address()),
                })
            }
        }
    }
}

/// Replaces secrets in a text: a server that does not know `AUTH` repeats the password
/// in its error.
fn hide(secrets: &[String], text: String) -> String {
    let secrets = secrets.iter().filter(|secret| !secret.is_empty());
    secrets.fold(text, |text, secret| text.replace(secret, "***"))
}

/// Whether Redis does not know the script's digest. Spin passes on the Redis
/// client's text, which spells the error code in its own way.
fn is_noscript(reason: &str) -> bool {
    reason.contains("NOSCRIPT") || reason.contains("NoScriptError")
}

fn text_of_result(result: RedisResult) -> String {
    match result {
        RedisResult::Nil => String::new(),
        RedisResult::Status(text) => text,
        RedisResult::Int64(integer) => integer.to_string(),
        RedisResult::Binary(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_hidden_in_texts() {
        let config = RedisConfig {
            servers: Vec::new(),
            tls: false,
            database: 0,
            username: String::new(),
            password: "p@ss".to_owned(),
            timeout: Duration::ZERO,
        };
        for (text, shown) in [
            (
                "unknown command 'AUTH', with args beginning with: 'p@ss'",
                "unknown command 'AUTH', with args beginning with: '***'",
            ),
            (
                "cannot parse redis://:p%40ss@h:1/0",
                "cannot parse redis://:***@h:1/0",
            ),
            ("broken pipe", "broken pipe"),
        ] {
            assert_eq!(hide(&config.secrets(), text.to_owned()), shown);
        }
        let config = RedisConfig {
            password: String::new(),
            ..config
        };
        assert_eq!(
            hide(&config.secrets(), "broken pipe".to_owned()),
            "broken pipe"
        );
    }

    #[test]
    fn lease_time_is_extrapolated_from_when_the_call_was_sent() {
        let sent = Instant::at(7_000_000_000);
        let time = LeaseTime::new(-500, sent);
        assert_eq!(time.at(sent), -500);
        assert_eq!(time.at(Instant::at(7_002_999_999)), -498);
        assert_eq!(time.at(Instant::at(9_600_000_000)), 2_100);
        // A clock that runs backwards changes nothing.
        assert_eq!(time.at(Instant::at(0)), -500);
    }
}
