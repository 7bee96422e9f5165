//! `/readyz`: whether everything the service depends on is well, a line each;
//! and what became of the numbers that this instance recorded.

use std::rc::Rc;

use crate::{
    answer::Answer,
    clock::Deadline,
    config::{Backend, Durability},
    instance::{Instance, Ready},
    metrics::{redis::StoreError, register},
};

/// What is said of something, and whether it is well.
type State = Result<String, String>;

/// 200 if everything is well, otherwise 503; a line for each.
pub async fn answer(
    instance: &Instance,
    ready: &Result<Rc<Ready>, Rc<[String]>>,
    request_id: &str,
) -> Answer {
    let states = match ready {
        Err(problems) => problems
            .iter()
            .map(|problem| ("configuration", Err(problem.clone())))
            .collect(),
        Ok(ready) => states(instance, ready).await,
    };
    let well = states.iter().all(|(_, state)| state.is_ok());
    let lines = states.into_iter().map(|(name, state)| match state {
        Ok(text) => format!("{name}: ok ({text})\n"),
        Err(text) => format!("{name}: {text}\n"),
    });
    let body: String = lines.collect();
    Answer {
        code: if well { 200 } else { 503 },
        ..Answer::ok(request_id, "text/plain; charset=utf-8", body.into_bytes())
    }
}

async fn states(instance: &Instance, ready: &Ready) -> Vec<(&'static str, State)> {
    let algorithm = &ready.algorithm;
    let mut states = vec![
        ("configuration", Ok("every variable".to_owned())),
        (
            "algorithm",
            Ok(format!("{} {}", algorithm.name, algorithm.version)),
        ),
    ];
    match ready.config.backend {
        Backend::Off => states.push(("metrics", Ok("off".to_owned()))),
        Backend::Redis => states.extend([
            ("redis", redis(instance, ready).await),
            ("leases", leases(ready)),
            ("batches", batches(ready)),
        ]),
    }
    states
}

/// A `PING` is answered by a replica, too, and by a Redis whose memory is full.
/// So this makes a write that changes nothing.
async fn redis(instance: &Instance, ready: &Ready) -> State {
    let address = ready.config.redis.shown();
    let deadline = Deadline::after(ready.config.redis.timeout);
    let registered = register::again(instance, ready, deadline).await;
    if matches!(registered, Err(StoreError::Timeout(_))) {
        ready.store.close();
    }
    match registered {
        Ok(()) => Ok(format!("{address} takes writes")),
        Err(error) => Err(format!("{address}: {error}")),
    }
}

fn leases(ready: &Ready) -> State {
    let writer = ready.writer.borrow();
    match (ready.config.durability, writer.lease_trouble()) {
        (Durability::Relaxed, _) => Ok("none are taken".to_owned()),
        (_, Some(reason)) if !writer.waits_for_leases() => Err(format!(
            "suspended in this instance until Redis stores a batch: {reason}"
        )),
        _ => Ok("taken".to_owned()),
    }
}

fn batches(ready: &Ready) -> State {
    let writer = ready.writer.borrow();
    let logged = match writer.logged() {
        0 => String::new(),
        batches => format!("; {batches} of this instance were given to the log, to be replayed"),
    };
    let waiting = match writer.is_waiting() {
        true => "some of this instance wait to be stored",
        false => "none of this instance wait",
    };
    match writer.batch_trouble() {
        None => Ok(format!("{waiting}{logged}")),
        Some(reason) => Err(format!(
            "the last one of this instance was not stored: {reason}{logged}"
        )),
    }
}
