//! The compared services, and loads on them: each run is checked to have counted
//! every response once.

use std::{any::Any, net::Ipv4Addr, path::Path, process::Command, thread, time::Duration};

use anyhow::{Context as _, ensure};
use functional_scaffold_protocol::{
    catalog::{RequestLabels, latency_bounds},
    cell::le_of_bound,
};
use functional_scaffold_testkit::{
    process::{Process, free_port, poll_until},
    repository,
    runtime::{App, AppOptions},
};
use tempfile::TempDir;

use crate::{
    load::{Load, Pace, Responses},
    machine::cpu_of_tree,
    measure::{Bench, as_float},
    store::Store,
};

const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Limit for a count to reach the store after its response.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause after which all work of the previous load is done.
const PAUSE: Duration = Duration::from_millis(300);

/// A running service.
pub(crate) struct Service<'a> {
    /// The name in the report.
    pub(crate) name: &'static str,
    /// The URL without a path.
    pub(crate) origin: String,
    process: u32,
    pub(crate) counted: Counted<'a>,
    _running: Box<dyn Any>,
}

/// Reads the number of counted requests of a kind; none where nothing is counted.
type Counted<'a> = Option<Box<dyn Fn(&Invocation) -> anyhow::Result<u64> + 'a>>;

/// A `POST`.
#[derive(Debug)]
pub(crate) struct Invocation {
    pub(crate) path: &'static str,
    pub(crate) body: &'static str,
    /// The labels under which a success is counted.
    pub(crate) labels: RequestLabels<'static>,
}

/// A prime that is found at once.
pub(crate) const SMALL: Invocation = Invocation {
    path: "/invoke",
    body: r#"{"number": 17}"#,
    labels: RequestLabels::new("POST", "/invoke", 200),
};

/// An algorithm that takes about a millisecond.
pub(crate) const MILLISECOND: Invocation = Invocation {
    path: "/invoke/count-primes",
    body: r#"{"limit": 900000}"#,
    labels: RequestLabels::new("POST", "/invoke/{algorithm}", 200),
};

/// A greeting of the hello-world app. Its one route is `/...`.
pub(crate) const HELLO: Invocation = Invocation {
    path: "/hello",
    body: "",
    labels: RequestLabels::new("POST", "/...", 200),
};

/// A greeting after about a millisecond.
pub(crate) const WORK: Invocation = Invocation {
    path: "/work",
    ..HELLO
};

/// A greeting of the app that counts something in each.
pub(crate) const COUNTED: Invocation = Invocation { path: "", ..HELLO };

/// One measurement of a service under load.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) responses: Responses,
    /// Processor time per request, in microseconds.
    pub(crate) server_micros: f64,
    pub(crate) redis_micros: f64,
    pub(crate) generator_micros: f64,
    /// Commands to Redis per request.
    pub(crate) commands: f64,
    /// Connections to Redis that were opened per 128 requests, the number that an
    /// instance serves.
    pub(crate) connections: f64,
}

impl Service<'_> {
    /// Sends a load. Fails unless each response has status 200 and each request is
    /// counted once.
    pub(crate) fn run(
        &self,
        bench: &Bench,
        store: &Store,
        invocation: &Invocation,
        pace: Pace,
        lasting: Duration,
    ) -> anyhow::Result<Run> {
        let load = Load {
            url: format!("{}{}", self.origin, invocation.path),
            body: invocation.body,
            pace,
            lasting: bench.lasting(lasting),
        };
        thread::sleep(bench.lasting(PAUSE));
        let counted = self.count(invocation)?;
        let (work, cpu) = (store.work()?, cpu_of_tree(self.process)?);
        let responses = load.send(&bench.oha);
        let responses = responses.with_context(|| self.name.to_owned())?;
        if let Pace::Open(rate) = pace {
            // In a smoke run, one short delay is a large part.
            let due = rate * load.lasting.as_secs_f64();
            ensure!(
                bench.smoke || as_float(responses.count) > 0.9 * due,
                "{}: {} of {due:.0} requests that were due: beyond capacity",
                self.name,
                responses.count
            );
        }
        if let Some(before) = counted {
            poll_until(FLUSH_TIMEOUT, || {
                let counted = self.count(invocation)?.map_or(0, |now| now - before);
                ensure!(
                    counted == responses.count,
                    "{}: {} responses, {counted} counted",
                    self.name,
                    responses.count,
                );
                Ok(())
            })?;
        }
        let (work_after, cpu_after) = (store.work()?, cpu_of_tree(self.process)?);
        let requests = as_float(responses.count);
        let micros = |time: Duration| time.as_secs_f64() * 1e6 / requests;
        Ok(Run {
            server_micros: micros(cpu_after.saturating_sub(cpu)),
            redis_micros: micros(work_after.cpu.saturating_sub(work.cpu)),
            generator_micros: micros(responses.generator),
            commands: as_float(work_after.commands_since(&work)) / requests,
            connections: as_float(work_after.connections - work.connections) / requests * 128.0,
            responses,
        })
    }

    fn count(&self, invocation: &Invocation) -> anyhow::Result<Option<u64>> {
        let count = self.counted.as_ref().map(|counted| counted(invocation));
        count.transpose()
    }
}

