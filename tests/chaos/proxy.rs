//! The path from the application, or from the readers, to the Redis that is the master, or
//! to every node of a cluster. It can be cut, closed, muted, delayed, slowed down and blocked, and a reply cut in two.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    io::{Read as _, Write as _},
    mem,
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex, PoisonError, RwLock, RwLockWriteGuard,
        atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering},
    },
    thread::{self, sleep},
    time::Duration,
};

use socket2::SockRef;

use crate::ledger::{Conversation, Ledger, lock};

/// The connections that wait to be accepted, at most.
const BACKLOG: i32 = 128;
/// After this time without a reply, the queue of a listener is full.
const FULL: Duration = Duration::from_millis(50);
const BUFFER_BYTES: usize = 64 * 1024;

#[derive(Debug)]
pub(crate) struct Proxy {
    entrances: Vec<Entrance>,
    path: Arc<Path>,
}

/// Where the connections to one server arrive.
#[derive(Debug)]
struct Entrance {
    address: SocketAddr,
    listener: TcpListener,
    /// Connections that fill the queue of the listener.
    fillers: Mutex<Vec<TcpStream>>,
}

/// The state that the threads of all connections share.
#[derive(Debug, Default)]
struct Path {
    /// The port of the server behind each entrance: of the master, which a failover of
    /// Sentinel changes, or of each node of a cluster.
    servers: Vec<Arc<AtomicU16>>,
    /// The ports of the entrances.
    ports: Vec<u16>,
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
    /// Connections are closed as soon as they are accepted.
    is_shut: bool,
    /// No connection is accepted but one at each entrance, which then waits.
    is_deaf: bool,
    /// The number of those that wait.
    waiting: usize,
    /// Redis's replies are dropped.
    is_mute: bool,
    /// The replies of this server are dropped.
    mute_server: Option<usize>,
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
    /// Starts one with an entrance for each Redis that listens on these ports.
    pub(crate) fn start(servers: &[Arc<AtomicU16>], ledger: &Arc<Ledger>) -> anyhow::Result<Self> {
        let entrance = |_| {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            anyhow::Ok(Entrance {
                address: listener.local_addr()?,
                listener,
                fillers: Mutex::default(),
            })
        };
        let entrances: Vec<_> = servers.iter().map(entrance).collect::<Result<_, _>>()?;
        let ports = entrances.iter().map(|entrance| entrance.address.port());
        let path = Arc::new(Path {
            servers: servers.to_vec(),
            ports: ports.collect(),
            ledger: Arc::clone(ledger),
            ..Path::default()
        });
        for (server, entrance) in entrances.iter().enumerate() {
            let accepting = Arc::clone(&path);
            let own = entrance.listener.try_clone()?;
            thread::spawn(move || {
                for application in own.incoming().flatten() {
                    accepting.wait_while_deaf();
                    if accepting.is_closed.load(Ordering::Relaxed) {
                        return;
                    }
                    accepting.accept(server, application);
                }
            });
        }
        Ok(Self { entrances, path })
    }

