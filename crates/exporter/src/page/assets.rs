//! The files of the page, which are part of the program: it needs nothing from
//! outside. Owns their types and versions.

use std::{
    hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher},
    sync::LazyLock,
};

use axum::body::Bytes;
use flate2::Compression;

use crate::gzip::compress;

/// A file, as it is and compressed.
#[derive(Debug)]
pub struct Asset {
    /// Below the root; the page itself is "".
    pub path: &'static str,
    /// What it is.
    pub content_type: &'static str,
    /// As it is.
    pub plain: Bytes,
    /// Compressed.
    pub gzip: Bytes,
    /// Another for another content, in quotes.
    pub etag: String,
}

const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// All of them, compressed when the first is asked for.
pub static ASSETS: LazyLock<[Asset; 9]> = LazyLock::new(|| {
    [
        asset("", HTML, include_bytes!("../../assets/index.html")),
        asset(
            "assets/page.css",
            STYLE,
            include_bytes!("../../assets/page.css"),
        ),
        asset(
            "assets/page.js",
            SCRIPT,
            include_bytes!("../../assets/page.js"),
        ),
        asset(
            "assets/panels.js",
            SCRIPT,
            include_bytes!("../../assets/panels.js"),
        ),
        asset(
            "assets/chart.js",
            SCRIPT,
            include_bytes!("../../assets/chart.js"),
        ),
        asset(
            "assets/format.js",
            SCRIPT,
            include_bytes!("../../assets/format.js"),
        ),
        asset(
            "assets/icon.svg",
            SVG,
            include_bytes!("../../assets/icon.svg"),
        ),
        asset(
            "assets/uPlot.iife.min.js",
            SCRIPT,
            include_bytes!("../../assets/vendor/uplot/uPlot.iife.min.js"),
        ),
        asset(
            "assets/uPlot.min.css",
            STYLE,
            include_bytes!("../../assets/vendor/uplot/uPlot.min.css"),
        ),
    ]
});

fn asset(path: &'static str, content_type: &'static str, bytes: &'static [u8]) -> Asset {
    // It has no seed, so that every exporter of a version says the same.
    let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(bytes);
    Asset {
        path,
        content_type,
        plain: Bytes::from_static(bytes),
        gzip: compress(bytes, Compression::best()).into(),
        etag: format!("\"{hash:016x}\""),
    }
}
