//! The result of one read of Redis.

use functional_scaffold_protocol::{exposition::Exposition, series::FamilySeries};

use crate::scrape::decode_errors::DecodeErrors;

/// The families of one read, ready to be served.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    /// Identifies the contents of the store: a wipe starts another epoch.
    pub(crate) epoch: Option<String>,
    /// Sorted by name.
    pub(crate) families: Vec<FamilySeries>,
    /// The number of fields read, including corrupt and repeated ones.
    pub(crate) cells: u64,
    pub(crate) decode_errors: DecodeErrors,
    /// Executions in flight, unless there are no algorithms or the open leases cannot
    /// be read.
    pub(crate) in_flight: Option<FamilySeries>,
    /// The age of the oldest open lease, 0 without any. None if the open leases
    /// cannot be read or settled.
    pub(crate) oldest_lease_age_seconds: Option<f64>,
    /// When a batch was last stored, in milliseconds since 1970.
    pub(crate) flushed_millis: Option<i64>,
    /// The number of series that stepped back since the previous read.
    pub(crate) regressions: u64,
}

impl Reading {
    /// Every family to be exposed.
    pub(crate) fn exposed(&self) -> impl Iterator<Item = &FamilySeries> {
        self.in_flight.iter().chain(&self.families)
    }

    /// Appends every family to an exposition.
    pub(crate) fn write_to(&self, exposition: &mut Exposition) {
        self.exposed()
            .for_each(|family| exposition.write_family(family));
    }
}
