//! The way from the application to Redis, with switches: open, shut, or one on
//! which Redis hears everything and nobody hears Redis.

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
    /// Connections of another generation are cut.
    generation: u64,
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
        self.turn(Way::Open, true);
    }

    /// Takes no new connection until [`Self::cut`].
    pub fn refuse(&self) {
        self.turn(Way::Shut, false);
    }

    /// Drops what Redis sends, on all connections, until [`Self::cut`].
    pub fn mute(&self) {
        self.turn(Way::Mute, false);
    }

    fn turn(&self, way: Way, cut: bool) {
        self.switch.send_modify(|switch| {
            switch.way = way;
            switch.generation += u64::from(cut);
        });
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
            () = self.pass_on(&mut application, &mut redis, &mut talk) => {}
            _ = switch.wait_for(|now| now.generation != generation) => {}
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
    ) {
        let (mut call, mut reply) = (vec![0; BUFFER_BYTES], vec![0; BUFFER_BYTES]);
        loop {
            let passed = tokio::select! {
                read = application.read(&mut call) => match read {
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

    fn is_mute(&self) -> bool {
        self.switch.borrow().way == Way::Mute
    }
}
