//! Runs the algorithm on a request body.
//!
//! The algorithm is a sandboxed component behind the contract in `wit/`, which
//! the manifest composes into this component.

use functional_scaffold_metering::{
    ExecutionStatus,
    time::{Instant, timeout},
};
use serde::{Serialize, de::IgnoredAny};
use serde_json::value::RawValue;
use thiserror::Error;

use crate::{
    config::Config,
    response::{Problem, ProblemType, Response},
    text::one_line,
    wasi_http::{BodyError, RequestBody, RequestHead},
};

mod bindings {
    #![allow(
        missing_docs,
        unsafe_code,
        unreachable_pub,
        clippy::all,
        clippy::missing_errors_doc,
        reason = "generated from wit/ by wit-bindgen"
    )]
    spin_sdk::wit_bindgen::generate!({
        path: "wit",
        inline: "package functional-scaffold:service@0.1.0;
                 world service { import functional-scaffold:algorithm/algorithm@0.1.0; }",
        runtime_path: "::spin_sdk::wit_bindgen::rt",
        generate_all,
    });
}

use bindings::functional_scaffold::algorithm::algorithm as contract;

/// The algorithm's description of itself, checked.
#[derive(Debug, Clone)]
pub struct Description {
    /// Its name, valid as a path segment and as a label value.
    pub name: String,
    /// Its version, on one line.
    pub version: String,
    /// One line about what it computes.
    pub summary: String,
    /// The JSON Schema of its input.
    pub input_schema: Box<RawValue>,
}

/// A description that breaks the contract.
#[derive(Debug, Error)]
pub enum DescriptionError {
    /// The name is not valid as a path segment and as a label value.
    #[error("the algorithm's name {0:?} is not [a-z][a-z0-9-]* of at most 64 characters")]
    Name(String),
    /// The schema is not JSON.
    #[error("the algorithm's input schema is not JSON: {0}")]
    Schema(#[from] serde_json::Error),
}

/// Asks the algorithm for its description.
///
/// # Errors
/// The description breaks the contract.
pub fn load_description() -> Result<Description, DescriptionError> {
    let described = contract::describe();
    if !is_name(&described.name) {
        return Err(DescriptionError::Name(described.name));
    }
    Ok(Description {
        name: described.name,
        version: one_line(&described.version),
        summary: one_line(&described.summary),
        input_schema: RawValue::from_string(described.input_schema)?,
    })
}

/// Responds with the algorithm's description.
///
/// # Errors
/// It cannot be serialised.
pub fn describe(description: &Description, request_id: &str) -> Result<Response, Problem> {
    #[derive(Serialize)]
    struct Document<'a> {
        algorithm: &'a str,
        version: &'a str,
        summary: &'a str,
        input_schema: &'a RawValue,
    }
    let document = Document {
        algorithm: &description.name,
        version: &description.version,
        summary: &description.summary,
        input_schema: &description.input_schema,
    };
    Response::json(request_id, &document)
}

/// Reads the input: JSON text whose syntax is checked.
///
/// # Errors
/// 415, 413, 408 or 400.
pub async fn read_input(
    head: &RequestHead,
    body: RequestBody,
    config: &Config,
) -> Result<String, Problem> {
    if let Some(content_type) = &head.content_type
        && !may_be_json(content_type)
    {
        let detail = format!("the body must be application/json, not {content_type:?}");
        return Err(Problem::new(ProblemType::UnsupportedMediaType, &detail));
    }
    let (max_bytes, limit) = (config.max_body_bytes, config.body_timeout);
    let Some(body) = timeout(limit, body.read(max_bytes)).await else {
        let detail = format!("the body did not arrive within {} ms", limit.as_millis());
        return Err(Problem::new(ProblemType::BodyTimeout, &detail));
    };
    let body = body.map_err(|error| match error {
        BodyError::TooLarge => {
            let detail = format!("the body may have at most {max_bytes} bytes");
            Problem::new(ProblemType::BodyTooLarge, &detail)
        }
        BodyError::Incomplete => Problem::malformed("the body ended before its length"),
    })?;
    json_text(body)
}

