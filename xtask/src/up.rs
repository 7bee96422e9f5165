//! `cargo xtask up`: the app and what its metrics take, from the build to the
//! Ctrl-C that stops all of it.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use clap::Args;

use crate::InstallOptions;
use crate::address;
use crate::build;
use crate::child::Child;
use crate::children::Children;
use crate::manifest::Manifest;
use crate::metrics_backend::MetricsBackend;
use crate::probe;
use crate::prometheus::{Prometheus, Target};
use crate::pushgateway::Pushgateway;
use crate::redis_server::{self, RedisServer};
use crate::redis_settings::RedisSettings;
use crate::runtime::{Runtime, RuntimeName};
use crate::spin_variables::SpinVariables;
use crate::steps::Steps;
use crate::tools;

const EXPORTER: &str = "functional-scaffold-exporter";

/// Build everything, and run the app and what its metrics take until Ctrl-C.
///
/// That is Redis and the exporter; a Pushgateway with
/// SPIN_VARIABLE_METRICS_BACKEND=pushgateway; nothing with pull. Redis is the one
/// that REDIS_HOST names (with REDIS_PORT, REDIS_USERNAME, REDIS_PASSWORD, and for
/// TLS REDIS_TLS and REDIS_CA_FILE); else one is started, with its data in
/// .functional-scaffold/: redis-server or valkey-server, Debian's package
/// (installed if we are root), or a Docker container. The Pushgateway is the one
/// that SPIN_VARIABLE_PUSHGATEWAY_URL names, or one that is started. App and
/// exporter get the same settings, from the environment or from .env.
#[derive(Args)]
pub(crate) struct Up {
    /// Address and port of the app.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8000", value_parser = address::parse)]
    listen: SocketAddr,

    /// Address and port of the exporter.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8001", value_parser = address::parse)]
    exporter_listen: SocketAddr,

    /// Port of the Redis that is started; 6379 unless REDIS_PORT is set.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    redis_port: Option<u16>,

    /// Address and port of the Pushgateway that is started.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9091", value_parser = address::parse)]
    pushgateway_listen: SocketAddr,

    /// Run a Prometheus, too, with the rules and alerts of monitoring/: the one
    /// on PATH, or Debian's package (installed if we are root).
    #[arg(long)]
    monitoring: bool,

    /// Address and port of that Prometheus.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9090", value_parser = address::parse)]
    prometheus_listen: SocketAddr,

    /// What runs the app.
    #[arg(long, value_enum, env = "SCAFFOLD_RUNTIME", default_value = "devhost")]
    runtime: RuntimeName,

    /// Run what was built before.
    #[arg(long)]
    no_build: bool,

    #[command(flatten)]
    install: InstallOptions,
}

/// Everything that was found before anything is started.
struct Plan {
    up: Up,
    runtime: Runtime,
    store: Store,
    prometheus: Option<Prometheus>,
    api_key_is_set: bool,
}

/// Where the counts are kept, with what it takes.
enum Store {
    Redis(RedisServer, RedisSettings),
    Pushgateway(Pushgateway),
    /// In the app's one instance.
    App,
    Nowhere,
}

impl Up {
    /// Runs the command until somebody ends it.
    ///
    /// # Errors
    ///
    /// What is missing, in use, failed to build or start, or ended by itself.
    pub(crate) fn run(self) -> Result<()> {
        let variables = SpinVariables::read()?;
        let plan = self.plan(&variables)?;
        plan.check_ports()?;
        let manifest = Manifest::read()?;
        for name in variables.unknown(&manifest.variables()) {
            eprintln!("warning: {name} is no variable of spin.toml; it changes nothing");
        }
        let mut steps = Steps::default();
        if plan.up.no_build {
            manifest.check_built()?;
        } else {
            build::build(&mut steps, plan.up.install)?;
            // A build takes minutes, and ports do not wait.
            plan.check_ports()?;
        }
        let mut children = steps.run("start", || plan.start())?;
        plan.announce()?;
        children.watch()
    }

