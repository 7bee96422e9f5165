//! The path from the application, or from the readers, to the Redis that is the master.
//! It can be cut, closed, muted, delayed, slowed down and blocked, and a reply cut in two.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    mem,
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex, PoisonError, RwLock, RwLockWriteGuard,
        atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering},
    },
    thread::{self, sleep},
    time::Duration,
};

use crate::ledger::{Conversation, Ledger, lock};

const BUFFER_BYTES: usize = 64 * 1024;

#[derive(Debug)]
pub(crate) struct Proxy {
    port: u16,
    path: Arc<Path>,
}

/// The state that the threads of all connections share.
#[derive(Debug, Default)]
struct Path {
    /// The port of the master, which a failover changes.
    master: Arc<AtomicU16>,
    ledger: Arc<Ledger>,
    switch: Mutex<Switch>,
    switched: Condvar,
    /// Held while calls pass.
    gate: RwLock<()>,
    dropped_bytes: AtomicU64,
    is_closed: AtomicBool,
}

#[derive(Debug, Default)]
struct Switch {
    /// No connection is accepted.
    is_shut: bool,
    /// Redis's replies are dropped.
    is_mute: bool,
    /// Neither calls nor replies pass.
    is_black_hole: bool,
    /// The replies are dropped as soon as a call settles leases.
    mutes_settling: bool,
    /// Each connection is cut inside its next reply.
    cuts_replies: bool,
    /// The pause after each byte of a reply.
    drip: Option<Duration>,
    /// The generation of the connections that are accepted now.
    generation: u64,
    /// Calls on connections of generations before this one wait.
    held_before: u64,
    /// Connections of generations before this one are dead: nothing passes, but they stay
    /// open.
    dead_before: u64,
    /// Connections of generations before this one are cut.
    cut_before: u64,
    /// The application's ends of the open connections, by number.
    open: BTreeMap<u64, TcpStream>,
    connections: u64,
}

impl Proxy {
    /// Starts one in front of the Redis that listens on the port `master`.
    pub(crate) fn start(master: &Arc<AtomicU16>, ledger: &Arc<Ledger>) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let path = Arc::new(Path {
            master: Arc::clone(master),
            ledger: Arc::clone(ledger),
            ..Path::default()
        });
        let accepting = Arc::clone(&path);
        thread::spawn(move || {
            for application in listener.incoming().flatten() {
                if accepting.is_closed.load(Ordering::Relaxed) {
                    return;
                }
                accepting.accept(application);
            }
        });
        Ok(Self { port, path })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn dropped_bytes(&self) -> u64 {
        self.path.dropped_bytes.load(Ordering::Relaxed)
    }

    /// Cuts every connection, and accepts new ones.
    pub(crate) fn cut(&self) {
        self.switch(|switch| {
            switch.is_shut = false;
            switch.is_mute = false;
            switch.is_black_hole = false;
            switch.mutes_settling = false;
            switch.generation += 1;
            switch.cut_before = switch.generation;
            for stream in switch.open.values() {
                // It may have ended.
                let _ = stream.shutdown(Shutdown::Both);
            }
        });
    }

    /// Accepts no new connection until [`Self::cut`].
    pub(crate) fn refuse(&self) {
        self.switch(|switch| switch.is_shut = true);
    }

    /// Drops Redis's replies, on all connections, until [`Self::cut`].
    pub(crate) fn mute(&self) {
        self.switch(|switch| switch.is_mute = true);
    }

    /// Holds the calls on the existing connections until [`Self::release`], even after
    /// the application has closed them.
    pub(crate) fn hold(&self) {
        self.switch(|switch| {
            switch.generation += 1;
            switch.held_before = switch.generation;
        });
    }

    pub(crate) fn release(&self) {
        self.switch(|switch| switch.held_before = 0);
    }

    /// Accepts connections and forwards nothing, on any connection, until [`Self::cut`].
    pub(crate) fn swallow(&self) {
        self.switch(|switch| switch.is_black_hole = true);
    }

    /// Forwards nothing on the existing connections any more, and leaves them open, as
    /// after a peer's machine has gone. New connections work.
    pub(crate) fn half_open(&self) {
        self.switch(|switch| {
            switch.generation += 1;
            switch.dead_before = switch.generation;
        });
    }

    /// Pauses after each byte of a reply, or no longer.
    pub(crate) fn drip(&self, pause: Option<Duration>) {
        self.switch(|switch| switch.drip = pause);
    }

    /// Cuts each connection in the middle of its next reply, or no longer.
    pub(crate) fn cut_replies(&self, cuts_replies: bool) {
        self.switch(|switch| switch.cuts_replies = cuts_replies);
    }

    /// Drops Redis's replies from the next call on that settles leases, until
    /// [`Self::cut`].
    pub(crate) fn mute_settling(&self) {
        self.switch(|switch| switch.mutes_settling = true);
    }

