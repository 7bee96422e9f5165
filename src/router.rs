//! Maps method and path to a route.

/// The operation that a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// Runs the algorithm.
    Invoke,
    /// Describes the algorithm.
    Describe,
    /// Says that the instance is alive.
    Health,
    /// Says whether the service's dependencies work.
    Readiness,
    /// Shows what this instance has counted.
    Metrics,
    /// Describes the routes, as an OpenAPI document.
    OpenApi,
}

/// The reason why a request has no route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoRoute {
    /// No route has this path.
    Path,
    /// The path's routes have these other methods.
    Method(&'static str),
}

/// The result of matching a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Match {
    /// The path's pattern, from a bounded set, or `unmatched`: the label
    /// `endpoint`.
    pub endpoint: &'static str,
    /// The route, if there is one.
    pub route: Result<Route, NoRoute>,
}

const UNMATCHED: &str = "unmatched";
const INVOKE: &str = "/invoke";
const INVOKE_NAMED: &str = "/invoke/{algorithm}";

/// The endpoints that run the algorithm.
pub const INVOKE_ENDPOINTS: [&str; 2] = [INVOKE, INVOKE_NAMED];

/// Matches a method and a path without its query, in a component that serves
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
    fn every_route_is_found() {
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
}