    fn plan(self, variables: &SpinVariables) -> Result<Plan> {
        let store = match MetricsBackend::read(variables)? {
            MetricsBackend::Redis => self.redis(RedisSettings::read(variables))?,
            MetricsBackend::Pushgateway => {
                Store::Pushgateway(Pushgateway::find(variables, self.install)?)
            }
            MetricsBackend::Pull => Store::App,
            MetricsBackend::Off => Store::Nowhere,
        };
        let prometheus = match self.monitoring {
            true => Some(Prometheus::find(self.install)?),
            false => None,
        };
        Ok(Plan {
            runtime: Runtime::find(self.runtime)?,
            up: self,
            store,
            prometheus,
            api_key_is_set: variables.get("API_KEY").is_some(),
        })
    }

    fn redis(&self, mut settings: RedisSettings) -> Result<Store> {
        ensure!(
            self.redis_port.is_none() || settings.host().is_none(),
            "--redis-port is for a Redis that is started, but REDIS_HOST names one: use REDIS_PORT"
        );
        let redis = RedisServer::find(&settings, self.install)?;
        if redis.is_own() {
            let port = self.redis_port.map_or_else(|| settings.port(), Ok)?;
            settings = settings.at("127.0.0.1", port);
        }
        Ok(Store::Redis(redis, settings))
    }
}

impl Plan {
    fn check_ports(&self) -> Result<()> {
        for (at, (address, purpose, option)) in self.listeners().iter().enumerate() {
            for (other, _, other_option) in &self.listeners()[..at] {
                ensure!(
                    address != other,
                    "{other_option} and {option} are both {address}"
                );
            }
            address::check_free(*address, purpose, option)?;
        }
        match &self.store {
            Store::Redis(redis, settings) if redis.is_own() => {
                redis_server::check_port(settings.port()?)
            }
            _ => Ok(()),
        }
    }

    /// The servers that are to listen, but for Redis: where, what they are to
    /// the user, and the option to have them elsewhere.
    fn listeners(&self) -> Vec<(SocketAddr, &'static str, &'static str)> {
        let up = &self.up;
        let mut listeners = vec![(up.listen, "the app", "--listen")];
        match &self.store {
            Store::Redis(..) => {
                listeners.push((up.exporter_listen, "the exporter", "--exporter-listen"));
            }
            Store::Pushgateway(pushgateway) if pushgateway.is_own() => {
                let address = up.pushgateway_listen;
                listeners.push((address, "the Pushgateway", "--pushgateway-listen"));
            }
            _ => {}
        }
        if self.prometheus.is_some() {
            let address = up.prometheus_listen;
            listeners.push((address, "Prometheus", "--prometheus-listen"));
        }
        listeners
    }

    fn start(&self) -> Result<Children> {
        let mut children = Children::default();
        match &self.store {
            Store::Redis(redis, settings) => {
                if let Some(child) = redis.start(settings)? {
                    let port = settings.port()?;
                    let credentials = settings.credentials();
                    children.add(child, || probe::redis_pong("127.0.0.1", port, credentials))?;
                }
            }
            Store::Pushgateway(pushgateway) => {
                let listen = self.up.pushgateway_listen;
                if let Some(child) = pushgateway.start(listen)? {
                    let address = address::reached_at(listen);
                    children.add(child, || probe::http_ok(address, "/-/ready"))?;
                }
            }
            Store::App | Store::Nowhere => {}
        }
        self.start_app(&mut children)?;
        if let Store::Redis(_, settings) = &self.store {
            self.start_exporter(settings, &mut children)?;
        }
        if let Some(prometheus) = &self.prometheus {
            let listen = self.up.prometheus_listen;
            let address = address::reached_at(listen);
            let child = prometheus.start(listen, self.target().as_ref())?;
            children.add(child, || probe::http_ok(address, "/-/ready"))?;
        }
        Ok(children)
    }

