//! The routes. Owns paths, status codes and content types; what is behind a
//! route is owned elsewhere.

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use functional_scaffold_schema::exposition::CONTENT_TYPE;

use crate::{connection::Redis, page, scrape::Scraper};

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
async fn metrics(State(services): State<Services>) -> Response {
    let snapshot = services.scraper.scrape().await;
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], snapshot.text()).into_response()
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
