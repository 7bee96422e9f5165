//! A million requests a second on paper, from what a request costs Redis.

use crate::{load::as_float, report::number};

/// What was measured.
pub(crate) struct Cost {
    /// Requests a batch.
    pub(crate) batch: u64,
    /// Instances at the same time.
    pub(crate) instances: usize,
    /// Requests that an instance takes.
    pub(crate) requests_of_an_instance: u64,
    /// Redis's processor time a request in `relaxed`, in microseconds.
    pub(crate) relaxed_micros: f64,
    /// The same in `exact`.
    pub(crate) exact_micros: f64,
}

const REQUESTS_A_SECOND: f64 = 1e6;
/// How busy a core of Redis may be: it has to catch up after a pause.
const BUSY: f64 = 0.7;
/// For how long a writer is remembered (docs/protocol.md, Batches), and in
/// how many bytes.
const REMEMBERED_SECONDS: f64 = 7200.0;
const BYTES_OF_A_WRITER: f64 = 25.0;

/// What it takes, a paragraph each.
pub(crate) fn on_paper(cost: &Cost) -> Vec<String> {
    let cores = |micros: f64| REQUESTS_A_SECOND * micros / 1e6 / BUSY;
    let shards = |micros: f64| format!("{:.0}", cores(micros).ceil());
    let begun = REQUESTS_A_SECOND / as_float(cost.requests_of_an_instance);
    let remembered = begun * REMEMBERED_SECONDS;
    let capacity = |micros: f64| number(1e6 / micros);
    vec![
        format!(
            "The knee is the one core on which Redis runs scripts: beyond {} requests/s in \
             `relaxed` and {} in `exact`, with batches of {}, calls wait for it. More requests a \
             batch move it further than anything else, as [above](#where-metrics-go).",
            capacity(cost.relaxed_micros),
            capacity(cost.exact_micros),
            cost.batch,
        ),
        format!(
            "**A million requests a second, on paper.** With batches of {batch}, at {instances} \
             instances, a request costs {relaxed} µs of a Redis core in `relaxed` and {exact} µs \
             in `exact`, the connection of its instance included. At {busy} % of it, a million requests a second are {less} \
             Redis processes in `relaxed` and {more} in `exact`. Each {a_life} requests are an \
             instance, so {begun} begin every second; a writer is remembered for two hours in \
             {bytes} bytes, which makes {gigabytes} GB over all shards.",
            batch = cost.batch,
            instances = cost.instances,
            relaxed = number(cost.relaxed_micros),
            exact = number(cost.exact_micros),
            busy = format!("{:.0}", BUSY * 100.0),
            less = shards(cost.relaxed_micros),
            more = shards(cost.exact_micros),
            a_life = cost.requests_of_an_instance,
            begun = number(begun),
            bytes = BYTES_OF_A_WRITER,
            gigabytes = number(remembered * BYTES_OF_A_WRITER / 1e9),
        ),
        "What would be sharded is Redis, by who writes and not by series: counts are added up, \
         so an instance may write all it has to any one Redis, and a lease has to be where the \
         batch is that settles it. Today that is done by deployment: each group of hosts has a \
         `redis_host` of its own, with an exporter beside each Redis, and Prometheus adds them up \
         (`sum without(instance)`: the `max` of the recording rules is for several exporters on \
         *one* Redis, so they have to be changed). What does not exist: an instance that chooses \
         its shard by itself, an exporter that reads several Redis or prefixes and adds them up, \
         and recording rules for shards. A Redis Cluster spreads nothing by itself, since a \
         script touches all keys of a prefix and so they share a slot; and neither the component \
         nor the exporter follows a cluster's redirections, by which several prefixes would find \
         their nodes."
            .to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_those_of_a_million_requests_at_the_load_that_is_allowed() {
        let cost = Cost {
            batch: 4,
            instances: 300,
            requests_of_an_instance: 128,
            relaxed_micros: 7.0,
            exact_micros: 20.9,
        };
        let text = on_paper(&cost).join("\n");
        assert!(text.contains("beyond 142,857 requests/s"), "{text}");
        assert!(text.contains("are 10 Redis"), "{text}");
        assert!(text.contains("and 30 in `exact`"), "{text}");
        assert!(text.contains("7,812 begin"), "{text}");
        assert!(text.contains("1.41 GB"), "{text}");
    }
}