// Not the algorithm's own words: it wrote them to the host's log, if at all.
const CRASHED: &str = "the algorithm crashed, and the same input is likely to crash it again; \
                       report it with the request id";
const LIMIT_EXCEEDED: &str = "the algorithm used up its budget of instructions, or its stack by \
                              recursion; send a smaller input, or ask for a larger budget";

/// A finished execution.
#[derive(Debug)]
pub struct Invoked {
    /// The response to the request, or its problem.
    pub response: Result<Response, Problem>,
    /// How the execution ended.
    pub status: ExecutionStatus,
    /// How long it took, in nanoseconds.
    pub nanos: u64,
}

/// Runs the algorithm. If it traps and no guard catches that, this does not return:
/// the instance ends. An output of more than `max_output_bytes` is an error of the
/// algorithm.
#[must_use]
pub fn invoke(
    description: &Description,
    input: &str,
    max_output_bytes: u64,
    request_id: &str,
) -> Invoked {
    let began = Instant::now();
    let result = contract::run(input);
    let nanos = Instant::now().nanos_since(began);
    let (response, status) = match result {
        Ok(output) => {
            let result = check_output(output, max_output_bytes);
            match result.and_then(|result| success(description, &result, nanos, request_id)) {
                Ok(response) => (Ok(response), ExecutionStatus::Success),
                Err(problem) => (Err(problem), ExecutionStatus::Failed),
            }
        }
        Err(contract::Error::InvalidInput(reason)) => (
            Err(Problem::new(ProblemType::InvalidInput, &reason)),
            ExecutionStatus::InvalidInput,
        ),
        Err(contract::Error::Failed(reason)) => (
            Err(Problem::new(ProblemType::AlgorithmFailed, &reason)),
            ExecutionStatus::Failed,
        ),
        Err(contract::Error::Crashed) => (
            Err(Problem::new(ProblemType::AlgorithmCrashed, CRASHED)),
            ExecutionStatus::Crashed,
        ),
        Err(contract::Error::LimitExceeded) => (
            Err(Problem::new(ProblemType::LimitExceeded, LIMIT_EXCEEDED)),
            ExecutionStatus::Crashed,
        ),
    };
    Invoked {
        response,
        status,
        nanos,
    }
}

fn check_output(output: String, max_bytes: u64) -> Result<Box<RawValue>, Problem> {
    let bytes = output.len() as u64;
    if bytes > max_bytes {
        let detail =
            format!("the algorithm's result has {bytes} bytes; at most {max_bytes} are sent");
        return Err(Problem::new(ProblemType::OutputTooLarge, &detail));
    }
    RawValue::from_string(output).map_err(|error| {
        let detail = format!("the algorithm's result is not JSON: {error}");
        Problem::new(ProblemType::InvalidOutput, &detail)
    })
}

fn success(
    description: &Description,
    result: &RawValue,
    nanos: u64,
    request_id: &str,
) -> Result<Response, Problem> {
    #[derive(Serialize)]
    struct Document<'a> {
        request_id: &'a str,
        status: &'static str,
        result: &'a RawValue,
        metadata: Metadata<'a>,
    }
    #[derive(Serialize)]
    struct Metadata<'a> {
        algorithm: &'a str,
        version: &'a str,
        execution_time_ms: f64,
    }
    let document = Document {
        request_id,
        status: "success",
        result,
        metadata: Metadata {
            algorithm: &description.name,
            version: &description.version,
            execution_time_ms: as_millis(nanos),
        },
    };
    Response::json(request_id, &document)
}

/// Converts nanoseconds to milliseconds, to be shown.
#[must_use]
pub fn as_millis(nanos: u64) -> f64 {
    #[allow(
        clippy::cast_precision_loss,
        reason = "a duration in milliseconds is shown, not counted"
    )]
    let nanos = nanos as f64;
    nanos / 1e6
}

