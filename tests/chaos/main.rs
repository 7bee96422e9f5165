//! Load on the real application while its parts are killed, suspended and cut off.
//! The invariant: for each label set, Redis has counted the responses that the client
//! received, plus or minus the requests in doubt.
//!
//! # Layout
//! - `plan`: the options of a run
//! - `fault`: every kind of fault
//! - `steps`: when they happen, by seed
//! - `load`: the requests, and the response to each
//! - `clients`: clients that misbehave
//! - `proxy`: the path to Redis, where calls and replies are cut, delayed and dropped
//! - `ledger`: the leases and batches that pass on it
//! - `redis_set`: a Redis, with its replica, Sentinel and disk
//! - `cluster`: a Redis Cluster, and its failovers
//! - `store`: one or the other
//! - `contents`: what Redis holds, and what faults took from it
//! - `readers`: the exporters and the relay
//! - `servers`: all servers, and what the faults did to them
//! - `log`: the log's batches, replayed during the run and at its end
//! - `watcher`: series that step back on the exporter
//! - `doubt`: the requests whose count is in doubt
//! - `findings`: what a run has found
//! - `verdict`: every difference beyond what the mode promises
//! - `run`: a run, from its first server to its findings

#![forbid(unsafe_code)]

mod clients;
mod cluster;
mod contents;
mod doubt;
mod fault;
mod findings;
mod ledger;
mod load;
mod log;
mod plan;
mod proxy;
mod readers;
mod redis_set;
mod run;
mod servers;
mod steps;
mod store;
mod verdict;
mod watcher;

use std::{
    process::ExitCode,
    sync::{Arc, atomic::AtomicBool},
    time::{SystemTime, UNIX_EPOCH},
};

use clap::Parser;
use signal_hook::{consts, flag};
use tempfile::TempDir;

use plan::{AppKind, CLUSTER_SHARDS, Durability, Fsync, Plan, Schedule};
use run::run;
use verdict::judge;

/// Kills, stops and cuts off the parts of a running application, and compares the
/// responses of its client with what was counted.
///
/// Starts Redis, the application with an algorithm that misbehaves on request, the
/// exporter, and a `replay` that follows the log; all on loopback, on free ports, stopped
/// at the end. 16 clients send executions that succeed, fail, reject their input, trap,
/// or loop forever (not on Spin, which ends no loop). SCAFFOLD_RUNTIME is devhost or spin.
///
/// With `--app metered` the application is one that misbehaves on request, behind the
/// middleware. It has no families of executions: each request is an execution, but for
/// those that got a 503, and one whose lease expired crashed.
///
/// With the schedule basic there is one fault at a time: Redis is killed (-9) and started
/// again, or stopped for up to 3 s; connections to it are cut; its replies are dropped
/// after it executed the calls; calls arrive late; the runtime is killed (-9) and started
/// again. `fault.rs` lists what wide adds, alone or two at a time: among others a stale
/// failover, a full disk, eviction, FLUSHALL, and a runtime that stands still for longer
/// than a lease lasts.
///
/// In the calm phase nothing traps or loops, and the runtime is not killed. Its requests
/// take another route (/invoke/{algorithm} or /invoke/...), so they are counted
/// separately. There every response must be counted, and no death can hide a count that
/// another fault lost or doubled.
///
/// At the end, each series in Redis must count its responses, plus or minus the requests
/// in doubt. Each lease that Redis took must be counted once, as crashed if no batch
/// contains its result. The exit code is 0 if there is no other difference. Otherwise each
/// difference is named, and the log is kept.
///
/// Some faults take counts away by design. What a failover, FLUSHALL, a wipe, a removal or
/// an eviction took is read from the servers at that moment, and added to what is compared.
///
/// With the schedule cluster, Redis is a cluster of three masters with a replica each, and
/// the instances are divided among six shards. Masters are killed, some after their
/// replicas have become stale, or suspended until they are replaced; slots move; the entry
/// node is killed; and there are those faults of wide that do not need one Redis.
///
/// With `--fsync everysec`, a kill of Redis also removes the last second from its
/// append-only file, as a power cut may. A kill -9 alone loses nothing.
#[derive(Parser)]
#[command(name = "chaos", after_help = EXAMPLES)]
struct Cli {
    /// What serves the requests.
    #[arg(long, value_enum, default_value = "service")]
    app: AppKind,

