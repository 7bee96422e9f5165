//! Execution leases: counts the open ones, and settles the expired ones.
//!
//! Leases are settled at every read, so that a scrape is up to date, and at an interval,
//! so that crashes are counted and lease time advances even if nobody scrapes.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    hash::{BuildHasher as _, RandomState},
    ops::ControlFlow,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    redis_client::{self, Connection, Failure, Reason, RedisClient},
    scrape::{
        decode_errors::{DecodeErrors, LEASES, reason},
        labels::label,
        limits::{MAX_ALGORITHM_BYTES, MAX_LEASE_BYTES, MAX_LEASE_CELLS, MAX_LEASES},
        scan::{ReadOptions, Scanner, skip_unreadable},
        self_metrics::{IN_FLIGHT, SelfMetrics},
    },
};
use functional_scaffold_protocol::{
    calls::{Script, SettleReply, is_own_key, leases_key, settle_call},
    family::{Family, Kind},
    labels::check_labels,
    lease::Lease,
    series::{FamilySeries, Series},
};

/// The family in which every lease counts a crash.
pub(crate) const EXECUTIONS: &str = "algorithm_executions_total";

/// The label with the name of the algorithm.
const ALGORITHM: &str = "algorithm";

/// Calls of the settle script in a row. Each looks at a hundred leases, and Redis
/// serves other clients in between.
const MAX_CALLS: usize = 100;
/// Keys that are passed on from one call to the next. Leases of one component count in
/// three.
const MAX_KEYS: usize = 1000;
/// Different refused counts that are logged, and as many dropped leases.
const MAX_LOGGED: usize = 100;

/// The open leases of one read.
#[derive(Debug, Default)]
pub(crate) struct OpenLeases {
    // ZSCAN may return a member twice. Hashes instead of texts, to save memory.
    ids: HashSet<u64>,
    /// By the label set of the gauge.
    by_algorithm: BTreeMap<Box<str>, i64>,
    /// When the oldest lease began, in milliseconds of lease time.
    oldest_start_millis: Option<f64>,
    /// When the first lease to expire does, in milliseconds of lease time.
    first_expiry_millis: Option<f64>,
}

impl OpenLeases {
    /// Reads the sorted set of open leases. `executions` are the keys of
    /// [`EXECUTIONS`].
    pub(crate) async fn read(
        scanner: &Scanner,
        prefix: &str,
        executions: &[String],
        errors: &mut DecodeErrors,
    ) -> Result<Option<Self>, Failure> {
        let key = leases_key(prefix);
        let mut leases = Self::default();
        let hasher = RandomState::new();
        let scan = scanner.scan("ZSCAN", &key, |page| {
            for (member, score) in page {
                if leases.ids.len() >= MAX_LEASES {
                    errors.add(LEASES, reason::TOO_MANY, || {
                        format!("more than {MAX_LEASES} open leases")
                    });
                    return ControlFlow::Break(());
                }
                leases.push(&hasher, member, score, executions, errors);
            }
            ControlFlow::Continue(())
        });
        let scan = scan.await;
        Ok(skip_unreadable(scan, LEASES, &key, errors)?.map(|()| leases))
    }

    fn push(
        &mut self,
        hasher: &RandomState,
        member: &[u8],
        score: &[u8],
        executions: &[String],
        errors: &mut DecodeErrors,
    ) {
        let Some((lease, expiry, algorithm)) = decode(member, score, executions) else {
            errors.add(LEASES, reason::LEASE, || {
                format!(
                    "member {:?}, score {:?}: not a lease",
                    String::from_utf8_lossy(member),
                    String::from_utf8_lossy(score)
                )
            });
            return;
        };
        // A float is exact for milliseconds until the year 287,396.
        let start = expiry - lease.millis as f64;
        if self.ids.insert(hasher.hash_one(&lease.id)) {
            if let Some(algorithm) = algorithm {
                *self.by_algorithm.entry(algorithm).or_default() += 1;
            }
            let oldest = self.oldest_start_millis.get_or_insert(start);
            *oldest = oldest.min(start);
            let first = self.first_expiry_millis.get_or_insert(expiry);
            *first = first.min(expiry);
        }
    }

    /// The age of the oldest open lease; 0 if none is open.
    pub(crate) fn oldest_age_seconds(&self, lease_time_millis: i64) -> f64 {
        self.oldest_start_millis.map_or(0.0, |start| {
            ((lease_time_millis as f64 - start) / 1000.0).max(0.0)
        })
    }

    /// The time since the first lease to expire did; 0 if none has expired.
    pub(crate) fn overdue_seconds(&self, lease_time_millis: i64) -> f64 {
        self.first_expiry_millis.map_or(0.0, |expiry| {
            ((lease_time_millis as f64 - expiry) / 1000.0).max(0.0)
        })
    }

