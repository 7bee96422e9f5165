//! The scripts of the protocol on a redis-server, and everything that they store there.
//! The scripts read Redis's real clock, so a test makes time pass by moving the stored
//! times back.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use functional_scaffold_protocol::{
    batch::{Batch, BatchId, SentBatch},
    calls::{
        AddLostCountsReply, ApplyReply, Call, CheckReply, RegisterReply, Registration, Script,
        SettleReply, add_lost_counts_call, applied_keys, apply_call, check_call, closed_leases_key,
        decode_is_registered, is_registered_call, lease_command, leases_key, register_call,
        settle_call, state_key,
    },
    lease::Lease,
    removal::{remove_series_call, wipe_call},
};
use functional_scaffold_testkit::redis::RedisServer;
use redis::{Connection, FromRedisValue, Value};

use crate::Result;

/// Lets `ARGV[1]` milliseconds pass, of which lease time stands still for `ARGV[2]`:
/// everything that is stored in Redis's time moves back.
const PASS: &str = r"
local moves = {shift_ms = ARGV[1], flushed_ms = ARGV[1], last_ms = ARGV[2]}
for field, by in pairs(moves) do
  if redis.call('HEXISTS', KEYS[1], field) == 1 then
    redis.call('HINCRBY', KEYS[1], field, 0 - tonumber(by))
  end
end
";

/// A sorted set as Redis gives it.
type Scores = Vec<(String, f64)>;

/// A store under one prefix.
pub(crate) struct Store {
    connection: Connection,
    /// The prefix of every key.
    pub(crate) prefix: String,
}

/// How time passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Passing {
    /// Other scripts ran meanwhile.
    Busy,
    /// No script ran, because there was no traffic or Redis was suspended.
    Paused,
}

/// Everything that the scripts store beside the metric hashes.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    /// Member and score of each open lease.
    pub(crate) open: BTreeMap<String, i64>,
    /// Id and score of each closed lease.
    pub(crate) closed: BTreeMap<String, i64>,
    /// The hash of the clock.
    pub(crate) state: BTreeMap<String, String>,
}

impl Kept {
    /// Lease time as of the last script.
    pub(crate) fn lease_time(&self) -> Option<i64> {
        let number = |field: &str| self.state.get(field)?.parse::<i64>().ok();
        Some(number("last_ms")? - number("shift_ms")?)
    }
}

impl Store {
    /// Connects.
    pub(crate) fn open(server: &RedisServer, prefix: &str) -> Result<Self> {
        Self::open_as(server, prefix, "")
    }

    /// Connects as a user: `name:password@`.
    pub(crate) fn open_as(server: &RedisServer, prefix: &str, user: &str) -> Result<Self> {
        let client = redis::Client::open(format!("redis://{user}127.0.0.1:{}", server.port()))?;
        Ok(Self {
            connection: client.get_connection()?,
            prefix: prefix.to_owned(),
        })
    }

    /// Calls a command.
    pub(crate) fn call<T: FromRedisValue>(&mut self, command: &[&str]) -> Result<T> {
        let mut call = redis::cmd(command[0]);
        call.arg(&command[1..]);
        Ok(call.query(&mut self.connection)?)
    }

    /// Calls commands whose replies do not matter.
    pub(crate) fn pipe(&mut self, commands: &redis::Pipeline) -> Result {
        Ok(commands.query(&mut self.connection)?)
    }

    fn script(&mut self, script: &Script, call: &Call) -> Result<Vec<String>> {
        let run = |connection: &mut Connection, command: &str, text: &str| {
            let mut eval = redis::cmd(command);
            eval.arg(text);
            for part in call.parts() {
                eval.arg(part);
            }
            eval.query::<Vec<String>>(connection)
        };
        match run(&mut self.connection, "EVALSHA", script.sha) {
            Err(error) if error.kind() == redis::ErrorKind::NoScriptError => {
                Ok(run(&mut self.connection, "EVAL", script.source)?)
            }
            other => Ok(other?),
        }
    }

