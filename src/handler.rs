//! Handles one request: routes it, responds, counts and logs it.

use std::rc::Rc;

use functional_scaffold_metering::{
    EncodedLease, Execution, ExecutionStatus, ExpositionError, FinishedRequest, Format, Meter,
    RequestLabels, RouteLabels,
    http::backpressure::InFlight,
    log::{self, Level},
    time::Instant,
};
use serde::Serialize;
use serde_json::json;
use subtle::ConstantTimeEq as _;

use crate::{
    config::{Access, Misconfigured},
    invoke, openapi, readiness,
    response::{Problem, ProblemType, Response},
    router::{self, NoRoute, Route},
    state::{self, AppState},
    wasi_http::{RequestBody, RequestHead},
};

/// Responds to a request, counts it, and logs it.
pub async fn handle(head: RequestHead, body: RequestBody) -> Response {
    let began = Instant::now();
    let instance = state::current();
    let _in_flight = instance.in_flight.begin();
    let request_id = instance.request_ids.next(head.request_id.as_deref());
    let app = instance.app().await;
    let algorithm = app.as_ref().map_or("", |app| &app.algorithm.name);
    let found = router::find(&head.method, &head.path, algorithm);

    let (result, leased) = match found.route {
        Ok(route) => {
            let request = RequestContext {
                in_flight: &instance.in_flight,
                route,
                endpoint: found.endpoint,
                head: &head,
                request_id: &request_id,
            };
            respond(&app, &request, body).await
        }
        Err(NoRoute::Method(allow)) => (Err(Problem::method_not_allowed(allow)), None),
        Err(NoRoute::Path) => {
            let detail = format!("no route {}", head.path);
            (Err(Problem::new(ProblemType::NotFound, &detail)), None)
        }
    };
    let (execution, lease) = leased.unzip();
    let status = execution.map(|execution: Execution| execution.status);
    let report = |problem: Problem| {
        log_problem(&problem, algorithm, status, &request_id);
        problem.respond(&request_id)
    };
    let mut response = result.unwrap_or_else(report);

    let nanos = Instant::now().nanos_since(began);
    let request = FinishedRequest {
        labels: RequestLabels::new(head.method_label, found.endpoint, response.code),
        duration_nanos: nanos,
    };
    if let Ok(app) = &app
        && app
            .meter
            .record(&request, execution, lease.flatten())
            .await
            .is_err()
    {
        let detail = "the algorithm ran, but Redis has not acknowledged its count, so the \
                      result is withheld";
        response = report(Problem::metrics_unavailable(detail));
    }
    log_request(&head, &response, nanos);
    response
}

/// An execution, and its lease if it took one.
type LeasedExecution = (Execution, Option<EncodedLease>);

/// A request that has a route.
struct RequestContext<'a> {
    in_flight: &'a InFlight,
    route: Route,
    endpoint: &'static str,
    head: &'a RequestHead,
    request_id: &'a str,
}

/// Responds to a request that has a route. Returns its execution too, if there
/// was one.
async fn respond(
    app: &Result<Rc<AppState>, Rc<Misconfigured>>,
    request: &RequestContext<'_>,
    body: RequestBody,
) -> (Result<Response, Problem>, Option<LeasedExecution>) {
    let id = request.request_id;
    let result = match (request.route, app) {
        (Route::Health, _) => Ok(Response::ok(
            id,
            "text/plain; charset=utf-8",
            b"ok\n".to_vec(),
        )),
        (Route::Readiness, app) => {
            let app = app.as_deref().map_err(|misconfigured| &**misconfigured);
            let access = match app {
                Ok(app) => &app.config.access,
                Err(misconfigured) => &misconfigured.access,
            };
            let shows_details = access.readyz_details_are_public
                || access.api_key.is_some() && authorize(access, request.head).is_ok();
            Ok(readiness::respond(app, shows_details, id).await)
        }
        // The reasons are in the log and in /readyz: they may name what a client
        // should not see.
        (_, Err(_)) => Err(Problem::new(
            ProblemType::Misconfigured,
            "the service is misconfigured; see the log, or /readyz with the API key",
        )),
        (Route::Describe, Ok(app)) => invoke::describe(&app.algorithm, id),
        (Route::OpenApi, Ok(app)) => {
            let has_metrics = app.meter.has_exposition();
            openapi::respond(&app.algorithm, has_metrics, id)
        }
        (Route::Metrics, Ok(app)) => {
            let authorized = authorize(&app.config.access, request.head);
            authorized.and_then(|()| respond_metrics(&app.meter, id))
        }
        (Route::Invoke, Ok(app)) => match invoke(app, request, body).await {
            Ok((result, leased)) => return (result, Some(leased)),
            Err(problem) => Err(problem),
        },
    };
    (result, None)
}

