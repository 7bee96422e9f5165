//! The requests of a run: a few workers, each one request at a time, and an
//! entry for each. Judges only what an answer is, not whether it is counted.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use fastrand::Rng;
use reqwest::{Client, Response, header::CONTENT_TYPE};
use tokio::task::JoinHandle;

use super::{
    Plan,
    ledger::{Entry, Kind, Outcome, route},
    schedule::Mood,
};

/// Requests at a time.
pub const CONCURRENCY: u64 = 16;
/// Far beyond what any fault of the schedule takes.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Answers that are kept for the report of what should not have been answered.
const MAX_STRANGE: usize = 5;

/// A load that goes on until it is stopped.
#[derive(Debug)]
pub struct Load {
    switch: Arc<Switch>,
    workers: Vec<JoinHandle<Part>>,
}

#[derive(Debug, Default)]
struct Switch {
    stop: AtomicBool,
    deadly: AtomicBool,
    fatal: AtomicBool,
}

/// What one worker, or all of them, saw.
#[derive(Debug, Default)]
pub struct Part {
    /// Every request, in no order.
    pub entries: Vec<Entry>,
    /// Answers of the application that the request does not get, and how many
    /// there were.
    pub strange: (Vec<String>, usize),
}

impl Load {
    /// Starts it on an origin, in a calm mood. With so many requests a second at
    /// the most, what is measured is the faults and not a machine that is too
    /// small.
    ///
    /// # Errors
    /// There is no client.
    pub fn start(origin: &str, plan: &Plan, began: Instant) -> anyhow::Result<Self> {
        let client = Client::builder()
            .pool_max_idle_per_host(usize::try_from(CONCURRENCY)?)
            .timeout(TIMEOUT)
            .build()?;
        let switch = Arc::new(Switch::default());
        let workers = (0..CONCURRENCY).map(|number| {
            let worker = Worker {
                client: client.clone(),
                origin: origin.to_owned(),
                // Half of it on average.
                longest_pause_micros: 2_000_000 * CONCURRENCY / plan.rate,
                rng: Rng::with_seed(plan.seed.wrapping_mul(CONCURRENCY).wrapping_add(number)),
                began,
                part: Part::default(),
            };
            tokio::spawn(worker.run(Arc::clone(&switch)))
        });
        let workers = workers.collect();
        Ok(Self { switch, workers })
    }

    /// Which route is taken from now on.
    pub fn set_mood(&self, mood: Mood) {
        let deadly = mood == Mood::Deadly;
        self.switch.deadly.store(deadly, Ordering::Relaxed);
    }

    /// Whether executions are sent from now on that end their instance.
    pub fn set_fatal(&self, fatal: bool) {
        self.switch.fatal.store(fatal, Ordering::Relaxed);
    }

    /// Lets the last requests end, and gives them all.
    ///
    /// # Errors
    /// A worker panicked.
    pub async fn end(self) -> anyhow::Result<Part> {
        self.switch.stop.store(true, Ordering::Relaxed);
        let mut all = Part::default();
        for worker in self.workers {
            let part = worker.await.context("a worker of the load failed")?;
            all.entries.extend(part.entries);
            all.strange.0.extend(part.strange.0);
            all.strange.1 += part.strange.1;
        }
        all.strange.0.truncate(MAX_STRANGE);
        Ok(all)
    }
}

struct Worker {
    client: Client,
    origin: String,
    longest_pause_micros: u64,
    rng: Rng,
    began: Instant,
    part: Part,
}

impl Worker {
    async fn run(mut self, switch: Arc<Switch>) -> Part {
        while !switch.stop.load(Ordering::Relaxed) {
            let mood = match switch.deadly.load(Ordering::Relaxed) {
                true => Mood::Deadly,
                false => Mood::Calm,
            };
            let kind = Kind::draw(&mut self.rng, switch.fatal.load(Ordering::Relaxed));
            let sent = self.began.elapsed();
            let outcome = self.send(kind, route(mood).0).await;
            let ended = self.began.elapsed();
            self.part.entries.push(Entry {
                mood,
                kind,
                sent,
                ended,
                outcome,
            });
            let pause = Duration::from_micros(self.rng.u64(0..=self.longest_pause_micros));
            tokio::time::sleep(pause).await;
        }
        self.part
    }

    async fn send(&mut self, kind: Kind, path: &str) -> Outcome {
        let url = format!("{}{path}", self.origin);
        let request = self.client.post(url).body(kind.body());
        let response = match request
            .header(CONTENT_TYPE, "application/json")
            .send()
            .await
        {
            Ok(response) => response,
            Err(error) if error.is_connect() => return Outcome::Refused,
            Err(_) => return Outcome::NoAnswer,
        };
        let code = response.status().as_u16();
        let instance = instance_of(&response);
        let Ok(body) = response.bytes().await else {
            return Outcome::NoAnswer;
        };
        match (code, instance) {
            (500, None) if body.is_empty() => return Outcome::HostError,
            (_, Some(instance)) if code == kind.code() && !kind.is_fatal() => {
                return Outcome::Answer { code, instance };
            }
            _ => {}
        }
        let (kept, count) = &mut self.part.strange;
        *count += 1;
        if kept.len() < MAX_STRANGE {
            let body = String::from_utf8_lossy(&body).into_owned();
            kept.push(format!("{kind:?} was answered {code}: {body}"));
        }
        Outcome::HostError
    }
}

/// The instance that made the request's id, `<nonce>-<number>`.
fn instance_of(response: &Response) -> Option<u64> {
    let id = response.headers().get("x-request-id")?.to_str().ok()?;
    u64::from_str_radix(id.split('-').next()?, 16).ok()
}
