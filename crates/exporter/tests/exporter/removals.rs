//! What is removed, or wiped, while exporters remember it: in their memory, in
//! the offsets that Redis keeps, and in a state file.

use std::thread;

use crate::{
    losses::{add, all, offset, redis_with_families, served},
    series::said,
    support::{Exporter, Redis},
};

const REGRESSIONS: &str = "functional_scaffold_regressions_total";
const JOBS: &str = "jobs_total{k=\"a\"}";
const REMOVE: [&str; 4] = ["series", "remove", "--yes", JOBS];

fn jobs(exporter: &Exporter) -> Option<f64> {
    served(exporter, &[JOBS])[0]
}

fn born_again(redis: &Redis, by: &str) {
    add(redis, "metrics:jobs", "k=\"a\"", by);
}

#[test]
fn what_is_removed_takes_its_offsets_with_it() {
    let redis = redis_with_families();
    let exporters = [(); 2].map(|()| Exporter::start(redis.port));
    let names = [JOBS, "job_seconds_count", "job_seconds_sum"];
    for exporter in &exporters {
        assert_eq!(served(exporter, &names), all(&[100.0, 70.0, 90.0]));
    }
    add(&redis, "metrics:jobs", "k=\"a\"", "-10");
    add(&redis, "metrics:time", "|sum", "-20");
    for exporter in &exporters {
        assert_eq!(served(exporter, &names), all(&[100.0, 70.0, 90.0]));
    }
    assert_eq!(offset(&redis, "metrics:jobs", "k=\"a\""), "10");
    said(&redis, &REMOVE);
    said(&redis, &["series", "remove", "--yes", "job_seconds{}"]);
    assert_eq!(served(&exporters[0], &names), [None; 3]);
    for key in ["jobs", "time"] {
        let key = format!("metrics:lost:metrics:{key}");
        assert_eq!(redis.cli(&["EXISTS", &key]), "0\n", "{key}");
    }
    born_again(&redis, "1");
    add(&redis, "metrics:time", "|1", "2");
    let third = Exporter::start(redis.port);
    for (exporter, regressions) in exporters.iter().chain([&third]).zip([2.0, 0.0, 0.0]) {
        let names = [&names[..], &[REGRESSIONS]].concat();
        let expected = all(&[1.0, 2.0, 0.0, regressions]);
        assert_eq!(served(exporter, &names), expected);
    }
}

#[test]
fn a_series_that_redis_lost_can_be_removed() {
    let redis = redis_with_families();
    let exporters = [(); 2].map(|()| Exporter::start(redis.port));
    for exporter in &exporters {
        assert_eq!(jobs(exporter), Some(100.0));
    }
    redis.cli(&["HDEL", "metrics:jobs", "k=\"a\""]);
    for exporter in &exporters {
        assert_eq!(jobs(exporter), Some(100.0));
    }
    assert_eq!(said(&redis, &["series", "list", JOBS]), format!("{JOBS}\n"));
    said(&redis, &REMOVE);
    for exporter in &exporters {
        assert_eq!(jobs(exporter), None);
    }
    born_again(&redis, "2");
    for exporter in &exporters {
        assert_eq!(jobs(exporter), Some(2.0));
    }
}

#[test]
fn what_is_removed_while_a_loss_is_made_up_for_stays_removed() {
    let redis = redis_with_families();
    let exporters = [(); 3].map(|()| Exporter::start(redis.port));
    for _round in 0..10 {
        redis.cli(&["HSET", "metrics:jobs", "k=\"a\"", "100"]);
        for exporter in &exporters {
            assert_eq!(jobs(exporter), Some(100.0));
        }
        born_again(&redis, "-5");
        thread::scope(|scope| {
            for exporter in &exporters {
                scope.spawn(|| {
                    // Before the removal or after it, but never less.
                    let jobs = jobs(exporter);
                    assert!(jobs.is_none_or(|jobs| jobs >= 100.0), "{jobs:?}");
                });
            }
            scope.spawn(|| said(&redis, &REMOVE));
        });
        for exporter in &exporters {
            assert_eq!(jobs(exporter), None);
        }
        assert_eq!(offset(&redis, "metrics:jobs", "k=\"a\""), "");
    }
}

/// What Redis lost of it tells nobody that there has been no removal.
#[test]
fn a_removal_is_heard_of_after_one_that_redis_lost() {
    let redis = redis_with_families();
    let exporter = Exporter::start(redis.port);
    assert_eq!(jobs(&exporter), Some(100.0));
    for _removal in 0..2 {
        said(&redis, &REMOVE);
        assert_eq!(jobs(&exporter), None);
        // As it was before.
        redis.cli(&["DEL", "metrics:removed"]);
        redis.cli(&["HDEL", "metrics:state", "lost_version", "removals"]);
        redis.cli(&["HSET", "metrics:jobs", "k=\"a\"", "100"]);
        assert_eq!(jobs(&exporter), Some(100.0));
    }
}

#[test]
fn an_exporter_with_a_file_hears_of_what_was_removed_while_it_was_away() {
    let redis = redis_with_families();
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("state.json").display().to_string();
    let start = || Exporter::start_with(redis.port, &[("EXPORTER_STATE_FILE", file.as_str())]);
    let written = || std::fs::read_to_string(&file).expect("it is there");
    // Killed, not stopped.
    assert_eq!(jobs(&start()), Some(100.0));
    said(&redis, &REMOVE);
    assert_eq!(jobs(&start()), None);
    assert!(!written().contains("k=\\\"a\\\""), "{}", written());
    born_again(&redis, "5");
    assert_eq!(jobs(&start()), Some(5.0));
    // It was forgotten once: what was born since is held like any other.
    born_again(&redis, "-3");
    assert_eq!(jobs(&start()), Some(5.0));
    said(&redis, &["series", "remove", "--yes", "jobs_total"]);
    let json = r#"{"type":"counter","key":"metrics:jobs"}"#;
    redis.cli(&["HSET", "metrics:families", "jobs_total", json]);
    born_again(&redis, "1");
    assert_eq!(jobs(&start()), Some(1.0));
    said(&redis, &["wipe", "--yes"]);
    assert_eq!(jobs(&start()), None);
    assert!(!written().contains("k=\\\"a\\\""), "{}", written());
}

#[test]
fn a_wipe_takes_offsets_with_it() {
    let redis = redis_with_families();
    let exporters = [(); 2].map(|()| Exporter::start(redis.port));
    for exporter in &exporters {
        assert_eq!(jobs(exporter), Some(100.0));
    }
    born_again(&redis, "-10");
    for exporter in &exporters {
        assert_eq!(jobs(exporter), Some(100.0));
    }
    said(&redis, &["wipe", "--yes"]);
    born_again(&redis, "2");
    for exporter in exporters.iter().chain([&Exporter::start(redis.port)]) {
        assert_eq!(jobs(exporter), Some(2.0));
    }
}
