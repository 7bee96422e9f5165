//! The way from the application to Redis, with switches: open, shut, one on
//! which Redis hears everything and nobody hears Redis, or one on which it hears
//! things late.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

use super::tap::{Conversation, Leases, Tap};

const BUFFER_BYTES: usize = 64 * 1024;

/// How bytes pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Open,
    /// What Redis sends is dropped.
    Mute,
    /// No connection is taken.
    Shut,
}

#[derive(Debug, Clone, Copy)]
struct Switch {
    way: Way,
    /// Of the connections that are taken now.
    generation: u64,
    /// Connections of generations before this one are cut.
    cut_before: u64,
    /// What is sent on connections of generations before this one waits.
    held_before: u64,
}

/// A running proxy. Ended on drop.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    switch: watch::Sender<Switch>,
    swallowed: Arc<AtomicU64>,
    tap: Tap,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Starts one before the Redis on a port.
    ///
    /// # Errors
    /// There is no port to listen on.
    pub async fn start(redis_port: u16) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let (switch, _) = watch::channel(Switch {
            way: Way::Open,
            generation: 0,
            cut_before: 0,
            held_before: 0,
        });
        let swallowed = Arc::new(AtomicU64::new(0));
        let tap = Tap::default();
        let link = Link {
            redis_port,
            switch: switch.subscribe(),
            swallowed: Arc::clone(&swallowed),
            tap: tap.clone(),
        };
        Ok(Self {
            port,
            switch,
            swallowed,
            tap,
            accepting: tokio::spawn(accept(listener, link)),
        })
    }

    /// The port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Bytes from Redis that were dropped.
    #[must_use]
    pub fn swallowed_bytes(&self) -> u64 {
        self.swallowed.load(Ordering::Relaxed)
    }

    /// What passed of leases.
    #[must_use]
    pub fn leases(&self) -> Leases {
        self.tap.leases()
    }

    /// Cuts every connection, and takes new ones.
    pub fn cut(&self) {
        self.switch.send_modify(|switch| {
            switch.way = Way::Open;
            switch.generation += 1;
            switch.cut_before = switch.generation;
        });
    }

    /// Takes no new connection until [`Self::cut`].
    pub fn refuse(&self) {
        self.switch.send_modify(|switch| switch.way = Way::Shut);
    }

    /// Drops what Redis sends, on all connections, until [`Self::cut`].
    pub fn mute(&self) {
        self.switch.send_modify(|switch| switch.way = Way::Mute);
    }

    /// Holds what is sent to Redis on the connections that there are, until
    /// [`Self::release`]; also after the application has closed them.
    pub fn hold(&self) {
        self.switch.send_modify(|switch| {
            switch.generation += 1;
            switch.held_before = switch.generation;
        });
    }

    /// Passes on what was held.
    pub fn release(&self) {
        self.switch.send_modify(|switch| switch.held_before = 0);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

#[derive(Clone)]
struct Link {
    redis_port: u16,
    switch: watch::Receiver<Switch>,
    swallowed: Arc<AtomicU64>,
    tap: Tap,
}

async fn accept(listener: TcpListener, link: Link) {
    loop {
        let Ok((application, _)) = listener.accept().await else {
            continue;
        };
        let now = *link.switch.borrow();
        if now.way != Way::Shut {
            tokio::spawn(link.clone().pass(application, now.generation));
        }
    }
}

impl Link {
    /// Passes bytes until either side ends, or the connection is cut.
    async fn pass(self, mut application: TcpStream, generation: u64) {
        let Ok(mut redis) = TcpStream::connect(("127.0.0.1", self.redis_port)).await else {
            return;
        };
        // Best effort: without it everything is only slower.
        let _ = (application.set_nodelay(true), redis.set_nodelay(true));
        let mut talk = self.tap.listen();
        let mut switch = self.switch.clone();
        tokio::select! {
            () = self.pass_on(&mut application, &mut redis, &mut talk, generation) => {}
            _ = switch.wait_for(|now| generation < now.cut_before) => {}
        }
        drop(application);
        // What Redis still answers nobody is told; but it was done.
        let _ = redis.shutdown().await;
        let mut reply = vec![0; BUFFER_BYTES];
        while let Ok(read @ 1..) = redis.read(&mut reply).await {
            talk.hear_replies(&reply[..read]);
        }
    }

    async fn pass_on(
        &self,
        application: &mut TcpStream,
        redis: &mut TcpStream,
        talk: &mut Conversation,
        generation: u64,
    ) {
        let (mut call, mut reply) = (vec![0; BUFFER_BYTES], vec![0; BUFFER_BYTES]);
        let mut held = false;
        loop {
            let passed = tokio::select! {
                now = self.hold_turns(generation, held) => {
                    held = now;
                    Ok(())
                }
                read = application.read(&mut call), if !held => match read {
                    Ok(read @ 1..) => {
                        talk.hear_calls(&call[..read]);
                        redis.write_all(&call[..read]).await
                    }
                    _end => return,
                },
                read = redis.read(&mut reply) => match read {
                    Ok(read @ 1..) => {
                        talk.hear_replies(&reply[..read]);
                        if self.is_mute() {
                            self.swallowed.fetch_add(read as u64, Ordering::Relaxed);
                            Ok(())
                        } else {
                            application.write_all(&reply[..read]).await
                        }
                    }
                    _end => return,
                },
            };
            if passed.is_err() {
                return;
            }
        }
    }

    /// Waits until a connection's calls are held, or not any more.
    async fn hold_turns(&self, generation: u64, held: bool) -> bool {
        let mut switch = self.switch.clone();
        let turned = switch.wait_for(|now| (generation < now.held_before) != held);
        // The other end is gone with the proxy, which releases.
        turned.await.is_ok_and(|_switch| !held)
    }

    fn is_mute(&self) -> bool {
        self.switch.borrow().way == Way::Mute
    }
}
