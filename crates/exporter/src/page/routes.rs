//! The routes of the page. Owns paths and headers.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use flate2::Compression;
use tokio::{sync::Semaphore, time::Instant};

use super::{
    answer,
    assets::{ASSETS, Asset},
    options::Links,
    recorder::Recorder,
};
use crate::{
    gzip::compress,
    negotiate,
    paced::{Paced, no_place},
};

/// Nothing from elsewhere, and nothing in a file that is not said to be it.
const SECURITY: [(HeaderName, HeaderValue); 3] = [
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
             connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        ),
    ),
    (
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    ),
    (
        header::REFERRER_POLICY,
        HeaderValue::from_static("no-referrer"),
    ),
];

/// What the page needs.
#[derive(Debug, Clone)]
pub struct Page {
    /// What it shows; None if nothing is recorded.
    pub recorder: Option<Arc<Recorder>>,
    /// Where it leads to.
    pub links: Links,
    /// One for each scrape that is served at once.
    pub places: Arc<Semaphore>,
    /// How long a client may take a response in.
    pub client_timeout: Duration,
}

/// The page, its files, and what it shows.
pub fn routes<S: Clone + Send + Sync + 'static>(page: Page) -> Router<S> {
    let mut router = Router::new().route("/api/recent", get(recent));
    for asset in ASSETS.iter() {
        let serve = move |asked: HeaderMap| async move { file(asset, &asked) };
        router = router.route(&format!("/{}", asset.path), get(serve));
    }
    router.with_state(page)
}

fn file(asset: &'static Asset, asked: &HeaderMap) -> Response {
    let mut headers = HeaderMap::from_iter(SECURITY);
    let mut set = |name, value: &'static str| headers.insert(name, HeaderValue::from_static(value));
    set(header::CONTENT_TYPE, asset.content_type);
    // It is asked each time whether there is another: after an upgrade the files
    // of a page have to fit each other.
    set(header::CACHE_CONTROL, "no-cache");
    set(header::ETAG, &asset.etag);
    set(header::VARY, "accept-encoding");
    if negotiate::is_known(asked, &asset.etag) {
        return (StatusCode::NOT_MODIFIED, headers).into_response();
    }
    let body = if negotiate::gzip(asked) {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        &asset.gzip
    } else {
        &asset.plain
    };
    (headers, body.clone()).into_response()
}

/// Takes a place among the scrapes: it is one, to whoever limits them.
async fn recent(State(page): State<Page>, asked: HeaderMap) -> Response {
    let Ok(place) = Arc::clone(&page.places).try_acquire_owned() else {
        return no_place();
    };
    let mut body = match &page.recorder {
        Some(recorder) => recorder.answer(&page.links),
        None => answer::write_nothing(&page.links),
    };
    let mut headers = HeaderMap::from_iter(SECURITY);
    let mut set = |name, value| headers.insert(name, HeaderValue::from_static(value));
    set(header::CONTENT_TYPE, "application/json");
    set(header::CACHE_CONTROL, "no-store");
    set(header::VARY, "accept-encoding");
    if negotiate::gzip(&asked) {
        set(header::CONTENT_ENCODING, "gzip");
        body = compress(&body, Compression::fast());
    }
    let deadline = Instant::now() + page.client_timeout;
    (headers, Body::new(Paced::new(body.into(), deadline, place))).into_response()
}
