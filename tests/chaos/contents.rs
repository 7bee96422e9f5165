//! What a Redis holds: every count, and what keeps it from counting twice. Some faults
//! remove or replace it. What they took away is read from the servers themselves, so
//! that everything else must still be counted exactly.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use functional_scaffold_protocol::lease::Lease;
use functional_scaffold_testkit::redis::RedisServer;
use redis::cmd;

/// Counts by key and field.
pub(crate) type Cells = BTreeMap<(String, String), i64>;

/// The hashes of the families.
const METRIC_KEYS: [&str; 8] = [
    "metrics:request_counter",
    "metrics:request_latency",
    "metrics:algorithm_counter",
    "metrics:algorithm_latency",
    "metrics:unleased_counter",
    "metrics:late_counter",
    "metrics:settled_counter",
    "metrics:flush_counter",
];

/// Reads every key with its contents in one step.
const READ: &str = "
local found = {}
for _, key in ipairs(redis.call('KEYS', 'metrics:*')) do
  local kind = redis.call('TYPE', key).ok
  if kind == 'hash' then
    found[#found + 1] = {key, redis.call('HGETALL', key)}
  elseif kind == 'zset' then
    found[#found + 1] = {key, redis.call('ZRANGE', key, 0, -1)}
  end
end
return found";

#[derive(Debug, Clone, Default)]
pub(crate) struct Contents {
    pub(crate) cells: Cells,
    /// The open leases, with what they count.
    pub(crate) open: BTreeMap<String, Vec<(String, String)>>,
    /// The ids of the closed leases.
    pub(crate) closed: BTreeSet<String>,
    /// The sequence number of the last applied batch, by writer.
    pub(crate) applied: BTreeMap<String, u64>,
    /// The field whose change resets readers, by key of the state: `epoch` without shards,
    /// `wiped` of a shard.
    epochs: BTreeMap<String, String>,
}

/// The key of the state without shards.
const STATE: &str = "metrics:state";

impl Contents {
    /// Reads everything in one step. Works on a replica, and while writes are paused.
    pub(crate) fn read(redis: &RedisServer) -> anyhow::Result<Self> {
        let mut contents = Self::default();
        contents.add_server(redis)?;
        Ok(contents)
    }

    /// Adds what another server of a cluster holds.
    pub(crate) fn add_server(&mut self, redis: &RedisServer) -> anyhow::Result<()> {
        let mut connection = redis.connect()?;
        // A replica in a cluster responds only then. Without a cluster it is an error.
        let _: Result<(), _> = cmd("READONLY").query(&mut connection);
        let mut read = cmd("EVAL_RO");
        let found: Vec<(String, Vec<String>)> = read.arg(READ).arg(0).query(&mut connection)?;
        for (key, words) in found {
            self.add(&key, &words)?;
        }
        Ok(())
    }

    /// Returns true if readers see a counter reset when these replace the contents before.
    /// A shard that lost its data is none: readers keep its counts.
    pub(crate) fn is_reset_of(&self, before: &Self) -> bool {
        let has_new = self.epochs.iter().any(|(key, epoch)| {
            let old = before.epochs.get(key);
            old != Some(epoch)
        });
        let is_gone = before.epochs.contains_key(STATE) && !self.epochs.contains_key(STATE);
        has_new || is_gone
    }

    /// Adds what a key holds. The counts of all shards are added up.
    fn add(&mut self, full_key: &str, words: &[String]) -> anyhow::Result<()> {
        let pairs = words.chunks_exact(2).map(|pair| (&pair[0], &pair[1]));
        let key = without_shard(full_key);
        match key.as_str() {
            "metrics:leases" => {
                for member in words {
                    let lease = Lease::decode(member)?;
                    self.open.insert(lease.id.clone(), counts_of(lease));
                }
            }
            "metrics:closed_leases" => self.closed.extend(words.iter().cloned()),
            STATE => {
                let field = if full_key == STATE { "epoch" } else { "wiped" };
                let mut epoch = pairs.filter(|(name, _)| *name == field);
                let epoch = epoch.next().map(|(_, epoch)| epoch.clone());
                self.epochs
                    .extend(epoch.map(|epoch| (full_key.to_owned(), epoch)));
            }
            _ if key.starts_with("metrics:applied:") => {
                // A writer may be in both hashes of its pair.
                for (writer, sequence) in pairs.filter(|(name, _)| *name != "turn") {
                    let last = self.applied.entry(writer.clone()).or_default();
                    *last = (*last).max(sequence.parse()?);
                }
            }
            _ if METRIC_KEYS.contains(&key.as_str()) => {
                for (field, value) in pairs {
                    let value: i64 = value.parse().with_context(|| format!("{key} {field}"))?;
                    let cell = (key.clone(), field.clone());
                    *self.cells.entry(cell).or_default() += value;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// What a lease counts if it expires, in the keys without shards.
pub(crate) fn counts_of(lease: Lease) -> Vec<(String, String)> {
    let cells = lease.count.into_iter();
    cells
        .map(|(key, field)| (without_shard(&key), field))
        .collect()
}

/// The key as it is without shards: `metrics:{3}:state` as `metrics:state`.
pub(crate) fn without_shard(key: &str) -> String {
    let parts = key.split_once(":{").and_then(|(prefix, rest)| {
        let (_shard, name) = rest.split_once("}:")?;
        Some(format!("{prefix}:{name}"))
    });
    parts.unwrap_or_else(|| key.to_owned())
}

/// The counts that faults took away from Redis.
#[derive(Debug, Clone, Default)]
pub(crate) struct Taken {
    pub(crate) cells: Cells,
    /// The same since readers last began at 0: they still serve it.
    pub(crate) held: Cells,
    /// Leases that were open and are gone: if their executions crash, that is not counted.
    pub(crate) leases: BTreeSet<String>,
    /// Leases that had ended and are open again, with what they will count. Two failovers
    /// can open one twice.
    pub(crate) returned: Vec<(String, Vec<(String, String)>)>,
    /// Leases that had been closed and are forgotten.
    pub(crate) closed: BTreeSet<String>,
}

impl Taken {
    /// Adds what the servers held before a fault, and not after it.
    pub(crate) fn add(&mut self, before: &Contents, after: &Contents) {
        let is_reset = after.is_reset_of(before);
        if is_reset {
            self.held.clear();
        }
        let keys: BTreeSet<_> = before.cells.keys().chain(after.cells.keys()).collect();
        for key in keys {
            let of = |contents: &Contents| contents.cells.get(key).copied().unwrap_or(0);
            let by = of(before) - of(after);
            if by != 0 {
                *self.cells.entry(key.clone()).or_default() += by;
                if !is_reset {
                    *self.held.entry(key.clone()).or_default() += by;
                }
            }
        }
        for id in before
            .open
            .keys()
            .filter(|id| !after.open.contains_key(*id))
        {
            self.leases.insert(id.clone());
            let returned = self.returned.iter().rposition(|(other, _)| other == id);
            returned.map(|index| self.returned.remove(index));
        }
        for (id, count) in &after.open {
            let had_ended = !before.open.contains_key(id) || before.closed.contains(id);
            if had_ended && !after.closed.contains(id) {
                self.returned.push((id.clone(), count.clone()));
            }
        }
        self.closed
            .extend(before.closed.difference(&after.closed).cloned());
    }

    /// The counts if no fault had taken anything away: what Redis holds and what was
    /// taken, without what was counted again therefore.
    pub(crate) fn restore(&self, now: &Contents, again: &Again) -> Cells {
        let mut cells = now.cells.clone();
        for (cell, by) in &self.cells {
            *cells.entry(cell.clone()).or_default() += by;
        }
        for (cell, by) in &again.cells {
            *cells.entry(cell.clone()).or_default() -= by;
        }
        // Each of them is settled by now, unless its batch was applied again or another
        // fault took it. Two faults can take what a batch counted each time.
        let returned = self.returned.iter().map(|(id, count)| (id, count));
        let arrived = again.arrived.iter();
        let arrived = arrived.filter(|(id, _)| !self.leases.contains(*id));
        let open_again = returned.chain(arrived);
        let mut ended_again = again.leases.clone();
        let settled = open_again.filter(|(id, _)| match ended_again.get_mut(*id) {
            Some(times @ 1..) => {
                *times -= 1;
                false
            }
            _ => true,
        });
        for (_, count) in settled {
            for cell in count {
                *cells.entry(cell.clone()).or_default() -= 1;
            }
        }
        cells
    }
}

/// Counts that Redis applied a second time, because a fault had removed the ids that
/// prevent it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Again {
    /// The increments of batches that were applied again.
    pub(crate) cells: Cells,
    /// The leases in these batches, and in how many of them each is.
    pub(crate) leases: BTreeMap<String, usize>,
    /// Leases that arrived after their results, with what they count.
    pub(crate) arrived: BTreeMap<String, Vec<(String, String)>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(field: &str) -> (String, String) {
        ("metrics:a".into(), field.into())
    }

    #[test]
    fn a_shard_is_reset_only_by_a_wipe() {
        let of = |epochs: &[(&str, &str)]| Contents {
            epochs: epochs
                .iter()
                .map(|(key, epoch)| ((*key).to_owned(), (*epoch).to_owned()))
                .collect(),
            ..Contents::default()
        };
        let (one, shard) = (STATE, "metrics:{1}:state");
        for (before, after, is_reset) in [
            (&[(one, "1")][..], &[(one, "1")][..], false),
            (&[(one, "1")], &[(one, "2")], true),
            (&[(one, "1")], &[], true),
            (&[(shard, "1")], &[(shard, "2")], true),
            (&[], &[(shard, "1")], true),
            (&[(shard, "1")], &[], false),
        ] {
            assert_eq!(
                of(after).is_reset_of(&of(before)),
                is_reset,
                "{before:?} {after:?}"
            );
        }
    }

    fn contents(epoch: &str, cells: &[(&str, i64)], open: &[&str]) -> Contents {
        let cells = cells.iter().map(|(field, count)| (cell(field), *count));
        let open = open
            .iter()
            .map(|id| ((*id).to_owned(), vec![cell("crash")]));
        Contents {
            cells: cells.collect(),
            open: open.collect(),
            epochs: [("metrics:state".into(), epoch.into())].into(),
            ..Contents::default()
        }
    }

    #[test]
    fn what_was_taken_and_what_was_counted_again_is_put_right() {
        let mut taken = Taken::default();
        // A failover to a replica that lacks an increment and the end of a lease.
        let master = contents("1", &[("x", 5), ("crash", 1)], &["a/2"]);
        let replica = contents("1", &[("x", 3), ("crash", 1)], &["a/1", "a/3"]);
        taken.add(&master, &replica);
        assert_eq!(taken.leases, ["a/2".to_owned()].into());
        assert_eq!(taken.held, [(cell("x"), 2)].into());
        // The batch was applied again, and so was the crash of a lease that had ended.
        let now = contents("1", &[("x", 6), ("crash", 2)], &[]);
        let again = Again {
            cells: [(cell("x"), 2)].into(),
            leases: [("a/1".to_owned(), 1)].into(),
            ..Again::default()
        };
        let restored = taken.restore(&now, &again);
        assert_eq!(restored, [(cell("x"), 6), (cell("crash"), 1)].into());
        // A wipe takes everything, and readers serve nothing of it.
        taken.add(&now, &contents("2", &[], &[]));
        assert!(taken.held.is_empty());
        let restored = taken.restore(&contents("2", &[], &[]), &again);
        assert_eq!(restored, [(cell("x"), 6), (cell("crash"), 1)].into());
    }

    #[test]
    fn shards_are_added_up() -> anyhow::Result<()> {
        const LEASE: &str =
            r#"{"id":"a/1","millis":1,"count":[["metrics:{1}:settled_counter","x"]]}"#;
        let mut contents = Contents::default();
        for (key, words) in [
            ("metrics:{0}:request_counter", &["x", "3"][..]),
            ("metrics:{1}:request_counter", &["x", "4"]),
            ("metrics:{1}:state", &["wiped", "e"]),
            ("metrics:{0}:state", &["epoch", "f"]),
            ("metrics:{1}:leases", &[LEASE]),
        ] {
            let words: Vec<_> = words.iter().map(|&word| word.to_owned()).collect();
            contents.add(key, &words)?;
        }
        // What a lease will count is counted with what others count.
        let count = [("metrics:settled_counter".to_owned(), "x".to_owned())];
        assert_eq!(contents.open, [("a/1".to_owned(), count.to_vec())].into());
        let cell = ("metrics:request_counter".into(), "x".into());
        assert_eq!(contents.cells, [(cell, 7)].into());
        let epochs = [("metrics:{1}:state".to_owned(), "e".to_owned())];
        assert_eq!(contents.epochs, epochs.into());
        Ok(())
    }

    #[test]
    fn a_lease_that_had_ended_counts_a_crash_only_if_redis_forgot_that() {
        let before = |open: &[&str]| Contents {
            closed: ["a/1".to_owned(), "a/2".to_owned()].into(),
            ..contents("1", &[], open)
        };
        let after = |closed: &[&str]| Contents {
            closed: closed.iter().map(|id| (*id).to_owned()).collect(),
            ..contents("1", &[], &["a/1"])
        };
        for (open, closed, count) in [
            // It was open because it had arrived after its result.
            (&["a/1"][..], &["a/1"][..], 0),
            (&["a/1"], &[], 1),
            // It has been settled on the master, not on the replica.
            (&[], &["a/1"], 0),
            (&[], &[], 1),
        ] {
            let mut taken = Taken::default();
            taken.add(&before(open), &after(closed));
            assert_eq!(taken.returned.len(), count, "{open:?} {closed:?}");
        }
        // It returns, is settled, returns again, and is settled again.
        let mut taken = Taken::default();
        taken.add(&before(&[]), &after(&[]));
        let settled = Contents {
            cells: [(cell("crash"), 1)].into(),
            ..before(&[])
        };
        taken.add(&settled, &after(&[]));
        let now = contents("1", &[("crash", 1)], &[]);
        let restored = taken.restore(&now, &Again::default());
        assert_eq!(restored, [(cell("crash"), 0)].into());
        // Its batch is applied again after the first return, and lost for good by the second.
        let mut taken = Taken::default();
        let ended = |count| Contents {
            cells: [(cell("x"), count)].into(),
            ..before(&[])
        };
        taken.add(&ended(1), &after(&[]));
        taken.add(&ended(1), &after(&[]));
        let again = Again {
            cells: [(cell("x"), 1)].into(),
            leases: [("a/1".to_owned(), 1)].into(),
            ..Again::default()
        };
        let restored = taken.restore(&now, &again);
        assert_eq!(restored, [(cell("x"), 1), (cell("crash"), 0)].into());
        // It arrives after the fault, and is settled.
        let mut again = Again::default();
        again.arrived.insert("a/2".into(), vec![cell("crash")]);
        let now = contents("1", &[("crash", 1)], &[]);
        let restored = Taken::default().restore(&now, &again);
        assert_eq!(restored, [(cell("crash"), 0)].into());
    }
}
