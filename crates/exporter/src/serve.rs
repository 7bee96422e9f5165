//! The process: listens, serves, stops on a signal. Owns the order of start
//! and stop; the routes are [`crate::http`]'s.

use std::{future::Future, io, pin::pin, sync::Arc, time::Duration};

use anyhow::Context as _;
use axum::serve::ListenerExt as _;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::oneshot,
    time::timeout,
};

use crate::{
    config::Config,
    connection::Redis,
    http::{Services, router},
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
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        "serving http://{address}/metrics from Redis at {}",
        redis.address()
    );

    let listener = listener.tap_io(|stream| {
        // Without it, the end of a large response waits for the client's
        // delayed acknowledgement. It is only speed: a failure is ignored.
        let _ = stream.set_nodelay(true);
    });
    let (stopping, stopped) = oneshot::channel::<()>();
    let server = axum::serve(listener, router(Services { scraper, redis }))
        .with_graceful_shutdown(async move {
            let _ = stopped.await;
        })
        .into_future();
    let mut server = pin!(server);
    tokio::select! {
        ended = &mut server => return ended.context("the server ended"),
        name = stop => tracing::info!("stopping on {name}"),
    }
    // It cannot be gone: the server that holds the other end has not ended.
    let _ = stopping.send(());
    if timeout(STOP_GRACE, server).await.is_err() {
        tracing::warn!("requests under way were cut off after {STOP_GRACE:?}");
    }
    Ok(())
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
