//! `/readyz`: whether everything the service depends on is well, a line each;
//! and what became of the numbers that this instance recorded.

use std::rc::Rc;

use crate::{answer::Answer, config::Durability, instance::Ready, metrics::sinks::Sink};

/// What is said of something, and whether it is well.
type State = Result<String, String>;

/// 200 if everything is well, otherwise 503; a line for each.
pub async fn answer(ready: &Result<Rc<Ready>, Rc<[String]>>, request_id: &str) -> Answer {
    let states = match ready {
        Err(problems) => problems
            .iter()
            .map(|problem| ("configuration", Err(problem.clone())))
            .collect(),
        Ok(ready) => states(ready).await,
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

async fn states(ready: &Ready) -> Vec<(&'static str, State)> {
    let algorithm = &ready.algorithm;
    let mut states = vec![
        ("configuration", Ok("every variable".to_owned())),
        (
            "algorithm",
            Ok(format!("{} {}", algorithm.name, algorithm.version)),
        ),
    ];
    match &ready.sink {
        Sink::Redis(redis) => states.extend([
            ("redis", redis.check(ready).await),
            ("leases", leases(ready)),
            ("batches", batches(ready)),
        ]),
        Sink::Pushgateway(pushgateway) => states.extend([
            ("pushgateway", pushgateway.check().await),
            ("leases", Ok("none: only Redis has them".to_owned())),
            ("batches", batches(ready)),
        ]),
        Sink::Pull(_) if ready.config.metrics_endpoint => {
            states.push(("metrics", Ok("this instance's own, on /metrics".to_owned())));
        }
        Sink::Pull(_) => {
            let unseen = "metrics_backend is pull, but metrics_endpoint is false: nobody sees them";
            states.push(("metrics", Err(unseen.to_owned())));
        }
        Sink::Off => states.push(("metrics", Ok("off".to_owned()))),
    }
    states
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
