//! `GET /openapi.json`: the routes as an
//! [OpenAPI 3.1](https://spec.openapis.org/oas/v3.1.0) document. The parts that do
//! not depend on the algorithm are in `openapi.json`.

use serde_json::{Value, json};

use crate::{
    invoke::Description,
    response::{Problem, ProblemType, Response},
};

const TEMPLATE: &str = include_str!("openapi.json");

/// Describes the routes of a component that serves `algorithm`, with `/metrics`
/// if the component serves its own metrics.
///
/// # Errors
/// The input's schema is JSON text, but not a JSON value: it is nested more than
/// 128 levels deep, or has a number beyond a double's range.
pub fn respond(
    algorithm: &Description,
    has_metrics: bool,
    request_id: &str,
) -> Result<Response, Problem> {
    match document(algorithm, has_metrics) {
        Ok(document) => Response::json(request_id, &document),
        Err(error) => Err(Problem::internal(&format!("openapi.json: {error}"))),
    }
}

fn document(algorithm: &Description, has_metrics: bool) -> serde_json::Result<Value> {
    let mut document: Value = serde_json::from_str(TEMPLATE)?;
    document["info"] = json!({
        "title": algorithm.name,
        "version": algorithm.version,
        "summary": algorithm.summary,
    });
    let mut input = serde_json::from_str(algorithm.input_schema.get())?;
    move_references(&mut input, "#/components/schemas/Input");
    document["components"]["schemas"]["Input"] = input;
    let template = document["components"]["responses"].take();
    // Types of one status code are one response.
    for types in ProblemType::ALL.chunk_by(|one, next| one.code() == next.code()) {
        let Some(first) = types.first() else {
            continue;
        };
        let code = first.code();
        let uris: Vec<_> = types.iter().map(|of| of.uri()).collect();
        let mut response = template.clone();
        response["description"] = first.title().into();
        let schema = &mut response["content"]["application/problem+json"]["schema"];
        schema["properties"]["type"]["enum"] = uris.into();
        schema["properties"]["status"]["const"] = code.into();
        document["components"]["responses"][code.to_string()] = response;
    }
    let paths = &mut document["paths"];
    paths["/invoke"]["post"]["summary"] = json!(algorithm.summary);
    paths[format!("/invoke/{}", algorithm.name)] = paths["/invoke"].clone();
    if !has_metrics && let Some(paths) = paths.as_object_mut() {
        paths.remove("/metrics");
    }
    Ok(document)
}

/// Makes the references in a schema point into the document whose part it becomes.
fn move_references(schema: &mut Value, place: &str) {
    match schema {
        // With an `$id`, references are relative to it wherever the schema is.
        Value::Object(members) if !members.contains_key("$id") => {
            if let Some(Value::String(reference)) = members.get_mut("$ref")
                && let Some(path) = reference.strip_prefix('#')
                && (path.is_empty() || path.starts_with('/'))
            {
                *reference = place.to_owned() + path;
            }
            for member in members.values_mut() {
                move_references(member, place);
            }
        }
        Value::Array(items) => {
            for item in items {
                move_references(item, place);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::value::RawValue;

    use super::*;

    fn algorithm(input_schema: &Value) -> Description {
        Description {
            name: "tree".to_owned(),
            version: String::new(),
            summary: String::new(),
            input_schema: RawValue::from_string(input_schema.to_string()).expect("JSON"),
        }
    }

    #[test]
    fn every_response_lists_its_problem_types() {
        const TYPES: &str = "/content/application~1problem+json/schema/properties/type/enum";

        let document = document(&algorithm(&json!(true)), true).expect("JSON");
        let responses = document["components"]["responses"].as_object();
        let mut listed = BTreeSet::new();
        for (code, response) in responses.expect("responses") {
            let code: u16 = code.parse().expect("a status code");
            let types = response.pointer(TYPES).expect("a list");
            let types: BTreeSet<String> = serde_json::from_value(types.clone()).expect("texts");
            let expected = ProblemType::ALL.into_iter().filter(|it| it.code() == code);
            assert_eq!(types, expected.map(ProblemType::uri).collect());
            listed.extend(types);
        }
        assert_eq!(listed.len(), ProblemType::ALL.len());

        let invoke = &document["paths"]["/invoke"]["post"]["responses"];
        for problem_type in ProblemType::ALL {
            let is_elsewhere = matches!(problem_type.code(), 404 | 405);
            let response = &invoke[problem_type.code().to_string()];
            assert_eq!(response.is_null(), is_elsewhere, "{problem_type:?}");
        }
        let operations = document["paths"].as_object().expect("paths").values();
        let operations = operations.flat_map(|path| path.as_object().expect("methods").values());
        for operation in operations {
            for (code, response) in operation["responses"].as_object().expect("responses") {
                if let Some(reference) = response["$ref"].as_str() {
                    assert_eq!(reference, format!("#/components/responses/{code}"));
                    assert!(document.pointer(&reference[1..]).is_some(), "{reference}");
                }
            }
        }
    }

    #[test]
    fn references_within_the_input_schema_resolve_in_the_document() {
        let list = json!({ "anyOf": [{ "$ref": "#" }, { "$ref": "#/$defs/end" }] });
        let fixed = json!({ "$id": "https://example.com/", "$ref": "#/$defs/end" });
        let schema = json!({
            "properties": { "$ref": list, "fixed": fixed, "other": { "$ref": "other.json" } },
            "$defs": { "end": { "type": "null" } },
        });
        let document = document(&algorithm(&schema), false).expect("JSON");
        let input = &document["components"]["schemas"]["Input"];
        let moved = &input["properties"]["$ref"]["anyOf"];
        let references =
            [&moved[0]["$ref"], &moved[1]["$ref"]].map(|it| it.as_str().expect("text"));
        assert_eq!(document.pointer(&references[0][1..]), Some(input));
        assert_eq!(
            document.pointer(&references[1][1..]),
            Some(&schema["$defs"]["end"])
        );
        assert_eq!(input["properties"]["fixed"], fixed);
        assert_eq!(input["properties"]["other"], schema["properties"]["other"]);
    }
}
