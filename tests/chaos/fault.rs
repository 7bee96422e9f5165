//! The faults, each declared in one place: its name, how long it lasts, what it acts on,
//! how it begins and ends, and what it makes doubtful.
//!
//! A fault that takes counts away reads from the servers what it takes, in
//! [`Servers::replace_contents`]: everything else must still be counted.

use std::{ops::RangeInclusive, time::Duration};

use anyhow::Context as _;
use functional_scaffold_testkit::{process::Signal, redis::RedisServer};

use crate::{doubt::Span, plan::Schedule, readers, servers::Servers, watcher::Reset};

/// A kind of fault.
#[derive(Debug)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    /// The least and the most time that it lasts.
    pub(crate) millis: RangeInclusive<u64>,
    target: Target,
    /// Whether instances die.
    pub(crate) is_deadly: bool,
    /// Whether it is cheap enough to be a second fault of a short run.
    pub(crate) is_cheap: bool,
    pub(crate) begin: fn(&mut Servers) -> anyhow::Result<()>,
    /// Ends it, and notes what it made doubtful. It began at this time of the run.
    pub(crate) end: fn(&mut Servers, Duration) -> anyhow::Result<()>,
}

/// The target of a fault. Two faults on the same target do not overlap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    /// The server.
    Redis,
    /// The data in Redis. Needs the server.
    Contents,
    /// The connections of the application to it.
    Path,
    Runtime,
    Readers,
    Clients,
}

impl Kind {
    /// Returns whether it may happen at the same time as another.
    pub(crate) fn goes_with(&self, other: &Self) -> bool {
        let is_server = |kind: &Self| matches!(kind.target, Target::Redis | Target::Contents);
        self.target != other.target && !(is_server(self) && is_server(other))
    }
}

/// The number of faults of the basic schedule, which are the first ones.
pub(crate) const BASIC: usize = 6;

/// The faults of a schedule, each of which a round has once.
pub(crate) fn kinds(schedule: Schedule) -> Vec<&'static Kind> {
    match schedule {
        Schedule::Basic | Schedule::Overlapping => KINDS[..BASIC].iter().collect(),
        Schedule::Wide => KINDS.iter().collect(),
        Schedule::Cluster => {
            let is_for_any =
                |kind: &&Kind| !matches!(kind.target, Target::Redis | Target::Contents);
            CLUSTER_KINDS
                .iter()
                .chain(KINDS.iter().filter(is_for_any))
                .collect()
        }
    }
}

