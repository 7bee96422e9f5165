//! Scrapes in the normal case.

use std::thread;

use crate::{
    parsers::{self, Parser},
    support::{Exporter, Redis, families_of, pipe, program, sample, text},
};

/// Writes two families with plain commands.
fn write_with_plain_commands(redis: &Redis) {
    let counter = r#"{"type":"counter","help":"Jobs done.","key":"metrics:jobs"}"#;
    let histogram = r#"{"type":"histogram","help":"Time for a job.","unit":"seconds","key":"metrics:job_time","bounds":[0.05,1],"scale":1000}"#;
    redis.cli(&["HSET", "metrics:families", "jobs_total", counter]);
    redis.cli(&["HSET", "metrics:families", "job_seconds", histogram]);
    redis.cli(&["HINCRBY", "metrics:jobs", r#"kind="a \"b\"",ok="1""#, "3"]);
    redis.cli(&["HINCRBY", "metrics:jobs", "", "9007199254740993"]);
    redis.cli(&["HINCRBY", "metrics:job_time", r#"kind="é|x"|0.05"#, "2"]);
    redis.cli(&["HINCRBY", "metrics:job_time", r#"kind="é|x"|+Inf"#, "1"]);
    redis.cli(&["HINCRBY", "metrics:job_time", r#"kind="é|x"|sum"#, "1501"]);
}

const WRITTEN_WITH_PLAIN_COMMANDS: &str = r#"# HELP job_seconds Time for a job.
# TYPE job_seconds histogram
job_seconds_bucket{kind="é|x",le="0.05"} 2
job_seconds_bucket{kind="é|x",le="1.0"} 2
job_seconds_bucket{kind="é|x",le="+Inf"} 3
job_seconds_sum{kind="é|x"} 1.501
job_seconds_count{kind="é|x"} 3
# HELP jobs_total Jobs done.
# TYPE jobs_total counter
jobs_total 9007199254740993
jobs_total{kind="a \"b\"",ok="1"} 3
"#;

#[test]
fn serves_what_was_registered_and_written_with_plain_commands() {
    let redis = Redis::start();
    write_with_plain_commands(&redis);
    let exporter = Exporter::start(redis.port());
    let response = exporter.get("/metrics");
    assert_eq!(
        response.header("content-type"),
        Some("text/plain; version=0.0.4; charset=utf-8")
    );
    assert_eq!(families_of(&text(&response)), WRITTEN_WITH_PLAIN_COMMANDS);
    for (name, value) in [
        ("functional_scaffold_redis_up", 1.0),
        ("functional_scaffold_families", 2.0),
        ("functional_scaffold_series", 3.0),
        ("functional_scaffold_cells", 5.0),
        ("functional_scaffold_redis_reads_total", 1.0),
    ] {
        assert_eq!(sample(&text(&response), name), Some(value), "{name}");
    }
    // New families are served without a restart.
    redis.cli(&["HINCRBY", "metrics:jobs", "", "1"]);
    let gauge = r#"{"type":"gauge","key":"elsewhere"}"#;
    redis.cli(&["HSET", "metrics:families", "queued", gauge]);
    redis.cli(&["HSET", "elsewhere", "", "-4"]);
    let text = exporter.metrics();
    assert_eq!(sample(&text, "jobs_total"), Some(9_007_199_254_740_994.0));
    assert_eq!(sample(&text, "queued"), Some(-4.0));
}

#[test]
fn other_parsers_can_read_it() {
    let redis = Redis::start();
    write_with_plain_commands(&redis);
    // A decode error among the samples.
    redis.cli(&["HSET", "metrics:jobs", "kind", "1"]);
    let exporter = Exporter::start(redis.port());
    for text in [exporter.metrics(), {
        drop(redis);
        exporter.metrics()
    }] {
        let mut promtool = program(&["promtool"], "prometheus");
        promtool.args(["check", "metrics"]);
        let (success, said) = pipe(&text, promtool);
        assert!(success && said.trim().is_empty(), "promtool: {said}");
        let read = parsers::read(Parser::Text, &text);
        let samples = text.lines().filter(|line| !line.starts_with('#')).count();
        assert_eq!(read.len(), samples);
    }
}

#[test]
fn layouts_of_a_family_are_served_as_one() {
    let redis = Redis::start();
    for (field, key, bounds) in [
        ("t_seconds", "metrics:t", "[0.1,1,10]"),
        ("t_seconds@2", "metrics:t@2", "[0.5,1,10]"),
    ] {
        let json = format!(r#"{{"type":"histogram","key":"{key}","bounds":{bounds}}}"#);
        redis.cli(&["HSET", "metrics:families", field, &json]);
    }
    redis.cli(&["HSET", "metrics:t", "|0.1", "1", "|1", "2", "|sum", "3"]);
    redis.cli(&[
        "HSET",
        "metrics:t@2",
        "|0.5",
        "4",
        "|+Inf",
        "8",
        "|sum",
        "90",
    ]);
    let exporter = Exporter::start(redis.port());
    let text = exporter.metrics();
    assert_eq!(
        families_of(&text),
        "# TYPE t_seconds histogram\n\
         t_seconds_bucket{le=\"1.0\"} 7\n\
         t_seconds_bucket{le=\"10.0\"} 7\n\
         t_seconds_bucket{le=\"+Inf\"} 15\n\
         t_seconds_sum 93\n\
         t_seconds_count 15\n"
    );

    // A third layout without a common bound leaves count and sum; one with another
    // scale is refused.
    for (field, json) in [
        (
            "t_seconds@3",
            r#"{"type":"histogram","key":"metrics:t@3","bounds":[7]}"#,
        ),
        (
            "t_seconds@4",
            r#"{"type":"histogram","key":"metrics:t@4","bounds":[1],"scale":9}"#,
        ),
    ] {
        redis.cli(&["HSET", "metrics:families", field, json]);
    }
    redis.cli(&["HSET", "metrics:t@3", "|7", "100", "|sum", "7"]);
    redis.cli(&["HSET", "metrics:t@4", "|1", "1000", "|sum", "1000"]);
    let text = exporter.metrics();
    assert_eq!(
        families_of(&text),
        "# TYPE t_seconds histogram\n\
         t_seconds_bucket{le=\"+Inf\"} 115\n\
         t_seconds_sum 100\n\
         t_seconds_count 115\n"
    );
    let refused = r#"functional_scaffold_decode_errors{family="t_seconds",reason="layout"}"#;
    assert_eq!(sample(&text, refused), Some(1.0));
}

/// Writes a counter with 20,000 series.
fn write_many(redis: &Redis) {
    let json = r#"{"type":"counter","key":"metrics:many"}"#;
    redis.cli(&["HSET", "metrics:families", "many_total", json]);
    let fill = "for i = 1, 20000 do \
        redis.call('HSET', KEYS[1], string.format('n=\"%05d\"', i), i) end";
    redis.cli(&["EVAL", fill, "1", "metrics:many"]);
}

#[test]
fn a_hash_of_many_pages_is_served_whole() {
    let redis = Redis::start();
    write_many(&redis);
    let exporter = Exporter::start_with(redis.port(), &[("EXPORTER_SCAN_COUNT", "100")]);
    let expected: String = ["# TYPE many_total counter\n".to_owned()]
        .into_iter()
        .chain((1..=20_000).map(|n| format!("many_total{{n=\"{n:05}\"}} {n}\n")))
        .collect();
    assert!(families_of(&exporter.metrics()) == expected);
    assert!(redis.count_calls("hscan") > 100);
}

#[test]
fn concurrent_scrapes_share_one_read() {
    let redis = Redis::start();
    write_with_plain_commands(&redis);
    // Pages that are read to settle leases are not counted here.
    let rarely = [("EXPORTER_SETTLE_INTERVAL_MS", "4999")];
    let exporter = Exporter::start_with(redis.port(), &rarely);
    // A read is a page of each of three hashes, and of the lost counts of two.
    exporter.metrics();
    assert_eq!(redis.count_calls("hscan"), 5);
    // Redis delays its replies until all scrapes have arrived.
    redis.cli(&["CLIENT", "PAUSE", "1000", "ALL"]);
    let texts: Vec<String> = thread::scope(|scope| {
        let scrapes: Vec<_> = (0..20)
            .map(|_| scope.spawn(|| exporter.metrics()))
            .collect();
        scrapes
            .into_iter()
            .map(|scrape| scrape.join().expect("a scrape"))
            .collect()
    });
    for text in &texts {
        assert_eq!(families_of(text), WRITTEN_WITH_PLAIN_COMMANDS);
    }
    // The first scrape's read, and one for all that arrived during it.
    let calls = redis.count_calls("hscan") - 5;
    assert!(calls <= 12, "{calls} calls for 20 scrapes");
}

#[test]
fn a_scrape_shows_what_was_written_before_it_arrived() {
    let redis = Redis::start();
    write_with_plain_commands(&redis);
    // With small pages, it is read for long after the other families.
    write_many(&redis);
    let exporter = Exporter::start_with(redis.port(), &[("EXPORTER_SCAN_COUNT", "20")]);
    thread::scope(|scope| {
        // Other scrapes keep a read running nearly all the time.
        let others: Vec<_> = (0..2)
            .map(|_| scope.spawn(|| (0..10).for_each(|_| drop(exporter.metrics()))))
            .collect();
        let mut written = 0.0;
        while others.iter().any(|other| !other.is_finished()) {
            redis.cli(&["HINCRBY", "metrics:jobs", "kind=\"c\"", "1"]);
            written += 1.0;
            assert_eq!(
                sample(&exporter.metrics(), "jobs_total{kind=\"c\"}"),
                Some(written)
            );
        }
    });
}

#[test]
fn has_the_documented_routes_and_no_others() {
    let redis = Redis::start();
    let exporter = Exporter::start(redis.port());
    for (path, status, content) in [
        ("/", 200, "href=\"metrics\""),
        ("/metrics", 200, "functional_scaffold_redis_up 1"),
        ("/healthz", 200, "ok"),
        ("/readyz", 200, "redis: ok\n"),
        ("/metrics/", 404, "not found"),
        ("/nothing", 404, "not found"),
    ] {
        let got = exporter.get(path);
        assert_eq!(got.status, status, "{path}");
        let body = text(&got);
        assert!(body.contains(content), "{path}: {body}");
        let head = exporter.request(&format!("HEAD {path}"), &[]);
        assert_eq!((head.status, head.body.len()), (status, 0), "{path}");
        assert_eq!(head.header("content-type"), got.header("content-type"));
        if status == 200 {
            let post = exporter.request(&format!("POST {path}"), &[]);
            assert_eq!(post.status, 405, "{path}");
            assert_eq!(post.header("allow"), Some("GET,HEAD"), "{path}");
        }
    }
}

#[test]
fn becomes_ready_when_redis_comes_back() {
    let mut redis = Redis::start();
    let exporter = Exporter::start(redis.port());
    assert_eq!(exporter.get("/readyz").status, 200);
    redis.kill();
    let down = exporter.get("/readyz");
    assert_eq!(down.status, 503);
    let down = text(&down);
    assert!(down.starts_with("redis: connection ("), "{down}");
    redis.restart().expect("it restarts");
    assert_eq!(exporter.get("/readyz").status, 200);
    assert_eq!(
        sample(&exporter.metrics(), "functional_scaffold_redis_up"),
        Some(1.0)
    );
}
