//! The routes of the exporter, and which of them need credentials.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Bytes,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::{Next, from_fn_with_state, map_response},
    response::{IntoResponse, Response},
    routing::get,
};
use flate2::Compression;
use functional_scaffold_protocol::exposition::Format;
use futures_util::future::try_join_all;
use tokio::task::spawn_blocking;

use crate::{
    page::{self, PageState},
    scrape::{
        Scraper,
        self_metrics::{FollowMetrics, of_follower},
        store::Store,
    },
    server::{
        auth::Auth,
        body::{ScrapeLimit, TooManyScrapes, gzip},
        hosts::AllowedHosts,
        negotiate,
    },
};

/// The state of the routes.
#[derive(Clone)]
pub(crate) struct AppState {
    pub(crate) source: Source,
    pub(crate) stores: Arc<[Arc<Store>]>,
    pub(crate) auth: Option<Arc<Auth>>,
    /// Checked instead of credentials.
    pub(crate) hosts: Arc<AllowedHosts>,
    pub(crate) limit: ScrapeLimit,
}

/// What `/metrics` serves.
#[derive(Clone)]
pub(crate) enum Source {
    /// The families in Redis, and the exporter's own metrics.
    Redis(Scraper),
    /// The metrics of a follower.
    Follower(Arc<FollowMetrics>),
}

/// Every route, those of the page only if there is one. `GET` routes also respond to
/// `HEAD`. Health checks need no credentials, because load balancers and kubelets have
/// none.
pub(crate) fn router(state: AppState, page: Option<PageState>) -> Router {
    let guarded = Router::new()
        .route("/metrics", get(metrics))
        .merge(page.map_or_else(Router::new, page::router))
        .fallback(not_found)
        .layer(from_fn_with_state(state.clone(), authorize));
    let open = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz));
    let all = guarded.merge(open).with_state(state);
    all.layer(map_response(forbid_sniffing))
}

/// A browser must take no response for another type than it has: label values and error
/// texts come from elsewhere.
async fn forbid_sniffing(mut response: Response) -> Response {
    let nosniff = HeaderValue::from_static("nosniff");
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    response
}

async fn authorize(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let Some(auth) = &state.auth else {
        if state.hosts.allow(request.headers()) {
            return next.run(request).await;
        }
        let text = "this host name is not allowed without credentials \
            (--allowed-hosts, EXPORTER_ALLOWED_HOSTS)\n";
        return (StatusCode::MISDIRECTED_REQUEST, text).into_response();
    };
    if auth.allows(request.headers()) {
        return next.run(request).await;
    }
    let text = "credentials are required\n";
    let mut response = (StatusCode::UNAUTHORIZED, text).into_response();
    for challenge in auth.challenges() {
        response
            .headers_mut()
            .append(header::WWW_AUTHENTICATE, challenge);
    }
    response
}

impl Source {
    /// The response's body; None if encoding it panicked.
    async fn encode(
        self,
        format: Format,
        compress: bool,
        timeout: Option<Duration>,
    ) -> Option<Bytes> {
        match self {
            Self::Redis(scraper) => {
                let snapshot = scraper.scrape(timeout).await;
                // Encoding and compressing many series takes a while.
                let encoded = spawn_blocking(move || snapshot.encode(format, compress));
                encoded.await.ok()
            }
            Self::Follower(metrics) => {
                let text = of_follower(format, &metrics);
                Some(match compress {
                    true => gzip(text.as_bytes(), Compression::fast()),
                    false => text.into(),
                })
            }
        }
    }
}

/// Responds 200 even if Redis is down, with a sample that says so. After an error,
/// Prometheus would have no samples at all, and an alert could not tell Redis from
/// the exporter.
async fn metrics(
    State(state): State<AppState>,
    request: HeaderMap,
) -> Result<Response, TooManyScrapes> {
    let permit = state.limit.acquire()?;
    let format = negotiate::format(&request);
    let gzip = negotiate::prefers_gzip(&request);
    let timeout = negotiate::scrape_timeout(&request);
    let Some(body) = state.source.encode(format, gzip, timeout).await else {
        return Ok(StatusCode::INTERNAL_SERVER_ERROR.into_response());
    };
    let mut headers = HeaderMap::new();
    let mut set = |name, value| headers.insert(name, HeaderValue::from_static(value));
    set(header::CONTENT_TYPE, format.content_type());
    set(header::VARY, "accept, accept-encoding");
    if gzip {
        set(header::CONTENT_ENCODING, "gzip");
    }
    Ok(permit.respond(headers, body))
}

/// Does not depend on Redis, which a restart of the exporter would not repair.
async fn healthz() -> &'static str {
    "ok\n"
}

async fn readyz(State(state): State<AppState>, request: HeaderMap) -> (StatusCode, String) {
    let pings = state.stores.iter().map(|store| async {
        let ping = store.redis.ping().await;
        ping.map_err(|failure| failure.of_store(&store.name()))
    });
    match try_join_all(pings).await {
        Ok(_all) => (StatusCode::OK, "redis: ok\n".into()),
        Err(failure) => {
            let reason = failure.reason.label();
            // The text may name hosts and users, and this route needs no credentials.
            let text = if state.auth.is_none() && state.hosts.allow(&request) {
                format!("redis: {reason} ({failure})\n")
            } else {
                format!("redis: {reason}\n")
            };
            (StatusCode::SERVICE_UNAVAILABLE, text)
        }
    }
}

async fn not_found() -> (StatusCode, &'static str) {
    (
        StatusCode::NOT_FOUND,
        "not found; the routes are /metrics, /healthz, /readyz, and of a serving exporter \
         /api/recent and /\n",
    )
}
