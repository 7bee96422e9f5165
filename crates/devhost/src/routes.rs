//! Routes: which component serves a path, and the `spin-*` request headers that
//! tell the component about the match.
//!
//! Patterns mean what they mean on Spin: `/exact`, `/:name` for one segment,
//! `/prefix/...` for a prefix and all below it. Spin's own paths under
//! `/.well-known/spin/` are in `server`.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Uri};

use crate::manifest::HttpTrigger;

/// Followed by a parameter's name, the header with its value.
const PATH_MATCH: &str = "spin-path-match-";

/// The routes of an application.
pub(crate) struct Routes {
    /// In the manifest's order.
    routes: Vec<Route>,
    /// Indices into `routes`, the most specific pattern first.
    by_precedence: Vec<usize>,
}

/// One route of the manifest.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) component: String,
    /// Its trigger's index in the manifest.
    pub(crate) trigger: usize,
    /// The pattern as the manifest has it.
    raw: String,
    /// With a leading and without a trailing slash.
    absolute: String,
    pattern: Pattern,
}

/// A path's route and what its wildcards matched.
pub(crate) struct RouteMatch<'a> {
    pub(crate) route: &'a Route,
    /// Parameter name and value.
    parameters: Vec<(&'a str, String)>,
    /// The rest of the path that `/...` matched, with its slashes.
    trailing: String,
}

impl Routes {
    /// Parses the routes of an application. The last of equal routes counts, as
    /// on Spin.
    ///
    /// # Errors
    ///
    /// A route is malformed.
    pub(crate) fn new(triggers: &[HttpTrigger]) -> Result<Self> {
        let mut routes: Vec<Route> = Vec::new();
        for (index, trigger) in triggers.iter().enumerate() {
            let route = Route::parse(index, trigger)
                .with_context(|| format!("route {:?} is malformed", trigger.route))?;
            match routes.iter().position(|other| other.raw == route.raw) {
                Some(index) => {
                    let replaced = std::mem::replace(&mut routes[index], route);
                    eprintln!(
                        "Route {} of component {} is never used: component {} has the same route",
                        replaced.raw, replaced.component, routes[index].component
                    );
                }
                None => routes.push(route),
            }
        }
        let mut by_precedence: Vec<usize> = (0..routes.len()).collect();
        by_precedence.sort_by_key(|&index| routes[index].pattern.precedence());
        Ok(Self {
            routes,
            by_precedence,
        })
    }

    /// Finds the route of a path. At the first segment where two routes differ,
    /// an exact one comes before a parameter and a parameter before `/...`; of
    /// routes that differ nowhere, the first in the manifest counts.
    pub(crate) fn find(&self, path: &str) -> Option<RouteMatch<'_>> {
        self.by_precedence.iter().find_map(|&index| {
            let route = &self.routes[index];
            let (parameters, trailing) = route.pattern.matches(path)?;
            Some(RouteMatch {
                route,
                parameters,
                trailing,
            })
        })
    }

    /// Lists the routes in the manifest's order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Route> {
        self.routes.iter()
    }
}

impl Route {
    fn parse(index: usize, trigger: &HttpTrigger) -> Result<Self> {
        let raw = trigger.route.clone();
        let slash = if raw.starts_with('/') { "" } else { "/" };
        let absolute = format!("{slash}{raw}");
        Ok(Self {
            component: trigger.component.clone(),
            trigger: index,
            pattern: Pattern::parse(&absolute)?,
            absolute: absolute.strip_suffix('/').unwrap_or(&absolute).to_owned(),
            raw,
        })
    }
}

impl std::fmt::Display for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let prefix = self.absolute.strip_suffix("/...");
        let path = prefix.unwrap_or(&self.absolute);
        f.write_str(if path.is_empty() { "/" } else { path })?;
        f.write_str(if prefix.is_some() { " (wildcard)" } else { "" })
    }
}

/// A parsed route. It matches as `routefinder` does, the crate that Spin uses;
/// slashes at either end of a path or route have no meaning.
#[derive(Debug)]
struct Pattern {
    segments: Vec<Segment>,
    /// Ends in `/...`.
    has_wildcard: bool,
}

/// One segment of a pattern: `text`, `:name`, `text.:name` or
/// `:name.text`.
#[derive(Debug)]
struct Segment {
    prefix: String,
    parameter: Option<String>,
    /// From its dot on.
    suffix: String,
}

