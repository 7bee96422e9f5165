//! Compression of what is served.

use std::io::Write as _;

use flate2::{Compression, write::GzEncoder};

/// At the fastest level, which makes a tenth of an exposition: better ones cost a
/// scrape more time than they save the network.
///
/// # Panics
/// Never: writing to a `Vec` does not fail.
#[must_use]
pub fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder
        .write_all(plain)
        .and_then(|()| encoder.finish())
        .expect("writing to a Vec does not fail")
}
