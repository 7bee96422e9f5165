//! The routes. Owns paths, status codes and content types; what is behind a
//! route is owned elsewhere.

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use tokio::task::spawn_blocking;

use crate::{connection::Redis, negotiate, page, scrape::Scraper};

/// What the routes need.
#[derive(Clone)]
pub struct Services {
    /// Behind `/metrics`.
    pub scraper: Scraper,
    /// Behind `/readyz`.
    pub redis: Arc<Redis>,
}

/// Every route. `GET` ones also answer `HEAD`; another method is 405, another
/// path 404.
pub fn router(services: Services) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .fallback(not_found)
        .with_state(services)
}

async fn index() -> Response {
    let headers = [(
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'unsafe-inline'",
    )];
    (headers, Html(page::INDEX)).into_response()
}

/// Always 200: that Redis is down is a sample, so that the scrape's other
/// samples arrive and an alert can tell Redis from the exporter.
async fn metrics(State(services): State<Services>, asked: HeaderMap) -> Response {
    let (format, gzip) = (negotiate::format(&asked), negotiate::gzip(&asked));
    let limit = negotiate::scrape_timeout(&asked);
    let snapshot = services.scraper.scrape(limit).await;
    // With many series, to write and compress them takes a while.
    let Ok(body) = spawn_blocking(move || snapshot.body(format, gzip)).await else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let mut headers = HeaderMap::new();
    let mut set = |name, value| headers.insert(name, HeaderValue::from_static(value));
    set(header::CONTENT_TYPE, format.content_type());
    set(header::VARY, "accept, accept-encoding");
    if gzip {
        set(header::CONTENT_ENCODING, "gzip");
    }
    (headers, body).into_response()
}

/// Touches nothing else: a Redis that is down is no reason to restart the
/// exporter.
async fn healthz() -> &'static str {
    "ok\n"
}

async fn readyz(State(services): State<Services>) -> (StatusCode, String) {
    match services.redis.ping().await {
        Ok(()) => (StatusCode::OK, "redis: ok\n".into()),
        Err(failure) => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("redis: {} ({failure})\n", failure.reason.label()),
        ),
    }
}

async fn not_found() -> (StatusCode, &'static str) {
    (
        StatusCode::NOT_FOUND,
        "not found; there are /metrics, /healthz, /readyz and /\n",
    )
}
