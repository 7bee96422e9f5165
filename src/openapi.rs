//! `/openapi.json`: exactly the routes of [`crate::routes`], as an
//! [OpenAPI 3.1](https://spec.openapis.org/oas/v3.1.0) document. What does not
//! depend on the algorithm is in `openapi.json`.

use serde_json::{Value, json};

use crate::{
    algorithm::Description,
    answer::{Answer, Problem},
};

const TEMPLATE: &str = include_str!("openapi.json");

/// The document for a component that serves this algorithm, and `/metrics` if it
/// is scraped.
#[must_use]
pub fn answer(algorithm: &Description, is_scraped: bool, request_id: &str) -> Answer {
    match document(algorithm, is_scraped) {
        Ok(document) => Answer::json(request_id, &document),
        Err(error) => Problem::internal(format!("openapi.json: {error}")).answer(request_id),
    }
}

fn document(algorithm: &Description, is_scraped: bool) -> serde_json::Result<Value> {
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
    if !is_scraped && let Some(paths) = paths.as_object_mut() {
        paths.remove("/metrics");
    }
    Ok(document)
}
