//! The pull scheme: the instance keeps its totals and serves them on
//! `GET /metrics`. They end with the instance.

use std::cell::RefCell;

use functional_scaffold_protocol::series::TotalsError;

use crate::{
    batcher::Batcher,
    sinks::{error::Stored, totals::Totals},
};

/// The totals of this instance.
#[derive(Debug, Default)]
pub(crate) struct PullSink {
    totals: RefCell<Totals>,
}

impl PullSink {
    /// Adds the next batch to the totals; `None` if there is none.
    pub(super) fn store(&self, batcher: &mut Batcher) -> Option<Stored> {
        batcher.admit_families();
        let frozen = batcher.freeze(None)?;
        let (batch, gauges) = (frozen.total.clone(), frozen.custom.gauges.clone());
        let mut totals = self.totals.borrow_mut();
        *totals = totals.with(&batch, &gauges, batcher);
        Some(Stored::default())
    }

    /// Returns everything that was recorded so far, in the text format.
    pub(crate) fn exposition(&self, batcher: &mut Batcher) -> Result<String, TotalsError> {
        if self.store(batcher).is_some() {
            batcher.acknowledge(false, &[]);
        }
        let Totals { counts, gauges } = Totals::default();
        let totals = self.totals.borrow().with(&counts, &gauges, batcher);
        totals.text(batcher)
    }
}
