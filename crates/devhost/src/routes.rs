//! Routes: which component answers a path, and what Spin tells it about that.
//!
//! It owns route patterns (exact, `/:name`, `/...`) and the `spin-*` request
//! headers that come from a match. Matching is `routefinder`'s, which Spin
//! uses as well; Spin's own paths under `/.well-known/spin/` are in `server`.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Result, anyhow};
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Uri};

use crate::manifest::HttpTrigger;

/// The routes of an application.
pub(crate) struct Routes {
    routes: Vec<Route>,
    /// Holds indices into `routes`.
    finder: routefinder::Router<usize>,
}

/// One route as the manifest has it.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) component: String,
    raw: String,
    /// With a leading and without a trailing slash.
    based: String,
}

/// A path's route and what its wildcards stand for.
pub(crate) struct RouteMatch<'a> {
    pub(crate) route: &'a Route,
    named: BTreeMap<String, String>,
    trailing: String,
}

impl Routes {
    /// Builds the routes of an application; of equal routes the last stands.
    ///
    /// # Errors
    ///
    /// A route is malformed.
    pub(crate) fn new(triggers: &[HttpTrigger]) -> Result<Self> {
        let mut routes: Vec<Route> = Vec::new();
        for trigger in triggers {
            let route = Route::new(trigger);
            match routes.iter().position(|other| other.raw == route.raw) {
                Some(index) => {
                    let replaced = std::mem::replace(&mut routes[index], route);
                    eprintln!(
                        "Route {} of component {} is never used: component {} has it, too",
                        replaced.raw, replaced.component, routes[index].component
                    );
                }
                None => routes.push(route),
            }
        }
        let mut finder = routefinder::Router::new();
        for (index, route) in routes.iter().enumerate() {
            finder
                .add(route.pattern().as_str(), index)
                .map_err(|error| anyhow!("route {:?} is malformed: {error}", route.raw))?;
        }
        Ok(Self { routes, finder })
    }

    /// Finds the route of a path: exact before named before trailing
    /// wildcards, and among these the longest.
    pub(crate) fn find(&self, path: &str) -> Option<RouteMatch<'_>> {
        let best = self.finder.best_match(path)?;
        let captures = best.captures();
        // Spin keeps the slashes that routefinder strips.
        let trailing = captures.wildcard().map_or_else(String::new, |rest| {
            let start = if rest.is_empty() { "" } else { "/" };
            let end = if path.ends_with('/') { "/" } else { "" };
            format!("{start}{rest}{end}")
        });
        Some(RouteMatch {
            route: &self.routes[*best.handler()],
            named: captures
                .iter()
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            trailing,
        })
    }

    /// Lists the routes in the manifest's order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Route> {
        self.routes.iter()
    }
}

impl Route {
    fn new(trigger: &HttpTrigger) -> Self {
        let raw = trigger.route.clone();
        let slash = if raw.starts_with('/') { "" } else { "/" };
        let based = format!("{slash}{raw}");
        Self {
            component: trigger.component.clone(),
            based: based.strip_suffix('/').unwrap_or(&based).to_owned(),
            raw,
        }
    }

    fn pattern(&self) -> String {
        match self.based.strip_suffix("/...") {
            Some(prefix) => format!("{prefix}/*"),
            None => self.based.clone(),
        }
    }
}

impl std::fmt::Display for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let prefix = self.based.strip_suffix("/...");
        let path = prefix.unwrap_or(&self.based);
        f.write_str(if path.is_empty() { "/" } else { path })?;
        f.write_str(if prefix.is_some() { " (wildcard)" } else { "" })
    }
}

