//! Running the algorithm on a request's body: who may, what may be sent, and
//! what the outcome is to the caller.

use functional_scaffold_protocol::catalog::ExecutionStatus;
use serde::{Serialize, de::IgnoredAny};
use serde_json::value::RawValue;
use subtle::ConstantTimeEq as _;

use crate::{
    algorithm::{self, Description, Outcome},
    answer::{Answer, Problem},
    config::Config,
    wasi_http::{BodyError, RequestBody, RequestHead},
};

/// An execution that took place.
#[derive(Debug, Clone, Copy)]
pub struct Executed {
    /// How it ended.
    pub status: ExecutionStatus,
    /// How long it took, in nanoseconds.
    pub nanos: u64,
}

/// Checks that the caller may use the algorithm.
///
/// # Errors
/// 401, if an API key is configured and the request does not carry it.
pub fn authorize(config: &Config, head: &RequestHead) -> Result<(), Problem> {
    let Some(key) = &config.api_key else {
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

/// Reads the input: JSON text, syntactically checked, not interpreted.
///
/// # Errors
/// 415, 413 or 400.
pub async fn read_input(
    config: &Config,
    head: &RequestHead,
    body: RequestBody,
) -> Result<String, Problem> {
    if let Some(content_type) = &head.content_type
        && !may_be_json(content_type)
    {
        return Err(Problem::unsupported(content_type));
    }
    let body = body
        .read(config.max_body_bytes)
        .await
        .map_err(|error| match error {
            BodyError::TooLarge => Problem::too_large(config.max_body_bytes),
            BodyError::Incomplete => Problem::malformed("the body ended before its length"),
        })?;
    json_text(body)
}

/// Runs the algorithm.
pub fn run(
    description: &Description,
    input: &str,
    request_id: &str,
) -> (Result<Answer, Problem>, Executed) {
    let (outcome, nanos) = algorithm::run(input);
    let (answer, status) = match outcome {
        Outcome::Success(result) => (
            Ok(success(description, &result, nanos, request_id)),
            ExecutionStatus::Success,
        ),
        Outcome::InvalidInput(reason) => (
            Err(Problem::invalid_input(reason)),
            ExecutionStatus::InvalidInput,
        ),
        Outcome::Failed(reason) => (Err(Problem::internal(reason)), ExecutionStatus::Failed),
    };
    (answer, Executed { status, nanos })
}

/// Describes the algorithm.
#[must_use]
pub fn describe(description: &Description, request_id: &str) -> Answer {
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
    Answer::json(request_id, &document)
}

fn success(description: &Description, result: &RawValue, nanos: u64, request_id: &str) -> Answer {
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
    #[allow(
        clippy::cast_precision_loss,
        reason = "a duration in milliseconds is shown, not counted"
    )]
    let execution_time_ms = nanos as f64 / 1e6;
    let document = Document {
        request_id,
        status: "success",
        result,
        metadata: Metadata {
            algorithm: &description.name,
            version: &description.version,
            execution_time_ms,
        },
    };
    Answer::json(request_id, &document)
}

/// Whether a body of this type is taken as JSON. curl sends its form type when
/// nobody said anything; what says it is something else is believed.
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
        Problem::malformed(format!("the body is not UTF-8 at byte {at}"))
    })?;
    serde_json::from_str::<IgnoredAny>(&text)
        .map_err(|error| Problem::malformed(format!("the body is not JSON: {error}")))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_that_may_be_json_is_taken_as_json() {
        for (content_type, taken) in [
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
            assert_eq!(may_be_json(content_type), taken, "{content_type}");
        }
    }

    #[test]
    fn what_is_not_json_is_malformed() {
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
            assert_eq!(problem.code, 400, "{body:?}");
        }
        let deep = "[".repeat(100_000);
        assert!(json_text(deep.into_bytes()).is_err());
        assert_eq!(json_text(b" 1 ".to_vec()).as_deref(), Ok(" 1 "));
    }
}
