//! The batcher's view of custom metrics. It is a trait, so that a component
//! without custom metrics does not contain their code.

use std::{cell::RefCell, rc::Rc};

use functional_scaffold_protocol::{
    batch::Batch,
    calls::{Call, Script},
    catalog::Catalog,
    custom::CustomWrites,
};

/// Source of custom metrics, which the component's author records.
pub(crate) trait CustomSource {
    /// Returns true if something was recorded or refused since the last [`Self::drain`].
    fn has_news(&self) -> bool;

    /// Records nothing any more, and forgets what waits.
    fn switch_off(&mut self);

    /// Adds the families that are not in `catalog` yet.
    fn admit(&self, catalog: &mut Catalog);

    /// The families of `catalog` as they are registered, whatever keys are in force.
    fn to_register(&self, catalog: &Catalog) -> Catalog;

    /// Adds to a call what is limited of a batch.
    fn add_limited(&self, call: &mut Call, prefix: &str, total: &Batch, custom: &CustomWrites);

    /// The script that applies batches of it.
    fn apply_script(&self) -> &'static Script;

    /// Adds the families that have something in `total` or `custom` to the latter, but for
    /// the first `skipped` of the catalog.
    fn add_families(
        &self,
        catalog: &Catalog,
        skipped: usize,
        total: &Batch,
        custom: &mut CustomWrites,
    );

    /// Moves what was recorded of the families in `catalog`, of `max_series` series at
    /// most, to `batch`. Forgets series that the author's code holds no handle of.
    ///
    /// `offset_ms` is the lease time at the start of the host's clock, if it is known.
    fn drain(
        &mut self,
        catalog: &Catalog,
        max_series: usize,
        offset_ms: Option<i64>,
        batch: (&mut Batch, &mut CustomWrites),
    );
}

/// The custom metrics of a batcher, if it counts those.
#[derive(Default)]
pub(crate) struct Custom {
    source: Option<Rc<RefCell<dyn CustomSource>>>,
    /// The lease time at the start of the host's clock, in milliseconds.
    clock_offset: Option<i64>,
}

impl Custom {
    pub(crate) fn new(source: Rc<RefCell<dyn CustomSource>>) -> Self {
        Self {
            source: Some(source),
            clock_offset: None,
        }
    }

    /// Sets the lease time at the start of the host's clock, for the writes of gauges.
    pub(crate) fn set_clock_offset(&mut self, millis: i64) {
        self.clock_offset = Some(millis);
    }

    pub(crate) fn has_news(&self) -> bool {
        let source = self.source.as_ref();
        source.is_some_and(|source| source.borrow().has_news())
    }

    pub(crate) fn switch_off(&self) {
        if let Some(source) = &self.source {
            source.borrow_mut().switch_off();
        }
    }

    /// Admits new families to the catalog.
    pub(crate) fn admit(&self, catalog: &mut Catalog) {
        if let Some(source) = &self.source {
            source.borrow().admit(catalog);
        }
    }

    /// The families of `catalog` as they are registered; `None` without custom metrics.
    pub(crate) fn to_register(&self, catalog: &Catalog) -> Option<Catalog> {
        let source = self.source.as_ref()?;
        Some(source.borrow().to_register(catalog))
    }

    /// Adds to a call what is limited of a batch.
    pub(crate) fn add_limited(
        &self,
        call: &mut Call,
        prefix: &str,
        total: &Batch,
        custom: &CustomWrites,
    ) {
        if let Some(source) = &self.source {
            source.borrow().add_limited(call, prefix, total, custom);
        }
    }

    /// The script that applies the batches.
    pub(crate) fn apply_script(&self) -> &'static Script {
        match &self.source {
            Some(source) => source.borrow().apply_script(),
            None => &Script::APPLY_UNLIMITED,
        }
    }

    /// Adds the families that have something in a batch to it, but for the first `skipped`
    /// of the catalog.
    pub(crate) fn add_families(
        &self,
        catalog: &Catalog,
        skipped: usize,
        total: &Batch,
        custom: &mut CustomWrites,
    ) {
        if let Some(source) = &self.source {
            source
                .borrow()
                .add_families(catalog, skipped, total, custom);
        }
    }

    /// Moves what was recorded, of `max_series` series at most, to a batch. Families that
    /// were not admitted to the catalog wait.
    pub(crate) fn drain(
        &self,
        catalog: &Catalog,
        max_series: usize,
        batch: (&mut Batch, &mut CustomWrites),
    ) {
        if let Some(source) = &self.source {
            let mut source = source.borrow_mut();
            source.drain(catalog, max_series, self.clock_offset, batch);
        }
    }
}
