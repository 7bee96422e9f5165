//! The page at `/`, for users without Grafana: charts of the last minutes, with the panels
//! of `monitoring/grafana` over one minute instead of five. Its HTML, style and script
//! are in `assets/`, and part of the program, so that it needs nothing from outside.

pub(crate) mod history;
pub(crate) mod rates;
mod response;

use std::{
    hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher},
    sync::{Arc, LazyLock},
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use flate2::Compression;

use crate::{
    cli::Links,
    page::history::Recorder,
    server::{
        body::{ScrapeLimit, TooManyScrapes, gzip},
        negotiate,
    },
};

/// The browser loads nothing from elsewhere.
const SECURITY: [(HeaderName, HeaderValue); 2] = [
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
             connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        ),
    ),
    (
        header::REFERRER_POLICY,
        HeaderValue::from_static("no-referrer"),
    ),
];

/// The state of the page's routes.
#[derive(Clone)]
pub(crate) struct PageState {
    /// Without it, nothing is recorded.
    pub(crate) recorder: Option<Arc<Recorder>>,
    pub(crate) links: Links,
    pub(crate) limit: ScrapeLimit,
}

/// The page, its files, and its data.
pub(crate) fn router<S: Clone + Send + Sync + 'static>(state: PageState) -> Router<S> {
    let mut router = Router::new().route("/api/recent", get(recent));
    for asset in ASSETS.iter() {
        let serve = move |request: HeaderMap| async move { asset.serve(&request) };
        router = router.route(asset.path, get(serve));
    }
    router.with_state(state)
}

/// Counts towards the limit of concurrent scrapes.
async fn recent(
    State(state): State<PageState>,
    request: HeaderMap,
) -> Result<Response, TooManyScrapes> {
    let permit = state.limit.acquire()?;
    let mut body = Bytes::from(response::recent(state.recorder.as_deref(), &state.links));
    let mut headers = HeaderMap::from_iter(SECURITY);
    let mut set = |name, value| headers.insert(name, HeaderValue::from_static(value));
    set(header::CONTENT_TYPE, "application/json");
    set(header::CACHE_CONTROL, "no-store");
    set(header::VARY, "accept-encoding");
    if negotiate::prefers_gzip(&request) {
        set(header::CONTENT_ENCODING, "gzip");
        body = gzip(&body, Compression::fast());
    }
    Ok(permit.respond(headers, body))
}

/// A file of the page.
struct Asset {
    path: &'static str,
    content_type: &'static str,
    plain: Bytes,
    gzip: Bytes,
    /// A hash of the content, in quotes.
    etag: String,
}

const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

macro_rules! assets {
    ($($path:literal $content_type:ident $file:literal)*) => {
        [$(Asset::new($path, $content_type, include_bytes!(concat!("../../assets/", $file)))),*]
    };
}

/// Compressed at the start of the server.
static ASSETS: LazyLock<[Asset; 9]> = LazyLock::new(|| {
    assets! {
        "/" HTML "index.html"
        "/assets/page.css" STYLE "page.css"
        "/assets/page.js" SCRIPT "page.js"
        "/assets/panels.js" SCRIPT "panels.js"
        "/assets/chart.js" SCRIPT "chart.js"
        "/assets/format.js" SCRIPT "format.js"
        "/assets/icon.svg" SVG "icon.svg"
        "/assets/uPlot.iife.min.js" SCRIPT "vendor/uplot/uPlot.iife.min.js"
        "/assets/uPlot.min.css" STYLE "vendor/uplot/uPlot.min.css"
    }
});

impl Asset {
    fn new(path: &'static str, content_type: &'static str, content: &'static [u8]) -> Self {
        // A hasher without a seed: all exporters of a version must agree.
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(content);
        Self {
            path,
            content_type,
            plain: Bytes::from_static(content),
            gzip: gzip(content, Compression::best()),
            etag: format!("\"{hash:016x}\""),
        }
    }

    fn serve(&'static self, request: &HeaderMap) -> Response {
        let mut headers = HeaderMap::from_iter(SECURITY);
        let mut set =
            |name, value: &'static str| headers.insert(name, HeaderValue::from_static(value));
        set(header::CONTENT_TYPE, self.content_type);
        // Clients revalidate each file, so that all are of one version after an
        // upgrade.
        set(header::CACHE_CONTROL, "no-cache");
        set(header::ETAG, &self.etag);
        set(header::VARY, "accept-encoding");
        if negotiate::is_cached(request, &self.etag) {
            return (StatusCode::NOT_MODIFIED, headers).into_response();
        }
        let body = if negotiate::prefers_gzip(request) {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            &self.gzip
        } else {
            &self.plain
        };
        (headers, body.clone()).into_response()
    }
}
