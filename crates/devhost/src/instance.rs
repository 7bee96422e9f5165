//! Creates, reuses and ends component instances.
//!
//! Implements the policy of wasmtime's `ProxyHandler` with Spin's options and
//! defaults: requests an instance serves in all and at a time, how long it can
//! idle, how long a request can take.

use std::fmt::Display;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rand::RngExt;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Sleep;
use wasmtime::component::{GuestTaskId, ResourceTable};
use wasmtime::{Store, StoreContextMut, StoreLimitsBuilder};
use wasmtime_wasi::WasiCtx;
use wasmtime_wasi_http::handler::{
    HandlerState, Instance, Proxy, ShouldAccept, WorkerExpiration, WorkerState, WorkerStatus,
};
use wasmtime_wasi_http::p3::bindings::ServicePre;
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpView};

use crate::component::ComponentSettings;
use crate::execution_limit::ExecutionTimer;
use crate::outbound_http::{HttpClient, OutboundHttp};
use crate::platform::InstanceData;

/// A value, or a half-open range from which each instance draws one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum ValueOrRange<T> {
    Value(T),
    Range(T, T),
}

/// Options for the reuse of instances, and their limits.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct ReuseOptions {
    /// Requests that an instance serves before it is dropped: a number, or a
    /// range such as 1..8 from which each instance draws one.
    #[arg(long, value_name = "COUNT", default_value = "128", value_parser = parse_count)]
    max_instance_reuse_count: ValueOrRange<usize>,

    /// Requests that an instance serves at a time: a number or a range.
    #[arg(long, value_name = "COUNT", default_value = "16", value_parser = parse_count)]
    max_instance_concurrent_reuse_count: ValueOrRange<usize>,

    /// Time limit for a request, and then for the work it started: a number of
    /// seconds or with the suffix s, ms, us or ns, or a range. Unlimited by
    /// default.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    request_timeout: Option<ValueOrRange<Duration>>,

    /// Time that an instance without requests is kept: a time or a range.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_time)]
    idle_instance_timeout: ValueOrRange<Duration>,

    /// Size to which each memory of an instance can grow, in bytes. Unlimited by
    /// default.
    #[arg(long, value_name = "BYTES", env = "SPIN_MAX_INSTANCE_MEMORY")]
    max_instance_memory: Option<usize>,
}

/// Creates the instances of one component.
pub(crate) struct Instances {
    pub(crate) service: ServicePre<InstanceData>,
    pub(crate) settings: Arc<ComponentSettings>,
    pub(crate) client: HttpClient,
    pub(crate) reuse: ReuseOptions,
    /// The longest time that a guest can compute without a wait.
    pub(crate) execution_limit: Duration,
}

impl HandlerState for Instances {
    type StoreData = InstanceData;
    type WorkerExpiration = Expiration;
    type WorkerState = Worker;

    async fn instantiate(&self) -> wasmtime::Result<Instance<InstanceData, Expiration, Worker>> {
        let mut store = Store::new(self.service.engine(), self.data());
        let timer = ExecutionTimer::new(self.execution_limit);
        timer.install(&mut store);
        store.limiter(|data| &mut data.limits);
        let service = self.service.instantiate_async(&mut store).await?;
        let request_timeout = match self.reuse.request_timeout {
            Some(timeout) => draw(timeout),
            None => Duration::MAX,
        };
        Ok(Instance {
            store,
            proxy: Proxy::P3(service),
            view: InstanceData::http,
            expiration: Expiration {
                timer: timer.clone(),
                idle_timeout: draw(self.reuse.idle_instance_timeout),
                request_timeout,
                sleep: Box::pin(tokio::time::sleep(Duration::MAX)),
            },
            state: Worker {
                timer,
                request_timeout,
                max_requests: draw(self.reuse.max_instance_reuse_count),
                max_concurrent: draw(self.reuse.max_instance_concurrent_reuse_count),
            },
        })
    }
}

impl Instances {
    fn data(&self) -> InstanceData {
        let mut wasi = WasiCtx::builder();
        wasi.envs(&self.settings.environment);
        // As in Spin, a component can create sockets; no address is allowed.
        wasi.allow_tcp(true).allow_udp(true);
        // Spin, too, writes both to its own stderr.
        if !self.settings.quiet {
            wasi.stdout(wasmtime_wasi::cli::stderr());
            wasi.stderr(wasmtime_wasi::cli::stderr());
        }
        let limits = StoreLimitsBuilder::new();
        let limits = match self.reuse.max_instance_memory {
            Some(bytes) => limits.memory_size(bytes),
            None => limits,
        };
        InstanceData {
            limits: limits.build(),
            settings: Arc::clone(&self.settings),
            wasi: wasi.build(),
            table: ResourceTable::new(),
            http: WasiHttpCtx::new(),
            outbound_http: OutboundHttp {
                client: self.client.clone(),
                settings: Arc::clone(&self.settings),
            },
            redis_connections: 0,
        }
    }
}

