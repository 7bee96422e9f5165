//! Several stores, which are added up.

use std::{
    process::Output,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use functional_scaffold_protocol::{batch::LoggedBatch, calls::CLOSED, shard::shard_prefix};
use functional_scaffold_testkit::{pushgateway::Pushgateway, redis_cluster::RedisCluster};

use crate::{
    losses::all,
    replay::{KEY, ago, batch, line},
    support::{Exporter, Redis, exporter_command, sample, wait_for},
};

const JOBS: &str = "jobs_total{k=\"a\"}";
const COUNT: &str = "job_seconds_count";
/// The command that removes [`JOBS`], as shards name it while it runs.
const REMOVE: &str = "series remove jobs_total{k=\"a\"}";
const QUEUED: &str = "queued";
const REGRESSIONS: &str = "functional_scaffold_regressions_total";

/// A redis-server for each shard.
struct Shards(Vec<Redis>);

impl Shards {
    /// Starts empty ones.
    fn start(number: usize) -> Self {
        Self((0..number).map(|_| Redis::start()).collect())
    }

    /// Starts some with three families, whose counter is 100, 200, …
    fn with_families(number: usize) -> Self {
        let shards = Self::start(number);
        for shard in 0..number {
            shards.register(shard, &format!("e{shard}"), "[1]");
            let jobs = format!("{}", 100 * (shard + 1));
            shards.hset(shard, "jobs", &["k=\"a\"", &jobs]);
            shards.hset(shard, "time", &["|1", "5", "|+Inf", "2", "|sum", "9"]);
        }
        shards
    }

    /// Begins an epoch, and registers the families, a histogram with these bounds.
    fn register(&self, shard: usize, epoch: &str, bounds: &str) {
        let prefix = prefix(shard);
        let family = |kind: &str, key: &str, more: &str| {
            format!("{{\"type\":\"{kind}\",\"key\":\"{prefix}{key}\"{more}}}")
        };
        let bounds = format!(",\"bounds\":{bounds}");
        self.hset(shard, "state", &["epoch", epoch, "epoch_ms", "1000"]);
        self.hset(
            shard,
            "families",
            &[
                "jobs_total",
                &family("counter", "jobs", ""),
                QUEUED,
                &family("gauge", "queued", ""),
                "job_seconds",
                &family("histogram", "time", &bounds),
            ],
        );
    }

    fn hset(&self, shard: usize, key: &str, pairs: &[&str]) {
        let key = format!("{}{key}", prefix(shard));
        self.0[shard].cli(&[&["HSET", &key], pairs].concat());
    }

    /// Registers counters `<name>1`, `<name>2`, … with a count of 1 each.
    fn invent(&self, shard: usize, name: &str, number: usize) {
        let script = "for i = 1, tonumber(ARGV[3]) do
            local name = ARGV[2] .. i
            local key = ARGV[1] .. name
            redis.call('HSET', ARGV[1] .. 'families', name,
              '{\"type\":\"counter\",\"key\":\"' .. key .. '\"}')
            redis.call('HSET', key, '', 1)
          end";
        let number = number.to_string();
        self.0[shard].cli(&["EVAL", script, "0", &prefix(shard), name, &number]);
    }

    fn hget(&self, shard: usize, key: &str, field: &str) -> String {
        let key = format!("{}{key}", prefix(shard));
        self.0[shard].cli(&["HGET", &key, field]).trim().to_owned()
    }

    /// Counts jobs in a shard.
    fn count(&self, shard: usize, by: &str) {
        let key = format!("{}jobs", prefix(shard));
        self.0[shard].cli(&["HINCRBY", &key, "k=\"a\"", by]);
    }

    fn variables(&self) -> [(&'static str, String); 2] {
        let hosts = self
            .0
            .iter()
            .map(|redis| format!("127.0.0.1:{}", redis.port()));
        [
            ("REDIS_HOST", hosts.collect::<Vec<_>>().join(",")),
            ("METRICS_SHARDS", self.0.len().to_string()),
        ]
    }

    fn exporter(&self) -> Exporter {
        self.exporter_with(None)
    }

    /// Starts an exporter with one more variable.
    fn exporter_with(&self, further: Option<(&str, &str)>) -> Exporter {
        let variables = self.variables();
        let variables = variables
            .each_ref()
            .map(|(name, value)| (*name, value.as_str()));
        let variables: Vec<_> = variables.into_iter().chain(further).collect();
        Exporter::start_with(self.0[0].port(), &variables)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = exporter_command();
        command
            .envs(self.variables())
            .env("REPLAY_KEY", KEY)
            .args(arguments);
        command.output().expect("it runs")
    }

    fn output_of(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {errors}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }
}

fn prefix(shard: usize) -> String {
    shard_prefix("metrics:", u32::try_from(shard).expect("few"))
}

fn served(exporter: &Exporter, names: &[&str]) -> Vec<Option<f64>> {
    let text = exporter.metrics();
    names.iter().map(|name| sample(&text, name)).collect()
}

fn up(shard: usize) -> String {
    format!("functional_scaffold_redis_up{{shard=\"{shard}\"}}")
}

#[test]
fn shards_are_added_up() {
    let shards = Shards::with_families(3);
    // A shard in which another version of the app registered first.
    shards.register(2, "e2", "[0.5,1]");
    shards.hset(2, "time", &["|0.5", "3", "|1", "4"]);
    let exporter = shards.exporter();
    let names = [
        JOBS,
        COUNT,
        "job_seconds_bucket{le=\"1.0\"}",
        "job_seconds_sum",
    ];
    // 5 + 2 in two shards, and 3 + 4 + 2 in the third.
    assert_eq!(served(&exporter, &names), all(&[600.0, 23.0, 17.0, 27.0]));
    assert_eq!(
        served(&exporter, &[&up(0), &up(1), &up(2)]),
        all(&[1.0, 1.0, 1.0])
    );
    let text = exporter.metrics();
    assert!(!text.contains("job_seconds_bucket{le=\"0.5\"}"), "{text}");
    let listed = shards.output_of(&["series", "list", "--families"]);
    assert_eq!(
        listed,
        "job_seconds\thistogram\t1\njobs_total\tcounter\t1\nqueued\tgauge\t0\n"
    );
    // A shard without writers yet has nothing to add.
    shards.0[1].cli(&["FLUSHALL"]);
    assert_eq!(served(&shards.exporter(), &[JOBS]), all(&[400.0]));
}

#[test]
fn a_gauge_is_the_sum_of_its_additions_or_the_value_that_was_set_last() {
    let shards = Shards::with_families(2);
    let exporter = shards.exporter();
    shards.hset(0, "queued", &["", "5"]);
    shards.hset(1, "queued", &["", "-2"]);
    assert_eq!(served(&exporter, &[QUEUED]), all(&[3.0]));
    // By Redis's clock: lease times of shards cannot be compared.
    shards.hset(0, "state", &["shift_ms", "7000"]);
    shards.hset(0, "queued", &["", "40", "|set_ms", "1000"]);
    assert_eq!(served(&exporter, &[QUEUED]), all(&[40.0]));
    shards.hset(1, "queued", &["", "50", "|set_ms", "7500"]);
    assert_eq!(served(&exporter, &[QUEUED]), all(&[40.0]));
    shards.hset(1, "queued", &["", "60", "|set_ms", "8500"]);
    assert_eq!(served(&exporter, &[QUEUED]), all(&[60.0]));
}

#[test]
fn two_exporters_and_a_relay_serve_the_same_through_a_shards_outage() {
    let mut shards = Shards::with_families(4);
    let exporters = [(); 2].map(|()| shards.exporter());
    let pushgateway = Pushgateway::start().expect("Pushgateway starts");
    let to = format!("http://{}", pushgateway.address());
    let push = |shards: &Shards| {
        let relay = shards.run(&["push", "--once", "--to", &to]);
        let page = pushgateway.scrape().expect("a scrape");
        let served = "jobs_total{instance=\"\",job=\"functional_scaffold\",k=\"a\"}";
        (relay.status.success(), sample(&page, served))
    };
    for exporter in &exporters {
        assert_eq!(served(exporter, &[JOBS, COUNT]), all(&[1000.0, 28.0]));
    }
    assert_eq!(push(&shards), (true, Some(1000.0)));
    shards.0[2].cli(&["SAVE"]);
    shards.0[2].kill();
    shards.count(1, "7");
    for exporter in &exporters {
        let names = [JOBS, COUNT, &up(1), &up(2)];
        let expected = [None, None, Some(1.0), Some(0.0)];
        assert_eq!(served(exporter, &names), expected, "never a partial sum");
        let ready = exporter.get("/readyz");
        let text = String::from_utf8_lossy(&ready.body).into_owned();
        assert!(ready.status == 503 && text.contains("shard 2"), "{text}");
    }
    // The last push stays.
    assert_eq!(push(&shards), (false, Some(1000.0)));
    shards.0[2].restart().expect("it restarts");
    for exporter in &exporters {
        let names = [JOBS, COUNT, &up(2), REGRESSIONS];
        assert_eq!(served(exporter, &names), all(&[1007.0, 28.0, 1.0, 0.0]));
    }
    assert_eq!(push(&shards), (true, Some(1007.0)));
}

#[test]
fn a_shard_that_loses_its_data_takes_nothing_from_the_sum() {
    let shards = Shards::with_families(3);
    let [exporter, other] = [(); 2].map(|()| shards.exporter());
    assert_eq!(served(&exporter, &[JOBS, COUNT]), all(&[600.0, 21.0]));
    assert_eq!(served(&other, &[JOBS, COUNT]), all(&[600.0, 21.0]));
    shards.0[1].cli(&["FLUSHALL"]);
    // Nobody has written there since: the exporter begins an epoch, without families.
    assert_eq!(served(&exporter, &[JOBS, COUNT]), all(&[600.0, 21.0]));
    shards.count(0, "1");
    shards.register(1, "another", "[1]");
    shards.count(1, "2");
    assert_eq!(served(&exporter, &[JOBS, COUNT]), all(&[603.0, 21.0]));
    assert_eq!(shards.hget(1, "lost:metrics:{1}:jobs", "k=\"a\""), "200");
    // What was counted before the read is not taken for what was lost.
    shards.0[2].cli(&["FLUSHALL"]);
    shards.register(2, "third", "[1]");
    shards.count(2, "50");
    assert_eq!(served(&other, &[JOBS, COUNT]), all(&[653.0, 21.0]));
    assert_eq!(served(&exporter, &[JOBS, COUNT]), all(&[653.0, 21.0]));
    // One that never saw them.
    assert_eq!(
        served(&shards.exporter(), &[JOBS, COUNT]),
        all(&[653.0, 21.0])
    );
    let log = exporter.stop();
    assert!(
        log.contains("a shard lost its data (epoch e1, now "),
        "{log}"
    );
}

#[test]
fn losses_in_turn_are_the_same_for_every_exporter() {
    let shards = Shards::with_families(2);
    let [first, second] = [(); 2].map(|()| shards.exporter());
    assert_eq!(served(&first, &[JOBS, COUNT]), all(&[300.0, 14.0]));
    assert_eq!(served(&second, &[JOBS, COUNT]), all(&[300.0, 14.0]));
    shards.0[0].cli(&["FLUSHALL"]);
    assert_eq!(served(&first, &[JOBS, COUNT]), all(&[300.0, 14.0]));
    shards.0[1].cli(&["FLUSHALL"]);
    assert_eq!(served(&second, &[JOBS, COUNT]), all(&[300.0, 14.0]));
    for shard in 0..2 {
        shards.register(shard, &format!("f{shard}"), "[1]");
        shards.count(shard, "4");
    }
    for _scrape in 0..2 {
        assert_eq!(served(&first, &[JOBS, COUNT]), all(&[308.0, 14.0]));
        assert_eq!(served(&second, &[JOBS, COUNT]), all(&[308.0, 14.0]));
    }
    assert_eq!(served(&shards.exporter(), &[JOBS]), all(&[308.0]));
}

#[test]
fn data_that_returns_is_not_counted_twice() {
    let mut shards = Shards::with_families(2);
    let exporter = shards.exporter();
    assert_eq!(served(&exporter, &[JOBS]), all(&[300.0]));
    // The state alone is lost.
    shards.0[1].cli(&["DEL", "metrics:{1}:state"]);
    assert_eq!(served(&exporter, &[JOBS, REGRESSIONS]), all(&[300.0, 0.0]));
    // Everything is lost, and returns from a backup.
    shards.0[1].cli(&["SAVE"]);
    shards.0[1].cli(&["FLUSHALL"]);
    assert_eq!(served(&exporter, &[JOBS]), all(&[300.0]));
    shards.register(1, "between", "[1]");
    shards.count(1, "7");
    assert_eq!(served(&exporter, &[JOBS]), all(&[307.0]));
    shards.0[1].kill();
    let snapshot = shards.0[1].folder().join("dump.rdb");
    assert!(snapshot.exists(), "the backup was overwritten");
    shards.0[1].restart().expect("it restarts");
    let jobs = served(&exporter, &[JOBS])[0];
    assert!(jobs >= Some(300.0) && jobs <= Some(307.0), "{jobs:?}");
}

#[test]
fn a_backup_repeats_neither_a_wipe_nor_a_removal() {
    let mut shards = Shards::with_families(2);
    shards.output_of(&["wipe", "--yes"]);
    for (shard, by) in ["100", "200"].into_iter().enumerate() {
        shards.count(shard, "1");
        shards.hset(shard, "jobs", &["k=\"b\"", by]);
    }
    shards.output_of(&["series", "remove", "--yes", JOBS]);
    for (shard, by) in ["100", "200"].into_iter().enumerate() {
        shards.count(shard, by);
    }
    let exporter = shards.exporter();
    let names = [JOBS, "jobs_total{k=\"b\"}", REGRESSIONS];
    assert_eq!(served(&exporter, &names), all(&[300.0, 300.0, 0.0]));
    shards.0[1].cli(&["SAVE"]);
    shards.count(1, "40");
    assert_eq!(served(&exporter, &names), all(&[340.0, 300.0, 0.0]));
    shards.0[1].cli(&["FLUSHALL"]);
    // The exporter begins an epoch.
    assert_eq!(served(&exporter, &names), all(&[340.0, 300.0, 0.0]));
    shards.0[1].kill();
    shards.0[1].restart().expect("it restarts");
    assert_eq!(served(&exporter, &names), all(&[340.0, 300.0, 1.0]));
    shards.count(1, "5");
    assert_eq!(served(&exporter, &names), all(&[345.0, 300.0, 1.0]));
}

#[test]
fn a_wipe_is_seen_although_a_shard_lost_its_data_afterwards() {
    let shards = Shards::with_families(2);
    let exporter = shards.exporter();
    assert_eq!(served(&exporter, &[JOBS]), all(&[300.0]));
    shards.output_of(&["wipe", "--yes"]);
    shards.0[1].cli(&["FLUSHALL"]);
    shards.register(1, "after", "[1]");
    for shard in 0..2 {
        shards.count(shard, "4");
    }
    assert_eq!(served(&exporter, &[JOBS, REGRESSIONS]), all(&[8.0, 0.0]));
}

#[test]
fn a_state_file_of_another_prefix_is_not_continued() {
    let shards = Shards::with_families(2);
    let redis = &shards.0[0];
    let before = r#"{"type":"counter","key":"metrics:jobs"}"#;
    redis.cli(&["HSET", "metrics:state", "epoch", "before"]);
    redis.cli(&["HSET", "metrics:families", "jobs_total", before]);
    redis.cli(&["HSET", "metrics:jobs", "k=\"a\"", "1000"]);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("state").display().to_string();
    let file = ("EXPORTER_STATE_FILE", file.as_str());
    let exporter = Exporter::start_with(redis.port(), &[file]);
    assert_eq!(served(&exporter, &[JOBS]), all(&[1000.0]));
    drop(exporter);
    for variable in [Some(file), None] {
        assert_eq!(
            served(&shards.exporter_with(variable), &[JOBS]),
            all(&[300.0])
        );
    }
}

#[test]
fn after_a_restart_a_shard_that_lost_its_data_counts_from_0() {
    let shards = Shards::with_families(2);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("state").display().to_string();
    let mut exporter = shards.exporter_with(Some(("EXPORTER_STATE_FILE", &file)));
    assert_eq!(served(&exporter, &[JOBS]), all(&[300.0]));
    shards.0[1].cli(&["FLUSHALL"]);
    assert_eq!(served(&exporter, &[JOBS]), all(&[300.0]));
    shards.register(1, "another", "[1]");
    shards.count(1, "30");
    exporter.kill_and_restart();
    assert_eq!(served(&exporter, &[JOBS]), all(&[330.0]));
}

#[test]
fn a_series_that_a_shard_lost_can_be_removed() {
    let shards = Shards::with_families(2);
    let exporter = shards.exporter();
    assert_eq!(served(&exporter, &[JOBS, COUNT]), all(&[300.0, 14.0]));
    shards.0[1].cli(&["FLUSHALL"]);
    assert_eq!(served(&exporter, &[JOBS, COUNT]), all(&[300.0, 14.0]));
    shards.output_of(&["series", "remove", "--yes", JOBS, "job_seconds"]);
    assert_eq!(served(&exporter, &[JOBS, COUNT]), [None, None]);
    shards.register(1, "another", "[1]");
    shards.count(1, "2");
    assert_eq!(served(&exporter, &[JOBS]), all(&[2.0]));
}

#[test]
fn a_family_that_one_shard_cannot_serve_is_not_served() {
    let shards = Shards::with_families(2);
    let exporter = shards.exporter();
    shards.0[1].cli(&["SET", "metrics:{1}:lost:metrics:{1}:jobs", "x"]);
    let error = "functional_scaffold_decode_errors{family=\"jobs_total\",reason=\"wrong_type\"}";
    let names = [JOBS, COUNT, error];
    assert_eq!(served(&exporter, &names), [None, Some(14.0), Some(1.0)]);
    shards.0[1].cli(&["DEL", "metrics:{1}:lost:metrics:{1}:jobs"]);
    // Another type.
    let gauge = "{\"type\":\"gauge\",\"key\":\"metrics:{1}:jobs\"}";
    shards.hset(1, "families", &["jobs_total", gauge]);
    let error = error.replace("wrong_type", "layout");
    assert_eq!(served(&exporter, &[JOBS, &error]), [None, Some(1.0)]);
    // Nor does an exporter without earlier values serve a part of it.
    for registration in ["{", "{\"type\":\"counter\"}"] {
        shards.hset(1, "families", &["jobs_total", registration]);
        assert_eq!(
            served(&shards.exporter(), &[JOBS, COUNT]),
            [None, Some(14.0)]
        );
    }
    shards.0[1].cli(&["DEL", "metrics:{1}:families"]);
    shards.0[1].cli(&["SET", "metrics:{1}:families", "x"]);
    assert_eq!(served(&shards.exporter(), &[JOBS, COUNT]), [None, None]);
    // A cell.
    shards.0[1].cli(&["DEL", "metrics:{1}:families"]);
    shards.register(1, "e1", "[1]");
    shards.hset(1, "time", &["|1", "x"]);
    assert_eq!(
        served(&shards.exporter(), &[JOBS, COUNT]),
        [Some(300.0), None]
    );
}

#[test]
fn registrations_beyond_the_limit_take_down_no_family_that_is_known() {
    const REQUESTS: &str = "http_requests_total";
    const DURATIONS: &str = "http_request_duration_seconds_count";
    const KNOWN: usize = 200;
    let shards = Shards::with_families(2);
    for shard in 0..2 {
        let prefix = prefix(shard);
        let counter = format!("{{\"type\":\"counter\",\"key\":\"{prefix}requests\"}}");
        shards.hset(shard, "families", &[REQUESTS, &counter]);
        shards.hset(shard, "requests", &["", "5"]);
        // Also a layout that this version of the exporter does not know.
        for layout in ["", "@another"] {
            let histogram =
                format!("{{\"type\":\"histogram\",\"key\":\"{prefix}t{layout}\",\"bounds\":[1]}}");
            let field = format!("http_request_duration_seconds{layout}");
            shards.hset(shard, "families", &[&field, &histogram]);
            shards.hset(shard, &format!("t{layout}"), &["|1", "4"]);
        }
        shards.invent(shard, "known_", KNOWN);
    }
    let known: Vec<_> = (1..=KNOWN)
        .map(|number| format!("known_{number}"))
        .collect();
    let known: Vec<_> = known.iter().map(String::as_str).collect();
    let too_many = "functional_scaffold_decode_errors{family=\"(families)\",reason=\"too_many\"}";
    let before = shards.exporter();
    assert_eq!(served(&before, &[REQUESTS, DURATIONS]), all(&[10.0, 16.0]));
    assert_eq!(served(&before, &known), all(&[2.0; KNOWN]));

    // All are looked at, and some are left out, in another order on each server.
    shards.invent(1, "invented_", 2_500);
    for exporter in [&before, &shards.exporter()] {
        let names = [REQUESTS, DURATIONS, too_many];
        assert_eq!(served(exporter, &names), all(&[10.0, 16.0, 1.0]));
        let values = served(exporter, &known);
        assert!(values.contains(&Some(2.0)), "{values:?}");
        assert!(values.contains(&None), "{values:?}");
        let is_whole = |value: &Option<f64>| value.is_none() || *value == Some(2.0);
        assert!(values.iter().all(is_whole), "{values:?}");
    }
    // Some are not looked at, and may be further layouts.
    shards.invent(1, "invented_", 101_000);
    for exporter in [&before, &shards.exporter()] {
        let names = [REQUESTS, DURATIONS, too_many, &up(1)];
        let expected = [None, None, Some(1.0), Some(1.0)];
        assert_eq!(served(exporter, &names), expected);
        assert!(served(exporter, &known).iter().all(Option::is_none));
    }
}

/// More families than there are separate decode errors of.
#[test]
fn invalid_registrations_of_a_shard_take_down_their_own_families_only() {
    let shards = Shards::with_families(2);
    let names: Vec<_> = (1..=150).map(|number| format!("broken_{number}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    shards.invent(0, "broken_", names.len());
    for name in &names {
        shards.hset(1, "families", &[name, "{"]);
    }
    let exporter = shards.exporter();
    let other = "functional_scaffold_decode_errors{family=\"(other)\",reason=\"registration\"}";
    assert_eq!(served(&exporter, &[JOBS, COUNT]), all(&[300.0, 14.0]));
    assert!(served(&exporter, &[other])[0] >= Some(50.0));
    assert!(served(&exporter, &names).iter().all(Option::is_none));
    let text = exporter.metrics();
    assert_eq!(sample(&text, "functional_scaffold_families"), Some(3.0));
}

/// Scrapes while `change` runs, and returns every value of a series.
pub(crate) fn scraped_during(
    exporter: &Exporter,
    series: &str,
    change: impl FnOnce(),
) -> Vec<Option<f64>> {
    let is_done = AtomicBool::new(false);
    thread::scope(|threads| {
        let scraping = threads.spawn(|| {
            let mut values = Vec::new();
            while !is_done.load(Ordering::Relaxed) {
                values.push(served(exporter, &[series])[0]);
            }
            values
        });
        change();
        is_done.store(true, Ordering::Relaxed);
        scraping.join().expect("no panic")
    })
}

#[test]
fn no_scrape_shows_half_of_a_wipe_or_removal() {
    let shards = Shards::with_families(8);
    let exporter = shards.exporter();
    let mut total: f64 = 3600.0;
    for turn in 0..10 {
        let expected = total;
        let values = scraped_during(&exporter, JOBS, || {
            if turn % 2 == 0 {
                shards.output_of(&["wipe", "--yes"]);
            } else {
                shards.output_of(&["series", "remove", "--yes", JOBS]);
            }
        });
        let is_whole = |value: &Option<f64>| value.is_none() || *value == Some(expected);
        assert!(values.iter().all(is_whole), "{expected}: {values:?}");
        total = 0.0;
        for shard in 0..8 {
            shards.count(shard, "3");
            total += 3.0;
        }
        assert_eq!(served(&exporter, &[JOBS, REGRESSIONS]), all(&[total, 0.0]));
    }
}

#[test]
fn a_key_that_another_shard_on_the_same_redis_reserves_is_left_alone() {
    let redis = Redis::start();
    let families = ["metrics:{0}:families", "metrics:{1}:families"];
    for (name, shard, key) in [
        ("jobs_total", 1, "metrics:{1}:jobs"),
        ("odd_total", 0, families[1]),
    ] {
        let json = format!("{{\"type\":\"counter\",\"key\":\"{key}\"}}");
        redis.cli(&["HSET", families[shard], name, &json]);
    }
    for arguments in [
        &["wipe", "--yes"][..],
        &["series", "remove", "--yes", "odd_total"],
    ] {
        let mut command = exporter_command();
        command.env("REDIS_PORT", redis.port().to_string());
        let output = command.env("METRICS_SHARDS", "2").args(arguments).output();
        let output = output.expect("it runs");
        assert!(output.status.success(), "{output:?}");
        assert_eq!(redis.cli(&["HLEN", families[1]]), "1\n", "{arguments:?}");
    }
    assert_eq!(redis.cli(&["HLEN", families[0]]), "0\n");
}

#[test]
fn shards_that_an_interrupted_command_closed_are_not_read_until_it_is_repeated() {
    let shards = Shards::with_families(2);
    let exporter = shards.exporter_with(Some(("EXPORTER_SCRAPE_TIMEOUT_MS", "2000")));
    assert_eq!(served(&exporter, &[JOBS]), all(&[300.0]));
    let failures = "functional_scaffold_redis_read_failures_total{reason=\"closed\"}";
    shards.hset(1, "state", &[CLOSED, REMOVE]);
    assert_eq!(
        served(&exporter, &[JOBS, &up(1), failures]),
        [None, Some(0.0), Some(1.0)]
    );
    let log = exporter.log();
    assert!(
        log.contains("the shards are closed by series remove jobs_total"),
        "{log}"
    );
    // The first attempt had removed it in the first shard.
    shards.output_of(&["series", "remove", "--yes", JOBS]);
    assert_eq!(
        served(&exporter, &[JOBS, COUNT, &up(1)]),
        [None, Some(14.0), Some(1.0)]
    );
    // No other command may open them.
    shards.hset(1, "state", &[CLOSED, "wipe"]);
    let other = shards.run(&["series", "remove", "--yes", "job_seconds"]);
    let errors = String::from_utf8_lossy(&other.stderr).into_owned();
    assert!(
        !other.status.success() && errors.contains("`wipe` was interrupted"),
        "{errors}"
    );
    assert_eq!(served(&exporter, &[COUNT]), [None]);
    shards.0[1].cli(&["HDEL", "metrics:{1}:state", CLOSED]);
    // It had removed everything.
    shards.hset(0, "state", &[CLOSED, REMOVE]);
    shards.output_of(&["series", "remove", "--yes", JOBS]);
    assert_eq!(served(&exporter, &[COUNT]), all(&[14.0]));
    let unknown = shards.run(&["series", "remove", "--yes", JOBS]);
    assert!(!unknown.status.success());
}

#[test]
fn a_command_that_cannot_close_every_shard_changes_nothing() {
    let shards = Shards::with_families(2);
    shards.0[1].cli(&["ACL", "SETUSER", "default", "-hset"]);
    let output = shards.run(&["wipe", "--yes"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success()
            && errors.contains("nothing was changed, but shard 1 may be closed"),
        "{errors}"
    );
    assert_eq!(served(&shards.exporter(), &[JOBS]), all(&[300.0]));
}

#[test]
fn a_further_shard_adds_to_the_counts_of_the_others() {
    let mut shards = Shards::with_families(2);
    let exporter = shards.exporter();
    assert_eq!(served(&exporter, &[JOBS]), all(&[300.0]));
    exporter.stop();
    shards.0.push(Redis::start());
    let exporter = shards.exporter();
    assert_eq!(served(&exporter, &[JOBS]), all(&[300.0]));
    shards.register(2, "e2", "[1]");
    shards.count(2, "5");
    assert_eq!(served(&exporter, &[JOBS, REGRESSIONS]), all(&[305.0, 0.0]));
}

#[test]
fn the_values_that_each_shard_served_last_survive_a_restart() {
    let shards = Shards::with_families(2);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("state").display().to_string();
    let mut exporter = shards.exporter_with(Some(("EXPORTER_STATE_FILE", &file)));
    assert_eq!(served(&exporter, &[JOBS]), all(&[300.0]));
    shards.count(1, "-50");
    exporter.kill_and_restart();
    assert_eq!(served(&exporter, &[JOBS, REGRESSIONS]), all(&[300.0, 1.0]));
}

#[test]
fn a_batch_is_replayed_in_its_shard() {
    let shards = Shards::with_families(2);
    let line_of = |sequence: u64, shard: Option<u32>| {
        let mut batch = batch(sequence, 3);
        batch
            .increments
            .rename_key("metrics:jobs", "metrics:{1}:jobs");
        let logged = LoggedBatch {
            batch,
            group: None,
            shard,
        };
        line(&ago(1), &logged)
    };
    let folder = tempfile::tempdir().expect("a folder");
    let replay = |text: &str| {
        let log = folder.path().join("log");
        std::fs::write(&log, text).expect("written");
        let output = shards.run(&["replay", &log.display().to_string()]);
        let streams = [output.stdout, output.stderr].concat();
        (
            output.status.success(),
            String::from_utf8_lossy(&streams).into_owned(),
        )
    };
    let (is_stored, text) = replay(&line_of(1, Some(1)));
    assert!(is_stored && text.contains("applied: 1"), "{text}");
    assert_eq!(shards.hget(1, "jobs", "k=\"a\""), "203");
    let (_, text) = replay(&line_of(1, Some(1)));
    assert!(text.contains("already applied: 1"), "{text}");
    for (line, why) in [
        // Its keys are not in the shard that it names.
        (line_of(2, Some(0)), "has the key \"metrics:{1}:jobs\""),
        (line_of(3, Some(2)), "its shard is 2"),
        (line_of(4, None), "it names no shard"),
    ] {
        let (is_stored, text) = replay(&line);
        assert!(!is_stored && text.contains(why), "{text}");
        assert!(text.contains("refused: 1"), "{text}");
    }
    assert_eq!(shards.hget(1, "jobs", "k=\"a\""), "203");
}

#[test]
fn shards_in_a_cluster_are_found_through_any_node_and_after_a_failover() {
    const SHARDS: usize = 5;
    let mut cluster = RedisCluster::start(3).expect("a cluster");
    let call = |cluster: &RedisCluster, shard: usize, words: &[&str]| {
        let master = cluster.master_of(&prefix(shard)).expect("one");
        let node = cluster.node(master);
        node.call::<redis::Value>(words).expect("a reply");
        // So that a failover loses nothing.
        let replicas: u64 = node.call(&["WAIT", "1", "5000"]).expect("a reply");
        assert_eq!(replicas, 1);
    };
    for shard in 0..SHARDS {
        let key = |name: &str| format!("{}{name}", prefix(shard));
        let family = format!("{{\"type\":\"counter\",\"key\":\"{}\"}}", key("jobs"));
        let epoch = format!("e{shard}");
        call(&cluster, shard, &["HSET", &key("state"), "epoch", &epoch]);
        call(
            &cluster,
            shard,
            &["HSET", &key("families"), "jobs_total", &family],
        );
        call(&cluster, shard, &["HSET", &key("jobs"), "k=\"a\"", "10"]);
    }
    let killed = cluster.master_of(&prefix(2)).expect("one");
    // A replica, which has no slot.
    let entry = 3 + (killed + 1) % 3;
    let port = cluster.node(entry).port();
    let exporter = Exporter::start_with(port, &[("METRICS_SHARDS", "5")]);
    assert_eq!(served(&exporter, &[JOBS]), all(&[50.0]));
    for to in [0, 1, 2] {
        cluster.move_slot(&prefix(1), to).expect("it moves");
        call(
            &cluster,
            1,
            &["HINCRBY", "metrics:{1}:jobs", "k=\"a\"", "1"],
        );
        let expected = 51.0 + f64::from(u8::try_from(to).expect("small"));
        assert_eq!(
            served(&exporter, &[JOBS, REGRESSIONS]),
            all(&[expected, 0.0])
        );
    }
    cluster.fail_over(&prefix(2)).expect("a failover");
    let whole = wait_for("sum of all shards", || served(&exporter, &[JOBS])[0]);
    assert!((whole - 53.0).abs() < 1e-9, "{whole}");
    assert_eq!(served(&exporter, &[REGRESSIONS]), all(&[0.0]));
    // Commands as well.
    let mut wipe = exporter_command();
    wipe.env("REDIS_PORT", port.to_string())
        .env("METRICS_SHARDS", "5");
    let wiped = wipe.args(["wipe", "--yes"]).output().expect("it runs");
    assert!(
        wiped.status.success(),
        "{}",
        String::from_utf8_lossy(&wiped.stderr)
    );
    assert_eq!(served(&exporter, &[JOBS]), [None]);
}
