//! `cargo xtask up`: builds and runs the app with the servers that its metrics
//! need, until Ctrl-C.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use clap::Args;
use functional_scaffold_testkit::http::check_ok;
use functional_scaffold_testkit::manifest::Manifest as BuiltManifest;
use functional_scaffold_testkit::prometheus::{self, PROMETHEUS};
use functional_scaffold_testkit::runtime::{self, LASTING_INSTANCE, Runtime};

use crate::app_log;
use crate::build::{self, DEV_HOST, EXPORTER, GUARD, Program};
use crate::command;
use crate::install::{InstallOptions, find_or_install};
use crate::manifest::{self, Manifest};
use crate::net::{check_free, parse_address, reachable};
use crate::process::{Child, Children};
use crate::pushgateway::Pushgateway;
use crate::redis::{self, RedisServer, RedisSettings};
use crate::runtime::RuntimeName;
use crate::settings::{MetricsBackend, SPIN_PREFIX, Settings};
use crate::steps::Steps;
use crate::toolchain::WasmToolchain;

/// Build the app, and run it with the servers that its metrics need, until Ctrl-C.
///
/// These are Redis and the exporter; a Pushgateway with
/// METRICS_BACKEND=pushgateway; none with pull. REDIS_HOST names a Redis (with
/// REDIS_PORT, REDIS_USERNAME, REDIS_PASSWORD, and for TLS REDIS_TLS and
/// REDIS_CA_FILE). Without it one is started, with its data in
/// .functional-scaffold/: redis-server or valkey-server, Debian's package
/// (installed if we are root), or a Docker container. Likewise PUSHGATEWAY_URL
/// names a Pushgateway.
///
/// App and exporter get the same settings, from the environment or else from .env;
/// .env.example lists them. Each may have the prefix SPIN_VARIABLE_, which then
/// wins over the plain name. API_KEY and LOG_LEVEL need it in the environment.
/// INSTANCE_ID is the host's name by default, and REPLAY_KEY a random one in
/// .functional-scaffold/replay_key. `spin up` alone needs the prefix.
///
/// The app's log is kept in .functional-scaffold/app/, and the exporter follows it: what
/// Redis could not store is stored when it is back.
///
/// The Spin CLI runs the app where 4.1.0 or newer is installed. Otherwise the dev
/// host does, which is compiled once and takes some minutes.
#[derive(Args)]
pub(crate) struct Up {
    /// Address and port of the app.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8000", value_parser = parse_address)]
    listen: SocketAddr,

    /// Address and port of the exporter.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8001", value_parser = parse_address)]
    exporter_listen: SocketAddr,

    /// Port of the Redis that is started; REDIS_PORT or 6379 unless given.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    redis_port: Option<u16>,

    /// Address and port of the Pushgateway that is started.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9091", value_parser = parse_address)]
    pushgateway_listen: SocketAddr,

    /// Also run a Prometheus with the rules and alerts of monitoring/: the one on
    /// PATH, or Debian's package (installed if we are root).
    #[arg(long)]
    monitoring: bool,

    /// Address and port of that Prometheus.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9090", value_parser = parse_address)]
    prometheus_listen: SocketAddr,

    /// The runtime of the app.
    #[arg(long, value_enum, env = "SCAFFOLD_RUNTIME", default_value = "auto")]
    runtime: RuntimeName,

    /// Run the last build.
    #[arg(long)]
    no_build: bool,

    #[command(flatten)]
    install: InstallOptions,
}

/// The options, with everything that was found before anything is started.
struct Plan {
    up: Up,
    runtime: Runtime,
    store: Store,
    prometheus: Option<PathBuf>,
    api_key_is_set: bool,
    /// Environment variables of the app.
    variables: BTreeMap<String, String>,
    /// Settings in `.env` that Spin alone would ignore.
    plain_names: Vec<String>,
}

/// The store of the counts.
enum Store {
    Redis(RedisServer, RedisSettings),
    Pushgateway(Pushgateway),
    /// In the app's one instance.
    App,
    Nowhere,
}

impl Up {
    pub(crate) fn run(self) -> Result<()> {
        let settings = Settings::read()?;
        let manifest = Manifest::read()?;
        let plan = self.plan(&settings, &manifest)?;
        plan.check_ports()?;
        for name in settings.undeclared(&manifest.variables) {
            eprintln!("warning: {name} has no effect: spin.toml declares no such variable");
        }
        plan.check_declared(&manifest.variables)?;
        let mut steps = Steps::default();
        if plan.up.no_build {
            manifest.check_built()?;
            for program in plan.programs() {
                program.check_built()?;
            }
        } else {
            let toolchain = WasmToolchain::find(plan.up.install)?;
            let programs: Vec<_> = plan.programs().into_iter().chain([GUARD]).collect();
            build::build_programs(&mut steps, &programs)?;
            build::build_components(&mut steps, &toolchain, &build::ALGORITHMS)?;
            // Another server may have taken a port during the build.
            plan.check_ports()?;
        }
        let manifest = BuiltManifest::declaring(Path::new(manifest::PATH), &[])?;
        for name in manifest.left_out() {
            eprintln!("{name} is not built, and not served");
        }
        let mut children = steps.run("start", || plan.start(manifest.path()))?;
        plan.announce()?;
        children.watch()
    }