/// The way in which this repository's service counts.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Mode {
    Off,
    /// In the instance's memory.
    Pull,
    /// In Redis, with this `metrics_durability`.
    Durability(&'static str),
}

impl Mode {
    /// The variable that sets it, and whether requests are counted in Redis then.
    fn variable(self) -> ((&'static str, &'static str), bool) {
        match self {
            Self::Off => (("metrics_backend", "off"), false),
            Self::Pull => (("metrics_backend", "pull"), false),
            Self::Durability(durability) => (("metrics_durability", durability), true),
        }
    }
}

/// Starts this repository's service with two algorithms. Its keys begin with
/// `name`.
pub(crate) fn app<'a>(
    name: &'static str,
    mode: Mode,
    store: &'a Store,
) -> anyhow::Result<Service<'a>> {
    app_with(name, mode, &[], store)
}

/// Starts the service like [`app`], with instances that serve 1,024 requests. Spin's
/// default is 128.
pub(crate) fn long_lived_app<'a>(
    name: &'static str,
    mode: Mode,
    store: &'a Store,
) -> anyhow::Result<Service<'a>> {
    let arguments = ["--max-instance-reuse-count", "1024"];
    app_with(name, mode, &arguments, store)
}

fn app_with<'a>(
    name: &'static str,
    mode: Mode,
    arguments: &[&str],
    store: &'a Store,
) -> anyhow::Result<Service<'a>> {
    let options = options_of("benches/components/spin.toml", store).arguments(arguments);
    let (variable, counts_in_redis) = mode.variable();
    start_app(name, options, Some(variable), counts_in_redis, store)
}

/// Starts a component that opens a connection and sends six commands per request. It
/// sends none unless it `counts`.
pub(crate) fn naive<'a>(
    name: &'static str,
    counts: bool,
    store: &'a Store,
) -> anyhow::Result<Service<'a>> {
    let variable = (!counts).then_some(("metrics_backend", "off"));
    let manifest = "benches/components/naive/spin.toml";
    start_app(name, options_of(manifest, store), variable, counts, store)
}

/// Starts the hello-world app with the middleware of this manifest. A `mode` is for the
/// middleware that counts.
pub(crate) fn hello<'a>(
    name: &'static str,
    middleware: &str,
    mode: Mode,
    store: &'a Store,
) -> anyhow::Result<Service<'a>> {
    let manifest = format!("benches/components/hello/{middleware}.toml");
    let (variable, counts_in_redis) = mode.variable();
    let options = options_of(&manifest, store);
    start_app(name, options, Some(variable), counts_in_redis, store)
}

/// Starts the app that counts something in each request, in the way of this path.
pub(crate) fn counting<'a>(
    name: &'static str,
    path: &'static str,
    store: &'a Store,
) -> anyhow::Result<Service<'a>> {
    let manifest = "benches/components/counting/spin.toml";
    let mut service = start_app(name, options_of(manifest, store), None, false, store)?;
    service.origin.push_str(path);
    service.counted = match path {
        "/counter" => {
            let key = format!("{name}:custom:greetings_total");
            Some(Box::new(move |_| store.count(&key, "")))
        }
        "/incr" => {
            let key = format!("{name}:greetings");
            Some(Box::new(move |_| {
                let count: Option<u64> = store.call(&["GET", &key])?;
                Ok(count.unwrap_or(0))
            }))
        }
        _ => None,
    };
    Ok(service)
}

