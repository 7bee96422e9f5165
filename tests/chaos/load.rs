//! The requests of a run. A few threads send one request at a time, and make an entry for
//! each.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::anyhow;
use fastrand::Rng;
use functional_scaffold_protocol::catalog::ExecutionStatus;
use functional_scaffold_testkit::load::agent;
use ureq::{Agent, Body, http::Response};

use crate::plan::{Durability, Phase, Plan};

pub(crate) const CONNECTIONS: u64 = 16;
/// The status code of a response without a result: Redis has not acknowledged the
/// execution.
pub(crate) const UNAVAILABLE: u16 = 503;
/// The unexpected responses that are kept for the report.
const MAX_EXAMPLES: usize = 5;

/// A request to an algorithm or an app that misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Success,
    Failure,
    /// Has an input that is rejected.
    Refusal,
    /// Traps, which ends its instance.
    Trap,
    /// Loops, until the host's limit ends its instance.
    Loop,
}

impl Kind {
    /// Draws one: mostly successes; if it may be fatal, one trap in 500 and one loop
    /// in 3,000, where the host ends loops.
    fn draw(rng: &mut Rng, may_be_fatal: bool, may_loop: bool) -> Self {
        match rng.u32(0..6_000) {
            0..2 if may_be_fatal && may_loop => Self::Loop,
            2..14 if may_be_fatal => Self::Trap,
            ..900 => Self::Failure,
            900..1_800 => Self::Refusal,
            _ => Self::Success,
        }
    }

    pub(crate) fn body(self) -> &'static str {
        match self {
            Self::Success => r#""nothing""#,
            Self::Failure => r#""fail""#,
            Self::Refusal => r#""hum""#,
            Self::Trap => r#""trap""#,
            Self::Loop => r#""loop""#,
        }
    }

    /// Returns whether it ends the instance that it runs in.
    pub(crate) fn is_fatal(self) -> bool {
        matches!(self, Self::Trap | Self::Loop)
    }

    /// The status of its execution.
    pub(crate) fn status(self) -> ExecutionStatus {
        match self {
            Self::Success => ExecutionStatus::Success,
            Self::Failure => ExecutionStatus::Failed,
            Self::Refusal => ExecutionStatus::InvalidInput,
            Self::Trap | Self::Loop => ExecutionStatus::Crashed,
        }
    }
}

/// The status code of a response to an execution that ended like this.
pub(crate) fn code_of(status: ExecutionStatus) -> u16 {
    match status {
        ExecutionStatus::Success => 200,
        ExecutionStatus::InvalidInput => 422,
        ExecutionStatus::Failed | ExecutionStatus::Crashed => 500,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A response of the application, from the instance with this nonce: the execution
    /// has ended and is counted as that.
    Response { instance: u64 },
    /// A 503 of the application, in strict mode: the execution has not begun, or its
    /// result is withheld.
    Unavailable { instance: u64 },
    /// A 500 without a body, which the host sends when the instance died. The execution
    /// may have begun or not, or may even have ended.
    HostError,
    /// Nothing: the connection broke, or the time-out passed.
    NoResponse,
    /// Nothing was sent, because nothing listened.
    Refused,
    /// The client sent it, slowly or not, and did not wait for a response.
    Vanished,
}

/// A request. Times are since the beginning of the run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    /// The phase in which it was sent, which chose its route.
    pub(crate) phase: Phase,
    pub(crate) kind: Kind,
    /// Before its first byte was sent.
    pub(crate) sent: Duration,
    /// After the last byte of the response, or when there will be none.
    pub(crate) ended: Duration,
    pub(crate) outcome: Outcome,
}

impl Entry {
    pub(crate) fn instance(&self) -> Option<u64> {
        match self.outcome {
            Outcome::Response { instance } | Outcome::Unavailable { instance } => Some(instance),
            _ => None,
        }
    }
}

/// A load that continues until it is ended.
#[derive(Debug)]
pub(crate) struct Load {
    switch: Arc<Switch>,
    workers: Vec<JoinHandle<Requests>>,
}

#[derive(Debug, Default)]
struct Switch {
    stop: AtomicBool,
    is_deadly: AtomicBool,
    may_be_fatal: AtomicBool,
}

#[derive(Debug, Default)]
pub(crate) struct Requests {
    pub(crate) entries: Vec<Entry>,
    /// Responses that do not belong to their request, and their number.
    pub(crate) unexpected: (Vec<String>, usize),
}