impl Pattern {
    fn parse(route: &str) -> Result<Self> {
        let mut segments: Vec<&str> = route.split('/').filter(|text| !text.is_empty()).collect();
        let wildcard = segments.pop_if(|last| matches!(*last, "..." | "*"));
        let segments = segments.into_iter().map(Segment::parse);
        Ok(Self {
            segments: segments.collect::<Result<_>>()?,
            has_wildcard: wildcard.is_some(),
        })
    }

    /// Sorts patterns: the lower one is tried first.
    fn precedence(&self) -> Vec<u8> {
        let wildcard = self.has_wildcard.then_some(4);
        let segments = self.segments.iter().map(Segment::precedence);
        segments.chain(wildcard).collect()
    }

    /// Returns the parameters, and for `/...` the rest of the path with its slashes.
    fn matches(&self, path: &str) -> Option<(Vec<(&str, String)>, String)> {
        let trimmed = path.trim_matches('/');
        let mut path_segments = trimmed.split('/').filter(|_| !trimmed.is_empty());
        let mut parameters = Vec::new();
        for segment in &self.segments {
            let value = segment.matches(path_segments.next()?)?;
            if let Some(name) = &segment.parameter {
                parameters.push((name.as_str(), value.to_owned()));
            }
        }
        let mut trailing = String::new();
        for segment in path_segments {
            trailing.extend(["/", segment]);
        }
        if !self.has_wildcard {
            return trailing.is_empty().then_some((parameters, trailing));
        }
        if path.ends_with('/') {
            trailing.push('/');
        }
        Some((parameters, trailing))
    }
}

impl Segment {
    fn parse(text: &str) -> Result<Self> {
        ensure!(
            !text.starts_with('*'),
            "{text:?} is no wildcard: that is `/...`, at the end"
        );
        let dot = text.find(".:");
        let colon = match text.starts_with(':') {
            true => Some(0),
            false => dot.map(|dot| dot + 1),
        };
        let Some(colon) = colon else {
            return Ok(Self {
                prefix: text.to_owned(),
                parameter: None,
                suffix: String::new(),
            });
        };
        let parameter = &text[colon + 1..];
        let end = parameter.find('.').unwrap_or(parameter.len());
        let (name, suffix) = parameter.split_at(end);
        ensure!(!name.is_empty(), "the parameter of {text:?} has no name");
        if suffix.contains(".:") {
            bail!("{text:?} has several parameters in one segment");
        }
        Ok(Self {
            prefix: text[..colon].to_owned(),
            parameter: Some(name.to_owned()),
            suffix: suffix.to_owned(),
        })
    }

    fn precedence(&self) -> u8 {
        match (&self.parameter, &*self.prefix, &*self.suffix) {
            (None, ..) => 0,
            (Some(_), "", "") => 3,
            (Some(_), "", _) => 2,
            (Some(_), ..) => 1,
        }
    }

    /// Returns what the parameter stands for, or nothing where there is none.
    fn matches<'a>(&self, text: &'a str) -> Option<&'a str> {
        let rest = text.strip_prefix(&self.prefix)?;
        let end = match (&self.parameter, self.suffix.is_empty()) {
            (None, _) => 0,
            (Some(_), true) => rest.len(),
            (Some(_), false) => rest.find('.')?,
        };
        let (value, suffix) = rest.split_at(end);
        (suffix == self.suffix).then_some(value)
    }
}

