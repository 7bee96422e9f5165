//! `/openapi.json`: exactly the routes of [`crate::routes`], as an
//! [OpenAPI 3.1](https://spec.openapis.org/oas/v3.1.0) document.

use serde_json::{Value, json};

use crate::{algorithm::Description, answer::Answer};

/// The document for a component that serves this algorithm, and `/metrics` if it
/// is scraped.
#[must_use]
pub fn answer(algorithm: &Description, is_scraped: bool, request_id: &str) -> Answer {
    let mut document = document(algorithm);
    if is_scraped {
        document["paths"]["/metrics"] = json!({ "get": metrics_operation() });
    }
    Answer::json(request_id, &document)
}

fn document(algorithm: &Description) -> Value {
    let named = format!("/invoke/{}", algorithm.name);
    let input_schema: Value =
        serde_json::from_str(algorithm.input_schema.get()).unwrap_or(Value::Bool(true));
    let invoke = invoke_item(&algorithm.summary);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": algorithm.name,
            "version": algorithm.version,
            "summary": algorithm.summary,
        },
        "paths": {
            "/invoke": invoke.clone(),
            named: invoke,
            "/healthz": { "get": text_operation("Whether the instance lives", &[("200", "It does")]) },
            "/readyz": { "get": text_operation("Whether everything it depends on is well", &[
                ("200", "Everything does; a line for each"),
                ("503", "Something does not; a line for each"),
            ]) },
            "/openapi.json": { "get": {
                "summary": "This document",
                "responses": { "200": { "description": "OpenAPI 3.1", "content": { "application/json": {} } } },
            } },
        },
        "components": {
            "schemas": {
                "Input": input_schema,
                "Result": result_schema(),
                "Problem": problem_schema(),
            },
            "securitySchemes": { "apiKey": { "type": "http", "scheme": "bearer" } },
        },
    })
}

fn problem(description: &str) -> Value {
    json!({
        "description": description,
        "content": { "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } } },
    })
}

fn metrics_operation() -> Value {
    json!({
        "summary": "What this instance has counted, in Prometheus's text format",
        "security": [{}, { "apiKey": [] }],
        "responses": {
            "200": { "description": "The metrics", "content": { "text/plain": {} } },
            "401": problem("The API key is missing or wrong"),
        },
    })
}

fn invoke_item(summary: &str) -> Value {
    json!({
        "post": {
            "summary": summary,
            "security": [{}, { "apiKey": [] }],
            "requestBody": {
                "required": true,
                "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Input" } } },
            },
            "responses": {
                "200": {
                    "description": "The result",
                    "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Result" } } },
                },
                "400": problem("The body is not JSON"),
                "401": problem("The API key is missing or wrong"),
                "413": problem("The body is too large"),
                "415": problem("The body says it is not JSON"),
                "422": problem("The algorithm is not defined for this input"),
                "500": problem("The algorithm failed"),
            },
        },
        "get": {
            "summary": "What the algorithm is, and the schema of its input",
            "responses": { "200": { "description": "The description", "content": { "application/json": {} } } },
        },
    })
}

fn text_operation(summary: &str, answers: &[(&str, &str)]) -> Value {
    let responses: serde_json::Map<String, Value> = answers
        .iter()
        .map(|&(code, description)| {
            let text = json!({ "description": description, "content": { "text/plain": {} } });
            (code.to_owned(), text)
        })
        .collect();
    json!({ "summary": summary, "responses": responses })
}

fn result_schema() -> Value {
    json!({
        "type": "object",
        "required": ["request_id", "status", "result", "metadata"],
        "properties": {
            "request_id": { "type": "string" },
            "status": { "const": "success" },
            "result": true,
            "metadata": {
                "type": "object",
                "required": ["algorithm", "version", "execution_time_ms"],
                "properties": {
                    "algorithm": { "type": "string" },
                    "version": { "type": "string" },
                    "execution_time_ms": { "type": "number", "minimum": 0 },
                },
            },
        },
    })
}

fn problem_schema() -> Value {
    json!({
        "type": "object",
        "required": ["type", "title", "status", "detail", "request_id"],
        "properties": {
            "type": { "type": "string" },
            "title": { "type": "string" },
            "status": { "type": "integer" },
            "detail": { "type": "string" },
            "request_id": { "type": "string" },
        },
    })
}