    /// Lets no call pass while the guard lives.
    pub(crate) fn shut_gate(&self) -> RwLockWriteGuard<'_, ()> {
        let guard = self.path.gate.write();
        guard.unwrap_or_else(PoisonError::into_inner)
    }

    fn switch(&self, change: impl FnOnce(&mut Switch)) {
        change(&mut lock(&self.path.switch));
        self.path.switched.notify_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.path.is_closed.store(true, Ordering::Relaxed);
        self.release();
        self.cut();
        // Wakes the thread that accepts.
        let _gone = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

impl Switch {
    fn is_dead(&self, generation: u64) -> bool {
        self.is_black_hole || generation < self.dead_before
    }
}

impl Path {
    /// Passes the bytes of a connection in two threads.
    fn accept(self: &Arc<Self>, application: TcpStream) {
        let mut switch = lock(&self.switch);
        if switch.is_shut {
            return;
        }
        let port = self.master.load(Ordering::SeqCst);
        let Ok(redis) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else {
            return;
        };
        // Without this option everything still works, more slowly.
        let _ = (application.set_nodelay(true), redis.set_nodelay(true));
        let clones = (
            application.try_clone(),
            application.try_clone(),
            redis.try_clone(),
        );
        let (Ok(registered), Ok(to_application), Ok(from_redis)) = clones else {
            return;
        };
        switch.connections += 1;
        let (number, generation) = (switch.connections, switch.generation);
        switch.open.insert(number, registered);
        drop(switch);
        let conversation = Arc::new(Mutex::new(Conversation::new(Arc::clone(&self.ledger))));
        let replies = (Arc::clone(self), Arc::clone(&conversation));
        let calls = Arc::clone(self);
        thread::spawn(move || calls.pass_calls(generation, application, redis, &conversation));
        thread::spawn(move || {
            replies
                .0
                .pass_replies(generation, from_redis, to_application, &replies.1);
            lock(&replies.0.switch).open.remove(&number);
        });
    }

    fn pass_calls(
        &self,
        generation: u64,
        mut application: TcpStream,
        mut redis: TcpStream,
        conversation: &Mutex<Conversation>,
    ) {
        let mut bytes = vec![0; BUFFER_BYTES];
        // Once a call was swallowed, no later call may pass.
        let mut is_dead = false;
        while let Ok(read @ 1..) = application.read(&mut bytes) {
            if !self.wait_while_held(generation) {
                break;
            }
            let _gate = self.gate.read();
            is_dead |= lock(&self.switch).is_dead(generation);
            if is_dead {
                continue;
            }
            if lock(conversation).read_calls(&bytes[..read]) {
                let mut switch = lock(&self.switch);
                switch.is_mute |= mem::take(&mut switch.mutes_settling);
            }
            if redis.write_all(&bytes[..read]).is_err() {
                break;
            }
        }
        // Redis executes the calls that it received, and its replies are read to the
        // end.
        let _ = redis.shutdown(Shutdown::Write);
    }

    fn pass_replies(
        &self,
        generation: u64,
        mut redis: TcpStream,
        mut application: TcpStream,
        conversation: &Mutex<Conversation>,
    ) {
        let mut bytes = vec![0; BUFFER_BYTES];
        while let Ok(read @ 1..) = redis.read(&mut bytes) {
            let reply = &bytes[..read];
            lock(conversation).read_replies(reply);
            let (is_dropped, drip, is_cut) = {
                let switch = lock(&self.switch);
                let is_dropped = switch.is_mute || switch.is_dead(generation);
                (is_dropped, switch.drip, switch.cuts_replies)
            };
            // The application may be gone; the calls were executed.
            if is_dropped {
                self.dropped_bytes.fetch_add(read as u64, Ordering::Relaxed);
            } else if is_cut {
                let _ = application.write_all(&reply[..read / 2]);
                let _ = application.shutdown(Shutdown::Both);
            } else if let Some(pause) = drip {
                self.drip(reply, pause, &mut application);
            } else {
                let _ = application.write_all(reply);
            }
        }
        let _ = application.shutdown(Shutdown::Both);
    }

    fn drip(&self, reply: &[u8], pause: Duration, application: &mut TcpStream) {
        for (index, byte) in reply.iter().enumerate() {
            if lock(&self.switch).drip.is_none() {
                let _ = application.write_all(&reply[index..]);
                return;
            }
            if application.write_all(&[*byte]).is_err() {
                return;
            }
            sleep(pause);
        }
    }

    /// Waits while the calls of a generation are held. Returns false if it was cut.
    fn wait_while_held(&self, generation: u64) -> bool {
        let switch = lock(&self.switch);
        let is_held = |switch: &mut Switch| {
            generation < switch.held_before && generation >= switch.cut_before
        };
        let waited = self.switched.wait_while(switch, is_held);
        generation >= waited.unwrap_or_else(PoisonError::into_inner).cut_before
    }
}
