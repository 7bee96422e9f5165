//! Responses, and errors as problem details
//! ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)).

use functional_scaffold_metering::RETRY_AFTER;
use serde::Serialize;

use crate::text::one_line;

/// The response to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The HTTP status code.
    pub code: u16,
    /// The body's media type.
    pub content_type: &'static str,
    /// A header in addition to those of every response.
    pub header: Option<(&'static str, &'static str)>,
    /// `X-Request-Id`.
    pub request_id: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// Makes a 200 with a JSON document.
    ///
    /// # Errors
    /// The document cannot be serialised.
    pub fn json(request_id: &str, document: &impl Serialize) -> Result<Self, Problem> {
        match serde_json::to_vec(document) {
            Ok(body) => Ok(Self::ok(request_id, "application/json", body)),
            Err(error) => Err(Problem::internal(&error.to_string())),
        }
    }

    /// Makes a 200 with any body.
    #[must_use]
    pub fn ok(request_id: &str, content_type: &'static str, body: Vec<u8>) -> Self {
        Self {
            code: 200,
            content_type,
            header: None,
            request_id: request_id.to_owned(),
            body,
        }
    }
}

/// The type of a problem. `docs/problems.md` says what a client should do about
/// each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProblemType {
    /// The body is not JSON.
    MalformedBody,
    /// The API key is missing or wrong.
    Unauthorized,
    /// No route has this path.
    NotFound,
    /// The route has other methods.
    MethodNotAllowed,
    /// The body did not arrive within `body_timeout_ms`.
    BodyTimeout,
    /// The body is larger than `max_body_bytes`.
    BodyTooLarge,
    /// The body's content type is not JSON.
    UnsupportedMediaType,
    /// The algorithm rejects the input.
    InvalidInput,
    /// The algorithm returned an error.
    AlgorithmFailed,
    /// The algorithm crashed, and the guard caught it.
    AlgorithmCrashed,
    /// The algorithm used up its budget of instructions, or its stack.
    LimitExceeded,
    /// The algorithm's output is not JSON.
    InvalidOutput,
    /// The algorithm's output is larger than `max_output_bytes`.
    OutputTooLarge,
    /// A variable or the algorithm's description is invalid.
    Misconfigured,
    /// The service failed for another reason.
    InternalError,
    /// Redis has not acknowledged the execution, in `strict` durability.
    MetricsUnavailable,
}

impl ProblemType {
    /// Every type, by status code.
    pub const ALL: [Self; 16] = [
        Self::MalformedBody,
        Self::Unauthorized,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::BodyTimeout,
        Self::BodyTooLarge,
        Self::UnsupportedMediaType,
        Self::InvalidInput,
        Self::AlgorithmFailed,
        Self::AlgorithmCrashed,
        Self::LimitExceeded,
        Self::InvalidOutput,
        Self::OutputTooLarge,
        Self::Misconfigured,
        Self::InternalError,
        Self::MetricsUnavailable,
    ];

    /// Returns the URI that identifies the type.
    #[must_use]
    pub fn uri(self) -> String {
        format!("urn:functional-scaffold:problem:{}", self.parts().0)
    }

    /// Returns the status code of the response.
    #[must_use]
    pub fn code(self) -> u16 {
        self.parts().1
    }

    /// Returns a summary, which is the same for every problem of the type.
    #[must_use]
    pub fn title(self) -> &'static str {
        self.parts().2
    }

    fn parts(self) -> (&'static str, u16, &'static str) {
        match self {
            Self::MalformedBody => ("malformed-body", 400, "The body is not JSON"),
            Self::Unauthorized => ("unauthorized", 401, "The API key is missing or wrong"),
            Self::NotFound => ("not-found", 404, "There is no such route"),
            Self::MethodNotAllowed => (
                "method-not-allowed",
                405,
                "The route does not support the method",
            ),
            Self::BodyTimeout => ("body-timeout", 408, "The body did not arrive in time"),
            Self::BodyTooLarge => ("body-too-large", 413, "The body is too large"),
            Self::UnsupportedMediaType => (
                "unsupported-media-type",
                415,
                "The body's content type is not JSON",
            ),
            Self::InvalidInput => ("invalid-input", 422, "The algorithm rejects the input"),
            Self::AlgorithmFailed => ("algorithm-failed", 500, "The algorithm failed"),
            Self::AlgorithmCrashed => ("algorithm-crashed", 500, "The algorithm crashed"),
            Self::LimitExceeded => ("limit-exceeded", 500, "The algorithm exceeded a limit"),
            Self::InvalidOutput => ("invalid-output", 500, "The algorithm's output is not JSON"),
            Self::OutputTooLarge => (
                "output-too-large",
                500,
                "The algorithm's output is too large",
            ),
            Self::Misconfigured => ("misconfigured", 500, "The service is misconfigured"),
            Self::InternalError => ("internal-error", 500, "The service failed"),
            Self::MetricsUnavailable => (
                "metrics-unavailable",
                503,
                "The execution cannot be counted",
            ),
        }
    }
}

