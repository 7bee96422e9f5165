//! The commands `series` and `wipe`.

use std::process::Output;

use crate::{
    faults::{eval, start_cluster},
    shards::scraped_during,
    support::{Exporter, Redis, exporter_command, families_of, sample},
};

const REGRESSIONS: &str = "functional_scaffold_regressions_total";

fn run(redis: &Redis, arguments: &[&str]) -> Output {
    run_with(redis, &[], arguments)
}

fn run_with(redis: &Redis, variables: &[(&str, &str)], arguments: &[&str]) -> Output {
    exporter_command()
        .env("REDIS_PORT", redis.port().to_string())
        .envs(variables.iter().copied())
        .args(arguments)
        .output()
        .expect("it runs")
}

/// Its output; it must succeed.
pub(crate) fn output_of(redis: &Redis, arguments: &[&str]) -> String {
    let output = run(redis, arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Its error; it must fail.
fn error_of(redis: &Redis, arguments: &[&str]) -> String {
    let output = run(redis, arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}");
    String::from_utf8(output.stderr).expect("UTF-8")
}

fn redis_with_families() -> Redis {
    let redis = Redis::start();
    for (field, json) in [
        ("jobs_total", r#"{"type":"counter","key":"metrics:jobs"}"#),
        ("queued", r#"{"type":"gauge","key":"elsewhere"}"#),
        (
            "job_seconds",
            r#"{"type":"histogram","key":"metrics:time","bounds":[0.5,1]}"#,
        ),
        (
            "job_seconds@2",
            r#"{"type":"histogram","key":"metrics:time@2","bounds":[1,2]}"#,
        ),
    ] {
        redis.cli(&["HSET", "metrics:families", field, json]);
    }
    let jobs = [
        "a=\"1\",b=\"x, y\"",
        "7",
        "a=\"1\",b=\"}\"",
        "8",
        "a=\"2\"",
        "9",
    ];
    redis.cli(&[&["HSET", "metrics:jobs"], &jobs[..]].concat());
    redis.cli(&["HSET", "elsewhere", "", "5"]);
    let first = [
        "a=\"1\"|0.5",
        "1",
        "a=\"1\"|sum",
        "3",
        "a=\"2\"|1e0",
        "4",
        "a=\"2\"|sum_carry",
        "1",
    ];
    redis.cli(&[&["HSET", "metrics:time"], &first[..]].concat());
    redis.cli(&[
        "HSET",
        "metrics:time@2",
        "a=\"1\"|2",
        "2",
        "a=\"1\"|sum",
        "1",
    ]);
    redis
}

#[test]
fn lists_selected_series() {
    let redis = redis_with_families();
    let all = "job_seconds{a=\"1\"}\njob_seconds{a=\"2\"}\n\
        jobs_total{a=\"1\",b=\"x, y\"}\njobs_total{a=\"1\",b=\"}\"}\njobs_total{a=\"2\"}\n\
        queued{}\n";
    assert_eq!(output_of(&redis, &["series", "list"]), all);
    assert_eq!(
        output_of(
            &redis,
            &[
                "series",
                "list",
                "queued",
                "jobs_total{b=\"x, y\", a=\"1\"}"
            ]
        ),
        "jobs_total{a=\"1\",b=\"x, y\"}\nqueued{}\n"
    );
    assert_eq!(
        output_of(&redis, &["series", "list", "jobs_total{a=\"3\"}"]),
        ""
    );
    assert_eq!(
        output_of(&redis, &["series", "list", "--families"]),
        "job_seconds\thistogram\t2\njobs_total\tcounter\t3\nqueued\tgauge\t1\n"
    );
    assert!(error_of(&redis, &["series", "list", "jobs"]).contains("\"jobs\""));
    // Every line is a selector of its series.
    for line in all.lines() {
        assert_eq!(
            output_of(&redis, &["series", "list", line]),
            format!("{line}\n")
        );
    }
}

#[test]
fn nothing_is_removed_without_confirmation() {
    let redis = redis_with_families();
    let exporter = Exporter::start(redis.port());
    let before = families_of(&exporter.metrics());
    let selector = "jobs_total{a=\"1\"}";
    let series = "jobs_total{a=\"1\",b=\"x, y\"}\njobs_total{a=\"1\",b=\"}\"}\n";
    assert_eq!(
        output_of(&redis, &["series", "remove", "--dry-run", selector]),
        series
    );
    let unsaid = run(&redis, &["series", "remove", selector]);
    assert_eq!(String::from_utf8_lossy(&unsaid.stdout), series);
    assert!(error_of(&redis, &["series", "remove", selector]).contains("--yes"));
    assert!(error_of(&redis, &["wipe"]).contains("--yes"));
    for nothing in ["jobs_total{a=\"3\"}", "no_such", "no_such{}"] {
        // Nor is another selector's series.
        let arguments = ["series", "remove", "--yes", "queued", nothing];
        assert!(error_of(&redis, &arguments).contains("no"), "{nothing}");
    }
    assert_eq!(families_of(&exporter.metrics()), before);
}

#[test]
fn a_removed_series_is_gone_and_starts_at_0_if_it_is_written_again() {
    let redis = redis_with_families();
    let exporter = Exporter::start(redis.port());
    // Another that scrapes later.
    let other = Exporter::start(redis.port());
    exporter.metrics();
    other.metrics();
    let remove = [
        "series",
        "remove",
        "--yes",
        "jobs_total{b=\"}\"}",
        "job_seconds{a=\"2\"}",
    ];
    assert_eq!(
        output_of(&redis, &remove),
        "job_seconds{a=\"2\"}\njobs_total{a=\"1\",b=\"}\"}\n"
    );
    let text = families_of(&exporter.metrics());
    assert!(!text.contains('}') || !text.contains("b=\"}\""), "{text}");
    assert!(!text.contains("job_seconds_count{a=\"2\"}"), "{text}");
    assert_eq!(sample(&text, "jobs_total{a=\"2\"}"), Some(9.0));
    assert_eq!(sample(&text, "job_seconds_count{a=\"1\"}"), Some(3.0));
    assert_eq!(
        redis.cli(&["HEXISTS", "metrics:time", "a=\"2\"|sum_carry"]),
        "0\n"
    );

    redis.cli(&["HINCRBY", "metrics:jobs", "a=\"1\",b=\"}\"", "1"]);
    redis.cli(&["HINCRBY", "metrics:time", "a=\"2\"|0.5", "1"]);
    // The other series do not step back if Redis loses writes.
    redis.cli(&["HINCRBY", "metrics:jobs", "a=\"2\"", "-4"]);
    // The second gets the lost counts of the first.
    for (exporter, regressions) in [(&exporter, 1.0), (&other, 0.0)] {
        let text = exporter.metrics();
        for (name, value) in [
            ("jobs_total{a=\"1\",b=\"}\"}", 1.0),
            ("jobs_total{a=\"2\"}", 9.0),
            ("job_seconds_count{a=\"2\"}", 1.0),
            ("job_seconds_sum{a=\"2\"}", 0.0),
            (REGRESSIONS, regressions),
        ] {
            assert_eq!(sample(&text, name), Some(value), "{name}");
        }
    }
    // It was forgotten once, not at every read: now it has a mark like any other.
    redis.cli(&["HINCRBY", "metrics:jobs", "a=\"1\",b=\"}\"", "-1"]);
    let text = exporter.metrics();
    assert_eq!(sample(&text, "jobs_total{a=\"1\",b=\"}\"}"), Some(1.0));
}

#[test]
fn a_family_is_removed_with_all_its_layouts() {
    let redis = redis_with_families();
    let exporter = Exporter::start(redis.port());
    exporter.metrics();
    assert_eq!(
        output_of(&redis, &["series", "remove", "--yes", "job_seconds"]),
        "job_seconds\n"
    );
    assert!(!exporter.metrics().contains("job_seconds"));
    assert_eq!(
        redis.cli(&["EXISTS", "metrics:time", "metrics:time@2"]),
        "0\n"
    );
    let json = r#"{"type":"histogram","key":"metrics:time","bounds":[0.5,1]}"#;
    redis.cli(&["HSETNX", "metrics:families", "job_seconds", json]);
    redis.cli(&["HINCRBY", "metrics:time", "a=\"1\"|1", "1"]);
    let text = exporter.metrics();
    assert_eq!(sample(&text, "job_seconds_count{a=\"1\"}"), Some(1.0));
    assert_eq!(sample(&text, REGRESSIONS), Some(0.0));
}

#[test]
fn the_series_of_a_family_are_removed_without_its_registration() {
    let redis = redis_with_families();
    let exporter = Exporter::start(redis.port());
    exporter.metrics();
    output_of(&redis, &["series", "remove", "--yes", "jobs_total{}"]);
    let text = exporter.metrics();
    assert!(text.contains("# TYPE jobs_total counter\n") && !text.contains("\njobs_total"));
}

#[test]
fn shared_and_reserved_keys_are_left_alone() {
    let redis = redis_with_families();
    redis.cli(&["SET", "text", "x"]);
    for (field, json) in [
        ("text_total", r#"{"type":"counter","key":"text"}"#),
        ("twin_total", r#"{"type":"counter","key":"metrics:jobs"}"#),
        ("state", r#"{"type":"gauge","key":"metrics:families"}"#),
        ("broken", "{"),
    ] {
        redis.cli(&["HSET", "metrics:families", field, json]);
        output_of(&redis, &["series", "remove", "--yes", field]);
        assert_eq!(
            redis.cli(&["HEXISTS", "metrics:families", field]),
            "0\n",
            "{field}"
        );
    }
    assert_eq!(redis.cli(&["GET", "text"]), "x\n");
    assert_eq!(redis.cli(&["HLEN", "metrics:jobs"]), "3\n");
    assert_eq!(redis.cli(&["HLEN", "metrics:families"]), "4\n");
}

#[test]
fn many_series_are_removed_in_several_calls() {
    let redis = Redis::start();
    let json = r#"{"type":"counter","key":"k"}"#;
    redis.cli(&["HSET", "metrics:families", "many_total", json]);
    let cells: Vec<_> = (0..5000)
        .map(|n| ("k", format!("n=\"{n}\",odd=\"{}\"", n % 2), "1"))
        .collect();
    redis.set_cells(&cells);
    let exporter = Exporter::start(redis.port());
    exporter.metrics();
    output_of(
        &redis,
        &["series", "remove", "--yes", "many_total{odd=\"1\"}"],
    );
    let text = exporter.metrics();
    assert_eq!(sample(&text, "functional_scaffold_series"), Some(2500.0));
    assert!(!text.contains("odd=\"1\""));
    assert_eq!(redis.count_calls("hdel"), 2 * 2500);
}

#[test]
fn a_wipe_resets_counters_and_keeps_registrations_and_leases() {
    let redis = redis_with_families();
    redis.register("a");
    redis.lease("1", "a", 60_000);
    let exporter = Exporter::start(redis.port());
    let other = Exporter::start(redis.port());
    exporter.metrics();
    other.metrics();
    output_of(&redis, &["wipe", "--yes"]);
    redis.cli(&["HINCRBY", "metrics:jobs", "a=\"2\"", "1"]);
    for exporter in [&exporter, &other] {
        let text = exporter.metrics();
        for (name, value) in [
            ("jobs_total{a=\"2\"}", Some(1.0)),
            ("jobs_total{a=\"1\",b=\"}\"}", None),
            ("queued", None),
            ("algorithm_executions_in_flight{algorithm=\"a\"}", Some(1.0)),
            (REGRESSIONS, Some(0.0)),
        ] {
            assert_eq!(sample(&text, name), value, "{name}");
        }
        assert!(text.contains("# TYPE job_seconds histogram\n"));
    }
}

/// Registers counters, and gives each hash a count.
fn redis_with_counters(registrations: &[(&str, &str)]) -> Redis {
    let redis = Redis::start();
    for (field, key) in registrations {
        let json = format!(r#"{{"type":"counter","key":"{key}"}}"#);
        redis.cli(&["HSET", "metrics:families", field, &json]);
        redis.cli(&["HSET", key, "", "7"]);
    }
    redis
}

#[test]
fn a_wipe_includes_families_that_are_not_served() {
    // Served, however many there are.
    const JOBS: &str = "http_requests_total";
    let redis = redis_with_counters(&[
        (JOBS, "metrics:jobs"),
        ("functional_scaffold_redis_up", "metrics:own_name"),
        ("time_count", "metrics:collides"),
        ("job_seconds", "metrics:first"),
    ]);
    for (field, json) in [
        (
            "time",
            r#"{"type":"histogram","key":"metrics:time","bounds":[1]}"#,
        ),
        (
            "job_seconds@2",
            r#"{"type":"gauge","key":"metrics:other_type"}"#,
        ),
        (
            "job_seconds@3",
            r#"{"type":"gauge","key":"metrics:lost_only"}"#,
        ),
    ] {
        redis.cli(&["HSET", "metrics:families", field, json]);
    }
    for key in [
        "metrics:time",
        "metrics:other_type",
        "metrics:lost:metrics:lost_only",
    ] {
        redis.cli(&["HSET", key, "|sum", "7"]);
    }
    // Too many to be served.
    eval(
        &redis,
        r#"for i = 1, 5000 do
          local key = 'metrics:custom:invented_' .. i
          redis.call('HSET', 'metrics:families', 'invented_' .. i,
            '{"type":"counter","key":"' .. key .. '"}')
          redis.call('HSET', key, '', i)
        end"#,
    );
    let exporter = Exporter::start(redis.port());
    let text = exporter.metrics();
    assert!(text.contains("reason=\"too_many\""), "{text}");
    assert_eq!(sample(&text, JOBS), Some(7.0), "{text}");
    // `series remove` knows them all as well.
    for number in (10..5000).step_by(250) {
        let name = format!("invented_{number}");
        output_of(&redis, &["series", "remove", "--yes", &name]);
        let key = format!("metrics:custom:{name}");
        assert_eq!(redis.cli(&["EXISTS", &key]), "0\n", "{name}");
    }
    let values = scraped_during(&exporter, JOBS, || {
        output_of(&redis, &["wipe", "--yes"]);
    });
    let is_whole = |value: &Option<f64>| value.is_none_or(|value| value == 7.0);
    assert!(values.iter().all(is_whole), "{values:?}");
    let keys = redis.cli(&["KEYS", "*"]);
    let mut keys: Vec<_> = keys.lines().collect();
    keys.sort_unstable();
    assert_eq!(keys, ["metrics:families", "metrics:state"]);
    redis.cli(&["HINCRBY", "metrics:jobs", "", "1"]);
    let text = exporter.metrics();
    assert_eq!(sample(&text, JOBS), Some(1.0));
    assert_eq!(sample(&text, REGRESSIONS), Some(0.0));
    assert_eq!(
        redis.cli(&["HEXISTS", "metrics:families", "time_count"]),
        "1\n"
    );
}

#[test]
fn a_wipe_leaves_keys_that_are_not_those_of_families() {
    let reserved = [
        ("a_total", "metrics:applied:0000:0"),
        ("b_total", "metrics:leases"),
        ("c_total", "metrics:registered:1"),
        ("d_total", "metrics:check:hash"),
    ];
    let redis = redis_with_counters(&reserved);
    // Of an invalid registration, and of none.
    redis.cli(&[
        "HSET",
        "metrics:families",
        "broken",
        r#"{"type":"summary","key":"other"}"#,
    ]);
    redis.cli(&["HSET", "other", "", "7"]);
    redis.cli(&["HSET", "metrics:other", "", "7"]);
    output_of(&redis, &["wipe", "--yes"]);
    let reserved = reserved.map(|(_, key)| key);
    for key in reserved.iter().chain(&["other", "metrics:other"]) {
        assert_eq!(redis.cli(&["HGET", key, ""]), "7\n", "{key}");
    }
}

/// No script may name such a key beside those of the store.
#[test]
fn a_family_in_another_slot_of_a_cluster_is_left_alone() {
    const NAME: &str = "batch_jobs_total";
    let [redis] = start_cluster(["0 16383"]);
    for (variable, prefix) in [
        ("METRICS_PREFIX", "{m}:"),
        // Its other shard is empty.
        ("METRICS_SHARDS", "metrics:{1}:"),
    ] {
        let is_sharded = variable == "METRICS_SHARDS";
        let variables = [(variable, if is_sharded { "2" } else { prefix })];
        let run = |arguments: &[&str]| {
            let output = run_with(&redis, &variables, arguments);
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            (output.status.success(), errors)
        };
        let state = format!("{prefix}state");
        redis.cli(&["HSET", &state, "epoch", "e", "epoch_ms", "1000"]);
        // The slot of the last key is the store's, by its hash tag.
        let tagged = format!("x:{}", prefix.trim_start_matches("metrics:"));
        for (name, key) in [
            ("jobs_total", format!("{prefix}jobs")),
            (NAME, "batch:jobs".to_owned()),
            ("tagged_total", tagged.clone()),
        ] {
            let json = format!(r#"{{"type":"counter","key":"{key}"}}"#);
            redis.cli(&["HSET", &format!("{prefix}families"), name, &json]);
            redis.cli(&["HSET", &key, "k=\"a\"", "5"]);
        }
        let exporter = Exporter::start_with(redis.port(), &variables);
        let served = || {
            let text = exporter.metrics();
            ["jobs_total", NAME, "tagged_total"]
                .map(|name| sample(&text, &format!("{name}{{k=\"a\"}}")))
        };
        assert_eq!(served(), [Some(5.0); 3]);
        if is_sharded {
            // A version that did not leave it alone was interrupted.
            redis.cli(&["HSET", &state, "closed", "wipe"]);
        }
        let (is_done, errors) = run(&["wipe", "--yes"]);
        assert!(
            is_done && errors.contains("\"batch:jobs\" is in another slot"),
            "{errors}"
        );
        assert_eq!(served(), [None, Some(5.0), None], "{errors}");
        let (is_done, errors) = run(&["series", "remove", "--yes", "batch_jobs_total{k=\"a\"}"]);
        assert!(
            !is_done && errors.contains("\"batch:jobs\" is in another slot"),
            "{errors}"
        );
        assert_eq!(served(), [None, Some(5.0), None]);
        let (is_done, errors) = run(&["series", "remove", "--yes", NAME]);
        assert!(
            is_done && errors.contains("only the registration is removed"),
            "{errors}"
        );
        assert_eq!(served(), [None; 3], "{errors}");
        assert_eq!(redis.cli(&["HGET", "batch:jobs", "k=\"a\""]), "5\n");
    }
}

#[test]
fn two_exporters_serve_the_same() {
    let redis = redis_with_families();
    let one = Exporter::start(redis.port());
    let two = Exporter::start(redis.port());
    let same = |what: &str| {
        let (one, two) = (families_of(&one.metrics()), families_of(&two.metrics()));
        assert_eq!(one, two, "{what}");
        assert!(one.contains("jobs_total"), "{what}");
    };
    same("as it is");
    for n in 1..=20 {
        redis.cli(&["HINCRBY", "metrics:jobs", "a=\"2\"", "3"]);
        redis.cli(&["HINCRBY", "metrics:time", &format!("a=\"{n}\"|1"), "1"]);
        if n % 3 == 0 {
            // Only one of them reads this state.
            one.metrics();
        }
        same("with later counts");
    }
    redis.cli(&["HSET", "metrics:jobs", "a=\"2\"", "1"]);
    same("after lost writes");
    output_of(
        &redis,
        &["series", "remove", "--yes", "jobs_total{a=\"2\"}"],
    );
    same("after a removal");
    output_of(&redis, &["wipe", "--yes"]);
    redis.cli(&["HINCRBY", "metrics:jobs", "a=\"2\"", "3"]);
    same("after a wipe");
}

#[test]
fn the_permissions_in_the_help_are_sufficient() {
    let redis = redis_with_families();
    let words = |arguments: &[&str], from: &str| -> Vec<String> {
        let help = output_of(&redis, arguments);
        let (_, rest) = help.split_once(from).expect("the help says it");
        rest.split_whitespace()
            .map(|right| right.trim_end_matches('.').to_owned())
            .take_while(|right| right.starts_with(['+', '~', '\\']))
            .collect()
    };
    let serve = words(&["--help"], ">PASSWORD");
    let more = words(&["series", "remove", "--help"], "exporter needs");
    assert!(serve.len() > 10 && more.len() == 7, "{serve:?} {more:?}");
    let mut command = vec!["ACL", "SETUSER", "operator", "on", ">s3cret"];
    command.extend(serve.iter().chain(&more).map(String::as_str));
    redis.cli(&command);
    // This user may not write the key of `queued`, which stays.
    for arguments in [
        &[
            "series",
            "remove",
            "--yes",
            "jobs_total{a=\"2\"}",
            "job_seconds",
        ][..],
        &["wipe", "--yes"],
        &["series", "remove", "--yes", "queued"],
    ] {
        let output = exporter_command()
            .env("REDIS_PORT", redis.port().to_string())
            .envs([("REDIS_USERNAME", "operator"), ("REDIS_PASSWORD", "s3cret")])
            .args(arguments)
            .output()
            .expect("it runs");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {errors}");
    }
    assert_eq!(
        redis.cli(&["EXISTS", "metrics:jobs", "metrics:time"]),
        "0\n"
    );
    assert_eq!(redis.cli(&["HGET", "elsewhere", ""]), "5\n");
    assert_eq!(redis.cli(&["HLEN", "metrics:families"]), "1\n");
}
