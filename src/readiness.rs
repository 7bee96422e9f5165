//! `GET /readyz`: the state of everything that the service depends on, one line
//! each, and what became of this instance's counts.

use functional_scaffold_metering::Check;

use crate::{response::Response, state::AppState};

/// Responds 200 if every check passes, or else 503.
pub async fn respond(app: Result<&AppState, &[String]>, request_id: &str) -> Response {
    let checks: Vec<Check> = match app {
        Err(problems) => problems
            .iter()
            .map(|problem| ("configuration", Err(problem.clone())))
            .collect(),
        Ok(AppState {
            algorithm, meter, ..
        }) => {
            let algorithm = format!("{} {}", algorithm.name, algorithm.version);
            let mut checks = vec![
                ("configuration", Ok("every variable is valid".to_owned())),
                ("algorithm", Ok(algorithm)),
            ];
            checks.extend(meter.check().await);
            checks
        }
    };
    let is_ready = checks.iter().all(|(_, result)| result.is_ok());
    let lines = checks.into_iter().map(|(name, result)| match result {
        Ok(text) => format!("{name}: ok ({text})\n"),
        Err(text) => format!("{name}: {text}\n"),
    });
    let body: String = lines.collect();
    Response {
        code: if is_ready { 200 } else { 503 },
        ..Response::ok(request_id, "text/plain; charset=utf-8", body.into_bytes())
    }
}
