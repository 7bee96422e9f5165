//! What a scrape shows: one read of Redis and the exporter's own metrics, as
//! bytes. Owns that each form of it is written once, however many scrapes share
//! it.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use axum::body::Bytes;
use flate2::Compression;
use functional_scaffold_protocol::exposition::{Exposition, Format};

use crate::{
    connection::Failure,
    gzip::compress,
    reader::Reading,
    self_metrics::{self, ScrapeFigures, Totals},
};

/// About the length of a line, to reserve room for all of them at once.
const LINE_BYTES: usize = 96;

/// What a scrape shows.
#[derive(Debug)]
pub struct Snapshot {
    reading: Result<Reading, Failure>,
    duration: Duration,
    totals: Arc<Totals>,
    text: Forms,
    open_metrics: Forms,
}

/// One format as it is and compressed, if it was asked for.
#[derive(Debug, Default)]
struct Forms {
    plain: OnceLock<Bytes>,
    gzip: OnceLock<Bytes>,
}

impl Snapshot {
    /// A read that `began` then and has just ended.
    #[must_use]
    pub fn new(
        reading: Result<Reading, Failure>,
        began: Instant,
        totals: &Arc<Totals>,
    ) -> Arc<Self> {
        Arc::new(Self {
            reading,
            duration: began.elapsed(),
            totals: Arc::clone(totals),
            text: Forms::default(),
            open_metrics: Forms::default(),
        })
    }

    /// What was read.
    ///
    /// # Errors
    /// Redis could not be read.
    pub fn reading(&self) -> Result<&Reading, &Failure> {
        self.reading.as_ref()
    }

    /// How long the read took, or was tried.
    #[must_use]
    pub fn duration(&self) -> Duration {
        self.duration
    }

    /// The snapshot in a format. It takes time in proportion to the series the
    /// first time it is asked for.
    #[must_use]
    pub fn body(&self, format: Format, gzip: bool) -> Bytes {
        let forms = match format {
            Format::Text => &self.text,
            Format::OpenMetrics => &self.open_metrics,
        };
        let plain = || forms.plain.get_or_init(|| self.write(format).into());
        let body = if gzip {
            forms
                .gzip
                .get_or_init(|| compress(plain(), Compression::fast()).into())
        } else {
            plain()
        };
        body.clone()
    }

    fn write(&self, format: Format) -> String {
        let nothing = Reading::default();
        let reading = self.reading.as_ref().unwrap_or(&nothing);
        let figures = ScrapeFigures {
            up: self.reading.is_ok(),
            duration: self.duration,
            families: reading.families.len(),
            series: reading.families.iter().map(|one| one.series.len()).sum(),
            cells: reading.cells,
            offences: &reading.offences,
            oldest_lease_age_seconds: reading.oldest_lease_age_seconds,
            last_flush_seconds: reading.flushed_millis.map(|millis| millis as f64 / 1000.0),
        };
        let families = || reading.in_flight.iter().chain(&reading.families);
        let lines = usize::try_from(reading.cells).unwrap_or(0);
        let capacity = 4096 + lines.saturating_mul(LINE_BYTES);
        let names = families().map(|family| &family.family);
        let mut out = Exposition::begin(format, names, capacity);
        self_metrics::write(&mut out, &self.totals, &figures);
        for family in families() {
            out.write_family(family);
        }
        out.finish()
    }
}
