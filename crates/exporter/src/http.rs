//! The routes. Owns paths, status codes and content types, and which routes are
//! open to everybody; what is behind a route is owned elsewhere.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::{sync::Semaphore, task::spawn_blocking, time::Instant};

use crate::{
    auth::Auth,
    connection::Redis,
    negotiate,
    paced::{Paced, no_place},
    page::routes::{Page, routes},
    scrape::Scraper,
};

/// What the routes need.
#[derive(Clone)]
pub struct Services {
    /// Behind `/metrics`.
    pub scraper: Scraper,
    /// Behind `/readyz`.
    pub redis: Arc<Redis>,
    /// Who may ask; None is everybody.
    pub auth: Option<Arc<Auth>>,
    /// One for each scrape that is served at once.
    pub places: Arc<Semaphore>,
    /// How long a client may take a response in.
    pub client_timeout: Duration,
}

/// Every route. `GET` ones also answer `HEAD`; another method is 405, another
/// path 404. What a load balancer or kubelet asks is open to everybody.
pub fn router(services: Services, page: Page) -> Router {
    let guarded = Router::new()
        .route("/metrics", get(metrics))
        .merge(routes(page))
        .fallback(not_found)
        .layer(from_fn_with_state(services.clone(), authorize));
    let open = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz));
    guarded.merge(open).with_state(services)
}

async fn authorize(State(services): State<Services>, request: Request, next: Next) -> Response {
    let Some(auth) = &services.auth else {
        return next.run(request).await;
    };
    if auth.allows(request.headers()) {
        return next.run(request).await;
    }
    let mut refusal = (StatusCode::UNAUTHORIZED, "credentials are needed\n").into_response();
    for challenge in auth.challenges() {
        refusal
            .headers_mut()
            .append(header::WWW_AUTHENTICATE, challenge);
    }
    refusal
}

/// Always 200: that Redis is down is a sample, so that the scrape's other
/// samples arrive and an alert can tell Redis from the exporter. But 503 where
/// too many scrapes are under way: they hold the memory of what they send.
async fn metrics(State(services): State<Services>, asked: HeaderMap) -> Response {
    let Ok(place) = Arc::clone(&services.places).try_acquire_owned() else {
        return no_place();
    };
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
    let deadline = Instant::now() + services.client_timeout;
    (headers, Body::new(Paced::new(body, deadline, place))).into_response()
}

/// Touches nothing else: a Redis that is down is no reason to restart the
/// exporter.
async fn healthz() -> &'static str {
    "ok\n"
}

async fn readyz(State(services): State<Services>) -> (StatusCode, String) {
    match services.redis.ping().await {
        Ok(()) => (StatusCode::OK, "redis: ok\n".into()),
        Err(failure) => {
            let reason = failure.reason.label();
            // It may name hosts and users, and this route asks for no credentials.
            let text = match services.auth {
                Some(_) => format!("redis: {reason}\n"),
                None => format!("redis: {reason} ({failure})\n"),
            };
            (StatusCode::SERVICE_UNAVAILABLE, text)
        }
    }
}

async fn not_found() -> (StatusCode, &'static str) {
    (
        StatusCode::NOT_FOUND,
        "not found; there are /metrics, /healthz, /readyz, /api/recent and /\n",
    )
}