/// Every fault with one Redis, or a replica and Sentinel. None of the basic ones lasts for
/// the 5 s by which a lease outlives its execution, so none of them makes a result late.
pub(crate) static KINDS: [Kind; 28] = [
    // Starts it again on its append-only file. Redis refuses connections for at least this
    // time.
    Kind {
        name: "kill Redis",
        millis: 0..=1_500,
        target: Target::Redis,
        begin: |servers| {
            // Connections end with Redis, not before.
            servers.refuse();
            let lost_from = servers.redis.set()?.kill(servers.began)?;
            if let Some(from) = lost_from {
                let to = servers.began.elapsed();
                servers.events.forgotten.push(Span { from, to });
            }
            Ok(())
        },
        end: |servers, from| {
            servers.redis.set()?.restart()?;
            servers.reconnect();
            servers.note_outage(from);
            Ok(())
        },
        ..NOTHING
    },
    // SIGSTOP: Redis executes the calls only after SIGCONT.
    Kind {
        name: "stop Redis",
        millis: 100..=3_000,
        target: Target::Redis,
        begin: |servers| servers.redis.set()?.master().suspend(),
        end: |servers, from| {
            servers.redis.set()?.master().resume()?;
            servers.note_outage(from);
            Ok(())
        },
        ..NOTHING
    },
    Kind {
        name: "cut connections",
        begin: |servers| {
            // The next call fails, and the one after it succeeds.
            servers.events.cuts.push(servers.began.elapsed());
            servers.path.cut();
            Ok(())
        },
        ..NOTHING
    },
    // The calls are executed. Then cuts the connections.
    Kind {
        name: "drop replies",
        millis: 50..=1_500,
        begin: |servers| {
            servers.path.mute();
            Ok(())
        },
        end: cut_path,
        ..NOTHING
    },
    // Those on existing connections, and no others. So a lease arrives after its result,
    // and a batch after its repetition.
    Kind {
        name: "delay calls",
        millis: 400..=1_500,
        begin: |servers| {
            servers.path.hold();
            Ok(())
        },
        end: |servers, from| {
            servers.path.release();
            servers.note_outage(from);
            Ok(())
        },
        ..NOTHING
    },
    Kind {
        name: "kill the runtime",
        target: Target::Runtime,
        is_deadly: true,
        end: |servers, from| {
            servers.app.kill_and_restart()?;
            servers.note_death(from);
            Ok(())
        },
        ..NOTHING
    },
    // Accepts connections and reads what comes, and passes nothing on.
    Kind {
        name: "black hole",
        millis: 50..=1_500,
        is_cheap: true,
        begin: |servers| {
            servers.path.swallow();
            Ok(())
        },
        end: cut_path,
        ..NOTHING
    },
    // As if the machine were gone: nothing answers an attempt to connect.
    Kind {
        name: "drop connection attempts",
        millis: 200..=2_000,
        begin: |servers| servers.path.stop_accepting(),
        end: |servers, from| {
            servers.path.accept_again()?;
            servers.note_outage(from);
            Ok(())
        },
        ..NOTHING
    },
    // The existing connections pass nothing any more, and stay open. An idle instance
    // notices within the second that it lives.
    Kind {
        name: "half-open peers",
        millis: 1_000..=1_000,
        is_cheap: true,
        begin: |servers| {
            servers.path.half_open();
            Ok(())
        },
        end: |servers, from| {
            servers.note_outage(from);
            Ok(())
        },
        ..NOTHING
    },
    Kind {
        name: "drip replies",
        millis: 200..=2_000,
        begin: |servers| {
            servers.path.drip(Some(Duration::from_millis(5)));
            Ok(())
        },
        end: |servers, from| {
            servers.path.drip(None);
            servers.note_outage(from);
            Ok(())
        },
        ..NOTHING
    },
    Kind {
        name: "cut replies in two",
        millis: 50..=1_000,
        is_cheap: true,
        begin: |servers| {
            servers.path.cut_replies(true);
            Ok(())
        },
        end: |servers, from| {
            servers.path.cut_replies(false);
            servers.note_outage(from);
            Ok(())
        },
        ..NOTHING
    },
    // Clients that send slowly, stop in the middle, or do not wait for the response.
    Kind {
        name: "broken clients",
        begin: |servers| {
            servers.clients.begin(false);
            Ok(())
        },
        ..CLIENTS
    },
    // Texts of clients that look like batches, which would add millions.
    Kind {
        name: "forged log lines",
        begin: |servers| {
            servers.clients.begin(true);
            Ok(())
        },
        ..CLIENTS
    },
    // SIGSTOP beyond lease time: results of executions in flight are late.
    Kind {
        name: "stop the runtime",
        millis: 6_500..=8_500,
        target: Target::Runtime,
        is_deadly: true,
        begin: |servers| servers.app.process().signal(Signal::STOP),
        end: |servers, from| {
            servers.app.process().signal(Signal::CONT)?;
            // The host ends executions that it takes for endless.
            servers.note_death(from);
            servers.note_outage(from);
            servers.note_lateness(from);
            Ok(())
        },
        ..NOTHING
    },
    // The next call of each script has to send its source. Changes no count.
    Kind {
        name: "flush scripts",
        target: Target::Contents,
        is_cheap: true,
        begin: |servers| servers.redis.set()?.master().call(&["SCRIPT", "FLUSH"]),
        ..NOTHING
    },
    // While a call that settles leases is under way: Redis executes it, and the exporter
    // never reads the reply.
    Kind {
        name: "kill an exporter",
        millis: 2_500..=2_500,
        target: Target::Readers,
        begin: |servers| {
            servers.reader_path.mute_settling();
            Ok(())
        },
        end: |servers, _| {
            servers.allow(Reset::Restart);
            servers.readers.kill_and_restart()?;
            servers.reader_path.cut();
            Ok(())
        },
        ..NOTHING
    },
    Kind {
        name: "readers cut off",
        millis: 500..=3_000,
        target: Target::Readers,
        begin: |servers| {
            servers.reader_path.swallow();
            Ok(())
        },
        end: |servers, _| {
            servers.reader_path.cut();
            Ok(())
        },
        ..NOTHING
    },
    Kind {
        name: "wipe",
        target: Target::Contents,
        begin: |servers| {
            let shards = servers.shards.clone();
            servers.replace_contents(|redis| {
                readers::command(redis.port(), &shards, &["wipe", "--yes"])
            })
        },
        ..NOTHING
    },
    Kind {
        name: "remove series",
        target: Target::Contents,
        begin: |servers| {
            let (family, label) = servers.app_kind.removed_series();
            let selector = &format!("{family}{{{label}}}");
            servers.allow(Reset::Series(family, label));
            let shards = servers.shards.clone();
            servers.replace_contents(|redis| {
                let remove = ["series", "remove", "--yes", selector];
                let removed = readers::command(redis.port(), &shards, &remove);
                match removed {
                    // An earlier fault took the family, and no instance has registered it yet.
                    Err(error) if error.to_string().contains("is served") => Ok(()),
                    removed => removed,
                }
            })
        },
        ..NOTHING
    },
    Kind {
        name: "FLUSHALL",
        target: Target::Contents,
        begin: |servers| servers.replace_contents(|redis| redis.call(&["FLUSHALL"])),
        ..NOTHING
    },
    // A wrong `maxmemory-policy`: random keys are gone.
    Kind {
        name: "evict keys",
        target: Target::Contents,
        begin: |servers| servers.replace_contents(evict),
        ..NOTHING
    },
    // `maxmemory`, with the policy that refuses writes.
    Kind {
        name: "fill the memory",
        millis: 200..=2_500,
        target: Target::Redis,
        begin: |servers| {
            let redis = servers.redis.set()?.master();
            redis.call(&["CONFIG", "SET", "maxmemory", "1mb"])
        },
        end: |servers, from| {
            let redis = servers.redis.set()?.master();
            let _: () = redis.call(&["CONFIG", "SET", "maxmemory", "0"])?;
            servers.note_outage(from);
            Ok(())
        },
        ..NOTHING
    },
    // Under the append-only file. With `appendfsync always` that ends Redis.
    Kind {
        name: "fill the disk",
        millis: 200..=2_500,
        target: Target::Redis,
        begin: |servers| servers.redis.set()?.fill_disk().map(drop),
        end: |servers, from| {
            servers.refuse();
            servers.redis.set()?.free_disk()?;
            servers.reconnect();
            servers.note_outage(from);
            Ok(())
        },
        ..NOTHING
    },
    // Jumps forwards, then backwards by as much.
    Kind {
        name: "clock ahead",
        begin: |servers| servers.redis.set()?.set_clock("+1200"),
        ..CLOCK
    },
    Kind {
        name: "clock behind",
        begin: |servers| servers.redis.set()?.set_clock("-1200"),
        ..CLOCK
    },
    // By more than ids are remembered, and than a logged batch may be old.
    Kind {
        name: "clock three hours ahead",
        begin: |servers| servers.redis.set()?.set_clock("+10800"),
        ..CLOCK
    },
    Kind {
        name: "clock three hours behind",
        begin: |servers| servers.redis.set()?.set_clock("-10800"),
        ..CLOCK
    },
    // The replica is cut off from the master for this time. Then the master dies.
    Kind {
        name: "fail over to a stale replica",
        millis: 200..=2_000,
        target: Target::Redis,
        begin: |servers| servers.redis.set()?.stop_replication(),
        end: |servers, from| servers.fail_over(from),
        ..NOTHING
    },
];

