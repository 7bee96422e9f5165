//! The command `push`: relays the families to a Pushgateway, as one group that each push
//! replaces. It reads what a scrape reads, with the same high-water marks, so that no
//! counter there goes backwards.
//!
//! A push may arrive late: a proxy or the network delivers it after the relay gave it up,
//! and it then replaces newer counts. So no two relays share a group, a retry reads
//! Redis again, and after a push without a response the relay begins another group. It
//! deletes the old one once the new one is there, so that the maximum over all groups,
//! which the recording rules take, never decreases. It deletes it again from time to
//! time, because the push may arrive after the first deletion and create the group again:
//! after a wipe, its old counts would hide the new ones.

use std::{collections::VecDeque, fmt, mem, pin::pin, sync::Arc, time::Duration};

use anyhow::{Context as _, bail, ensure};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use functional_scaffold_protocol::{
    exposition::{Exposition, Format},
    pushgateway::group_path,
};
use futures_util::{StreamExt as _, stream};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, Response, Uri,
    body::{Bytes, Incoming},
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue},
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustls::crypto::ring;
use thiserror::Error;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use url::Url;

use crate::{
    cli::{Config, PushOptions},
    redis_client,
    scrape::{
        decode_errors::DecodeErrorLog,
        reader::Reader,
        self_metrics::write_regressions,
        store::{Store, addresses},
    },
    server::stop_signal,
};

/// The pause before the first retry of a push; it doubles with each.
const BACKOFF: Duration = Duration::from_millis(250);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// The label that tells the groups of relays apart. The recording rules take the maximum
/// over its values.
const INSTANCE: &str = "instance";
/// The label by which the recording rules know totals of Redis.
const SCHEME: (&str, &str) = ("scheme", "redis");
/// Abandoned groups to be deleted. Each takes a push without a response.
const MAX_ABANDONED: usize = 1000;
/// An abandoned group that is younger is deleted again when its age has doubled. TCP gives up sending after a
/// quarter of an hour, and proxies before that.
const DELETED_AGAIN: Duration = Duration::from_secs(30 * 60);
/// The time for deleting a relay's groups when it ends.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);
const DELETIONS_AT_A_TIME: usize = 16;
/// Bytes of an error response that are shown.
const MAX_ERROR_BYTES: usize = 1000;

/// Pushes at an interval until SIGTERM or SIGINT, or once.
pub(crate) async fn push(mut config: Config, options: &PushOptions) -> anyhow::Result<()> {
    let mut stop = pin!(stop_signal().context("cannot receive signals")?);
    let groups = Groups::new(options)?;
    config.scrape_timeout = config.scrape_timeout.min(options.interval);
    let stores = Store::all(&config, &Arc::default())?;
    let mut relay = Relay {
        addresses: addresses(stores.iter().map(|store| &**store)),
        reader: Reader::new(&stores, config.scrape_timeout, config.state_file.clone()),
        groups,
        timeout: options.interval,
        decode_errors: DecodeErrorLog::default(),
        regressions: 0,
        shown_regressions: 0,
    };
    if options.once {
        return tokio::select! {
            pushed = relay.push() => pushed,
            name = stop => bail!("stopped on {name} before the push"),
        };
    }
    // The relay may be the only reader. The tasks end with the runtime.
    for store in &stores {
        tokio::spawn(Arc::clone(store).settle_loop(config.settle_interval));
    }
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        "pushing to {} from Redis at {}, every {}",
        relay.groups.current,
        relay.addresses,
        humantime::format_duration(options.interval)
    );
    let mut ticks = interval(options.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        let pushing = async {
            ticks.tick().await;
            relay.push().await
        };
        let pushed = tokio::select! {
            pushed = pushing => pushed,
            name = &mut stop => {
                tracing::info!("stopping on {name}");
                if timeout(STOP_TIMEOUT, relay.groups.delete_own()).await.is_err() {
                    tracing::warn!("{} is left in the Pushgateway", relay.groups.current);
                }
                return Ok(());
            }
        };
        // Changes are logged, not states.
        match &pushed {
            Ok(()) if failing => {
                tracing::info!("pushing to {} works again", relay.groups.current);
            }
            Err(error) if !failing => tracing::warn!("not pushed: {error:#}"),
            _ => {}
        }
        failing = pushed.is_err();
    }
}

