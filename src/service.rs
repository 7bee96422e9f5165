//! One request, from routing to counting.

use std::rc::Rc;

use functional_scaffold_protocol::{
    catalog::{FinishedRequest, RequestLabels},
    lease::EncodedLease,
};
use serde::Serialize;

use crate::{
    answer::{Answer, Problem},
    clock::Mark,
    in_flight::InFlight,
    instance::{self, Ready},
    invoke::{self, Executed},
    log::{self, Level},
    metrics::{self, sinks::pull},
    openapi, readiness,
    routes::{self, NoRoute, Route},
    wasi_http::{RequestBody, RequestHead},
};

/// Answers a request, counts it, and logs it.
pub async fn serve(head: RequestHead, body: RequestBody) -> Answer {
    let began = Mark::now();
    let instance = instance::current();
    let _in_flight = instance.in_flight.begin();
    let request_id = instance.request_id(head.request_id.as_deref());
    let ready = instance.ready().await;
    let algorithm = ready.as_ref().map_or("", |ready| &ready.algorithm.name);
    let found = routes::find(&head.method, &head.path, algorithm);

    let (result, executed) = match found.route {
        Ok(route) => {
            let asked = Asked {
                in_flight: &instance.in_flight,
                route,
                endpoint: found.endpoint,
                head: &head,
                request_id: &request_id,
            };
            answer(&ready, &asked, body).await
        }
        Err(NoRoute::Method(allow)) => (Err(Problem::method_not_allowed(allow)), None),
        Err(NoRoute::Path) => {
            let detail = format!("no route {}", head.path);
            (Err(Problem::not_found(detail)), None)
        }
    };
    let answer = result.unwrap_or_else(|problem| problem.answer(&request_id));

    let nanos = Mark::now().nanos_since(began);
    let request = FinishedRequest {
        labels: RequestLabels::new(
            routes::method_label(&head.method),
            found.endpoint,
            answer.code,
        ),
        duration_nanos: nanos,
    };
    if let Ok(ready) = &ready {
        metrics::record(ready, &request, executed).await;
    }
    log_request(&head, &answer, nanos);
    answer
}

/// A request that has a route.
struct Asked<'a> {
    in_flight: &'a InFlight,
    route: Route,
    endpoint: &'static str,
    head: &'a RequestHead,
    request_id: &'a str,
}

/// What is answered, and the execution that took place with its lease.
type Answered = (
    Result<Answer, Problem>,
    Option<(Executed, Option<EncodedLease>)>,
);

async fn answer(
    ready: &Result<Rc<Ready>, Rc<[String]>>,
    asked: &Asked<'_>,
    body: RequestBody,
) -> Answered {
    let id = asked.request_id;
    match (asked.route, ready) {
        (Route::Health, _) => {
            let answer = Answer::ok(id, "text/plain; charset=utf-8", b"ok\n".to_vec());
            (Ok(answer), None)
        }
        (Route::Readiness, ready) => (Ok(readiness::answer(ready, id).await), None),
        // The reasons are in the log and in /readyz: they may name what a
        // caller has no business to know.
        (_, Err(_)) => {
            let problem = Problem::internal("the service is misconfigured; see /readyz");
            (Err(problem), None)
        }
        (Route::Describe, Ok(ready)) => (Ok(invoke::describe(&ready.algorithm, id)), None),
        (Route::OpenApi, Ok(ready)) => (
            Ok(openapi::answer(
                &ready.algorithm,
                pull::is_scraped(ready),
                id,
            )),
            None,
        ),
        (Route::Metrics, Ok(ready)) => {
            let answer =
                invoke::authorize(&ready.config, asked.head).and_then(|()| pull::answer(ready, id));
            (answer, None)
        }
        (Route::Invoke, Ok(ready)) => {
            if let Err(problem) = invoke::authorize(&ready.config, asked.head) {
                return (Err(problem), None);
            }
            match invoke::read_input(&ready.config, asked.head, body).await {
                Err(problem) => (Err(problem), None),
                Ok(input) => {
                    let lease = ready.sink.lease(ready, asked.endpoint).await;
                    let closed = asked.in_flight.close().await;
                    let (answer, executed) = invoke::run(&ready.algorithm, &input, id);
                    drop(closed);
                    asked.in_flight.executed(executed.nanos);
                    (answer, Some((executed, lease)))
                }
            }
        }
    }
}

fn log_request(head: &RequestHead, answer: &Answer, nanos: u64) {
    #[derive(Serialize)]
    struct Fields<'a> {
        request_id: &'a str,
        method: &'a str,
        path: &'a str,
        code: u16,
        duration_ms: f64,
    }
    if !log::enabled(Level::Info) {
        return;
    }
    #[allow(
        clippy::cast_precision_loss,
        reason = "a duration in milliseconds is shown, not counted"
    )]
    let duration_ms = nanos as f64 / 1e6;
    let fields = Fields {
        request_id: &answer.request_id,
        method: &head.method,
        path: &head.path,
        code: answer.code,
        duration_ms,
    };
    log::write(Level::Info, "request", fields);
}
