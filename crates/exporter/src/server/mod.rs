//! The server: starts everything that serving needs, and stops on a signal.

pub(crate) mod auth;
pub(crate) mod body;
mod hosts;
mod http;
pub(crate) mod listen;
pub(crate) mod negotiate;

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::oneshot,
    time::timeout,
};

use crate::{
    cli::{Config, StoreConfig},
    page::{PageState, history::Recorder},
    scrape::{
        Scraper,
        self_metrics::{FollowMetrics, SelfMetrics},
        store::{Store, addresses},
    },
    server::{
        body::ScrapeLimit,
        hosts::AllowedHosts,
        http::{AppState, Source, router},
        listen::Server,
    },
};

/// How long the shutdown waits for running requests. A scrape that takes longer
/// waits for a Redis that does not reply.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(3);

/// Serves until SIGTERM or SIGINT. Redis may be down: the first scrape connects to
/// it, and every later one reconnects if necessary.
pub(crate) async fn serve(
    config: Config,
    follower: Option<Arc<FollowMetrics>>,
) -> anyhow::Result<()> {
    // Before listening: a client that finds the port open may send a signal at once.
    let stop = stop_signal().context("cannot receive signals")?;
    let labels = config.stores.iter().map(StoreConfig::labels);
    let metrics = Arc::new(SelfMetrics::new(labels.collect(), follower));
    let stores = Store::all(&config, &metrics)?;
    let (listener, address) = bind(&config.listen).await?;
    // These tasks and the recorder end with the runtime.
    for store in &stores {
        tokio::spawn(Arc::clone(store).settle_loop(config.settle_interval));
    }
    let scraper = Scraper::start(
        &stores,
        config.scrape_timeout,
        config.state_file.clone(),
        metrics,
    );
    let recorder = config.page_interval.map(Recorder::new).map(Arc::new);
    if let Some(recorder) = recorder.clone() {
        let scraper = scraper.clone();
        tokio::spawn(async move { recorder.record(&scraper).await });
    }
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        "serving {}://{address}/metrics from Redis at {}",
        url_scheme(&config),
        addresses(stores.iter().map(|store| &**store))
    );
    let page = PageState {
        recorder,
        links: config.links.clone(),
        limit: ScrapeLimit::new(config.max_scrapes, config.client_timeout),
    };
    let end = async {
        let name = stop.await;
        tracing::info!("stopping on {name}");
    };
    let source = Source::Redis(scraper);
    respond_until(end, config, (listener, address), stores, source, Some(page)).await;
    Ok(())
}

/// Serves the metrics of a follower while it is `following`.
pub(crate) async fn serve_follower(
    config: Config,
    metrics: Arc<FollowMetrics>,
    following: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let stores = Store::all(&config, &Arc::default())?;
    let (listener, address) = bind(&config.listen).await?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        "serving {}://{address}/metrics about following",
        url_scheme(&config)
    );
    let source = Source::Follower(metrics);
    respond_until(following, config, (listener, address), stores, source, None).await;
    Ok(())
}

async fn bind(listen: &str) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("cannot listen on {listen} (--listen, EXPORTER_LISTEN)"))?;
    let address = listener
        .local_addr()
        .context("the listener has no address")?;
    Ok((listener, address))
}

fn url_scheme(config: &Config) -> &'static str {
    match config.tls {
        Some(_) => "https",
        None => "http",
    }
}

/// Responds to requests until `end`, and then until running requests are finished or
/// aborted.
async fn respond_until(
    end: impl Future<Output = ()>,
    config: Config,
    (listener, address): (TcpListener, SocketAddr),
    stores: Vec<Arc<Store>>,
    source: Source,
    page: Option<PageState>,
) {
    warn_about_plain_credentials(&config, address);
    let hosts = AllowedHosts::new(&config.listen, address, &config.allowed_hosts);
    let limit = page.as_ref().map(|page| page.limit.clone());
    let state = AppState {
        source,
        stores: stores.into(),
        auth: config.auth.map(Arc::new),
        hosts: Arc::new(hosts),
        limit: limit.unwrap_or_else(|| ScrapeLimit::new(config.max_scrapes, config.client_timeout)),
    };
    let server = Server {
        listener,
        router: router(state, page),
        tls: config.tls,
        client_timeout: config.client_timeout,
    };
    let (shut_down, shutdown) = oneshot::channel::<()>();
    // A task of its own: reading logs would delay it.
    let mut server = tokio::spawn(server.serve(async move {
        let _ = shutdown.await;
    }));
    end.await;
    // The receiver lives as long as the server.
    let _ = shut_down.send(());
    if timeout(SHUTDOWN_GRACE, &mut server).await.is_err() {
        tracing::warn!("running requests were aborted after {SHUTDOWN_GRACE:?}");
        server.abort();
    }
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
