//! Runs the commands for writing families in docs/protocol.md.

use crate::support::{Exporter, Redis, program, sample};

const PROTOCOL: &str = include_str!("../../../../docs/protocol.md");

/// The code blocks of a language in the section on writing from other programs.
fn blocks(language: &str) -> Vec<&'static str> {
    let (_, section) = PROTOCOL
        .split_once("\n## Writing from other programs\n")
        .expect("the section");
    let section = section.split("\n## ").next().expect("its text");
    let fence = format!("```{language}\n");
    section
        .split(fence.as_str())
        .skip(1)
        .filter_map(|block| Some(block.split_once("\n```")?.0))
        .collect()
}

/// Runs a block on this Redis, whose port the commands do not name.
fn run(redis: &Redis, executable: &'static [&'static str; 1], package: &'static str, block: &str) {
    // redis-cli has no environment variable for the port.
    let function = format!(
        "redis-cli() {{ command redis-cli -p {} \"$@\"; }}\n",
        redis.port()
    );
    let script = match executable {
        ["bash"] => function + "set -e\n" + block,
        _ => block.replace(
            "redis = Redis()",
            &format!("redis = Redis(port={})", redis.port()),
        ),
    };
    let status = program(executable, package).args(["-c", &script]).status();
    assert!(status.expect("it ends").success(), "{script}");
}

#[test]
fn the_documented_commands_make_families_appear() {
    let redis = Redis::start();
    let exporter = Exporter::start(redis.port());
    let (shell, python) = (blocks("sh"), blocks("python"));
    assert_eq!((shell.len(), python.len()), (2, 1));
    for block in shell {
        run(&redis, &["bash"], "bash", block);
    }
    let text = exporter.metrics();
    for (name, value) in [
        ("jobs_total{kind=\"nightly\"}", 1.0),
        (
            "job_duration_seconds_bucket{kind=\"nightly\",le=\"0.1\"}",
            0.0,
        ),
        (
            "job_duration_seconds_bucket{kind=\"nightly\",le=\"1.0\"}",
            1.0,
        ),
        (
            "job_duration_seconds_bucket{kind=\"nightly\",le=\"+Inf\"}",
            1.0,
        ),
        ("job_duration_seconds_count{kind=\"nightly\"}", 1.0),
        ("job_duration_seconds_sum{kind=\"nightly\"}", 0.25),
    ] {
        assert_eq!(sample(&text, name), Some(value), "{name} in\n{text}");
    }
    run(&redis, &["/usr/bin/python3"], "python3", python[0]);
    let text = exporter.metrics();
    let odd = "jobs_total{kind=\"a \\\"b\\\" \\\\ c\"}";
    assert_eq!(sample(&text, odd), Some(3.0), "{text}");
    assert_eq!(sample(&text, "jobs_total{kind=\"nightly\"}"), Some(1.0));
    assert!(
        !text.contains("functional_scaffold_decode_errors{"),
        "{text}"
    );
}