fn is_name(name: &str) -> bool {
    name.len() <= 64
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// Returns whether a body of this type is read as JSON. The form type is accepted because
/// curl sends it by default.
fn may_be_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    let essence = essence.to_ascii_lowercase();
    matches!(
        essence.as_str(),
        "" | "application/json" | "text/json" | "application/x-www-form-urlencoded"
    ) || essence.ends_with("+json")
}

fn json_text(body: Vec<u8>) -> Result<String, Problem> {
    if body.is_empty() {
        return Err(Problem::malformed(
            "the body is empty; send the input as JSON",
        ));
    }
    let text = String::from_utf8(body).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Problem::malformed(&format!("the body is not UTF-8 at byte {at}"))
    })?;
    serde_json::from_str::<IgnoredAny>(&text)
        .map_err(|error| Problem::malformed(&format!("the body is not JSON: {error}")))?;
    let depth = depth(&text);
    if depth > MAX_DEPTH {
        return Err(Problem::malformed(&format!(
            "the body is nested {depth} levels deep; {MAX_DEPTH} are allowed"
        )));
    }
    Ok(text)
}

/// The deepest nesting of an input. Parsers recurse, and those in Python and QuickJS
/// trap on a few thousand levels. serde_json has a limit of 127.
const MAX_DEPTH: usize = 64;

/// The levels of arrays and objects in a text that is JSON.
fn depth(json: &str) -> usize {
    let (mut depth, mut deepest, mut is_in_string) = (0_usize, 0, false);
    let mut bytes = json.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => is_in_string = !is_in_string,
            // The escaped character may be a quotation mark.
            b'\\' => {
                bytes.next();
            }
            b'[' | b'{' if !is_in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !is_in_string => depth -= 1,
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_in_strings_are_no_levels() {
        for (json, expected) in [
            ("1", 0),
            ("[]", 1),
            (r#"[{"a": []}, [[1]]]"#, 3),
            (r#"{"[[": "\\\"[", "]": ["{"]}"#, 2),
        ] {
            assert_eq!(depth(json), expected, "{json}");
        }
    }

    #[test]
    fn an_input_is_nested_64_levels_deep_at_most() {
        let nested = |depth| "[".repeat(depth) + &"]".repeat(depth);
        assert!(json_text(nested(64).into_bytes()).is_ok());
        let problem = json_text(nested(65).into_bytes()).expect_err("too deep");
        assert!(problem.detail.contains("65 levels"), "{}", problem.detail);
    }

    #[test]
    fn names_are_valid_in_paths_and_labels() {
        assert!(is_name("prime-check"));
        assert!(is_name(&"a".repeat(64)));
        for name in [
            "",
            "Prime",
            "1st",
            "a/b",
            "a\"b",
            "a b",
            "é",
            "-a",
            &"a".repeat(65),
        ] {
            assert!(!is_name(name), "{name:?}");
        }
    }

    #[test]
    fn content_types_that_may_be_json_are_accepted() {
        for (content_type, accepted) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("application/x-www-form-urlencoded", true),
            ("application/ld+json", true),
            ("", true),
            ("text/xml", false),
            ("text/plain", false),
            ("application/jsonp", false),
            ("multipart/form-data; boundary=json", false),
        ] {
            assert_eq!(may_be_json(content_type), accepted, "{content_type}");
        }
    }

    #[test]
    fn a_body_that_is_not_json_is_malformed() {
        for body in [
            &b""[..],
            b"{",
            b"\xff",
            b"{\"a\":\"\xff\"}",
            b"1 2",
            b"NaN",
            b" ",
        ] {
            let problem = json_text(body.to_vec()).expect_err("it is no JSON");
            assert_eq!(problem.problem_type.code(), 400, "{body:?}");
        }
        let deep = "[".repeat(100_000);
        assert!(json_text(deep.into_bytes()).is_err());
        assert_eq!(json_text(b" 1 ".to_vec()).as_deref(), Ok(" 1 "));
    }
}
