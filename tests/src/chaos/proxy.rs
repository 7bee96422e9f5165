//! The way from the application to Redis, with switches: open, shut, or one on
//! which Redis hears everything and nobody hears Redis.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

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
        let link = Link {
            redis_port,
            switch: switch.subscribe(),
            swallowed: Arc::clone(&swallowed),
        };
        Ok(Self {
            port,
            switch,
            swallowed,
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
    async fn pass(self, application: TcpStream, generation: u64) {
        let Ok(redis) = TcpStream::connect(("127.0.0.1", self.redis_port)).await else {
            return;
        };
        // Best effort: without it everything is only slower.
        let _ = (application.set_nodelay(true), redis.set_nodelay(true));
        let (from_application, to_application) = application.into_split();
        let (from_redis, to_redis) = redis.into_split();
        let mut switch = self.switch.clone();
        tokio::select! {
            () = copy(from_application, to_redis, || None) => {}
            () = copy(from_redis, to_application, || self.mute()) => {}
            _ = switch.wait_for(|now| now.generation != generation) => {}
        }
    }

    fn mute(&self) -> Option<&AtomicU64> {
        (self.switch.borrow().way == Way::Mute).then_some(&self.swallowed)
    }
}

/// Copies until the end, or drops and counts where `dropped` gives a count.
async fn copy<'a>(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    dropped: impl Fn() -> Option<&'a AtomicU64>,
) {
    let mut buffer = vec![0; BUFFER_BYTES];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if let Some(count) = dropped() {
            count.fetch_add(read as u64, Ordering::Relaxed);
        } else if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
