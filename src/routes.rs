//! Which path and method means what. Pure: text in, route out.

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// Run the algorithm.
    Invoke,
    /// Describe the algorithm.
    Describe,
    /// Say that the instance lives.
    Health,
    /// Say whether everything it depends on answers.
    Readiness,
    /// Show what this instance has counted.
    Metrics,
    /// The routes as an OpenAPI document.
    OpenApi,
}

/// Why a request asks for nothing that there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoRoute {
    /// No route has this path.
    Path,
    /// The path's routes have other methods: these.
    Method(&'static str),
}

/// A request's place in the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Match {
    /// The path's pattern, a bounded set fit for a label; `unmatched` if none.
    pub endpoint: &'static str,
    /// What it asks for.
    pub route: Result<Route, NoRoute>,
}

/// The pattern of a path that no route has.
pub const UNMATCHED: &str = "unmatched";
/// The pattern of the route that runs this component's algorithm.
pub const INVOKE: &str = "/invoke";
/// The same, with the algorithm named.
pub const INVOKE_NAMED: &str = "/invoke/{algorithm}";

/// The method as a label: one of the methods of
/// [RFC 9110](https://www.rfc-editor.org/rfc/rfc9110#section-9) and RFC 5789,
/// or `OTHER`.
#[must_use]
pub fn method_label(method: &str) -> &'static str {
    const KNOWN: [&str; 9] = [
        "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
    ];
    KNOWN
        .into_iter()
        .find(|&known| known == method)
        .unwrap_or("OTHER")
}

/// Finds the route of a path (without query) for a component that serves
/// `algorithm`.
#[must_use]
pub fn find(method: &str, path: &str, algorithm: &str) -> Match {
    let get = |route| match method {
        "GET" | "HEAD" => Ok(route),
        _ => Err(NoRoute::Method("GET, HEAD")),
    };
    let invoke = || match method {
        "POST" => Ok(Route::Invoke),
        "GET" | "HEAD" => Ok(Route::Describe),
        _ => Err(NoRoute::Method("GET, HEAD, POST")),
    };
    let (endpoint, route) = match path {
        INVOKE => (INVOKE, invoke()),
        "/healthz" => ("/healthz", get(Route::Health)),
        "/readyz" => ("/readyz", get(Route::Readiness)),
        "/metrics" => ("/metrics", get(Route::Metrics)),
        "/openapi.json" => ("/openapi.json", get(Route::OpenApi)),
        _ => match path.strip_prefix("/invoke/") {
            Some(name) if name == algorithm => (INVOKE_NAMED, invoke()),
            _ => (UNMATCHED, Err(NoRoute::Path)),
        },
    };
    Match { endpoint, route }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_each_route() {
        for (method, path, endpoint, route) in [
            ("POST", "/invoke", INVOKE, Ok(Route::Invoke)),
            ("GET", "/invoke", INVOKE, Ok(Route::Describe)),
            ("HEAD", "/invoke", INVOKE, Ok(Route::Describe)),
            (
                "POST",
                "/invoke/prime-check",
                INVOKE_NAMED,
                Ok(Route::Invoke),
            ),
            (
                "GET",
                "/invoke/prime-check",
                INVOKE_NAMED,
                Ok(Route::Describe),
            ),
            ("GET", "/healthz", "/healthz", Ok(Route::Health)),
            ("GET", "/readyz", "/readyz", Ok(Route::Readiness)),
            ("GET", "/metrics", "/metrics", Ok(Route::Metrics)),
            ("GET", "/openapi.json", "/openapi.json", Ok(Route::OpenApi)),
            (
                "PUT",
                "/invoke",
                INVOKE,
                Err(NoRoute::Method("GET, HEAD, POST")),
            ),
            (
                "post",
                "/invoke",
                INVOKE,
                Err(NoRoute::Method("GET, HEAD, POST")),
            ),
            (
                "POST",
                "/healthz",
                "/healthz",
                Err(NoRoute::Method("GET, HEAD")),
            ),
            ("POST", "/invoke/other", UNMATCHED, Err(NoRoute::Path)),
            ("POST", "/invoke/", UNMATCHED, Err(NoRoute::Path)),
            ("GET", "/", UNMATCHED, Err(NoRoute::Path)),
        ] {
            let found = find(method, path, "prime-check");
            assert_eq!(found, Match { endpoint, route }, "{method} {path}");
        }
    }

    #[test]
    fn methods_are_a_bounded_set() {
        assert_eq!(method_label("PATCH"), "PATCH");
        assert_eq!(method_label("BREW"), "OTHER");
        assert_eq!(method_label("get"), "OTHER");
    }
}
