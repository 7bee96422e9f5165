//! The totals of an instance, for the schemes that publish totals instead of
//! increments.

use functional_scaffold_protocol::{
    batch::Batch,
    custom::Gauges,
    exposition::{Format, expose},
    series::{TotalsError, families_with_gauges},
};

use crate::batcher::Batcher;

/// Everything that an instance has counted, and its gauges.
#[derive(Debug, Default, Clone)]
pub(crate) struct Totals {
    pub(crate) counts: Batch,
    pub(crate) gauges: Gauges,
}

impl Totals {
    /// Adds a batch. Empty counts begin with 0 in every series of
    /// [`Batcher::zero_cells`].
    pub(super) fn with(&self, batch: &Batch, gauges: &Gauges, batcher: &Batcher) -> Self {
        let mut sum = self.clone();
        if sum.counts.is_empty() {
            for (key, field) in batcher.zero_cells() {
                sum.counts.inc(key, &field, 0);
            }
        }
        sum.counts.merge(batch);
        sum.gauges.merge(gauges);
        sum
    }

    /// Encodes them in the Prometheus text format.
    pub(super) fn text(&self, batcher: &Batcher) -> Result<String, TotalsError> {
        let families = batcher.catalog().families();
        let families = families_with_gauges(&families, &self.counts, &self.gauges)?;
        Ok(expose(Format::Text, &families))
    }
}