    fn plan(self, settings: &Settings, manifest: &Manifest) -> Result<Plan> {
        let store = match settings.metrics_backend()? {
            MetricsBackend::Redis => self.redis(RedisSettings::read(settings))?,
            MetricsBackend::Pushgateway => {
                Store::Pushgateway(Pushgateway::find(settings, self.install)?)
            }
            MetricsBackend::Pull => Store::App,
            MetricsBackend::Off => Store::Nowhere,
        };
        let prometheus = match self.monitoring {
            true => Some(find_or_install(&PROMETHEUS, self.install)?),
            false => None,
        };
        let mut variables = settings.for_app(&manifest.variables);
        if manifest.variables.contains("replay_key") && settings.get("REPLAY_KEY").is_none() {
            variables.insert(format!("{SPIN_PREFIX}REPLAY_KEY"), command::replay_key()?);
        }
        Ok(Plan {
            runtime: self.runtime.find()?,
            up: self,
            store,
            prometheus,
            api_key_is_set: settings.get("API_KEY").is_some(),
            variables,
            plain_names: settings.plain_in_file(&manifest.variables),
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
    /// The native programs that run.
    fn programs(&self) -> Vec<Program> {
        let dev_host = (!self.runtime.is_spin()).then_some(DEV_HOST);
        let exporter = matches!(self.store, Store::Redis(..)).then_some(EXPORTER);
        dev_host.into_iter().chain(exporter).collect()
    }

    /// Fails where a setting of Redis would reach the exporter, but not the app.
    fn check_declared(&self, declared: &BTreeSet<String>) -> Result<()> {
        let Store::Redis(_, settings) = &self.store else {
            return Ok(());
        };
        for (name, _) in settings.for_exporter() {
            let variable = name.to_lowercase();
            ensure!(
                declared.contains(&variable),
                "{name} is set, but the app would not get it: spin.toml does not declare {variable}"
            );
        }
        Ok(())
    }

    fn check_ports(&self) -> Result<()> {
        for (at, (address, purpose, option)) in self.listeners().iter().enumerate() {
            for (other, _, other_option) in &self.listeners()[..at] {
                ensure!(
                    address != other,
                    "{other_option} and {option} are both {address}"
                );
            }
            check_free(*address, purpose, option)?;
        }
        match &self.store {
            Store::Redis(redis, settings) if redis.is_own() => redis::check_port(settings.port()?),
            _ => Ok(()),
        }
    }

    /// Address, name and option of each server that is started, except Redis.
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

    fn start(&self, manifest: &Path) -> Result<Children> {
        let mut children = Children::default();
        match &self.store {
            Store::Redis(redis, settings) => {
                if let Some(child) = redis.start(settings)? {
                    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, settings.port()?));
                    children.add(child, || settings.check(address))?;
                }
            }
            Store::Pushgateway(pushgateway) => {
                let listen = self.up.pushgateway_listen;
                if let Some(child) = pushgateway.start(listen)? {
                    let address = reachable(listen);
                    children.add(child, || check_ok(address, "/-/ready"))?;
                }
            }
            Store::App | Store::Nowhere => {}
        }
        self.start_app(manifest, &mut children)?;
        if let Store::Redis(_, settings) = &self.store {
            self.start_exporter(settings, &mut children)?;
        }
        if let Some(prometheus) = &self.prometheus {
            self.start_prometheus(prometheus, &mut children)?;
        }
        Ok(children)
    }

    fn start_prometheus(&self, program: &Path, children: &mut Children) -> Result<()> {
        let listen = self.up.prometheus_listen;
        let folder = command::data_folder("prometheus", listen.port())?;
        let targets: Vec<_> = self.target().into_iter().collect();
        let configuration = prometheus::configure(
            Path::new("monitoring"),
            &folder.join("monitoring"),
            &targets,
            None,
        )?;
        let data = folder.join("data");
        eprintln!("Prometheus keeps its data in {}", data.display());
        let program = command::program(program);
        let mut command = prometheus::command(program, &configuration, &data, listen);
        let child = Child::start("Prometheus", &mut command, "")?;
        let address = reachable(listen);
        children.add(child, || check_ok(address, "/-/ready"))
    }

    fn start_app(&self, manifest: &Path, children: &mut Children) -> Result<()> {
        let program = command::program(self.runtime.program());
        let mut app = runtime::command(program, manifest, self.up.listen);
        // Nobody else can ask. A setting of the user's wins.
        if self.up.listen.ip().is_loopback() {
            app.env("SPIN_VARIABLE_READYZ_DETAILS", "public");
        }
        app.envs(&self.variables);
        match &self.store {
            Store::Redis(_, settings) => {
                app.envs(settings.for_app());
                // The runtime trusts the same authorities as the exporter.
                if let Some(file) = settings.certificate_authorities() {
                    app.env("SSL_CERT_FILE", file);
                }
            }
            Store::Pushgateway(pushgateway) => {
                let url = pushgateway.url(reachable(self.up.pushgateway_listen));
                app.env("SPIN_VARIABLE_PUSHGATEWAY_URL", url);
            }
            // Counts end with their instance, so the first one must not end.
            Store::App => {
                app.args(LASTING_INSTANCE);
            }
            Store::Nowhere => {}
        }
        if matches!(self.store, Store::Redis(..)) {
            app_log::keep(&mut app, self.log_folder()?.join("app.log"))?;
        }
        let address = reachable(self.up.listen);
        let child = Child::start("the app", &mut app, "")?;
        children.add(child, || check_ok(address, "/healthz"))
    }

    /// Returns the folder with the app's log and the position up to which it was followed.
    fn log_folder(&self) -> Result<PathBuf> {
        command::data_folder("app", self.up.listen.port())
    }

    fn start_exporter(&self, settings: &RedisSettings, children: &mut Children) -> Result<()> {
        let mut exporter = command::program(command::built(EXPORTER.file));
        exporter
            // It would override host and port, which the app has.
            .env_remove("REDIS_URL")
            .envs(settings.for_exporter())
            .env("EXPORTER_LISTEN", self.up.exporter_listen.to_string());
        if let Some(key) = self.variables.get(&format!("{SPIN_PREFIX}REPLAY_KEY")) {
            let folder = self.log_folder()?;
            exporter
                .env_remove("REPLAY_KEY_FILE")
                .env("REPLAY_KEY", key)
                .env("EXPORTER_FOLLOW", folder.join("app.log"))
                .env("EXPORTER_POSITIONS", folder.join("positions"));
        }
        if self.prometheus.is_some() {
            let prometheus = reachable(self.up.prometheus_listen);
            exporter.env("EXPORTER_PROMETHEUS_URL", format!("http://{prometheus}/"));
        }
        let address = reachable(self.up.exporter_listen);
        let child = Child::start("the exporter", &mut exporter, "")?;
        children.add(child, || check_ok(address, "/healthz"))
    }

    /// The scheme and the address that Prometheus scrapes.
    fn target(&self) -> Option<(&'static str, Vec<String>)> {
        let up = &self.up;
        match &self.store {
            Store::Redis(..) => {
                let address = reachable(up.exporter_listen);
                Some(("redis", vec![address.to_string()]))
            }
            Store::Pushgateway(pushgateway) => {
                let url = pushgateway.url(reachable(up.pushgateway_listen));
                let address = url.trim_start_matches("http://").trim_end_matches('/');
                Some(("pushgateway", vec![address.to_owned()]))
            }
            Store::App => {
                let address = reachable(up.listen);
                Some(("pull", vec![address.to_string()]))
            }
            Store::Nowhere => None,
        }
    }

    fn announce(&self) -> Result<()> {
        let app = reachable(self.up.listen);
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
                let exporter = reachable(self.up.exporter_listen);
                println!("  {redis_cli} HGETALL {prefix}request_counter");
                println!("  curl http://{exporter}/metrics");
                println!("\nhttp://{exporter}/ draws the last minutes.");
            }
            Store::Pushgateway(pushgateway) => {
                let url = pushgateway.url(reachable(self.up.pushgateway_listen));
                println!("  curl {url}/metrics");
            }
            Store::App => println!("  curl http://{app}/metrics{api_key}"),
            Store::Nowhere => println!("\nNothing is counted: metrics_backend is off."),
        }
        if self.prometheus.is_some() {
            let prometheus = reachable(self.up.prometheus_listen);
            println!("\nPrometheus scrapes every 15 s:\n");
            println!("  http://{prometheus}/graph?g0.expr=job_scheme:http_requests_total:sum");
            println!("  http://{prometheus}/alerts");
        }
        if !self.plain_names.is_empty() {
            let names = self.plain_names.join(", ");
            println!("\n`spin up` alone ignores these lines of .env: {names}.");
            println!("It reads only names that begin with {SPIN_PREFIX}.");
        }
        println!();
        // With an invalid variable the app starts, but serves no request.
        if check_ok(app, "/readyz").is_err() {
            println!("The app is not ready; http://{app}/readyz says why.\n");
        }
        Ok(())
    }
}