impl RouteMatch<'_> {
    /// Adds what Spin tells a component of its request. `uri` is the full one,
    /// with scheme and authority.
    pub(crate) fn append_headers(&self, headers: &mut HeaderMap, uri: &Uri, client: SocketAddr) {
        let raw = &self.route.raw;
        let host = headers
            .get(http::header::HOST)
            .and_then(|host| host.to_str().ok())
            .unwrap_or("localhost");
        let scheme = uri.scheme_str().unwrap_or("http");
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let mut all = vec![
            ("spin-path-info".to_owned(), self.trailing.clone()),
            (
                "spin-full-url".to_owned(),
                format!("{scheme}://{host}{path}"),
            ),
            ("spin-matched-route".to_owned(), self.route.based.clone()),
            ("spin-base-path".to_owned(), "/".to_owned()),
            ("spin-raw-component-route".to_owned(), raw.clone()),
            (
                "spin-component-route".to_owned(),
                raw.strip_suffix("/...").unwrap_or(raw).to_owned(),
            ),
            ("spin-client-addr".to_owned(), client.to_string()),
        ];
        for (name, value) in &self.named {
            let name = name.to_ascii_lowercase().replace('_', "-");
            all.push((format!("spin-path-match-{name}"), value.clone()));
        }
        for (name, value) in all {
            // A value that no header can hold is left out, as Spin does.
            if let (Ok(name), Ok(value)) = (
                HeaderName::try_from(name),
                HeaderValue::try_from(value.as_str()),
            ) {
                headers.append(name, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(patterns: &[&str]) -> Result<Routes> {
        let triggers: Vec<HttpTrigger> = patterns
            .iter()
            .enumerate()
            .map(|(index, route)| {
                toml::from_str(&format!("route = {route:?}\ncomponent = \"c{index}\""))
                    .expect("trigger is well-formed")
            })
            .collect();
        Routes::new(&triggers)
    }

    #[test]
    fn most_specific_route_answers() {
        let routes = routes(&[
            "/...",
            "/invoke/sum",
            "/invoke/:name",
            "/invoke/...",
            "users/",
        ])
        .expect("routes are well-formed");
        for (path, expected) in [
            ("/", Some("/...")),
            ("/x/y", Some("/...")),
            ("/invoke", Some("/invoke/...")),
            ("/invoke/sum", Some("/invoke/sum")),
            ("/invoke/prime", Some("/invoke/:name")),
            ("/invoke/prime/x", Some("/invoke/...")),
            ("/users", Some("users/")),
            ("/users/", Some("users/")),
        ] {
            let found = routes.find(path).map(|found| found.route.raw.as_str());
            assert_eq!(found, expected, "{path}");
        }
    }

    #[test]
    fn paths_without_a_route_have_none() {
        let routes = routes(&["/a", "/b/:c"]).expect("routes are well-formed");
        for path in ["/", "/A", "/a/b", "/b", "/b/c/d"] {
            assert!(routes.find(path).is_none(), "{path}");
        }
    }

    #[test]
    fn last_of_equal_routes_stands() {
        let routes = routes(&["/a", "/b", "/a"]).expect("routes are well-formed");
        let found = routes.find("/a").expect("route is found");
        assert_eq!(found.route.component, "c2");
        assert_eq!(routes.iter().count(), 2);
    }

    #[test]
    fn components_are_told_of_their_route() {
        let routes = routes(&["/foo/:user_id/..."]).expect("routes are well-formed");
        let uri = Uri::from_static("http://host.test/foo/42/bar?q=1");
        let client = SocketAddr::from(([127, 0, 0, 1], 8777));
        let mut headers = HeaderMap::new();
        headers.insert("host", HeaderValue::from_static("host.test"));
        let found = routes.find(uri.path()).expect("route is found");
        found.append_headers(&mut headers, &uri, client);
        for (name, value) in [
            ("spin-full-url", "http://host.test/foo/42/bar?q=1"),
            ("spin-path-info", "/bar"),
            ("spin-matched-route", "/foo/:user_id/..."),
            ("spin-base-path", "/"),
            ("spin-raw-component-route", "/foo/:user_id/..."),
            ("spin-component-route", "/foo/:user_id"),
            ("spin-client-addr", "127.0.0.1:8777"),
            ("spin-path-match-user-id", "42"),
        ] {
            assert_eq!(headers[name], value, "{name}");
        }
    }

    #[test]
    fn path_info_keeps_slashes() {
        let routes = routes(&["/foo/..."]).expect("routes are well-formed");
        for (path, expected) in [
            ("/foo", ""),
            ("/foo/", "/"),
            ("/foo/a", "/a"),
            ("/foo/a/", "/a/"),
        ] {
            let found = routes.find(path).expect("route is found");
            assert_eq!(found.trailing, expected, "{path}");
        }
    }
}
