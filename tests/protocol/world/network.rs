//! What is sent: on its way, delayed or in the log; and what comes of it when it
//! arrives, in the store and in the model.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use functional_scaffold_protocol::{
    batch::SentBatch, calls::ApplyReply, catalog::Catalog, lease::Lease,
};

use super::{World, agreement::agree, instances::Told, label_of, steps::Fate};
use crate::{Result, fixture::metric_keys, model::REMEMBERED_MS};

/// For how long after it was given up a batch is replayed.
const REPLAYED_MS: i64 = 3_600_000;

/// A batch as it was sent, with the executions that it counts without a lease.
#[derive(Debug, Clone)]
pub(super) struct Letter {
    pub(super) batch: SentBatch,
    pub(super) executions: Vec<usize>,
    /// The time from which on ids may be forgotten that it depends on.
    pub(super) oldest: i64,
}

/// A lease as it was sent.
#[derive(Debug, Clone)]
pub(super) struct SentLease {
    pub(super) execution: usize,
    pub(super) lease: Lease,
    /// When it begins, in the store and in the model.
    pub(super) began: [i64; 2],
}

/// A batch in the log.
#[derive(Debug, Clone)]
pub(super) struct Logged {
    pub(super) letter: Letter,
    pub(super) given_up: i64,
}

impl World {
    pub(super) fn lease(&mut self, sent: &SentLease) -> Result {
        let [store, model] = sent.began;
        self.store.take(&sent.lease, store)?;
        self.facts[sent.execution].landed = self.model.take(&sent.lease, model);
        Ok(())
    }

    pub(super) fn flush(&mut self, instance: usize, fate: Fate) -> Result {
        let instance = self.with_something(instance);
        self.freeze(instance);
        let Some(letter) = self.instances[instance].frozen.clone() else {
            return Ok(());
        };
        if !self.is_fresh(letter.oldest) {
            // No instance lives that long: an execution has its limit, and a
            // batch lingers for a second.
            self.instances[instance] = self.new_instance(instance);
            return Ok(());
        }
        match fate {
            Fate::Lost => Ok(()),
            Fate::Delayed => {
                self.delayed_batches.push(letter);
                Ok(())
            }
            Fate::ReplyLost => self.deliver(&letter).map(|_unheard| ()),
            Fate::Answered => match self.deliver(&letter)? {
                ApplyReply::Stored {
                    lease_time_millis, ..
                } => {
                    let of = &mut self.instances[instance];
                    of.frozen = None;
                    of.told = Some(Told {
                        lease_time: [lease_time_millis, self.model.lease_time],
                        age: self.age,
                    });
                    Ok(())
                }
                ApplyReply::Duplicate => {
                    self.instances[instance].frozen = None;
                    Ok(())
                }
                ApplyReply::Late(ids) => {
                    let catalog = self.instances[instance].catalog.clone();
                    let frozen = self.instances[instance].frozen.as_mut();
                    remove_late(&catalog, frozen.context("it was sent")?, &ids)
                }
            },
        }
    }

    pub(super) fn replay(&mut self, index: usize) -> Result {
        let Some(logged) = self.log.get(index % self.log.len().max(1)).cloned() else {
            return Ok(());
        };
        let Logged {
            mut letter,
            given_up,
        } = logged;
        let too_old = self.age - given_up >= REPLAYED_MS;
        // Nor is an execution slower than its limit by more than the rest of
        // the time for which ids are remembered.
        let too_slow = given_up - letter.oldest >= REMEMBERED_MS - REPLAYED_MS;
        if too_old || too_slow {
            return Ok(());
        }
        if let ApplyReply::Late(ids) = self.deliver(&letter)? {
            let catalog = self.catalog_of(&letter.batch).clone();
            remove_late(&catalog, &mut letter, &ids)?;
            let again = self.deliver(&letter)?;
            ensure!(
                matches!(again, ApplyReply::Stored { .. }),
                "{again:?} without the late"
            );
        }
        Ok(())
    }

    pub(super) fn deliver(&mut self, letter: &Letter) -> Result<ApplyReply> {
        // Otherwise it depends on real milliseconds whether it writes the clock.
        self.store.forget_flush()?;
        let reply = self.store.apply(&letter.batch)?;
        let mut expected = self.model.apply(&letter.batch);
        if let ApplyReply::Stored {
            lease_time_millis, ..
        } = &mut expected
        {
            // The clock was kept with it.
            let kept = self.store.kept()?.lease_time();
            *lease_time_millis = kept.context("the clock is kept")?;
        }
        agree("the answer to a batch", &reply, &expected)?;
        if matches!(reply, ApplyReply::Stored { .. }) {
            let leased = letter.batch.leased.iter().map(|leased| &leased.lease.id);
            let leased: BTreeSet<_> = leased.collect();
            for &execution in &letter.executions {
                let fact = &mut self.facts[execution];
                let lease = fact.lease.as_ref().map(|lease| &lease.id);
                if lease.is_none_or(|id| leased.contains(id)) {
                    ensure!(!fact.counted_result, "{execution} was counted twice");
                    fact.counted_result = true;
                } else {
                    ensure!(!fact.counted_late, "{execution} was late twice");
                    fact.counted_late = true;
                }
            }
        }
        Ok(reply)
    }

    pub(super) fn settle(&mut self, knows_all_keys: bool) -> Result {
        self.settlings += 1;
        let known = if knows_all_keys { 2 } else { 1 };
        let catalogs = self.catalogs.clone();
        let keys: Vec<_> = catalogs[..known].iter().flat_map(metric_keys).collect();
        let settled = self.store.settle(self.settlings, &keys)?;
        let (epoch, leases) = self.model.settle(self.settlings, &keys);
        agree("the epoch", &settled.epoch, &format!("{epoch:016x}"))?;
        agree("settled leases", &settled.leases, &leases)?;
        agree("refused counts", &settled.refused, &Vec::new())?;
        let kept = self.store.kept()?.lease_time();
        let after = settled.lease_time_millis - kept.context("the clock is kept")?;
        ensure!((0..100).contains(&after), "the clock is {after} ms old");
        Ok(())
    }

    pub(super) fn is_fresh(&self, since: i64) -> bool {
        self.age - since < REMEMBERED_MS
    }

    pub(super) fn catalog_of(&self, batch: &SentBatch) -> &Catalog {
        let total = batch.total();
        let mut keys = total.hashes().map(|(key, _)| key);
        &self.catalogs[usize::from(keys.any(|key| key.ends_with("@other")))]
    }
}

fn remove_late(catalog: &Catalog, letter: &mut Letter, ids: &[String]) -> Result {
    let removed = letter.batch.remove_late(ids);
    ensure!(removed == ids.len() as u64, "{ids:?} were not all sent");
    for id in ids {
        let execution = id.rsplit('/').next().context("it ends in a number")?;
        let label = label_of(execution.parse()?);
        catalog.record_late(&mut letter.batch.increments, &label, 1);
    }
    Ok(())
}
