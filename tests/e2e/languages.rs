//! Algorithms in Python and JavaScript: the examples, and two that misbehave.

use std::collections::BTreeMap;

use anyhow::ensure;
use functional_scaffold_testkit::{http, repository, runtime::AppOptions};
use functional_scaffold_tests::{PATIENCE, service::Service};
use serde_json::{Value, json};

use crate::Result;

/// The status and the body of `POST /invoke/{algorithm}`.
fn invoke(service: &Service, algorithm: &str, input: &str) -> Result<(u16, Value)> {
    let target = format!("POST /invoke/{algorithm}");
    let address = service.app.address();
    let response = http::request(address, &target, &[], input.as_bytes(), PATIENCE)?;
    let body = serde_json::from_slice(&response.body).unwrap_or_default();
    Ok((response.status, body))
}

fn assert_result(service: &Service, algorithm: &str, input: &str, result: &Value) -> Result {
    let (status, body) = invoke(service, algorithm, input)?;
    assert_eq!((status, &body["result"]), (200, result), "{input}: {body}");
    Ok(())
}

fn assert_problem(
    service: &Service,
    algorithm: &str,
    input: &str,
    (status, detail): (u16, &str),
) -> Result {
    let (actual, body) = invoke(service, algorithm, input)?;
    assert_eq!(
        (actual, &body["detail"]),
        (status, &Value::from(detail)),
        "{input}: {body}"
    );
    Ok(())
}

/// Waits until these executions of an algorithm are counted, and no others.
fn wait_for_executions(service: &Service, algorithm: &str, expected: &[(&str, i64)]) -> Result {
    let labels = |status| format!("algorithm=\"{algorithm}\",status=\"{status}\"");
    let expected: BTreeMap<_, _> = expected
        .iter()
        .map(|(status, count)| (labels(status), *count))
        .collect();
    service.wait_for("metrics:algorithm_counter", &expected)
}

fn start_rogues() -> Result<Service> {
    Service::start_with(|options| {
        let options = options.manifest(repository().join("tests/rogue/languages.toml"));
        options.variable("lease_timeout_ms", "1000")
    })
}

