//! The increments of one instance that are not stored yet, and which write of
//! them is under way. Pure: what is written where and when is [`super::flush`]'s.
//!
//! A batch that was sent may have been applied although no answer came. So it
//! is frozen, and sent again under the same id until it is answered or given
//! up; what is recorded meanwhile waits for the next one.

use functional_scaffold_schema::{
    batch::{Batch, BatchId, LoggedBatch},
    catalog::{Catalog, Execution, Request},
    family::Family,
};

/// An instance's increments on their way.
#[derive(Debug)]
pub struct Writer {
    catalog: Catalog,
    nonce: u64,
    started_at: u64,
    sequence: u64,
    pending: Batch,
    frozen: Option<LoggedBatch>,
    registered: bool,
    flushing: bool,
}

impl Writer {
    /// Begins with nothing to write. `nonce` is random, `started_at` in
    /// seconds since 1970; both name this writer to Redis.
    #[must_use]
    pub fn new(catalog: Catalog, nonce: u64, started_at: u64) -> Self {
        Self {
            catalog,
            nonce,
            started_at,
            sequence: 0,
            pending: Batch::default(),
            frozen: None,
            registered: false,
            flushing: false,
        }
    }

    /// Adds a finished request. The batch is bounded by its cells: every label
    /// value comes from a bounded set.
    pub fn record(&mut self, request: &Request<'_>, execution: Option<&Execution<'_>>) {
        self.catalog.record_request(&mut self.pending, request);
        if let Some(execution) = execution {
            self.catalog.record_execution(&mut self.pending, execution);
        }
    }

    /// Whether the caller is to flush: true once, until
    /// [`Self::end_flushing`].
    #[must_use]
    pub fn begin_flushing(&mut self) -> bool {
        !std::mem::replace(&mut self.flushing, true)
    }

    /// Ends a flush if nothing is left to write.
    #[must_use]
    pub fn end_flushing(&mut self) -> bool {
        let done = self.frozen.is_none() && self.pending.is_empty();
        self.flushing = !done;
        done
    }

    /// The batch to send: the frozen one, or else all that waits, frozen now.
    #[must_use]
    pub fn freeze(&mut self) -> Option<&LoggedBatch> {
        if self.frozen.is_none() && !self.pending.is_empty() {
            self.sequence += 1;
            self.frozen = Some(LoggedBatch {
                id: self.id(self.sequence),
                increments: std::mem::take(&mut self.pending),
            });
        }
        self.frozen.as_ref()
    }

    /// The frozen batch was answered for: it is stored.
    pub fn acknowledge(&mut self) {
        self.frozen = None;
    }

    /// Gives up everything that is not stored, to be logged. From here on the
    /// writer goes by the new nonce: see [`BatchId`].
    #[must_use]
    pub fn give_up(&mut self, nonce: u64, now: u64) -> Vec<LoggedBatch> {
        let frozen = self.frozen.take();
        let waiting = self.freeze().cloned();
        self.frozen = None;
        (self.nonce, self.started_at, self.sequence) = (nonce, now, 0);
        frozen.into_iter().chain(waiting).collect()
    }

    /// Registration fields and families to be registered before the first
    /// write; none once [`Self::set_registered`] was called.
    #[must_use]
    pub fn unregistered(&self) -> Vec<(String, Family)> {
        if self.registered {
            return Vec::new();
        }
        self.catalog
            .families()
            .into_iter()
            .map(|family| (family.name.clone(), family.clone()))
            .collect()
    }

    /// Series to be borne at 0 with the registration, as key and field.
    #[must_use]
    pub fn zero_cells(&self, algorithm: &str, endpoints: &[&str]) -> Vec<(String, String)> {
        self.catalog
            .zero_cells(algorithm, endpoints)
            .into_iter()
            .map(|(key, field)| (key.to_owned(), field))
            .collect()
    }

    /// Takes the registrations that stand in Redis, in the order of
    /// [`Self::unregistered`]: where another component was first, increments go
    /// to the hash it named. A family that it registered with another layout
    /// gets a hash of its own; these are given back, to be registered.
    #[must_use]
    pub fn adopt(&mut self, standing: &[String]) -> Vec<(String, Family)> {
        let mut own_layouts = Vec::new();
        for (family, standing) in self.catalog.families_mut().into_iter().zip(standing) {
            let key = match Family::decode(&family.name, standing.as_bytes()) {
                Ok(standing) if standing.same_layout(family) => standing.key,
                _ => {
                    let (field, own) = family.with_own_layout();
                    let key = own.key.clone();
                    own_layouts.push((field, own));
                    key
                }
            };
            if key != family.key {
                self.pending.rename_key(&family.key, &key);
                family.key = key;
            }
        }
        own_layouts
    }

