//! The servers that are compared: the service itself, the same with metrics as
//! one would write them at first, and the one somebody would write in Python.

use std::{net::Ipv4Addr, path::Path, process::Command, time::Duration};

use anyhow::Context as _;
use functional_scaffold_tests::{
    app::{App, AppOptions},
    process::{Process, free_port, poll_until},
    repository,
};
use tempfile::TempDir;

use crate::{
    contestant::{Contestant, Counted, Request},
    store::Store,
};

/// How the service counts.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Mode {
    /// Not at all.
    Off,
    /// In the instance's memory.
    Pull,
    /// Into Redis, with this `metrics_durability`.
    Durability(&'static str),
}

/// The application of this repository with two algorithms, under a prefix of
/// its own.
///
/// # Errors
/// It is not built, or does not start.
pub(crate) fn app<'a>(
    name: &'static str,
    mode: Mode,
    store: &'a Store,
) -> anyhow::Result<Contestant<'a>> {
    let options = options("benches/components/spin.toml", name, store);
    let options = match mode {
        Mode::Off => options.variable("metrics_backend", "off"),
        Mode::Pull => options.variable("metrics_backend", "pull"),
        Mode::Durability(mode) => options.variable("metrics_durability", mode),
    };
    let counts_in_redis = matches!(mode, Mode::Durability(_));
    start(name, &options, counts_in_redis.then_some(store))
}

/// A connection and six commands a request, or the same without them.
///
/// # Errors
/// It is not built, or does not start.
pub(crate) fn naive<'a>(
    name: &'static str,
    counts: bool,
    store: &'a Store,
) -> anyhow::Result<Contestant<'a>> {
    let options = options("benches/components/naive/spin.toml", name, store);
    let options = match counts {
        true => options,
        false => options.variable("metrics_backend", "off"),
    };
    start(name, &options, counts.then_some(store))
}

fn options(manifest: &str, name: &str, store: &Store) -> AppOptions {
    AppOptions {
        manifest: repository().join(manifest),
        ..AppOptions::with_redis(store.port())
    }
    .variable("metrics_prefix", &format!("{name}:"))
}

fn start<'a>(
    name: &'static str,
    options: &AppOptions,
    counts_in: Option<&'a Store>,
) -> anyhow::Result<Contestant<'a>> {
    let app = App::start(options).with_context(|| name.to_owned())?;
    Ok(Contestant {
        name,
        origin: app.url(""),
        process: app.process_id(),
        counted: counts_in.map(|store| in_redis(name, store)),
        _server: Box::new(app),
    })
}

/// Where the FastAPI service counts.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Python {
    /// Nowhere.
    Off,
    /// In Redis, a pipeline a request.
    Redis,
    /// In files, by prometheus_client in multiprocess mode.
    PrometheusClient,
}

const START_TIMEOUT: Duration = Duration::from_secs(30);

/// FastAPI on uvicorn with two workers. `python` has its packages.
///
/// # Errors
/// A package is missing, or it does not start.
pub(crate) fn fastapi<'a>(
    name: &'static str,
    counts: Python,
    python: &Path,
    store: &'a Store,
) -> anyhow::Result<Contestant<'a>> {
    let port = free_port()?;
    let files = TempDir::new()?;
    let metrics = match counts {
        Python::Off => "off",
        Python::Redis => "redis",
        Python::PrometheusClient => "prometheus",
    };
    let mut command = Command::new(python);
    command
        .args(["-m", "uvicorn", "service:app", "--workers", "2"])
        .args(["--host", "127.0.0.1", "--port", &port.to_string()])
        .args(["--loop", "uvloop", "--http", "httptools"])
        .args(["--no-access-log", "--log-level", "warning"])
        .current_dir(repository().join("benches/peers/fastapi"))
        .env("METRICS", metrics)
        .env("METRICS_PREFIX", format!("{name}:"))
        .env("REDIS_PORT", store.port().to_string())
        .env("PROMETHEUS_MULTIPROC_DIR", files.path());
    let process = Process::start(&mut command, "it is the Python that --python names")?;
    let origin = format!("http://{}:{port}", Ipv4Addr::LOCALHOST);
    // What no route takes is counted nowhere.
    poll_until(START_TIMEOUT, || {
        let answer = ureq::get(&origin).call();
        match answer {
            Ok(_) | Err(ureq::Error::StatusCode(404)) => Ok(()),
            Err(error) => Err(error).with_context(|| process.output().unwrap_or_default()),
        }
    })
    .with_context(|| name.to_owned())?;
    let counted: Counted<'a> = match counts {
        Python::Off => None,
        Python::Redis => Some(in_redis(name, store)),
        Python::PrometheusClient => Some(exposed(&origin)),
    };
    Ok(Contestant {
        name,
        origin,
        process: process.id(),
        counted,
        _server: Box::new((process, files)),
    })
}

type Count<'a> = Box<dyn Fn(&Request) -> anyhow::Result<u64> + 'a>;

fn in_redis<'a>(name: &str, store: &'a Store) -> Count<'a> {
    let key = format!("{name}:request_counter");
    Box::new(move |request| store.count(&key, &request.labels.to_text()))
}

fn exposed(origin: &str) -> Count<'static> {
    let url = format!("{origin}/metrics/");
    Box::new(move |request| {
        let text = ureq::get(&url).call()?.body_mut().read_to_string()?;
        let series = format!("http_requests_total{{{}}} ", request.labels.to_text());
        let sample = text.lines().find_map(|line| line.strip_prefix(&series));
        // prometheus_client writes a count as a float. Before the first
        // request there is none.
        let count = sample.map_or(Ok(0.0), str::parse::<f64>)?;
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a count"
        )]
        let count = count as u64;
        Ok(count)
    })
}
