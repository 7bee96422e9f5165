//! A server under load, and the proof that it counted what it answered.

use std::{any::Any, thread, time::Duration};

use anyhow::{Context as _, ensure};
use functional_scaffold_protocol::catalog::RequestLabels;
use functional_scaffold_tests::process::poll_until;

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

/// A server that takes requests.
pub(crate) struct Contestant<'a> {
    /// What the report calls it.
    pub(crate) name: &'static str,
    /// Where its routes begin.
    pub(crate) origin: String,
    /// Its process, or the one that started all of it.
    pub(crate) process: u32,
    /// How many requests of a kind it has counted.
    pub(crate) counted: Counted<'a>,
    /// What ends with it.
    pub(crate) _server: Box<dyn Any>,
}

/// Where a count of answered requests is read; none where nothing is counted.
pub(crate) type Counted<'a> = Option<Box<dyn Fn(&Request) -> anyhow::Result<u64> + 'a>>;

/// What is posted.
#[derive(Debug)]
pub(crate) struct Request {
    /// The path.
    pub(crate) path: &'static str,
    /// The JSON.
    pub(crate) body: &'static str,
    /// The label set that its success is counted under.
    pub(crate) labels: RequestLabels<'static>,
}

/// A prime that is seen at once.
pub(crate) const SMALL: Request = Request {
    path: "/invoke",
    body: r#"{"number": 17}"#,
    labels: RequestLabels::new("POST", "/invoke", 200),
};

/// An algorithm that takes about a millisecond.
pub(crate) const MILLISECOND: Request = Request {
    path: "/invoke/count-primes",
    body: r#"{"limit": 900000}"#,
    labels: RequestLabels::new("POST", "/invoke/{algorithm}", 200),
};

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
    /// Commands to Redis a request.
    pub(crate) commands: f64,
    /// Connections to Redis that were opened, for 128 requests: as many as an
    /// instance takes.
    pub(crate) connections: f64,
}

impl Contestant<'_> {
    /// Sends a load, and sees to it that each answer was counted, and once.
    ///
    /// # Errors
    /// A request was not answered with 200; more or fewer were counted.
    pub(crate) fn run(
        &self,
        bench: &Bench,
        store: &Store,
        request: &Request,
        pace: Pace,
        lasting: Duration,
    ) -> anyhow::Result<Run> {
        let load = Load {
            url: format!("{}{}", self.origin, request.path),
            body: request.body,
            connections: match pace {
                Pace::Closed(connections) => connections,
                Pace::Open(_) => OPEN_CONNECTIONS,
            },
            lasting: bench.lasting(lasting),
        };
        thread::sleep(bench.lasting(PAUSE));
        let counted = self.count(request)?;
        let (work, used) = (store.work()?, cpu::of_tree(self.process)?);
        let answered = match pace {
            Pace::Closed(_) => load.closed(&bench.oha),
            Pace::Open(rate) => load.open(&bench.oha, rate),
        };
        let answered = answered.with_context(|| self.name.to_owned())?;
        if let Pace::Open(rate) = pace {
            // A moment's hiccup is much of a smoke run.
            let due = rate * load.lasting.as_secs_f64();
            ensure!(
                bench.smoke || as_float(answered.requests) > 0.9 * due,
                "{}: {} of {due:.0} requests that were due: beyond capacity",
                self.name,
                answered.requests
            );
        }
        if let Some(before) = counted {
            let expected = before + answered.requests;
            poll_until(FLUSH_TIMEOUT, || {
                let now = self.count(request)?;
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
            commands: as_float(work_after.commands_since(&work)) / requests,
            connections: as_float(work_after.connections - work.connections) / requests * 128.0,
            answered,
        })
    }

    fn count(&self, request: &Request) -> anyhow::Result<Option<u64>> {
        let count = self.counted.as_ref().map(|counted| counted(request));
        count.transpose()
    }
}