    fn start_app(&self, children: &mut Children) -> Result<()> {
        let mut app = self.runtime.up(self.up.listen);
        match &self.store {
            Store::Redis(_, settings) => {
                app.envs(settings.for_app());
                // What the exporter trusts, whatever runs the app is to trust, too.
                if let Some(file) = settings.certificate_authority() {
                    app.env("SSL_CERT_FILE", file);
                }
            }
            Store::Pushgateway(pushgateway) => {
                let url = pushgateway.url(address::reached_at(self.up.pushgateway_listen));
                app.env("SPIN_VARIABLE_PUSHGATEWAY_URL", url);
            }
            // What an instance counted, it takes with it.
            Store::App => {
                app.args(["--max-instance-reuse-count", "1000000000"]);
                app.args(["--idle-instance-timeout", "31536000s"]);
            }
            Store::Nowhere => {}
        }
        let address = address::reached_at(self.up.listen);
        let child = Child::spawn("the app", &mut app)?;
        children.add(child, || probe::http_ok(address, "/healthz"))
    }

    fn start_exporter(&self, settings: &RedisSettings, children: &mut Children) -> Result<()> {
        let mut exporter = tools::command(tools::built(EXPORTER));
        // It would win over host and port, and so over what the app got.
        exporter
            .env_remove("REDIS_URL")
            .envs(settings.for_exporter())
            .env("EXPORTER_LISTEN", self.up.exporter_listen.to_string());
        if self.prometheus.is_some() {
            let prometheus = address::reached_at(self.up.prometheus_listen);
            exporter.env("EXPORTER_PROMETHEUS_URL", format!("http://{prometheus}/"));
        }
        let address = address::reached_at(self.up.exporter_listen);
        let child = Child::spawn("the exporter", &mut exporter)?;
        children.add(child, || probe::http_ok(address, "/healthz"))
    }

    /// What Prometheus scrapes.
    fn target(&self) -> Option<Target> {
        let up = &self.up;
        match &self.store {
            Store::Redis(..) => {
                let address = address::reached_at(up.exporter_listen);
                Some(("redis", address.to_string()))
            }
            Store::Pushgateway(pushgateway) => {
                let url = pushgateway.url(address::reached_at(up.pushgateway_listen));
                let address = url.trim_start_matches("http://").trim_end_matches('/');
                Some(("pushgateway", address.to_owned()))
            }
            Store::App => {
                let address = address::reached_at(up.listen);
                Some(("pull", address.to_string()))
            }
            Store::Nowhere => None,
        }
    }

    fn announce(&self) -> Result<()> {
        let app = address::reached_at(self.up.listen);
        let api_key = match self.api_key_is_set {
            true => " -H \"Authorization: Bearer $SPIN_VARIABLE_API_KEY\"",
            false => "",
        };
        println!("\nEverything runs; Ctrl-C stops it. Try:\n");
        println!("  curl -X POST http://{app}/invoke{api_key} -d '{{\"number\": 17}}'");
        match &self.store {
            Store::Redis(redis, settings) => {
                let redis_cli = redis.cli(settings)?;
                let prefix = settings.metrics_prefix();
                let exporter = address::reached_at(self.up.exporter_listen);
                println!("  {redis_cli} HGETALL {prefix}request_counter");
                println!("  curl http://{exporter}/metrics");
                println!("\nhttp://{exporter}/ draws the last minutes.");
            }
            Store::Pushgateway(pushgateway) => {
                let url = pushgateway.url(address::reached_at(self.up.pushgateway_listen));
                println!("  curl {url}/metrics");
            }
            Store::App => println!("  curl http://{app}/metrics{api_key}"),
            Store::Nowhere => println!("\nNothing is counted: metrics_backend is off."),
        }
        if self.prometheus.is_some() {
            let prometheus = address::reached_at(self.up.prometheus_listen);
            println!("\nPrometheus scrapes every 15 s:\n");
            println!("  http://{prometheus}/graph?g0.expr=job_scheme:http_requests_total:sum");
            println!("  http://{prometheus}/alerts");
        }
        println!();
        // A wrong variable lets the app live, but not answer.
        if probe::http_ok(app, "/readyz").is_err() {
            println!("The app is not ready; http://{app}/readyz says why.\n");
        }
        Ok(())
    }
}