/// Decides how many requests an instance serves, and reports its failure.
pub(crate) struct Worker {
    timer: ExecutionTimer,
    request_timeout: Duration,
    max_requests: usize,
    max_concurrent: usize,
}

impl WorkerState for Worker {
    type StoreData = InstanceData;
    /// Held until the request ends, which can be long after its client is gone.
    type RequestData = OwnedSemaphorePermit;

    fn should_accept_request(&self, concurrent: usize, total: usize) -> ShouldAccept {
        if total >= self.max_requests {
            ShouldAccept::Never
        } else if concurrent >= self.max_concurrent {
            ShouldAccept::No
        } else {
            ShouldAccept::Yes
        }
    }

    fn on_request_start(
        &self,
        _: StoreContextMut<'_, InstanceData>,
        permit: OwnedSemaphorePermit,
        _: GuestTaskId,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + Sync>> {
        self.timer.reset();
        let timer = self.timer.clone();
        let request_timeout = self.request_timeout;
        Box::pin(async move {
            let _permit = permit;
            // Ends only when the time is over.
            let _ = tokio::time::timeout(request_timeout, timer.reset_periodically()).await;
        })
    }

    fn drop(&self, store: Store<InstanceData>, result: Result<(), wasmtime::Error>) {
        if let Err(error) = result {
            eprintln!(
                "worker of component {} failed: {error:?}",
                store.data().settings.id
            );
        }
    }
}

/// Ends an instance that idles or hangs.
pub(crate) struct Expiration {
    timer: ExecutionTimer,
    idle_timeout: Duration,
    request_timeout: Duration,
    sleep: Pin<Box<Sleep>>,
}

impl WorkerExpiration for Expiration {
    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        status: WorkerStatus,
        since: Instant,
    ) -> Poll<()> {
        // `ProxyHandler` polls this when the worker's future is pending, and only
        // then.
        self.timer.on_pending();
        let timeout = match status {
            WorkerStatus::Idle => self.idle_timeout,
            WorkerStatus::Requests | WorkerStatus::PostReturn => self.request_timeout,
        };
        let Some(deadline) = since.checked_add(timeout) else {
            return Poll::Pending;
        };
        if self.sleep.deadline() != deadline.into() {
            self.sleep.as_mut().reset(deadline.into());
        }
        self.sleep.as_mut().poll(cx)
    }
}

fn draw<T: rand::distr::uniform::SampleUniform + PartialOrd>(option: ValueOrRange<T>) -> T {
    match option {
        ValueOrRange::Value(value) => value,
        ValueOrRange::Range(from, to) => rand::rng().random_range(from..to),
    }
}

fn parse_count(text: &str) -> Result<ValueOrRange<usize>, String> {
    parse_value_or_range(text, parse_number)
}

fn parse_time(text: &str) -> Result<ValueOrRange<Duration>, String> {
    parse_value_or_range(text, parse_duration)
}

/// Parses a duration of Spin's options: whole seconds, or a whole number with the
/// suffix `s`, `ms`, `us`, `μs` or `ns`.
///
/// # Errors
///
/// The text has another form.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit): (&str, fn(u64) -> Duration) = if let Some(number) = text.strip_suffix("ms")
    {
        (number, Duration::from_millis)
    } else if let Some(number) = text.strip_suffix("us").or(text.strip_suffix("μs")) {
        (number, Duration::from_micros)
    } else if let Some(number) = text.strip_suffix("ns") {
        (number, Duration::from_nanos)
    } else {
        (text.strip_suffix('s').unwrap_or(text), Duration::from_secs)
    };
    Ok(unit(parse_number(number)?))
}

fn parse_number<T: FromStr<Err: Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error| format!("{text:?}: {error}"))
}

fn parse_value_or_range<T: PartialOrd>(
    text: &str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<ValueOrRange<T>, String> {
    let Some((from, to)) = text.split_once("..") else {
        return Ok(ValueOrRange::Value(parse(text)?));
    };
    let (from, to) = (parse(from)?, parse(to)?);
    if from >= to {
        return Err(format!("range {text} is empty"));
    }
    Ok(ValueOrRange::Range(from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_values_or_ranges() {
        assert_eq!(parse_count("128"), Ok(ValueOrRange::Value(128)));
        assert_eq!(parse_count("1..8"), Ok(ValueOrRange::Range(1, 8)));
        for (text, millis) in [("1", 1000), ("2s", 2000), ("30ms", 30), ("5000us", 5)] {
            let expected = ValueOrRange::Value(Duration::from_millis(millis));
            assert_eq!(parse_time(text), Ok(expected), "{text}");
        }
        for text in ["", "x", "1..", "8..1", "1..1", "-1"] {
            assert!(parse_count(text).is_err(), "{text}");
        }
        for text in ["", "1m", "1.5s", "s", "1 s"] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }
}
