//! `cargo xtask up`: Redis, the app and the exporter, from the build to the
//! Ctrl-C that stops them.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::InstallOptions;
use crate::address;
use crate::build;
use crate::child::{Child, describe_end};
use crate::interrupt::{self, Interrupted};
use crate::manifest::Manifest;
use crate::probe;
use crate::redis_server::{self, RedisServer};
use crate::redis_settings::{self, RedisSettings};
use crate::runtime::{Runtime, RuntimeName};
use crate::steps::Steps;
use crate::tools;

const EXPORTER: &str = "functional-scaffold-exporter";

/// How long a server may take until it answers. Redis reads its AOF first.
const START_TIMEOUT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Build everything, and run Redis, the app and the exporter until Ctrl-C.
///
/// Redis is the one that REDIS_HOST names (with REDIS_PORT, REDIS_USERNAME,
/// REDIS_PASSWORD, and for TLS REDIS_TLS and REDIS_CA_FILE); else one is started, with its data in .functional-scaffold/:
/// redis-server or valkey-server, Debian's package (installed if we are root),
/// or a Docker container. App and exporter get the same settings, from the
/// environment or from .env.
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
    redis: RedisServer,
    settings: RedisSettings,
}

impl Up {
    /// Runs the command until somebody ends it.
    ///
    /// # Errors
    ///
    /// What is missing, in use, failed to build or start, or ended by itself.
    pub(crate) fn run(self) -> Result<()> {
        let plan = self.plan()?;
        plan.check_ports()?;
        let manifest = Manifest::read()?;
        for name in redis_settings::unknown_variables(&manifest.variables())? {
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

    fn plan(self) -> Result<Plan> {
        let mut settings = RedisSettings::read()?;
        ensure!(
            self.redis_port.is_none() || settings.host().is_none(),
            "--redis-port is for a Redis that is started, but REDIS_HOST names one: use REDIS_PORT"
        );
        let redis = RedisServer::find(&settings, self.install)?;
        if redis.is_own() {
            let port = self.redis_port.map_or_else(|| settings.port(), Ok)?;
            settings = settings.at("127.0.0.1", port);
        }
        Ok(Plan {
            runtime: Runtime::find(self.runtime)?,
            up: self,
            redis,
            settings,
        })
    }
}

impl Plan {
    fn check_ports(&self) -> Result<()> {
        let (app, exporter) = (self.up.listen, self.up.exporter_listen);
        ensure!(
            app != exporter,
            "--listen and --exporter-listen are both {app}"
        );
        address::check_free(app, "the app", "--listen")?;
        address::check_free(exporter, "the exporter", "--exporter-listen")?;
        if self.redis.is_own() {
            redis_server::check_port(self.settings.port()?)?;
        }
        Ok(())
    }

    fn start(&self) -> Result<Children> {
        let mut children = Children::default();
        let (settings, exporter_listen) = (&self.settings, self.up.exporter_listen);
        if let Some(redis) = self.redis.start(settings)? {
            children.0.push(redis);
            let (host, port) = ("127.0.0.1", settings.port()?);
            let credentials = settings.credentials();
            children.wait_until(|| probe::redis_pong(host, port, credentials))?;
        }

        let mut app = self.runtime.up(self.up.listen);
        app.envs(settings.for_app());
        // What the exporter trusts, whatever runs the app is to trust, too.
        if let Some(file) = settings.certificate_authority() {
            app.env("SSL_CERT_FILE", file);
        }
        children.0.push(Child::spawn("the app", &mut app)?);
        let address = address::reached_at(self.up.listen);
        children.wait_until(|| probe::http_ok(address, "/healthz"))?;

        let mut exporter = tools::command(tools::built(EXPORTER));
        // It would win over host and port, and so over what the app got.
        exporter
            .env_remove("REDIS_URL")
            .envs(settings.for_exporter());
        exporter.env("EXPORTER_LISTEN", exporter_listen.to_string());
        children
            .0
            .push(Child::spawn("the exporter", &mut exporter)?);
        let address = address::reached_at(exporter_listen);
        children.wait_until(|| probe::http_ok(address, "/healthz"))?;
        Ok(children)
    }

    fn announce(&self) -> Result<()> {
        let app = address::reached_at(self.up.listen);
        let exporter = address::reached_at(self.up.exporter_listen);
        let redis_cli = self.redis.cli(&self.settings)?;
        let prefix = self.settings.metrics_prefix();
        let api_key = match redis_settings::api_key_is_set()? {
            true => " -H \"Authorization: Bearer $SPIN_VARIABLE_API_KEY\"",
            false => "",
        };
        println!("\nEverything runs; Ctrl-C stops it. Try:\n");
        println!("  curl -X POST http://{app}/invoke{api_key} -d '{{\"number\": 17}}'");
        println!("  {redis_cli} HGETALL {prefix}request_counter");
        println!("  curl http://{exporter}/metrics\n");
        println!("http://{exporter}/ draws the last minutes.\n");
        // A wrong variable lets the app live, but not answer.
        if probe::http_ok(app, "/readyz").is_err() {
            println!("The app is not ready; http://{app}/readyz says why.\n");
        }
        Ok(())
    }
}

/// What runs, in the order in which it was started. It is stopped in the
/// opposite order, so that the app's last counts still find Redis.
#[derive(Default)]
struct Children(Vec<Child>);

impl Children {
    /// Waits until the newest child answers.
    fn wait_until(&mut self, answers: impl Fn() -> Result<()>) -> Result<()> {
        let start = Instant::now();
        let name = self.0.last().map(|child| child.name().to_owned());
        loop {
            let outcome = answers();
            // After the question: an answer of somebody else's server, on the
            // port that our child could not have, is none.
            self.check()?;
            match outcome {
                Ok(()) => return Ok(()),
                Err(error) if start.elapsed() > START_TIMEOUT => {
                    let name = name.unwrap_or_default();
                    let seconds = START_TIMEOUT.as_secs();
                    return Err(error)
                        .with_context(|| format!("{name} did not answer in {seconds} s"));
                }
                Err(_not_yet) => thread::sleep(POLL_INTERVAL),
            }
        }
    }

    /// Waits for the end that the user asks for.
    fn watch(&mut self) -> Result<()> {
        loop {
            match self.check() {
                Ok(()) => thread::sleep(POLL_INTERVAL),
                // This is how `up` ends when all is well.
                Err(error) if error.is::<Interrupted>() => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn check(&mut self) -> Result<()> {
        if interrupt::requested() {
            bail!(Interrupted);
        }
        for child in &mut self.0 {
            if let Some(status) = child.exit_status()? {
                bail!("{} {}", child.name(), describe_end(status));
            }
        }
        Ok(())
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        while let Some(child) = self.0.pop() {
            eprintln!("stopping {}", child.name());
            drop(child);
        }
    }
}
