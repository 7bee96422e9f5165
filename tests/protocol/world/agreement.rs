//! What must hold after each step: model and store hold the same, and every
//! execution that Redis heard of has exactly one end or is in flight.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    time::Instant,
};

use anyhow::ensure;
use functional_scaffold_protocol::{
    batch::BatchId,
    catalog::{ExecutionLabels, ExecutionStatus},
    lease::Lease,
};

use super::{World, label_of};
use crate::Result;

impl World {
    /// Whether model and store hold the same.
    pub(super) fn compare(&mut self) -> Result {
        let counters = self.store.counters(&self.keys)?;
        agree("counters", &counters, &self.model.counters)?;
        let kept = self.store.kept()?;
        let began = self.began;
        let lease_time = kept.lease_time().unwrap_or(0);
        let open = kept.open.iter().map(|(member, due)| {
            let id = Lease::decode(member)?.id;
            Ok((id, due - lease_time))
        });
        let open: BTreeMap<_, _> = open.collect::<Result<_>>()?;
        let expected = &self.model.open;
        let expected = expected
            .iter()
            .map(|(id, (_, due))| (id.clone(), due - self.model.lease_time));
        agree_on_times("open leases", &open, &expected.collect(), began)?;

        let closed = kept.closed.into_iter();
        let closed = closed.map(|(id, until)| (id, until - lease_time));
        let expected = self.model.closed.iter();
        let expected = expected.map(|(id, until)| (id.clone(), until - self.model.lease_time));
        agree_on_times(
            "closed leases",
            &closed.collect(),
            &expected.collect(),
            began,
        )?;

        for (&started_at, expected) in &self.model.applied {
            let id = BatchId {
                started_at,
                nonce: 0,
                sequence: 0,
            };
            let (last, left) = self.store.applied(&id)?;
            let numbers = expected.last.iter();
            let numbers = numbers.map(|(nonce, last)| (format!("{nonce:016x}"), *last));
            agree("applied ids", &last, &numbers.collect())?;
            let what = BTreeMap::from([(started_at.to_string(), left)]);
            let left = expected.until - self.model.wall;
            let expected = BTreeMap::from([(started_at.to_string(), left)]);
            agree_on_times("applied ids", &what, &expected, began)?;
        }
        let pattern = format!("{}applied:*", self.store.prefix);
        let buckets: Vec<String> = self.store.call(&["KEYS", &pattern])?;
        agree("buckets", &buckets.len(), &self.model.applied.len())
    }

    /// Whether every execution that Redis heard of has exactly one end, or is
    /// in flight: by what is in Redis alone, and what is true.
    pub(super) fn check_identity(&mut self) -> Result {
        let counters = self.store.counters(&self.keys)?;
        let kept = self.store.kept()?;
        let ids = kept.open.keys().map(|member| Ok(Lease::decode(member)?.id));
        let mut open: BTreeSet<String> = ids.collect::<Result<_>>()?;
        // One that was closed before it came counts nothing.
        open.retain(|id| !kept.closed.contains_key(id));
        let sum = |family: &str, labels: &str| -> i128 {
            let families = self.catalogs.iter().filter_map(|of| of.family(family));
            let keys: BTreeSet<_> = families.map(|family| &family.key).collect();
            let cells = counters.iter().filter(|((key, field), _)| {
                keys.contains(key) && field.contains(labels) && !field.ends_with("|sum")
            });
            cells.map(|(_, count)| count).sum()
        };
        const REQUESTS: &str = "http_requests_total";
        const EXECUTIONS: &str = "algorithm_executions_total";
        const EXECUTION_DURATIONS: &str = "algorithm_execution_duration_seconds";
        const LATE: &str = "functional_scaffold_late_results_total";
        const SETTLED: &str = "functional_scaffold_leases_settled_total";

        let started = self
            .facts
            .iter()
            .filter(|fact| fact.landed || fact.counted_result)
            .count();
        let in_flight = i128::try_from(open.len())?;
        agree(
            "started executions",
            &(sum(EXECUTIONS, "") + in_flight),
            &i128::try_from(started)?,
        )?;
        let crashed = sum(EXECUTIONS, "status=\"crashed\"");
        agree("settled", &sum(SETTLED, ""), &crashed)?;
        agree("requests", &sum(REQUESTS, ""), &sum(EXECUTIONS, ""))?;
        let durations = sum(EXECUTION_DURATIONS, "");
        agree("durations", &durations, &(sum(EXECUTIONS, "") - crashed))?;

        for (execution, fact) in self.facts.iter().enumerate() {
            let label = format!("algorithm=\"{}\"", label_of(execution));
            let ends: Vec<_> = ExecutionStatus::ALL
                .into_iter()
                .filter(|&status| {
                    let algorithm = &label_of(execution);
                    let labels = ExecutionLabels { algorithm, status }.to_text();
                    sum(EXECUTIONS, &labels) > 0
                })
                .collect();
            let times = sum(EXECUTIONS, &label);
            let is_open = fact
                .lease
                .as_ref()
                .is_some_and(|lease| open.contains(&lease.id));
            let expected: &[_] = match fact.result {
                Some(status) if fact.counted_result => &[status],
                _ if fact.landed && !is_open => &[ExecutionStatus::Crashed],
                _ => &[],
            };
            agree("how an execution ended", &ends, &expected.to_vec())?;
            agree("how often it ended", &times, &i128::try_from(ends.len())?)?;
            ensure!(
                !(is_open && times > 0),
                "{execution} ended and is in flight"
            );
            let late = i128::from(fact.counted_late);
            agree("late results", &sum(LATE, &label), &late)?;
            ensure!(
                !fact.counted_late || ends == [ExecutionStatus::Crashed],
                "{execution} was late and is {ends:?}"
            );
        }
        Ok(())
    }
}

pub(super) fn agree<T: PartialEq + Debug>(what: &str, store: &T, model: &T) -> Result {
    ensure!(
        store == model,
        "{what}: the store has {store:#?}, expected is {model:#?}"
    );
    Ok(())
}

/// The same, of times left to run in milliseconds, which really pass.
fn agree_on_times(
    what: &str,
    store: &BTreeMap<String, i64>,
    model: &BTreeMap<String, i64>,
    began: Instant,
) -> Result {
    // Now, after both were read.
    let elapsed = i64::try_from(began.elapsed().as_millis())?;
    // The clock is kept ten times a second, and ends are whole milliseconds.
    const SLACK: i64 = 110;
    let same = store.len() == model.len()
        && store.iter().zip(model).all(|((id, left), expected)| {
            id == expected.0 && (expected.1 - elapsed - SLACK..=expected.1 + SLACK).contains(left)
        });
    ensure!(
        same,
        "{what}: the store has {store:#?}, expected is {model:#?} within {elapsed} ms"
    );
    Ok(())
}