    /// The gauge of executions in flight, by algorithm. It is 0 for an algorithm that
    /// has executions in `families` but no open lease. None without algorithms: the
    /// requests of a metered app are no executions.
    pub(crate) fn in_flight(&self, families: &[FamilySeries]) -> Option<FamilySeries> {
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
            help: "Executions that have started under a lease and are not counted yet.".into(),
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

/// A lease, when it expires, and its algorithm if it is one's.
type Decoded = (Lease, f64, Option<Box<str>>);

fn decode(member: &[u8], score: &[u8], executions: &[String]) -> Option<Decoded> {
    if member.len() > MAX_LEASE_BYTES {
        return None;
    }
    let lease = Lease::decode(std::str::from_utf8(member).ok()?).ok()?;
    let score: f64 = std::str::from_utf8(score).ok()?.parse().ok()?;
    if lease.count.len() > MAX_LEASE_CELLS {
        return None;
    }
    let algorithm: Option<Box<str>> = algorithm(&lease, executions).map(Into::into);
    let is_valid = match &algorithm {
        Some(algorithm) => algorithm.len() <= MAX_ALGORITHM_BYTES,
        // The lease of a request that is no execution.
        None => !lease.count.iter().any(|(key, _)| executions.contains(key)),
    };
    (is_valid && score.is_finite()).then_some((lease, score, algorithm))
}

/// The label of the algorithm that a lease belongs to: from its cell in one of the
/// keys `executions`. If it has none there (a lease under another prefix), from the
/// first cell with that label.
pub(crate) fn algorithm<'a>(lease: &'a Lease, executions: &[String]) -> Option<&'a str> {
    let in_executions = |key: &String| executions.contains(key);
    let first = lease.count.iter().filter(|(key, _)| in_executions(key));
    let then = lease.count.iter().filter(|(key, _)| !in_executions(key));
    first
        .chain(then)
        .filter(|(_, field)| check_labels(field).is_ok())
        .find_map(|(_, field)| label(field, ALGORITHM))
}

/// Settles expired leases. A failure never fails a scrape: it is counted, and logged
/// when it starts.
pub(crate) struct Settler {
    options: ReadOptions,
    metrics: Arc<SelfMetrics>,
    // A std Mutex: it is never held across an await.
    log: Mutex<Log>,
}

#[derive(Default)]
struct Log {
    failing: Option<Reason>,
    dropped: HashSet<String>,
    refused: HashSet<String>,
}

/// Returns true if a text is new and there is room for it. Every refused count is in the metric.
fn is_logged(logged: &mut HashSet<String>, text: &str) -> bool {
    logged.len() < MAX_LOGGED && logged.insert(text.to_owned())
}

/// Adds texts that are new, up to as many as are logged.
fn add_texts(texts: &mut Vec<String>, more: Vec<String>) {
    for text in more {
        if texts.len() < MAX_LOGGED && !texts.contains(&text) {
            texts.push(text);
        }
    }
}

impl Settler {
    pub(crate) fn new(options: ReadOptions, metrics: Arc<SelfMetrics>) -> Self {
        Self {
            options,
            metrics,
            log: Mutex::default(),
        }
    }

    /// Settles expired leases, between scrapes.
    pub(crate) async fn settle_alone(&self, redis: &RedisClient) {
        let mut settler = self;
        let settled = redis.run(
            self.options.timeout,
            &mut settler,
            |settler, mut connection| {
                Box::pin(async move {
                    match settler.call_script(&mut connection).await {
                        // The connection may be broken, unlike after an error reply; or the keys
                        // are on another node.
                        Err(failure) if failure.code().is_none_or(|code| code == "MOVED") => {
                            Err(failure)
                        }
                        settled => Ok(settled),
                    }
                })
            },
        );
        let settled = settled.await.flatten();
        self.log(&settled);
    }

    /// Settles expired leases. Returns the lease time in milliseconds, or None on
    /// failure.
    pub(crate) async fn settle(&self, connection: &mut Connection) -> Option<i64> {
        let settled = self.call_script(connection).await;
        self.log(&settled);
        settled.ok().map(|settled| settled.lease_time_millis)
    }

