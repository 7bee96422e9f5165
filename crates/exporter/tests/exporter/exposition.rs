//! Both formats, as other parsers read them, whatever Redis holds.

use std::{
    collections::BTreeMap,
    io::Read as _,
    time::{Duration, Instant, SystemTime},
};

use flate2::read::GzDecoder;

use crate::{
    parsers::{Parser, Sample, check_with_promtool, read},
    support::{
        Exporter, Redis, Response, exporter_command, families_of, instant_query, sample,
        start_prometheus, text, wait_for,
    },
};

const OPEN_METRICS: (&str, &str) = ("accept", "application/openmetrics-text; version=1.0.0");

fn scrape(exporter: &Exporter, headers: &[(&str, &str)]) -> Response {
    let response = exporter.request("GET /metrics", headers);
    assert_eq!(response.status, 200);
    response
}

/// Label values that need escaping, or look like syntax.
fn awkward_values() -> Vec<String> {
    let values = [
        "plain",
        " ",
        " leading and trailing ",
        "\"",
        "\\",
        "\\\\\"\\n",
        "\n",
        "a\nb\r\nc\td",
        "\u{0}\u{1}\u{7f}",
        "é, 漢字, \u{1f980}",
        "\u{202e}right to left",
        "\u{2028}\u{feff}",
        "}",
        "{a=\"b\"} 1",
        " # {a=\"b\"} 1",
        "# EOF",
        ",",
        "a=\"b\",c=\"d\"",
        "x|sum",
        "|+Inf",
        "NaN",
        "+Inf",
    ];
    let long = "long ".repeat(10_000);
    values
        .iter()
        .map(|&value| value.to_owned())
        .chain([long])
        .collect()
}

fn escaped(value: &str) -> String {
    let value = value.replace('\\', "\\\\").replace('"', "\\\"");
    value.replace('\n', "\\n")
}