struct Relay {
    /// Of Redis.
    addresses: String,
    reader: Reader,
    groups: Groups,
    /// For one push with its retries.
    timeout: Duration,
    decode_errors: DecodeErrorLog,
    /// Since the start. Readers share what they know of lost counts, so that only the one
    /// that sees a regression first counts it.
    regressions: u64,
    /// The regressions that a group of the relay's own shows: the number at the last push. A group whose first value is above 0 would not show an increase.
    shown_regressions: u64,
}

impl Relay {
    /// Reads Redis and pushes the families and the regressions, until the Pushgateway
    /// accepts them. The exporter's other metrics are about scrapes, and are left out.
    async fn push(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + self.timeout;
        let mut pause = BACKOFF;
        loop {
            let exposition = self.read().await?;
            let error = match self.groups.current.put(&exposition).await {
                Ok(()) => {
                    self.shown_regressions = self.regressions;
                    self.groups.delete_abandoned().await;
                    return Ok(());
                }
                Err(error) => error,
            };
            let group = self.groups.current.to_string();
            if error.may_arrive_late() {
                self.groups.abandon_current()?;
            }
            let retry = Instant::now() + pause;
            if !error.is_transient() || retry >= deadline {
                return Err(error).with_context(|| format!("cannot push to {group}"));
            }
            tracing::debug!("trying again in {pause:?}: {error}");
            sleep_until(retry).await;
            pause *= 2;
        }
    }

    async fn read(&mut self) -> anyhow::Result<Bytes> {
        let read = self.reader.read().await.map_err(|unread| unread.failure);
        let reading = read.with_context(|| format!("cannot read Redis ({})", self.addresses))?;
        self.decode_errors.log(&reading.decode_errors);
        self.regressions += reading.regressions;
        let regressions = match self.groups.own {
            Some(_) => self.shown_regressions,
            None => self.regressions,
        };
        let families = reading.exposed().map(|family| &family.family);
        let mut exposition = Exposition::begin(Format::Text, families, 0);
        write_regressions(&mut exposition, regressions);
        reading.write_to(&mut exposition);
        Ok(Bytes::from(exposition.finish()))
    }
}

/// The groups of one relay.
struct Groups {
    current: Group,
    /// How to begin another one; None if the group was given.
    own: Option<OwnGroup>,
    /// Groups in which a push may still arrive, or has.
    abandoned: VecDeque<AbandonedGroup>,
}

struct AbandonedGroup {
    group: Group,
    since: Instant,
    /// When to delete it next.
    due: Option<Instant>,
}

impl AbandonedGroup {
    fn new(group: Group) -> Self {
        let since = Instant::now();
        let due = Some(since);
        Self { group, since, due }
    }

    /// Schedules the next deletion for when the age has doubled. So a group takes about ten
    /// requests, and one that a late push created stays no longer than the push was late.
    fn schedule_next(&mut self, now: Instant) {
        let age = now - self.since;
        self.due = (age < DELETED_AGAIN).then(|| now + age);
    }
}

/// The options of a relay's own groups.
struct OwnGroup {
    /// All groups share it.
    client: HttpClient,
    to: String,
    job: String,
    labels: Vec<(String, String)>,
}

impl OwnGroup {
    /// A group that no other relay has.
    fn begin(&self) -> anyhow::Result<Group> {
        let mut labels = self.labels.clone();
        let name = format!("relay-{:016x}", redis_client::random());
        labels.insert(0, (INSTANCE.to_owned(), name));
        let client = self.client.clone();
        Group::new(client, &self.to, &self.job, &labels)
    }
}

impl Groups {
    /// Without a label `instance`, the group is the relay's own. A single push has no use
    /// for one: it would leave one behind each time.
    fn new(options: &PushOptions) -> anyhow::Result<Self> {
        let client = http_client()?;
        let mut labels = options.grouping.clone();
        let has = |labels: &[(String, String)], name| labels.iter().any(|label| label.0 == name);
        let own = if options.once || has(&labels, INSTANCE) {
            None
        } else {
            if !has(&labels, SCHEME.0) {
                labels.push((SCHEME.0.to_owned(), SCHEME.1.to_owned()));
            }
            Some(OwnGroup {
                client: client.clone(),
                to: options.to.clone(),
                job: options.job.clone(),
                labels,
            })
        };
        let current = match &own {
            Some(own) => own.begin()?,
            None => Group::new(client, &options.to, &options.job, &options.grouping)?,
        };
        Ok(Self {
            current,
            own,
            abandoned: VecDeque::new(),
        })
    }

