//! The server: starts everything that serving needs, and stops on a signal.

pub(crate) mod auth;
pub(crate) mod body;
mod hosts;
mod http;
pub(crate) mod listen;
pub(crate) mod negotiate;

use std::{future::Future, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::oneshot,
    time::timeout,
};

use crate::{
    cli::Config,
    page::{PageState, history::Recorder},
    redis_client::RedisClient,
    scrape::{
        Scraper,
        leases::{Settler, settle_loop},
        scan::ReadOptions,
        self_metrics::SelfMetrics,
    },
    server::{
        body::ScrapeLimit,
        hosts::AllowedHosts,
        http::{AppState, router},
        listen::Server,
    },
};

/// How long the shutdown waits for running requests. A scrape that takes longer
/// waits for a Redis that does not reply.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(3);

/// Serves until SIGTERM or SIGINT. Redis may be down: the first scrape connects to
/// it, and every later one reconnects if necessary.
pub(crate) async fn serve(config: Config, metrics: SelfMetrics) -> anyhow::Result<()> {
    // Before listening: a client that finds the port open may send a signal at once.
    let stop = stop_signal().context("cannot receive signals")?;
    let redis = Arc::new(RedisClient::new(&config).context("unusable address of Redis")?);
    let listener = TcpListener::bind(&config.listen).await.with_context(|| {
        format!(
            "cannot listen on {} (--listen, EXPORTER_LISTEN)",
            config.listen
        )
    })?;
    let address = listener
        .local_addr()
        .context("the listener has no address")?;
    let options = ReadOptions::new(&config);
    let metrics = Arc::new(metrics);
    let settler = Arc::new(Settler::new(options.clone(), Arc::clone(&metrics)));
    // This task and the recorder end with the runtime.
    tokio::spawn(settle_loop(
        Arc::clone(&redis),
        Arc::clone(&settler),
        config.settle_interval,
    ));
    let scraper = Scraper::start(Arc::clone(&redis), settler, options, metrics);
    let recorder = config.page_interval.map(Recorder::new).map(Arc::new);
    if let Some(recorder) = recorder.clone() {
        let scraper = scraper.clone();
        tokio::spawn(async move { recorder.record(&scraper).await });
    }
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        "serving {}://{address}/metrics from Redis at {}",
        if config.tls.is_some() {
            "https"
        } else {
            "http"
        },
        redis.address()
    );
    warn_about_plain_credentials(&config, address);

    let limit = ScrapeLimit::new(config.max_scrapes, config.client_timeout);
    let page = PageState {
        recorder,
        links: config.links,
        limit: limit.clone(),
    };
    let hosts = AllowedHosts::new(&config.listen, address, &config.allowed_hosts);
    let state = AppState {
        scraper,
        redis,
        auth: config.auth.map(Arc::new),
        hosts: Arc::new(hosts),
        limit,
    };
    let server = Server {
        listener,
        router: router(state, page),
        tls: config.tls,
        client_timeout: config.client_timeout,
    };
    let (shut_down, shutdown) = oneshot::channel::<()>();
    let mut server = pin!(server.serve(async move {
        let _ = shutdown.await;
    }));
    tokio::select! {
        // It does not end before the shutdown.
        () = &mut server => {}
        name = stop => tracing::info!("stopping on {name}"),
    }
    // The receiver lives as long as the server.
    let _ = shut_down.send(());
    if timeout(SHUTDOWN_GRACE, server).await.is_err() {
        tracing::warn!("running requests were aborted after {SHUTDOWN_GRACE:?}");
    }
    Ok(())
}

fn warn_about_plain_credentials(config: &Config, address: SocketAddr) {
    if config.auth.is_some() && config.tls.is_none() && !address.ip().is_loopback() {
        tracing::warn!(
            "clients send credentials to {address} without TLS (--tls-cert-file, --tls-key-file)"
        );
    }
}

/// Resolves to the name of the signal that asks the process to stop. Signals are
/// caught from the call on, not from the first poll.
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