/// Writes families with awkward labels, bounds and values, and invalid ones among
/// them.
fn write_awkward(redis: &Redis) {
    for (name, json) in [
        (
            "plain_total",
            r#"{"type":"counter","key":"k:plain","help":"A \\ \"quoted\"\nhelp é."}"#,
        ),
        ("no_suffix", r#"{"type":"counter","key":"k:no_suffix"}"#),
        ("clash", r#"{"type":"gauge","key":"k:clash"}"#),
        ("clash_total", r#"{"type":"counter","key":"k:clash_total"}"#),
        ("made_created", r#"{"type":"gauge","key":"k:made"}"#),
        ("made_total", r#"{"type":"counter","key":"k:made_total"}"#),
        (
            "gauge_total",
            r#"{"type":"gauge","key":"k:gauge","scale":1000}"#,
        ),
        ("thirds", r#"{"type":"gauge","key":"k:thirds","scale":3}"#),
        (
            "size_bytes_total",
            r#"{"type":"counter","key":"k:size","unit":"bytes"}"#,
        ),
        (
            "other_unit",
            r#"{"type":"gauge","key":"k:other","unit":"seconds"}"#,
        ),
        (
            "time_seconds",
            r#"{"type":"histogram","key":"k:time","unit":"seconds","bounds":[0.00005,0.5,1,1000000],"scale":1000000000}"#,
        ),
        (
            "below_zero",
            r#"{"type":"histogram","key":"k:below","bounds":[-1,0,1]}"#,
        ),
        (
            "shrunk",
            r#"{"type":"histogram","key":"k:shrunk","bounds":[1]}"#,
        ),
        (
            "split",
            r#"{"type":"histogram","key":"k:split","bounds":[1,2]}"#,
        ),
        (
            "split@2",
            r#"{"type":"histogram","key":"k:split@2","bounds":[3]}"#,
        ),
        (
            "empty",
            r#"{"type":"histogram","key":"k:empty","bounds":[1]}"#,
        ),
        // Not served.
        ("_total", r#"{"type":"counter","key":"k:plain2"}"#),
        ("0digit", r#"{"type":"counter","key":"k:plain2"}"#),
        ("with space", r#"{"type":"counter","key":"k:plain2"}"#),
        ("with\nline", r#"{"type":"counter","key":"k:plain2"}"#),
        ("é", r#"{"type":"counter","key":"k:plain2"}"#),
        (
            "time_seconds_count",
            r#"{"type":"counter","key":"k:plain2"}"#,
        ),
        (
            "time_seconds_created",
            r#"{"type":"gauge","key":"k:plain2"}"#,
        ),
        (
            "functional_scaffold_redis_up",
            r#"{"type":"gauge","key":"k:plain2"}"#,
        ),
        ("summary", r#"{"type":"summary","key":"k:plain2"}"#),
    ] {
        redis.cli(&["HSET", "metrics:families", name, json]);
    }
    let mut cells = Vec::new();
    for value in awkward_values() {
        let label = format!("v=\"{}\"", escaped(&value));
        for key in ["k:plain", "k:no_suffix", "k:thirds", "k:size"] {
            cells.push((key, label.clone(), "7"));
        }
        for (suffix, count) in [("|0.5", "2"), ("|+Inf", "1"), ("|sum", "1500000001")] {
            cells.push(("k:time", format!("{label}{suffix}"), count));
        }
    }
    redis.set_cells(&cells);
    for (key, cells) in [
        ("k:clash", &["", "2"][..]),
        ("k:clash_total", &["", "3"]),
        ("k:made", &["", "4"]),
        ("k:made_total", &["", "9223372036854775807"]),
        ("k:gauge", &["", "-9223372036854775808"]),
        ("k:other", &["x=\"1\"", "5"]),
        ("k:below", &["|-1", "1", "|1", "2", "|sum", "-3"]),
        ("k:shrunk", &["|1", "1", "|sum", "-1"]),
        ("k:split", &["|1", "1", "|+Inf", "2", "|sum", "9"]),
        ("k:split@2", &["|3", "4", "|sum", "8"]),
        // Not served: one cell each.
        (
            "k:plain",
            &[
                "le=\"1\"",
                "1",
                "__name__=\"x\"",
                "1",
                "9=\"x\"",
                "1",
                "é=\"x\"",
                "1",
                "a=\"\"",
                "1",
                "b=\"1\",a=\"1\"",
                "1",
                "a=\"1\",a=\"2\"",
                "1",
                "a=\"\\t\"",
                "1",
                "a=1",
                "1",
                "a",
                "1",
                "nan=\"1\"",
                "NaN",
                "inf=\"1\"",
                "+Inf",
                "float=\"1\"",
                "1.5",
                "minus=\"1\"",
                "-1",
                "big=\"1\"",
                "9223372036854775808",
                "empty=\"1\"",
                "",
            ],
        ),
        (
            "k:time",
            &["|0.7", "1", "le=\"1\"|0.5", "1", "x=\"1\"", "1"],
        ),
    ] {
        redis.cli(&[&["HSET", key], cells].concat());
    }
}

/// The decode errors of [`write_awkward`].
const REFUSED: [(&str, f64); 10] = [
    ("family=\"plain_total\",reason=\"labels\"", 10.0),
    ("family=\"plain_total\",reason=\"value\"", 6.0),
    ("family=\"time_seconds\",reason=\"bucket\"", 2.0),
    ("family=\"time_seconds\",reason=\"labels\"", 1.0),
    (
        "family=\"time_seconds_count\",reason=\"name_collision\"",
        1.0,
    ),
    (
        "family=\"time_seconds_created\",reason=\"name_collision\"",
        1.0,
    ),
    (
        "family=\"functional_scaffold_redis_up\",reason=\"name_collision\"",
        1.0,
    ),
    ("family=\"summary\",reason=\"registration\"", 1.0),
    ("family=\"_total\",reason=\"registration\"", 1.0),
    ("family=\"(invalid name)\",reason=\"registration\"", 4.0),
];

fn value_of(samples: &[Sample], name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let labels: BTreeMap<String, String> = labels
        .iter()
        .map(|&(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let found = samples
        .iter()
        .find(|(of, set, _)| of == name && *set == labels);
    found.map(|&(_, _, value)| value)
}

#[test]
fn awkward_families_and_labels_are_read_back() {
    let redis = Redis::start();
    write_awkward(&redis);
    let exporter = Exporter::start(redis.port());
    let open_metrics = text(&scrape(&exporter, &[OPEN_METRICS]));
    let text = text(&scrape(&exporter, &[]));
    check_with_promtool(&text);
    for (parser, exposition) in [(Parser::Text, &text), (Parser::OpenMetrics, &open_metrics)] {
        let samples = read(parser, exposition);
        for value in awkward_values() {
            let label = ("v", value.as_str());
            let get = |name, more: &[_]| value_of(&samples, name, &[&[label], more].concat());
            assert_eq!(get("plain_total", &[]), Some(7.0), "{parser:?} {value:?}");
            assert_eq!(get("time_seconds_count", &[]), Some(3.0), "{value:?}");
            assert_eq!(get("time_seconds_sum", &[]), Some(1.500_000_001));
            for (le, count) in [
                ("5e-05", 0.0),
                ("0.5", 2.0),
                ("1.0", 2.0),
                ("1e+06", 2.0),
                ("+Inf", 3.0),
            ] {
                let bucket = get("time_seconds_bucket", &[("le", le)]);
                assert_eq!(bucket, Some(count), "{parser:?} {value:?} {le}");
            }
        }
        for (name, value) in [
            ("clash", 2.0),
            ("clash_total", 3.0),
            ("made_created", 4.0),
            ("made_total", 9_223_372_036_854_775_807.0),
            ("gauge_total", -9_223_372_036_854_775.808),
            ("split_count", 7.0),
            ("split_sum", 17.0),
        ] {
            assert_eq!(
                value_of(&samples, name, &[]),
                Some(value),
                "{parser:?} {name}"
            );
        }
        let inf = value_of(&samples, "below_zero_bucket", &[("le", "+Inf")]);
        assert_eq!(inf, Some(3.0));
        assert!(exposition.contains("# TYPE empty histogram\n"));
    }
    for (labels, count) in REFUSED {
        let name = format!("functional_scaffold_decode_errors{{{labels}}}");
        assert_eq!(sample(&text, &name), Some(count), "{name}");
    }
    assert_eq!(
        text.matches("functional_scaffold_decode_errors{").count(),
        REFUSED.len()
    );
}

#[test]
fn a_real_prometheus_takes_awkward_families() {
    let redis = Redis::start();
    write_awkward(&redis);
    let exporter = Exporter::start(redis.port());
    let prometheus = start_prometheus(&[exporter.address()], "scheme: http");
    wait_for("scrape", || {
        instant_query(&prometheus, "up").filter(|&up| up > 0.0)
    });
    let values = awkward_values().len();
    for (query, value) in [
        ("count(plain_total)", values as f64),
        ("count(no_suffix)", values as f64),
        ("sum(plain_total{v='a\\nb\\r\\nc\\td'})", 7.0),
        ("sum(time_seconds_bucket{v='NaN',le='1.0'})", 2.0),
        ("split_sum", 17.0),
        ("functional_scaffold_redis_up", 1.0),
    ] {
        assert_eq!(instant_query(&prometheus, query), Some(value), "{query}");
    }
    // It requests OpenMetrics, which has no sums that may shrink.
    assert_eq!(instant_query(&prometheus, "below_zero_sum"), None);
}

#[test]
fn series_are_the_same_in_both_formats() {
    let redis = Redis::start();
    write_awkward(&redis);
    let exporter = Exporter::start(redis.port());
    let samples = |response: Response| -> Vec<String> {
        families_of(&text(&response))
            .lines()
            .filter(|line| !line.starts_with('#'))
            // OpenMetrics has no sums that may shrink.
            .filter(|line| !(line.starts_with("below_zero") || line.starts_with("shrunk")))
            // Only OpenMetrics has the times at which series began.
            .filter(|line| line.starts_with("made_created") || !line.contains("_created"))
            .map(str::to_owned)
            .collect()
    };
    let plain = samples(scrape(&exporter, &[]));
    let open_metrics = samples(scrape(&exporter, &[OPEN_METRICS]));
    assert!(plain.len() > 150, "{}", plain.len());
    assert_eq!(plain, open_metrics);
}

#[test]
fn open_metrics_is_what_the_specification_says() {
    let redis = Redis::start();
    for (name, json) in [
        (
            "jobs_total",
            r#"{"type":"counter","key":"k:j","help":"Jobs \"done\"."}"#,
        ),
        (
            "sent_bytes_total",
            r#"{"type":"counter","key":"k:s","unit":"bytes"}"#,
        ),
        ("odd", r#"{"type":"counter","key":"k:o"}"#),
    ] {
        redis.cli(&["HSET", "metrics:families", name, json]);
    }
    redis.cli(&["HSET", "k:j", "", "1"]);
    redis.cli(&["HSET", "k:o", "", "2"]);
    let exporter = Exporter::start(redis.port());
    let response = scrape(&exporter, &[OPEN_METRICS]);
    assert_eq!(
        response.header("content-type"),
        Some("application/openmetrics-text; version=1.0.0; charset=utf-8")
    );
    let text = text(&response);
    let created = text.lines().find(|line| line.starts_with("jobs_created "));
    let created = created.expect("the time at which it began");
    assert_eq!(
        families_of(&text).replace(&format!("{created}\n"), ""),
        "# HELP jobs Jobs \\\"done\\\".\n# TYPE jobs counter\njobs_total 1\n\
         # TYPE odd unknown\nodd 2\n\
         # TYPE sent_bytes counter\n# UNIT sent_bytes bytes\n# EOF\n"
    );
    assert!(text.contains("# UNIT functional_scaffold_scrape_duration_seconds seconds\n"));
    assert!(text.contains("# TYPE functional_scaffold_redis_reads counter\n"));
}

#[test]
fn a_series_that_is_reset_began_later() {
    let redis = Redis::start();
    let json = r#"{"type":"counter","key":"metrics:jobs"}"#;
    redis.cli(&["HSET", "metrics:families", "jobs_total", json]);
    let json = r#"{"type":"histogram","key":"metrics:time","bounds":[1]}"#;
    redis.cli(&["HSET", "metrics:families", "job_seconds", json]);
    let count = || {
        redis.cli(&["HSET", "metrics:jobs", "k=\"a\"", "7", "k=\"b\"", "7"]);
        redis.cli(&["HSET", "metrics:time", "|1", "7", "|sum", "7"]);
    };
    count();
    let command = |arguments: &[&str]| {
        let mut command = exporter_command();
        command.env("REDIS_PORT", redis.port().to_string());
        assert!(command.args(arguments).status().expect("it ends").success());
        count();
    };
    let exporter = Exporter::start(redis.port());
    let names = [
        "jobs_created{k=\"a\"}",
        "jobs_created{k=\"b\"}",
        "job_seconds_created",
    ];
    let began = || {
        let text = text(&scrape(&exporter, &[OPEN_METRICS]));
        names.map(|name| sample(&text, name).expect("a time"))
    };
    let first = began();
    assert_eq!(first, [first[0]; 3]);
    let age = SystemTime::UNIX_EPOCH
        .elapsed()
        .expect("a clock")
        .as_secs_f64()
        - first[0];
    assert!((0.0..60.0).contains(&age), "{age}");
    // Nothing begins anew because Redis loses writes.
    redis.cli(&["DEL", "metrics:jobs"]);
    count();
    assert_eq!(began(), first);
    command(&["series", "remove", "--yes", "jobs_total{k=\"a\"}"]);
    let removed = began();
    assert!(removed[0] > first[0]);
    assert_eq!(removed[1..], first[1..]);
    command(&["wipe", "--yes"]);
    let wiped = began();
    assert!(wiped[0] > removed[0]);
    assert_eq!(wiped, [wiped[0]; 3]);
}

#[test]
fn the_body_is_compressed_on_request() {
    let redis = Redis::start();
    write_awkward(&redis);
    let exporter = Exporter::start(redis.port());
    let compressed = scrape(&exporter, &[("accept-encoding", "gzip")]);
    assert_eq!(compressed.header("content-encoding"), Some("gzip"));
    assert_eq!(compressed.header("vary"), Some("accept, accept-encoding"));
    let length = compressed.body.len().to_string();
    assert_eq!(compressed.header("content-length"), Some(length.as_str()));
    let mut decompressed = String::new();
    GzDecoder::new(&compressed.body[..])
        .read_to_string(&mut decompressed)
        .expect("gzip");
    let plain = scrape(&exporter, &[("accept-encoding", "gzip;q=0")]);
    assert_eq!(plain.header("content-encoding"), None);
    assert!(families_of(&decompressed) == families_of(&text(&plain)));
    assert!(compressed.body.len() * 3 < plain.body.len());
}

#[test]
fn head_has_the_headers_of_get() {
    let redis = Redis::start();
    let exporter = Exporter::start(redis.port());
    for headers in [&[][..], &[OPEN_METRICS], &[("accept-encoding", "gzip")]] {
        let get = scrape(&exporter, headers);
        let head = exporter.request("HEAD /metrics", headers);
        assert_eq!((head.status, head.body.len()), (200, 0));
        assert!(head.header("content-length").is_some(), "{}", head.head);
        for name in ["content-type", "content-encoding", "vary"] {
            assert_eq!(head.header(name), get.header(name), "{name}");
        }
    }
}

#[test]
fn a_scrape_ends_within_its_time_out() {
    let redis = Redis::start();
    // Longer than this test.
    let options = [
        ("REDIS_TIMEOUT_MS", "120000"),
        ("EXPORTER_SCRAPE_TIMEOUT_MS", "120000"),
    ];
    let exporter = Exporter::start_with(redis.port(), &options);
    scrape(&exporter, &[]);
    redis.suspend().expect("it runs");
    let began = Instant::now();
    let hurried = [("x-prometheus-scrape-timeout-seconds", "1.0")];
    let response = scrape(&exporter, &hurried);
    assert!(began.elapsed() >= Duration::from_millis(500));
    let up = |response: &Response| sample(&text(response), "functional_scaffold_redis_up");
    assert_eq!(up(&response), Some(0.0));
    redis.resume().expect("it runs");
    // Redis is back, and a time-out longer than the exporter's changes nothing.
    let patient = [("x-prometheus-scrape-timeout-seconds", "3600")];
    wait_for("Redis", || {
        (up(&scrape(&exporter, &patient)) == Some(1.0)).then_some(())
    });
}
