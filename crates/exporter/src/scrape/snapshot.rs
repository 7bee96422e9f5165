//! The snapshot that a scrape shows: one read of Redis, and the exporter's own metrics.
//! Each format is encoded once, however many scrapes share the snapshot.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use axum::body::Bytes;
use flate2::Compression;
use functional_scaffold_protocol::exposition::{Exposition, Format};

use crate::{
    scrape::{
        reading::{Reading, Unread},
        self_metrics::{self, SelfMetrics},
    },
    server::body,
};

/// Approximate length of a line, to allocate the exposition at once.
const LINE_BYTES: usize = 96;

pub(crate) struct Snapshot {
    pub(crate) reading: Result<Reading, Unread>,
    /// How long the read took, or was tried.
    pub(crate) duration: Duration,
    metrics: Arc<SelfMetrics>,
    text: Encoded,
    open_metrics: Encoded,
}

/// The snapshot in one format, once it was requested.
#[derive(Default)]
struct Encoded {
    plain: OnceLock<Bytes>,
    gzip: OnceLock<Bytes>,
}

impl Snapshot {
    /// A snapshot of a read that has just ended.
    pub(crate) fn new(
        reading: Result<Reading, Unread>,
        started: Instant,
        metrics: &Arc<SelfMetrics>,
    ) -> Arc<Self> {
        Arc::new(Self {
            reading,
            duration: started.elapsed(),
            metrics: Arc::clone(metrics),
            text: Encoded::default(),
            open_metrics: Encoded::default(),
        })
    }

    /// Encodes the snapshot. The first call for a format takes time in proportion to
    /// the number of series.
    pub(crate) fn encode(&self, format: Format, gzip: bool) -> Bytes {
        let encoded = match format {
            Format::Text => &self.text,
            Format::OpenMetrics => &self.open_metrics,
        };
        let plain = || encoded.plain.get_or_init(|| self.write(format).into());
        let bytes = if gzip {
            let compress = || body::gzip(plain(), Compression::fast());
            encoded.gzip.get_or_init(compress)
        } else {
            plain()
        };
        bytes.clone()
    }

    fn write(&self, format: Format) -> String {
        let nothing = Reading::default();
        let (reading, up) = match &self.reading {
            Ok(reading) => (reading, None),
            Err(unread) => (&nothing, Some(&unread.up[..])),
        };
        let lines = usize::try_from(reading.cells).unwrap_or(0);
        let capacity = 4096 + lines.saturating_mul(LINE_BYTES);
        let families = reading.exposed().map(|family| &family.family);
        let mut exposition = Exposition::begin(format, families, capacity);
        self_metrics::write(&mut exposition, &self.metrics, up, reading, self.duration);
        reading.write_to(&mut exposition);
        exposition.finish()
    }
}
