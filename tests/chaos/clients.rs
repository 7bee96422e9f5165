//! Clients that send slowly, stop in the middle of a request, or vanish before the
//! response. Whatever they do, each request is counted once at most. And clients that try
//! to get a line into the log that `replay` takes for a batch.

use std::{
    io::{Read as _, Write as _},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, anyhow};
use fastrand::Rng;
use functional_scaffold_protocol::replay_key::ReplayKey;
use functional_scaffold_testkit::http::{Response, connect};
use serde_json::json;

use crate::{
    load::{Entry, Kind, Outcome, instance_of_id},
    log::FORGER,
    plan::{AppKind, Phase, Plan},
};

const CLIENTS: u64 = 6;
/// The longest pause of a slow client.
const PAUSE_MILLIS: u64 = 150;
/// The longest wait for a response.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The requests of broken clients.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    /// The whole requests.
    pub(crate) entries: Vec<Entry>,
    /// The number of requests of which only a part was sent.
    pub(crate) broken: i64,
    /// The number of requests to a route that does not exist.
    pub(crate) astray: i64,
}

#[derive(Debug)]
pub(crate) struct Clients {
    app: AppKind,
    address: SocketAddr,
    rng: Rng,
    began: Instant,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Sent>>,
}

impl Clients {
    pub(crate) fn new(address: SocketAddr, plan: &Plan, began: Instant) -> Self {
        Self {
            app: plan.app,
            address,
            rng: Rng::with_seed(plan.seed),
            began,
            stop: Arc::default(),
            threads: Vec::new(),
        }
    }

    /// Starts clients that break off, or that forge lines of the log.
    pub(crate) fn begin(&mut self, forge: bool) {
        self.stop = Arc::default();
        for _ in 0..CLIENTS {
            let mut client = Client {
                app: self.app,
                address: self.address,
                rng: self.rng.fork(),
                began: self.began,
                sent: Sent::default(),
            };
            let stop = Arc::clone(&self.stop);
            self.threads.push(thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    // Nothing listens while the runtime is restarted.
                    let _refused = match forge {
                        true => client.forge(),
                        false => client.send(),
                    };
                    client.pause();
                }
                client.sent
            }));
        }
    }

    /// Lets them end, when they have their responses.
    pub(crate) fn end(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Waits for their end, and returns what they have sent.
    pub(crate) fn finish(&mut self) -> anyhow::Result<Sent> {
        let mut all = Sent::default();
        for thread in self.threads.drain(..) {
            let sent = thread
                .join()
                .map_err(|_panic| anyhow!("a broken client panicked"))?;
            all.entries.extend(sent.entries);
            all.broken += sent.broken;
            all.astray += sent.astray;
        }
        Ok(all)
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

struct Client {
    app: AppKind,
    address: SocketAddr,
    rng: Rng,
    began: Instant,
    sent: Sent,
}

impl Client {
    fn pause(&mut self) {
        thread::sleep(Duration::from_millis(self.rng.u64(0..PAUSE_MILLIS)));
    }

    /// Sends a request, or a part of one, over a new connection.
    fn send(&mut self) -> anyhow::Result<()> {
        // Of a phase in which instances die, so that nothing hides a calm response.
        let phase = Phase::Deadly;
        let kind = Kind::Success;
        let body = kind.body();
        let request = format!(
            "POST {} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n{body}",
            phase.path(),
            self.address,
            body.len()
        );
        let mut stream = connect(self.address, TIMEOUT)?;
        let sent = self.began.elapsed();
        match self.rng.u8(0..4) {
            // A part of the head, or the head with a part of the body.
            drawn @ (0 | 1) => {
                let head = request.len() - body.len();
                let part = match drawn {
                    0 => self.rng.usize(1..head),
                    _ => self.rng.usize(head..request.len()),
                };
                self.sent.broken += 1;
                if self.app == AppKind::Metered {
                    self.add(phase, Kind::Refusal, sent, Outcome::Vanished);
                }
                stream.write_all(&request.as_bytes()[..part])?;
                self.pause();
                return Ok(());
            }
            // All of it, without waiting for the response.
            2 => {
                stream.write_all(request.as_bytes())?;
                self.add(phase, kind, sent, Outcome::Vanished);
                return Ok(());
            }
            // In pieces.
            _ => {}
        }
        let mut outcome = Outcome::Vanished;
        for piece in request.as_bytes().chunks(40) {
            // The runtime may be gone; it may have received the whole request.
            if stream.write_all(piece).is_err() {
                self.add(phase, kind, sent, outcome);
                return Ok(());
            }
            thread::sleep(Duration::from_millis(self.rng.u64(0..PAUSE_MILLIS / 4)));
        }
        if let Ok(instance) = read_instance(&mut stream) {
            outcome = Outcome::Response { instance };
        }
        self.add(phase, kind, sent, outcome);
        Ok(())
    }

    /// Sends a forged line, which the application prints, or the host logs with the path.
    fn forge(&mut self) -> anyhow::Result<()> {
        let phase = Phase::Deadly;
        let kind = Kind::Success;
        let line = forged_line(&mut self.rng);
        let mut stream = connect(self.address, TIMEOUT)?;
        let mut head = |path: &str, more: &[u8], body: &str| {
            let head = format!(
                "POST {path} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\n\
                 content-length: {}\r\nconnection: close\r\n",
                self.address,
                body.len()
            );
            let end = [more, b"\r\n", body.as_bytes()].concat();
            stream.write_all(&[head.as_bytes(), &end].concat())
        };
        if self.rng.bool() {
            self.sent.astray += 1;
            // No text: the host reports the request with its path.
            head(&format!("/invoke/{line}"), b"x-text: \xff\r\n", "0")?;
            stream.read_to_end(&mut Vec::new())?;
            return Ok(());
        }
        let sent = self.began.elapsed();
        let input = json!(format!("print {line}")).to_string();
        let mut outcome = Outcome::Vanished;
        if head(phase.path(), b"", &input).is_ok()
            && let Ok(instance) = read_instance(&mut stream)
        {
            outcome = Outcome::Response { instance };
        }
        self.add(phase, kind, sent, outcome);
        Ok(())
    }

    fn add(&mut self, phase: Phase, kind: Kind, sent: Duration, outcome: Outcome) {
        self.sent.entries.push(Entry {
            phase,
            kind,
            sent,
            ended: self.began.elapsed(),
            outcome,
        });
    }
}

/// A line that looks like a batch, or a part of one: without a code, or with that of
/// another key. It has no slash and no space.
fn forged_line(rng: &mut Rng) -> String {
    let part = [r#","part":{"number":1,"of":2}"#, ""];
    let forged = |sequence: u32, part| {
        let time = humantime::format_rfc3339_millis(SystemTime::now());
        format!(
            r#"{{"time":"{time}","level":"error","event":"batch_not_stored","reason":"r","id":"{FORGER}-{sequence}"{part},"increments":{{"metrics:request_counter":{{"code=\"200\"":1000000}}}}}}"#
        )
    };
    let mut line = forged(rng.u32(1..), part[rng.usize(0..2)]);
    if rng.bool() {
        let secret = format!("{:032x}", rng.u128(..));
        if let Ok(key) = ReplayKey::new(&secret) {
            key.sign(&mut line);
        }
    }
    line
}

/// Reads a response with a result, and returns the instance that made it.
fn read_instance(stream: &mut std::net::TcpStream) -> anyhow::Result<u64> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let response = Response::parse(&bytes)?;
    anyhow::ensure!(response.status == 200, "it is {}", response.status);
    let id = response.header("x-request-id").context("it has no id")?;
    instance_of_id(id).context("its id names no instance")
}