/// A problem: an error that is reported to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Its type.
    pub problem_type: ProblemType,
    /// The problem with this request, on one line of at most 1,000 characters.
    pub detail: String,
    /// A header that the status code requires.
    header: Option<(&'static str, &'static str)>,
}

impl Problem {
    /// Makes a problem. The detail may be an algorithm's text of any length.
    #[must_use]
    #[inline(never)]
    pub fn new(problem_type: ProblemType, detail: &str) -> Self {
        Self {
            problem_type,
            detail: one_line(detail),
            header: None,
        }
    }

    /// Makes a 400.
    #[must_use]
    pub fn malformed(detail: &str) -> Self {
        Self::new(ProblemType::MalformedBody, detail)
    }

    /// Makes a 500 that neither the algorithm nor the configuration caused.
    #[must_use]
    pub fn internal(detail: &str) -> Self {
        Self::new(ProblemType::InternalError, detail)
    }

    /// Makes a 401.
    #[must_use]
    pub fn unauthorized() -> Self {
        let detail = "this service requires its API key as `Authorization: Bearer <key>`";
        Self {
            header: Some(("www-authenticate", "Bearer")),
            ..Self::new(ProblemType::Unauthorized, detail)
        }
    }

    /// Makes a 405 for a route with these methods.
    #[must_use]
    pub fn method_not_allowed(allow: &'static str) -> Self {
        let detail = format!("this route has the methods {allow}");
        Self {
            header: Some(("allow", allow)),
            ..Self::new(ProblemType::MethodNotAllowed, &detail)
        }
    }

    /// Makes a 503 for an execution that Redis has not acknowledged.
    #[must_use]
    pub fn metrics_unavailable(detail: &str) -> Self {
        Self {
            header: Some(("retry-after", RETRY_AFTER)),
            ..Self::new(ProblemType::MetricsUnavailable, detail)
        }
    }

    /// Makes the response that reports the problem.
    #[must_use]
    pub fn respond(&self, request_id: &str) -> Response {
        #[derive(Serialize)]
        struct Details<'a> {
            r#type: &'a str,
            title: &'a str,
            status: u16,
            detail: &'a str,
            request_id: &'a str,
        }
        let code = self.problem_type.code();
        let details = Details {
            r#type: &self.problem_type.uri(),
            title: self.problem_type.title(),
            status: code,
            detail: &self.detail,
            request_id,
        };
        Response {
            code,
            content_type: "application/problem+json",
            header: self.header,
            request_id: request_id.to_owned(),
            // A struct of strings and an integer always serialises.
            body: serde_json::to_vec(&details).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    /// Status code and type of each row `| 422 | `invalid-input` | …` of a page.
    fn rows(page: &str) -> BTreeSet<(u16, String)> {
        let rows = page.lines().filter_map(|line| {
            let mut cells = line.strip_prefix('|')?.split('|').map(str::trim);
            let code = cells.next()?.parse().ok()?;
            let name = cells.next()?.strip_prefix('`')?.strip_suffix('`')?;
            Some((code, name.to_owned()))
        });
        rows.collect()
    }

    #[test]
    fn the_pages_list_every_type_with_its_code() {
        let expected = |prefix: &str| -> BTreeSet<(u16, String)> {
            let types = ProblemType::ALL.into_iter();
            let row = |of: ProblemType| (of.code(), of.uri().replace(prefix, ""));
            types.map(row).collect()
        };
        assert_eq!(expected("").len(), ProblemType::ALL.len());
        for (page, left_out) in [
            ("docs/problems.md", ""),
            ("README.md", "urn:functional-scaffold:problem:"),
            ("README.zh-CN.md", "urn:functional-scaffold:problem:"),
        ] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
            let text = fs::read_to_string(path).expect(page);
            assert_eq!(rows(&text), expected(left_out), "{page}");
        }
    }
}