impl Load {
    /// Starts it in the calm phase. `may_loop` tells whether the host ends loops.
    pub(crate) fn start(origin: &str, plan: &Plan, may_loop: bool, began: Instant) -> Self {
        let switch = Arc::new(Switch::default());
        let worker = |number| Worker {
            agent: agent(),
            origin: origin.to_owned(),
            // The load is half of the limit on average. The limit makes the result
            // independent of a slow machine.
            longest_pause_micros: 2_000_000 * CONNECTIONS / plan.rate,
            is_strict: plan.durability == Durability::Strict,
            may_loop,
            rng: Rng::with_seed(plan.seed.wrapping_mul(CONNECTIONS).wrapping_add(number)),
            began,
            requests: Requests::default(),
        };
        let spawn = |number| {
            let (worker, switch) = (worker(number), Arc::clone(&switch));
            thread::spawn(move || worker.run(&switch))
        };
        let workers = (0..CONNECTIONS).map(spawn).collect();
        Self { switch, workers }
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        let is_deadly = phase == Phase::Deadly;
        self.switch.is_deadly.store(is_deadly, Ordering::Relaxed);
    }

    pub(crate) fn set_fatal(&self, may_be_fatal: bool) {
        self.switch
            .may_be_fatal
            .store(may_be_fatal, Ordering::Relaxed);
    }

    /// Waits for the last responses and returns all requests.
    pub(crate) fn end(mut self) -> anyhow::Result<Requests> {
        self.switch.stop.store(true, Ordering::Relaxed);
        let mut all = Requests::default();
        for worker in self.workers.drain(..) {
            let part = worker
                .join()
                .map_err(|_panic| anyhow!("a thread of the load panicked"))?;
            all.entries.extend(part.entries);
            all.unexpected.0.extend(part.unexpected.0);
            all.unexpected.1 += part.unexpected.1;
        }
        all.unexpected.0.truncate(MAX_EXAMPLES);
        Ok(all)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.switch.stop.store(true, Ordering::Relaxed);
    }
}

struct Worker {
    agent: Agent,
    origin: String,
    longest_pause_micros: u64,
    is_strict: bool,
    may_loop: bool,
    rng: Rng,
    began: Instant,
    requests: Requests,
}

impl Worker {
    fn run(mut self, switch: &Switch) -> Requests {
        while !switch.stop.load(Ordering::Relaxed) {
            let phase = match switch.is_deadly.load(Ordering::Relaxed) {
                true => Phase::Deadly,
                false => Phase::Calm,
            };
            let kind = Kind::draw(
                &mut self.rng,
                switch.may_be_fatal.load(Ordering::Relaxed),
                self.may_loop,
            );
            let sent = self.began.elapsed();
            let outcome = self.send(kind, phase.path());
            self.requests.entries.push(Entry {
                phase,
                kind,
                sent,
                ended: self.began.elapsed(),
                outcome,
            });
            let pause = self.rng.u64(0..=self.longest_pause_micros);
            thread::sleep(Duration::from_micros(pause));
        }
        self.requests
    }

    fn send(&mut self, kind: Kind, path: &str) -> Outcome {
        let url = format!("{}{path}", self.origin);
        let request = self
            .agent
            .post(url)
            .header("content-type", "application/json");
        let mut response = match request.send(kind.body()) {
            Ok(response) => response,
            Err(ureq::Error::Io(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                return Outcome::Refused;
            }
            Err(_) => return Outcome::NoResponse,
        };
        let code = response.status().as_u16();
        let instance = instance_of(&response);
        let Ok(body) = response.body_mut().read_to_vec() else {
            return Outcome::NoResponse;
        };
        match instance {
            None if code == 500 && body.is_empty() => return Outcome::HostError,
            Some(instance) if code == code_of(kind.status()) && !kind.is_fatal() => {
                return Outcome::Response { instance };
            }
            Some(instance) if code == UNAVAILABLE && self.is_strict => {
                return Outcome::Unavailable { instance };
            }
            _ => {}
        }
        let (examples, count) = &mut self.requests.unexpected;
        *count += 1;
        if examples.len() < MAX_EXAMPLES {
            let body = String::from_utf8_lossy(&body);
            examples.push(format!("{kind:?} got {code}: {body}"));
        }
        Outcome::HostError
    }
}

/// The instance that made the response's request id, `<nonce>-<number>`.
fn instance_of(response: &Response<Body>) -> Option<u64> {
    instance_of_id(response.headers().get("x-request-id")?.to_str().ok()?)
}

/// The instance that made a request id.
pub(crate) fn instance_of_id(id: &str) -> Option<u64> {
    u64::from_str_radix(id.split('-').next()?, 16).ok()
}
