//! Compression of what is served.

use std::io::Write as _;

use flate2::{Compression, write::GzEncoder};

/// The text compressed at a level. For what is made anew each time that is the
/// fastest, which makes a tenth of an exposition: better ones cost a scrape more
/// time than they save the network.
///
/// # Panics
/// Never: writing to a `Vec` does not fail.
#[must_use]
pub fn compress(plain: &[u8], level: Compression) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), level);
    encoder
        .write_all(plain)
        .and_then(|()| encoder.finish())
        .expect("writing to a Vec does not fail")
}
