//! The process: listens, serves, stops on a signal. Owns the order of start
//! and stop; the routes are [`crate::http`]'s.

use std::{future::Future, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::{Semaphore, oneshot},
    time::timeout,
};

use crate::{
    config::Config,
    connection::Redis,
    exposure::Exposure,
    http::{Services, router},
    listen::Server,
    page::{recorder::Recorder, routes::Page},
    reader::Plan,
    scrape::Scraper,
    self_metrics::Totals,
    settle::{Settler, settle_again_and_again},
};

/// How long requests under way are waited for at the end. A scrape that takes
/// longer is one that Redis does not answer.
const STOP_GRACE: Duration = Duration::from_secs(3);

/// Serves until SIGTERM or SIGINT. Redis need not be there: it is connected to
/// by the first scrape, and again whenever the connection broke.
///
/// # Errors
/// The address cannot be listened on, or signals cannot be received.
pub async fn serve(config: Config) -> anyhow::Result<()> {
    // Before listening: who sees the port open may stop the process.
    let stop = stop_signal().context("cannot receive signals")?;
    let redis = Arc::new(Redis::new(&config).context("unusable address of Redis")?);
    let listener = TcpListener::bind(&config.listen).await.with_context(|| {
        format!(
            "cannot listen on {} (--listen, EXPORTER_LISTEN)",
            config.listen
        )
    })?;
    let address = listener
        .local_addr()
        .context("the listener has no address")?;
    let totals = Arc::new(Totals::default());
    let settler = Arc::new(Settler::new(&config.prefix, Arc::clone(&totals)));
    let plan = Plan::of(&config);
    // It ends with the runtime.
    tokio::spawn(settle_again_and_again(
        Arc::clone(&redis),
        Arc::clone(&settler),
        plan.clone(),
        config.settle_interval,
    ));
    let scraper = Scraper::start(Arc::clone(&redis), settler, plan, totals);
    let recorder = config.page.interval.map(Recorder::new).map(Arc::new);
    if let Some(recorder) = recorder.clone() {
        let scraper = scraper.clone();
        // It ends with the runtime, too.
        tokio::spawn(async move { recorder.record(&scraper).await });
    }
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        "serving {}://{address}/metrics from Redis at {}",
        if config.exposure.tls.is_some() {
            "https"
        } else {
            "http"
        },
        redis.address()
    );
    warn_of_eavesdroppers(&config.exposure, address);

    let (stopping, stopped) = oneshot::channel::<()>();
    let client_timeout = config.exposure.client_timeout;
    let places = Arc::new(Semaphore::new(config.exposure.max_scrapes));
    let server = Server {
        listener,
        routes: router(
            Services {
                scraper,
                redis,
                auth: config.exposure.auth.map(Arc::new),
                places: Arc::clone(&places),
                client_timeout,
            },
            Page {
                recorder,
                links: config.page.links,
                places,
                client_timeout,
            },
        ),
        tls: config.exposure.tls,
        client_timeout,
    };
    let mut server = pin!(server.serve(async move {
        let _ = stopped.await;
    }));
    tokio::select! {
        // It only ends when it is told to.
        () = &mut server => {}
        name = stop => tracing::info!("stopping on {name}"),
    }
    // It cannot be gone: the server that holds the other end has not ended.
    let _ = stopping.send(());
    if timeout(STOP_GRACE, server).await.is_err() {
        tracing::warn!("requests under way were cut off after {STOP_GRACE:?}");
    }
    Ok(())
}

fn warn_of_eavesdroppers(exposure: &Exposure, address: SocketAddr) {
    if exposure.auth.is_some() && exposure.tls.is_none() && !address.ip().is_loopback() {
        tracing::warn!(
            "credentials come over {address} without TLS (--tls-cert-file, --tls-key-file)"
        );
    }
}

/// The name of the signal that asks the process to stop. The signals are
/// caught from the call on, not only while it is waited for.
pub(crate) fn stop_signal() -> io::Result<impl Future<Output = &'static str>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    })
}
