//! One request, from routing to counting.

use std::rc::Rc;

use functional_scaffold_schema::catalog::{Execution, Request};
use serde::Serialize;

use crate::{
    answer::{Answer, Problem},
    clock::Mark,
    instance::{self, Instance, Ready},
    invoke::{self, Executed},
    log::{self, Level},
    metrics, openapi, readiness,
    routes::{self, NoRoute, Route},
    wasi_http::{RequestBody, RequestHead},
};

/// Answers a request, counts it, and logs it.
pub async fn serve(head: RequestHead, body: RequestBody) -> Answer {
    let began = Mark::now();
    let instance = instance::current();
    let request_id = instance.request_id(head.request_id.as_deref());
    let ready = instance.ready().await;
    let algorithm = ready.as_ref().map_or("", |ready| &ready.algorithm.name);
    let found = routes::find(&head.method, &head.path, algorithm);

    let (result, executed) = match found.route {
        Ok(route) => answer(&instance, &ready, route, &head, body, &request_id).await,
        Err(NoRoute::Method(allow)) => (Err(Problem::method_not_allowed(allow)), None),
        Err(NoRoute::Path) => {
            let detail = format!("no route {}", head.path);
            (Err(Problem::not_found(detail)), None)
        }
    };
    let answer = result.unwrap_or_else(|problem| problem.answer(&request_id));

    let nanos = Mark::now().nanos_since(began);
    let request = Request {
        method: routes::method_label(&head.method),
        endpoint: found.endpoint,
        code: answer.code,
        duration_nanos: nanos,
    };
    if let Ok(ready) = &ready {
        let execution = executed.map(|executed| Execution {
            algorithm: &ready.algorithm.name,
            status: executed.status,
            duration_nanos: executed.nanos,
        });
        metrics::record(&instance, ready, &request, execution.as_ref());
    }
    log_request(&head, &answer, nanos);
    answer
}

async fn answer(
    instance: &Rc<Instance>,
    ready: &Result<Rc<Ready>, Rc<[String]>>,
    route: Route,
    head: &RequestHead,
    body: RequestBody,
    request_id: &str,
) -> (Result<Answer, Problem>, Option<Executed>) {
    let plain = |text: &str| Answer::ok(request_id, "text/plain; charset=utf-8", text.into());
    match (route, ready) {
        (Route::Health, _) => (Ok(plain("ok\n")), None),
        (Route::Readiness, ready) => {
            let answer = readiness::answer(instance, ready, request_id).await;
            (Ok(answer), None)
        }
        // The reasons are in the log and in /readyz: they may name what a
        // caller has no business to know.
        (_, Err(_)) => (
            Err(Problem::internal(
                "the service is misconfigured; see /readyz",
            )),
            None,
        ),
        (Route::Describe, Ok(ready)) => (Ok(invoke::describe(&ready.algorithm, request_id)), None),
        (Route::OpenApi, Ok(ready)) => (Ok(openapi::answer(&ready.algorithm, request_id)), None),
        (Route::Invoke, Ok(ready)) => {
            if let Err(problem) = invoke::authorize(&ready.config, head) {
                return (Err(problem), None);
            }
            match invoke::read_input(&ready.config, head, body).await {
                Err(problem) => (Err(problem), None),
                Ok(input) => {
                    let (answer, executed) = invoke::run(&ready.algorithm, &input, request_id);
                    (answer, Some(executed))
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
