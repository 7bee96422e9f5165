//! Responses, and errors as problem details
//! ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)).

use serde::Serialize;

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
    /// A 200 with a JSON document.
    #[must_use]
    pub fn json(request_id: &str, document: &impl Serialize) -> Self {
        match serde_json::to_vec(document) {
            Ok(body) => Self::ok(request_id, "application/json", body),
            Err(error) => {
                Problem::internal(format!("cannot serialise: {error}")).respond(request_id)
            }
        }
    }

    /// A 200 with any body.
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

/// A problem: an error that is reported to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The HTTP status code.
    pub code: u16,
    /// The code's reason phrase, as RFC 9457 requires for `about:blank`.
    pub title: &'static str,
    /// What was wrong with this request.
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
                "this service requires its API key as `Authorization: Bearer <key>`",
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
                format!("this route has the methods {allow}"),
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

    /// 415: the body's content type is not JSON.
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

    /// 500: the algorithm or the service failed.
    #[must_use]
    pub fn internal(detail: impl Into<String>) -> Self {
        Self::new(500, "Internal Server Error", detail)
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
        let details = Details {
            r#type: "about:blank",
            title: self.title,
            status: self.code,
            detail: &self.detail,
            request_id,
        };
        Response {
            code: self.code,
            content_type: "application/problem+json",
            header: self.header,
            request_id: request_id.to_owned(),
            // A struct of strings and an integer always serialises.
            body: serde_json::to_vec(&details).unwrap_or_default(),
        }
    }
}
