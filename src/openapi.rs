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
    let mut input = serde_json::from_str(algorithm.input_schema.get())?;
    move_references(&mut input, "#/components/schemas/Input");
    document["components"]["schemas"]["Input"] = input;
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
                && (reference == "#" || reference.starts_with("#/"))
            {
                reference.replace_range(..1, place);
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
    use serde_json::value::RawValue;

    use super::*;

    #[test]
    fn references_within_the_input_schema_resolve_in_the_document() {
        let list = json!({ "anyOf": [{ "$ref": "#" }, { "$ref": "#/$defs/end" }] });
        let fixed = json!({ "$id": "https://example.com/", "$ref": "#/$defs/end" });
        let schema = json!({
            "properties": { "$ref": list, "fixed": fixed, "other": { "$ref": "other.json" } },
            "$defs": { "end": { "type": "null" } },
        });
        let algorithm = Description {
            name: "tree".to_owned(),
            version: String::new(),
            summary: String::new(),
            input_schema: RawValue::from_string(schema.to_string()).expect("JSON"),
        };
        let document = document(&algorithm, false).expect("JSON");
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
