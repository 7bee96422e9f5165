//! What is in flight: the open leases by algorithm, and the oldest of them.
//! Owns how a lease's algorithm is found; takes and settles none.

use std::collections::{BTreeMap, HashSet};

use functional_scaffold_protocol::{
    family::{Family, Kind},
    labels::check_labels,
    lease::Lease,
    series::{FamilySeries, Series},
};

use crate::{
    labels::label,
    offences::{LEASES, Offences, reason},
    self_metrics::IN_FLIGHT,
};

/// The family of which a lease counts one crash.
pub const EXECUTIONS: &str = "algorithm_executions_total";

/// The label that names the algorithm.
const ALGORITHM: &str = "algorithm";

/// Leases that are looked at in one read: far more than instances can hold. A
/// bound on what a corrupt sorted set can make the exporter keep.
const MAX_LEASES: usize = 100_000;

/// The open leases of one read.
#[derive(Debug, Default)]
pub struct OpenLeases {
    // A member may come twice (ZSCAN).
    ids: HashSet<String>,
    /// By the label set of the gauge.
    by_algorithm: BTreeMap<Box<str>, i64>,
    /// The greatest of milliseconds less score, which is the age of the oldest
    /// lease less lease time.
    oldest_millis: Option<f64>,
}

impl OpenLeases {
    /// Takes a member of the sorted set and its score. `executions` are the
    /// keys of the family of executions.
    pub fn push(
        &mut self,
        member: &[u8],
        score: &[u8],
        executions: &[String],
        offences: &mut Offences,
    ) {
        if self.ids.len() >= MAX_LEASES {
            offences.add(LEASES, reason::TOO_MANY, || {
                format!("more than {MAX_LEASES} open leases")
            });
            return;
        }
        match decode(member, score, executions) {
            Some((lease, score, algorithm)) => self.add(lease, score, algorithm),
            None => offences.add(LEASES, reason::LEASE, || {
                format!(
                    "member {:?}, score {:?}: not a lease of an algorithm",
                    String::from_utf8_lossy(member),
                    String::from_utf8_lossy(score)
                )
            }),
        }
    }

    fn add(&mut self, lease: Lease, score: f64, algorithm: Box<str>) {
        // A float is exact for milliseconds until the year 287,396.
        let millis = lease.millis as f64 - score;
        if self.ids.insert(lease.id) {
            *self.by_algorithm.entry(algorithm).or_default() += 1;
            let oldest = self.oldest_millis.get_or_insert(millis);
            *oldest = oldest.max(millis);
        }
    }

    /// How long the oldest lease has been open at this lease time; 0 if none is
    /// open.
    #[must_use]
    pub fn oldest_age_seconds(&self, lease_time_millis: i64) -> f64 {
        self.oldest_millis.map_or(0.0, |millis| {
            ((millis + lease_time_millis as f64) / 1000.0).max(0.0)
        })
    }

    /// The gauge: the executions in flight of each algorithm, and 0 for those
    /// that have executions among `families` but none in flight. Nothing if
    /// there are no algorithms.
    #[must_use]
    pub fn in_flight(&self, families: &[FamilySeries]) -> Option<FamilySeries> {
        let mut by_algorithm = self.by_algorithm.clone();
        let executions = families
            .iter()
            .find(|family| family.family.name == EXECUTIONS);
        if let Some(Series::Values(values)) = executions.map(|family| &family.series) {
            for algorithm in values.iter().filter_map(|(set, _)| label(set, ALGORITHM)) {
                if !by_algorithm.contains_key(algorithm) {
                    by_algorithm.insert(algorithm.into(), 0);
                }
            }
        }
        let family = Family {
            name: IN_FLIGHT.into(),
            kind: Kind::Gauge,
            help: "Executions that have begun under a lease and have not been counted yet.".into(),
            unit: String::new(),
            key: String::new(),
            bounds: Vec::new(),
            scale: 1,
        };
        (!by_algorithm.is_empty()).then(|| FamilySeries {
            family,
            series: Series::Values(by_algorithm.into_iter().collect()),
        })
    }
}

fn decode(member: &[u8], score: &[u8], executions: &[String]) -> Option<(Lease, f64, Box<str>)> {
    let lease = Lease::decode(std::str::from_utf8(member).ok()?).ok()?;
    let score: f64 = std::str::from_utf8(score).ok()?.parse().ok()?;
    let algorithm: Box<str> = algorithm(&lease, executions)?.into();
    score.is_finite().then_some((lease, score, algorithm))
}

/// The algorithm whose execution has this lease, as a label set: of the cell
/// that counts an execution, which is in one of `executions`. Where there is
/// none (a lease of another prefix), of the first cell that names one.
#[must_use]
pub fn algorithm<'a>(lease: &'a Lease, executions: &[String]) -> Option<&'a str> {
    let in_executions = |key: &String| executions.contains(key);
    let first = lease.count.iter().filter(|(key, _)| in_executions(key));
    let then = lease.count.iter().filter(|(key, _)| !in_executions(key));
    first
        .chain(then)
        .filter(|(_, field)| check_labels(field).is_ok())
        .find_map(|(_, field)| label(field, ALGORITHM))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(id: &str, count: &[(&str, &str)]) -> String {
        let count = count
            .iter()
            .map(|&(key, field)| (key.to_owned(), field.to_owned()));
        let lease = Lease {
            id: id.into(),
            millis: 1000,
            count: count.collect(),
        };
        lease.encode()
    }

    fn push(leases: &mut OpenLeases, members: &[(&str, &str)]) -> u64 {
        let mut offences = Offences::default();
        for (member, score) in members {
            let keys = ["m:e".to_owned()];
            leases.push(member.as_bytes(), score.as_bytes(), &keys, &mut offences);
        }
        offences.counts().map(|(_, _, count)| count).sum()
    }

    #[test]
    fn leases_are_counted_by_the_algorithm_of_their_execution() {
        let mut leases = OpenLeases::default();
        let one = lease(
            "1",
            &[
                ("m:x", "algorithm=\"x\""),
                ("m:e", "algorithm=\"a\",status=\"crashed\""),
            ],
        );
        let two = lease("2", &[("m:r", "code=\"500\""), ("m:y", "algorithm=\"b\"")]);
        let members = [
            (one.as_str(), "5000"),
            (&two, "7000"),
            (&one, "5000"),
            ("{", "1"),
            (&lease("3", &[("m:e", "status=\"crashed\"")]), "1"),
            (&lease("4", &[("m:e", "algorithm=\"a\"")]), "inf"),
        ];
        assert_eq!(push(&mut leases, &members), 3);
        let gauge = leases.in_flight(&[]).expect("there are algorithms");
        assert_eq!(
            gauge.series,
            Series::Values(vec![
                ("algorithm=\"a\"".into(), 1),
                ("algorithm=\"b\"".into(), 1)
            ])
        );
        // Taken for a second, to run out at 5 s: taken at 4 s.
        assert!((leases.oldest_age_seconds(4500) - 0.5).abs() < 1e-9);
        assert!(leases.oldest_age_seconds(3000).abs() < 1e-9);
    }

    #[test]
    fn no_lease_has_no_age() {
        assert!(OpenLeases::default().oldest_age_seconds(4500).abs() < 1e-9);
        assert_eq!(OpenLeases::default().in_flight(&[]), None);
    }
}
