//! `GET /openapi.json`: the routes as an
//! [OpenAPI 3.1](https://spec.openapis.org/oas/v3.1.0) document. The parts that do
//! not depend on the algorithm are in `openapi.json`.

use serde_json::{Value, json};

use crate::{
    invoke::Description,
    response::{Problem, Response},
};

const TEMPLATE: &str = include_str!("openapi.json");

/// Describes the routes of a component that serves `algorithm`, with `/metrics`
/// if the component serves its own metrics.
#[must_use]
pub fn respond(algorithm: &Description, has_metrics: bool, request_id: &str) -> Response {
    match document(algorithm, has_metrics) {
        Ok(document) => Response::json(request_id, &document),
        Err(error) => Problem::internal(format!("openapi.json: {error}")).respond(request_id),
    }
}

fn document(algorithm: &Description, has_metrics: bool) -> serde_json::Result<Value> {
    let mut document: Value = serde_json::from_str(TEMPLATE)?;
    document["info"] = json!({
        "title": algorithm.name,
        "version": algorithm.version,
        "summary": algorithm.summary,
    });
    document["components"]["schemas"]["Input"] =
        serde_json::from_str(algorithm.input_schema.get())?;
    let paths = &mut document["paths"];
    paths["/invoke"]["post"]["summary"] = json!(algorithm.summary);
    paths[format!("/invoke/{}", algorithm.name)] = paths["/invoke"].clone();
    if !has_metrics && let Some(paths) = paths.as_object_mut() {
        paths.remove("/metrics");
    }
    Ok(document)
}