    /// Calls the script until all expired leases are settled, [`MAX_CALLS`] times at
    /// most. Each call that does not settle what it looked at returns the keys that it
    /// was not given, and the next one has them. So leases of families that are not
    /// served, or no longer registered, are settled as well, and none is in the way of
    /// those behind it.
    async fn call_script(&self, connection: &mut Connection) -> Result<SettleReply, Failure> {
        let prefix = &self.options.prefix;
        let (mut metric_keys, mut foreign_keys) = <(BTreeSet<String>, BTreeSet<String>)>::default();
        let (mut leases, mut dropped, mut refused) = (0, Vec::new(), Vec::new());
        let mut calls_left = MAX_CALLS;
        loop {
            let call = settle_call(
                prefix,
                redis_client::random(),
                0,
                metric_keys.iter().map(String::as_str),
                foreign_keys.iter().map(String::as_str),
            );
            let reply = connection.call(&Script::SETTLE, &call).await?;
            let settled = SettleReply::decode(reply)
                .map_err(|error| Failure::new(Reason::Server, error.to_string()))?;
            calls_left -= 1;
            leases += settled.leases;
            add_texts(&mut dropped, settled.dropped);
            // At once, because a later call may fail, and these leases are closed.
            self.metrics.count_refused(settled.refused_counts);
            add_texts(&mut refused, settled.refused);
            let is_done = settled.unknown_keys.is_empty() && settled.next_skip.is_none();
            if is_done || calls_left == 0 {
                return Ok(SettleReply {
                    leases,
                    dropped,
                    refused,
                    ..settled
                });
            }
            if settled.unknown_keys.is_empty() && metric_keys.len() + foreign_keys.len() > MAX_KEYS
            {
                metric_keys.clear();
                foreign_keys.clear();
            }
            // The service counts in no other keys. One that this Redis user may not
            // write, or in another slot of a cluster, would make Redis refuse the call.
            let (metric, foreign): (Vec<_>, Vec<_>) = settled
                .unknown_keys
                .into_iter()
                .partition(|key| key.starts_with(prefix) && !is_own_key(prefix, key));
            metric_keys.extend(metric);
            foreign_keys.extend(foreign);
        }
    }

    fn log(&self, settled: &Result<SettleReply, Failure>) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        match settled {
            Ok(settled) => {
                if log.failing.take().is_some() {
                    tracing::info!("leases are settled again");
                }
                if settled.leases > 0 {
                    tracing::debug!(leases = settled.leases, "settled expired leases");
                }
                for text in &settled.dropped {
                    if is_logged(&mut log.dropped, text) {
                        tracing::error!("expired lease removed without being counted: {text}");
                    }
                }
                for text in &settled.refused {
                    if is_logged(&mut log.refused, text) {
                        tracing::error!("count of a settled lease refused: {text}");
                    }
                }
            }
            Err(failure) => {
                self.metrics.count_settle_failure(failure.reason);
                if log.failing.replace(failure.reason) != Some(failure.reason) {
                    tracing::warn!(
                        reason = failure.reason.label(),
                        "expired leases cannot be settled: {failure}"
                    );
                }
            }
        }
    }
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
        let mut errors = DecodeErrors::default();
        let hasher = RandomState::new();
        for (member, score) in members {
            let keys = ["m:e".to_owned()];
            let (member, score) = (member.as_bytes(), score.as_bytes());
            leases.push(&hasher, member, score, &keys, &mut errors);
        }
        errors.counts().map(|(_, _, count)| count).sum()
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
        let many = lease("6", &[("m:e", "algorithm=\"a\""); MAX_LEASE_CELLS + 1]);
        let members = [
            (many.as_str(), "9000"),
            (&one, "5000"),
            (&two, "7000"),
            (&one, "5000"),
            ("{", "1"),
            (&lease("3", &[("m:e", "status=\"crashed\"")]), "1"),
            (&lease("4", &[("m:e", "algorithm=\"a\"")]), "inf"),
        ];
        assert_eq!(push(&mut leases, &members), 4);
        let gauge = leases.in_flight(&[]).expect("there are algorithms");
        assert_eq!(
            gauge.series,
            Series::Values(vec![
                ("algorithm=\"a\"".into(), 1),
                ("algorithm=\"b\"".into(), 1)
            ])
        );
        // A lease of one second that expires at 5 s began at 4 s.
        assert!((leases.oldest_age_seconds(4500) - 0.5).abs() < 1e-9);
        // One of a request, without an algorithm.
        let metered = lease("5", &[("m:r", "code=\"500\""), ("m:s", "")]);
        assert_eq!(push(&mut leases, &[(&metered, "4000")]), 0);
        assert_eq!(leases.in_flight(&[]), Some(gauge));
        assert!((leases.oldest_age_seconds(4500) - 1.5).abs() < 1e-9);
        assert!(leases.oldest_age_seconds(3000).abs() < 1e-9);
        // The first of them expires at 4 s.
        assert!(leases.overdue_seconds(4000).abs() < 1e-9);
        assert!((leases.overdue_seconds(4500) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn no_lease_has_no_age() {
        assert!(OpenLeases::default().oldest_age_seconds(4500).abs() < 1e-9);
        assert!(OpenLeases::default().overdue_seconds(4500).abs() < 1e-9);
        assert_eq!(OpenLeases::default().in_flight(&[]), None);
    }
}
