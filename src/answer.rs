//! What is answered to a request, and errors as problem details
//! ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)). Knows no WASI type.

use serde::Serialize;

/// A response before it is handed to the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status code.
    pub code: u16,
    /// The body's media type.
    pub content_type: &'static str,
    /// A header that this answer needs beside the usual ones.
    pub header: Option<(&'static str, &'static str)>,
    /// The id that the request is known by.
    pub request_id: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// A JSON document under 200.
    #[must_use]
    pub fn json(request_id: &str, document: &impl Serialize) -> Self {
        match serde_json::to_vec(document) {
            Ok(body) => Self::ok(request_id, "application/json", body),
            Err(error) => {
                Problem::internal(format!("cannot serialise: {error}")).answer(request_id)
            }
        }
    }

    /// Any text under 200.
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

/// Why a request is not answered with a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The HTTP status code.
    pub code: u16,
    /// The code's own phrase, as RFC 9457 wants it of `about:blank`.
    pub title: &'static str,
    /// What was wrong this time, fit for the caller to read.
    pub detail: String,
    /// A header that the code requires.
    pub header: Option<(&'static str, &'static str)>,
}

impl Problem {
    fn new(code: u16, title: &'static str, detail: impl Into<String>) -> Self {
        Self {
            code,
            title,
            detail: detail.into(),
            header: None,
        }
    }

    /// 400: the body is not JSON.
    #[must_use]
    pub fn malformed(detail: impl Into<String>) -> Self {
        Self::new(400, "Bad Request", detail)
    }

    /// 401: the API key is missing or wrong.
    #[must_use]
    pub fn unauthorized() -> Self {
        Self {
            header: Some(("www-authenticate", "Bearer")),
            ..Self::new(
                401,
                "Unauthorized",
                "this service wants its API key as `Authorization: Bearer <key>`",
            )
        }
    }

    /// 404: no such route.
    #[must_use]
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(404, "Not Found", detail)
    }

    /// 405: the route has other methods.
    #[must_use]
    pub fn method_not_allowed(allow: &'static str) -> Self {
        Self {
            header: Some(("allow", allow)),
            ..Self::new(
                405,
                "Method Not Allowed",
                format!("this route answers {allow}"),
            )
        }
    }

    /// 413: the body is larger than `limit` bytes.
    #[must_use]
    pub fn too_large(limit: u64) -> Self {
        Self::new(
            413,
            "Content Too Large",
            format!("the body may have at most {limit} bytes"),
        )
    }

    /// 415: the body says that it is something else than JSON.
    #[must_use]
    pub fn unsupported(content_type: &str) -> Self {
        Self::new(
            415,
            "Unsupported Media Type",
            format!("the body must be application/json, not {content_type:?}"),
        )
    }

    /// 422: the algorithm is not defined for this input.
    #[must_use]
    pub fn invalid_input(detail: impl Into<String>) -> Self {
        Self::new(422, "Unprocessable Content", detail)
    }

    /// 500: the algorithm, or the service itself, could not do its work.
    #[must_use]
    pub fn internal(detail: impl Into<String>) -> Self {
        Self::new(500, "Internal Server Error", detail)
    }

    /// As an answer.
    #[must_use]
    pub fn answer(&self, request_id: &str) -> Answer {
        #[derive(Serialize)]
        struct Details<'a> {
            r#type: &'a str,
            title: &'a str,
            status: u16,
            detail: &'a str,
            request_id: &'a str,
        }
        let details = Details {
            r#type: "about:blank",
            title: self.title,
            status: self.code,
            detail: &self.detail,
            request_id,
        };
        Answer {
            code: self.code,
            content_type: "application/problem+json",
            header: self.header,
            request_id: request_id.to_owned(),
            // A struct of strings and an integer always serialises.
            body: serde_json::to_vec(&details).unwrap_or_default(),
        }
    }
}
