//! The totals of an instance, for the schemes that publish totals instead of
//! increments.

use functional_scaffold_protocol::{
    batch::Batch,
    exposition::{Format, expose},
    series::{TotalsError, families_of_totals},
};

use crate::batcher::Batcher;

/// Adds a batch to `totals`. Empty totals begin with 0 in every series of
/// [`Batcher::zero_cells`].
pub(super) fn with_batch(totals: &Batch, batch: &Batch, batcher: &Batcher) -> Batch {
    let mut sum = totals.clone();
    if sum.is_empty() {
        for (key, field) in batcher.zero_cells() {
            sum.inc(key, &field, 0);
        }
    }
    sum.merge(batch);
    sum
}

/// Encodes totals in the Prometheus text format.
pub(super) fn text(totals: &Batch, batcher: &Batcher) -> Result<String, TotalsError> {
    let families = families_of_totals(&batcher.catalog().families(), totals)?;
    Ok(expose(Format::Text, &families))
}