#[test]
fn the_example_in_python_is_served_and_counted() -> Result {
    let service = Service::start_with(AppOptions::every_component)?;
    let name = "word-count-py";
    let result = json!({"words": 6, "most_common": [["to", 2], ["be", 2]]});
    let input = r#"{"text": "To be or not to be", "top": 2}"#;
    assert_result(&service, name, input, &result)?;
    // A default, other scripts, and an integer that is written as a float.
    let result = json!({"words": 2, "most_common": [["词", 2]]});
    assert_result(&service, name, r#"{"text": "词 词"}"#, &result)?;
    assert_result(&service, name, r#"{"text": "词 词", "top": 1.0}"#, &result)?;
    for (input, detail) in [
        (r#"{"text": 5}"#, "text: must be string: 5"),
        (
            r#"{"text": "a", "top": true}"#,
            "top: must be integer: true",
        ),
        ("[]", "must be object: []"),
        ("{}", "must contain ['text'] properties: {}"),
    ] {
        assert_problem(&service, name, input, (422, detail))?;
    }
    wait_for_executions(&service, name, &[("success", 3), ("invalid_input", 4)])
}

#[test]
fn the_example_in_javascript_is_served_and_counted() -> Result {
    let service = Service::start_with(AppOptions::every_component)?;
    let name = "statistics-js";
    let result = json!({"count": 4, "mean": 5, "median": 4.5, "standard_deviation": 2.55});
    let input = r#"{"numbers": [2, 3, 6, 9]}"#;
    let (status, mut body) = invoke(&service, name, input)?;
    let deviation = body["result"]["standard_deviation"].as_f64();
    ensure!(
        deviation.is_some_and(|value| (value - 2.7386).abs() < 1e-4),
        "{body}"
    );
    body["result"]["standard_deviation"] = result["standard_deviation"].clone();
    assert_eq!((status, &body["result"]), (200, &result));
    // The message would end within the last character.
    let digits = "1".repeat(98);
    let long = format!("{{\"numbers\": [\"{digits}\u{1f980}\"]}}");
    let cut = format!("numbers[0]: must be number: \"{digits}\u{fffd}…");
    for (input, detail) in [
        (&*long, &*cut),
        (
            r#"{"numbers": [1, "2"]}"#,
            r#"numbers[1]: must be number: "2""#,
        ),
        (
            r#"{"numbers": []}"#,
            "numbers: must NOT have fewer than 1 items: []",
        ),
        ("5", "must be object: 5"),
        (
            r#"{"number": 1}"#,
            r#"must have required property 'numbers': {"number":1}"#,
        ),
        (
            r#"{"numbers": [1e308]}"#,
            "numbers[0]: must be <= 1e+150: 1e+308",
        ),
    ] {
        assert_problem(&service, name, input, (422, detail))?;
    }
    let expected = [("success", 1), ("invalid_input", 6)];
    wait_for_executions(&service, name, &expected)
}

#[test]
fn both_examples_describe_themselves() -> Result {
    let service = Service::start_with(AppOptions::every_component)?;
    for (name, summary, field) in [
        (
            "word-count-py",
            "Counts the words of a text, and how often the most common ones occur.",
            "text",
        ),
        (
            "statistics-js",
            "Computes mean, median and standard deviation of numbers",
            "numbers",
        ),
    ] {
        let path = format!("/invoke/{name}");
        let text = http::get(service.app.address(), &path)?.text()?;
        let description: Value = serde_json::from_str(&text)?;
        let expected = [
            ("algorithm", name),
            ("version", "0.1.0"),
            ("summary", summary),
        ];
        for (key, value) in expected {
            assert_eq!(description[key], value, "{description}");
        }
        let required = &description["input_schema"]["required"];
        assert_eq!(required, &json!([field]), "{description}");
    }
    Ok(())
}

#[test]
fn what_goes_wrong_in_python_is_responded_and_counted() -> Result {
    let service = start_rogues()?;
    let name = "rogue-py";
    let surrogate =
        r"'utf-8' codec can't encode character '\ud800' in position 1: surrogates not allowed";
    let not_json = |reason: &str| format!("TypeError: the result is not JSON: {reason}");
    for (misdeed, status, detail) in [
        ("raise", 500, "ValueError: asked to fail on two lines"),
        ("exit", 500, "SystemExit: 1"),
        (
            "recurse",
            500,
            "RecursionError: maximum recursion depth exceeded",
        ),
        (
            "nan",
            500,
            &not_json("Out of range float values are not JSON compliant: nan"),
        ),
        ("bytes", 500, &not_json("bytes b'bytes'")),
        ("cycle", 500, &not_json("Circular reference detected")),
        ("surrogate", 500, &not_json(surrogate)),
        ("hum", 422, "unknown misdeed 'hum'"),
    ] {
        let input = Value::from(misdeed).to_string();
        assert_problem(&service, name, &input, (status, detail))?;
    }
    assert_problem(&service, name, r#""\ud800""#, (422, surrogate))?;
    let digits = "9".repeat(5000);
    let (status, body) = invoke(&service, name, &digits)?;
    assert_eq!(status, 422, "{body}");
    // A module of the standard library that nothing imported when it was built.
    assert_result(&service, name, r#""import""#, &json!([0.0, 1.0, 1]))?;
    assert_result(&service, name, r#""print 4483""#, &Value::Null)?;
    let output = service.app.output()?;
    assert!(output.contains("\n4483\n"), "{output}");
    // Every line has the prefix, or a client could forge lines of the service.
    let error = "\nrogue-py: ValueError: asked to fail\nrogue-py: on two lines\n";
    assert!(output.contains(error), "{output}");
    let expected = [("success", 2), ("invalid_input", 3), ("failed", 7)];
    wait_for_executions(&service, name, &expected)
}

#[test]
fn deep_nesting_reaches_no_parser_that_traps() -> Result {
    let service = start_rogues()?;
    let nested = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    for name in ["rogue-py", "rogue-js"] {
        assert_eq!(invoke(&service, name, &nested(64))?.0, 422, "{name}");
        let detail = "the body is nested 65 levels deep; 64 are allowed";
        assert_problem(&service, name, &nested(65), (400, detail))?;
        assert_eq!(invoke(&service, name, &nested(100_000))?.0, 400, "{name}");
    }
    Ok(())
}

#[test]
fn an_algorithm_in_python_is_denied_every_capability() -> Result {
    let service = start_rogues()?;
    let manifest = repository().join("spin.toml").display().to_string();
    for misdeed in [
        format!("read {manifest}"),
        format!("connect {}", service.redis.port()),
        format!("connect {}", service.app.address().port()),
    ] {
        let (status, body) = invoke(&service, "rogue-py", &Value::from(misdeed).to_string())?;
        assert_eq!(status, 500, "{body}");
    }
    assert_result(&service, "rogue-py", r#""environment""#, &json!({}))
}

#[test]
fn what_goes_wrong_in_javascript_is_responded_and_counted() -> Result {
    let service = start_rogues()?;
    let name = "rogue-js";
    let not_json = |reason: &str| format!("TypeError: the result is not JSON: {reason}");
    for (misdeed, status, detail) in [
        ("throw", 500, "RangeError: asked to fail on two lines"),
        ("throw a string", 500, "asked to fail"),
        ("nan", 500, &not_json("1: NaN")),
        ("bytes", 500, &not_json("Uint8Array")),
        ("map", 500, &not_json("Map")),
        ("undefined", 500, &not_json("undefined")),
        ("bigint", 500, &not_json("number: the bigint 1")),
        ("promise", 500, &not_json("Promise")),
        ("cycle", 500, &not_json("circular reference")),
        ("hum", 422, r#"unknown misdeed "hum""#),
    ] {
        let input = Value::from(misdeed).to_string();
        assert_problem(&service, name, &input, (status, detail))?;
    }
    assert_result(&service, name, r#""left out""#, &json!({"kept": 1}))?;
    assert_problem(&service, name, "5", (422, "must be string: 5"))?;
    assert_result(&service, name, r#""print""#, &Value::Null)?;
    let output = service.app.output()?;
    let printed = format!("4483 词 {{\"a\":[1]}} {}\n", "x".repeat(5000));
    assert!(output.contains(&printed), "{output}");
    assert!(output.contains("\nrogue-js:     at rogue ("), "{output}");
    let expected = [("success", 2), ("invalid_input", 2), ("failed", 9)];
    wait_for_executions(&service, name, &expected)
}