/// The faults of a Redis Cluster. Its nodes take a second to notice that one is gone, and
/// the faults last until its replica has replaced it.
static CLUSTER_KINDS: [Kind; 5] = [
    // Its replica has all that it has executed.
    Kind {
        name: "kill a master",
        begin: |servers| {
            let failover = servers.redis.cluster()?.next_failover()?;
            servers.kill_master(failover, false)
        },
        end: Servers::end_failover,
        ..FAILOVER
    },
    // The replica executes nothing for this time. What the master executed is lost.
    Kind {
        name: "kill a master with a stale replica",
        begin: |servers| servers.redis.cluster()?.make_stale(),
        end: |servers, from| {
            let failover = servers.redis.cluster()?.stale()?;
            servers.kill_master(failover, true)?;
            servers.end_failover(from)
        },
        ..FAILOVER
    },
    // SIGSTOP, and SIGCONT after it was replaced. What it executes until it knows that is
    // lost.
    Kind {
        name: "suspend a master",
        begin: Servers::suspend_master,
        end: Servers::resume_master,
        ..FAILOVER
    },
    Kind {
        name: "move a slot",
        begin: |servers| {
            let from = servers.began.elapsed();
            servers.redis.cluster()?.move_slot()?;
            servers.note_outage(from);
            Ok(())
        },
        target: Target::Redis,
        ..NOTHING
    },
    // Which is a master or a replica. No connection can be opened until it is back.
    Kind {
        name: "kill the entry node",
        begin: |servers| {
            let cluster = servers.redis.cluster()?;
            match cluster.failover_of_entry()? {
                Some(failover) => servers.kill_master(failover, false),
                None => {
                    cluster.kill_entry();
                    Ok(())
                }
            }
        },
        end: |servers, from| {
            let cluster = servers.redis.cluster()?;
            if cluster.has_failover() {
                return servers.end_failover(from);
            }
            cluster.restart_entry()?;
            servers.note_outage(from);
            Ok(())
        },
        ..FAILOVER
    },
];

