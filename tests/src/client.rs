//! Requests, and the ledger of what was answered to them.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use functional_scaffold_protocol::catalog::RequestLabels;
use reqwest::{Client, Method};

/// One kind of request, and where it is counted.
#[derive(Debug, Clone)]
pub struct Kind {
    /// The method.
    pub method: Method,
    /// The path.
    pub path: &'static str,
    /// The content type, if any is sent.
    pub content_type: Option<&'static str>,
    /// The body.
    pub body: &'static str,
    /// The pattern of the path that it is counted under.
    pub endpoint: &'static str,
}

impl Kind {
    /// A `POST /invoke` with a JSON body.
    #[must_use]
    pub fn invoke(body: &'static str) -> Self {
        Self {
            method: Method::POST,
            path: "/invoke",
            content_type: Some("application/json"),
            body,
            endpoint: "/invoke",
        }
    }

    /// A `GET`.
    #[must_use]
    pub fn get(path: &'static str, endpoint: &'static str) -> Self {
        Self {
            method: Method::GET,
            path,
            content_type: None,
            body: "",
            endpoint,
        }
    }
}

/// How many answers of each kind came, by the label set they are counted under.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Answers by label set of the request counter.
    pub answers: BTreeMap<String, i64>,
    /// Requests that got no answer at all.
    pub unanswered: usize,
}

impl Ledger {
    /// All answers.
    #[must_use]
    pub fn total(&self) -> i64 {
        self.answers.values().sum()
    }

    /// The answers of one status code.
    #[must_use]
    pub fn with_code(&self, code: u16) -> i64 {
        let label = format!("code=\"{code}\"");
        let matching = self.answers.iter();
        matching
            .filter(|(labels, _)| labels.contains(&label))
            .map(|(_, count)| count)
            .sum()
    }

    fn add(&mut self, kind: &Kind, answer: Option<u16>) {
        let Some(code) = answer else {
            self.unanswered += 1;
            return;
        };
        let labels = RequestLabels::new(kind.method.as_str(), kind.endpoint, code).to_text();
        *self.answers.entry(labels).or_default() += 1;
    }
}

/// When a load ends.
#[derive(Debug, Clone, Copy)]
pub enum Until {
    /// After so many requests.
    Requests(usize),
    /// After so long.
    Elapsed(Duration),
}

/// Sends the kinds in turn over `concurrency` connections.
///
/// # Errors
/// A task of the client itself failed; failed requests are in the ledger.
pub async fn load(
    origin: &str,
    kinds: &[Kind],
    concurrency: usize,
    until: Until,
) -> anyhow::Result<Ledger> {
    let client = Client::builder()
        .pool_max_idle_per_host(concurrency)
        .timeout(Duration::from_secs(30))
        .build()?;
    let next = Arc::new(AtomicUsize::new(0));
    let deadline = match until {
        Until::Requests(_) => None,
        Until::Elapsed(duration) => Some(tokio::time::Instant::now() + duration),
    };
    let most = match until {
        Until::Requests(most) => most,
        Until::Elapsed(_) => usize::MAX,
    };
    let tasks: Vec<_> = (0..concurrency)
        .map(|_| {
            let (client, next) = (client.clone(), Arc::clone(&next));
            let (origin, kinds) = (origin.to_owned(), kinds.to_vec());
            tokio::spawn(async move {
                let mut ledger = Ledger::default();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let expired = deadline.is_some_and(|end| tokio::time::Instant::now() >= end);
                    if number >= most || expired {
                        return ledger;
                    }
                    let kind = &kinds[number % kinds.len()];
                    let answer = send(&client, &origin, kind).await.ok();
                    ledger.add(kind, answer);
                }
            })
        })
        .collect();
    let mut ledger = Ledger::default();
    for task in tasks {
        let part = task.await.context("a client task failed")?;
        ledger.unanswered += part.unanswered;
        for (labels, count) in part.answers {
            *ledger.answers.entry(labels).or_default() += count;
        }
    }
    Ok(ledger)
}

async fn send(client: &Client, origin: &str, kind: &Kind) -> anyhow::Result<u16> {
    let mut request = client.request(kind.method.clone(), format!("{origin}{}", kind.path));
    if let Some(content_type) = kind.content_type {
        request = request.header("content-type", content_type);
    }
    let response = request.body(kind.body).send().await?;
    let code = response.status().as_u16();
    response.bytes().await?;
    Ok(code)
}