/// Runs the algorithm, unless the request is refused before.
async fn invoke(
    app: &AppState,
    request: &RequestContext<'_>,
    body: RequestBody,
) -> Result<(Result<Response, Problem>, LeasedExecution), Problem> {
    authorize(&app.config.access, request.head)?;
    let input = invoke::read_input(request.head, body, &app.config).await?;
    let route = RouteLabels::new(request.head.method_label, request.endpoint);
    let lease = app
        .meter
        .lease(route, || request.request_id.to_owned())
        .await;
    let lease = lease.map_err(|_unacknowledged| {
        let detail = "Redis has not acknowledged the execution: the algorithm did not run";
        Problem::metrics_unavailable(detail)
    })?;
    let backpressure = request.in_flight.apply_backpressure().await;
    let max_bytes = app.config.max_output_bytes;
    let invoked = invoke::invoke(&app.algorithm, &input, max_bytes, request.request_id);
    drop(backpressure);
    request.in_flight.note_execution(invoked.nanos);
    let execution = Execution {
        status: invoked.status,
        duration_nanos: invoked.nanos,
    };
    Ok((invoked.response, (execution, lease)))
}

/// Checks the request's API key, if one is configured.
fn authorize(access: &Access, head: &RequestHead) -> Result<(), Problem> {
    let Some(key) = &access.api_key else {
        return Ok(());
    };
    let sent = head.authorization.as_deref().unwrap_or_default();
    let (scheme, token) = sent.split_at_checked(7).unwrap_or_default();
    // Compared in constant time: an early end would tell how much was right.
    if scheme.eq_ignore_ascii_case(b"bearer ") && bool::from(token.ct_eq(key.as_bytes())) {
        Ok(())
    } else {
        Err(Problem::unauthorized())
    }
}

/// Responds with everything that this instance counted before this request.
fn respond_metrics(meter: &Meter, request_id: &str) -> Result<Response, Problem> {
    match meter.exposition() {
        Ok(text) => Ok(Response::ok(
            request_id,
            Format::Text.content_type(),
            text.into_bytes(),
        )),
        Err(error @ (ExpositionError::NotPull | ExpositionError::Disabled)) => {
            let detail = format!("/metrics: {error}");
            Err(Problem::new(ProblemType::NotFound, &detail))
        }
        Err(error @ ExpositionError::Totals(_)) => Err(Problem::internal(&error.to_string())),
    }
}

/// Logs a problem of the service or its algorithm. A client's own errors are not
/// logged.
#[inline(never)]
fn log_problem(
    problem: &Problem,
    algorithm: &str,
    status: Option<ExecutionStatus>,
    request_id: &str,
) {
    if problem.problem_type.code() < 500 {
        return;
    }
    let fields = json!({
        "request_id": request_id,
        "algorithm": algorithm,
        "status": status.map(ExecutionStatus::label),
        "type": problem.problem_type.uri(),
        "reason": problem.detail,
    });
    log::write(Level::Error, "request_failed", fields);
}

/// The longest method and path in a line of the log, in bytes. A client must not choose
/// how long the line is: it could rotate waiting batches out of a kept log.
const MAX_METHOD_BYTES: usize = 20;
const MAX_PATH_BYTES: usize = 200;

fn log_request(head: &RequestHead, response: &Response, nanos: u64) {
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
    let fields = Fields {
        request_id: &response.request_id,
        method: log::clip_escaped(&head.method, MAX_METHOD_BYTES),
        path: log::clip_escaped(&head.path, MAX_PATH_BYTES),
        code: response.code,
        duration_ms: invoke::as_millis(nanos),
    };
    log::write(Level::Info, "request", fields);
}