    /// The families are registered.
    pub fn set_registered(&mut self) {
        self.registered = true;
    }

    fn id(&self, sequence: u64) -> BatchId {
        BatchId {
            started_at: self.started_at,
            nonce: self.nonce,
            sequence,
        }
    }
}

#[cfg(test)]
mod tests {
    use functional_scaffold_schema::family::Kind;

    use super::*;

    fn writer() -> Writer {
        Writer::new(Catalog::new("m:"), 7, 100)
    }

    fn record(writer: &mut Writer) {
        let request = Request {
            method: "GET",
            endpoint: "/healthz",
            code: 200,
            duration_nanos: 1,
        };
        writer.record(&request, None);
    }

    fn count(batch: &LoggedBatch) -> u64 {
        let counter = |key: &str| key.starts_with("m:request_counter");
        let cells = batch.increments.cells();
        cells
            .filter(|(key, _, _)| counter(key))
            .map(|(_, _, by)| by)
            .sum()
    }

    #[test]
    fn a_sent_batch_is_frozen_until_it_is_answered() {
        let mut writer = writer();
        assert_eq!(writer.freeze(), None);
        record(&mut writer);
        let first = writer.freeze().cloned().expect("one request waits");
        record(&mut writer);
        assert_eq!(writer.freeze(), Some(&first), "a retry sends the same");
        writer.acknowledge();
        let second = writer.freeze().expect("the other request waits");
        assert_eq!((first.id.sequence, second.id.sequence), (1, 2));
        assert_eq!((count(&first), count(second)), (1, 1));
    }

    #[test]
    fn giving_up_hands_over_everything_and_takes_a_new_name() {
        let mut writer = writer();
        record(&mut writer);
        let frozen = writer.freeze().cloned().expect("one request waits");
        record(&mut writer);
        record(&mut writer);
        let given_up = writer.give_up(8, 200);
        assert_eq!(given_up.len(), 2);
        assert_eq!(given_up[0], frozen);
        assert_eq!(count(&given_up[1]), 2);
        assert_ne!(given_up[0].id, given_up[1].id);
        record(&mut writer);
        let next = writer.freeze().expect("one request waits");
        assert_eq!(
            (next.id.nonce, next.id.started_at, next.id.sequence),
            (8, 200, 1)
        );
    }

    #[test]
    fn one_flush_at_a_time_and_none_left_behind() {
        let mut writer = writer();
        record(&mut writer);
        assert!(writer.begin_flushing());
        assert!(!writer.begin_flushing());
        assert!(!writer.end_flushing(), "a request still waits");
        assert!(writer.freeze().is_some());
        assert!(!writer.end_flushing(), "a batch is not answered");
        writer.acknowledge();
        assert!(writer.end_flushing());
        assert!(writer.begin_flushing());
    }

    #[test]
    fn another_components_layout_is_left_alone() {
        let mut writer = writer();
        record(&mut writer);
        let mut standing: Vec<Family> = writer
            .unregistered()
            .into_iter()
            .map(|(_, family)| family)
            .collect();
        standing[0].key = "m:elsewhere".into();
        standing[1].bounds = vec![1.0];
        standing[2].kind = Kind::Gauge;
        let standing: Vec<_> = standing.iter().map(Family::encode).collect();
        let own = writer.adopt(&standing);
        let fields: Vec<_> = own.iter().map(|(field, _)| field.as_str()).collect();
        assert_eq!(fields.len(), 2);
        assert!(fields[0].starts_with("http_request_duration_seconds@"));
        assert!(fields[1].starts_with("algorithm_executions_total@"));
        let batch = writer.freeze().expect("one request waits");
        let keys: Vec<_> = batch.increments.hashes().map(|(key, _)| key).collect();
        assert_eq!(keys, ["m:elsewhere", own[0].1.key.as_str()]);
    }

    #[test]
    fn a_corrupt_registration_is_left_alone() {
        let mut writer = writer();
        let own = writer.adopt(&["{".to_owned()]);
        assert_eq!(own.len(), 1);
    }
}