    /// Applies a batch, as a component does; one without a time, as `replay` does.
    pub(crate) fn apply(&mut self, batch: &SentBatch) -> Result<ApplyReply> {
        let call = apply_call(&self.prefix, batch);
        let reply = ApplyReply::decode(self.script(&Script::APPLY, &call)?)?;
        match reply {
            ApplyReply::TooOld { lease_time_millis } if batch.frozen_ms.is_none() => {
                let frozen_ms = Some(lease_time_millis);
                self.apply(&SentBatch {
                    frozen_ms,
                    ..batch.clone()
                })
            }
            reply => Ok(reply),
        }
    }

    /// The lease time, as a component gets it when it starts.
    pub(crate) fn begin(&mut self, epoch: u64) -> Result<i64> {
        let nothing = Registration::new([], &[]);
        match self.is_registered(&nothing)? {
            Some(lease_time_millis) => Ok(lease_time_millis),
            None => Ok(self.register(epoch, &nothing)?.lease_time_millis),
        }
    }

    /// Registers as a component does.
    pub(crate) fn register(
        &mut self,
        epoch: u64,
        registration: &Registration,
    ) -> Result<RegisterReply> {
        let call = register_call(&self.prefix, epoch, registration);
        let reply = self.script(&Script::REGISTER, &call)?;
        Ok(RegisterReply::decode(registration, reply)?)
    }

    /// The lease time, as a component gets it if another one started before. None if it
    /// must register.
    pub(crate) fn is_registered(&mut self, registration: &Registration) -> Result<Option<i64>> {
        let call = is_registered_call(&self.prefix, registration);
        Ok(decode_is_registered(
            self.script(&Script::IS_REGISTERED, &call)?,
        )?)
    }

    /// Tries every command of a component.
    pub(crate) fn check(&mut self) -> Result<CheckReply> {
        let call = check_call(&self.prefix);
        Ok(CheckReply::decode(self.script(&Script::CHECK, &call)?)?)
    }

    /// Takes a lease that begins at this lease time.
    pub(crate) fn take(&mut self, lease: &Lease, lease_time_millis: i64) -> Result {
        let command = lease_command(&self.prefix, &lease.begin(lease_time_millis));
        self.call(&command.words().collect::<Vec<_>>())
    }

    /// Takes leases that begin now.
    pub(crate) fn lease(&mut self, leases: &[Lease]) -> Result {
        let time = self.begin(1)?;
        leases.iter().try_for_each(|lease| self.take(lease, time))
    }

    /// Makes the next batch write the clock, however soon it is sent.
    pub(crate) fn forget_flush(&mut self) -> Result {
        let key = state_key(&self.prefix);
        self.call(&["HDEL", &key, "flushed_ms"])
    }

    /// Settles leases that count in these keys, as a reader does.
    pub(crate) fn settle(&mut self, epoch: u64, metric_keys: &[&str]) -> Result<SettleReply> {
        self.settle_page(epoch, 0, metric_keys)
    }

    /// Settles leases after the first `skip` that expired.
    pub(crate) fn settle_page(
        &mut self,
        epoch: u64,
        skip: u64,
        metric_keys: &[&str],
    ) -> Result<SettleReply> {
        let call = settle_call(&self.prefix, epoch, skip, metric_keys.iter().copied(), []);
        Ok(SettleReply::decode(self.script(&Script::SETTLE, &call)?)?)
    }

    /// Adds lost counts, as the exporter does.
    pub(crate) fn add_lost_counts(
        &mut self,
        epoch: &str,
        version: Option<&str>,
        next: &str,
        lost: &Batch,
    ) -> Result<AddLostCountsReply> {
        let call = add_lost_counts_call(&self.prefix, epoch, version, next, lost);
        let reply = self.script(&Script::ADD_LOST_COUNTS, &call)?;
        Ok(AddLostCountsReply::decode(reply)?)
    }

    /// Removes series, as the exporter's command does.
    pub(crate) fn remove(&mut self, random: u64, key: &str, sets: &[String]) -> Result {
        self.remove_fields(random, key, sets, sets)
    }

    /// Removes series that have these fields.
    pub(crate) fn remove_fields(
        &mut self,
        random: u64,
        key: &str,
        sets: &[String],
        fields: &[String],
    ) -> Result {
        let call = remove_series_call(&self.prefix, random, key, sets, fields);
        let foreign = self.script(&Script::REMOVE, &call)?;
        ensure!(foreign.is_empty(), "no hash: {foreign:?}");
        Ok(())
    }