/// A failover of a cluster.
const FAILOVER: Kind = Kind {
    millis: 200..=2_000,
    target: Target::Redis,
    ..NOTHING
};

/// A fault in the connections of the application that does nothing.
const NOTHING: Kind = Kind {
    name: "",
    millis: 0..=0,
    target: Target::Path,
    is_deadly: false,
    is_cheap: false,
    begin: |_| Ok(()),
    end: |_, _| Ok(()),
};

/// Clients that misbehave until the fault ends.
const CLIENTS: Kind = Kind {
    millis: 300..=1_000,
    target: Target::Clients,
    is_cheap: true,
    end: |servers, _| {
        servers.clients.end();
        Ok(())
    },
    ..NOTHING
};

/// A jump of Redis's clock, which lasts for longer than the second by which libfaketime
/// reacts. Lease time moves by 5 s at most.
const CLOCK: Kind = Kind {
    millis: 1_500..=3_000,
    target: Target::Redis,
    end: |servers, from| {
        servers.redis.set()?.set_clock("+0")?;
        servers.note_lateness(from);
        Ok(())
    },
    ..NOTHING
};

fn cut_path(servers: &mut Servers, from: Duration) -> anyhow::Result<()> {
    servers.path.cut();
    servers.note_outage(from);
    Ok(())
}

/// Evicts some keys, whichever Redis chooses.
fn evict(redis: &RedisServer) -> anyhow::Result<()> {
    let memory: String = redis.call(&["INFO", "memory"])?;
    let used = memory
        .lines()
        .find_map(|line| line.strip_prefix("used_memory:"));
    let used: u64 = used.context("no used_memory")?.trim().parse()?;
    let limit = used.saturating_sub(100_000).to_string();
    let policy = "maxmemory-policy";
    let _: () = redis.call(&[
        "CONFIG",
        "SET",
        policy,
        "allkeys-random",
        "maxmemory",
        &limit,
    ])?;
    // It evicts when it executes the next command.
    let _: () = redis.call(&["PING"])?;
    let _: () = redis.call(&["CONFIG", "SET", "maxmemory", "0", policy, "noeviction"])?;
    // Else families that were evicted would only be registered again after a minute.
    let notes: Vec<String> = redis.call(&["KEYS", "metrics:*registered:*"])?;
    for note in notes {
        let _: () = redis.call(&["DEL", &note])?;
    }
    Ok(())
}
