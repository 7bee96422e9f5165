//! A server under load, and the proof that it counted what it answered.

use std::{thread, time::Duration};

use anyhow::{Context as _, ensure};
use functional_scaffold_tests::{
    app::{App, AppOptions},
    process::poll_until,
};

use crate::{
    cpu,
    load::{Answered, Load, as_float},
    section::Bench,
    store::Store,
};

/// How long a count may take to reach the store after its answer.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);
/// What a load leaves behind is over by then, and does not burden the next.
const PAUSE: Duration = Duration::from_millis(300);

/// A server that takes `POST /invoke`.
pub(crate) struct Contestant<'a> {
    /// What the report calls it.
    pub(crate) name: &'static str,
    /// Where its routes begin.
    pub(crate) origin: String,
    /// Its process, or the one that started all of it.
    pub(crate) process: u32,
    /// How many requests it has counted.
    pub(crate) counted: Counted<'a>,
    /// What ends with it.
    pub(crate) server: Box<dyn std::any::Any>,
}

/// Where a count of answered requests is read; none where nothing is counted.
pub(crate) type Counted<'a> = Option<Box<dyn Fn() -> anyhow::Result<u64> + 'a>>;

/// How requests are sent.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pace {
    /// As fast as they are answered, over so many connections.
    Closed(u32),
    /// So many a second.
    Open(f64),
}

/// Connections of an open loop: more than are ever busy at half of capacity, so
/// that a request waits for the server and not for a connection.
const OPEN_CONNECTIONS: u32 = 64;

/// One measurement.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    /// What the client saw.
    pub(crate) answered: Answered,
    /// Processor time of the server, in microseconds a request.
    pub(crate) server_micros: f64,
    /// The same of Redis.
    pub(crate) redis_micros: f64,
    /// The same of the load generator.
    pub(crate) generator_micros: f64,
    /// Calls of scripts a request.
    pub(crate) script_calls: f64,
    /// Connections to Redis that were opened, for 128 requests: as many as an
    /// instance takes.
    pub(crate) connections: f64,
}

impl<'a> Contestant<'a> {
    /// The application of this repository, under a prefix of its own.
    ///
    /// # Errors
    /// It is not built, or does not start.
    pub(crate) fn app(name: &'static str, mode: Mode, store: &'a Store) -> anyhow::Result<Self> {
        let prefix = format!("{name}:");
        let options = AppOptions::with_redis(store.port())
            .variable("metrics_prefix", &prefix)
            // A line a request would be most of what there is to do.
            .variable("log_level", "warn");
        let (options, counts) = match mode {
            Mode::Off => (options.variable("metrics_backend", "off"), false),
            Mode::Durability(mode) => (options.variable("metrics_durability", mode), true),
        };
        let app = App::start(&options)?;
        let key = format!("{prefix}request_counter");
        let counted: Counted<'a> = counts.then(|| -> Box<dyn Fn() -> anyhow::Result<u64>> {
            Box::new(move || store.count(&key, ANSWERED))
        });
        Ok(Self {
            name,
            origin: app.url(""),
            process: app.process_id(),
            counted,
            server: Box::new(app),
        })
    }

    /// Sends a load, and sees to it that each answer was counted, and once.
    ///
    /// # Errors
    /// A request was not answered with 200; more or fewer were counted.
    pub(crate) fn run(
        &self,
        bench: &Bench,
        store: &Store,
        body: &'static str,
        pace: Pace,
        lasting: Duration,
    ) -> anyhow::Result<Run> {
        let load = Load {
            url: format!("{}/invoke", self.origin),
            body,
            connections: match pace {
                Pace::Closed(connections) => connections,
                Pace::Open(_) => OPEN_CONNECTIONS,
            },
            lasting: bench.lasting(lasting),
        };
        thread::sleep(PAUSE);
        let counted = self.count()?;
        let (work, used) = (store.work()?, cpu::of_tree(self.process)?);
        let answered = match pace {
            Pace::Closed(_) => load.closed(&bench.oha),
            Pace::Open(rate) => load.open(&bench.oha, rate),
        };
        let answered = answered.with_context(|| self.name.to_owned())?;
        if let Some(before) = counted {
            let expected = before + answered.requests;
            poll_until(FLUSH_TIMEOUT, || {
                let now = self.count()?;
                ensure!(
                    now == Some(expected),
                    "{} answered {} requests and counted {}",
                    self.name,
                    answered.requests,
                    now.map_or(0, |now| now - before)
                );
                Ok(())
            })?;
        }
        let (work_after, used_after) = (store.work()?, cpu::of_tree(self.process)?);
        let requests = as_float(answered.requests);
        let micros = |before: Duration, after: Duration| {
            after.saturating_sub(before).as_secs_f64() * 1e6 / requests
        };
        Ok(Run {
            server_micros: micros(used, used_after),
            redis_micros: micros(work.used, work_after.used),
            generator_micros: micros(Duration::ZERO, answered.generator),
            script_calls: as_float(work_after.script_calls - work.script_calls) / requests,
            connections: as_float(work_after.connections - work.connections) / requests * 128.0,
            answered,
        })
    }

    fn count(&self) -> anyhow::Result<Option<u64>> {
        self.counted.as_ref().map(|counted| counted()).transpose()
    }
}

/// How the application counts.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Mode {
    /// Not at all.
    Off,
    /// Into Redis, with this `metrics_durability`.
    Durability(&'static str),
}

/// The label set of an answered `POST /invoke`.
const ANSWERED: &str = r#"code="200",endpoint="/invoke",method="POST",status="success""#;