    /// Wipes metric hashes, as the exporter's command does.
    pub(crate) fn wipe(&mut self, epoch: u64, keys: &[&str]) -> Result {
        let call = wipe_call(&self.prefix, epoch, keys.iter().copied());
        let foreign = self.script(&Script::WIPE, &call)?;
        ensure!(foreign.is_empty(), "no hash: {foreign:?}");
        Ok(())
    }

    /// Lets `millis` pass by Redis's clock; negative ones are a step back.
    pub(crate) fn pass(&mut self, millis: i64, passing: Passing) -> Result {
        let since_script = match passing {
            Passing::Busy => 0,
            Passing::Paused => millis,
        };
        redis::cmd("EVAL")
            .arg(PASS)
            .arg(1)
            .arg(state_key(&self.prefix))
            .arg(millis)
            .arg(since_script)
            .query::<()>(&mut self.connection)?;
        Ok(())
    }

    /// Sets lease time, as if a script had just run.
    pub(crate) fn set_lease_time(&mut self, millis: i64) -> Result {
        let (key, now) = (state_key(&self.prefix), self.time()?);
        let (last, shift) = (now.to_string(), (now - millis).to_string());
        self.call(&["HSET", &key, "last_ms", &last, "shift_ms", &shift])
    }

    /// Redis's own time in milliseconds.
    pub(crate) fn time(&mut self) -> Result<i64> {
        let (seconds, micros): (i64, i64) = self.call(&["TIME"])?;
        Ok(seconds * 1_000 + micros / 1_000)
    }

    /// Reads everything but the metric hashes.
    pub(crate) fn kept(&mut self) -> Result<Kept> {
        let (open, closed, state): (Scores, Scores, _) = redis::pipe()
            .cmd("ZRANGE")
            .arg(leases_key(&self.prefix))
            .arg(&["0", "-1", "WITHSCORES"])
            .cmd("ZRANGE")
            .arg(closed_leases_key(&self.prefix))
            .arg(&["0", "-1", "WITHSCORES"])
            .cmd("HGETALL")
            .arg(state_key(&self.prefix))
            .query(&mut self.connection)?;
        #[allow(
            clippy::cast_possible_truncation,
            reason = "scores are whole milliseconds, far below 2^53"
        )]
        let whole = |members: Scores| {
            members
                .into_iter()
                .map(|(member, score)| (member, score as i64))
                .collect()
        };
        Ok(Kept {
            open: whole(open),
            closed: whole(closed),
            state,
        })
    }

    /// Reads metric hashes, a sum and its carry as one number.
    pub(crate) fn counters(&mut self, keys: &[String]) -> Result<BTreeMap<(String, String), i128>> {
        let mut pipe = redis::pipe();
        for key in keys {
            pipe.cmd("HGETALL").arg(key);
        }
        let hashes: Vec<BTreeMap<String, i64>> = pipe.query(&mut self.connection)?;
        let mut counters = BTreeMap::new();
        for (key, fields) in keys.iter().zip(hashes) {
            for (field, value) in fields {
                let (field, value) = match field.strip_suffix("_carry") {
                    Some(sum) => (sum.to_owned(), i128::from(value) << 62),
                    None => (field, i128::from(value)),
                };
                *counters.entry((key.clone(), field)).or_default() += value;
            }
        }
        Ok(counters)
    }

    /// Reads the two hashes that may have a batch's id: writers with the numbers of their
    /// last batches.
    pub(crate) fn applied(&mut self, id: &BatchId) -> Result<[BTreeMap<String, u64>; 2]> {
        let [first, second] = applied_keys(&self.prefix, id);
        Ok(redis::pipe()
            .cmd("HGETALL")
            .arg(first)
            .cmd("HGETALL")
            .arg(second)
            .query(&mut self.connection)?)
    }

    /// Every key of the server with its contents, to see that nothing changed.
    pub(crate) fn dump(&mut self) -> Result<BTreeMap<String, Vec<u8>>> {
        let keys: Vec<String> = self.call(&["KEYS", "*"])?;
        keys.into_iter()
            .map(|key| {
                let contents: Value = self.call(&["DUMP", &key])?;
                let contents = match contents {
                    Value::BulkString(bytes) => Some(bytes),
                    _ => None,
                };
                Ok((key, contents.context("a key has contents")?))
            })
            .collect()
    }
}
