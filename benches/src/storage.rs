//! How many requests a second one Redis core can account for, by mode and by
//! requests a batch; and how many pushes a core of a Pushgateway takes, as its
//! groups grow.

use std::time::{Duration, Instant};

use anyhow::ensure;
use functional_scaffold_protocol::calls::leases_key;

use crate::{
    chart::Chart,
    instance::{Done, Habit, REQUESTS_OF_AN_INSTANCE},
    load::as_float,
    pushes,
    report::{Answer, Cell, Table},
    rounds::{Figure, alternate},
    section::Bench,
    store::Store,
};

const LASTING: Duration = Duration::from_millis(800);
const SMOKE_LASTING: Duration = Duration::from_millis(100);
const BATCHES: [u64; 3] = [1, 4, 16];
/// Calls that are sent at a time where Redis is to read many at once.
const PIPELINED: usize = 64;

/// What Redis did for instances.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Account {
    /// What was asked of it, all of it found done.
    pub(crate) done: Done,
    /// Its processor time.
    pub(crate) redis: Duration,
    /// Time on the clock.
    pub(crate) took: Duration,
}

impl Account {
    /// Runs instances for a while, and sees to it that each of their requests
    /// is counted, and once.
    ///
    /// # Errors
    /// Redis refused something, or more or less was counted.
    pub(crate) fn of(store: &Store, habit: &Habit, lasting: Duration) -> anyhow::Result<Self> {
        let before = (counted(store, habit)?, store.work()?);
        let began = Instant::now();
        let done = habit.run(store.port(), lasting)?;
        let took = began.elapsed();
        let work = store.work()?;
        let counted = counted(store, habit)? - before.0;
        ensure!(
            counted == done.requests,
            "{} requests were sent, {counted} are counted",
            done.requests
        );
        let leases: u64 = store.call(&["ZCARD", &leases_key(&habit.prefix)])?;
        ensure!(leases == 0, "{leases} leases are open");
        Ok(Self {
            done,
            redis: work.used.saturating_sub(before.1.used),
            took,
        })
    }

    /// Requests that one core of Redis takes in a second.
    pub(crate) fn requests_of_a_core(&self) -> f64 {
        as_float(self.done.requests) / self.redis.as_secs_f64()
    }

    /// Redis's processor time a request, in microseconds.
    pub(crate) fn micros_of_a_request(&self) -> f64 {
        1e6 / self.requests_of_a_core()
    }
}

/// How long instances write in a turn.
pub(crate) fn lasting(bench: &Bench) -> Duration {
    if bench.smoke { SMOKE_LASTING } else { LASTING }
}

/// All executions there are in the store, by their durations: each is in its
/// algorithm's histogram, in one bucket.
fn counted(store: &Store, habit: &Habit) -> anyhow::Result<u64> {
    const SUM: &str = "local sum = 0 \
        for algorithm = 0, ARGV[1] - 1 do \
          local name = 'algorithm=\"algorithm-' .. algorithm .. '\"' \
          for _, le in ipairs({'|0.00005', '|0.0001'}) do \
            sum = sum + (redis.call('HGET', KEYS[1], name .. le) or 0) \
          end \
        end \
        return sum";
    let key = format!("{}algorithm_latency", habit.prefix);
    store.call(&["EVAL", SUM, "1", &key, &habit.algorithms.to_string()])
}

/// Measures it.
pub(crate) fn run(bench: &Bench) -> anyhow::Result<Answer> {
    let store = Store::start()?;
    let mut habits = Vec::new();
    for leased in [false, true] {
        for batch in BATCHES {
            for (instances, calls_at_a_time) in [(32, 1), (4, PIPELINED)] {
                habits.push(Habit {
                    prefix: format!("{leased}:{batch}:{calls_at_a_time}:"),
                    leased,
                    batch,
                    algorithms: 1,
                    instances,
                    calls_at_a_time,
                });
            }
        }
    }
    let lasting = lasting(bench);
    let accounts = alternate(bench.rounds, &habits, |habit| {
        Account::of(&store, habit, lasting)
    })?;
    let mut rows: Vec<Vec<Cell>> = Vec::new();
    let mut bars = Vec::new();
    // In pairs: one call at a time, and pipelined.
    for (habits, accounts) in habits.chunks(2).zip(accounts.chunks(2)) {
        let habit = &habits[0];
        let mode = if habit.leased {
            "`exact`, `strict`"
        } else {
            "`relaxed`"
        };
        let one = Figure::of(&accounts[0], Account::requests_of_a_core);
        bars.push((
            format!("{}, {} a batch", mode.replace('`', ""), habit.batch),
            one.clone(),
        ));
        let calls = Figure::of(&accounts[0], |account| {
            as_float(account.done.calls) / as_float(account.done.requests)
        });
        rows.push(vec![
            mode.into(),
            habit.batch.to_string().into(),
            Figure::of(&[calls.median()], |calls| *calls).into(),
            one.into(),
            Figure::of(&accounts[0], Account::micros_of_a_request).into(),
            Figure::of(&accounts[1], Account::requests_of_a_core).into(),
            Figure::of(&accounts[1], Account::micros_of_a_request).into(),
        ]);
    }
    let columns = [
        "mode",
        "requests a batch",
        "calls a request",
        "requests/s of a Redis core",
        "µs of it a request",
        "the same pipelined, requests/s",
        "µs",
    ];
    let redis = Table {
        caption: "What one core of Redis accounts for".into(),
        columns: columns.map(str::to_owned).into(),
        rows,
    };
    let pushgateway = pushes::measure(bench)?;
    Ok(Answer {
        title: "Where metrics go".into(),
        method: format!(
            "Native clients make the calls of instances, leases and the real scripts, and nothing else: \
             each instance connects, asks whether its families are registered, has \
             {REQUESTS_OF_AN_INSTANCE} requests and ends, as Spin has it. 32 of them at a time with one call under way each, as in the service; \
             and, for what Redis does alone, 4 with up to {PIPELINED} calls at a time. Requests are \
             divided by Redis's own processor time (`/proc`), so the clients' does not count. \
             Each answer is read, and after each run every request is in its histogram, once, and \
             no lease is open. `appendfsync everysec`.\n\n\
             To Redis `exact` and `strict` are the same calls: a lease an execution, and batches \
             that settle them. They differ in how many requests share a batch: in `strict`, which \
             waits for it, those that end while another one is written."
        ),
        charts: vec![Chart {
            name: "storage".into(),
            caption: "Requests a second that one core of Redis accounts for".into(),
            bars,
        }],
        tables: vec![redis, pushgateway],
        targets: vec![],
        notes: vec![
            "A push replaces its group by the totals of one instance, and the Pushgateway compares \
             it with every group there is, so its cost grows with the groups. Nothing takes a \
             group away by itself: each instance leaves one behind."
                .into(),
        ],
    })
}