    /// The port of the first entrance.
    pub(crate) fn port(&self) -> u16 {
        self.path.ports[0]
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

    /// Closes new connections until [`Self::cut`].
    pub(crate) fn refuse(&self) {
        self.switch(|switch| switch.is_shut = true);
    }

    /// Cuts every connection. Then the system drops the packets that would open a new one,
    /// until [`Self::accept_again`], as if the machine were gone.
    pub(crate) fn stop_accepting(&self) -> anyhow::Result<()> {
        self.switch(|switch| switch.is_deaf = true);
        for entrance in &self.entrances {
            SockRef::from(&entrance.listener).listen(0)?;
            // Fails if a connection of the application fills the queue, which then waits.
            let filler = TcpStream::connect_timeout(&entrance.address, FULL);
            lock(&entrance.fillers).extend(filler.ok());
        }
        let switch = lock(&self.path.switch);
        let accepts = |switch: &mut Switch| switch.waiting < self.entrances.len();
        drop(self.path.switched.wait_while(switch, accepts));
        for entrance in &self.entrances {
            while let Ok(filler) = TcpStream::connect_timeout(&entrance.address, FULL) {
                lock(&entrance.fillers).push(filler);
            }
        }
        self.cut();
        Ok(())
    }

    pub(crate) fn accept_again(&self) -> anyhow::Result<()> {
        for entrance in &self.entrances {
            lock(&entrance.fillers).clear();
            SockRef::from(&entrance.listener).listen(BACKLOG)?;
        }
        self.switch(|switch| switch.is_deaf = false);
        Ok(())
    }

    /// Drops Redis's replies, on all connections, until [`Self::cut`].
    pub(crate) fn mute(&self) {
        self.switch(|switch| switch.is_mute = true);
    }

    /// Drops the replies of one server, or no longer.
    pub(crate) fn mute_server(&self, server: Option<usize>) {
        self.switch(|switch| switch.mute_server = server);
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
        let _ = self.accept_again();
        // Wakes the threads that accept.
        for entrance in &self.entrances {
            let _gone = TcpStream::connect(entrance.address);
        }
    }
}

impl Switch {
    fn is_dead(&self, generation: u64) -> bool {
        self.is_black_hole || generation < self.dead_before
    }
}

impl Path {
    /// Passes the bytes of a connection in two threads.
    fn accept(self: &Arc<Self>, server: usize, application: TcpStream) {
        let mut switch = lock(&self.switch);
        if switch.is_shut {
            return;
        }
        let port = self.servers[server].load(Ordering::SeqCst);
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
        let conversation = Arc::new(Mutex::new(Conversation::new(
            Arc::clone(&self.ledger),
            server,
        )));
        let replies = (Arc::clone(self), Arc::clone(&conversation));
        let calls = Arc::clone(self);
        thread::spawn(move || calls.pass_calls(generation, application, redis, &conversation));
        thread::spawn(move || {
            let (path, conversation) = &replies;
            path.pass_replies(
                (server, generation),
                from_redis,
                to_application,
                conversation,
            );
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
        (server, generation): (usize, u64),
        mut redis: TcpStream,
        mut application: TcpStream,
        conversation: &Mutex<Conversation>,
    ) {
        let mut bytes = vec![0; BUFFER_BYTES];
        while let Ok(read @ 1..) = redis.read(&mut bytes) {
            let reply = &bytes[..read];
            lock(conversation).read_replies(reply);
            let reply = &*self.with_own_ports(reply);
            let (is_dropped, drip, is_cut) = {
                let switch = lock(&self.switch);
                let is_dropped = switch.is_mute
                    || switch.mute_server == Some(server)
                    || switch.is_dead(generation);
                (is_dropped, switch.drip, switch.cuts_replies)
            };
            // The application may be gone; the calls were executed.
            if is_dropped {
                self.dropped_bytes.fetch_add(read as u64, Ordering::Relaxed);
            } else if is_cut {
                let _ = application.write_all(&reply[..reply.len() / 2]);
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

    /// Replaces the ports that redirections of a cluster name by those of the entrances,
    /// so that whoever follows one stays on this path.
    fn with_own_ports<'a>(&self, replies: &'a [u8]) -> Cow<'a, [u8]> {
        let is_redirection =
            |line: &[u8]| line.starts_with(b"-MOVED ") || line.starts_with(b"-ASK ");
        let lines = || replies.split_inclusive(|&byte| byte == b'\n');
        if !lines().any(is_redirection) {
            return Cow::Borrowed(replies);
        }
        let own_port = |port: &str| {
            let port = port.trim_end().parse::<u16>().ok()?;
            let is_server = |server: &Arc<AtomicU16>| server.load(Ordering::SeqCst) == port;
            Some(self.ports[self.servers.iter().position(is_server)?])
        };
        let mut all = Vec::new();
        for line in lines() {
            let redirection = str::from_utf8(line).ok().filter(|_| is_redirection(line));
            let parts = redirection.and_then(|line| line.rsplit_once(':'));
            match parts.and_then(|(start, port)| Some((start, own_port(port)?))) {
                Some((start, port)) => all.extend(format!("{start}:{port}\r\n").into_bytes()),
                None => all.extend(line),
            }
        }
        Cow::Owned(all)
    }

    fn wait_while_deaf(&self) {
        let mut switch = lock(&self.switch);
        if !switch.is_deaf {
            return;
        }
        switch.waiting += 1;
        self.switched.notify_all();
        let is_deaf = |switch: &mut Switch| switch.is_deaf;
        if let Ok(mut switch) = self.switched.wait_while(switch, is_deaf) {
            switch.waiting -= 1;
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

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(200);
    const PONG: &str = "+PONG\r\n";

    /// A server that replies to each line, and a path to it.
    fn path() -> anyhow::Result<Proxy> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || {
                    let Ok(mut replies) = stream.try_clone() else {
                        return;
                    };
                    for _line in BufReader::new(stream).lines().map_while(Result::ok) {
                        let _gone = replies.write_all(PONG.as_bytes());
                    }
                });
            }
        });
        Proxy::start(&[Arc::new(AtomicU16::new(port))], &Arc::default())
    }