/// Returns the options that start the application of a manifest with this store.
fn options_of(manifest: &str, store: &Store) -> AppOptions {
    AppOptions::with_redis(store.port()).manifest(repository().join(manifest))
}

fn start_app<'a>(
    name: &'static str,
    options: AppOptions,
    variable: Option<(&'static str, &str)>,
    counts_in_redis: bool,
    store: &'a Store,
) -> anyhow::Result<Service<'a>> {
    let mut options = options.variable("metrics_prefix", &format!("{name}:"));
    if let Some((name, value)) = variable {
        options = options.variable(name, value);
    }
    let app = App::start(&options).with_context(|| name.to_owned())?;
    Ok(Service {
        name,
        origin: app.url(""),
        process: app.process().id(),
        counted: counts_in_redis.then(|| counted_in_redis(name, store)),
        _running: Box::new(app),
    })
}

/// The store of the FastAPI service.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Python {
    Off,
    /// In Redis, a pipeline a request.
    Redis,
    /// In files, by prometheus_client in multiprocess mode.
    PrometheusClient,
}

/// Starts FastAPI on uvicorn, in two processes, and waits until one of them serves.
pub(crate) fn fastapi<'a>(
    name: &'static str,
    counts: Python,
    python: &Path,
    store: &'a Store,
) -> anyhow::Result<Service<'a>> {
    let port = free_port()?;
    let files = TempDir::new()?;
    let metrics = match counts {
        Python::Off => "off",
        Python::Redis => "redis",
        Python::PrometheusClient => "prometheus",
    };
    let bounds: Vec<_> = latency_bounds().into_iter().map(le_of_bound).collect();
    let mut command = Command::new(python);
    command
        .args(["serve.py", &port.to_string()])
        .current_dir(repository().join("benches/peers/fastapi"))
        .env("BOUNDS_SECONDS", bounds.join(","))
        .env("METRICS", metrics)
        .env("METRICS_PREFIX", format!("{name}:"))
        .env("REDIS_PORT", store.port().to_string())
        .env("PROMETHEUS_MULTIPROC_DIR", files.path());
    let mut process = Process::start_group(&mut command)?;
    let origin = format!("http://{}:{port}", Ipv4Addr::LOCALHOST);
    // A request without a route is not counted.
    process
        .wait_until(START_TIMEOUT, |_| match ureq::get(&origin).call() {
            Ok(_) | Err(ureq::Error::StatusCode(404)) => Ok(()),
            Err(error) => Err(error.into()),
        })
        .with_context(|| name.to_owned())?;
    let counted: Counted<'a> = match counts {
        Python::Off => None,
        Python::Redis => Some(counted_in_redis(name, store)),
        Python::PrometheusClient => Some(exposed(format!("{origin}/metrics/"))),
    };
    Ok(Service {
        name,
        origin,
        process: process.id(),
        counted,
        _running: Box::new((process, files)),
    })
}

type Count<'a> = Box<dyn Fn(&Invocation) -> anyhow::Result<u64> + 'a>;

fn counted_in_redis<'a>(name: &str, store: &'a Store) -> Count<'a> {
    let key = format!("{name}:request_counter");
    Box::new(move |invocation| store.count(&key, &invocation.labels.to_text()))
}

fn exposed(url: String) -> Count<'static> {
    Box::new(move |invocation| {
        let text = ureq::get(&url).call()?.body_mut().read_to_string()?;
        exposed_count(&text, invocation)
    })
}

/// The count in an exposition, 0 before the first request.
pub(crate) fn exposed_count(exposition: &str, invocation: &Invocation) -> anyhow::Result<u64> {
    let series = format!("http_requests_total{{{}}} ", invocation.labels.to_text());
    let mut lines = exposition.lines();
    let sample = lines.find_map(|line| line.strip_prefix(&series));
    // prometheus_client writes `3.0`.
    let count = sample.map(|sample| sample.trim_end_matches(".0"));
    Ok(count.map_or(Ok(0), str::parse)?)
}
