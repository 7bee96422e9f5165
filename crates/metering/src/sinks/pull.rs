//! The pull scheme: the instance keeps its totals and serves them on
//! `GET /metrics`. They end with the instance.

use std::cell::RefCell;

use functional_scaffold_protocol::{batch::Batch, series::TotalsError};

use crate::{
    batcher::Batcher,
    sinks::{
        error::Stored,
        totals::{text, with_batch},
    },
};

/// The totals of this instance.
#[derive(Debug, Default)]
pub(crate) struct PullSink {
    totals: RefCell<Batch>,
}

impl PullSink {
    /// Adds the next batch to the totals; `None` if there is none.
    pub(super) fn store(&self, batcher: &mut Batcher) -> Option<Stored> {
        let batch = batcher.freeze(None)?.total.clone();
        let mut totals = self.totals.borrow_mut();
        *totals = with_batch(&totals, &batch, batcher);
        Some(Stored::default())
    }

    /// Returns everything that was recorded so far, in the text format.
    pub(crate) fn exposition(&self, batcher: &mut Batcher) -> Result<String, TotalsError> {
        if self.store(batcher).is_some() {
            batcher.acknowledge(false, &[]);
        }
        let totals = with_batch(&self.totals.borrow(), &Batch::default(), batcher);
        text(&totals, batcher)
    }
}