    fn open(path: &Proxy) -> anyhow::Result<TcpStream> {
        Ok(TcpStream::connect_timeout(
            &path.entrances[0].address,
            PATIENCE,
        )?)
    }

    /// Sends a line, and returns what comes back until the connection ends, the reply is
    /// whole, or this time has passed.
    fn ping(stream: &mut TcpStream, limit: Duration) -> anyhow::Result<String> {
        stream.set_read_timeout(Some(limit))?;
        let _cut = stream.write_all(b"PING\r\n");
        let mut reply = String::new();
        let mut byte = [0];
        while reply.len() < PONG.len() && matches!(stream.read(&mut byte), Ok(1)) {
            reply.push(char::from(byte[0]));
        }
        Ok(reply)
    }

    #[test]
    fn each_fault_of_a_path_does_what_its_name_says() -> anyhow::Result<()> {
        let path = path()?;
        let mut old = open(&path)?;
        assert_eq!(ping(&mut old, PATIENCE)?, PONG);
        path.half_open();
        assert_eq!(ping(&mut old, SHORT)?, "");
        let mut new = open(&path)?;
        assert_eq!(ping(&mut new, PATIENCE)?, PONG);

        path.swallow();
        assert_eq!(ping(&mut new, SHORT)?, "");
        assert_eq!(ping(&mut open(&path)?, SHORT)?, "");
        path.cut();
        assert_eq!(ping(&mut new, PATIENCE)?, "", "it is cut");

        path.cut_replies(true);
        let mut new = open(&path)?;
        assert_eq!(ping(&mut new, PATIENCE)?, "+PO");
        path.cut_replies(false);

        let mut new = open(&path)?;
        path.drip(Some(SHORT / 4));
        assert_eq!(ping(&mut new, SHORT)?, PONG);
        path.drip(None);

        path.stop_accepting()?;
        assert_eq!(ping(&mut new, PATIENCE)?, "", "it is cut");
        TcpStream::connect_timeout(&path.entrances[0].address, SHORT).expect_err("nothing answers");
        path.accept_again()?;
        assert_eq!(ping(&mut open(&path)?, PATIENCE)?, PONG);
        Ok(())
    }

    #[test]
    fn redirections_stay_on_the_path() {
        let port = |number: u16| Arc::new(AtomicU16::new(number));
        let path = Path {
            servers: vec![port(7_000), port(7_001)],
            ports: vec![10, 11],
            ..Path::default()
        };
        let replies = b"-MOVED 5 127.0.0.1:7001\r\n-ASK 5 127.0.0.1:7000\r\n:7001\r\n";
        let expected = b"-MOVED 5 127.0.0.1:11\r\n-ASK 5 127.0.0.1:10\r\n:7001\r\n";
        assert_eq!(*path.with_own_ports(replies), *expected);
        assert_eq!(
            *path.with_own_ports(b"$9\r\nx:7000\r\n"),
            *b"$9\r\nx:7000\r\n"
        );
    }

    #[test]
    fn no_call_passes_a_shut_gate() -> anyhow::Result<()> {
        let path = path()?;
        let mut stream = open(&path)?;
        assert_eq!(ping(&mut stream, PATIENCE)?, PONG);
        let gate = path.shut_gate();
        assert_eq!(ping(&mut stream, SHORT)?, "");
        drop(gate);
        assert_eq!(ping(&mut stream, PATIENCE)?, PONG);
        Ok(())
    }
}