    /// Begins another group, if the groups are the relay's own.
    fn abandon_current(&mut self) -> anyhow::Result<()> {
        if let Some(own) = &self.own {
            let abandoned = mem::replace(&mut self.current, own.begin()?);
            if self.abandoned.len() == MAX_ABANDONED
                && let Some(AbandonedGroup { group, .. }) = self.abandoned.pop_front()
            {
                tracing::warn!("{group} is left in the Pushgateway if its push arrives");
            }
            self.abandoned.push_back(AbandonedGroup::new(abandoned));
        }
        Ok(())
    }

    /// Deletes the abandoned groups that are due. Stops at the first failure; the rest is
    /// tried after the next push.
    async fn delete_abandoned(&mut self) {
        let now = Some(Instant::now());
        for abandoned in self.abandoned.iter_mut().filter(|group| group.due <= now) {
            let group = &abandoned.group;
            if let Err(error) = group.delete().await {
                tracing::debug!("cannot delete {group}: {error}");
                break;
            }
            abandoned.schedule_next(Instant::now());
        }
        self.abandoned.retain(|abandoned| abandoned.due.is_some());
    }

    /// Deletes the relay's own groups, because it ends: another relay begins a new one.
    async fn delete_own(&mut self) {
        if self.own.is_none() {
            return;
        }
        // Several at a time, because there may be many and the time is short. The newest
        // counts go last.
        let abandoned = self.abandoned.iter();
        let deletions = abandoned.map(|abandoned| abandoned.group.delete());
        let deletions = stream::iter(deletions).buffer_unordered(DELETIONS_AT_A_TIME);
        let deleted: Vec<_> = deletions.collect().await;
        for error in deleted.into_iter().filter_map(Result::err) {
            tracing::debug!("cannot delete an abandoned group: {error}");
        }
        if let Err(error) = self.current.delete().await {
            tracing::warn!("{} is left in the Pushgateway: {error}", self.current);
        }
    }
}

/// Why a Pushgateway did not accept a group.
#[derive(Debug, Error)]
pub(crate) enum PushError {
    #[error("not connected: {0:#}")]
    NotConnected(anyhow::Error),
    #[error("no response: {0:#}")]
    NoResponse(anyhow::Error),
    #[error("it responded {status}: {text}")]
    Refused { status: u16, text: String },
}

impl PushError {
    /// Whether the same push may be accepted later.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::NotConnected(_) | Self::NoResponse(_) => true,
            Self::Refused { status, .. } => *status >= 500 || *status == 429,
        }
    }

    /// Whether the push may still be applied.
    fn may_arrive_late(&self) -> bool {
        match self {
            Self::NotConnected(_) => false,
            Self::NoResponse(_) => true,
            // A gateway in between responds these without knowing.
            Self::Refused { status, .. } => matches!(status, 502 | 504),
        }
    }
}

type HttpClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// Trusts the system's certificates, or those of SSL_CERT_FILE.
fn http_client() -> anyhow::Result<HttpClient> {
    let connector = HttpsConnectorBuilder::new()
        .with_provider_and_native_roots(ring::default_provider())
        .context("no certificates to trust")?
        .https_or_http()
        .enable_http1()
        .build();
    Ok(Client::builder(TokioExecutor::new()).build(connector))
}

/// One group in a Pushgateway.
pub(crate) struct Group {
    client: HttpClient,
    uri: Uri,
    authorization: Option<HeaderValue>,
    /// The URL without credentials.
    address: String,
}

impl fmt::Display for Group {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.address)
    }
}

impl Group {
    /// The group with this job and further labels in the Pushgateway at `url`, which may
    /// contain credentials. No error shows it.
    fn new(
        client: HttpClient,
        url: &str,
        job: &str,
        labels: &[(String, String)],
    ) -> anyhow::Result<Self> {
        let labels = labels.iter().map(|(name, value)| (&**name, &**value));
        Self::with_client(client, url, &group_path(job, labels))
    }

    /// The group at a path below `url`, as [`group_path`] returns it.
    pub(crate) fn at(url: &str, path: &str) -> anyhow::Result<Self> {
        Self::with_client(http_client()?, url, path)
    }

