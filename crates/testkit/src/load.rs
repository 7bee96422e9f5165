//! Concurrent requests to the application, and a tally of the responses by the
//! label sets under which the application counts them.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::ensure;
use functional_scaffold_protocol::catalog::RequestLabels;
use ureq::{Agent, http::Request};

/// How long a request may take.
const TIMEOUT: Duration = Duration::from_secs(60);

/// One kind of request.
#[derive(Debug, Clone)]
pub struct RequestKind {
    /// The method.
    pub method: &'static str,
    /// The path.
    pub path: &'static str,
    /// The content type, if one is sent.
    pub content_type: Option<&'static str>,
    /// The body.
    pub body: &'static str,
    /// The route under which it is counted: the label `endpoint`.
    pub endpoint: &'static str,
    /// A text that the body of a right response contains.
    pub response: Option<&'static str>,
}

impl RequestKind {
    /// A `POST /invoke` with a JSON body.
    #[must_use]
    pub fn invoke(body: &'static str) -> Self {
        Self {
            method: "POST",
            path: "/invoke",
            content_type: Some("application/json"),
            body,
            endpoint: "/invoke",
            response: None,
        }
    }

    /// A `GET`.
    #[must_use]
    pub fn get(path: &'static str, endpoint: &'static str) -> Self {
        Self {
            method: "GET",
            path,
            content_type: None,
            body: "",
            endpoint,
            response: None,
        }
    }

    /// The labels in `http_requests_total` of a response with this status code.
    #[must_use]
    pub fn labels(&self, code: u16) -> String {
        RequestLabels::new(self.method, self.endpoint, code).to_text()
    }
}

/// The responses to a load.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// The number of responses by their labels in `http_requests_total`.
    pub responses: BTreeMap<String, i64>,
    /// The number of requests without a response, or without the right one.
    pub failed: usize,
}

impl Tally {
    /// The number of responses.
    #[must_use]
    pub fn total(&self) -> i64 {
        self.responses.values().sum()
    }

    /// The number of responses with a status code.
    #[must_use]
    pub fn with_code(&self, code: u16) -> i64 {
        let label = format!("code=\"{code}\"");
        let responses = self.responses.iter();
        responses
            .filter(|(labels, _)| labels.contains(&label))
            .map(|(_, count)| count)
            .sum()
    }

    /// Adds the numbers of another load.
    pub fn add(&mut self, other: &Self) {
        self.failed += other.failed;
        for (labels, count) in &other.responses {
            *self.responses.entry(labels.clone()).or_default() += count;
        }
    }
}

/// When a load ends.
#[derive(Debug, Clone, Copy)]
pub enum Until {
    /// After this many requests.
    Requests(usize),
    /// After this time; requests that were sent before are waited for.
    Elapsed(Duration),
}

/// Sends requests of each kind in turn over `connections` connections, each of
/// which sends the next request when it has a response, and counts the responses.
///
/// # Panics
/// A thread of the client panics.
#[must_use]
pub fn load(origin: &str, kinds: &[RequestKind], connections: usize, until: Until) -> Tally {
    let next = AtomicUsize::new(0);
    let began = Instant::now();
    let is_over = |number: usize| match until {
        Until::Requests(count) => number >= count,
        Until::Elapsed(time) => began.elapsed() >= time,
    };
    let connection = || {
        let agent = agent();
        let mut tally = Tally::default();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if is_over(number) {
                return tally;
            }
            let kind = &kinds[number % kinds.len()];
            match send(&agent, origin, kind) {
                Ok(code) => *tally.responses.entry(kind.labels(code)).or_default() += 1,
                Err(_) => tally.failed += 1,
            }
        }
    };
    let mut tally = Tally::default();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..connections).map(|_| scope.spawn(connection)).collect();
        for thread in threads {
            tally.add(&thread.join().expect("no panic"));
        }
    });
    tally
}

/// A client that keeps a connection and takes every status code for a response.
#[must_use]
pub fn agent() -> Agent {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(TIMEOUT));
    config.build().into()
}

/// Sends a request and reads the whole response; returns the status code.
///
/// # Errors
/// There is no whole response, or another one than `kind` expects.
pub fn send(agent: &Agent, origin: &str, kind: &RequestKind) -> anyhow::Result<u16> {
    let url = format!("{origin}{}", kind.path);
    let mut request = Request::builder().method(kind.method).uri(url);
    if let Some(content_type) = kind.content_type {
        request = request.header("content-type", content_type);
    }
    let mut response = match kind.body {
        "" => agent.run(request.body(())?)?,
        body => agent.run(request.body(body)?)?,
    };
    let body = response.body_mut().read_to_vec()?;
    if let Some(expected) = kind.response {
        let body = String::from_utf8_lossy(&body);
        ensure!(body.contains(expected), "not {expected:?}: {body}");
    }
    Ok(response.status().as_u16())
}
