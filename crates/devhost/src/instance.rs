//! Component instances: how they are made, reused and ended.
//!
//! It owns the policy that wasmtime's `ProxyHandler` asks for, with Spin's
//! options and defaults: requests an instance takes in all and at a time, how
//! long it may idle, how long a request may take. The engine is in `engine`,
//! the limit on computing in `execution_limit`.

use std::fmt::Display;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rand::RngExt;
use tokio::time::Sleep;
use wasmtime::component::GuestTaskId;
use wasmtime::component::ResourceTable;
use wasmtime::{Store, StoreContextMut};
use wasmtime_wasi::WasiCtx;
use wasmtime_wasi_http::handler::{
    HandlerState, Instance, Proxy, ShouldAccept, WorkerExpiration, WorkerState, WorkerStatus,
};
use wasmtime_wasi_http::p3::bindings::ServicePre;
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpView};

use crate::execution_limit::Meter;
use crate::outbound_http::{HttpClient, OutboundHttp};
use crate::platform::{ComponentSettings, InstanceData};

/// A value, or a half-open range to draw one from for each instance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Setting<T> {
    Value(T),
    Between(T, T),
}

/// How instances are reused.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct ReuseOptions {
    /// Requests that an instance takes before it is dropped: a number, or a
    /// range such as 1..8 to draw it from for each instance.
    #[arg(long, value_name = "COUNT", default_value = "128", value_parser = parse_count)]
    max_instance_reuse_count: Setting<usize>,

    /// Requests that an instance takes at a time: a number or a range.
    #[arg(long, value_name = "COUNT", default_value = "16", value_parser = parse_count)]
    max_instance_concurrent_reuse_count: Setting<usize>,

    /// Time for a request to be answered, and for what it leaves behind to
    /// finish: a number of seconds or with the suffix s, ms, us or ns, or a
    /// range. Unlimited if not given.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    request_timeout: Option<Setting<Duration>>,

    /// Time that an instance without requests is kept: a time or a range.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_time)]
    idle_instance_timeout: Setting<Duration>,
}

/// Makes the instances of one component.
pub(crate) struct Instances {
    pub(crate) service: ServicePre<InstanceData>,
    pub(crate) settings: Arc<ComponentSettings>,
    pub(crate) client: HttpClient,
    pub(crate) reuse: ReuseOptions,
    /// How long a guest may compute without giving way.
    pub(crate) execution_limit: Duration,
}

impl HandlerState for Instances {
    type StoreData = InstanceData;
    type WorkerExpiration = Expiration;
    type WorkerState = Worker;

    async fn instantiate(&self) -> wasmtime::Result<Instance<InstanceData, Expiration, Worker>> {
        let mut store = Store::new(self.service.engine(), self.data());
        let meter = Meter::new(self.execution_limit);
        meter.install(&mut store);
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
                meter: meter.clone(),
                idle_timeout: draw(self.reuse.idle_instance_timeout),
                request_timeout,
                sleep: Box::pin(tokio::time::sleep(Duration::MAX)),
            },
            state: Worker {
                meter,
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
        // Spin, too, shows both on its own stderr.
        if !self.settings.quiet {
            wasi.stdout(wasmtime_wasi::cli::stderr());
            wasi.stderr(wasmtime_wasi::cli::stderr());
        }
        InstanceData {
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

/// How many requests an instance takes, and what becomes of it.
pub(crate) struct Worker {
    meter: Meter,
    request_timeout: Duration,
    max_requests: usize,
    max_concurrent: usize,
}

impl WorkerState for Worker {
    type StoreData = InstanceData;
    type RequestData = ();

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
        (): (),
        _: GuestTaskId,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + Sync>> {
        self.meter.give_way();
        let meter = self.meter.clone();
        let request_timeout = self.request_timeout;
        Box::pin(async move {
            // Elapsing is its only end.
            let _ = tokio::time::timeout(request_timeout, meter.watch()).await;
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
    meter: Meter,
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
        // Polled each time the worker's future is pending, and only then.
        self.meter.on_pending();
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

fn draw<T: rand::distr::uniform::SampleUniform + PartialOrd>(setting: Setting<T>) -> T {
    match setting {
        Setting::Value(value) => value,
        Setting::Between(from, to) => rand::rng().random_range(from..to),
    }
}

fn parse_count(text: &str) -> Result<Setting<usize>, String> {
    parse_setting(text, parse_number)
}

fn parse_time(text: &str) -> Result<Setting<Duration>, String> {
    parse_setting(text, parse_duration)
}

/// Parses a duration as Spin's options have it: seconds, or a whole number
/// with the suffix `s`, `ms`, `us`, `μs` or `ns`.
///
/// # Errors
///
/// The text is something else.
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

fn parse_setting<T: PartialOrd>(
    text: &str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Setting<T>, String> {
    let Some((from, to)) = text.split_once("..") else {
        return Ok(Setting::Value(parse(text)?));
    };
    let (from, to) = (parse(from)?, parse(to)?);
    if from >= to {
        return Err(format!("range {text} is empty"));
    }
    Ok(Setting::Between(from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_values_or_ranges() {
        assert_eq!(parse_count("128"), Ok(Setting::Value(128)));
        assert_eq!(parse_count("1..8"), Ok(Setting::Between(1, 8)));
        for (text, millis) in [("1", 1000), ("2s", 2000), ("30ms", 30), ("5000us", 5)] {
            let expected = Setting::Value(Duration::from_millis(millis));
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
