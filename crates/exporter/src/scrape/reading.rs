//! The result of one read of Redis.

use std::collections::{BTreeSet, HashMap};

use functional_scaffold_protocol::{exposition::Exposition, series::FamilySeries};

use crate::{
    redis_client::Failure,
    scrape::{
        decode_errors::DecodeErrors,
        info::{Memory, Persistence},
    },
};

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
    /// The time since the first open lease expired, 0 if none has. None if the open
    /// leases cannot be read.
    pub(crate) lease_overdue_seconds: Option<f64>,
    /// When a batch was last stored, in milliseconds since 1970.
    pub(crate) flushed_millis: Option<i64>,
    /// The number of series that stepped back since the previous read.
    pub(crate) regressions: u64,
    pub(crate) began: Began,
    /// Families of which something could not be read. They are served nevertheless where
    /// there is one store.
    pub(crate) partial: BTreeSet<String>,
    /// The names of which every registration was read; `None` if that is true of all names.
    pub(crate) known: Option<BTreeSet<String>>,
    /// When the series of gauges were set, by family.
    pub(crate) set_times: HashMap<String, SetTimes>,
    /// About each store, in their order.
    pub(crate) stores: Vec<StoreInfo>,
}

/// When gauges were set, in milliseconds, by label set.
pub(crate) type SetTimes = HashMap<Box<str>, i64>;

/// The state of one Redis, as it reports it.
#[derive(Debug, Default)]
pub(crate) struct StoreInfo {
    /// None if it cannot be read.
    pub(crate) memory: Option<Memory>,
    /// None if it cannot be read.
    pub(crate) persistence: Option<Persistence>,
}

/// Why there is no reading.
#[derive(Debug, Clone)]
pub(crate) struct Unread {
    pub(crate) failure: Failure,
    /// Whether each store could be read; empty if that is not known.
    pub(crate) up: Vec<bool>,
}

impl From<Failure> for Unread {
    fn from(failure: Failure) -> Self {
        let up = Vec::new();
        Self { failure, up }
    }
}

/// When series began to count from 0, in milliseconds since 1970, by Redis's clock.
#[derive(Debug, Default)]
pub(crate) struct Began {
    /// The beginning of the epoch, if it is known.
    pub(crate) epoch: Option<i64>,
    /// By family, for those that were removed as a whole since.
    pub(crate) families: HashMap<String, i64>,
    /// By family and labels, for series that were removed since.
    pub(crate) series: HashMap<String, HashMap<Box<str>, i64>>,
}

impl Began {
    /// When each series of a family began.
    fn of_family(&self, name: &str) -> impl Fn(&str) -> Option<i64> {
        let family = self.families.get(name).copied().max(self.epoch);
        let series = self.series.get(name);
        move |labels| {
            let own = series.and_then(|series| series.get(labels)).copied();
            family.map(|family| own.map_or(family, |own| own.max(family)))
        }
    }
}

impl Reading {
    /// Every family to be exposed.
    pub(crate) fn exposed(&self) -> impl Iterator<Item = &FamilySeries> {
        self.in_flight.iter().chain(&self.families)
    }

    /// Appends every family to an exposition.
    pub(crate) fn write_to(&self, exposition: &mut Exposition) {
        for family in self.exposed() {
            let began = self.began.of_family(&family.family.name);
            exposition.write_family_since(family, began);
        }
    }
}