    fn with_client(client: HttpClient, url: &str, path: &str) -> anyhow::Result<Self> {
        let mut url = Url::parse(url).context("invalid URL of the Pushgateway")?;
        ensure!(
            matches!(url.scheme(), "http" | "https"),
            "the Pushgateway's URL begins with neither http:// nor https://"
        );
        let authorization = basic_authorization(&url)?;
        // These fail for URLs without a host, which HTTP URLs have.
        let _ = (url.set_username(""), url.set_password(None));
        // The path may come from a log, and must not lead to anything but a group.
        let is_group = ["/metrics/job/", "/metrics/job@base64/"]
            .iter()
            .any(|start| path.starts_with(start));
        let path = format!("{}{path}", url.path().trim_end_matches('/'));
        url.set_path(&path);
        ensure!(
            is_group && url.path() == path,
            "{path:?} is not the path of a group"
        );
        url.set_query(None);
        url.set_fragment(None);
        let uri = url
            .as_str()
            .parse()
            .context("invalid URL of the Pushgateway")?;
        Ok(Self {
            client,
            uri,
            authorization,
            address: url.into(),
        })
    }

    /// Replaces the group by an exposition in the text format.
    pub(crate) async fn put(&self, exposition: &Bytes) -> Result<(), PushError> {
        self.request(Method::PUT, exposition.clone()).await
    }

    async fn delete(&self) -> Result<(), PushError> {
        self.request(Method::DELETE, Bytes::new()).await
    }

    async fn request(&self, method: Method, body: Bytes) -> Result<(), PushError> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = self.uri.clone();
        let headers = request.headers_mut();
        let content_type = HeaderValue::from_static(Format::Text.content_type());
        headers.insert(CONTENT_TYPE, content_type);
        if let Some(authorization) = &self.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        let response = async {
            let response = self.client.request(request).await.map_err(|error| {
                if error.is_connect() {
                    PushError::NotConnected(error.into())
                } else {
                    PushError::NoResponse(error.into())
                }
            })?;
            let status = response.status();
            Ok::<_, PushError>((status, beginning(response).await))
        };
        let (status, text) = timeout(REQUEST_TIMEOUT, response)
            .await
            .with_context(|| format!("not within {REQUEST_TIMEOUT:?}"))
            .map_err(PushError::NoResponse)
            .flatten()?;
        if status.is_success() {
            return Ok(());
        }
        let status = status.as_u16();
        Err(PushError::Refused { status, text })
    }
}

/// User and password of a URL as a header.
fn basic_authorization(url: &Url) -> anyhow::Result<Option<HeaderValue>> {
    if url.username().is_empty() && url.password().is_none() {
        return Ok(None);
    }
    let decode = |text| percent_encoding::percent_decode_str(text).collect::<Vec<u8>>();
    let user = decode(url.username());
    let password = decode(url.password().unwrap_or_default());
    let encoded = BASE64_STANDARD.encode([&user[..], b":", &password].concat());
    let mut header = HeaderValue::try_from(format!("Basic {encoded}"))
        .context("unusable user or password of the Pushgateway")?;
    header.set_sensitive(true);
    Ok(Some(header))
}

/// The beginning of a response's body, on one line.
async fn beginning(response: Response<Incoming>) -> String {
    let body = Limited::new(response.into_body(), MAX_ERROR_BYTES)
        .collect()
        .await;
    // The status says enough if the body is longer, or breaks off.
    let body = body.map(|body| body.to_bytes()).unwrap_or_default();
    let text = String::from_utf8_lossy(&body);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_from_a_log_must_be_that_of_a_group() {
        let at = |path| Group::at("http://me:s3cret@h:9091/below/", path);
        let group = at("/metrics/job@base64/YS9i/instance/x").expect("a group");
        assert_eq!(
            group.to_string(),
            "http://h:9091/below/metrics/job@base64/YS9i/instance/x"
        );
        for path in [
            "",
            "/api/v1/admin/wipe",
            "/metrics/job/../../api/v1/admin/wipe",
            "/metrics/job/%2e%2e/x",
            "/metrics/job/x?y",
        ] {
            let error = at(path).err().expect("it is refused");
            assert!(!format!("{error:#}").contains("s3cret"), "{error:#}");
        }
    }
}