    /// Chooses faults and requests: the same seed, the same choice. Taken from the clock
    /// if it is not given.
    #[arg(long)]
    seed: Option<u64>,

    /// How long the load lasts. Some 15 s more are for executions in flight.
    #[arg(long, default_value = "60", value_parser = clap::value_parser!(u64).range(10..=3_000))]
    seconds: u64,

    /// What Redis acknowledges before a request continues: `metrics_durability`.
    #[arg(long, value_enum, default_value = "exact")]
    durability: Durability,

    /// When Redis's append-only file reaches the disk: `appendfsync`.
    #[arg(long, value_enum, default_value = "always")]
    fsync: Fsync,

    /// Requests a second at the most.
    #[arg(long, default_value = "1000", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    rate: u64,

    /// Which faults there are, and how many at a time.
    #[arg(long, value_enum, default_value = "basic")]
    schedule: Schedule,

    /// Divides the instances among so many shards: `metrics_shards`. Six with the schedule
    /// cluster, otherwise none unless given; then all are on the one Redis.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=256))]
    shards: Option<u32>,
}

const EXAMPLES: &str = "\
Examples:
  cargo xtask chaos
  cargo xtask chaos --seed 7 --seconds 600 --durability strict
  cargo xtask chaos --app metered --schedule wide
  cargo xtask chaos --schedule wide --shards 3
  cargo xtask chaos --schedule cluster --seconds 120

A response is in doubt if its instance may have died shortly after it (it may be
counted as crashed), and Redis was away or slow then (it may not be counted at all). A
request without a response of the application may be counted as what it was, as
crashed, or not at all. `least` and `most` of each series allow for that.

In strict mode no result is in doubt, whatever happens. A 503 is counted as such, or as
the result that it withheld.

SCAFFOLD_BIN_DIR names the folder of devhost and functional-scaffold-exporter,
if they are not beside this program.";

fn main() -> ExitCode {
    match run_and_judge(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Runs, and tells whether the promise was kept.
fn run_and_judge(cli: &Cli) -> anyhow::Result<bool> {
    let plan = Plan {
        app: cli.app,
        seed: cli.seed.unwrap_or_else(seed_from_clock),
        seconds: cli.seconds,
        durability: cli.durability,
        fsync: cli.fsync,
        rate: cli.rate,
        schedule: cli.schedule,
        shards: cli.shards.or_else(|| {
            let is_cluster = cli.schedule == Schedule::Cluster;
            is_cluster.then_some(CLUSTER_SHARDS)
        }),
    };
    eprintln!("seed {}", plan.seed);
    let folder = tempfile::Builder::new()
        .prefix("scaffold-chaos-")
        .tempdir()?;
    // An interrupted run stops its servers, even a suspended one.
    let is_interrupted = Arc::new(AtomicBool::new(false));
    for signal in [consts::SIGINT, consts::SIGTERM] {
        flag::register(signal, Arc::clone(&is_interrupted))?;
    }
    let findings = match run(plan, folder.path(), &is_interrupted) {
        Ok(findings) => findings,
        Err(error) => {
            keep(folder);
            return Err(error);
        }
    };
    print!("{findings}");
    let wrong = judge(&findings);
    if wrong.is_empty() {
        println!("verdict     right: no difference beyond what the mode promises");
        return Ok(true);
    }
    println!("verdict     WRONG");
    for sentence in wrong {
        println!("  - {sentence}");
    }
    keep(folder);
    Ok(false)
}

fn keep(folder: TempDir) {
    eprintln!("the log is in {}", folder.keep().display());
}

fn seed_from_clock() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    // Short enough to be typed again.
    since.map_or(0, |since| since.as_secs() % 1_000_000)
}
