//! Removals and wipes of series that exporters remember: in memory, as lost counts in
//! Redis, and in a state file.

use std::thread;

use crate::{
    losses::{add, all, lost_count, redis_with_families, served},
    series::output_of,
    support::{Exporter, Redis},
};

const REGRESSIONS: &str = "functional_scaffold_regressions_total";
const JOBS: &str = "jobs_total{k=\"a\"}";
const REMOVE: [&str; 4] = ["series", "remove", "--yes", JOBS];

fn jobs(exporter: &Exporter) -> Option<f64> {
    served(exporter, &[JOBS])[0]
}

fn count(redis: &Redis, by: &str) {
    add(redis, "metrics:jobs", "k=\"a\"", by);
}

#[test]
fn a_removal_includes_lost_counts() {
    let redis = redis_with_families();
    let exporters = [(); 2].map(|()| Exporter::start(redis.port()));
    let names = [JOBS, "job_seconds_count", "job_seconds_sum"];
    for exporter in &exporters {
        assert_eq!(served(exporter, &names), all(&[100.0, 70.0, 90.0]));
    }
    add(&redis, "metrics:jobs", "k=\"a\"", "-10");
    add(&redis, "metrics:time", "|sum", "-20");
    for exporter in &exporters {
        assert_eq!(served(exporter, &names), all(&[100.0, 70.0, 90.0]));
    }
    assert_eq!(lost_count(&redis, "metrics:jobs", "k=\"a\""), "10");
    output_of(&redis, &REMOVE);
    output_of(&redis, &["series", "remove", "--yes", "job_seconds{}"]);
    assert_eq!(served(&exporters[0], &names), [None; 3]);
    for key in ["jobs", "time"] {
        let key = format!("metrics:lost:metrics:{key}");
        assert_eq!(redis.cli(&["EXISTS", &key]), "0\n", "{key}");
    }
    count(&redis, "1");
    add(&redis, "metrics:time", "|1", "2");
    let third = Exporter::start(redis.port());
    for (exporter, regressions) in exporters.iter().chain([&third]).zip([2.0, 0.0, 0.0]) {
        let names = [&names[..], &[REGRESSIONS]].concat();
        let expected = all(&[1.0, 2.0, 0.0, regressions]);
        assert_eq!(served(exporter, &names), expected);
    }
}

#[test]
fn a_series_that_redis_lost_can_be_removed() {
    let redis = redis_with_families();
    let exporters = [(); 2].map(|()| Exporter::start(redis.port()));
    for exporter in &exporters {
        assert_eq!(jobs(exporter), Some(100.0));
    }
    redis.cli(&["HDEL", "metrics:jobs", "k=\"a\""]);
    for exporter in &exporters {
        assert_eq!(jobs(exporter), Some(100.0));
    }
    assert_eq!(
        output_of(&redis, &["series", "list", JOBS]),
        format!("{JOBS}\n")
    );
    output_of(&redis, &REMOVE);
    for exporter in &exporters {
        assert_eq!(jobs(exporter), None);
    }
    count(&redis, "2");
    for exporter in &exporters {
        assert_eq!(jobs(exporter), Some(2.0));
    }
}

#[test]
fn a_series_that_is_removed_while_a_loss_is_compensated_stays_removed() {
    let redis = redis_with_families();
    let exporters = [(); 3].map(|()| Exporter::start(redis.port()));
    for _round in 0..10 {
        redis.cli(&["HSET", "metrics:jobs", "k=\"a\"", "100"]);
        for exporter in &exporters {
            assert_eq!(jobs(exporter), Some(100.0));
        }
        count(&redis, "-5");
        thread::scope(|scope| {
            for exporter in &exporters {
                scope.spawn(|| {
                    // Before the removal or after it, but never less.
                    let jobs = jobs(exporter);
                    assert!(jobs.is_none_or(|jobs| jobs >= 100.0), "{jobs:?}");
                });
            }
            scope.spawn(|| output_of(&redis, &REMOVE));
        });
        for exporter in &exporters {
            assert_eq!(jobs(exporter), None);
        }
        assert_eq!(lost_count(&redis, "metrics:jobs", "k=\"a\""), "");
    }
}

/// Also if Redis lost the removal itself.
#[test]
fn a_removal_is_noticed_after_one_that_redis_lost() {
    let redis = redis_with_families();
    let exporter = Exporter::start(redis.port());
    assert_eq!(jobs(&exporter), Some(100.0));
    for _removal in 0..2 {
        output_of(&redis, &REMOVE);
        assert_eq!(jobs(&exporter), None);
        // The state before the removal.
        redis.cli(&["DEL", "metrics:removed"]);
        redis.cli(&["HDEL", "metrics:state", "lost_version", "removals"]);
        redis.cli(&["HSET", "metrics:jobs", "k=\"a\"", "100"]);
        assert_eq!(jobs(&exporter), Some(100.0));
    }
}

#[test]
fn an_exporter_with_a_file_notices_removals_while_it_was_stopped() {
    let redis = redis_with_families();
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("state.json").display().to_string();
    let start = || Exporter::start_with(redis.port(), &[("EXPORTER_STATE_FILE", file.as_str())]);
    let written = || std::fs::read_to_string(&file).expect("it is there");
    // Killed, not stopped.
    assert_eq!(jobs(&start()), Some(100.0));
    output_of(&redis, &REMOVE);
    assert_eq!(jobs(&start()), None);
    assert!(!written().contains("k=\\\"a\\\""), "{}", written());
    count(&redis, "5");
    assert_eq!(jobs(&start()), Some(5.0));
    // It was forgotten once: since then it has a mark like any other.
    count(&redis, "-3");
    assert_eq!(jobs(&start()), Some(5.0));
    output_of(&redis, &["series", "remove", "--yes", "jobs_total"]);
    let json = r#"{"type":"counter","key":"metrics:jobs"}"#;
    redis.cli(&["HSET", "metrics:families", "jobs_total", json]);
    count(&redis, "1");
    assert_eq!(jobs(&start()), Some(1.0));
    output_of(&redis, &["wipe", "--yes"]);
    assert_eq!(jobs(&start()), None);
    assert!(!written().contains("k=\\\"a\\\""), "{}", written());
}

#[test]
fn a_wipe_includes_lost_counts() {
    let redis = redis_with_families();
    let exporters = [(); 2].map(|()| Exporter::start(redis.port()));
    for exporter in &exporters {
        assert_eq!(jobs(exporter), Some(100.0));
    }
    count(&redis, "-10");
    for exporter in &exporters {
        assert_eq!(jobs(exporter), Some(100.0));
    }
    output_of(&redis, &["wipe", "--yes"]);
    count(&redis, "2");
    for exporter in exporters.iter().chain([&Exporter::start(redis.port())]) {
        assert_eq!(jobs(exporter), Some(2.0));
    }
}
