//! Clients that send slowly, stop in the middle of a request, or vanish before the
//! response. Whatever they do, each request is counted once at most.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use fastrand::Rng;
use functional_scaffold_testkit::http::{Response, connect};

use crate::{
    load::{Entry, Kind, Outcome, instance_of_id, route},
    plan::Phase,
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
}

#[derive(Debug)]
pub(crate) struct Clients {
    address: SocketAddr,
    rng: Rng,
    began: Instant,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Sent>>,
}

impl Clients {
    pub(crate) fn new(address: SocketAddr, seed: u64, began: Instant) -> Self {
        Self {
            address,
            rng: Rng::with_seed(seed),
            began,
            stop: Arc::default(),
            threads: Vec::new(),
        }
    }

    pub(crate) fn begin(&mut self) {
        self.stop = Arc::default();
        for _ in 0..CLIENTS {
            let mut client = Client {
                address: self.address,
                rng: self.rng.fork(),
                began: self.began,
                sent: Sent::default(),
            };
            let stop = Arc::clone(&self.stop);
            self.threads.push(thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    // Nothing listens while the runtime is restarted.
                    let _refused = client.send();
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
             content-length: {}\r\n\r\n{body}",
            route(phase).0,
            self.address,
            body.len()
        );
        let mut stream = connect(self.address, TIMEOUT)?;
        let sent = self.began.elapsed();
        match self.rng.u8(0..4) {
            // Half of the head, or of the body.
            0 | 1 => {
                self.sent.broken += 1;
                let part = self.rng.usize(1..request.len());
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

/// Reads a response with a result, and returns the instance that made it.
fn read_instance(stream: &mut std::net::TcpStream) -> anyhow::Result<u64> {
    stream.shutdown(Shutdown::Write)?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let response = Response::parse(&bytes)?;
    anyhow::ensure!(response.status == 200, "it is {}", response.status);
    let id = response.header("x-request-id").context("it has no id")?;
    instance_of_id(id).context("its id names no instance")
}
