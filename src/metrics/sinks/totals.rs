//! What this instance has counted since it began, where that is what is shown.
//! Owns its text; neither pushes nor serves it.

use functional_scaffold_protocol::{
    batch::Batch,
    exposition::{Format, expose},
    series::{TotalsError, families_of_totals},
};

use crate::{metrics::writer::Writer, routes};

/// Totals with the batch added, and with the series at 0 that may stay unborn for
/// long.
#[must_use]
pub fn with_batch(totals: &Batch, batch: &Batch, writer: &Writer) -> Batch {
    let mut sum = totals.clone();
    if sum.is_empty() {
        for (key, field) in writer.zero_cells(&[routes::INVOKE, routes::INVOKE_NAMED]) {
            sum.inc(key, &field, 0);
        }
    }
    sum.merge(batch);
    sum
}

/// Totals in the text format 0.0.4.
///
/// # Errors
/// They are not those of the writer's families.
pub fn text(totals: &Batch, writer: &Writer) -> Result<String, TotalsError> {
    let families = families_of_totals(&writer.catalog().families(), totals)?;
    Ok(expose(Format::Text, &families))
}
