//! `--follow`: the log of an outage is replayed without anybody's help.

use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::ensure;
use functional_scaffold_testkit::{
    exporter::Exporter,
    load::{RequestKind, Tally, Until},
    process::poll_until,
    redis::RedisOptions,
    repository,
    runtime::{App, AppOptions, REPLAY_KEY, Runtime},
};
use functional_scaffold_tests::{
    PATIENCE,
    service::{NEGATIVE, PRIME, load_all},
};

use crate::Result;

/// The size at which the log is rotated: an outage of some seconds fills it twice.
const LOG_BYTES: &str = "300000";

/// The runtime with its log in a directory, as the containers keep it.
fn keeping_its_log(runtime: &Runtime, folder: &Path, logs: &Path) -> Result<Runtime> {
    let script = folder.join("runtime");
    let keep_log = repository().join("deployment/keep-log").canonicalize()?;
    let (keep_log, program) = (keep_log.display(), runtime.program().display());
    let text = format!(
        "#!/bin/sh\nexec '{keep_log}' '{}' '{program}' \"$@\"\n",
        logs.display()
    );
    fs::write(&script, text)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    Ok(match runtime {
        Runtime::Devhost(_) => Runtime::Devhost(script),
        Runtime::Spin(_) => Runtime::Spin(script),
    })
}

/// The number of rotated logs.
fn rotations(logs: &Path) -> Result<usize> {
    let entries: Result<Vec<_>> = fs::read_dir(logs)?
        .map(|entry| Ok(entry?.file_name()))
        .collect();
    let is_rotated = |name: &&std::ffi::OsString| !name.to_string_lossy().ends_with(".log");
    Ok(entries?.iter().filter(is_rotated).count())
}

#[test]
fn an_outage_is_counted_though_the_log_rotates_and_the_follower_is_killed() -> Result {
    let folder = tempfile::tempdir()?;
    let logs = folder.path().join("logs");
    let positions: PathBuf = folder.path().join("positions");
    fs::create_dir(&logs)?;
    let mut redis = RedisOptions::new().append_only("always").start()?;
    let options = AppOptions::with_redis(redis.port()).variable("log_level", "warn");
    let options = AppOptions {
        environment: vec![("KEEP_LOG_BYTES", LOG_BYTES.into())],
        ..options
    };
    let runtime = keeping_its_log(&Runtime::from_environment()?, folder.path(), &logs)?;
    let app = App::start_on(runtime, &options)?;
    let mut exporter = Exporter::start_with(
        redis.port(),
        &[
            ("EXPORTER_FOLLOW", logs.as_os_str()),
            ("EXPORTER_POSITIONS", positions.as_os_str()),
            ("REPLAY_KEY", OsStr::new(REPLAY_KEY)),
            ("EXPORTER_PAGE_INTERVAL_MS", OsStr::new("0")),
        ],
    )?;
    let mut tally = Tally::default();
    let mut send = |until| -> Result {
        let kinds = [RequestKind::invoke(PRIME), RequestKind::invoke(NEGATIVE)];
        tally.add(&load_all(&app, &kinds, 32, until)?);
        Ok(())
    };
    let half_a_second = Until::Elapsed(Duration::from_millis(500));
    send(half_a_second)?;
    redis.kill();
    let began = Instant::now();
    let mut is_killed = false;
    while rotations(&logs)? < 2 {
        ensure!(began.elapsed() < PATIENCE, "the log is not rotated");
        // So slowly that batches are given up before the log is rotated twice.
        send(Until::Requests(100))?;
        sleep(Duration::from_millis(100));
        if !is_killed && rotations(&logs)? > 0 {
            exporter.kill_and_restart()?;
            is_killed = true;
        }
    }
    ensure!(is_killed, "the log was rotated twice at once");
    redis.restart()?;
    send(half_a_second)?;
    poll_until(PATIENCE, || {
        let counted = redis.cells("metrics:request_counter")?;
        ensure!(
            counted == tally.responses,
            "{counted:#?} is not {:#?}",
            tally.responses
        );
        Ok(())
    })?;
    // Nobody else replayed the log, and nothing of it was left out.
    poll_until(PATIENCE, || {
        let text = exporter.scrape()?;
        let value = |name: &str| -> Option<f64> {
            let name = format!("functional_scaffold_follow_{name} ");
            text.lines()
                .find_map(|line| line.strip_prefix(&name)?.parse().ok())
        };
        ensure!(value("lag_bytes") == Some(0.0), "it lags: {text}");
        ensure!(
            value("batches_total{outcome=\"applied\"}") > Some(0.0),
            "{text}"
        );
        for left_out in [
            "batches_total{outcome=\"too_old\"}",
            "batches_total{outcome=\"incomplete\"}",
            "batches_total{outcome=\"failed\"}",
            "lines_refused_total{reason=\"unreadable\"}",
            "lines_refused_total{reason=\"refused\"}",
        ] {
            ensure!(value(left_out) == Some(0.0), "{left_out}: {text}");
        }
        Ok(())
    })
}