impl RouteMatch<'_> {
    /// Sets the headers that Spin adds to a request, and removes all that the client sent
    /// under these names: on Spin they come before its own. `uri` has a scheme and an
    /// authority.
    pub(crate) fn set_headers(&self, headers: &mut HeaderMap, uri: &Uri, client: SocketAddr) {
        let raw = &self.route.raw;
        let host = headers
            .get(http::header::HOST)
            .and_then(|host| host.to_str().ok())
            .unwrap_or("localhost");
        let scheme = uri.scheme_str().unwrap_or("http");
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let all = [
            ("spin-path-info", self.trailing.clone()),
            ("spin-full-url", format!("{scheme}://{host}{path}")),
            ("spin-matched-route", self.route.absolute.clone()),
            ("spin-base-path", "/".to_owned()),
            ("spin-raw-component-route", raw.clone()),
            (
                "spin-component-route",
                raw.strip_suffix("/...").unwrap_or(raw).to_owned(),
            ),
            ("spin-client-addr", client.to_string()),
        ];
        for (name, _) in &all {
            headers.remove(*name);
        }
        let sent: Vec<HeaderName> = headers.keys().cloned().collect();
        for name in sent
            .iter()
            .filter(|name| name.as_str().starts_with(PATH_MATCH))
        {
            headers.remove(name);
        }
        let all = all.map(|(name, value)| (name.to_owned(), value));
        let parameters = self.parameters.iter().map(|(name, value)| {
            let name = name.to_ascii_lowercase().replace('_', "-");
            (format!("{PATH_MATCH}{name}"), value.clone())
        });
        for (name, value) in all.into_iter().chain(parameters) {
            // Spin, too, leaves out a value that no header can hold.
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
    fn most_specific_route_is_found() {
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
    fn last_of_equal_routes_counts() {
        let routes = routes(&["/a", "/b", "/a"]).expect("routes are well-formed");
        let found = routes.find("/a").expect("route is found");
        assert_eq!(found.route.component, "c2");
        assert_eq!(routes.iter().count(), 2);
    }

    #[test]
    fn requests_get_the_headers_of_their_route() {
        let routes = routes(&["/foo/:user_id/..."]).expect("routes are well-formed");
        let uri = Uri::from_static("http://host.test/foo/42/bar?q=1");
        let client = SocketAddr::from(([127, 0, 0, 1], 8777));
        let mut headers = HeaderMap::new();
        headers.insert("host", HeaderValue::from_static("host.test"));
        headers.append("spin-other", HeaderValue::from_static("sent"));
        for name in [
            "spin-raw-component-route",
            "spin-client-addr",
            "spin-path-match-user-id",
            "spin-path-match-x",
        ] {
            headers.append(name, HeaderValue::from_static("sent"));
            headers.append(name, HeaderValue::from_static("sent twice"));
        }
        let found = routes.find(uri.path()).expect("route is found");
        found.set_headers(&mut headers, &uri, client);
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
            let values: Vec<_> = headers.get_all(name).iter().collect();
            assert_eq!(values, [value], "{name}");
        }
        assert!(!headers.contains_key("spin-path-match-x"));
        assert_eq!(headers["spin-other"], "sent");
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
    /// The expectations are the results of routefinder 0.5.4, which Spin 4.1 uses.
    #[test]
    fn overlapping_routes_behave_as_on_spin() {
        for (patterns, path, expected) in [
            // A prefix that fails further down gives way to a shorter one.
            (&["/:x/b", "/..."][..], "/a/c", Some("/...")),
            (
                &["/...", "/a/...", "/:x/:y/..."],
                "/b/c/d",
                Some("/:x/:y/..."),
            ),
            (&["/:x/...", "/a/:y"], "/a/b", Some("/a/:y")),
            (&["/:x", "/a/..."], "/a", Some("/a/...")),
            (&["/a/...", "/a"], "/a/", Some("/a")),
            // Of routes that match the same paths, the first.
            (&["/:x", "/:y"], "/a", Some("/:x")),
            (&["/a", "/a/"], "/a", Some("/a")),
            (&["/a/", "/a"], "/a", Some("/a/")),
            // Inner slashes count, outer ones do not.
            (&["/a/:x/b"], "/a//b", Some("/a/:x/b")),
            (&["/a/b"], "//a/b//", Some("/a/b")),
            (&["/a/b"], "/a//b", None),
            (&["/:x"], "/", None),
            (&["/"], "/", Some("/")),
            (&["/:x.json", "/:x"], "/a.json", Some("/:x.json")),
            (&["/:x.json", "/:x"], "/a.toml", Some("/:x")),
            (&["/v1.:minor", "/:x"], "/v1.2", Some("/v1.:minor")),
        ] {
            let routes = routes(patterns).expect("routes are well-formed");
            let found = routes.find(path).map(|found| found.route.raw.as_str());
            assert_eq!(found, expected, "{path} among {patterns:?}");
        }
    }

    #[test]
    fn malformed_routes_are_refused_by_name() {
        for (pattern, expected) in [
            ("/a/:", "the parameter of \":\" has no name"),
            ("/a/*rest", "\"*rest\" is no wildcard"),
            ("/*/a", "\"*\" is no wildcard"),
            ("/:a.:b", "\":a.:b\" has several parameters"),
        ] {
            let error = routes(&[pattern]).err().expect(pattern);
            let message = format!("{error:#}");
            assert!(message.contains(expected), "{message}");
            assert!(message.contains(&format!("route {pattern:?}")), "{message}");
        }
    }
}
