//! `GET /readyz`: the state of everything that the service depends on, one line
//! each, and what became of this instance's counts.
//!
//! Addresses and the texts of errors are for the operator. Others see only which
//! check failed.

use functional_scaffold_metering::Check;

use crate::{config::Misconfigured, response::Response, state::AppState};

/// Responds 200 if every check passes, or else 503.
pub async fn respond(
    app: Result<&AppState, &Misconfigured>,
    shows_details: bool,
    request_id: &str,
) -> Response {
    let checks: Vec<Check> = match app {
        Err(misconfigured) => {
            let problems = misconfigured.problems.iter();
            let checks = problems.map(|problem| ("configuration", Err(problem.clone())));
            checks.collect()
        }
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
    let body = lines(&checks, shows_details);
    Response {
        code: if is_ready { 200 } else { 503 },
        ..Response::ok(request_id, "text/plain; charset=utf-8", body.into_bytes())
    }
}

fn lines(checks: &[Check], show_details: bool) -> String {
    let line = |(name, result): &Check| match (result, show_details) {
        (Ok(text), true) => format!("{name}: ok ({text})\n"),
        (Ok(_), false) => format!("{name}: ok\n"),
        (Err(text), true) => format!("{name}: {text}\n"),
        (Err(_), false) => format!("{name}: failed\n"),
    };
    checks.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_details_have_addresses_and_errors() {
        let checks = [
            ("redis", Ok("redis://10.0.0.7 accepts writes".to_owned())),
            ("leases", Err("Redis is a replica".to_owned())),
        ];
        let detailed = "redis: ok (redis://10.0.0.7 accepts writes)\nleases: Redis is a replica\n";
        assert_eq!(lines(&checks, true), detailed);
        assert_eq!(lines(&checks, false), "redis: ok\nleases: failed\n");
    }
}
